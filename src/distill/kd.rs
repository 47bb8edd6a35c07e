//! Frame-level distillation, equation (5) of the TutorNet paper: cross-entropy against the teacher's softmax.
//!
//! L_KD = - sum over valid t and labels k of q[t, k] ln p[t, k], mean over utterances,
//! q = softmax(z_tea / tau), p = softmax(z_stu / tau)
//!
//! The gradient is dL/dz = (p - q) / tau. The paper reports that it does not converge where the two models'
//! spikes lie in different frames, and leaves it out of its comparison; it is here to be compared.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use crate::kernels::sum;

/// Equation (5). `logits` [batch, frames, labels] are the student's; `teacher` (same shape) is the teacher's
/// softmax at `temperature`; `valid` [batch, frames, 1] is 1 on valid frames, 0 on padding. The result is [1].
pub fn kd_loss(logits: Tensor<3>, teacher: Tensor<3>, valid: Tensor<3>, temperature: f64) -> Tensor<1> {
    let batch = logits.dims()[0];
    let student = log_softmax(logits.div_scalar(temperature), 2);
    sum(student * teacher * valid).div_scalar(-(batch as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::activation::softmax;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn gradient_is_the_published_one_and_padding_has_none() {
        let device = Device::flex().autodiff();
        let (frames, labels, tau) = (3, 5, 1.7f32);
        let mut random = Random::new(4, "kd", &[]);
        let mut draw = || -> Vec<f32> { (0..2 * frames * labels).map(|_| random.normal() as f32).collect() };
        let shape = [2, frames, labels];
        let z = Tensor::<3>::from_data(TensorData::new(draw(), shape), &device).require_grad();
        let q = softmax(Tensor::<3>::from_data(TensorData::new(draw(), shape), &device), 2);
        let valid = vec![1f32, 1.0, 0.0, 1.0, 0.0, 0.0];
        let mask = Tensor::<3>::from_data(TensorData::new(valid.clone(), [2, frames, 1]), &device);
        let loss = kd_loss(z.clone(), q.clone(), mask, f64::from(tau));
        let ours = z.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let p = softmax(z.div_scalar(tau), 2).into_data().try_to_vec::<f32>().unwrap();
        let q = q.into_data().try_to_vec::<f32>().unwrap();
        let value: f32 = loss.into_scalar();
        let mut expected = 0.0;
        for (i, ours) in ours.iter().enumerate() {
            let valid = valid[i / labels];
            assert!((ours - valid * (p[i] - q[i]) / tau / 2.0).abs() < 1e-6, "{i}: {ours}");
            expected -= valid * q[i] * p[i].ln() / 2.0;
        }
        assert!((value - expected).abs() < 1e-5, "{value} {expected}");
    }
}
