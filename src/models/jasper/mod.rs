//! Jasper, Jasper Mini and QuartzNet: blocks of 1-D convolutions over time.
//!
//! A layer is convolution, batch norm, ReLU, dropout; the last layer of a block adds the
//! projections of the block's input before its ReLU (Jasper, figure 2). Frames beyond an
//! utterance's end are zero before every layer's convolution, residual projections included
//! (OpenSeq2Seq `tdnn_encoder.py`, `use_conv_mask`; NeMo `MaskedConv1d`); a separable
//! convolution counts as one, as in OpenSeq2Seq. Nothing masks the last layer's output.

mod config;
mod layer;

pub use config::{BlockConfig, BlockShape, JasperConfig, LayerShape, Residual, StridePadding};
pub use layer::Layer;

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::norm::{BatchNorm, lazy_parameter};
use super::padding::Padding;
use super::taps::Taps;
use super::{HiddenLayer, Mode, Output, TrainState};
use crate::error::Result;
use crate::kernels::{Conv1dOptions, conv1d};

/// The network: blocks, then a 1x1 convolution with bias to the labels.
#[derive(Module, Debug)]
pub struct Jasper {
    blocks: Vec<Block>,
    head: Head,
}

/// Layers in sequence, and the projections of what the block was given.
#[derive(Module, Debug)]
struct Block {
    layers: Vec<Layer>,
    residuals: Vec<Layer>,
    dropout: f64,
    dense: bool,
}

/// From hidden states to logits.
#[derive(Module, Debug)]
struct Head {
    weight: Param<Tensor<3>>,
    bias: Param<Tensor<1>>,
}

impl Jasper {
    /// The network with tensors that are not allocated before they are loaded.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn lazy(config: &JasperConfig, labels: usize, device: &Device) -> Result<Self> {
        let blocks = config
            .shapes()?
            .into_iter()
            .zip(&config.blocks)
            .map(|(shape, block)| {
                let layer = |shape: &LayerShape| Layer::lazy(*shape, config, device);
                Block {
                    layers: shape.layers.iter().map(layer).collect(),
                    residuals: shape.residuals.iter().map(layer).collect(),
                    dropout: block.dropout,
                    dense: block.dense,
                }
            })
            .collect();
        let head = Head {
            weight: lazy_parameter([labels, config.hidden_width(), 1], true, device),
            bias: lazy_parameter([labels], true, device),
        };
        Ok(Self { blocks, head })
    }

    /// See [`super::Model::forward_with`].
    pub fn forward(
        &self,
        features: Tensor<3>,
        frames: &[usize],
        mode: Mode<'_>,
        layers: &[HiddenLayer],
    ) -> Output {
        let [batch, _, width] = features.dims();
        assert!(frames.len() == batch, "{} lengths for a batch of {batch}", frames.len());
        let mut state = match mode {
            Mode::Evaluate => None,
            Mode::Train(state) => Some(state),
        };
        let device = features.device();
        let mut padding = Padding::new(frames.to_vec(), width, &device);
        let mut hidden = padding.apply(features);
        let mut dense = Vec::new();
        let mut taps = Taps::new(layers);
        for (index, block) in self.blocks.iter().enumerate() {
            let last = index + 1 == self.blocks.len();
            hidden = block.forward(hidden, &mut padding, &mut dense, state.as_deref_mut(), last);
            if !last {
                taps.inner(index, || hidden.clone());
            }
        }
        let kind = hidden.dtype();
        let logits = conv1d(hidden.clone(), self.head.weight.val().cast(kind), &Conv1dOptions::default());
        let logits = logits.swap_dims(1, 2) + self.head.bias.val().cast(kind).unsqueeze();
        let layers = taps.finish(&hidden);
        Output { hidden, logits, layers, frames: padding.frames().to_vec() }
    }

    /// See [`super::Network::regularised`]: of [`Layer`] and [`Head`], all but biases and betas.
    pub fn regularised(name: &str) -> bool {
        matches!(name.rsplit('.').next(), Some("depthwise" | "weight" | "gamma"))
    }

    /// Every batch norm in the order in which a forward pass meets them.
    pub fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.blocks
            .iter_mut()
            .flat_map(|block| block.layers.iter_mut().chain(block.residuals.iter_mut()).map(Layer::norm))
    }
}

impl Block {
    /// `x` is already masked; so is the result, unless this is the network's `last` block.
    fn forward(
        &self,
        x: Tensor<3>,
        padding: &mut Padding,
        dense: &mut Vec<Tensor<3>>,
        mut state: Option<&mut TrainState>,
        last: bool,
    ) -> Tensor<3> {
        let shortcuts: &[Tensor<3>] = if self.dense {
            dense.push(x.clone());
            dense
        } else {
            std::slice::from_ref(&x)
        };
        let mut y = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            *padding = padding.strided(layer.stride(), &x.device());
            let closing = index + 1 == self.layers.len();
            let residuals: &[Layer] = if closing { &self.residuals } else { &[] };
            // Nothing reads what lies beyond the end of the network's own output.
            let zeroed = if last && closing { Padding::none(padding) } else { padding.clone() };
            y = match state.as_deref_mut() {
                None => zeroed.apply(layer.evaluate(y, residuals, shortcuts)),
                Some(state) => {
                    let alone = residuals.is_empty().then_some(&zeroed);
                    let mut sum = layer.train_forward(y, padding, alone, state);
                    for (residual, shortcut) in residuals.iter().zip(shortcuts) {
                        sum = sum + residual.train_forward(shortcut.clone(), padding, None, state);
                    }
                    if !residuals.is_empty() {
                        sum = zeroed.apply(relu(sum));
                    }
                    state.drop_out(sum, self.dropout)
                }
            };
        }
        y
    }
}
