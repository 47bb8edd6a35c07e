//! How well a model recognises: word and character error rates with their uncertainty.
//!
//! [`evaluate`] runs a model over a corpus, [`word_errors`] and [`char_errors`] compare one
//! hypothesis with its reference, [`bootstrap`] says how far a rate can be trusted, and
//! [`Scores`] is what lies on disk between `tutornet eval` and `tutornet report`.

mod align;
mod batches;
pub mod bootstrap;
mod evaluate;
mod evaluation;
mod scores;
mod wer;

pub use align::{aligned, aligned_words};
pub use evaluate::{EvaluateOptions, evaluate};
pub use evaluation::{Evaluation, UtteranceScore};
pub use scores::{Scores, Subject, read_utterance_scores, write_utterance_scores};
pub use wer::{Counts, char_errors, normalise_spaces, word_errors};
