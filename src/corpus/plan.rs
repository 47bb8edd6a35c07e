//! What a run of `prep` is going to do, and which shards a run before it has finished.
//!
//! While a corpus is being made, its directory holds `.prep/`: `plan.toml` (sealed: the arguments)
//! and one sealed `NNNNN.toml` per finished shard. A record counts only if the shard's input is
//! provably what it was: ids, transcripts, and size, modification and change time of every audio
//! file; and if the shard's bytes have the recorded BLAKE3. The directory goes when the corpus is
//! complete, so nothing of the machine stays.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::librispeech::{self, Found, Listing};
use super::manifest::ShardEntry;
use super::reason::Skipped;
use super::speed::{self, Speed};
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::files;
use crate::labels::Labels;

/// The directory of an unfinished run.
pub(super) const PROGRESS: &str = ".prep";

/// The arguments that decide the bytes of a corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub version: u32,
    pub source: String,
    pub subsets: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speeds: Vec<Speed>,
    pub shard_utterances: usize,
    pub frontend: Frontend,
}

impl Settings {
    /// Everything that is to be prepared from `root`, copies included.
    pub fn list(&self, root: &Path) -> Result<Listing> {
        let listing = librispeech::list(root, &self.subsets, &Labels::english())?;
        speed::with_copies(listing, &self.speeds)
    }

    /// Refuses to mix two corpora in one directory. Where the audio lies does not make another corpus
    /// (a tree may be moved, a path written in another way): that is for the input itself to tell.
    pub fn must_match(&self, begun: &Self, dir: &Path) -> Result<()> {
        let show = |s: &Self| {
            let subsets: Vec<String> = s.subsets.iter().map(|n| format!("--subset {n}")).collect();
            let speeds = match s.speeds.as_slice() {
                [] => String::new(),
                speeds => format!(" --speed {}", speed::list(speeds)),
            };
            format!(
                "{}{speeds} --shard-utterances {} {} (schema version {})",
                subsets.join(" "),
                s.shard_utterances,
                s.frontend.prep_arguments(),
                s.version
            )
        };
        if (Self { source: begun.source.clone(), ..self.clone() }) == *begun {
            return Ok(());
        }
        Err(Error::mismatch(
            format!("{} was begun with other arguments", dir.display()),
            show(begun),
            show(self),
            "give another --out, or remove that directory first",
        ))
    }
}

/// What a finished shard has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finished {
    /// [`stamp`] of the input.
    pub input: String,
    pub samples: u64,
    pub without_md5: u64,
    pub speakers: Vec<String>,
    /// Absent when every utterance of the shard was left out.
    pub shard: Option<ShardEntry>,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

impl Finished {
    fn path(dir: &Path, shard: usize) -> PathBuf {
        dir.join(PROGRESS).join(format!("{shard:05}.toml"))
    }

    /// Records that a shard is complete on disk.
    pub fn write(&self, dir: &Path, shard: usize) -> Result<()> {
        let path = Self::path(dir, shard);
        let text = toml::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write_sealed(&path, &text)
    }

    /// The record of a shard, if it is valid for this input and the shard's bytes are those recorded.
    pub fn read(dir: &Path, shard: usize, input: &str) -> Option<Self> {
        let text = files::read_sealed(&Self::path(dir, shard)).ok()?;
        let record: Self = toml::from_str(&text).ok()?;
        let whole = record.shard.as_ref().is_none_or(|entry| {
            files::blake3_file(&dir.join(&entry.file)).is_ok_and(|hash| hash == entry.blake3)
        });
        (record.input == input && whole).then_some(record)
    }
}

/// Opens `.prep/` for these settings, or finds that an unfinished run has others.
pub(super) fn open(dir: &Path, settings: &Settings) -> Result<()> {
    let progress = dir.join(PROGRESS);
    let path = progress.join("plan.toml");
    if path.is_file() {
        match files::read_sealed(&path) {
            Ok(text) => {
                let begun: Settings =
                    toml::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
                settings.must_match(&begun, dir)?;
            }
            Err(error) => {
                // What the records beside it were made for is not known any more.
                tracing::warn!("{error}; every shard is prepared again");
                close(dir)?;
            }
        }
    }
    files::create_dir(&progress)?;
    files::sweep(&progress)?;
    let text = toml::to_string(settings).map_err(|e| Error::format(&path, e.to_string()))?;
    files::write_sealed(&path, &text)
}

/// Ends the run: removes `.prep/`.
pub(super) fn close(dir: &Path) -> Result<()> {
    let path = dir.join(PROGRESS);
    match std::fs::remove_dir_all(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Feeds length and bytes, so that fields cannot run into each other.
fn feed(hasher: &mut blake3::Hasher, field: &[u8]) {
    hasher.update(&(field.len() as u64).to_le_bytes());
    hasher.update(field);
}

/// BLAKE3 over what is to be prepared, for the sealed manifest: nothing of it depends on the machine.
pub(super) fn input_hash(root: &Path, found: &[Found]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for utterance in found {
        let path = root.join(&utterance.file);
        let size = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?.len();
        feed(&mut hasher, utterance.id.as_bytes());
        feed(&mut hasher, utterance.file.as_os_str().as_encoded_bytes());
        feed(&mut hasher, utterance.text.as_bytes());
        hasher.update(&size.to_le_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The same for one shard with the times of its files and the version of this program: equal stamps
/// mean untouched files that would give the same bytes again.
pub(super) fn stamp(root: &Path, found: &[Found]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(input_hash(root, found)?.as_bytes());
    for utterance in found {
        let path = root.join(&utterance.file);
        let file = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
        for time in [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()] {
            hasher.update(&time.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
