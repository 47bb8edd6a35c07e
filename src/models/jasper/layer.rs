//! One convolution with its batch norm.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::config::{JasperConfig, LayerShape, StridePadding};
use crate::kernels::{Conv1dOptions, conv1d};
use crate::models::TrainState;
use crate::models::norm::{BatchNorm, lazy_parameter};
use crate::models::padding::Padding;

/// A dense or separable convolution without bias, and a batch norm.
#[derive(Module, Debug)]
pub struct Layer {
    /// Of a separable convolution, [in, 1, kernel].
    depthwise: Option<Param<Tensor<3>>>,
    /// [out, in, kernel]; kernel 1 in a separable convolution.
    weight: Param<Tensor<3>>,
    norm: BatchNorm,
    #[module(skip)]
    shape: LayerShape,
    #[module(skip)]
    padding: StridePadding,
}

impl Layer {
    /// A layer whose tensors are not allocated before they are loaded.
    pub fn lazy(shape: LayerShape, config: &JasperConfig, device: &Device) -> Self {
        let LayerShape { inputs, outputs, kernel, separable, .. } = shape;
        Self {
            depthwise: separable.then(|| lazy_parameter([inputs, 1, kernel], true, device)),
            weight: lazy_parameter([outputs, inputs, if separable { 1 } else { kernel }], true, device),
            norm: BatchNorm::lazy(outputs, config.norm.epsilon, device),
            shape,
            padding: config.padding,
        }
    }

    /// Input frames per output frame.
    pub fn stride(&self) -> usize {
        self.shape.stride
    }

    /// The batch norm.
    pub fn norm(&mut self) -> &mut BatchNorm {
        &mut self.norm
    }

    /// ReLU of the normalised convolution plus the normalised projections of the shortcuts.
    ///
    /// The batch norms' scales go into the weights and their shifts into one sum, so that the
    /// activations are passed over once for the shift and once for the ReLU.
    pub fn evaluate(&self, x: Tensor<3>, residuals: &[Self], shortcuts: &[Tensor<3>]) -> Tensor<3> {
        let (mut sum, mut shift) = self.scaled(x);
        for (residual, shortcut) in residuals.iter().zip(shortcuts) {
            let (projected, more) = residual.scaled(shortcut.clone());
            sum = sum + projected;
            shift = shift + more;
        }
        let shift = shift.cast(sum.dtype()).reshape([1, self.shape.outputs, 1]);
        relu(sum + shift)
    }

    /// The convolution times the batch norm's scale, and its shift. The convolution is computed in
    /// the type of `x`, the batch norm in that of the weights.
    fn scaled(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<1>) {
        let (scale, shift) = self.norm.affine();
        let weight = self.weight.val() * scale.reshape([self.shape.outputs, 1, 1]);
        let weight = weight.cast(x.dtype());
        (self.convolve(x, weight), shift)
    }

    /// The convolution, normalised by the batch's statistics, which go into `state`; with
    /// `rectified`, ReLU and zeros beyond these lengths follow.
    pub fn train_forward(
        &self,
        x: Tensor<3>,
        padding: &Padding,
        rectified: Option<&Padding>,
        state: &mut TrainState,
    ) -> Tensor<3> {
        self.norm.normalise(self.convolve(x, self.weight.val()), padding, rectified, state)
    }

    fn convolve(&self, x: Tensor<3>, weight: Tensor<3>) -> Tensor<3> {
        let [_, inputs, frames] = x.dims();
        let options = Conv1dOptions {
            stride: self.shape.stride,
            padding: self.shape.padding(self.padding, frames),
            dilation: self.shape.dilation,
            groups: 1,
        };
        match &self.depthwise {
            None => conv1d(x, weight, &options),
            Some(depthwise) => {
                let depthwise = depthwise.val().cast(weight.dtype());
                let x = conv1d(x, depthwise, &Conv1dOptions { groups: inputs, ..options });
                conv1d(x, weight, &Conv1dOptions::default())
            }
        }
    }
}
