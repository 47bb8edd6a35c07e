//! What `model.toml` says about a model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::deepspeech2::DeepSpeech2Config;
use super::jasper::{JasperConfig, StridePadding};
use super::layer::HiddenLayer;
use super::norm::NormConfig;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::labels::Labels;

/// Everything about a model but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// For people: tables and logs show it.
    pub name: String,
    /// The features it was trained on; it meets no others.
    pub frontend: Frontend,
    /// The output alphabet.
    pub labels: Labels,
    /// Where the weights come from.
    #[serde(default)]
    pub provenance: Provenance,
    /// The network.
    pub architecture: Architecture,
}

/// The kind of network, with its settings; in TOML a table of the kind's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Jasper, Jasper Mini, QuartzNet.
    Jasper(JasperConfig),
    /// DeepSpeech 2 with LSTM cells.
    DeepSpeech2(DeepSpeech2Config),
}

/// Where a model's weights come from. No part of a model's identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// `preset NAME`, `import of FILE`, `training run NAME` ...
    pub origin: String,
    /// BLAKE3 of the imported file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_blake3: Option<String>,
    /// What the source cannot say and was therefore chosen, and anything else worth keeping.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl ModelConfig {
    /// # Errors
    /// Names the key whose value cannot work.
    pub fn validate(&self) -> Result<()> {
        let Labels { symbols, blank } = &self.labels;
        if *blank > symbols.len() {
            return Err(Error::invalid(format!(
                "labels.blank: expected 0 ..= {} (one logit per symbol and one for the blank), found {blank}",
                symbols.len()
            )));
        }
        for (index, symbol) in symbols.iter().enumerate() {
            if symbols[..index].contains(symbol) {
                return Err(Error::invalid(format!("labels.symbols: {symbol:?} occurs twice")));
            }
        }
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.shapes().map(|_| ()),
            Architecture::DeepSpeech2(network) => network.validate(),
        }
    }

    /// Feature bins of the input.
    pub fn feature_bins(&self) -> usize {
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.features,
            Architecture::DeepSpeech2(network) => network.features,
        }
    }

    /// Feature frames per output frame.
    pub fn stride(&self) -> usize {
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.stride(),
            Architecture::DeepSpeech2(network) => network.stride(),
        }
    }

    /// Width of the hidden states.
    pub fn hidden_width(&self) -> usize {
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.hidden_width(),
            Architecture::DeepSpeech2(network) => network.hidden,
        }
    }

    /// Width of the output of `layer`, which has as many frames as the logits.
    ///
    /// # Errors
    /// When there is no such layer, or a later one still drops frames.
    pub fn layer_width(&self, layer: HiddenLayer) -> Result<usize> {
        let HiddenLayer::Inner(number) = layer else { return Ok(self.hidden_width()) };
        let (name, widths) = self.inner_widths();
        let width = widths.get(number as usize).copied().flatten();
        width.ok_or_else(|| {
            let last = name == "blocks" && number as usize == widths.len();
            Error::mismatch(
                format!("layer of {}", self.name),
                self.hidden_layers(),
                number.to_string(),
                if last {
                    format!("{name}.{number} is the last layer: write \"last\" (every cache has it)")
                } else {
                    format!("a number K is that of {name}.K in `tutornet inspect`")
                },
            )
        })
    }

    /// Widths of the layers before the last, by number, and what they are called before it.
    fn inner_widths(&self) -> (&'static str, Vec<Option<usize>>) {
        match &self.architecture {
            Architecture::Jasper(jasper) => ("blocks", jasper.inner_widths()),
            Architecture::DeepSpeech2(network) => ("layers", network.inner_widths()),
        }
    }

    /// The layers that [`ModelConfig::layer_width`] knows, in words: `last, or 0 to 11 (blocks.0 to blocks.11)`.
    pub fn hidden_layers(&self) -> String {
        let (name, widths) = self.inner_widths();
        let known = widths.iter().enumerate().filter(|(_, width)| width.is_some());
        let known: Vec<usize> = known.map(|(number, _)| number).collect();
        match known[..] {
            [] => "last".to_owned(),
            [one] => format!("last, or {one} ({name}.{one})"),
            [first, .., end] => format!("last, or {first} to {end} ({name}.{first} to {name}.{end})"),
        }
    }

    /// Output frames of `frames` feature frames.
    pub fn output_frames(&self, frames: usize) -> usize {
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.output_frames(frames),
            Architecture::DeepSpeech2(network) => network.output_frames(frames),
        }
    }

    /// Settings of batch norm: the momentum and which frames enter its statistics.
    pub fn norm(&self) -> &NormConfig {
        match &self.architecture {
            Architecture::Jasper(jasper) => &jasper.norm,
            Architecture::DeepSpeech2(network) => &network.norm,
        }
    }

    /// The settings of batch norm, to be changed.
    pub fn norm_mut(&mut self) -> &mut NormConfig {
        match &mut self.architecture {
            Architecture::Jasper(jasper) => &mut jasper.norm,
            Architecture::DeepSpeech2(network) => &mut network.norm,
        }
    }

    /// Sets the probability of dropout wherever the architecture has a place for it: after every layer of
    /// Jasper, after every recurrent layer and the fully connected one of DeepSpeech 2.
    pub fn set_dropout(&mut self, probability: f64) {
        match &mut self.architecture {
            Architecture::Jasper(jasper) => {
                jasper.blocks.iter_mut().for_each(|block| block.dropout = probability);
            }
            Architecture::DeepSpeech2(network) => {
                network.rnn.dropout = probability;
                network.dropout = probability;
            }
        }
    }

    /// Where the zeros of a strided convolution lie.
    pub fn padding(&self) -> StridePadding {
        match &self.architecture {
            Architecture::Jasper(jasper) => jasper.padding,
            Architecture::DeepSpeech2(network) => network.padding,
        }
    }

    /// The same, to be changed.
    pub fn padding_mut(&mut self) -> &mut StridePadding {
        match &mut self.architecture {
            Architecture::Jasper(jasper) => &mut jasper.padding,
            Architecture::DeepSpeech2(network) => &mut network.padding,
        }
    }

    /// Share of a batch in the running statistics of batch norm.
    pub fn momentum(&self) -> f64 {
        self.norm().momentum
    }

    /// The same model with every layer's channels multiplied by `width`, rounded to a multiple of 8.
    ///
    /// # Errors
    /// When `width` is not a positive finite number.
    pub fn with_width(&self, width: f64) -> Result<Self> {
        let mut scaled = self.clone();
        if (width - 1.0).abs() > f64::EPSILON {
            scaled.name = format!("{}-x{width}", self.name);
        }
        scaled.architecture = match &self.architecture {
            Architecture::Jasper(jasper) => Architecture::Jasper(jasper.with_width(width)?),
            Architecture::DeepSpeech2(network) => Architecture::DeepSpeech2(network.with_width(width)?),
        };
        Ok(scaled)
    }
}
