//! Import of `.nemo` files: a tar (plain or gzip) of `model_config.yaml` and `model_weights.ckpt`.
//!
//! The architecture comes from the file's own configuration; what this program does not know is
//! refused by name. The checkpoint's pickle is parsed, never executed, and every tensor in it is
//! either used, or one of the known values that are no weights, or an error.
//!
//! NeMo sources: `core/connectors/save_restore_connector.py`, `collections/asr/modules/conv_asr.py`,
//! `collections/asr/parts/submodules/jasper.py`, `audio_preprocessing.py`.

mod architecture;
mod archive;
mod frontend;
mod names;
mod section;
pub(super) mod torch;

use std::path::Path;

use burn::tensor::Device;

use super::config::{Architecture, ModelConfig, Provenance};
use super::{Model, parameters};
use crate::error::{Error, Result};
use crate::features::NemoRule;
use crate::files;

/// What was read and what was checked besides.
#[derive(Debug)]
pub struct Imported {
    /// The model, on the CPU.
    pub model: Model,
    /// Sentences about values that are no weights: checked against this program, or ignored.
    pub notes: Vec<String>,
}

/// Reads a `.nemo` file. `rule` says what the file cannot: how NeMo's version counted frames and
/// padded the audio. `name` is the model's name, by default the file's.
///
/// # Errors
/// When the file is not a whole `.nemo` archive, or holds a setting or tensor that this program
/// does not know; named.
pub fn import(path: &Path, name: Option<&str>, rule: NemoRule) -> Result<Imported> {
    let archive = archive::open(path)?;
    let located = |e: Error| Error::format(path, e.to_string());
    let settings = section::parse(&archive.config).map_err(located)?;
    let mut notes = Vec::new();
    let (jasper, labels) = architecture::read(&settings, &mut notes).map_err(located)?;
    let frontend = frontend::read(&settings, rule, &mut notes).map_err(located)?;
    let stem = path.file_stem().map_or("imported".into(), |stem| stem.to_string_lossy());
    let config = ModelConfig {
        name: name.unwrap_or(&stem).to_owned(),
        frontend,
        labels,
        provenance: provenance(path, rule)?,
        architecture: Architecture::Jasper(jasper.clone()),
    };
    let network = Model::lazy(&config, &Device::flex()).map_err(located)?;
    let tensors = torch::read(archive.weights.path(), "model_weights.ckpt").map_err(located)?;
    let expected = parameters::shapes(&network).into_iter().map(|t| (t.name, t.shape)).collect();
    let tensors = names::translate(tensors, &jasper, &expected, &mut notes).map_err(located)?;
    let network = parameters::import(network, tensors).map_err(located)?;
    Ok(Imported { model: Model { config, network }, notes })
}

fn provenance(path: &Path, rule: NemoRule) -> Result<Provenance> {
    let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    // The names that the frontend has in model.toml.
    let chosen = serde_json::to_value(rule).map_err(|e| Error::format(path, e.to_string()))?;
    let options = chosen.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str()?;
        Some((key.clone(), value.to_owned()))
    });
    Ok(Provenance {
        origin: format!("import of {file}"),
        source_blake3: Some(files::blake3_file(path)?),
        options: options.collect(),
    })
}
