//! Sequence-level distillation (Takashima et al., 2018): CTC against the teacher's N best texts.
//!
//! w_n = P_tea(y_n | x) / sum over m of P_tea(y_m | x)
//! L_SEQ = sum over n of w_n (-ln P_stu(y_n | x)), mean over utterances;
//! the stage minimises (1 - lambda) L_CTC + lambda L_SEQ
//!
//! P(y | x) sums all alignments (the CTC forward score), whatever search found the texts.

use burn::tensor::Tensor;

use crate::kernels::ctc_loss_of_several;

/// The weights w of texts with natural logarithms `log_p` of their probabilities.
pub fn weights(log_p: &[f64]) -> Vec<f64> {
    let top = log_p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = log_p.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// L_SEQ. `logits` [batch, frames, labels] are the student's; of each utterance `frames` are valid, and `texts`
/// are the teacher's with their weights. An utterance without texts costs nothing. The result is [1].
///
/// # Panics
/// When there is not one list of texts and one length an utterance.
pub fn sequence_loss(
    logits: Tensor<3>,
    frames: &[usize],
    texts: &[Vec<(Vec<u32>, f64)>],
    blank: usize,
) -> Tensor<1> {
    ctc_loss_of_several(logits, frames, texts, blank).mean()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_softmax_of_log_probabilities() {
        // numpy: p = exp([-3.2, -4.0, -1000.5]); p / p.sum()
        let found = weights(&[-3.2, -4.0, -1000.5]);
        for (w, expected) in found.iter().zip([0.689_974_481_127_612_6, 0.310_025_518_872_387_4, 0.0]) {
            assert!((w - expected).abs() < 1e-15, "{found:?}");
        }
        assert_eq!(weights(&[-1e5]), [1.0]);
        assert!(weights(&[]).is_empty());
    }
}
