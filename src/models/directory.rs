//! A model on disk: `model.toml` and `weights.safetensors`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::Model;
use super::config::{Architecture, ModelConfig, Provenance};
use super::{parameters, weights};
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::files;
use crate::labels::Labels;

/// The text file of a model directory.
pub const MODEL_FILE: &str = "model.toml";
/// The weights of a model directory.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// Version of the format of `model.toml`.
const VERSION: u32 = 1;

/// `model.toml`: [`ModelConfig`] with what only the file has. Written out, because serde cannot
/// refuse unknown keys around a flattened struct.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    version: u32,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_blake3: Option<String>,
    frontend: Frontend,
    labels: Labels,
    #[serde(default)]
    provenance: Provenance,
    architecture: Architecture,
}

impl ModelFile {
    fn new(config: ModelConfig, weights_blake3: Option<String>) -> Self {
        let ModelConfig { name, frontend, labels, provenance, architecture } = config;
        Self { version: VERSION, name, weights_blake3, frontend, labels, provenance, architecture }
    }

    fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: Option<u32>,
            stage: Option<toml::Value>,
        }
        let text = files::read_maybe_sealed(path)?;
        let wrong = |e: toml::de::Error| Error::format(path, format!("not a usable model description: {e}"));
        // The version first: another one explains unknown keys.
        let Version { version, stage } = toml::from_str(&text).map_err(wrong)?;
        if version.is_none() && stage.is_some() {
            let detail = "expected the description of a model, found a pipeline; `tutornet train` runs it";
            return Err(Error::format(path, detail));
        }
        match version {
            Some(VERSION) => {}
            found => {
                return Err(Error::format(
                    path,
                    format!(
                        "version: expected {VERSION}, found {}; it was written by another version of tutornet",
                        found.map_or("none".to_owned(), |v| v.to_string())
                    ),
                ));
            }
        }
        let file: Self = toml::from_str(&text).map_err(wrong)?;
        file.config().validate().map_err(|e| Error::format(path, e.to_string()))?;
        Ok(file)
    }

    fn config(&self) -> ModelConfig {
        ModelConfig {
            name: self.name.clone(),
            frontend: self.frontend,
            labels: self.labels.clone(),
            provenance: self.provenance.clone(),
            architecture: self.architecture.clone(),
        }
    }

    fn text(&self, path: &Path) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::format(path, format!("cannot be written as TOML: {e}")))
    }
}

/// `model.toml` of a directory, or the file itself.
fn model_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(MODEL_FILE) } else { path.to_path_buf() }
}

impl ModelConfig {
    /// A description by what a user writes: a model directory, a `model.toml` of any name, or a preset.
    ///
    /// # Errors
    /// When it is neither, or names a key that cannot be used.
    pub fn find(what: &str) -> Result<Self> {
        let path = Path::new(what);
        if path.exists() {
            return Self::read(path);
        }
        super::presets::find(what)
            .map_err(|e| Error::invalid(format!("there is no file or directory {what}, and {e}")))
    }

    /// The text of a `model.toml` that describes this network, without weights.
    ///
    /// # Errors
    /// When a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        ModelFile::new(self.clone(), None).text(Path::new(MODEL_FILE))
    }

    /// Reads a model directory's `model.toml`, or one that stands alone (a student to be trained).
    ///
    /// # Errors
    /// With the file and the key that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let file = model_file(path);
        if !file.exists() {
            return Err(absent(path));
        }
        ModelFile::read(&file).map(|file| file.config())
    }
}

