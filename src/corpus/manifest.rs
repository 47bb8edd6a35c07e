//! `corpus.toml`: what a corpus is made of; written last and sealed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::schema::VERSION;
use super::speed::Speed;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::files;
use crate::store;

/// Name of the manifest in a corpus directory.
pub const MANIFEST: &str = "corpus.toml";

/// The sealed description of a complete corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `corpus`.
    pub kind: String,
    /// Version of the schema of the shards and of this file.
    pub version: u32,
    /// Where the audio came from, as the user wrote it.
    pub source: String,
    /// Subsets of the source, sorted.
    pub subsets: Vec<String>,
    /// Speeds of the copies that follow every utterance, sorted; absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speeds: Vec<Speed>,
    /// Utterances planned per shard; those left out make a shard smaller.
    pub shard_utterances: usize,
    /// BLAKE3 over ids, files, sizes and transcripts of the input.
    pub input: String,
    /// Utterances in all shards.
    pub utterances: u64,
    /// 16 kHz samples in all shards.
    pub samples: u64,
    /// The same in hours, rounded to six places.
    pub hours: f64,
    /// Different speakers.
    pub speakers: usize,
    /// The feature chain.
    pub frontend: Frontend,
    /// What was left out.
    pub skipped: SkippedFile,
    /// The shards in order.
    #[serde(default)]
    pub shards: Vec<ShardEntry>,
}

/// The list of utterances left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedFile {
    /// Its name.
    pub file: String,
    /// Lines.
    pub utterances: usize,
    /// BLAKE3 of the file.
    pub blake3: String,
}

/// One shard of a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Its name in the corpus directory.
    pub file: String,
    /// Utterances.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
}

impl Manifest {
    /// Reads a sealed manifest; the second value is the BLAKE3 of its body.
    ///
    /// # Errors
    /// When it is missing (the corpus is not complete), changed after it was sealed, or of another version.
    pub fn read(dir: &Path) -> Result<(Self, String)> {
        let path = dir.join(MANIFEST);
        if !store::exists(&path)? {
            let detail = if store::is_remote(dir) {
                "there is no corpus.toml: the upload is not complete (corpus.toml goes last), or it is another place"
            } else if files::kind_of(dir) == Some("a model") {
                "is a model and no corpus: are --model and --corpus swapped?"
            } else if dir.join(super::plan::PROGRESS).is_dir() {
                "is not complete: run the same `tutornet prep` again, it goes on where it stopped"
            } else if dir.is_dir() {
                "is no corpus: it holds no corpus.toml; make one with `tutornet prep`"
            } else {
                "no such directory; make a corpus with `tutornet prep`"
            };
            return Err(Error::invalid(format!("corpus {}: {detail}", dir.display())));
        }
        let body = files::read_sealed(&path)?;
        let version = toml::from_str::<Versioned>(&body).map_err(|e| Error::format(&path, e.to_string()))?;
        if version.kind != "corpus" || version.version != VERSION {
            let found = format!("{} version {}", version.kind, version.version);
            let hint = "prepare the corpus again with this program, or use the program that made it";
            return Err(Error::mismatch(
                path.display().to_string(),
                format!("corpus version {VERSION}"),
                found,
                hint,
            ));
        }
        let manifest = toml::from_str(&body).map_err(|e| Error::format(&path, e.to_string()))?;
        Ok((manifest, blake3::hash(body.as_bytes()).to_hex().to_string()))
    }

    /// Writes the sealed manifest.
    ///
    /// # Errors
    /// When the directory does not take it.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let text = toml::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write_sealed(&path, &text)
    }
}

/// The part that every version has.
#[derive(Deserialize)]
struct Versioned {
    kind: String,
    version: u32,
}
