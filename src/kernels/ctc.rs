//! Connectionist temporal classification (Graves et al., 2006; equation (3) of the TutorNet paper).
//!
//! loss = -ln sum over all alignments of the product over t of p(label at t), p = softmax(logits)
//!
//! Forward and backward variables are f64 (`ctc_lattice`), and both passes run at once: the gradient
//! with respect to the logits is p - (occupation of each label), log-softmax included.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::ctc_lattice;

/// Whether `frames` frames can spell `target`: one frame a label and one blank between repeats.
pub fn ctc_possible(frames: usize, target: &[u32]) -> bool {
    let repeats = target.windows(2).filter(|pair| pair[0] == pair[1]).count();
    frames >= target.len() + repeats && frames > 0
}

/// Loss of every utterance, [batch], in nats, not divided by length.
///
/// `logits` is [batch, frames, labels]; frames beyond `frames[b]` get no gradient. A target that
/// [`ctc_possible`] refuses gives loss 0 and gradient 0. A logit more than 1e6 below its frame's largest counts
/// as that much below. Differentiable once in the logits, on
/// every device: values and gradients are computed on the host.
///
/// # Panics
/// When `frames` and `targets` are not one a row of `logits`, or a target holds a label beyond them.
pub fn ctc_loss(logits: Tensor<3>, frames: &[usize], targets: &[Vec<u32>], blank: usize) -> Tensor<1> {
    assert!(targets.len() == logits.dims()[0], "one target an utterance");
    weighted(logits, frames, blank, |row| std::iter::once((targets[row].as_slice(), 1.0)))
}

/// As [`ctc_loss`], with several targets an utterance: the sum of their losses, each times its weight. Cost:
/// one lattice a target.
///
/// # Panics
/// As [`ctc_loss`].
pub fn ctc_loss_of_several(
    logits: Tensor<3>,
    frames: &[usize],
    targets: &[Vec<(Vec<u32>, f64)>],
    blank: usize,
) -> Tensor<1> {
    assert!(targets.len() == logits.dims()[0], "one list of targets an utterance");
    weighted(logits, frames, blank, |row| targets[row].iter().map(|(t, weight)| (t.as_slice(), *weight)))
}

/// ln p(target) of one utterance, summed over all alignments; `None` for a target that [`ctc_possible`] refuses.
/// `logits` is [frames, labels], before or after log-softmax.
///
/// # Panics
/// When the target holds a label beyond `labels`.
pub fn ctc_log_likelihood(logits: &[f32], labels: usize, target: &[u32], blank: usize) -> Option<f64> {
    let mut gradient = vec![0f32; logits.len()];
    ctc_possible(logits.len() / labels, target)
        .then(|| -ctc_lattice::utterance(logits, labels, target, blank, &mut gradient))
}

fn weighted<'t, I: Iterator<Item = (&'t [u32], f64)>>(
    logits: Tensor<3>,
    frames: &[usize],
    blank: usize,
    targets: impl Fn(usize) -> I + Sync,
) -> Tensor<1> {
    let [batch, time, labels] = logits.dims();
    assert!(frames.len() == batch, "one length an utterance");
    let device = logits.device();
    let constant = logits.clone().detach();
    let host: Vec<f32> = constant.clone().into_data().iter::<f32>().collect();
    let mut gradient = vec![0f32; host.len()];
    let losses: Vec<f32> = gradient
        .par_chunks_mut((time * labels).max(1))
        .zip(host.par_chunks((time * labels).max(1)))
        .zip(frames.par_iter().enumerate())
        .map(|((gradient, logits), (row, &frames))| {
            let used = frames.min(time) * labels;
            summed(&logits[..used], labels, targets(row), blank, &mut gradient[..used]) as f32
        })
        .collect();
    let loss = Tensor::<1>::from_data(TensorData::new(losses, [batch]), &device);
    let gradient = Tensor::<3>::from_data(TensorData::new(gradient, [batch, time, labels]), &device);
    // Zero in value; its derivative is the gradient computed above. Where that is 0 a logit need not be finite.
    let still = gradient.clone().equal_elem(0.0);
    let carrier: Tensor<3> = (logits - constant).mask_fill(still, 0.0) * gradient;
    loss + carrier.sum_dim(2).sum_dim(1).reshape([batch])
}

