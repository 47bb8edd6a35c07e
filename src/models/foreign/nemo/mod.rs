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
mod buffers;
mod frontend;
mod section;

use std::path::Path;

use burn::tensor::Device;

pub(super) use self::buffers::check_buffers;
use super::file::torch;
use super::jasper::{self, Names};
use super::{Imported, provenance, stem};
use crate::error::{Error, Result};
use crate::features::NemoRule;
use crate::models::config::{Architecture, ModelConfig};
use crate::models::{Model, parameters};

/// Reads a `.nemo` file. `rule` says what the file cannot: how NeMo's version counted frames and
/// padded the audio. `name` is the model's name, by default the file's.
///
/// # Errors
/// When the file is not a whole `.nemo` archive, or holds a setting or tensor that this program
/// does not know; named.
pub(super) fn import(path: &Path, name: Option<&str>, rule: NemoRule) -> Result<Imported> {
    let archive = archive::open(path)?;
    let located = |e: Error| Error::format(path, e.to_string());
    let settings = section::parse(&archive.config).map_err(located)?;
    let mut notes = Vec::new();
    let (network, labels) = architecture::read(&settings, &mut notes).map_err(located)?;
    let frontend = frontend::read(&settings, rule, &mut notes).map_err(located)?;
    // The names that the rule's parts have in model.toml.
    let chosen = serde_json::to_value(rule).map_err(|e| Error::format(path, e.to_string()))?;
    let chosen = chosen.as_object().into_iter().flatten();
    let chosen = chosen.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let config = ModelConfig {
        name: name.map_or_else(|| stem(path), ToOwned::to_owned),
        frontend,
        labels,
        provenance: provenance(path, chosen)?,
        architecture: Architecture::Jasper(network.clone()),
    };
    let mut found = torch::plain(archive.weights.path(), "model_weights.ckpt").map_err(located)?;
    check_buffers(&mut found, &mut notes).map_err(located)?;
    let tensors = jasper::translate(found, Names::Nemo, &network, config.labels.count(), &mut notes)
        .map_err(|e| located(Error::invalid(format!("model_weights.ckpt and model_config.yaml: {e}"))))?;
    let network = Model::lazy(&config, &Device::flex()).map_err(located)?;
    let network = parameters::import(network, tensors).map_err(located)?;
    Ok(Imported { model: Model { config, network }, notes })
}
