//! Where utterances come from: trees of audio and transcripts, prepared once into Parquet shards.
//!
//! [`prep`] lists a LibriSpeech tree, decodes, normalises the transcripts, computes the features of
//! ONE [`Frontend`](crate::features::Frontend) and writes shards and a sealed `corpus.toml`.
//! [`Corpus`] reads them back; [`verify`] checks every byte. The columns are documented in
//! `schemas/corpus.md`.

mod audio;
mod librispeech;
mod manifest;
mod plan;
mod prep;
mod reason;
mod repair;
mod resample;
mod schema;
mod speed;
mod text;
mod verify;
mod work;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use audio::{Audio, decode_audio};
pub use librispeech::subsets;
pub use manifest::{MANIFEST, Manifest, ShardEntry, SkippedFile};
pub use prep::{Options, Outcome, SKIPPED, prep};
pub use reason::{Reason, Skipped};
pub use schema::VERSION;
pub use speed::{Speed, original};
pub use text::normalise_transcript;
pub use verify::{Description, describe, examine, verify};

use crate::error::{Error, Result};
use crate::features::{BINS, Frontend};
use crate::files;
use crate::shard::{self, Shard};
use crate::store::Ahead;

/// Utterances that `prep` puts into a shard, if nobody says otherwise.
pub const SHARD_UTTERANCES: usize = 256;

/// One row of a corpus without its features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// The utterance's id, unique in a corpus.
    pub id: String,
    /// Who speaks.
    pub speaker: String,
    /// The transcript in the 29 labels.
    pub text: String,
    /// Length at 16 kHz.
    pub samples: u64,
    /// First 16 bytes of the BLAKE3 of the decoded 16 kHz mono f32 little-endian samples.
    pub audio_hash: [u8; 16],
    /// Feature frames, 100 a second.
    pub frames: u32,
    /// Index of the shard.
    pub shard: u32,
    /// Row in the shard.
    pub row: u32,
}

/// A complete corpus, on disk or in a bucket. Shards are opened when a feature of theirs is first read.
#[derive(Debug)]
pub struct Corpus {
    dir: PathBuf,
    manifest: Manifest,
    identity: String,
    utterances: Vec<Utterance>,
    checksums: Vec<[u8; 16]>,
    ranges: Vec<Range<usize>>,
    shards: Vec<OnceLock<Shard>>,
}

impl Corpus {
    /// Opens a corpus: checks the seal of its manifest and reads the small columns of every shard.
    ///
    /// # Errors
    /// When the corpus is incomplete, a shard is missing or has another length than the manifest
    /// says, or a small column cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let (manifest, identity) = Manifest::read(dir)?;
        let mut corpus = Self {
            dir: dir.to_path_buf(),
            identity,
            utterances: Vec::new(),
            checksums: Vec::new(),
            ranges: Vec::new(),
            shards: manifest.shards.iter().map(|_| OnceLock::new()).collect(),
            manifest,
        };
        for index in 0..corpus.manifest.shards.len() {
            let (utterances, checksums) = read_small(&corpus.open_shard(index)?, index)?;
            let first = corpus.utterances.len();
            corpus.utterances.extend(utterances);
            corpus.checksums.extend(checksums);
            corpus.ranges.push(first..corpus.utterances.len());
        }
        Ok(corpus)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `corpus.toml` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// BLAKE3 of the body of `corpus.toml`, 64 hexadecimal digits. As it holds the BLAKE3 of every shard,
    /// it stands for every byte of the corpus.
    pub fn identity(&self) -> String {
        self.identity.clone()
    }

    /// Refuses features of another frontend than the one that the model `model` was trained on.
    ///
    /// # Errors
    /// With the `prep` line that makes the corpus the model needs.
    pub fn require_frontend(&self, wanted: &Frontend, model: &str) -> Result<()> {
        let Manifest { frontend: found, source, subsets, speeds, .. } = &self.manifest;
        if wanted == found {
            return Ok(());
        }
        let subsets: String = subsets.iter().map(|s| format!(" --subset {s}")).collect();
        let mut arguments = wanted.prep_arguments();
        if !speeds.is_empty() {
            arguments += &format!(" --speed {}", speed::list(speeds));
        }
        Err(Error::mismatch(
            format!("frontend of corpus {}", self.dir.display()),
            format!("`{}` (what model {model} takes)", wanted.prep_arguments()),
            format!("`{}`", found.prep_arguments()),
            format!(
                "prepare the corpus for this model: tutornet prep librispeech {source}{subsets} {arguments} --out DIR"
            ),
        ))
    }

    /// All utterances, shard by shard, row by row.
    pub fn utterances(&self) -> &[Utterance] {
        &self.utterances
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.ranges.len()
    }

    /// The indexes into [`Corpus::utterances`] of one shard; empty beyond the last.
    pub fn shard(&self, shard: usize) -> Range<usize> {
        self.ranges.get(shard).cloned().unwrap_or(0..0)
    }