impl Model {
    /// Reads a model directory; the weights are checked against their BLAKE3 in `model.toml`.
    ///
    /// # Errors
    /// When a file is missing or was changed, or tensors do not fit the architecture.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let text = dir.join(MODEL_FILE);
        if !text.is_file() {
            return Err(absent(dir));
        }
        let file = ModelFile::read(&text)?;
        let weights = dir.join(WEIGHTS_FILE);
        let (tensors, hash) = match weights::read(&weights) {
            Ok(read) => read,
            // Another file than the one that model.toml names says more than what is wrong in it.
            Err(error) => {
                checked_hash(&file, &text, &weights, &files::blake3_file(&weights)?)?;
                return Err(error);
            }
        };
        checked_hash(&file, &text, &weights, &hash)?;
        let config = file.config();
        let network = Self::lazy(&config, device)?;
        let network =
            parameters::import(network, tensors).map_err(|e| Error::format(&weights, e.to_string()))?;
        Ok(Self { config, network })
    }

    /// Writes the model directory, creating it if need be. The same model gives the same bytes. Both
    /// files are on the disk before the first takes its name, `model.toml` comes last: until it is
    /// there, or with weights that it does not know, the directory does not load.
    ///
    /// # Errors
    /// When the disk is full or the directory cannot be written; an earlier model is then still there.
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::create_dir(dir)?;
        files::sweep(dir)?;
        let (weights, text) = (dir.join(WEIGHTS_FILE), dir.join(MODEL_FILE));
        let (weights, hash) = files::prepare_with(&weights, |out| {
            weights::write(&weights, &parameters::handles(&self.network), out)
        })?;
        let file = ModelFile::new(self.config.clone(), Some(hash)).text(&text)?;
        let text = files::prepare(&text, files::seal(&file).as_bytes())?;
        weights.commit()?;
        text.commit()
    }

    /// BLAKE3 over what the model computes: its weights, architecture, labels and frontend; its
    /// name and provenance are left out. Caches carry it as the teacher's hash. Equal to
    /// [`identity`] of the directory that [`Model::save`] writes.
    ///
    /// # Errors
    /// When the device cannot deliver the weights.
    pub fn identity(&self) -> Result<String> {
        let path = Path::new(WEIGHTS_FILE);
        let hash = weights::write(path, &parameters::handles(&self.network), &mut std::io::sink())?;
        hash_of(&self.config, &hash)
    }
}

/// There is no model; a run has one inside.
fn absent(path: &Path) -> Error {
    let student = path.join("student");
    let detail = if student.join(MODEL_FILE).is_file() {
        format!("not a model directory but a run; its model is {}", student.display())
    } else if let Some(kind) = files::kind_of(path) {
        let swapped = if kind == "a corpus" { ": are --model and --corpus swapped?" } else { "" };
        format!("expected a model directory, found {kind}{swapped}")
    } else if path.exists() {
        format!("not a model directory: there is no {MODEL_FILE} in it")
    } else if path.to_str().is_some_and(|name| super::presets::NAMES.contains(&name)) {
        "expected a model directory, found the name of a preset, which has no weights: `tutornet import` and `tutornet train` make \
         models"
            .to_owned()
    } else {
        "expected a model directory, found nothing: there is no such directory".to_owned()
    };
    Error::format(path, detail)
}

/// The identity of the model in `dir` (see [`Model::identity`]); the weights are read and checked.
///
/// # Errors
/// When a file is missing or was changed.
pub fn identity(dir: &Path) -> Result<String> {
    let text = dir.join(MODEL_FILE);
    let file = ModelFile::read(&text)?;
    let weights = dir.join(WEIGHTS_FILE);
    let hash = files::blake3_file(&weights)?;
    checked_hash(&file, &text, &weights, &hash)?;
    hash_of(&file.config(), &hash)
}

fn hash_of(config: &ModelConfig, weights: &str) -> Result<String> {
    let mut computing = config.clone();
    computing.name.clear();
    computing.provenance = Provenance::default();
    let text = ModelFile::new(computing, Some(weights.to_owned())).text(Path::new(MODEL_FILE))?;
    Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
}

fn checked_hash(file: &ModelFile, text: &Path, weights: &Path, found: &str) -> Result<()> {
    let expected = file.weights_blake3.as_deref().ok_or_else(|| {
        Error::format(
            text,
            "weights_blake3: missing; a model with weights has it, `tutornet train` and `import` write it",
        )
    })?;
    if expected == found {
        return Ok(());
    }
    Err(Error::format(
        weights,
        format!(
            "the weights are not those that {} was written for: expected BLAKE3 {expected}, found {found}; \
             import or copy the model again",
            text.display()
        ),
    ))
}
