//! Which shards of a cache are finished: what a killed run leaves, and how much of it is trusted.
//!
//! A finished shard has a record beside it, `shard-00000.done`: sealed, with the file's size and BLAKE3,
//! written after the shard and gone when the manifest takes its place. A shard that has neither record
//! nor manifest entry (the process died between the two files, or the manifest itself was damaged) is
//! trusted when every row is the corpus' and every payload passes its checksum; its file is then what those rows make.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::codec::CodecModel;
use super::column::Column;
use super::identity::Identity;
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::rows::Rows;
use super::schema::{Key, Row, copy_rows, write_shard_unless};
use crate::error::{Error, Result};
use crate::files;
use crate::shard::ShardSummary;

/// Extension of the record of a finished shard.
pub(super) const RECORD: &str = "done";

/// One shard that a cache has to have.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// File name, that of the corpus' shard.
    pub file: String,
    /// Its rows.
    pub keys: Vec<Key>,
}

/// Where shards are written, and what they are of.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The cache directory.
    pub dir: &'a Path,
    /// What the cache is of.
    pub identity: &'a Identity,
    /// BLAKE3 of `cache.toml`.
    pub cache: &'a str,
    /// What the manifest, where there is one, says of shards: they are written as it says, or not at all, so that it stays
    /// true all the while.
    pub expected: &'a [ShardEntry],
}

impl Place<'_> {
    /// Writes a shard of `frames` frames and says that it is finished.
    ///
    /// # Errors
    /// When the disk is full, or the bytes are not those that the manifest names: what lies there then stays.
    pub fn write(&self, file: &str, frames: u64, rows: &[Row]) -> Result<ShardEntry> {
        let Self { identity, cache, .. } = *self;
        self.make(file, frames, |path, refused| {
            write_shard_unless(path, identity, cache, rows.iter(), refused)
        })
    }

    /// Copies a shard of another cache, `frames` frames, and says that it is finished.
    ///
    /// # Errors
    /// As for [`Place::write`], and when the other shard is damaged.
    pub fn copy(&self, file: &str, frames: u64, from: &Path) -> Result<ShardEntry> {
        let Self { identity, cache, .. } = *self;
        self.make(file, frames, |path, refused| {
            copy_rows(from, path, identity, cache, &mut |_| Ok(Vec::new()), refused)
        })
    }

    /// `make` writes to the path unless it is refused what it would write.
    fn make(
        &self,
        file: &str,
        frames: u64,
        make: impl FnOnce(&Path, &dyn Fn(&ShardSummary) -> bool) -> Result<ShardSummary>,
    ) -> Result<ShardEntry> {
        let Self { dir, expected, .. } = *self;
        let path = dir.join(file);
        let Some(expected) = expected.iter().find(|entry| entry.file == file) else {
            let entry = ShardEntry::new(file, frames, make(&path, &|_| false)?);
            write_record(dir, &entry)?;
            return Ok(entry);
        };
        let differs = |summary: &ShardSummary| summary.blake3 != expected.blake3;
        let summary = make(&path, &differs)?;
        if differs(&summary) {
            let what = format!("{}, made again", path.display());
            let named = format!("BLAKE3 {} (from {MANIFEST})", expected.blake3);
            if !self.identity.corpus.parts.is_empty() {
                return Err(Error::mismatch(
                    what,
                    named,
                    summary.blake3,
                    "one of the caches to merge is no longer the one that was merged; the file was left as it is. Put back a copy of it, \
                     or merge into another --out: that is another cache then, and runs that were begun on this one do not go on",
                ));
            }
            return Err(Error::mismatch(
                what,
                named,
                summary.blake3,
                "another device, machine or command (`cache`, `cache recode`) made the first; the file was left as it is. Make it again \
                 where and as it was made, or put back a copy; `cache --repair --other-bytes` writes what the teacher gives now: it \
                 is another cache then, and runs that were begun on it do not go on",
            ));
        }
        Ok(expected.clone())
    }
}

/// The entry of every wanted shard that is finished, `None` where there is work to do.
///
/// # Errors
/// When the directory cannot be read.
pub fn survey(
    dir: &Path,
    identity: &Identity,
    cache: &str,
    codecs: &Arc<CodecModel>,
    wanted: &[Wanted],
) -> Result<Vec<Option<ShardEntry>>> {
    let manifest = match Manifest::load(dir) {
        Ok(manifest) => Some(manifest),
        Err(e) => {
            if dir.join(MANIFEST).exists() {
                tracing::warn!("{e}; every shard is checked by its checksums instead");
            }
            None
        }
    };
    wanted
        .par_iter()
        .map(|wanted| {
            let listed = manifest.as_ref().and_then(|m| m.shards.iter().find(|s| s.file == wanted.file));
            let entry = listed.cloned().or_else(|| read_record(dir, &wanted.file));
            let Some(entry) = entry else {
                // Killed between the shard and its record: whoever seals asks for the record.
                let entry = by_contents(dir, identity, cache, codecs, wanted)?;
                entry.iter().try_for_each(|entry| write_record(dir, entry))?;
                return Ok(entry);
            };
            match entry.difference(dir)? {
                None => Ok(Some(entry)),
                Some(difference) => {
                    tracing::warn!("{}: {difference}; writing it again", dir.join(&wanted.file).display());
                    Ok(None)
                }
            }
        })
        .collect()
}

