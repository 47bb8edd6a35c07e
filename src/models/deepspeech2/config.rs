//! DeepSpeech 2 as data: convolutions over frequency and time, LSTM layers, one fully connected layer.
//!
//! Amodei et al., "Deep Speech 2" (2016), section 3; OpenSeq2Seq `ds2_encoder.py`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::jasper::StridePadding;
use crate::models::norm::NormConfig;

/// A DeepSpeech 2 network with LSTM cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepSpeech2Config {
    /// Feature bins of the input.
    #[serde(default = "default_features")]
    pub features: usize,
    /// Zeros around the convolutions, in frequency as in time.
    #[serde(default)]
    pub padding: StridePadding,
    /// Width of the fully connected layer after the LSTMs: that of the hidden states.
    pub hidden: usize,
    /// Probability that dropout zeroes a hidden state in training.
    #[serde(default)]
    pub dropout: f64,
    /// The recurrent layers.
    pub rnn: RnnConfig,
    /// Batch normalisation after every convolution.
    #[serde(default)]
    pub norm: NormConfig,
    /// From input to output; each is followed by batch norm and ReLU.
    pub convolutions: Vec<ConvolutionConfig>,
}

fn default_features() -> usize {
    64
}

/// The recurrent layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RnnConfig {
    /// How the two directions meet.
    #[serde(default)]
    pub form: RnnForm,
    /// Number of layers.
    pub layers: usize,
    /// Cells of each direction of a layer.
    pub cells: usize,
    /// Bias vectors of a direction: 1 as in TensorFlow, or 2 that are added, as in PyTorch.
    #[serde(default = "one")]
    pub biases: usize,
    /// Probability that dropout zeroes an output of a layer in training.
    #[serde(default)]
    pub dropout: f64,
}

fn one() -> usize {
    1
}

/// How the two directions of the recurrent layers meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RnnForm {
    /// Not before the end: two stacks, of which one runs forward in every layer and one backward; their last outputs
    /// are concatenated. OpenSeq2Seq without cuDNN (`bidirectional_dynamic_rnn` over two `MultiRNNCell`).
    #[default]
    TwoStacks,
    /// The outputs of every layer are added, as in the paper.
    Summed,
    /// The outputs of every layer are concatenated: PyTorch's `nn.LSTM`, cuDNN.
    Concatenated,
}

/// One convolution over frequency and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvolutionConfig {
    /// Output channels.
    pub filters: usize,
    /// Taps in time and in frequency, odd numbers.
    pub kernel: [usize; 2],
    /// Input values per output value in time and in frequency.
    #[serde(default = "ones")]
    pub stride: [usize; 2],
}

fn ones() -> [usize; 2] {
    [1, 1]
}

/// The shape of one direction of one recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellShape {
    /// Values that a direction reads of a frame.
    pub inputs: usize,
    /// Its cells.
    pub cells: usize,
    /// Its bias vectors.
    pub biases: usize,
}

impl CellShape {
    /// Trainable values.
    pub fn parameters(&self) -> usize {
        4 * self.cells * (self.inputs + self.cells + self.biases)
    }
}

