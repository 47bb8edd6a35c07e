//! Everything through the binary: one test program, one file per part.

mod cache;
mod corpus;
mod deepspeech2;
mod fixture;
mod flac;
mod foreign;
mod golden_cache;
mod golden_corpus;
mod harness;
mod import;
mod kernels;
mod lstm;
mod nemo;
mod objectives;
mod parity;
mod pipelines;
mod recipe;
mod recovery;
mod report;
mod score;
mod speed;
mod train;
mod tree;
