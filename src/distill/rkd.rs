//! Representation-level distillation, equation (7) of the TutorNet paper.
//!
//! L_RKD = sum over valid t of || m[t] (w_tea[t] - c(w_stu)[t]) ||^2, mean over utterances,
//! m[t] = sigmoid(mean over d of w_tea[t, d])
//!
//! Over several pairs of layers the losses add up, each pair with its own c and m. c is a convolution from
//! the student's hidden width to the teacher's, trained with the student and dropped afterwards.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::kernels::{Conv1dOptions, conv1d, sum};
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
