//! One convolution over frequency and time with its batch norm and ReLU.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::config::{ConvolutionConfig, DeepSpeech2Config};
use crate::kernels::{Conv2dOptions, conv2d};
use crate::models::TrainState;
use crate::models::jasper::StridePadding;
use crate::models::norm::{BatchNorm, lazy_parameter};
use crate::models::padding::Padding;

/// A convolution without bias, batch norm and ReLU.
#[derive(Module, Debug)]
pub struct Convolution {
    /// [out, in, taps in frequency, taps in time]
    weight: Param<Tensor<4>>,
    norm: BatchNorm,
    #[module(skip)]
    shape: ConvolutionConfig,
    #[module(skip)]
    padding: StridePadding,
}

impl Convolution {
    /// A layer whose tensors are not allocated before they are loaded.
    pub fn lazy(
        inputs: usize,
        shape: &ConvolutionConfig,
        config: &DeepSpeech2Config,
        device: &Device,
    ) -> Self {
        let [time, bins] = shape.kernel;
        Self {
            weight: lazy_parameter([shape.filters, inputs, bins, time], true, device),
            norm: BatchNorm::lazy(shape.filters, config.norm.epsilon, device),
            shape: shape.clone(),
            padding: config.padding,
        }
    }

    /// The batch norm.
    pub fn norm(&mut self) -> &mut BatchNorm {
        &mut self.norm
    }

    /// From `x` [batch, bins, channels, frames], masked by `padding`, to the same of the output, masked by the
    /// padding that it then has.
    ///
    /// Bins come before channels: to the batch norm, which keeps statistics of channels over whatever comes before
    /// them, a bin is one more utterance of the same length; and [bins, channels] is the order in which the recurrent
    /// layers of OpenSeq2Seq read them.
    pub fn forward(&self, x: Tensor<4>, padding: &mut Padding, state: Option<&mut TrainState>) -> Tensor<4> {
        let x = x.swap_dims(1, 2);
        let [batch, _, bins, frames] = x.dims();
        let [time_stride, bin_stride] = self.shape.stride;
        *padding = padding.strided(time_stride, &x.device());
        let zeros = [
            self.padding.zeros(self.shape.kernel[1], bin_stride, bins),
            self.padding.zeros(self.shape.kernel[0], time_stride, frames),
        ];
        let options =
            Conv2dOptions { stride: [bin_stride, time_stride], padding: zeros, ..Conv2dOptions::default() };
        let scaled = |weight: Tensor<4>| conv2d(x.clone(), weight, &options).swap_dims(1, 2);
        let channels = self.shape.filters;
        match state {
            None => {
                // The batch norm's scale goes into the weights.
                let (scale, shift) = self.norm.affine();
                let weight = self.weight.val() * scale.reshape([channels, 1, 1, 1]);
                let y = scaled(weight.cast(x.dtype()));
                let [_, bins, _, frames] = y.dims();
                let y = relu(y + shift.cast(x.dtype()).reshape([1, 1, channels, 1]));
                padding
                    .apply(y.reshape([batch, bins * channels, frames]))
                    .reshape([batch, bins, channels, frames])
            }
            Some(state) => {
                let y = scaled(self.weight.val());
                let [_, bins, _, frames] = y.dims();
                let repeated = padding.repeated(bins, &x.device());
                let y = y.reshape([batch * bins, channels, frames]);
                let y = self.norm.normalise(y, &repeated, Some(&repeated), state);
                y.reshape([batch, bins, channels, frames])
            }
        }
    }
}
