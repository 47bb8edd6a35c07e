//! Caches of one teacher over several corpora become one, without the teacher and without decoding anything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::Cache;
use super::codec::CodecName;
use super::identity::{CorpusIdentity, CorpusPart, IDENTITY, Identity};
use super::manifest::{Manifest, ShardEntry};
use super::recode;
use super::remedy::remedy;
use super::resume::{self, Begun, Place, Wanted};
use super::settle::{refuse_other, settle_codec};
use super::together::interrupted;
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::progress::Progress;
use crate::signal::Stop;
use crate::store;

/// Utterances that a message names.
const NAMED: usize = 3;

/// What to merge, and where to.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// Two caches and more, merged ones among them.
    pub from: Vec<PathBuf>,
    /// The cache directory to make or to complete.
    pub out: PathBuf,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// What the cache consists of.
    pub manifest: Manifest,
    /// How many corpora it is of.
    pub corpora: usize,
    /// Shards that were written by this run.
    pub written: usize,
}

/// One shard of a cache that goes into the merged one.
struct Source<'a> {
    dir: &'a Path,
    entry: &'a ShardEntry,
    wanted: Wanted,
}

/// Merges caches that agree in everything but their corpora, or writes what is missing of the merged one. The shards are
/// those of `from`, their pages copied as they are, ordered by the hash of their corpus: the result is the same whatever the
/// order of `from`, and whether it was merged at once or in steps.
///
/// # Errors
/// When two caches do not agree or share an utterance, a shard is not as it was written, or `out` holds something else; what is
/// finished stays.
pub fn merge(options: &MergeOptions, stop: &Stop) -> Result<Merged> {
    for from in &options.from {
        if store::is_remote(from) {
            return Err(Error::invalid(format!(
                "{}: merging copies shards from a disk; copy that cache there first",
                from.display()
            )));
        }
        files::require_apart(&options.out, from, "one of the caches to merge")?;
    }
    let caches: Vec<Cache> = options.from.iter().map(|dir| Cache::open(dir)).collect::<Result<_>>()?;
    let [first, others @ ..] = caches.as_slice() else {
        return Err(Error::invalid("merging takes two caches and more"));
    };
    require_same(first, others)?;
    let mut parts = Vec::new();
    for cache in &caches {
        parts.extend(parts_of(cache)?);
    }
    parts.sort_by(|a, b| a.0.hash.cmp(&b.0.hash));
    require_disjoint(&caches)?;
    if let Some(pair) = parts.windows(2).find(|pair| pair[0].0.hash == pair[1].0.hash) {
        return Err(Error::invalid(format!("corpus {} is in two of the caches", pair[0].0.hash)));
    }
    let mut identity = first.identity().clone();
    identity.writer = crate::shard::WRITER;
    identity.corpus = CorpusIdentity::merged(parts.iter().map(|part| part.0.clone()).collect());
    let corpora = parts.len();
    let mut sources: Vec<Source> = parts.into_iter().flat_map(|part| part.1).collect();
    for (number, source) in sources.iter_mut().enumerate() {
        source.wanted.file = format!("shard-{number:05}.parquet");
    }

    let out = options.out.as_path();
    refuse_other(&identity, out)?;
    files::create_dir(out)?;
    let _lock = DirectoryLock::acquire(out)?;
    files::sweep(out)?;
    let learned = identity.codec_name().is_ok_and(CodecName::is_learned);
    let codecs = settle_codec(&mut identity, out, learned.then_some(first.dir()), &mut || {
        Err(Error::invalid("nothing is learned by merging"))
    })?;
    let hash = files::blake3_file(&out.join(IDENTITY))?;
    let wanted: Vec<Wanted> = sources.iter().map(|source| source.wanted.clone()).collect();
    let Begun { mut finished, pending, expected } =
        resume::begin(out, &identity, &hash, &Arc::new(codecs), &wanted)?;
    let place = Place { dir: out, identity: &identity, cache: &hash, expected: &expected };
    let mebibytes = |shard: usize| sources[shard].entry.bytes >> 20;
    let progress = Progress::new("merge", "MiB", pending.iter().map(|&shard| mebibytes(shard)).sum());
    let copied = pending.par_iter().map(|&shard| {
        if stop.requested() {
            return Err(interrupted());
        }
        let entry = copy(&sources[shard], place)?;
        progress.add(mebibytes(shard));
        Ok((shard, entry))
    });
    let copied: Vec<(usize, ShardEntry)> = copied.collect::<Result<_>>()?;
    progress.finish();
    for (shard, entry) in copied {
        finished[shard] = Some(entry);
    }
    let manifest = resume::seal(out, finished.into_iter().flatten().collect())?;
    Ok(Merged { manifest, corpora, written: pending.len() })
}

