//! What a run leaves behind so that it can go on: one safetensors file with everything in it.
//!
//! Weights, running statistics, the bridge, the optimiser's moments, the best weights so far and
//! the position in the data. A file is whole or absent, and carries the hash of its tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::metrics;
use crate::error::{Error, Result};
use crate::files;
use crate::models::parameters::HostTensor;
use crate::shard::Problem;

/// Where a run stands: after this many updates and batches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Number of the stage that goes on.
    pub stage: usize,
    /// Epoch of that stage.
    pub epoch: u64,
    /// Batches of that epoch already used.
    pub batch: usize,
    /// Updates of that stage.
    pub stage_update: u64,
    /// Updates of the run.
    pub update: u64,
    /// Updates rejected because a number was not finite.
    pub rejected: u64,
    /// Rejected updates in a row.
    pub rejected_in_a_row: u32,
    /// Sum and number of the accepted losses of the epoch, for its mean.
    pub epoch_loss: (f64, u64),
    /// Length of metrics.jsonl.
    pub metrics_bytes: u64,
    /// BLAKE3 of that much of it.
    pub metrics_blake3: String,
    /// The best dev score so far and where it was reached.
    pub best: Option<Best>,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Word error rate, percent.
    pub wer: f64,
    /// Character error rate, percent.
    pub cer: f64,
    /// Epoch of the last stage.
    pub epoch: u64,
    /// Updates of the run.
    pub update: u64,
}

/// Everything a run needs to go on.
#[derive(Debug, Default)]
pub struct State {
    /// Where the run stands.
    pub position: Position,
    /// Updates that the optimiser has taken.
    pub optimizer_updates: u64,
    /// Tensors by group and name: `model.`, `bridge.`, `optimizer.`, `best.`.
    pub tensors: BTreeMap<String, HostTensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    optimizer_updates: u64,
    blake3: String,
    position: Position,
}

/// Format of the file.
const VERSION: u32 = 3;
/// Key of the header in the safetensors metadata. It is TOML, which gives every f64 back to the last bit;
/// serde_json, as burn builds it, does not.
const KEY: &str = "tutornet.checkpoint";
const SUFFIX: &str = ".safetensors";

impl State {
    /// Adds a group of tensors.
    pub fn put(&mut self, group: &str, tensors: BTreeMap<String, HostTensor>) {
        self.tensors.extend(tensors.into_iter().map(|(name, tensor)| (format!("{group}.{name}"), tensor)));
    }

    /// Takes a group of tensors out.
    pub fn take(&mut self, group: &str) -> BTreeMap<String, HostTensor> {
        let prefix = format!("{group}.");
        let all = std::mem::take(&mut self.tensors);
        let (taken, left): (BTreeMap<_, _>, _) = all.into_iter().partition(|(k, _)| k.starts_with(&prefix));
        self.tensors = left;
        taken.into_iter().map(|(k, v)| (k[prefix.len()..].to_owned(), v)).collect()
    }

