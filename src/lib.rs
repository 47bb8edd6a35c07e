//! Knowledge distillation for speech recognisers, in two stages that meet on disk.
//!
//! Data walks through this crate one way:
//!
//! 1. [`corpus`] turns a LibriSpeech tree into Parquet shards of log-mel features ([`features`]).
//! 2. [`models`] builds recognisers from a configuration, or imports trained ones.
//! 3. [`cache`] runs a teacher ONCE over a corpus and keeps, for every utterance, the last hidden
//!    layer, one weight a frame and the posterior.
//! 4. [`train`] memory-maps caches and trains students on the objectives of [`distill`]; it never
//!    loads a teacher.
//! 5. [`decode`] (with the n-gram models of [`lm`]) and [`score`] turn logits into text and text into
//!    error rates; [`report`] puts runs side by side.
//!
//! Between two steps lies a directory that can be inspected, verified, copied and read without
//! this program: its tables are the Parquet files of [`shard`], its texts are TOML. Stage two and all that only
//! reads takes it from a bucket as well ([`store`]).
//! The method is that of Yoon et al., "TutorNet: Towards Flexible Knowledge Distillation for
//! End-to-End Speech Recognition" (2021).

pub mod cache;
pub mod cli;
pub mod corpus;
pub mod decode;
pub mod device;
pub mod distill;
pub mod error;
pub mod features;
pub mod files;
pub mod kernels;
pub mod labels;
pub mod lm;
pub mod memory;
pub mod models;
pub mod progress;
pub mod random;
pub mod report;
pub mod score;
pub mod shard;
pub mod signal;
pub mod store;
pub mod train;

pub use error::{Error, Result};
