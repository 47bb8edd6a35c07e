//! Everything through the binary: one test program, one file per part.

mod corpus;
mod flac;
mod harness;
mod import;
mod report;
mod score;
mod train;