    /// Writes the state as the newest checkpoint in `directory` and removes all but `keep`.
    ///
    /// # Errors
    /// When the disk is full; the older checkpoints are then still there.
    pub fn save(&self, directory: &Path, keep: usize) -> Result<PathBuf> {
        files::create_dir(directory)?;
        let path = directory.join(format!("update-{:09}{SUFFIX}", self.position.update));
        let invalid = |e: safetensors::SafeTensorError| Error::format(&path, e.to_string());
        let mut views = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            let bytes: &[u8] = bytemuck::cast_slice(&tensor.values);
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(invalid)?;
            views.insert(name.clone(), view);
        }
        let header = Header {
            version: VERSION,
            position: self.position.clone(),
            optimizer_updates: self.optimizer_updates,
            blake3: hash(&self.position, self.optimizer_updates, &self.tensors)?,
        };
        let header = toml::to_string(&header).map_err(|e| Error::format(&path, e.to_string()))?;
        let metadata = std::collections::HashMap::from([(KEY.to_owned(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
        files::write(&path, &bytes)?;
        // Later ones can only be damaged files that a resumed run passed over.
        let (later, mine): (Vec<_>, Vec<_>) = list(directory)?.into_iter().partition(|p| *p > path);
        for old in later.iter().chain(mine.iter().rev().skip(keep)) {
            std::fs::remove_file(old).map_err(|e| Error::io("remove", old, e))?;
        }
        Ok(path)
    }

    /// Reads one checkpoint.
    ///
    /// # Errors
    /// When the file is damaged or of another format.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let invalid = |detail: String| Error::format(path, format!("not a whole checkpoint: {detail}"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(e.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = header.ok_or_else(|| invalid(format!("expected the key {KEY}, found none")))?;
        let header: Header = toml::from_str(header).map_err(|e| invalid(e.to_string()))?;
        if header.version != VERSION {
            return Err(invalid(format!("expected version {VERSION}, found {}", header.version)));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|e| invalid(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(invalid(format!("tensor {name}: expected F32, found {:?}", view.dtype())));
            }
            let values = files::f32s(view.data()).collect();
            let tensor = HostTensor { shape: view.shape().to_vec(), values, trainable: false };
            tensors.insert(name.clone(), tensor);
        }
        let found = hash(&header.position, header.optimizer_updates, &tensors)?;
        if header.blake3 != found {
            return Err(invalid(format!("expected BLAKE3 {}, found {found}", header.blake3)));
        }
        Ok(Self { position: header.position, optimizer_updates: header.optimizer_updates, tensors })
    }

    /// The newest whole checkpoint of a directory that fits the log at `metrics`; others are passed over with
    /// a warning.
    ///
    /// # Errors
    /// When the directory cannot be listed, or there are whole checkpoints and the log fits none of them.
    pub fn newest(directory: &Path, metrics: &Path) -> Result<Option<Self>> {
        let mut unfit = None;
        for path in list(directory)?.into_iter().rev() {
            let state = Self::load(&path);
            let fits = |s: &Self| {
                metrics::require_prefix(metrics, s.position.metrics_bytes, &s.position.metrics_blake3)
            };
            match state.map(|state| (fits(&state), state)) {
                Ok((Ok(()), state)) => return Ok(Some(state)),
                Ok((Err(error), _)) => {
                    tracing::warn!("passed over {}: {error}", path.display());
                    unfit = Some(error);
                }
                Err(error) => tracing::warn!("passed over a checkpoint: {error}"),
            }
        }
        match unfit {
            None => Ok(None),
            Some(error) => Err(Error::invalid(format!(
                "{error}; no checkpoint in {} fits the log: put the log back, or start again into another --out",
                directory.display()
            ))),
        }
    }
}

/// Reads every checkpoint of a directory and lists those that are not as they were written.
///
/// # Errors
/// When the directory cannot be listed.
pub fn verify(directory: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for path in list(directory)? {
        if let Err(error) = State::load(&path) {
            problems.push(Problem::file(path, error.to_string()));
        }
    }
    Ok(problems)
}

/// Paths of the checkpoints, oldest first.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", directory, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("update-") && name.ends_with(SUFFIX) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// BLAKE3 over everything that a checkpoint says.
fn hash(position: &Position, updates: u64, tensors: &BTreeMap<String, HostTensor>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let position = toml::to_string(position).map_err(|e| Error::invalid(e.to_string()))?;
    hasher.update(position.as_bytes());
    hasher.update(&updates.to_le_bytes());
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        for size in &tensor.shape {
            hasher.update(&(*size as u64).to_le_bytes());
        }
        hasher.update(bytemuck::cast_slice(&tensor.values));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(update: u64) -> State {
        let tensor = HostTensor {
            shape: vec![2, 2],
            values: vec![1.0, -0.0, f32::MIN_POSITIVE, 3.5],
            trainable: true,
        };
        let mut state = State::default();
        state.position.update = update;
        state.position.metrics_blake3 = blake3::hash(b"").to_hex().to_string();
        state.put("model", BTreeMap::from([("a.weight".to_owned(), tensor.clone())]));
        state.put("best", BTreeMap::from([("a.weight".to_owned(), tensor)]));
        state
    }

    proptest::proptest! {
        #[test]
        fn a_position_comes_back_to_the_last_bit(sum in 0f64..1e9, wer in 0f64..100.0, count: u32) {
            let mut state = state(7);
            state.position.epoch_loss = (sum, count.into());
            state.position.best = Some(Best { wer, cer: sum.sqrt(), epoch: 1, update: 2 });
            let dir = tempfile::tempdir().unwrap();
            let found = State::load(&state.save(dir.path(), 1).unwrap()).unwrap();
            proptest::prop_assert_eq!(found.position, state.position);
        }
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("metrics.jsonl");
        for update in [1, 20, 300] {
            state(update).save(dir.path(), 2).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap().len(), 2);
        let mut newest = State::newest(dir.path(), &log).unwrap().unwrap();
        assert_eq!(newest.position.update, 300);
        let model = newest.take("model");
        assert_eq!(model["a.weight"].values[2].to_bits(), f32::MIN_POSITIVE.to_bits());
        assert!(newest.take("model").is_empty() && newest.take("best").len() == 1);

        // Every flipped byte of the newest is noticed; the one before it is then used.
        let path = list(dir.path()).unwrap().pop().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in (whole.len() - 32)..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(State::load(&path).is_err(), "byte {at}");
        }
        assert_eq!(State::newest(dir.path(), &log).unwrap().unwrap().position.update, 20);
        let problems = verify(dir.path()).unwrap();
        assert!(problems.len() == 1 && problems[0].path == path, "{problems:?}");

        // The position is covered by the hash as well, and a damaged later file gives way to a new one.
        let header = whole.windows(16).position(|w| w == br"\nupdate = 300\n").unwrap();
        let mut bytes = whole.clone();
        bytes[header + 13] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(State::load(&path).is_err());
        state(21).save(dir.path(), 1).unwrap();
        assert_eq!(State::newest(dir.path(), &log).unwrap().unwrap().position.update, 21);
    }
}
