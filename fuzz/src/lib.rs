//! The reading half of tutornet under its own paths, and what is fuzzed of it ([`checks`]).

#![allow(dead_code, unused_imports, reason = "only half of the house stands here")]

extern crate self as tutornet;

pub mod cache;
pub mod checks;
mod decode;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/features/mod.rs"]
pub mod features;
pub mod files;
mod kernels;
#[path = "../../src/labels.rs"]
pub mod labels;
mod lm;
pub mod models;
#[path = "../../src/random.rs"]
pub mod random;
#[path = "../../src/shard/mod.rs"]
pub mod shard;
#[path = "../../src/signal.rs"]
pub mod signal;
#[path = "../../src/store/mod.rs"]
pub mod store;

pub use error::{Error, Result};
