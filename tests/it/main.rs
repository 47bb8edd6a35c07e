//! Everything through the binary: one test program, one file per part.

mod cache;
mod corpus;
mod flac;
mod golden_cache;
mod harness;
mod import;
mod kernels;
mod nemo;
mod parity;
mod report;
mod score;
mod train;
