//! Plain files for other programs: the decoded columns of a cache as Arrow, NumPy or safetensors.
//!
//! `export.toml` is written first and says what the directory is of, `index.jsonl` last and says where every utterance lies. In
//! between, one shard after the other appears whole: `shard-00000.arrow`, or a directory `shard-00000` of files an utterance.

mod arrow;
mod files_of;
mod look;
mod values;

pub use look::{describe, verify};

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::column::{Column, payloads};
use super::together::interrupted;
use super::{Cache, Entry};
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::progress::Progress;
use crate::signal::Stop;

/// Name of the file that says what an export is of.
pub const EXPORT: &str = "export.toml";
/// Name of the list of utterances; a directory without it is not complete.
pub const INDEX: &str = "index.jsonl";

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Arrow IPC files, one a shard, one row an utterance: pyarrow, polars, pandas, Hugging Face datasets
    Arrow,
    /// One .npy file an utterance and column
    Npy,
    /// One .safetensors file an utterance
    Safetensors,
}

/// Numbers of hidden states, posteriors and softmax; frame weights are single precision in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Half precision
    F16,
    /// Single precision
    F32,
}

/// Which utterances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// So many from the first on.
    First(usize),
    /// These, in the cache's order.
    Named(Vec<String>),
    /// Those that a file names, one a line.
    File(PathBuf),
}

impl FromStr for Selection {
    type Err = String;

    /// `first:N`, `@FILE` or names with commas between them.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Some(count) = text.strip_prefix("first:") {
            return count.parse().map(Self::First).map_err(|_| format!("expected first:N, found {text}"));
        }
        if let Some(path) = text.strip_prefix('@') {
            return Ok(Self::File(PathBuf::from(path)));
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err("expected names with commas between them, first:N or @FILE".to_owned());
        }
        Ok(Self::Named(names))
    }
}

/// What to export, where to, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A complete cache.
    pub cache: PathBuf,
    /// The directory to make or to complete.
    pub out: PathBuf,
    /// Kind of files.
    pub format: Format,
    /// Numbers.
    pub dtype: Dtype,
    /// Names of payload columns; all when empty.
    pub columns: Vec<String>,
    /// Which utterances.
    pub utterances: Selection,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Utterances of the complete export.
    pub utterances: usize,
    /// Their output frames.
    pub frames: u64,
    /// Shards of the export, and how many of them were written by this run.
    pub shards: (usize, usize),
}

/// What an export is of, as `export.toml` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportIdentity {
    /// BLAKE3 of the `cache.toml` of the cache.
    cache: String,
    /// Name of its teacher.
    teacher: String,
    format: Format,
    dtype: Dtype,
    columns: Vec<String>,
    /// How many.
    utterances: usize,
    /// BLAKE3 of their names, each followed by a line end.
    names: String,
}

impl ExportIdentity {
    fn read(path: &Path) -> Result<Self> {
        toml::from_str(&files::read_sealed(path)?).map_err(|e| Error::format(path, e.message().to_owned()))
    }
}

/// What the writers of files need.
struct Job<'a> {
    cache: &'a Cache,
    columns: &'a [Column],
    dtype: Dtype,
    progress: &'a Progress,
}

/// Writes plain files of a cache, or what is missing of them. What is in memory at a time is a few utterances.
///
/// # Errors
/// When the cache has no such column or utterance, a payload is damaged, or `out` holds something else; what is finished stays.
pub fn export(options: &ExportOptions, stop: &Stop) -> Result<Exported> {
    let cache = Cache::open(&options.cache)?;
    let columns = columns(&cache, &options.columns)?;
    let selected = select(&cache, &options.utterances)?;
    let mut names = blake3::Hasher::new();
    for &index in &selected {
        names.update(cache.entries()[index].utterance.as_bytes()).update(b"\n");
    }
    let identity = ExportIdentity {
        cache: cache.manifest().identity.clone(),
        teacher: cache.identity().teacher.name.clone(),
        format: options.format,
        dtype: options.dtype,
        columns: columns.iter().map(ToString::to_string).collect(),
        utterances: selected.len(),
        names: names.finalize().to_hex().to_string(),
    };
    let out = options.out.as_path();
    files::require_own(out, &[EXPORT], "export")?;
    // Before anything is written there, and under the lock once more.
    begun(&identity, out)?;
    files::create_dir(out)?;
    let _lock = DirectoryLock::acquire(out)?;
    files::sweep(out)?;
    settle(&identity, out)?;

    let shards = by_shard(&cache, &selected);
    let target = |shard: u32| {
        let file = &cache.manifest().shards[shard as usize].file;
        let name = file.strip_suffix(".parquet").unwrap_or(file);
        if options.format == Format::Arrow { format!("{name}.arrow") } else { name.to_owned() }
    };
    let pending: Vec<&(u32, Vec<usize>)> =
        shards.iter().filter(|(shard, _)| !out.join(target(*shard)).exists()).collect();
    let progress =
        Progress::new("export", "utterances", pending.iter().map(|(_, rows)| rows.len() as u64).sum());
    let job = Job { cache: &cache, columns: &columns, dtype: options.dtype, progress: &progress };
    for (shard, rows) in &pending {
        if stop.requested() {
            return Err(interrupted());
        }
        let path = out.join(target(*shard));
        match options.format {
            Format::Arrow => arrow::write(&job, rows, &path)?,
            format => files_of::write(&job, rows, &path, format)?,
        }
    }
    progress.finish();
    if !out.join(INDEX).exists() {
        let place = |shard: u32, row: usize, entry: &Entry| match options.format {
            Format::Arrow => serde_json::json!({ "file": target(shard), "row": row }),
            Format::Npy => {
                serde_json::json!({ "files": files_of::npy_names(&target(shard), entry, &columns) })
            }
            Format::Safetensors => {
                serde_json::json!({ "file": files_of::name(&target(shard), entry, "safetensors") })
            }
        };
        files::write(&out.join(INDEX), index(&cache, &shards, &place).as_bytes())?;
    }
    let frames = selected.iter().map(|&index| u64::from(cache.entries()[index].frames)).sum();
    Ok(Exported { utterances: selected.len(), frames, shards: (shards.len(), pending.len()) })
}

