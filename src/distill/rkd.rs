//! Representation-level distillation, equation (7) of the TutorNet paper.
//!
//! L_RKD = sum over valid t of || m[t] (w_tea[t] - c(w_stu)[t]) ||^2, mean over utterances,
//! m[t] = sigmoid(mean over d of w_tea[t, d])
//!
//! Over several pairs of layers the losses add up, each pair with its own c and m. c is a convolution from
//! the student's hidden width to the teacher's, trained with the student and dropped afterwards.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::kernels::{Conv1dOptions, Matrix, conv1d, sum};
use crate::random::Random;

/// The layer c of equation (7): a convolution over time with a bias.
#[derive(Module, Debug)]
pub struct Bridge {
    /// [teacher width, student width, kernel]
    weight: Param<Tensor<3>>,
    /// [teacher width]
    bias: Param<Tensor<1>>,
}

impl Bridge {
    /// Initial values drawn as for the student's own layers: normal, variance 2 / (fan in + fan out).
    pub fn new(student: usize, teacher: usize, kernel: usize, seed: u64, device: &Device) -> Self {
        let mut random = Random::new(seed, "bridge", &[]);
        let deviation = (2.0 / ((student + teacher) * kernel) as f64).sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let values: Vec<f32> =
            (0..teacher * student * kernel).map(|_| (random.normal() * deviation) as f32).collect();
        let weight = Tensor::from_data(TensorData::new(values, [teacher, student, kernel]), device);
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::zeros([teacher], device)),
        }
    }

    /// The same layer, giving coordinates along orthonormal directions in place of the teacher's channels: `basis` is
    /// [teacher width, rank], `origin` [rank] what is taken away from coordinates. Since lengths do not change under a
    /// rotation and the weight is one number a frame, equation (7) has the same value at full rank; at a lower one, what the
    /// other directions would add to it is left out.
    pub fn along(self, basis: &[f32], origin: &[f32]) -> Self {
        let device = self.weight.val().device();
        let [teacher, student, kernel] = self.weight.val().dims();
        let rank = origin.len();
        let turn = |values: Tensor<2>| -> Vec<f32> {
            let [_, columns] = values.dims();
            let values: Vec<f32> = values.into_data().try_to_vec().unwrap_or_default();
            // [rank, teacher] x [teacher, columns]
            let turned: Vec<f32> =
                (0..rank).flat_map(|r| (0..teacher).map(move |t| basis[t * rank + r])).collect();
            Matrix::new(&values, teacher, columns).multiply(&turned)
        };
        let weight = turn(self.weight.val().detach().reshape([teacher, student * kernel]));
        let mut bias = turn(self.bias.val().detach().reshape([teacher, 1]));
        bias.iter_mut().zip(origin).for_each(|(bias, origin)| *bias -= origin);
        let weight = Tensor::from_data(TensorData::new(weight, [rank, student, kernel]), &device);
        let bias = Tensor::from_data(TensorData::new(bias, [rank]), &device);
        Self { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) }
    }

    /// [batch, student width, frames] -> [batch, teacher width, frames]. `valid` gives [batch, 1, frames], 1 on the
    /// student's frames and 0 beyond: a kernel of several frames reads zeros there, whatever lies in `hidden`.
    pub fn forward(&self, hidden: Tensor<3>, valid: impl FnOnce() -> Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val();
        let half = weight.dims()[2] / 2;
        let hidden = if half > 0 { hidden * valid() } else { hidden };
        let options = Conv1dOptions { padding: (half, half), ..Conv1dOptions::default() };
        conv1d(hidden, weight, &options) + self.bias.val().reshape([1, -1, 1])
    }
}

