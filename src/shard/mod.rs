//! Parquet files of one row an utterance, shared by corpora and caches.
//!
//! A shard has two kinds of columns. Small ones (names, counts, hashes) are read whole when the
//! shard is opened. Payload columns hold one binary value a row, on ONE data page a row, so that
//! an utterance is found through the offset index and read without its neighbours. Dictionary
//! and statistics are off and the zstd level is explicit, so that the bytes of a file are a
//! function of its rows and of this crate's version alone.

mod copy;
mod page;
pub(crate) mod reader;
mod writer;

pub use copy::copy_shard;
pub use reader::{Shard, hashes, strings, u32s, u64s};
pub use writer::{ShardSummary, ShardWriter};

/// zstd level of every column. Higher levels buy nothing on hidden states.
pub const ZSTD_LEVEL: i32 = 1;

/// Rows buffered before a row group is written.
pub const ROWS_PER_GROUP: usize = 64;

/// Version of the bytes that [`ShardWriter`] makes of the same rows; stands in every file's `created_by`.
///
/// Raise it when a new version of this crate or of its dependencies writes other bytes: a directory
/// that one version began is then not finished by another.
pub const WRITER: u32 = 1;

/// One thing that `verify` found wrong in a corpus or a cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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
    pub fn file(path: impl AsRef<std::path::Path>, detail: impl Into<String>) -> Self {
        Self { path: path.as_ref().to_path_buf(), utterance: None, column: None, detail: detail.into() }
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
