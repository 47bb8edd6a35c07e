//! DeepSpeech 2: convolutions over frequency and time, bidirectional LSTM layers, one fully connected layer with ReLU,
//! whose output are the hidden states.
//!
//! What lies beyond an utterance's end is zero before every convolution, and no recurrent layer reads it: the reverse
//! direction starts at the utterance's own end.

mod config;
mod convolution;

pub use config::{CellShape, ConvolutionConfig, DeepSpeech2Config, RnnConfig, RnnForm};

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use self::convolution::Convolution;
use super::norm::{BatchNorm, lazy_parameter};
use super::padding::Padding;
use super::taps::Taps;
use super::{HiddenLayer, Mode, Output};
use crate::error::Result;
use crate::kernels::{Conv1dOptions, LstmWeights, Together, bi_lstm, conv1d};

/// The network.
#[derive(Module, Debug)]
pub struct DeepSpeech2 {
    convolutions: Vec<Convolution>,
    layers: Vec<Layer>,
    connected: Linear,
    head: Linear,
    #[module(skip)]
    form: RnnForm,
    recurrent_dropout: f64,
    dropout: f64,
}

/// Both directions of a recurrent layer.
#[derive(Module, Debug)]
struct Layer {
    forward: Cell,
    reverse: Cell,
}

/// One direction; see [`crate::kernels::lstm`] for the order of its gates.
#[derive(Module, Debug)]
struct Cell {
    /// [4 cells, in]
    input: Param<Tensor<2>>,
    /// [4 cells, cells]
    recurrent: Param<Tensor<2>>,
    /// [4 cells]
    gate_bias: Param<Tensor<1>>,
    /// [4 cells], added to the other.
    second_bias: Option<Param<Tensor<1>>>,
}

/// A linear map of every frame.
#[derive(Module, Debug)]
struct Linear {
    /// [out, in, 1]
    weight: Param<Tensor<3>>,
    /// [out]
    bias: Param<Tensor<1>>,
}

impl Cell {
    fn lazy(shape: CellShape, device: &Device) -> Self {
        let rows = 4 * shape.cells;
        Self {
            input: lazy_parameter([rows, shape.inputs], true, device),
            recurrent: lazy_parameter([rows, shape.cells], true, device),
            gate_bias: lazy_parameter([rows], true, device),
            second_bias: (shape.biases > 1).then(|| lazy_parameter([rows], true, device)),
        }
    }

    fn weights(&self) -> LstmWeights {
        let bias = self.gate_bias.val();
        let bias = match &self.second_bias {
            Some(second) => bias + second.val(),
            None => bias,
        };
        LstmWeights { input: self.input.val(), recurrent: self.recurrent.val(), bias }
    }
}

impl Linear {
    fn lazy(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            weight: lazy_parameter([outputs, inputs, 1], true, device),
            bias: lazy_parameter([outputs], true, device),
        }
    }

    /// From [batch, in, frames] to [batch, out, frames].
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let kind = x.dtype();
        let y = conv1d(x, self.weight.val().cast(kind), &Conv1dOptions::default());
        let [_, outputs, _] = y.dims();
        y + self.bias.val().cast(kind).reshape([1, outputs, 1])
    }
}

impl DeepSpeech2 {
    /// The network with tensors that are not allocated before they are loaded.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn lazy(config: &DeepSpeech2Config, labels: usize, device: &Device) -> Result<Self> {
        config.validate()?;
        let convolutions = config.channels().zip(&config.convolutions);
        let cell = |shape| Cell::lazy(shape, device);
        Ok(Self {
            convolutions: convolutions
                .map(|(inputs, c)| Convolution::lazy(inputs, c, config, device))
                .collect(),
            layers: config
                .cells()
                .map(|shape| Layer { forward: cell(shape), reverse: cell(shape) })
                .collect(),
            connected: Linear::lazy(config.recurrent_width(), config.hidden, device),
            head: Linear::lazy(config.hidden, labels, device),
            form: config.rnn.form,
            recurrent_dropout: config.rnn.dropout,
            dropout: config.dropout,
        })
    }

    /// See [`super::Model::forward_with`].
    pub fn forward(
        &self,
        features: Tensor<3>,
        frames: &[usize],
        mode: Mode<'_>,
        layers: &[HiddenLayer],
    ) -> Output {
        let [batch, bins, width] = features.dims();
        assert!(frames.len() == batch, "{} lengths for a batch of {batch}", frames.len());
        let mut state = match mode {
            Mode::Evaluate => None,
            Mode::Train(state) => Some(state),
        };
        let device = features.device();
        let mut padding = Padding::new(frames.to_vec(), width, &device);
        let mut x = padding.apply(features).reshape([batch, bins, 1, width]);
        for convolution in &self.convolutions {
            x = convolution.forward(x, &mut padding, state.as_deref_mut());
        }
        let [_, bins, channels, width] = x.dims();
        let mut x = x.reshape([batch, bins * channels, width]).swap_dims(1, 2);
        let mut taps = Taps::new(layers);
        for (index, layer) in self.layers.iter().enumerate() {
            let together = Together {
                apart: self.form == RnnForm::TwoStacks && index > 0,
                summed: self.form == RnnForm::Summed,
            };
            x = bi_lstm(x, layer.forward.weights(), layer.reverse.weights(), padding.frames(), together);
            if let Some(state) = state.as_deref_mut() {
                x = state.drop_out(x, self.recurrent_dropout);
            }
            taps.inner(index, || x.clone().swap_dims(1, 2));
        }
        let mut hidden = relu(self.connected.forward(x.swap_dims(1, 2)));
        if let Some(state) = state {
            hidden = state.drop_out(hidden, self.dropout);
        }
        let logits = self.head.forward(hidden.clone()).swap_dims(1, 2);
        let layers = taps.finish(&hidden);
        Output { hidden, logits, layers, frames: padding.frames().to_vec() }
    }

    /// See [`super::Network::regularised`]: of convolutions, their batch norms and [`Linear`] all but biases and
    /// betas (`ds2_encoder.py`, `fc_decoders.py`), of the recurrent `layers` nothing.
    pub fn regularised(name: &str) -> bool {
        !name.starts_with("layers.") && matches!(name.rsplit('.').next(), Some("weight" | "gamma"))
    }

    /// Every batch norm in the order in which a forward pass meets them.
    pub fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.convolutions.iter_mut().map(Convolution::norm)
    }
}