/// Equation (7). `predicted` is c(w_stu) and `target` w_tea, both [batch, teacher width, frames];
/// `weight` [batch, 1, frames] is m on valid frames (1 without frame weighting) and 0 on padding.
/// The result is [1].
pub fn rkd_loss(predicted: Tensor<3>, target: Tensor<3>, weight: Tensor<3>) -> Tensor<1> {
    let batch = predicted.dims()[0];
    let difference = (target - predicted) * weight;
    sum(difference.clone() * difference).div_scalar(batch as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formula_and_ignores_padding() {
        let device = Device::flex();
        let tensor = |v: [f32; 8]| Tensor::<3>::from_data(TensorData::new(v.to_vec(), [2, 2, 2]), &device);
        // Utterance 2 has one valid frame; its padding holds values that must not matter.
        let target = tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1e6, 6.0, 1e6]);
        let predicted = tensor([0.0, 0.0, 1.0, 1.0, 4.0, 0.0, 4.0, 0.0]);
        let weight = Tensor::<3>::from_data(TensorData::new(vec![0.5, 1.0, 2.0, 0.0], [2, 1, 2]), &device);
        let loss: f32 = rkd_loss(predicted, target, weight).into_scalar();
        let by_hand = (0.25 * (1.0 + 4.0) + (4.0 + 9.0) + 4.0 * (1.0 + 4.0)) / 2.0;
        assert_eq!(loss, by_hand);
    }

    #[test]
    fn the_loss_in_rotated_coordinates_is_the_loss() {
        let device = Device::flex();
        let mut random = Random::new(5, "rotated", &[]);
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.normal() as f32).collect() };
        let tensor = |v: &[f32], shape: [usize; 3]| {
            Tensor::<3>::from_data(TensorData::new(v.to_vec(), shape), &device)
        };
        // An orthonormal basis of 4 by Gram and Schmidt, a mean, and a teacher's frames, [frames, 4].
        let (mut basis, mean, frames) = (noise(16), noise(4), noise(2 * 4 * 6));
        for a in 0..4 {
            for b in 0..a {
                let dot: f32 = (0..4).map(|t| basis[t * 4 + a] * basis[t * 4 + b]).sum();
                (0..4).for_each(|t| basis[t * 4 + a] -= dot * basis[t * 4 + b]);
            }
            let norm = (0..4).map(|t| basis[t * 4 + a].powi(2)).sum::<f32>().sqrt();
            (0..4).for_each(|t| basis[t * 4 + a] /= norm);
        }
        let turn = |v: &[f32], r: usize| (0..4).map(|t| v[t] * basis[t * 4 + r]).sum::<f32>();
        let origin: Vec<f32> = (0..4).map(|r| turn(&mean, r)).collect();
        // [batch, channels, frames]
        let lay = |value: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..2)
                .flat_map(|b| (0..4).flat_map(move |c| (0..6).map(move |t| (b * 6 + t, c))))
                .map(|(t, c)| value(t, c))
                .collect()
        };
        let target = lay(&|t, c| frames[t * 4 + c]);
        let rotated = lay(&|t, r| turn(&frames[t * 4..t * 4 + 4], r) - origin[r]);
        let (hidden, weight) = (noise(2 * 3 * 6), noise(2 * 6));
        let (hidden, weight) = (tensor(&hidden, [2, 3, 6]), tensor(&weight, [2, 1, 6]));
        let valid = || Tensor::ones([2, 1, 6], &device);
        for kernel in [1, 3] {
            let bridge = Bridge::new(3, 4, kernel, 1, &device);
            let plain =
                rkd_loss(bridge.forward(hidden.clone(), valid), tensor(&target, [2, 4, 6]), weight.clone());
            let turned = bridge.along(&basis, &origin).forward(hidden.clone(), valid);
            let turned = rkd_loss(turned, tensor(&rotated, [2, 4, 6]), weight.clone());
            let (plain, turned): (f32, f32) = (plain.into_scalar(), turned.into_scalar());
            assert!((plain - turned).abs() < 1e-5 * plain, "{plain} {turned}");
        }
    }

    #[test]
    fn the_bridge_maps_widths_and_keeps_frames() {
        let device = Device::flex();
        for kernel in [1, 3] {
            let bridge = Bridge::new(5, 7, kernel, 1, &device);
            let valid = || Tensor::ones([2, 1, 9], &device);
            assert_eq!(bridge.forward(Tensor::zeros([2, 5, 9], &device), valid).dims(), [2, 7, 9]);
        }
    }

    #[test]
    fn a_wide_bridge_does_not_see_what_lies_beyond_an_utterance() {
        let device = Device::flex();
        let values: Vec<f32> = (0..30).map(|i| (f32::from(i as u8) * 0.7).sin()).collect();
        let hidden = |beyond: f32| {
            // [1, 5, 6], of which 4 frames are valid.
            let values = values.iter().enumerate().map(|(i, v)| if i % 6 < 4 { *v } else { beyond });
            Tensor::<3>::from_data(TensorData::new(values.collect::<Vec<f32>>(), [1, 5, 6]), &device)
        };
        let valid =
            || Tensor::from_data(TensorData::new(vec![1f32, 1.0, 1.0, 1.0, 0.0, 0.0], [1, 1, 6]), &device);
        let bridge = Bridge::new(5, 7, 5, 1, &device);
        let first = |x: Tensor<3>| x.slice([0..1, 0..7, 0..4]).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(first(bridge.forward(hidden(9.0), valid)), first(bridge.forward(hidden(0.0), valid)));
    }
}
