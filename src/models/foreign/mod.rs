//! Import of weights that come without a description: a PyTorch state dictionary (`torch.save`) or a safetensors file,
//! for a network that the user names.
//!
//! Every tensor of the file is used, or is one of those that are known to be no weights, or is an error; so is every
//! tensor of the network that the file lacks. See [`deepspeech2`] for the names.

mod deepspeech2;
mod file;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use super::config::{Architecture, ModelConfig, Provenance};
use super::nemo::Imported;
use super::{Model, parameters};
use crate::error::{Error, Result};
use crate::files;

/// Reads weights by name into the network of `config`, whose name becomes `name` or else the file's.
///
/// # Errors
/// When the file cannot be read, or its tensors are not those of the network; all of them are named.
pub fn import(path: &Path, mut config: ModelConfig, name: Option<&str>) -> Result<Imported> {
    let located = |e: Error| Error::format(path, e.to_string());
    let mut notes = Vec::new();
    let found = file::read(path).map_err(located)?;
    let tensors = match &mut config.architecture {
        Architecture::DeepSpeech2(network) => {
            network.validate().map_err(located)?;
            if deepspeech2::is_openseq2seq(&found) {
                deepspeech2::adapt(network, &mut config.frontend, &mut notes);
                deepspeech2::from_openseq2seq(found, network, &mut notes).map_err(located)?
            } else {
                deepspeech2::from_pytorch(found, network, &mut notes).map_err(located)?
            }
        }
        Architecture::Jasper(_) => {
            return Err(Error::invalid(format!(
                "{}: weights without a description are known for DeepSpeech 2 only; networks of the Jasper family come \
                 as .nemo files",
                path.display()
            )));
        }
    };
    let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    let stem = path.file_stem().map_or("imported".into(), |stem| stem.to_string_lossy());
    config.name = name.unwrap_or(&stem).to_owned();
    let network = format!("of the network of {}", config.provenance.origin);
    config.provenance = Provenance {
        origin: format!("import of {file}"),
        source_blake3: Some(files::blake3_file(path)?),
        options: BTreeMap::from([("network".to_owned(), network)]),
    };
    let network = Model::lazy(&config, &Device::flex()).map_err(located)?;
    let network = parameters::import(network, tensors).map_err(located)?;
    Ok(Imported { model: Model { config, network }, notes })
}