/// Makes `out` an export of `identity`, or refuses it as another.
fn settle(identity: &ExportIdentity, out: &Path) -> Result<()> {
    if begun(identity, out)? {
        return Ok(());
    }
    let path = out.join(EXPORT);
    let text = toml::to_string(identity).map_err(|e| Error::format(&path, e.to_string()))?;
    files::write_sealed(&path, &text)
}

/// Whether `out` is an export of `identity` already.
///
/// # Errors
/// When it is another one; what differs is named.
fn begun(identity: &ExportIdentity, out: &Path) -> Result<bool> {
    let path = out.join(EXPORT);
    if !path.exists() {
        return Ok(false);
    }
    let found = ExportIdentity::read(&path)?;
    if found == *identity {
        return Ok(true);
    }
    let lines = |identity: &ExportIdentity| {
        let text = toml::to_string(identity).map_err(|e| Error::format(&path, e.to_string()));
        text.map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (here, there) = (lines(identity)?, lines(&found)?);
    let only = |a: &[String], b: &[String]| -> String {
        a.iter().filter(|line| !b.contains(line)).map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    Err(Error::mismatch(
        format!("{} is another export", out.display()),
        only(&here, &there),
        only(&there, &here),
        "give another --out",
    ))
}

/// The payload columns of these names, in the cache's order; all of them without a name.
fn columns(cache: &Cache, names: &[String]) -> Result<Vec<Column>> {
    let all = payloads(cache.identity());
    let known: Vec<String> = all.iter().map(ToString::to_string).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(Error::invalid(format!(
            "--columns: {} has no column {unknown}, it has {}",
            cache.dir().display(),
            known.join(", ")
        )));
    }
    let wanted = |name: &String| names.is_empty() || names.contains(name);
    Ok(all.into_iter().zip(&known).filter(|(_, name)| wanted(name)).map(|(column, _)| column).collect())
}

/// Indexes of the selected utterances, ascending.
fn select(cache: &Cache, selection: &Selection) -> Result<Vec<usize>> {
    let count = cache.entries().len();
    let names = match selection {
        Selection::All => return Ok((0..count).collect()),
        Selection::First(wanted) => return Ok((0..count.min(*wanted)).collect()),
        Selection::Named(names) => names.clone(),
        Selection::File(path) => {
            let text = files::read_text(path)?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
    };
    let find = |name: &String| {
        let missing = || format!("--utterances: {} has no utterance {name}", cache.dir().display());
        cache.find(name).ok_or_else(|| Error::invalid(missing()))
    };
    let mut found = names.iter().map(find).collect::<Result<Vec<_>>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The selected utterances of every shard that has some.
fn by_shard(cache: &Cache, selected: &[usize]) -> Vec<(u32, Vec<usize>)> {
    let mut shards: Vec<(u32, Vec<usize>)> = Vec::new();
    for &index in selected {
        let shard = cache.entries()[index].shard;
        match shards.last_mut() {
            Some((last, rows)) if *last == shard => rows.push(index),
            _ => shards.push((shard, vec![index])),
        }
    }
    shards
}

/// The list of utterances: a JSON object a line.
fn index(
    cache: &Cache,
    shards: &[(u32, Vec<usize>)],
    place: &dyn Fn(u32, usize, &Entry) -> serde_json::Value,
) -> String {
    let mut text = String::new();
    for (shard, rows) in shards {
        for (row, &index) in rows.iter().enumerate() {
            let entry = &cache.entries()[index];
            let mut line = values::about(entry);
            if let (Some(line), serde_json::Value::Object(place)) =
                (line.as_object_mut(), place(*shard, row, entry))
            {
                line.extend(place);
            }
            text.push_str(&line.to_string());
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests;
