//! The Jasper family as data: a list of blocks, and the shapes of every layer that follow from it.
//!
//! Li et al., "Jasper: An End-to-End Convolutional Neural Acoustic Model" (2019), figure 2 and
//! table 1; Kriman et al., "QuartzNet" (2020), table 1; OpenSeq2Seq `tdnn_encoder.py`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::norm::NormConfig;

/// A Jasper network: Jasper DR, Jasper Mini and QuartzNet differ only in these values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JasperConfig {
    /// Feature bins of the input.
    #[serde(default = "default_features")]
    pub features: usize,
    /// Zeros around a strided convolution.
    #[serde(default)]
    pub padding: StridePadding,
    /// Batch normalisation, the same in every layer.
    #[serde(default)]
    pub norm: NormConfig,
    /// From input to output; the width of the last one is the width of the hidden states.
    pub blocks: Vec<BlockConfig>,
}

fn default_features() -> usize {
    64
}

/// Where the zeros of a convolution with stride > 1 lie; without a stride both rules agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StridePadding {
    /// As many on the left as on the right: NeMo, PyTorch.
    #[default]
    Symmetric,
    /// TensorFlow's "same" for an even number of frames (kernel 11, stride 2: 4 left, 5 right).
    /// OpenSeq2Seq pads batches to a multiple of 16 frames, so its models met no other case.
    Same,
}

impl std::fmt::Display for StridePadding {
    /// As in model.toml.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Symmetric => "symmetric",
            Self::Same => "same",
        })
    }
}

impl StridePadding {
    /// Zeros before and after `length` values under a kernel that spans `span` of them; the output then has
    /// ceil(length / stride).
    pub fn zeros(self, span: usize, stride: usize, length: usize) -> (usize, usize) {
        match self {
            Self::Symmetric => ((span - 1) / 2, (span - 1) / 2),
            // An odd number of frames is completed to an even one, as a batch of the original is.
            Self::Same => {
                let left = span.saturating_sub(stride) / 2;
                let output = length.div_ceil(stride).max(1);
                (left, ((output - 1) * stride + span).saturating_sub(length + left))
            }
        }
    }
}

/// How a block's input joins its output before the last activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residual {
    /// It does not.
    #[default]
    None,
    /// Through a 1x1 convolution and its own batch norm: Jasper, NeMo's QuartzNet.
    Pointwise,
    /// Through a separable convolution with kernel 1 and its own batch norm: OpenSeq2Seq's
    /// separable models (Jasper Mini).
    Separable,
}

/// One block: `repeat` layers of convolution, batch norm, ReLU and dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// Output channels of every layer.
    pub filters: usize,
    /// Number of layers.
    #[serde(default = "one")]
    pub repeat: usize,
    /// Taps of the convolution, an odd number.
    pub kernel: usize,
    /// Input frames per output frame; only in blocks of one layer.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stride: usize,
    /// Frames between two taps.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub dilation: usize,
    /// Probability that dropout zeroes a value in training.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Depthwise convolution followed by a 1x1 convolution, nothing in between.
    #[serde(default)]
    pub separable: bool,
    /// The shortcut.
    #[serde(default)]
    pub residual: Residual,
    /// Whether the shortcuts come from the inputs of all dense blocks so far (Jasper DR, figure 3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub dense: bool,
}

fn one() -> usize {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_one(value: &usize) -> bool {
    *value == 1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The shape of one convolution with its batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Taps.
    pub kernel: usize,
    /// Input frames per output frame.
    pub stride: usize,
    /// Frames between two taps.
    pub dilation: usize,
    /// Depthwise and pointwise instead of dense.
    pub separable: bool,
}

impl LayerShape {
    /// Trainable values: the convolution (no bias) and the batch norm's gamma and beta.
    pub fn parameters(&self) -> usize {
        let convolution = if self.separable {
            self.inputs * self.kernel + self.inputs * self.outputs
        } else {
            self.inputs * self.outputs * self.kernel
        };
        convolution + 2 * self.outputs
    }

    /// Zeros left and right of `frames` input frames; the output then has ceil(frames / stride).
    pub fn padding(&self, rule: StridePadding, frames: usize) -> (usize, usize) {
        rule.zeros(self.dilation * (self.kernel - 1) + 1, self.stride, frames)
    }
}

/// The shapes of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockShape {
    /// The layers in order.
    pub layers: Vec<LayerShape>,
    /// The shortcuts' convolutions: none, one, or one per dense input.
    pub residuals: Vec<LayerShape>,
}

