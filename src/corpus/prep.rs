//! Makes a corpus: list, decode and compute in parallel, write in order, seal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::librispeech::{Found, Listing};
use super::manifest::{MANIFEST, Manifest, ShardEntry, SkippedFile};
use super::plan::{self, Finished, PROGRESS, Settings};
use super::reason::{Reason, Skipped};
use super::repair::{self, Earlier};
use super::schema::VERSION;
use super::speed::Speed;
use super::work;
use crate::error::{Error, Result};
use crate::features::{Frontend, SAMPLE_RATE};
use crate::files::{self, DirectoryLock};
use crate::signal::Stop;

/// Name of the list of utterances left out.
pub const SKIPPED: &str = "skipped.jsonl";

/// What to prepare, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The directory that holds the subsets.
    pub root: PathBuf,
    /// Subsets to put into one corpus; order and repetition do not matter.
    pub subsets: Vec<String>,
    /// Speeds of the copies that are made of every utterance; order and repetition do not matter.
    pub speeds: Vec<Speed>,
    /// The corpus directory to make.
    pub out: PathBuf,
    /// Utterances per shard.
    pub shard_utterances: usize,
    /// The feature chain.
    pub frontend: Frontend,
    /// Fail at the first utterance that cannot be used.
    pub strict: bool,
    /// Threads that decode.
    pub workers: usize,
}

/// What a run of [`prep`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The corpus was there already; nothing was done.
    pub already_complete: bool,
    /// What `corpus.toml` says.
    pub manifest: Manifest,
    /// How many utterances were left out, by reason.
    pub skipped: BTreeMap<Reason, usize>,
    /// Shards kept from a run before.
    pub kept_shards: usize,
    /// Files of this run that carry no MD5, so that only their length was checked.
    pub without_md5: u64,
}

/// Prepares a LibriSpeech tree. Going on after a kill, or running again with other workers, gives
/// the same bytes; of a complete corpus only what is damaged is written again.
///
/// # Errors
/// When the root or a subset is missing, the directory holds another corpus or is being written by
/// another process, a file cannot be read, the disk is full, a stop was asked for, no utterance can
/// be used, or (with `strict`) one cannot.
pub fn prep(options: &Options, stop: &Stop) -> Result<Outcome> {
    if options.shard_utterances == 0 || options.workers == 0 {
        return Err(Error::invalid("--shard-utterances and --workers must be at least 1"));
    }
    let mut subsets = options.subsets.clone();
    subsets.sort();
    subsets.dedup();
    let mut speeds = options.speeds.clone();
    speeds.sort();
    speeds.dedup();
    let mut settings = Settings {
        version: VERSION,
        source: options.root.to_string_lossy().into_owned(),
        subsets,
        speeds,
        shard_utterances: options.shard_utterances,
        frontend: options.frontend,
    };
    let out = &options.out;
    if let Earlier::Whole(outcome) = repair::earlier(options, &settings)? {
        if out.join(PROGRESS).is_dir() {
            // Killed between the seal and the clean-up.
            let _lock = DirectoryLock::acquire(out)?;
            plan::close(out)?;
        }
        return Ok(outcome);
    }
    let listing = settings.list(&options.root)?;
    if options.strict && !listing.skipped.is_empty() {
        return Err(strict(&listing.skipped));
    }
    files::require_own(out, &[PROGRESS, MANIFEST], "corpus")?;
    files::create_dir(out)?;
    let _lock = DirectoryLock::acquire(out)?;
    files::sweep(out)?;
    // Under the lock once more: another process may have finished it.
    match repair::earlier(options, &settings)? {
        Earlier::Whole(outcome) => return Ok(outcome),
        Earlier::Unfinished => plan::open(out, &settings)?,
        Earlier::Damaged(manifest) => {
            // The same corpus as before, so from the source under its old name.
            settings.source.clone_from(&manifest.source);
            plan::open(out, &settings)?;
            repair::keep_whole_shards(options, &listing.found, &manifest)?;
        }
    }
    let input = plan::input_hash(&options.root, &listing.found)?;
    let (finished, kept_shards) = run(options, &listing, stop)?;
    let outcome = seal(&settings, out, input, listing, &finished)?;
    Ok(Outcome { kept_shards, ..outcome })
}

/// Name of the i-th shard.
pub(super) fn shard_file(index: usize) -> String {
    format!("shard-{index:05}.parquet")
}

