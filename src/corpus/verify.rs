//! What a corpus holds, and whether every byte is as it was written.

use std::path::Path;

use serde::Serialize;

use super::{Manifest, SkippedFile, Speed, open_listed, read_features, read_small, schema};
use crate::error::{Error, Result};
use crate::features::{BINS, Frontend};
use crate::files;
use crate::shard::Problem;

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

/// Reads every byte of a corpus and lists what is not as it was written: the seal of the manifest,
/// the BLAKE3 of every file, the checksum of every payload. `progress` is told bytes done and in all.
///
/// # Errors
/// When `dir` holds no complete corpus of a version that can be read; damage is no error here.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Problem>> {
    let manifest = match Manifest::read(dir) {
        Ok((manifest, _)) => manifest,
        // Without the manifest nothing else can be trusted.
        Err(Error::Format { path, detail }) => return Ok(vec![Problem::file(path, detail)]),
        Err(e) => return Err(e),
    };
    let mut problems = Vec::new();
    verify_skipped(dir, &manifest.skipped, &mut problems);
    let total: u64 = manifest.shards.iter().map(|s| s.bytes).sum();
    let mut done = 0;
    progress(done, total);
    for (index, entry) in manifest.shards.iter().enumerate() {
        let path = dir.join(&entry.file);
        let before = problems.len();
        match open_listed(dir, entry).and_then(|shard| Ok((read_small(&shard, index)?, shard))) {
            Err(e) => problems.push(Problem::file(&path, words(e))),
            Ok(((utterances, checksums), shard)) => {
                for (utterance, checksum) in utterances.iter().zip(&checksums) {
                    if let Err(e) = read_features(&shard, utterance, checksum, |_| ()) {
                        problems.push(Problem {
                            path: path.clone(),
                            utterance: Some(utterance.id.clone()),
                            column: Some(schema::FEATURES.to_owned()),
                            detail: words(e),
                        });
                    }
                }
            }
        }
        match files::blake3_file(&path) {
            Ok(hash) if hash == entry.blake3 => {}
            Ok(hash) if problems.len() == before => {
                let detail =
                    format!("expected BLAKE3 {}, found {hash}; every payload is whole", entry.blake3);
                problems.push(Problem::file(&path, detail));
            }
            // Named more precisely above.
            Ok(_) => {}
            Err(_) if problems.len() > before => {}
            Err(e) => problems.push(Problem::file(&path, words(e))),
        }
        done += entry.bytes;
        progress(done, total);
    }
    Ok(problems)
}

fn verify_skipped(dir: &Path, entry: &SkippedFile, problems: &mut Vec<Problem>) {
    let path = dir.join(&entry.file);
    match files::blake3_file(&path) {
        Ok(hash) if hash == entry.blake3 => {}
        Ok(hash) => {
            let detail = format!("expected BLAKE3 {}, found {hash}", entry.blake3);
            problems.push(Problem::file(&path, detail));
        }
        Err(e) => problems.push(Problem::file(&path, words(e))),
    }
}

/// What went wrong without the place, which a [`Problem`] names itself.
fn words(error: Error) -> String {
    match error {
        Error::Io { action, source, .. } => format!("cannot {action}: {source}"),
        Error::Format { detail, .. } | Error::Corrupt { detail, .. } => detail,
        other => other.to_string(),
    }
}
