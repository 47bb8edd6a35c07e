//! What `verify` says of the files of a corpus or a cache, and how it goes over many of them at once.

use std::path::Path;

use crossbeam::channel::unbounded;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::Error;
use crate::store;

/// One thing that `verify` found wrong in a corpus or a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: std::path::PathBuf,
    /// The utterance whose bytes are bad, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utterance: Option<String>,
    /// The column, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Expected and found.
    pub detail: String,
}

impl Problem {
    /// A problem of a whole file.
    pub fn file(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Self { path: path.as_ref().to_path_buf(), utterance: None, column: None, detail: detail.into() }
    }

    /// What an error says of a file, without the place, which a problem names itself.
    pub fn of(path: impl AsRef<Path>, error: &Error) -> Self {
        Self::file(path, words(error))
    }

    /// The same of one payload.
    pub fn payload(path: &Path, utterance: &str, column: impl ToString, error: &Error) -> Self {
        let (utterance, column) = (Some(utterance.to_owned()), Some(column.to_string()));
        Self { path: path.to_path_buf(), utterance, column, detail: words(error) }
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Io { action, source, .. } => format!("cannot {action}: {source}"),
        Error::Format { detail, .. } | Error::Corrupt { detail, .. } => detail.clone(),
        other => other.to_string(),
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(utterance) = &self.utterance {
            write!(f, "utterance {utterance}, ")?;
        }
        if let Some(column) = &self.column {
            write!(f, "column {column}: ")?;
        }
        write!(f, "{}", self.detail)
    }
}

/// How a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it was written.
    Ok,
    /// Not as it was written.
    Damaged,
    /// Not there.
    Missing,
    /// There, but of no complete corpus or cache that lies here.
    Surplus,
}

/// One file as `verify` found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name within the directory.
    pub file: String,
    /// How it was found.
    pub state: State,
    /// Its size, where it is there.
    pub bytes: Option<u64>,
    /// What is wrong with it.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

impl FileReport {
    /// The file `file` of `dir` with what is wrong with it.
    pub fn new(dir: &Path, file: &str, problems: Vec<Problem>) -> Self {
        let path = dir.join(file);
        let bytes = if store::is_remote(&path) {
            store::size(&path).ok().flatten()
        } else {
            std::fs::metadata(&path).ok().filter(|m| m.is_file()).map(|m| m.len())
        };
        let state = match bytes {
            _ if problems.is_empty() => State::Ok,
            None => State::Missing,
            Some(_) => State::Damaged,
        };
        Self { file: file.to_owned(), state, bytes, problems }
    }

    /// A file that should not be there.
    pub fn surplus(dir: &Path, file: &str, detail: String) -> Self {
        Self { state: State::Surplus, ..Self::new(dir, file, vec![Problem::file(dir.join(file), detail)]) }
    }
}

/// Checks `files` on all cores, each with its number of bytes; `progress` is told bytes done and in all. The order of
/// the result is that of `files`.
pub fn check_all<T: Sync>(
    files: &[(T, u64)],
    check: impl Fn(&T) -> FileReport + Sync,
    progress: &mut dyn FnMut(u64, u64),
) -> Vec<FileReport> {
    let total = files.iter().map(|(_, bytes)| bytes).sum();
    let (sender, ready) = unbounded();
    std::thread::scope(|scope| {
        let reports = scope.spawn(|| {
            let one = |sender: &mut crossbeam::channel::Sender<u64>, (file, bytes): &(T, u64)| {
                let report = check(file);
                // Whoever counts may have stopped; nothing depends on it.
                let _ = sender.send(*bytes);
                report
            };
            files.par_iter().map_with(sender, one).collect()
        });
        let mut done = 0;
        progress(done, total);
        for bytes in ready {
            done += bytes;
            progress(done, total);
        }
        match reports.join() {
            Ok(reports) => reports,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
