//! The teacher cache: everything that distillation needs of a teacher, written once.
//!
//! A cache is a directory: `cache.toml` says what it is of ([`identity`]), `shard-*.parquet` hold one row
//! an utterance ([`schema`], [`codec`]; what a codec learned lies in `codec.safetensors`), `manifest.toml` holds every shard's BLAKE3 and, by being there,
//! says that nothing is missing ([`manifest`]).
//!
//! [`merge()`], [`add()`] and [`recode()`] make caches of caches, [`export`] plain files.
//!
//! [`build()`] is stage one: it runs a model over a corpus shard by shard and goes on where it was stopped. Several
//! processes may share that work ([`tasks`]); [`seal()`] then completes the cache.
//! [`Cache`] is what stage two reads: memory-mapped, found by name, every payload checked against its
//! checksum every time.

mod add;
pub mod batches;
mod build;
pub mod codec;
pub mod column;
pub mod encode;
pub mod export;
pub mod forward;
pub mod identity;
mod learn;
mod list;
pub mod manifest;
mod merge;
pub mod nbest;
pub mod plan;
pub mod rate;
mod reader;
mod recode;
pub mod remedy;
mod repair;
mod resume;
pub mod rows;
mod sample;
pub mod schema;
mod seal;
mod settle;
mod stage;
pub mod tasks;
mod together;
mod verify;
mod weights;

pub use add::{AddOptions, Added, add};
pub use build::{CPU_BATCH, GPU_BATCH, Options, Summary, bare, build};
pub use codec::CodecName;
pub use identity::Identity;
pub use list::{Listed, Wish, list, listed};
pub use manifest::{Manifest, ShardEntry};
pub use merge::{MergeOptions, Merged, merge};
pub use reader::{Cache, Entry};
pub use recode::{RecodeOptions, Recoded, recode};
pub use repair::{Repaired, repair};
pub use seal::{Missing, Sealed, Sealing, seal};
pub use tasks::Task;
pub use verify::{Description, describe, examine, verify};
pub use weights::{FrameWeight, frame_weights};

#[cfg(test)]
mod tests;
