//! The teacher cache: everything that distillation needs of a teacher, written once.
//!
//! A cache is a directory: `cache.toml` says what it is of ([`identity`]), `shard-*.parquet` hold one row
//! an utterance ([`schema`], [`codec`]), `manifest.toml` holds every shard's BLAKE3 and, by being there,
//! says that nothing is missing ([`manifest`]).
//!
//! `build` is stage one: it runs a model over a corpus shard by shard and goes on where it was stopped.
//! [`Cache`] is what stage two reads: memory-mapped, found by name, every payload checked against its
//! checksum every time.

pub mod codec;
pub mod encode;
pub mod identity;
pub mod manifest;
mod reader;
pub mod rows;
pub mod schema;

pub use identity::Identity;
pub use manifest::{Manifest, ShardEntry};
pub use reader::{Cache, Entry};

#[cfg(test)]
mod tests;