/// Copies a shard of another cache: its rows, under the identity of the merged one.
fn copy(source: &Source, place: Place<'_>) -> Result<ShardEntry> {
    let Source { dir, entry, wanted } = source;
    let path = dir.join(&entry.file);
    if let Some(difference) = entry.difference(dir)? {
        return Err(Error::format(path, format!("{difference}; {}; then merge again", remedy(dir))));
    }
    place.copy(&wanted.file, entry.frames, &path)
}

/// Refuses caches that differ in anything but their corpus.
fn require_same(first: &Cache, others: &[Cache]) -> Result<()> {
    let blank = |cache: &Cache| {
        let (writer, corpus) = (crate::shard::WRITER, CorpusIdentity::new(String::new()));
        Identity { writer, corpus, ..cache.identity().clone() }
    };
    for other in others {
        let what = format!("{} and {} cannot be merged", first.dir().display(), other.dir().display());
        let (a, b) = (first.identity(), other.identity());
        let hint = if a.codec != b.codec {
            "caches to be merged have one codec: `tutornet cache recode` makes another of one of f16, a learned one with \
             --codec-from the other"
        } else if a.codec_model == b.codec_model {
            "caches to be merged differ in their corpora only"
        } else {
            "they were quantised by what was learned from each of them: make one of them again with --codec-from the other \
             (`tutornet cache` or `tutornet cache recode`)"
        };
        blank(first).require_as(&blank(other), what, hint)?;
    }
    Ok(())
}

/// The corpora of a cache and the shards of each.
fn parts_of(cache: &Cache) -> Result<Vec<(CorpusPart, Vec<Source<'_>>)>> {
    let entries = cache.manifest().shards.iter().zip(recode::wanted(cache));
    let mut sources = entries.map(|(entry, wanted)| Source { dir: cache.dir(), entry, wanted });
    let CorpusIdentity { hash, parts } = &cache.identity().corpus;
    let parts = if parts.is_empty() {
        let shards = u32::try_from(cache.manifest().shards.len());
        let shards = shards.map_err(|_| Error::format(cache.dir(), "too many shards"))?;
        vec![CorpusPart { hash: hash.clone(), shards }]
    } else {
        parts.clone()
    };
    let shards = cache.manifest().shards.len();
    let expected: u64 = parts.iter().map(|part| u64::from(part.shards)).sum();
    if shards as u64 != expected {
        let detail = format!("its corpora have {expected} shards, the cache has {shards}");
        return Err(Error::format(cache.dir().join(IDENTITY), detail));
    }
    let taken = |part: CorpusPart| {
        let own = sources.by_ref().take(part.shards as usize).collect();
        (part, own)
    };
    Ok(parts.into_iter().map(taken).collect())
}

/// Refuses caches that share an utterance.
fn require_disjoint(caches: &[Cache]) -> Result<()> {
    let mut owners: HashMap<&str, &Path> = HashMap::new();
    for cache in caches {
        let mut shared = Vec::new();
        for entry in cache.entries() {
            if let Some(owner) = owners.insert(&entry.utterance, cache.dir()) {
                shared.push((entry.utterance.as_str(), owner));
            }
        }
        if let Some((_, owner)) = shared.first() {
            let names: Vec<&str> = shared.iter().take(NAMED).map(|(name, _)| *name).collect();
            let more = shared.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(Error::invalid(format!(
                "{} and {} share {} utterance(s): {}{more}; caches to be merged have none in common",
                owner.display(),
                cache.dir().display(),
                shared.len(),
                names.join(", ")
            )));
        }
    }
    Ok(())
}
