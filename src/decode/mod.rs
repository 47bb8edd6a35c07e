//! From logits to text: greedy decoding, and a model run for its text.

mod greedy;
mod recognise;

pub use greedy::{Transcript, greedy};
pub use recognise::{recognise, transcribe_file};