/// Loss of one utterance; `logits` and `gradient` (zero before) are [frames, labels].
#[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
fn summed<'t>(
    logits: &[f32],
    labels: usize,
    targets: impl Iterator<Item = (&'t [u32], f64)>,
    blank: usize,
    gradient: &mut [f32],
) -> f64 {
    let (mut total, mut own) = (0.0, Vec::new());
    let possible = targets.filter(|(target, _)| ctc_possible(logits.len() / labels, target));
    for (number, (target, weight)) in possible.enumerate() {
        if number == 0 && weight == 1.0 {
            // The usual case, one target, needs no copy.
            total = ctc_lattice::utterance(logits, labels, target, blank, gradient);
            continue;
        }
        own.clear();
        own.resize(gradient.len(), 0f32);
        total += weight * ctc_lattice::utterance(logits, labels, target, blank, &mut own);
        gradient.iter_mut().zip(&own).for_each(|(sum, own)| *sum += weight as f32 * own);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::Device;

    fn utterance(logits: &[f32], labels: usize, target: &[u32], blank: usize, gradient: &mut [f32]) -> f64 {
        summed(logits, labels, std::iter::once((target, 1.0)), blank, gradient)
    }

    #[test]
    fn several_targets_are_the_weighted_sum_of_their_losses_and_gradients() {
        let (values, labels, blank) = (logits(8, 4, 9), 4, 3);
        let several = vec![(vec![0, 1], 0.5), (vec![2; 9], 7.0), (vec![1, 1], 0.2), (vec![], 1.0)];
        let device = Device::flex().autodiff();
        let x = Tensor::<3>::from_data(TensorData::new(values.clone(), [1, 8, 4]), &device).require_grad();
        let loss = ctc_loss_of_several(x.clone(), &[8], std::slice::from_ref(&several), blank);
        let found: f32 = loss.clone().into_scalar();
        let gradients = loss.backward();
        let gradient = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let (mut expected, mut slope) = (0.0, vec![0f64; values.len()]);
        for (target, weight) in several.iter().filter(|(target, _)| target.len() < 9) {
            let mut own = vec![0f32; values.len()];
            let one = utterance(&values, labels, target, blank, &mut own);
            assert!((one - brute_force(&values, labels, target, blank)).abs() < 1e-6);
            assert_eq!(ctc_log_likelihood(&values, labels, target, blank), Some(-one));
            expected += weight * one;
            slope.iter_mut().zip(own).for_each(|(sum, g)| *sum += weight * f64::from(g));
        }
        assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
        assert!(gradient.iter().zip(slope).all(|(g, s)| (f64::from(*g) - s).abs() < 1e-6));
        assert_eq!(ctc_log_likelihood(&values, labels, &[2; 9], blank), None);
    }

    fn logits(frames: usize, labels: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "ctc", &[]);
        (0..frames * labels).map(|_| 2.0 * random.normal() as f32).collect()
    }

    fn log_softmax(logits: &[f32], labels: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(logits.len());
        for row in logits.chunks_exact(labels) {
            let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = row.iter().map(|&z| (f64::from(z) - top).exp()).sum();
            let norm = top + sum.ln();
            out.extend(row.iter().map(|&z| f64::from(z) - norm));
        }
        out
    }

    /// Sums over every one of labels^frames paths.
    fn brute_force(logits: &[f32], labels: usize, target: &[u32], blank: usize) -> f64 {
        let frames = logits.len() / labels;
        let log_p = log_softmax(logits, labels);
        let mut total = 0.0;
        for path in 0..labels.pow(frames as u32) {
            let at = |t: usize| path / labels.pow(t as u32) % labels;
            let mut spelled = Vec::new();
            for t in 0..frames {
                if at(t) != blank && (t == 0 || at(t) != at(t - 1)) {
                    spelled.push(at(t) as u32);
                }
            }
            if spelled == target {
                total += (0..frames).map(|t| log_p[t * labels + at(t)]).sum::<f64>().exp();
            }
        }
        -total.ln()
    }

    #[test]
    fn equals_the_sum_over_all_paths() {
        for (seed, target, blank) in [
            (1, vec![0, 1], 3),
            (2, vec![1, 1], 3),
            (3, vec![], 3),
            (4, vec![2, 1, 2], 0),
            (5, vec![0], 3),
            (6, vec![0, 0, 1], 3),
        ] {
            let logits = logits(6, 4, seed);
            let ours = utterance(&logits, 4, &target, blank, &mut [0.0; 24]);
            let reference = brute_force(&logits, 4, &target, blank);
            assert!((ours - reference).abs() < 1e-9, "{target:?}: {ours} {reference}");
        }
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let (target, labels) = (vec![1, 1, 0], 4);
        let logits = logits(7, labels, 9);
        let mut gradient = vec![0f32; logits.len()];
        utterance(&logits, labels, &target, 3, &mut gradient);
        for i in 0..logits.len() {
            let loss = |delta: f32| {
                let mut moved = logits.clone();
                moved[i] += delta;
                (utterance(&moved, labels, &target, 3, &mut vec![0.0; moved.len()]), moved[i])
            };
            let ((up, x1), (down, x0)) = (loss(1e-2), loss(-1e-2));
            let slope = (up - down) / f64::from(x1 - x0);
            assert!((slope - f64::from(gradient[i])).abs() < 1e-4, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn tensors_carry_loss_and_gradient_and_padding_gets_none() {
        let device = Device::flex().autodiff();
        let values = logits(2 * 9, 4, 5);
        let x = Tensor::<3>::from_data(TensorData::new(values.clone(), [2, 9, 4]), &device).require_grad();
        let targets = [vec![0, 1], vec![1, 1, 1, 1, 1]];
        assert!(!ctc_possible(7, &targets[1]) && ctc_possible(9, &targets[1]));
        let loss = ctc_loss(x.clone(), &[6, 7], &targets, 3);
        let host = loss.clone().into_data().try_to_vec::<f32>().unwrap();
        assert!((f64::from(host[0]) - brute_force(&values[..24], 4, &targets[0], 3)).abs() < 1e-5);
        assert_eq!(host[1], 0.0, "an impossible target costs nothing");
        let scaled = (loss * 3.0).sum().backward();
        let gradient = x.grad(&scaled).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let mut expected = vec![0f32; 24];
        utterance(&values[..24], 4, &targets[0], 3, &mut expected);
        for (ours, once) in gradient[..24].iter().zip(&expected) {
            assert!((ours - 3.0 * once).abs() < 1e-6);
        }
        assert!(gradient[24..].iter().all(|&g| g == 0.0));
    }

    #[test]
    fn what_is_not_a_number_beyond_the_end_does_not_count() {
        let device = Device::flex().autodiff();
        let mut values = logits(2 * 6, 4, 8);
        let clean = values.clone();
        values[4 * 5 + 1] = f32::NAN; // padding
        values[24 + 2] = f32::NEG_INFINITY; // a label that the target does without
        let run = |values: &[f32]| {
            let x =
                Tensor::<3>::from_data(TensorData::new(values.to_vec(), [2, 6, 4]), &device).require_grad();
            let loss = ctc_loss(x.clone(), &[5, 6], &[vec![0], vec![0, 1]], 3);
            let host = loss.clone().into_data().try_to_vec::<f32>().unwrap();
            (host, x.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap())
        };
        let ((loss, gradient), (expected, _)) = (run(&values), run(&clean));
        assert_eq!(loss[0], expected[0]);
        assert!((f64::from(loss[1]) - brute_force(&values[24..], 4, &[0, 1], 3)).abs() < 1e-5, "{loss:?}");
        assert!(gradient.iter().all(|g| g.is_finite()) && gradient[26] == 0.0);
    }

    #[test]
    fn long_confident_blanks_do_not_underflow() {
        let (frames, labels) = (2000, 29);
        let mut z = vec![0f32; frames * labels];
        z.iter_mut().skip(28).step_by(labels).for_each(|z| *z = 40.0);
        let target: Vec<u32> = (0..400).map(|i| i % 28).collect();
        let mut gradient = vec![0f32; z.len()];
        let loss = utterance(&z, labels, &target, 28, &mut gradient);
        assert!(loss.is_finite() && loss > 1000.0, "{loss}");
        assert!(gradient.iter().all(|g| g.is_finite()));
    }
}
