//! Bytes wherever they lie: in a file, or in an object of an S3-compatible bucket.
//!
//! A place is a path. `s3://BUCKET/PREFIX/NAME` names an object, everything else a file; so a directory in a
//! bucket is a path like any other, and what is joined to it names what lies there. [`open`] gives a
//! [`Source`], the one thing that shards are read from; small files are read whole. Nothing is written to a
//! bucket.
//!
//! A process sees one version of an object, the one that it met first: every later request asks for that
//! version, and an object that was replaced is an error.

#[cfg(not(feature = "remote"))]
mod absent;
mod mapped;
#[cfg(feature = "remote")]
mod remote;
mod settings;
mod source;

use std::path::Path;

#[cfg(not(feature = "remote"))]
use absent as remote;
pub use settings::{Settings, heed};
pub use source::{Ahead, Source, View};

use crate::error::{Error, Result};

/// How the address of an object begins.
pub const SCHEME: &str = "s3://";

/// Whether a path names an object, or a directory of objects, in a bucket.
pub fn is_remote(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// Opens a file (as a memory map) or an object.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn open(path: &Path) -> Result<Source> {
    if is_remote(path) {
        return remote::open(path).map(Source::Remote);
    }
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let map = mapped::Mapped::new(&file).map_err(|e| Error::io("map", path, e))?;
    Ok(Source::Mapped(map))
}

/// Reads an object whole.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    remote::open(path)?.read()
}

/// Size of an object; `None` when it is not there.
///
/// # Errors
/// When it cannot be read for another reason, such as a bucket that is not there.
pub fn size(path: &Path) -> Result<Option<u64>> {
    match remote::open(path) {
        Ok(object) => Ok(Some(object.len())),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// BLAKE3 of an object, fetched from its bucket whatever lies in the local copy.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn blake3(path: &Path) -> Result<blake3::Hash> {
    remote::open(path)?.blake3()
}

/// Whether there is such a file or directory, or such an object in a bucket.
///
/// # Errors
/// When a bucket does not say.
pub fn exists(path: &Path) -> Result<bool> {
    if is_remote(path) { Ok(size(path)?.is_some()) } else { Ok(path.exists()) }
}

/// Names of what lies in a directory, or of the objects directly below a prefix of a bucket, sorted.
///
/// # Errors
/// When it cannot be listed.
pub fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = if is_remote(directory) {
        remote::names(directory)?
    } else {
        let entries = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    names.sort();
    Ok(names)
}

/// Refuses a place in a bucket where something is to be written, or looked for in directories.
///
/// # Errors
/// With what to do instead.
pub fn require_local(path: &Path) -> Result<()> {
    if !is_remote(path) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{}: expected a local directory: nothing is written to a bucket, or listed there; the README says how to copy there what \
         is finished",
        path.display()
    )))
}

/// What was fetched so far, in words; `None` when no bucket was asked.
pub fn traffic() -> Option<String> {
    remote::traffic()
}
