//! 1-D convolution without bias: dense, pointwise or depthwise.
//!
//! y[b, o, t] = sum over i, k of w[o, i, k] * x[b, i, t * stride + k * dilation - left]
//!
//! Cost of a dense layer: 2 * batch * out * in * kernel * frames_out FLOP forward and twice that
//! backward; a depthwise layer has in = 1 and is bound by memory: it reads x and writes y once.

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use burn::tensor::module::conv1d as burn_conv1d;
use burn::tensor::ops::ConvOptions;

use super::extension::ConvBackend;
use crate::device::is_cpu;

/// Shape parameters of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv1dOptions {
    /// Input frames between two output frames.
    pub stride: usize,
    /// Zeros before the first and after the last frame.
    pub padding: (usize, usize),
    /// Input frames between two taps of the kernel.
    pub dilation: usize,
    /// 1 for a dense layer, the number of channels for a depthwise one.
    pub groups: usize,
}

impl Default for Conv1dOptions {
    fn default() -> Self {
        Self { stride: 1, padding: (0, 0), dilation: 1, groups: 1 }
    }
}

impl Conv1dOptions {
    /// Output frames of `frames` input frames under a kernel of `kernel` taps.
    pub fn output_frames(&self, frames: usize, kernel: usize) -> usize {
        let span = self.dilation * (kernel - 1) + 1;
        let padded = frames + self.padding.0 + self.padding.1;
        if padded < span { 0 } else { (padded - span) / self.stride + 1 }
    }
}

/// Convolves `x` [batch, in, frames] with `weight` [out, in / groups, kernel]; the result is
/// [batch, out, frames_out]. Differentiable in both (first order).
pub fn conv1d(x: Tensor<3>, weight: Tensor<3>, options: &Conv1dOptions) -> Tensor<3> {
    let [_, channels, _] = x.dims();
    let depthwise = options.groups == channels && weight.dims()[0] == channels;
    if is_cpu(&x.device()) && (options.groups == 1 || depthwise) {
        let y = <Dispatch as ConvBackend>::tutor_conv1d(x.into_dispatch(), weight.into_dispatch(), *options);
        return Tensor::from_dispatch(y);
    }
    let (left, right) = options.padding;
    let both = left.min(right);
    let x = if left == right { x } else { x.pad([(left - both, right - both)], 0.0) };
    let burn = ConvOptions::new([options.stride], [both], [options.dilation], options.groups);
    burn_conv1d(x, weight, None, burn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::{Device, TensorData};

    fn tensor(shape: [usize; 3], seed: u64, device: &Device) -> Tensor<3> {
        let mut random = Random::new(seed, "test", &[]);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn close(name: &str, ours: Tensor<3>, reference: Tensor<3>) {
        assert_eq!(ours.dims(), reference.dims(), "{name}");
        let scale: f32 = reference.clone().square().sum().sqrt().into_scalar();
        let difference: f32 = (ours - reference).square().sum().sqrt().into_scalar();
        assert!(difference <= 2e-6 * scale.max(1e-3), "{name}: {difference} of {scale}");
    }

    /// Where no output frame is left there is nothing, and nothing to learn.
    #[test]
    fn nothing_comes_of_too_few_frames() {
        let device = Device::flex().autodiff();
        for (frames, kernel, padding) in [(5, 9, (0, 0)), (0, 3, (0, 0)), (0, 3, (1, 0))] {
            for (stride, depthwise) in [(1, true), (2, true), (1, false), (2, false)] {
                let groups = if depthwise { 3 } else { 1 };
                let options = Conv1dOptions { stride, padding, dilation: 1, groups };
                let x = Tensor::<3>::zeros([2, 3, frames], &device).require_grad();
                let w = tensor([3, 3 / groups, kernel], 2, &device).require_grad();
                let y = conv1d(x, w.clone(), &options);
                assert_eq!(y.dims(), [2, 3, options.output_frames(frames, kernel)], "{options:?} {frames}");
                if y.dims()[2] == 0 {
                    continue;
                }
                let gradient: f32 = w.grad(&y.sum().backward()).unwrap().abs().sum().into_scalar();
                assert_eq!(gradient, 0.0);
            }
        }
    }

    /// Forward and both gradients against burn's own convolution.
    #[test]
    fn equals_burns_convolution_in_value_and_gradients() {
        let device = Device::flex().autodiff();
        // batch, in, out, frames, kernel, stride, dilation, padding, depthwise
        let cases = [
            (2, 5, 7, 33, 11, 1, 1, (5, 5), false),
            (1, 5, 7, 33, 11, 2, 1, (5, 5), false),
            (1, 5, 7, 34, 11, 2, 1, (4, 5), false),
            (3, 4, 6, 40, 29, 1, 2, (28, 28), false),
            (2, 8, 9, 50, 1, 1, 1, (0, 0), false),
            (1, 8, 9, 1, 1, 1, 1, (0, 0), false),
            (2, 6, 6, 150, 33, 1, 1, (16, 16), true),
            (2, 6, 6, 151, 11, 2, 1, (5, 5), true),
            (2, 6, 6, 150, 11, 2, 1, (4, 5), true),
            (1, 6, 6, 90, 29, 1, 2, (28, 28), true),
            (1, 6, 6, 1, 11, 1, 1, (5, 5), true),
            // A kernel longer than its input.
            (2, 3, 3, 5, 9, 1, 1, (2, 3), true),
            (2, 3, 3, 5, 9, 2, 1, (2, 3), true),
        ];
        for (batch, inputs, outputs, frames, kernel, stride, dilation, padding, depthwise) in cases {
            let groups = if depthwise { inputs } else { 1 };
            let options = Conv1dOptions { stride, padding, dilation, groups };
            let name = format!("{options:?} kernel {kernel} frames {frames}");
            let x = tensor([batch, inputs, frames], 1, &device).require_grad();
            let w = tensor([outputs, inputs / groups, kernel], 2, &device).require_grad();
            let ours = conv1d(x.clone(), w.clone(), &options);
            let padded = x.clone().pad([padding], 0.0);
            let burn = ConvOptions::new([stride], [0], [dilation], groups);
            let reference = burn_conv1d(padded, w.clone(), None, burn);
            assert_eq!(ours.dims()[2], options.output_frames(frames, kernel), "{name}");
            let upstream = tensor(ours.dims(), 3, &device);
            let our_gradients = (ours.clone() * upstream.clone()).sum().backward();
            let their_gradients = (reference.clone() * upstream).sum().backward();
            close(&format!("y {name}"), ours.inner(), reference.inner());
            close(&format!("dx {name}"), x.grad(&our_gradients).unwrap(), x.grad(&their_gradients).unwrap());
            close(&format!("dw {name}"), w.grad(&our_gradients).unwrap(), w.grad(&their_gradients).unwrap());
        }
    }
}