/// What a cache that is made of others has, and has not.
pub(super) struct Begun {
    /// The entry of every wanted shard that is finished.
    pub finished: Vec<Option<ShardEntry>>,
    /// Numbers of those that are not.
    pub pending: Vec<usize>,
    /// See [`Place::expected`].
    pub expected: Vec<ShardEntry>,
}

/// [`survey`], and where there is work to do the directory made ready for it.
///
/// # Errors
/// When the directory cannot be read or written.
pub(super) fn begin(
    dir: &Path,
    identity: &Identity,
    cache: &str,
    codecs: &Arc<CodecModel>,
    wanted: &[Wanted],
) -> Result<Begun> {
    let finished = survey(dir, identity, cache, codecs, wanted)?;
    let pending: Vec<usize> = (0..finished.len()).filter(|&shard| finished[shard].is_none()).collect();
    let expected = Manifest::load(dir).map_or_else(|_| Vec::new(), |manifest| manifest.shards);
    if !pending.is_empty() && expected.is_empty() {
        reopen(dir, &finished)?;
    }
    Ok(Begun { finished, pending, expected })
}

/// Takes the manifest away before shards change under it; the records of the good ones stay.
///
/// # Errors
/// When the directory cannot be written.
pub fn reopen(dir: &Path, finished: &[Option<ShardEntry>]) -> Result<()> {
    if !dir.join(MANIFEST).exists() {
        return Ok(());
    }
    for entry in finished.iter().flatten() {
        write_record(dir, entry)?;
    }
    files::remove(&dir.join(MANIFEST))
}

/// Records that a shard is finished.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_record(dir: &Path, entry: &ShardEntry) -> Result<()> {
    let path = record_path(dir, &entry.file);
    let text = toml::to_string(entry).map_err(|e| Error::format(&path, e.to_string()))?;
    files::write_sealed(&path, &text)
}

/// Writes the manifest of a directory whose shards are all there, and removes the records that it replaces.
///
/// # Errors
/// When the directory cannot be written.
pub fn seal(dir: &Path, entries: Vec<ShardEntry>) -> Result<Manifest> {
    let manifest = Manifest::new(dir, entries)?;
    if Manifest::load(dir).ok().as_ref() != Some(&manifest) {
        manifest.save(dir)?;
    }
    remove_records(dir, manifest.shards.iter().map(|entry| entry.file.as_str()))?;
    Ok(manifest)
}

/// Removes the records of shards by their `files`' names: once the manifest is there, or where they are of no worth.
///
/// # Errors
/// When the directory cannot be written.
pub fn remove_records<'a>(dir: &Path, mut files: impl Iterator<Item = &'a str>) -> Result<()> {
    files.try_for_each(|file| {
        let path = record_path(dir, file);
        files::remove(&path)
    })
}

/// The record of a finished shard.
pub fn read_record(dir: &Path, file: &str) -> Option<ShardEntry> {
    let text = files::read_sealed(&record_path(dir, file)).ok()?;
    toml::from_str(&text).ok().filter(|entry: &ShardEntry| entry.file == file)
}

/// The record of a shard that another process has finished since this one looked; its bytes are not read.
pub fn finished_since(dir: &Path, file: &str) -> Option<ShardEntry> {
    read_record(dir, file).filter(|entry| matches!(entry.size_difference(dir), Ok(None)))
}

/// The entry of a shard whose every row is a wanted one and passes its checksums; `None` when it is not there or bad.
pub(super) fn by_contents(
    dir: &Path,
    identity: &Identity,
    cache: &str,
    codecs: &Arc<CodecModel>,
    wanted: &Wanted,
) -> Result<Option<ShardEntry>> {
    let path = dir.join(&wanted.file);
    if !path.exists() {
        return Ok(None);
    }
    let opened = Rows::open(&path, identity, cache, codecs).and_then(|rows| {
        if rows.keys() == wanted.keys {
            return Ok(rows);
        }
        Err(Error::format(&path, "its rows are not those of the corpus' shard"))
    });
    let rows = match opened {
        Ok(rows) => rows,
        Err(e) => {
            tracing::warn!("{e}; writing it again");
            return Ok(None);
        }
    };
    let (mut scratch, mut bad) = (Vec::new(), None);
    let mut row = |row: usize| -> Result<Row> {
        let mut payload = |&column: &Column| -> Result<Vec<u8>> {
            rows.check(column, row, &mut scratch)?;
            Ok(rows.raw(column, row)?.to_vec())
        };
        let payloads = rows.columns().iter().map(&mut payload).collect::<Result<_>>()?;
        Ok(Row::new(wanted.keys[row].clone(), payloads))
    };
    // Row by row up to the first that is bad: a shard as a whole would take much memory, times the cores.
    let good = (0..wanted.keys.len()).map_while(|at| row(at).map_err(|e| bad = Some(e)).ok());
    // A file's bytes follow from its rows: where they do not, what no checksum covers has changed.
    let found = files::blake3_file(&path)?;
    let all = wanted.keys.len() as u64;
    let is_there = |summary: &ShardSummary| summary.rows < all || summary.blake3 == found;
    let summary = write_shard_unless(&path, identity, cache, good, is_there)?;
    if let Some(e) = bad {
        tracing::warn!("{e}; writing it again");
        return Ok(None);
    }
    if summary.blake3 != found {
        tracing::warn!("{}: its payloads are whole, the rest is not; written again", path.display());
    }
    let frames = wanted.keys.iter().map(|key| u64::from(key.frames)).sum();
    Ok(Some(ShardEntry::new(&wanted.file, frames, summary)))
}

