//! What a corpus holds, and whether every byte is as it was written.

use std::path::Path;

use serde::Serialize;

use super::{MANIFEST, Manifest, ShardEntry, Speed, open_listed, read_features, read_small, schema};
use crate::error::{Error, Result};
use crate::features::{BINS, Frontend};
use crate::files;
use crate::shard::{FileReport, Problem, check_all};

/// A corpus in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Always `corpus`.
    pub kind: &'static str,
    /// Version of the schema.
    pub version: u32,
    /// BLAKE3 of the body of `corpus.toml`.
    pub identity: String,
    /// Where the audio came from.
    pub source: String,
    /// Subsets of the source.
    pub subsets: Vec<String>,
    /// Speeds of the copies that follow every utterance.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speeds: Vec<Speed>,
    /// The feature chain.
    pub frontend: Frontend,
    /// Values a frame.
    pub bins: usize,
    /// Utterances.
    pub utterances: u64,
    /// Different speakers.
    pub speakers: usize,
    /// Hours of audio.
    pub hours: f64,
    /// 16 kHz samples.
    pub samples: u64,
    /// Feature frames, 100 a second.
    pub frames: u64,
    /// Shortest and longest utterance, seconds.
    pub seconds: [f64; 2],
    /// Words of the transcripts.
    pub words: u64,
    /// Characters of the transcripts, spaces included.
    pub characters: u64,
    /// Utterances left out.
    pub skipped: usize,
    /// Shards.
    pub shards: usize,
    /// Size of the shards.
    pub bytes: u64,
    /// Compressed bytes of the features over frames.
    pub bytes_per_frame: f64,
}

/// Describes a corpus from its manifest and small columns; payloads are not read.
///
/// # Errors
/// As [`super::Corpus::open`].
pub fn describe(dir: &Path) -> Result<Description> {
    let corpus = super::Corpus::open(dir)?;
    let manifest = corpus.manifest();
    let utterances = corpus.utterances();
    let mut compressed = 0;
    for entry in &manifest.shards {
        compressed += open_listed(dir, entry)?.compressed_bytes(schema::FEATURES)?;
    }
    let frames: u64 = utterances.iter().map(|u| u64::from(u.frames)).sum();
    let lengths = utterances.iter().map(|u| u.samples);
    let seconds = [lengths.clone().min(), lengths.max()]
        .map(|samples| samples.unwrap_or(0) as f64 / f64::from(crate::features::SAMPLE_RATE));
    Ok(Description {
        kind: "corpus",
        version: manifest.version,
        identity: corpus.identity(),
        source: manifest.source.clone(),
        subsets: manifest.subsets.clone(),
        speeds: manifest.speeds.clone(),
        frontend: manifest.frontend,
        bins: BINS,
        utterances: manifest.utterances,
        speakers: manifest.speakers,
        hours: manifest.hours,
        samples: manifest.samples,
        frames,
        seconds,
        words: utterances.iter().map(|u| u.text.split(' ').count() as u64).sum(),
        characters: utterances.iter().map(|u| u.text.chars().count() as u64).sum(),
        skipped: manifest.skipped.utterances,
        shards: manifest.shards.len(),
        bytes: manifest.shards.iter().map(|s| s.bytes).sum(),
        bytes_per_frame: compressed as f64 / frames.max(1) as f64,
    })
}

/// Reads every byte of a corpus and lists what is not as it was written; see [`examine`].
///
/// # Errors
/// When `dir` holds no complete corpus of a version that can be read; damage is no error here.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Problem>> {
    Ok(examine(dir, progress)?.into_iter().flat_map(|report| report.problems).collect())
}

/// Reads every byte of a corpus and says of every file how it was found: the seal of the manifest, the BLAKE3 of every
/// file, the checksum of every payload. Shards are read on all cores; `progress` is told bytes done and in all.
///
/// # Errors
/// When `dir` holds no complete corpus of a version that can be read; damage is no error here.
pub fn examine(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<FileReport>> {
    let manifest = match Manifest::read(dir) {
        Ok((manifest, _)) => manifest,
        // Without the manifest nothing else can be trusted.
        Err(e @ Error::Format { .. }) => {
            return Ok(vec![FileReport::new(dir, MANIFEST, vec![Problem::of(dir.join(MANIFEST), &e)])]);
        }
        Err(e) => return Err(e),
    };
    let skipped = &manifest.skipped;
    let mut problems = Vec::new();
    hash(&dir.join(&skipped.file), &skipped.blake3, &mut problems);
    let mut reports =
        vec![FileReport::new(dir, MANIFEST, Vec::new()), FileReport::new(dir, &skipped.file, problems)];
    let shards: Vec<_> = manifest.shards.iter().enumerate().map(|shard| (shard, shard.1.bytes)).collect();
    reports.extend(check_all(&shards, |&(index, entry)| shard(dir, index, entry), progress));
    Ok(reports)
}

fn shard(dir: &Path, index: usize, entry: &ShardEntry) -> FileReport {
    let path = dir.join(&entry.file);
    let mut problems = Vec::new();
    match open_listed(dir, entry).and_then(|shard| Ok((read_small(&shard, index)?, shard))) {
        Err(e) => problems.push(Problem::of(&path, &e)),
        Ok(((utterances, checksums), shard)) => {
            for (utterance, checksum) in utterances.iter().zip(&checksums) {
                if let Err(e) = read_features(&shard, utterance, checksum, |_| ()) {
                    problems.push(Problem::payload(&path, &utterance.id, schema::FEATURES, &e));
                }
            }
        }
    }
    // What is named already is named more precisely.
    if problems.is_empty() {
        hash(&path, &entry.blake3, &mut problems);
    }
    FileReport::new(dir, &entry.file, problems)
}

fn hash(path: &Path, expected: &str, problems: &mut Vec<Problem>) {
    match files::hash_difference(path, expected) {
        Ok(difference) => problems.extend(difference.map(|detail| Problem::file(path, detail))),
        Err(e) => problems.push(Problem::of(path, &e)),
    }
}
