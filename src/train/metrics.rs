//! `metrics.jsonl`: one JSON object a line, written as the run goes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// A line of the log.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// One update.
    Step {
        /// Number of the stage.
        stage: usize,
        /// The stage's objective.
        objective: String,
        /// Updates since the start of the run.
        update: u64,
        /// Epoch within the stage, from 1.
        epoch: u64,
        /// The sum that was minimised, mean over the batch's utterances.
        loss: f64,
        /// Its parts by name, `ctc` and the teacher's term (`rkd`, `skd`, `kd`, `guided` or `sequence`) before
        /// lambda.
        #[serde(flatten)]
        parts: BTreeMap<&'static str, f64>,
        /// Global norm of the gradients before clipping.
        gradient_norm: f64,
        /// Learning rate of this update.
        learning_rate: f64,
        /// Whether the update was rejected because a number was not finite.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        rejected: bool,
    },
    /// The end of an epoch.
    Epoch {
        /// Number of the stage.
        stage: usize,
        /// The stage's objective.
        objective: String,
        /// Epoch within the stage, from 1.
        epoch: u64,
        /// Updates since the start of the run.
        update: u64,
        /// Mean loss of the epoch's accepted updates.
        loss: f64,
        /// Word error rate on the dev corpora, percent.
        #[serde(skip_serializing_if = "Option::is_none")]
        dev_wer: Option<f64>,
        /// Character error rate on the dev corpora, percent.
        #[serde(skip_serializing_if = "Option::is_none")]
        dev_cer: Option<f64>,
        /// Share of dev frames whose best label is the blank, percent.
        #[serde(skip_serializing_if = "Option::is_none")]
        dev_blank_rate: Option<f64>,
    },
    /// The end of the run.
    Done {
        /// Updates of the run.
        update: u64,
        /// Updates rejected because a number was not finite.
        rejected: u64,
        /// Where the student's weights come from.
        selected: String,
    },
}

/// Of the first `keep` bytes of a log; without a log, of none.
fn hash_of(path: &Path, keep: u64) -> Result<blake3::Hasher> {
    let mut hash = blake3::Hasher::new();
    if keep == 0 {
        return Ok(hash);
    }
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let found = std::io::copy(&mut file.take(keep), &mut hash).map_err(|e| Error::io("read", path, e))?;
    if found < keep {
        return Err(Error::format(path, format!("expected at least {keep} bytes, found {found}")));
    }
    Ok(hash)
}

/// Refuses a log that does not begin as it did when a checkpoint was written.
///
/// # Errors
/// With what differs.
pub fn require_prefix(path: &Path, bytes: u64, blake3: &str) -> Result<()> {
    let found = hash_of(path, bytes)?.finalize().to_hex();
    if found.as_str() == blake3 {
        return Ok(());
    }
    Err(Error::format(path, format!("its first {bytes} bytes: expected BLAKE3 {blake3}, found {found}")))
}

/// The open log.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: blake3::Hasher,
}

impl Metrics {
    /// Opens the log at `path` and cuts it to its first `keep` bytes: a resumed run repeats the
    /// updates after its checkpoint, and so their lines.
    ///
    /// # Errors
    /// When the file cannot be opened, or is shorter than `keep`.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        let hash = hash_of(path, keep)?;
        let file =
            File::options().create(true).append(true).open(path).map_err(|e| Error::io("open", path, e))?;
        file.set_len(keep).map_err(|e| Error::io("cut", path, e))?;
        Ok(Self { path: path.to_path_buf(), file, bytes: keep, hash })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_string(event).map_err(|e| Error::format(&self.path, e.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))?;
        self.bytes += line.len() as u64;
        self.hash.update(line.as_bytes());
        Ok(())
    }

    /// Bytes written so far; goes into checkpoints.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// BLAKE3 of them; goes there as well.
    pub fn blake3(&self) -> String {
        self.hash.finalize().to_hex().to_string()
    }

    /// Makes the lines so far survive a crash of the machine.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))
    }
}
