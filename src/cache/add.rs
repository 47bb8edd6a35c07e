//! Adds the column `nbest` to a cache that is there, from its posteriors.
//!
//! Shards are replaced one at a time, their other pages copied as they are, so that one shard of room is enough. What is not
//! done yet is known by `adding.toml`, the manifest of the cache as it was: written first, removed last. A killed run is
//! gone on with by the same command; the result has the bytes that `tutornet cache --nbest` would have written.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeBinaryArray};
use rayon::prelude::*;

use super::codec::CodecModel;
use super::column::{Column, payloads};
use super::identity::{IDENTITY, Identity};
use super::manifest::{ADDING, MANIFEST, Manifest, ShardEntry};
use super::nbest::{self, NbestIdentity, NbestSearch};
use super::remedy::not_of_a_teacher;
use super::resume::{self, Wanted};
use super::rows::Rows;
use super::schema::{CHECKSUM, copy_rows};
use super::together::interrupted;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::progress::Progress;
use crate::signal::Stop;
use crate::store;

/// What to add to which cache.
#[derive(Debug, Clone)]
pub struct AddOptions {
    /// A complete cache, or one that an earlier run left.
    pub cache: PathBuf,
    /// The search for the teacher's best texts, and how many of them.
    pub nbest: (Decoder, usize),
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// What the cache consists of now.
    pub manifest: Manifest,
    /// Shards that were written by this run.
    pub written: usize,
}

/// Adds the column, or what is missing of it.
///
/// # Errors
/// When the cache is not complete, has such a column of another search, or a shard is not as it was written; what is finished
/// stays and the same call goes on from there.
pub fn add(options: &AddOptions, stop: &Stop) -> Result<Added> {
    let dir = options.cache.as_path();
    store::require_local(dir)?;
    Identity::load(dir)?;
    let _lock = DirectoryLock::acquire(dir)?;
    files::sweep(dir)?;
    let found = Identity::load(dir)?;
    let (Decoder::Beam(search, settings), count) = &options.nbest else {
        return Err(Error::invalid("--nbest needs a beam search"));
    };
    search.require_words_of(&found.labels)?;
    let texts = u32::try_from(*count).map_err(|_| Error::invalid(format!("{count} texts are too many")))?;
    let nbest = NbestIdentity { count: texts, search: settings.clone() };
    let before = Identity { nbest: None, ..found.clone() };
    let writer = if found.nbest.is_some() { found.writer } else { crate::shard::WRITER };
    let after = Identity { nbest: Some(nbest), writer, ..found.clone() };
    let Some(was) = begin(dir, &found, &after)? else {
        return Ok(Added { manifest: Manifest::load(dir)?, written: 0 });
    };
    let hash = files::blake3_file(&dir.join(IDENTITY))?;
    let codecs = Arc::new(CodecModel::open(dir, &after)?);
    let search = NbestSearch { search: (**search).clone(), count: *count };
    let adding = Adding { dir, before, was: &was, after, hash, codecs, search };
    let (mut entries, mut pending) = (Vec::with_capacity(was.shards.len()), Vec::new());
    for (shard, old) in was.shards.iter().enumerate() {
        let done = adding.done(old)?;
        pending.extend(done.is_none().then_some(shard));
        entries.push(done);
    }
    let rows = pending.iter().map(|&shard| was.shards[shard].rows).sum();
    let progress = Progress::new("add", "utterances", rows);
    let mut bad = Vec::new();
    for &shard in &pending {
        if stop.requested() {
            return Err(interrupted());
        }
        match was.shards[shard].difference(dir)? {
            Some(difference) => bad.push(format!("{} ({difference})", was.shards[shard].file)),
            None => entries[shard] = Some(adding.make(&was.shards[shard], &progress)?),
        }
    }
    progress.finish();
    if !bad.is_empty() {
        let detail = format!(
            "{} not as written: {}; put back a copy and run this again; or {}",
            if bad.len() == 1 { "a shard is" } else { "shards are" },
            bad.join(", "),
            otherwise(dir, &adding.after)
        );
        return Err(Error::format(dir, detail));
    }
    let manifest = resume::seal(dir, entries.into_iter().flatten().collect())?;
    files::remove(&dir.join(ADDING))?;
    Ok(Added { manifest, written: pending.len() })
}

