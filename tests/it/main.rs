//! Everything through the binary: one test program, one file per part.

mod corpus;
mod flac;
mod harness;
mod import;
mod nemo;
mod parity;
mod report;
mod score;
mod train;
