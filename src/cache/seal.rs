//! `tutornet cache seal`: makes one cache of what several tasks have written, or says whose work is missing.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use super::Cache;
use super::codec::CodecModel;
use super::identity::{IDENTITY, Identity};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::resume;
use super::tasks::claim::{self, PATIENCE};
use super::tasks::plan::{PLAN, Plan, Share};
use crate::error::{Error, Result};
use crate::files;
use crate::models::HiddenLayer;
use crate::progress::Progress;
use crate::signal::Stop;
use crate::store;

/// What sealing came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Sealing {
    /// The cache is complete.
    Sealed(Sealed),
    /// It is not.
    Missing(Missing),
}

/// A complete cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sealed {
    /// Utterances.
    pub utterances: u64,
    /// Output frames.
    pub frames: u64,
    /// Compressed bytes of the hidden column over output frames.
    pub bytes_per_frame: f64,
    /// Shards.
    pub shards: usize,
    /// Whether it had been sealed before.
    pub before: bool,
}

/// What a cache lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Tasks with unfinished shards, from 0, ascending.
    pub tasks: Vec<u32>,
    /// The same as the batch system counts them, in the notation of `sbatch --array`.
    pub array: String,
    /// Number of tasks in all.
    pub of: u32,
    /// Unfinished shards, and shards in all.
    pub shards: (usize, usize),
}

/// Reads every shard that the tasks of a plan have finished against its record and, if none is missing, seals the cache.
///
/// # Errors
/// When the directory is no cache or was not divided, a task is still at work, or the disk fails.
pub fn seal(dir: &Path, stop: &Stop) -> Result<Sealing> {
    store::require_local(dir)?;
    let identity = Identity::load(dir)?;
    let _lock = claim::alone(dir, PATIENCE, stop)?;
    if dir.join(MANIFEST).exists() {
        let manifest = Manifest::load(dir)?;
        return finish(dir, manifest.shards, true);
    }
    let Some(plan) = Plan::load(dir)? else {
        return Err(Error::format(
            dir,
            format!(
                "expected a {PLAN}, as tasks leave it that write a cache together; found none. Run the `tutornet cache` \
                 command that began it once more: it goes on where it stopped"
            ),
        ));
    };
    let found = files::blake3_file(&dir.join(IDENTITY))?;
    if plan.identity != found {
        return Err(Error::mismatch(
            format!("{IDENTITY} in {}", dir.display()),
            format!("BLAKE3 {} (from {PLAN})", plan.identity),
            found,
            "one of the two files is from another cache",
        ));
    }
    CodecModel::open(dir, &identity)?;
    let all = plan.shards.len();
    let progress = Progress::new("seal", "shards", all as u64);
    let look = |share: &Share| -> Result<Option<ShardEntry>> {
        if stop.requested() {
            return Err(Error::Interrupted("the cache was not sealed".to_owned()));
        }
        let entry = finished(dir, share);
        progress.add(1);
        entry
    };
    let entries: Vec<Option<ShardEntry>> = plan.shards.par_iter().map(look).collect::<Result<_>>()?;
    progress.finish();
    let unfinished = || plan.shards.iter().zip(&entries).filter(|(_, entry)| entry.is_none());
    let tasks: Vec<u32> =
        unfinished().map(|(share, _)| share.task).collect::<BTreeSet<_>>().into_iter().collect();
    if tasks.is_empty() {
        return finish(dir, entries.into_iter().flatten().collect(), false);
    }
    let shards = (unfinished().count(), all);
    Ok(Sealing::Missing(Missing { array: plan.array(&tasks), tasks, of: plan.tasks, shards }))
}

/// The record of a planned shard, if the shard is what it says.
fn finished(dir: &Path, share: &Share) -> Result<Option<ShardEntry>> {
    let path = dir.join(&share.file);
    let Some(entry) = resume::read_record(dir, &share.file) else {
        tracing::debug!("{}: not finished", path.display());
        return Ok(None);
    };
    if (entry.rows, entry.frames) != (share.rows, share.frames) {
        tracing::warn!("{}: its record is of other utterances", path.display());
        return Ok(None);
    }
    let difference = entry.difference(dir)?;
    if let Some(difference) = &difference {
        tracing::warn!("{}: {difference}", path.display());
    }
    Ok(difference.is_none().then_some(entry))
}

fn finish(dir: &Path, entries: Vec<ShardEntry>, before: bool) -> Result<Sealing> {
    let manifest = resume::seal(dir, entries)?;
    super::tasks::clear(dir)?;
    let cache = Cache::open(dir)?;
    Ok(Sealing::Sealed(Sealed {
        utterances: manifest.utterances,
        frames: manifest.frames,
        bytes_per_frame: cache.hidden_bytes_per_frame(HiddenLayer::Last)?,
        shards: manifest.shards.len(),
        before,
    }))
}