fn record_path(dir: &Path, file: &str) -> PathBuf {
    dir.join(file).with_extension(RECORD)
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::example;
    use super::super::tests::write_cache;
    use super::*;

    /// A complete cache of two shards, and what it has to have.
    fn complete(dir: &Path) -> (Identity, String, Vec<Wanted>) {
        let identity = example(16);
        let keys: Vec<Key> = write_cache(dir, &identity, 2).into_iter().map(|v| v.key).collect();
        let cache = files::blake3_file(&dir.join("cache.toml")).unwrap();
        let wanted = keys.chunks(3).enumerate();
        let wanted = wanted.map(|(i, k)| Wanted { file: format!("shard-{i:05}.parquet"), keys: k.to_vec() });
        (identity, cache, wanted.collect())
    }

    fn surveyed(dir: &Path, of: &(Identity, String, Vec<Wanted>)) -> Vec<Option<ShardEntry>> {
        let codecs = Arc::new(CodecModel::open(dir, &of.0).unwrap());
        survey(dir, &of.0, &of.1, &codecs, &of.2).unwrap()
    }

    fn finished(dir: &Path, of: &(Identity, String, Vec<Wanted>)) -> Vec<bool> {
        surveyed(dir, of).iter().map(Option::is_some).collect()
    }

    #[test]
    fn a_bad_shard_is_found_with_and_without_a_manifest() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let of = complete(dir);
        assert_eq!(finished(dir, &of), [true, true]);
        let path = dir.join("shard-00001.parquet");
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;

        // By the manifest, then by records, then by contents.
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(finished(dir, &of), [true, false]);
        std::fs::write(&path, &good).unwrap();
        let entries = surveyed(dir, &of);
        reopen(dir, &entries).unwrap();
        assert!(!dir.join(MANIFEST).exists() && dir.join("shard-00001.done").exists());
        assert_eq!(surveyed(dir, &of), entries);
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(finished(dir, &of), [true, false]);
        remove_records(dir, of.2.iter().map(|wanted| wanted.file.as_str())).unwrap();
        assert!(!dir.join("shard-00001.done").exists());
        assert_eq!(finished(dir, &of), [true, false]);
        std::fs::write(&path, &good).unwrap();
        assert_eq!(surveyed(dir, &of), entries);
    }

    #[test]
    fn a_shard_of_other_utterances_is_not_taken() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let mut of = complete(dir);
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        of.2[0].keys[1].samples += 1;
        assert_eq!(finished(dir, &of), [false, true]);
        std::fs::remove_file(dir.join("shard-00001.parquet")).unwrap();
        assert_eq!(finished(dir, &of), [false, false]);
    }

    #[test]
    fn a_shard_that_a_manifest_names_is_copied_as_it_names_it_or_not_at_all() {
        let (temporary, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = temporary.path();
        let (identity, cache, wanted) = complete(dir);
        complete(other.path());
        let mut expected = Manifest::load(dir).unwrap().shards;
        let (file, frames, path) = (wanted[1].file.clone(), expected[1].frames, dir.join(&wanted[1].file));
        let from = other.path().join(&file);
        let whole = std::fs::read(&path).unwrap();
        let copy = |expected: &[ShardEntry]| {
            Place { dir, identity: &identity, cache: &cache, expected }.copy(&file, frames, &from)
        };
        std::fs::write(&path, b"damaged").unwrap();
        assert_eq!(copy(&expected).unwrap(), expected[1]);
        assert!(std::fs::read(&path).unwrap() == whole && !record_path(dir, &file).exists());
        std::fs::write(&path, b"damaged").unwrap();
        expected[1].blake3 = "0".repeat(64);
        let refused = copy(&expected).unwrap_err().to_string();
        assert!(refused.contains("made again") && refused.contains(&expected[1].blake3), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"damaged");
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let of = complete(dir);
        reopen(dir, &surveyed(dir, &of)).unwrap();
        let path = dir.join("shard-00000.done");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(finished(dir, &of), [true, true], "the contents speak for themselves");
        assert!(read_record(dir, "shard-00000.parquet").is_some(), "and have their record again");
    }
}