/// Makes the directory an unfinished cache `after` and gives what it consisted of before; `None` when nothing is to be done.
fn begin(dir: &Path, found: &Identity, after: &Identity) -> Result<Option<Manifest>> {
    let path = dir.join(ADDING);
    let journal: Option<Manifest> =
        files::read_sealed(&path).ok().and_then(|text| toml::from_str(&text).ok());
    if found.nbest.is_some() {
        let what = format!("{} has N best texts already", dir.display());
        after.require_as(
            found,
            what,
            "another search makes another cache: `tutornet cache --nbest`, or copy the cache as it was",
        )?;
        if Manifest::load(dir).is_ok() {
            files::remove(&dir.join(ADDING))?;
            return Ok(None);
        }
        let detail = format!(
            "the cache is not complete, and no (whole) adding.toml says what was done; {}",
            otherwise(dir, found)
        );
        return journal.map(Some).ok_or_else(|| Error::format(dir, detail));
    }
    let identity = files::blake3_file(&dir.join(IDENTITY))?;
    let was = match Manifest::load(dir) {
        Ok(manifest) => {
            for entry in &manifest.shards {
                if let Some(difference) = entry.size_difference(dir)? {
                    let detail = format!("{difference}; `tutornet verify` lists what is bad");
                    return Err(Error::format(dir.join(&entry.file), detail));
                }
            }
            manifest.save_as(dir, ADDING)?;
            manifest
        }
        // Killed after the manifest was taken away, before another cache.toml was there.
        Err(error) => journal.filter(|journal| journal.identity == identity).ok_or(error)?,
    };
    // Left by a kill between a manifest and what it replaces: they say that shards of the cache as it was are finished.
    resume::remove_records(dir, was.shards.iter().map(|entry| entry.file.as_str()))?;
    files::remove(&dir.join(MANIFEST))?;
    after.save(dir)?;
    Ok(Some(was))
}

/// What makes the cache with its texts otherwise: what made it without them.
fn otherwise(dir: &Path, identity: &Identity) -> String {
    not_of_a_teacher(dir, identity).unwrap_or_else(|| {
        "`tutornet cache` with the teacher, the corpus and the same --nbest writes what is missing".to_owned()
    })
}

/// The work at one cache.
struct Adding<'a> {
    dir: &'a Path,
    before: Identity,
    was: &'a Manifest,
    after: Identity,
    /// BLAKE3 of the new `cache.toml`.
    hash: String,
    codecs: Arc<CodecModel>,
    search: NbestSearch,
}

impl Adding<'_> {
    /// The entry of a shard that has the column already.
    fn done(&self, old: &ShardEntry) -> Result<Option<ShardEntry>> {
        if let Some(entry) = resume::read_record(self.dir, &old.file)
            && entry.difference(self.dir)?.is_none()
        {
            return Ok(Some(entry));
        }
        // Killed between the shard and its record.
        let path = self.dir.join(&old.file);
        let Ok(rows) = Rows::open(&path, &self.after, &self.hash, &self.codecs) else { return Ok(None) };
        let wanted = Wanted { file: old.file.clone(), keys: rows.keys().to_vec() };
        let entry = resume::by_contents(self.dir, &self.after, &self.hash, &self.codecs, &wanted)?;
        let Some(entry) = entry.filter(|entry| (entry.rows, entry.frames) == (old.rows, old.frames)) else {
            return Ok(None);
        };
        resume::write_record(self.dir, &entry)?;
        Ok(Some(entry))
    }

    /// Replaces a shard by one with the column.
    fn make(&self, old: &ShardEntry, progress: &Progress) -> Result<ShardEntry> {
        let path = self.dir.join(&old.file);
        let rows = Rows::open(&path, &self.before, &self.was.identity, &self.codecs)?;
        let mut fresh = |range: Range<usize>| -> Result<Vec<(String, ArrayRef)>> {
            let new: Vec<(Vec<u8>, Vec<u8>)> = range
                .into_par_iter()
                .map(|row| {
                    let new = self.texts(&rows, row)?;
                    progress.add(1);
                    Ok(new)
                })
                .collect::<Result<_>>()?;
            let bad = |e: arrow::error::ArrowError| Error::format(&path, e.to_string());
            let texts = BinaryArray::from_iter_values(new.iter().map(|(texts, _)| texts));
            let sums = FixedSizeBinaryArray::try_from_iter(new.iter().map(|(_, sum)| sum)).map_err(bad)?;
            Ok(vec![
                (Column::Nbest.to_string(), Arc::new(texts) as ArrayRef),
                (CHECKSUM.to_owned(), Arc::new(sums)),
            ])
        };
        let summary = copy_rows(&path, &path, &self.after, &self.hash, &mut fresh, |_| false)?;
        let entry = ShardEntry::new(&old.file, old.frames, summary);
        resume::write_record(self.dir, &entry)?;
        Ok(entry)
    }

    /// The payload of a row, and the row's checksums with that of the payload among them.
    fn texts(&self, rows: &Rows, row: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut log_p = Vec::new();
        rows.log_posterior(row, &mut log_p)?;
        let texts = nbest::encode(&self.search.texts(&log_p, &self.after.labels))
            .map_err(|detail| Error::format(self.dir, detail))?;
        let place = payloads(&self.after).iter().position(|column| *column == Column::Nbest);
        let mut sums = rows.checksums(row).to_vec();
        let place = 16 * place.unwrap_or_default();
        let sum = rows.keys()[row].checksum(&texts);
        sums.splice(place..place, sum);
        Ok((texts, sums))
    }
}
