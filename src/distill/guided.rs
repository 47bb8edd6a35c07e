//! Guided CTC (Kurata and Audhkhasi, 2019): the student puts its spikes where the teacher has them.
//!
//! M[t, k] = 1 where k is the teacher's best label of frame t, else 0
//! L_G = - sum over valid t and k of M[t, k] p[t, k], mean over utterances; the stage minimises L_CTC + lambda L_G
//!
//! p is the student's softmax itself, not its logarithm, and frames are summed, not averaged. Whether frames whose
//! best label is the blank take part, the sources do not agree on: by default they do not. With k* the teacher's
//! label, dL_G/dz_i = -p_k* (1[i = k*] - p_i).

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::kernels::sum;

/// Turns a teacher's posterior, [frames, labels], into the mask M; frames that it prefers `blank` in have none,
/// unless `guide_blank`. Of equal labels the first counts, as in greedy decoding.
pub fn guide(posterior: &mut [f32], labels: usize, blank: usize, guide_blank: bool) {
    for frame in posterior.chunks_exact_mut(labels.max(1)) {
        let mut best = 0;
        for (label, &p) in frame.iter().enumerate() {
            if p > frame[best] {
                best = label;
            }
        }
        frame.fill(0.0);
        if best != blank || guide_blank {
            frame[best] = 1.0;
        }
    }
}

/// L_G. `logits` [batch, frames, labels] are the student's, `mask` (same shape) is M, 0 on padding. The result is [1].
pub fn guided_loss(logits: Tensor<3>, mask: Tensor<3>) -> Tensor<1> {
    let batch = logits.dims()[0];
    sum(softmax(logits, 2) * mask).div_scalar(-(batch as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn the_mask_marks_the_best_label_and_spares_blanks() {
        let posterior = [0.2f32, 0.5, 0.3, 0.1, 0.2, 0.7, 0.4, 0.4, 0.2];
        let mut mask = posterior;
        guide(&mut mask, 3, 2, false);
        assert_eq!(mask, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let mut mask = posterior;
        guide(&mut mask, 3, 2, true);
        assert_eq!(mask, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn gradient_is_the_formula_and_frames_without_a_mark_have_none() {
        let device = Device::flex().autodiff();
        let (frames, labels) = (4, 5);
        let mut random = Random::new(5, "guided", &[]);
        let values: Vec<f32> = (0..frames * labels).map(|_| random.normal() as f32).collect();
        let z = Tensor::<3>::from_data(TensorData::new(values, [1, frames, labels]), &device).require_grad();
        let mut mask = vec![0f32; frames * labels];
        let marks = [Some(2), None, Some(0), Some(4)];
        for (frame, mark) in marks.iter().enumerate() {
            mark.iter().for_each(|k| mask[frame * labels + k] = 1.0);
        }
        let mask = Tensor::<3>::from_data(TensorData::new(mask, [1, frames, labels]), &device);
        let loss = guided_loss(z.clone(), mask);
        let ours = z.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let p = softmax(z, 2).into_data().try_to_vec::<f32>().unwrap();
        let mut total = 0.0;
        for (frame, mark) in marks.iter().enumerate() {
            for i in 0..labels {
                let at = |i: usize| p[frame * labels + i];
                let expected = mark.map_or(0.0, |k| -at(k) * (f32::from(u8::from(i == k)) - at(i)));
                assert!((ours[frame * labels + i] - expected).abs() < 1e-6);
            }
            total -= mark.map_or(0.0, |k| p[frame * labels + k]);
        }
        let value: f32 = loss.into_scalar();
        assert!((value - total).abs() < 1e-6);
    }
}
