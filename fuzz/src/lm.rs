//! See `src/lm`.

#[path = "../../src/lm/arpa.rs"]
mod arpa;
#[path = "../../src/lm/ngram.rs"]
mod ngram;

pub use ngram::{History, NGram};
