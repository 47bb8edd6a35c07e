//! `cache --repair`: what is bad is written again, and nothing else.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::build::{Options, Summary, build};
use super::codec::CODEC_FILE;
use super::identity::{IDENTITY, Identity};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::nbest::NbestIdentity;
use super::remedy::{not_of_a_teacher, remedy};
use super::verify::{examine, shards};
use crate::decode::{BeamOptions, Decoder, SearchSettings};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::models::HiddenLayer;
use crate::shard::Problem;
use crate::signal::Stop;

/// What was found, and what was done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// What was not as it was written.
    pub problems: Vec<Problem>,
    /// The files that were written again.
    pub written: Vec<String>,
    /// Shards that are not the cache's and that are gone.
    pub removed: Vec<String>,
    /// Shards whose bytes are not those that the manifest had: another device or machine computed them.
    pub other: Vec<String>,
    /// What the teacher had to do; `None` when nothing was wrong.
    pub summary: Option<Summary>,
}

/// Reads every byte of the cache in `options.out`, and writes again what is not as it was written; whole shards are not
/// touched. Codec, layers, temperature, precision and the search for N best texts are those of the cache, whatever
/// `options` says; of that search, `lm` is the language model's file. `progress` is told bytes read and in all.
///
/// # Errors
/// When there is no cache, what it is of cannot be told, or another command than `cache` made it; and those of [`build`].
pub fn repair(
    mut options: Options,
    lm: Option<&Path>,
    stop: &Stop,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Repaired> {
    let out = options.out.clone();
    if !out.join(IDENTITY).exists() && !out.join(MANIFEST).exists() {
        let detail = format!("expected a cache to repair, found no {IDENTITY}; without --repair it is made");
        return Err(Error::format(&out, detail));
    }
    let manifest = Manifest::load(&out).ok();
    let found = examine(&out, progress)?;
    let problems: Vec<Problem> = found.into_iter().flat_map(|report| report.problems).collect();
    if problems.is_empty() {
        let (written, removed, other) = (Vec::new(), Vec::new(), Vec::new());
        return Ok(Repaired { problems, written, removed, other, summary: None });
    }
    problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let identity = Identity::load(&out)
        .map_err(|e| Error::invalid(format!("{e}; what the cache is of cannot be told: {}", remedy(&out))))?;
    if let Some(remedy) = not_of_a_teacher(&out, &identity).filter(|_| !options.other_bytes) {
        return Err(Error::invalid(format!(
            "{}: {} problem(s), and not made with a teacher: {remedy}; nothing was changed",
            out.display(),
            problems.len()
        )));
    }
    take_over(&mut options, &identity, lm)?;
    let before = stamps(&out)?;
    let summary = build(&options, stop)?;
    // The manifest makes room for the work, and is then written as it was: that is no repair of it.
    let bad = |name: &str| problems.iter().any(|p| p.path.ends_with(name)) || name.ends_with(".parquet");
    let written =
        stamps(&out)?.difference(&before).map(|(name, _)| name.clone()).filter(|n| bad(n)).collect();
    let now = Manifest::load(&out)?;
    let mut removed = shards(&out)?;
    // What somebody else has put there by another name is theirs; `verify` goes on naming it.
    removed.retain(|name| name.starts_with("shard-") && !now.shards.iter().any(|entry| entry.file == *name));
    if !removed.is_empty() {
        let _lock = DirectoryLock::acquire(&out)?;
        for name in &removed {
            let path = out.join(name);
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    let differs = |entry: &&ShardEntry| {
        let earlier = manifest.as_ref().and_then(|m| m.shards.iter().find(|e| e.file == entry.file));
        earlier.is_some_and(|earlier| earlier.blake3 != entry.blake3)
    };
    let other = now.shards.iter().filter(differs).map(|entry| entry.file.clone()).collect();
    Ok(Repaired { problems, written, removed, other, summary: Some(summary) })
}

/// Makes `options` those of the cache.
fn take_over(options: &mut Options, identity: &Identity, lm: Option<&Path>) -> Result<()> {
    options.codec = identity.codec_name().map_err(|detail| Error::format(&options.out, detail))?;
    options.temperature = identity.temperature;
    let precision =
        [Precision::F32, Precision::F16].into_iter().find(|p| p.to_string() == identity.precision);
    options.precision = precision.ok_or_else(|| {
        Error::format(&options.out, format!("precision: expected f32 or f16, found {}", identity.precision))
    })?;
    options.layers = identity.layers.iter().map(|inner| HiddenLayer::Inner(inner.layer)).collect();
    if let (Some(nbest), None) = (&identity.nbest, &options.nbest) {
        options.nbest = Some((search(nbest, lm, &options.out)?, nbest.count as usize));
    }
    Ok(())
}

/// The search that a cache's texts were found with.
fn search(nbest: &NbestIdentity, lm: Option<&Path>, out: &Path) -> Result<Decoder> {
    let SearchSettings { beam, lm: wanted, lm_weight, word_bonus, lexicon } = nbest.search.clone();
    let found = lm.map(files::blake3_file).transpose()?;
    if found != wanted {
        let of = |hash: &Option<String>| match hash {
            Some(hash) => format!("the ARPA file of BLAKE3 {hash}"),
            None => "none".to_owned(),
        };
        return Err(Error::mismatch(
            format!("language model of the N best texts in {}", out.display()),
            of(&wanted),
            of(&found),
            "give that with --lm, and no other; the rest of the search is in cache.toml",
        ));
    }
    Decoder::beam(BeamOptions { beam, lm_weight, word_bonus, lexicon }, lm)
}

/// Every file that a cache consists of, and which one it is: what is written again is another file.
fn stamps(dir: &Path) -> Result<BTreeSet<(String, [i64; 3])>> {
    let texts = [IDENTITY, MANIFEST, CODEC_FILE].map(str::to_owned);
    let stamp = |name: String| {
        let of = std::fs::metadata(dir.join(&name)).ok()?;
        Some((name, [of.ino().cast_signed(), of.ctime(), of.ctime_nsec()]))
    };
    Ok(shards(dir)?.into_iter().chain(texts).filter_map(stamp).collect())
}