    /// Reads the features of one utterance into `out`, `[frames, 64]` row-major; `out` is cleared first.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with shard and utterance when the bytes are not those that were written.
    pub fn features(&self, index: usize, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let utterance = self.utterances.get(index).ok_or_else(|| {
            Error::invalid(format!("{} holds {} utterances", self.dir.display(), self.utterances.len()))
        })?;
        let shard = self.mapped(utterance.shard as usize)?;
        read_features(shard, utterance, &self.checksums[index], |values| out.extend(files::f32s(values)))
    }

    /// Says that the features of utterances will be wanted soon: the system may start to read them. Those of a corpus in a
    /// bucket are fetched, all at once, and stay in memory until they are read or the result is dropped.
    ///
    /// # Errors
    /// When a shard cannot be opened.
    pub fn ahead(&self, indices: &[usize]) -> Result<Ahead> {
        let mut ahead = Ahead::default();
        let mut rows = vec![Vec::new(); self.shards.len()];
        for utterance in indices.iter().filter_map(|&index| self.utterances.get(index)) {
            rows[utterance.shard as usize].push(utterance.row as usize);
        }
        for (shard, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let payloads = rows.into_iter().map(|row| (schema::FEATURES, row));
            ahead.join(self.mapped(shard)?.ahead(payloads)?);
        }
        Ok(ahead)
    }

    fn mapped(&self, index: usize) -> Result<&Shard> {
        if let Some(shard) = self.shards[index].get() {
            return Ok(shard);
        }
        let shard = self.open_shard(index)?;
        Ok(self.shards[index].get_or_init(|| shard))
    }

    fn open_shard(&self, index: usize) -> Result<Shard> {
        open_listed(&self.dir, &self.manifest.shards[index])
    }
}

/// Opens a shard and compares its size and rows with the manifest.
fn open_listed(dir: &Path, entry: &ShardEntry) -> Result<Shard> {
    let path = dir.join(&entry.file);
    let size = files::size(&path)?.ok_or_else(|| Error::format(&path, "missing"))?;
    if size != entry.bytes {
        let detail =
            format!("expected {} bytes ({MANIFEST}), found {size}: truncated or replaced", entry.bytes);
        return Err(Error::format(path, detail));
    }
    let shard = Shard::open(&path)?;
    if shard.rows() as u64 != entry.rows {
        let detail = format!("expected {} utterances ({MANIFEST}), found {}", entry.rows, shard.rows());
        return Err(Error::format(path, detail));
    }
    Ok(shard)
}

/// The small columns of a shard: its utterances and the checksums of their features.
fn read_small(shard: &Shard, index: usize) -> Result<(Vec<Utterance>, Vec<[u8; 16]>)> {
    let path = shard.path();
    let number = |n: usize| {
        u32::try_from(n)
            .map_err(|_| Error::format(path, format!("{n} is too large for a shard or row number")))
    };
    let batch = shard.columns(&schema::SMALL)?;
    let ids = shard::strings(&batch, "utterance", path)?;
    let speakers = shard::strings(&batch, "speaker", path)?;
    let texts = shard::strings(&batch, "text", path)?;
    let samples = shard::u64s(&batch, "samples", path)?;
    let hashes = shard::hashes(&batch, "audio_hash", path)?;
    let frames = shard::u32s(&batch, "frames", path)?;
    let checksums = shard::hashes(&batch, "checksum", path)?;
    let mut utterances = Vec::with_capacity(ids.len());
    let rows = ids.into_iter().zip(speakers).zip(texts).enumerate();
    for (row, ((id, speaker), text)) in rows {
        utterances.push(Utterance {
            id,
            speaker,
            text,
            samples: samples[row],
            audio_hash: hashes[row],
            frames: frames[row],
            shard: number(index)?,
            row: number(row)?,
        });
    }
    Ok((utterances, checksums))
}

/// Hands the payload of one utterance, compared with its checksum, to `of`; what came out of a bucket damaged is read once
/// more.
fn read_features(
    shard: &Shard,
    utterance: &Utterance,
    checksum: &[u8; 16],
    mut of: impl FnMut(&[u8]),
) -> Result<()> {
    let payload = read_once(shard, utterance, checksum, &mut of);
    match &payload {
        Err(Error::Corrupt { .. }) if shard.forget(schema::FEATURES, utterance.row as usize) => {
            read_once(shard, utterance, checksum, &mut of)
        }
        _ => payload,
    }
}

fn read_once(
    shard: &Shard,
    utterance: &Utterance,
    checksum: &[u8; 16],
    of: &mut impl FnMut(&[u8]),
) -> Result<()> {
    let expected = utterance.frames as usize * BINS * 4;
    let checked = |payload: &[u8]| {
        if schema::checksum(payload) != *checksum {
            return Err("the bytes do not match their checksum".to_owned());
        }
        if payload.len() != expected {
            let (frames, found) = (utterance.frames, payload.len());
            return Err(format!("expected {expected} bytes for {frames} frames, found {found}"));
        }
        of(payload);
        Ok(())
    };
    let result = match shard.with_payload(schema::FEATURES, utterance.row as usize, checked) {
        Err(Error::Format { detail, .. }) => Err(detail),
        other => other?,
    };
    result.map_err(|detail| Error::Corrupt {
        path: shard.path().to_path_buf(),
        utterance: utterance.id.clone(),
        column: schema::FEATURES.to_owned(),
        detail,
    })
}

#[cfg(test)]
mod tests;
