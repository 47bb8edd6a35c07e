//! 2-D convolution without bias or groups, as DeepSpeech2 begins with.
//!
//! y[b, o, h, w] = sum over i, m, n of weight[o, i, m, n]
//!                 * x[b, i, h * stride[0] + m * dilation[0] - top, w * stride[1] + n * dilation[1] - left]
//!
//! Cost: 2 * batch * out * in * kernel * size_out FLOP forward, and as many for each gradient. On the
//! CPU each reads and writes its tensors once, plus one copy with the zeros around it (`dense`); a
//! long width (time) fills vectors best, so give x as [batch, channels, frequencies, frames].

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;

use super::conv2d_backend::Conv2dBackend;
use crate::device::is_cpu;

/// Shape parameters; pairs are (height, width).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Input rows and columns between two outputs.
    pub stride: [usize; 2],
    /// Zeros before the first and after the last row, and column.
    pub padding: [(usize, usize); 2],
    /// Input rows and columns between two taps of the kernel.
    pub dilation: [usize; 2],
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2] }
    }
}

impl Conv2dOptions {
    /// Rows and columns of the output of an input of `size` under a kernel of `kernel` taps.
    pub fn output_size(&self, size: [usize; 2], kernel: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|d| {
            let span = self.dilation[d] * (kernel[d] - 1) + 1;
            let padded = size[d] + self.padding[d].0 + self.padding[d].1;
            if padded < span { 0 } else { (padded - span) / self.stride[d] + 1 }
        })
    }
}

/// Convolves `x` [batch, in, height, width] with `weight` [out, in, kernel height, kernel width];
/// the result is [batch, out, height_out, width_out]. Differentiable in both (first order).
///
/// # Panics
/// When the channels of `x` and `weight` differ.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, options: &Conv2dOptions) -> Tensor<4> {
    assert_eq!(x.dims()[1], weight.dims()[1], "input channels of x and of the weight");
    if is_cpu(&x.device()) {
        let y =
            <Dispatch as Conv2dBackend>::tutor_conv2d(x.into_dispatch(), weight.into_dispatch(), *options);
        return Tensor::from_dispatch(y);
    }
    composed(x, weight, options)
}

/// The same in the tensor library's operations.
fn composed(x: Tensor<4>, weight: Tensor<4>, options: &Conv2dOptions) -> Tensor<4> {
    let both = options.padding.map(|(before, after)| before.min(after));
    let beyond = [0, 1].map(|d| (options.padding[d].0 - both[d], options.padding[d].1 - both[d]));
    let x = if beyond == [(0, 0); 2] { x } else { x.pad(beyond, 0.0) };
    burn_conv2d(x, weight, None, ConvOptions::new(options.stride, both, options.dilation, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::{Device, TensorData};

    fn tensor(shape: [usize; 4], seed: u64, device: &Device) -> Tensor<4> {
        let mut random = Random::new(seed, "test", &[]);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    type Convolution = fn(Tensor<4>, Tensor<4>, &Conv2dOptions) -> Tensor<4>;

    /// y, dx and dw of random tensors, as names and host values.
    fn pass(case: &Case, convolve: Convolution, device: &Device) -> Vec<(&'static str, Vec<f32>)> {
        let x = tensor(case.x, 1, device).require_grad();
        let w = tensor(case.weight, 2, device).require_grad();
        let y = convolve(x.clone(), w.clone(), &case.options);
        let upstream = tensor(y.dims(), 3, device);
        let gradients = (y.clone() * upstream).sum().backward();
        let values = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
        vec![
            ("y", values(y.inner())),
            ("dx", values(x.grad(&gradients).unwrap())),
            ("dw", values(w.grad(&gradients).unwrap())),
        ]
    }

    struct Case {
        x: [usize; 4],
        weight: [usize; 4],
        options: Conv2dOptions,
    }

    fn cases() -> Vec<Case> {
        let case = |x, weight, stride, padding, dilation| Case {
            x,
            weight,
            options: Conv2dOptions { stride, padding, dilation },
        };
        vec![
            case([2, 1, 20, 51], [32, 1, 41, 11], [2, 2], [(20, 20), (5, 5)], [1, 1]),
            case([2, 8, 10, 50], [9, 8, 21, 11], [2, 1], [(9, 10), (4, 5)], [1, 1]),
            case([1, 3, 9, 13], [4, 3, 3, 2], [3, 3], [(1, 0), (0, 3)], [2, 2]),
            case([1, 2, 1, 1], [3, 2, 3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
            case([1, 2, 5, 7], [3, 2, 1, 1], [2, 2], [(0, 0), (0, 0)], [1, 1]),
            case([3, 40, 4, 33], [33, 40, 1, 1], [1, 1], [(0, 0), (0, 0)], [1, 1]),
        ]
    }

    fn equal(case: &Case, device: &Device, tolerance: f32) {
        let reference = pass(case, composed, &Device::flex().autodiff());
        for ((name, ours), (_, reference)) in pass(case, conv2d, device).iter().zip(&reference) {
            assert_eq!(ours.len(), reference.len());
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| v * v).sum::<f32>().sqrt();
            let scale = norm(&mut reference.iter().copied());
            let difference = norm(&mut ours.iter().zip(reference).map(|(a, b)| a - b));
            assert!(difference <= tolerance * scale, "{name} {:?}: {difference} of {scale}", case.options);
        }
    }

    #[test]
    fn equals_burns_convolution_in_value_and_gradients() {
        for case in cases() {
            equal(&case, &Device::flex().autodiff(), 2e-6);
        }
    }

    #[test]
    fn threads_change_no_bit() {
        for case in cases() {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| pass(&case, conv2d, &Device::flex().autodiff()))
            };
            assert_eq!(on(1), on(2), "{:?}", case.options);
        }
    }
}
