//! The outcome of an evaluation.

use super::bootstrap::{SEED, interval};
use super::{Counts, Scores, char_errors, normalise_spaces, word_errors};
use crate::decode::Transcript;

/// One utterance recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UtteranceScore {
    /// The utterance's id in the corpus.
    pub id: String,
    /// The corpus's text.
    pub reference: String,
    /// What the model made of it, with single spaces between words.
    pub hypothesis: String,
    /// Word errors.
    pub words: Counts,
    /// Character errors.
    pub chars: Counts,
    /// Output frames.
    pub frames: usize,
    /// Output frames whose best label is the blank.
    pub blank_frames: usize,
}

/// The scores of a model on a corpus, as a whole and utterance by utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The sums and rates.
    pub scores: Scores,
    /// One entry an utterance, in the corpus's order.
    pub per_utterance: Vec<UtteranceScore>,
}

impl Evaluation {
    /// Adds up utterances; `audio_seconds` is the audio they stand for.
    pub fn from_utterances(per_utterance: Vec<UtteranceScore>, audio_seconds: f64) -> Self {
        let all = |of: fn(&UtteranceScore) -> Counts| per_utterance.iter().map(of).collect::<Vec<_>>();
        let (each_words, each_chars) = (all(|u| u.words), all(|u| u.chars));
        let words: Counts = each_words.iter().copied().sum();
        let chars: Counts = each_chars.iter().copied().sum();
        let frames: usize = per_utterance.iter().map(|u| u.frames).sum();
        let blanks: usize = per_utterance.iter().map(|u| u.blank_frames).sum();
        let scores = Scores {
            model: None,
            corpus: None,
            search: None,
            wer: words.rate(),
            cer: chars.rate(),
            words: words.reference,
            errors: words.errors,
            substitutions: words.substitutions,
            insertions: words.insertions,
            deletions: words.deletions,
            utterances: per_utterance.len(),
            characters: chars.reference,
            character_errors: chars.errors,
            blank_rate: 100.0 * blanks as f64 / frames.max(1) as f64,
            all_blank: per_utterance.iter().all(|u| u.hypothesis.is_empty()),
            wer_interval: interval(&each_words, SEED),
            cer_interval: interval(&each_chars, SEED),
            audio_seconds,
        };
        Self { scores, per_utterance }
    }
}

impl UtteranceScore {
    /// Compares a decoded utterance with its reference.
    pub fn new(id: &str, reference: &str, transcript: &Transcript) -> Self {
        let hypothesis = normalise_spaces(&transcript.text);
        Self {
            id: id.to_owned(),
            reference: reference.to_owned(),
            words: word_errors(reference, &hypothesis),
            chars: char_errors(reference, &hypothesis),
            hypothesis,
            frames: transcript.frames,
            blank_frames: transcript.blank_frames,
        }
    }
}
