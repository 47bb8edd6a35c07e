//! What `inspect` says about a model or a preset; no weight is allocated.

use std::path::Path;

use serde::Serialize;

use super::config::{Architecture, ModelConfig};
use super::deepspeech2::DeepSpeech2Config;
use super::jasper::{JasperConfig, LayerShape};
use super::presets;
use crate::error::Result;

/// A model in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the model.
    pub name: String,
    /// Kind of network.
    pub architecture: &'static str,
    /// Trainable parameters.
    pub parameters: usize,
    /// What has been published about them; of presets alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<&'static str>,
    /// Values of running statistics, which come on top.
    pub statistics: usize,
    /// Width of the hidden states.
    pub hidden_width: usize,
    /// The layers that can be distilled from and into.
    pub hidden_layers: String,
    /// Feature frames per output frame.
    pub stride: usize,
    /// Where the zeros of a strided convolution lie: `symmetric` (PyTorch) or `same` (TensorFlow).
    pub padding: String,
    /// Number of labels, the blank included.
    pub labels: usize,
    /// The frontend, as `prep --frontend` takes it.
    pub frontend: String,
    /// Where the weights come from.
    pub provenance: String,
    /// BLAKE3 over what the model computes; a preset has no weights and none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Every convolution and recurrent layer in order, the head last.
    pub layers: Vec<LayerSummary>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerSummary {
    /// Path of its tensors.
    pub name: String,
    /// `separable`, `dense`, `residual` (a projection), `conv2d`, `lstm` (one direction), `connected` or `head`.
    pub kind: &'static str,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Taps; of a convolution in two dimensions, those in time times those in frequency.
    pub kernel: usize,
    /// Input frames per output frame.
    pub stride: usize,
    /// Frames between two taps.
    pub dilation: usize,
    /// Trainable parameters, batch norm included.
    pub parameters: usize,
}

/// Describes a preset, a model directory or a `model.toml`.
///
/// # Errors
/// When `what` is neither a path nor a preset, or the model's configuration cannot be used.
pub fn describe(what: &str) -> Result<Summary> {
    let path = Path::new(what);
    let mut summary = Summary::of(&ModelConfig::find(what)?)?;
    if !path.exists() {
        summary.published = presets::published(what);
    }
    if path.join(super::directory::WEIGHTS_FILE).is_file() {
        summary.identity = Some(super::identity(path)?);
    }
    Ok(summary)
}

impl Summary {
    /// Describes a configuration.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn of(config: &ModelConfig) -> Result<Self> {
        config.validate()?;
        let labels = config.labels.count();
        let (architecture, layers) = match &config.architecture {
            Architecture::Jasper(jasper) => ("jasper", jasper_layers(jasper, labels)?),
            Architecture::DeepSpeech2(network) => ("deepspeech2", deepspeech2_layers(network, labels)),
        };
        let without = ["lstm", "connected", "head"];
        let norms =
            layers.iter().filter(|layer| !without.contains(&layer.kind)).map(|layer| 2 * layer.outputs);
        Ok(Self {
            name: config.name.clone(),
            architecture,
            parameters: layers.iter().map(|layer| layer.parameters).sum(),
            published: None,
            statistics: norms.sum(),
            hidden_width: config.hidden_width(),
            hidden_layers: config.hidden_layers(),
            stride: config.stride(),
            padding: config.padding().to_string(),
            labels,
            frontend: config.frontend.to_string(),
            provenance: config.provenance.origin.clone(),
            identity: None,
            layers,
        })
    }
}

fn jasper_layers(config: &JasperConfig, labels: usize) -> Result<Vec<LayerSummary>> {
    let summary = |name: String, kind, shape: &LayerShape| LayerSummary {
        name,
        kind,
        inputs: shape.inputs,
        outputs: shape.outputs,
        kernel: shape.kernel,
        stride: shape.stride,
        dilation: shape.dilation,
        parameters: shape.parameters(),
    };
    let mut layers = Vec::new();
    for (index, block) in config.shapes()?.iter().enumerate() {
        for (i, shape) in block.layers.iter().enumerate() {
            let kind = if shape.separable { "separable" } else { "dense" };
            layers.push(summary(format!("blocks.{index}.layers.{i}"), kind, shape));
        }
        for (i, shape) in block.residuals.iter().enumerate() {
            layers.push(summary(format!("blocks.{index}.residuals.{i}"), "residual", shape));
        }
    }
    layers.push(LayerSummary {
        name: "head".into(),
        kind: "head",
        inputs: config.hidden_width(),
        outputs: labels,
        kernel: 1,
        stride: 1,
        dilation: 1,
        parameters: (config.hidden_width() + 1) * labels,
    });
    Ok(layers)
}

fn deepspeech2_layers(config: &DeepSpeech2Config, labels: usize) -> Vec<LayerSummary> {
    let plain = |name: String, kind, inputs, outputs, parameters| LayerSummary {
        name,
        kind,
        inputs,
        outputs,
        kernel: 1,
        stride: 1,
        dilation: 1,
        parameters,
    };
    let mut layers = Vec::new();
    for (index, (inputs, c)) in config.channels().zip(&config.convolutions).enumerate() {
        let kernel = c.kernel.iter().product();
        let parameters = c.filters * (inputs * kernel + 2);
        let layer = plain(format!("convolutions.{index}"), "conv2d", inputs, c.filters, parameters);
        layers.push(LayerSummary { kernel, stride: c.stride[0], ..layer });
    }
    for (index, shape) in config.cells().enumerate() {
        for direction in ["forward", "reverse"] {
            let name = format!("layers.{index}.{direction}");
            layers.push(plain(name, "lstm", shape.inputs, shape.cells, shape.parameters()));
        }
    }
    for (kind, inputs, outputs) in
        [("connected", config.recurrent_width(), config.hidden), ("head", config.hidden, labels)]
    {
        layers.push(plain(kind.to_owned(), kind, inputs, outputs, (inputs + 1) * outputs));
    }
    layers
}
