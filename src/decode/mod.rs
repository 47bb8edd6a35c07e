//! From logits to text: greedy decoding, CTC prefix beam search, and a model run for its text.

mod beam;
mod greedy;
mod prefix;
mod recognise;
mod search;

pub use beam::{BeamOptions, BeamSearch, Hypothesis};
pub use greedy::{Transcript, greedy};
pub use recognise::{recognise, transcribe_file};
pub use search::{Decoder, SearchSettings, log_softmax};
