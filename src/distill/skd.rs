//! Softmax-level distillation, equation (8) of the TutorNet paper.
//!
//! L_SKD = sum over valid t of || softmax(z_tea / tau)[t] - softmax(z_stu / tau)[t] ||^2, mean over utterances
//!
//! With a = softmax(z_stu / tau) and q the teacher's, the gradient is
//! dL/dz_i = (2 / tau) a_i [(a_i - q_i) - sum over j of a_j (a_j - q_j)].

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::kernels::sum;

/// Equation (8). `logits` [batch, frames, labels] are the student's; `teacher` (same shape) is the
/// teacher's softmax at `temperature`; `valid` [batch, frames, 1] is 1 on valid frames, 0 on padding.
/// The result is [1].
pub fn skd_loss(logits: Tensor<3>, teacher: Tensor<3>, valid: Tensor<3>, temperature: f64) -> Tensor<1> {
    let batch = logits.dims()[0];
    let student = softmax(logits.div_scalar(temperature), 2);
    let difference = (teacher - student) * valid;
    sum(difference.clone() * difference).div_scalar(batch as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn gradient_is_the_published_one_and_padding_has_none() {
        let device = Device::flex().autodiff();
        let (frames, labels, tau) = (3, 5, 1.7);
        let mut random = Random::new(3, "skd", &[]);
        let mut draw = || -> Vec<f32> { (0..frames * labels).map(|_| random.normal() as f32).collect() };
        let shape = [1, frames, labels];
        let z = Tensor::<3>::from_data(TensorData::new(draw(), shape), &device).require_grad();
        let q = softmax(Tensor::<3>::from_data(TensorData::new(draw(), shape), &device), 2);
        let valid = Tensor::<3>::from_data(TensorData::new(vec![1f32, 1.0, 0.0], [1, frames, 1]), &device);
        let gradients = skd_loss(z.clone(), q.clone(), valid, tau).backward();
        let ours = z.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let a = softmax(z.div_scalar(tau), 2).into_data().try_to_vec::<f32>().unwrap();
        let q = q.into_data().try_to_vec::<f32>().unwrap();
        for t in 0..frames {
            let row = t * labels..(t + 1) * labels;
            let dot: f32 = a[row.clone()].iter().zip(&q[row.clone()]).map(|(a, q)| a * (a - q)).sum();
            for i in row {
                let expected = if t < 2 { 2.0 / tau as f32 * a[i] * ((a[i] - q[i]) - dot) } else { 0.0 };
                assert!((ours[i] - expected).abs() < 1e-6, "{t} {i}: {} {expected}", ours[i]);
            }
        }
    }
}