/// Finishes every shard; the second value is how many were finished before.
fn run(options: &Options, listing: &Listing, stop: &Stop) -> Result<(Vec<Finished>, usize)> {
    let shards: Vec<&[Found]> = listing.found.chunks(options.shard_utterances).collect();
    let mut finished = Vec::with_capacity(shards.len());
    let mut pending = Vec::new();
    for (index, found) in shards.iter().enumerate() {
        let input = plan::stamp(&options.root, found)?;
        let record = Finished::read(&options.out, index, &input);
        if record.is_none() {
            pending.push(work::Shard { index, found, input });
        }
        finished.push(record);
    }
    let kept = finished.iter().flatten().count();
    if kept > 0 {
        tracing::info!("going on: {kept} of {} shards are complete", shards.len());
        let skipped: Vec<Skipped> = finished.iter().flatten().flat_map(|f| f.skipped.clone()).collect();
        if options.strict && !skipped.is_empty() {
            return Err(strict(&skipped));
        }
    }
    work::run(options, &pending, stop, |index, record| {
        record.write(&options.out, index)?;
        finished[index] = Some(record);
        Ok(())
    })?;
    Ok((finished.into_iter().flatten().collect(), kept))
}

/// Writes what describes the corpus as a whole; the manifest last.
fn seal(
    settings: &Settings,
    out: &Path,
    input: String,
    listing: Listing,
    finished: &[Finished],
) -> Result<Outcome> {
    let mut skipped = listing.skipped;
    skipped.extend(finished.iter().flat_map(|f| f.skipped.iter().cloned()));
    skipped.sort();
    let lines = skipped_lines(&skipped)?;
    files::write(&out.join(SKIPPED), &lines)?;
    let shards: Vec<ShardEntry> = finished.iter().filter_map(|f| f.shard.clone()).collect();
    if shards.is_empty() {
        let reasons = reasons(&count(&skipped));
        let list = out.join(SKIPPED);
        let detail = format!("no utterance can be used: {reasons}; {} names them all", list.display());
        return Err(Error::invalid(detail));
    }
    remove_stale(out, &shards)?;
    let samples: u64 = finished.iter().map(|f| f.samples).sum();
    let speakers: BTreeSet<&String> = finished.iter().flat_map(|f| &f.speakers).collect();
    let manifest = Manifest {
        kind: "corpus".to_owned(),
        version: settings.version,
        source: settings.source.clone(),
        subsets: settings.subsets.clone(),
        speeds: settings.speeds.clone(),
        shard_utterances: settings.shard_utterances,
        input,
        utterances: shards.iter().map(|s| s.rows).sum(),
        samples,
        hours: hours(samples),
        speakers: speakers.len(),
        frontend: settings.frontend,
        skipped: SkippedFile {
            file: SKIPPED.to_owned(),
            utterances: skipped.len(),
            blake3: blake3::hash(&lines).to_hex().to_string(),
        },
        shards,
    };
    manifest.write(out)?;
    plan::close(out)?;
    Ok(Outcome {
        already_complete: false,
        manifest,
        skipped: count(&skipped),
        kept_shards: 0,
        without_md5: finished.iter().map(|f| f.without_md5).sum(),
    })
}

/// Hours of 16 kHz samples, rounded to six places so that the text of it is short.
fn hours(samples: u64) -> f64 {
    (samples as f64 / f64::from(SAMPLE_RATE) / 3600.0 * 1e6).round() / 1e6
}

/// A shard of a run before whose input has vanished since.
fn remove_stale(out: &Path, shards: &[ShardEntry]) -> Result<()> {
    let entries = std::fs::read_dir(out).map_err(|e| Error::io("list", out, e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", out, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = name.starts_with("shard-") && name.ends_with(".parquet");
        if ours && shards.iter().all(|s| s.file != name) {
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

fn skipped_lines(skipped: &[Skipped]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for one in skipped {
        serde_json::to_writer(&mut lines, one).map_err(|e| Error::invalid(format!("{SKIPPED}: {e}")))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

pub(super) fn read_skipped(dir: &Path) -> Result<Vec<Skipped>> {
    let path = dir.join(SKIPPED);
    let text = files::read_text(&path)?;
    let parse = |line| serde_json::from_str(line).map_err(|e| Error::format(&path, e.to_string()));
    text.lines().map(parse).collect()
}

pub(super) fn count(skipped: &[Skipped]) -> BTreeMap<Reason, usize> {
    let mut counts = BTreeMap::new();
    for one in skipped {
        *counts.entry(one.reason).or_default() += 1;
    }
    counts
}

/// `3 silent, 1 MD5 mismatch`.
fn reasons(counts: &BTreeMap<Reason, usize>) -> String {
    let parts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.join(", ")
}

/// The error of `--strict`.
pub(super) fn strict(skipped: &[Skipped]) -> Error {
    let first = skipped.first().map(ToString::to_string).unwrap_or_default();
    let more = match skipped.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Error::invalid(format!("--strict: {first}{more}; without --strict it is skipped and counted"))
}

impl Outcome {
    /// The skipped utterances in one line, by reason; empty when there are none.
    pub fn reasons(&self) -> String {
        reasons(&self.skipped)
    }
}