impl JasperConfig {
    /// The shapes of every layer.
    ///
    /// # Errors
    /// Names the block and the key that cannot work.
    pub fn shapes(&self) -> Result<Vec<BlockShape>> {
        let wrong =
            |key: String, detail: String| Err(Error::invalid(format!("architecture.jasper.{key}: {detail}")));
        if self.features == 0 || self.blocks.is_empty() {
            return wrong("blocks".into(), "expected at least one block over at least one feature".into());
        }
        self.norm.validate()?;
        let mut inputs = self.features;
        let mut dense_inputs = Vec::new();
        let mut shapes = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let key = |name: &str| format!("blocks[{index}].{name}");
            if block.filters == 0 || block.repeat == 0 || block.stride == 0 || block.dilation == 0 {
                return wrong(
                    key("filters, repeat, stride, dilation"),
                    "expected values of at least 1, found 0".into(),
                );
            }
            // Beyond what any network has: a damaged or hostile file, which must not take all memory.
            let largest =
                block.repeat.max(block.filters).max(block.kernel).max(block.stride).max(block.dilation);
            if block.repeat > 1_000 || largest > 1_000_000 {
                return wrong(
                    key("repeat, filters, kernel, stride, dilation"),
                    format!("{largest} is too large"),
                );
            }
            if block.kernel.is_multiple_of(2) {
                return wrong(
                    key("kernel"),
                    format!("expected an odd number of taps, found {}", block.kernel),
                );
            }
            if block.stride > 1
                && (block.repeat > 1 || block.residual != Residual::None || block.dilation > 1)
            {
                return wrong(
                    key("stride"),
                    format!("a stride of {} fits one layer without residual or dilation only", block.stride),
                );
            }
            if !(0.0..1.0).contains(&block.dropout) {
                return wrong(key("dropout"), format!("expected 0 <= p < 1, found {}", block.dropout));
            }
            if block.dense && block.residual == Residual::None {
                return wrong(
                    key("dense"),
                    "a dense block needs a residual, found residual = \"none\"".into(),
                );
            }
            let layers = (0..block.repeat)
                .map(|layer| LayerShape {
                    inputs: if layer == 0 { inputs } else { block.filters },
                    outputs: block.filters,
                    kernel: block.kernel,
                    stride: block.stride,
                    dilation: block.dilation,
                    separable: block.separable,
                })
                .collect();
            if block.dense {
                dense_inputs.push(inputs);
            }
            let from: &[usize] = match (block.residual, block.dense) {
                (Residual::None, _) => &[],
                (_, false) => std::slice::from_ref(&inputs),
                (_, true) => &dense_inputs,
            };
            let residuals = from
                .iter()
                .map(|&inputs| LayerShape {
                    inputs,
                    outputs: block.filters,
                    kernel: 1,
                    stride: 1,
                    dilation: 1,
                    separable: block.residual == Residual::Separable,
                })
                .collect();
            shapes.push(BlockShape { layers, residuals });
            inputs = block.filters;
        }
        Ok(shapes)
    }

    /// Width of the last layer: what a teacher's hidden states have.
    pub fn hidden_width(&self) -> usize {
        self.blocks.last().map_or(0, |b| b.filters)
    }

    /// Width of every block before the last; `None` where a later one still drops frames.
    pub fn inner_widths(&self) -> Vec<Option<usize>> {
        let inner = self.blocks.len().saturating_sub(1);
        let settled = |block: usize| self.blocks.iter().skip(block + 1).all(|later| later.stride == 1);
        self.blocks.iter().take(inner).enumerate().map(|(k, b)| settled(k).then_some(b.filters)).collect()
    }

    /// Feature frames per output frame.
    pub fn stride(&self) -> usize {
        self.blocks.iter().map(|b| b.stride).product()
    }

    /// Output frames of `frames` feature frames: ceil(L / stride), convolution by convolution.
    pub fn output_frames(&self, frames: usize) -> usize {
        self.blocks.iter().fold(frames, |frames, block| frames.div_ceil(block.stride))
    }

    /// The same network with every block's channels multiplied by `width`, rounded to a multiple
    /// of 8 (at least 8).
    ///
    /// # Errors
    /// When `width` is not a positive finite number.
    pub fn with_width(&self, width: f64) -> Result<Self> {
        if !(width.is_finite() && width > 0.0) {
            return Err(Error::invalid(format!("width: expected a positive number, found {width}")));
        }
        let mut scaled = self.clone();
        for block in &mut scaled.blocks {
            let eighths = (block.filters as f64 * width / 8.0).round().clamp(1.0, 65_536.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
            let eighths = eighths as usize;
            block.filters = eighths * 8;
        }
        Ok(scaled)
    }
}
