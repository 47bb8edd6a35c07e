//! Parquet files of one row an utterance, shared by corpora and caches.
//!
//! A shard has two kinds of columns. Small ones (names, counts, hashes) are read whole when the
//! shard is opened. Payload columns hold one binary value a row, on ONE data page a row, so that
//! an utterance is found through the offset index and read without its neighbours. Dictionary
//! and statistics are off and the zstd level is explicit, so that the bytes of a file are a
//! function of its rows and of this crate's version alone.

mod checksum;
mod copy;
mod guard;
mod page;
pub(crate) mod reader;
mod report;
mod writer;

pub use checksum::xxh3_128;
pub use copy::copy_shard;
pub use reader::{Shard, hashes, strings, u32s, u64s};
pub use report::{FileReport, Problem, State, check_all};
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
