//! Back-off n-gram models over words: read from ARPA files, scored, and built from text.

mod arpa;
mod kneser_ney;
mod ngram;
mod text;

pub use kneser_ney::{Built, build};
pub use ngram::{END, History, MAX_ORDER, NGram, START, UNKNOWN};
pub use text::{BuildOptions, build_file};
