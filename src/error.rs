//! The library's error: what was expected, what was found, where, and what to do next.

use std::path::{Path, PathBuf};

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, each with the place where it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a path.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `read`, `create`, `rename` ...
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's own word.
        source: std::io::Error,
    },
    /// A file exists but its contents are not what this program writes or understands.
    #[error("{}: {detail}", path.display())]
    Format {
        /// The file concerned.
        path: PathBuf,
        /// Expected, found and the next step, in one sentence or two.
        detail: String,
    },
    /// Bytes differ from the checksum that was stored with them.
    #[error("{}: utterance {utterance}, column {column}: {detail}; `tutornet verify {}` lists every bad row",
        path.display(), path.parent().unwrap_or(path).display())]
    Corrupt {
        /// The shard.
        path: PathBuf,
        /// The utterance whose bytes are bad.
        utterance: String,
        /// The column that was read.
        column: String,
        /// Expected and found.
        detail: String,
    },
    /// Two things that must agree do not (corpus and cache, model and frontend, ...).
    #[error("{what}: expected {expected}, found {found}; {hint}")]
    Mismatch {
        /// What was compared and where.
        what: String,
        /// The value required.
        expected: String,
        /// The value met.
        found: String,
        /// What to do next.
        hint: String,
    },
    /// An argument, a key or a combination that cannot work.
    #[error("{0}")]
    Invalid(String),
    /// The device is not there, or failed.
    #[error("device {device}: {detail}")]
    Device {
        /// The device as the user named it.
        device: String,
        /// What happened, and which devices there are.
        detail: String,
    },
    /// The loss was not finite too often in a row.
    #[error("{0}")]
    NonFinite(String),
    /// A signal asked the program to stop; what was complete has been kept.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// Wraps a system error with the path and the verb of what was attempted.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// Whether the system does not allow it: missing rights, or a file system that is only read.
    pub fn is_refusal(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }

    /// A file whose contents cannot be used.
    pub fn format(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_path_buf(), detail: detail.into() }
    }

    /// An argument or combination that cannot work.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid(detail.into())
    }

    /// Two values that must agree and do not.
    pub fn mismatch(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Mismatch {
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
            hint: hint.into(),
        }
    }
}
