//! The outcome of an evaluation.

use super::bootstrap::{Interval, SEED, interval};
use super::{Counts, char_errors, normalise_spaces, word_errors};
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

/// The scores of a model on a corpus. Rates are percentages.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Word error rate.
    pub wer: f64,
    /// Character error rate.
    pub cer: f64,
    /// Words of the references.
    pub words: u64,
    /// Word errors: substitutions, insertions and deletions.
    pub errors: u64,
    /// Words recognised as others.
    pub substitutions: u64,
    /// Words recognised that were not said.
    pub insertions: u64,
    /// Words said that were not recognised.
    pub deletions: u64,
    /// Character errors and characters of the references.
    pub char_counts: Counts,
    /// Utterances scored.
    pub utterances: usize,
    /// Output frames whose best label is the blank, in percent.
    pub blank_rate: f64,
    /// Whether every hypothesis is empty: such a model has not learned to emit anything, and its
    /// error rate of 100 % says nothing more.
    pub all_blank: bool,
    /// Seconds of audio scored.
    pub audio_seconds: f64,
    /// One entry an utterance, in the corpus's order.
    pub per_utterance: Vec<UtteranceScore>,
}

impl Evaluation {
    /// Adds up utterances; `audio_seconds` is the audio they stand for.
    pub fn from_utterances(per_utterance: Vec<UtteranceScore>, audio_seconds: f64) -> Self {
        let words: Counts = per_utterance.iter().map(|u| u.words).sum();
        let chars: Counts = per_utterance.iter().map(|u| u.chars).sum();
        let frames: usize = per_utterance.iter().map(|u| u.frames).sum();
        let blanks: usize = per_utterance.iter().map(|u| u.blank_frames).sum();
        Self {
            wer: words.rate(),
            cer: chars.rate(),
            words: words.reference,
            errors: words.errors,
            substitutions: words.substitutions,
            insertions: words.insertions,
            deletions: words.deletions,
            char_counts: chars,
            utterances: per_utterance.len(),
            blank_rate: 100.0 * blanks as f64 / frames.max(1) as f64,
            all_blank: per_utterance.iter().all(|u| u.hypothesis.is_empty()),
            audio_seconds,
            per_utterance,
        }
    }

    /// 95 % bootstrap interval of the word error rate.
    pub fn wer_interval(&self) -> Interval {
        interval(&self.per_utterance.iter().map(|u| u.words).collect::<Vec<_>>(), SEED)
    }

    /// 95 % bootstrap interval of the character error rate.
    pub fn cer_interval(&self) -> Interval {
        interval(&self.per_utterance.iter().map(|u| u.chars).collect::<Vec<_>>(), SEED)
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