impl DeepSpeech2Config {
    /// # Errors
    /// Names the key that cannot work.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, detail: String| {
            Err(Error::invalid(format!("architecture.deepspeech2.{key}: {detail}")))
        };
        let rnn = &self.rnn;
        let counts = [
            ("features", self.features),
            ("hidden", self.hidden),
            ("rnn.layers", rnn.layers),
            ("rnn.cells", rnn.cells),
            ("convolutions", self.convolutions.len()),
        ];
        // The upper bounds are beyond what any network has: a damaged file must not take all memory.
        for (key, count) in counts {
            let most = if matches!(key, "rnn.layers" | "convolutions") { 1_000 } else { 1_000_000 };
            if count == 0 || count > most {
                return wrong(key, format!("expected 1 ..= {most}, found {count}"));
            }
        }
        if !(1..=2).contains(&rnn.biases) {
            return wrong("rnn.biases", format!("expected 1 or 2, found {}", rnn.biases));
        }
        for (key, dropout) in [("dropout", self.dropout), ("rnn.dropout", rnn.dropout)] {
            if !(0.0..1.0).contains(&dropout) {
                return wrong(key, format!("expected 0 <= p < 1, found {dropout}"));
            }
        }
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let ConvolutionConfig { filters, kernel, stride } = convolution;
            let key = |name: &str| format!("convolutions[{index}].{name}");
            if kernel.iter().any(|k| k.is_multiple_of(2)) {
                return wrong(&key("kernel"), format!("expected odd numbers of taps, found {kernel:?}"));
            }
            let values = kernel.iter().chain(stride).chain([filters]);
            if let Some(value) = values.copied().find(|&v| v == 0 || v > 1_000_000) {
                return wrong(
                    &key("filters, kernel, stride"),
                    format!("expected 1 ..= 1000000, found {value}"),
                );
            }
        }
        self.norm.validate()
    }

    /// Bins of `convolution`'s output, from those of its input.
    fn bins_after(bins: usize, convolution: &ConvolutionConfig) -> usize {
        bins.div_ceil(convolution.stride[1])
    }

    /// Channels that each convolution reads.
    pub fn channels(&self) -> impl Iterator<Item = usize> {
        std::iter::once(1).chain(self.convolutions.iter().map(|c| c.filters))
    }

    /// Values of a frame after the convolutions: bins times channels.
    pub fn convolved(&self) -> usize {
        let bins = self.convolutions.iter().fold(self.features, Self::bins_after);
        bins * self.convolutions.last().map_or(1, |c| c.filters)
    }

    /// The shape of each direction, layer by layer.
    pub fn cells(&self) -> impl Iterator<Item = CellShape> {
        let RnnConfig { form, layers, cells, biases, .. } = self.rnn;
        let between = if form == RnnForm::Concatenated { 2 * cells } else { cells };
        let first = self.convolved();
        (0..layers).map(move |layer| {
            let inputs = if layer == 0 { first } else { between };
            CellShape { inputs, cells, biases }
        })
    }

    /// Values of a frame after the recurrent layers.
    pub fn recurrent_width(&self) -> usize {
        if self.rnn.form == RnnForm::Summed { self.rnn.cells } else { 2 * self.rnn.cells }
    }

    /// Width of every recurrent layer's output.
    pub fn inner_widths(&self) -> Vec<Option<usize>> {
        vec![Some(self.recurrent_width()); self.rnn.layers]
    }

    /// Feature frames per output frame.
    pub fn stride(&self) -> usize {
        self.convolutions.iter().map(|c| c.stride[0]).product()
    }

    /// Output frames of `frames` feature frames: ceil(L / stride), convolution by convolution.
    pub fn output_frames(&self, frames: usize) -> usize {
        self.convolutions.iter().fold(frames, |frames, c| frames.div_ceil(c.stride[0]))
    }

    /// The same network with the channels of the convolutions, the cells and the fully connected layer multiplied by
    /// `width`, rounded to multiples of 8 (at least 8).
    ///
    /// # Errors
    /// When `width` is not a positive finite number.
    pub fn with_width(&self, width: f64) -> Result<Self> {
        if !(width.is_finite() && width > 0.0) {
            return Err(Error::invalid(format!("width: expected a positive number, found {width}")));
        }
        let scale = |value: &mut usize| {
            let eighths = (*value as f64 * width / 8.0).round().clamp(1.0, 65_536.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
            let eighths = eighths as usize;
            *value = eighths * 8;
        };
        let mut scaled = self.clone();
        scaled.convolutions.iter_mut().for_each(|c| scale(&mut c.filters));
        scale(&mut scaled.rnn.cells);
        scale(&mut scaled.hidden);
        Ok(scaled)
    }
}
