//! From logits to text: greedy decoding.

mod greedy;

pub use greedy::{Transcript, greedy};
