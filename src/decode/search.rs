//! Which way a model's frames become text, and what it was searched with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Transcript;
use super::beam::{BeamOptions, BeamSearch};
use crate::error::Result;
use crate::files;
use crate::labels::Labels;
use crate::lm::NGram;

/// What a beam search was run with, for results that must say so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    /// Prefixes kept after every frame.
    pub beam: usize,
    /// BLAKE3 of the language model's file, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lm: Option<String>,
    /// Factor of log10 p of the language model.
    pub lm_weight: f64,
    /// Added for every word.
    pub word_bonus: f64,
    /// Whether only the language model's words were admitted.
    pub lexicon: bool,
}

impl std::fmt::Display for SearchSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { beam, lm, lm_weight, word_bonus, lexicon } = self;
        write!(f, "a beam of {beam}, word bonus {word_bonus}")?;
        match lm {
            Some(lm) => write!(f, ", {lm_weight} x the language model {lm:.12}")?,
            None => f.write_str(", no language model")?,
        }
        f.write_str(if *lexicon { ", its words alone" } else { "" })
    }
}

/// From logits to text.
#[derive(Debug, Clone, Default)]
pub enum Decoder {
    /// The best label of every frame.
    #[default]
    Greedy,
    /// A prefix beam search.
    Beam(Box<BeamSearch>, SearchSettings),
}

impl Decoder {
    /// A beam search with the language model of an ARPA file, or without one.
    ///
    /// # Errors
    /// When the file cannot be read, or an option cannot work.
    pub fn beam(options: BeamOptions, lm: Option<&Path>) -> Result<Self> {
        let settings = SearchSettings {
            beam: options.beam,
            lm: lm.map(files::blake3_file).transpose()?,
            lm_weight: options.lm_weight,
            word_bonus: options.word_bonus,
            lexicon: options.lexicon,
        };
        let model = lm.map(NGram::read).transpose()?;
        Ok(Self::Beam(Box::new(BeamSearch::new(options, model)?), settings))
    }

    /// Refuses a language model none of whose words can be spelt with `labels`.
    ///
    /// # Errors
    /// See [`BeamSearch::require_words_of`].
    pub fn require_words_of(&self, labels: &Labels) -> Result<()> {
        match self {
            Self::Greedy => Ok(()),
            Self::Beam(search, _) => search.require_words_of(labels),
        }
    }

    /// What is searched with; `None` for greedy decoding.
    pub fn settings(&self) -> Option<&SearchSettings> {
        match self {
            Self::Greedy => None,
            Self::Beam(_, settings) => Some(settings),
        }
    }

    /// The text of one utterance from the first `frames` rows of `logits`, [frames, labels].
    pub fn decode(&self, logits: &[f32], frames: usize, labels: &Labels) -> Transcript {
        let mut transcript = Transcript::greedy(logits, frames, labels);
        if let Self::Beam(search, _) = self {
            let log_p = log_softmax(&logits[..(frames * labels.count()).min(logits.len())], labels.count());
            let best = search.run(&log_p, labels, 1).pop();
            transcript.text = best.map(|hypothesis| hypothesis.text).unwrap_or_default();
        }
        transcript
    }
}

/// Natural logarithms of the softmax of every frame; `logits` is [frames, labels].
#[expect(clippy::cast_possible_truncation, reason = "logarithms are f32")]
pub fn log_softmax(logits: &[f32], labels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for frame in logits.chunks_exact(labels.max(1)) {
        let top = frame.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let norm = f64::from(top) + frame.iter().map(|&z| f64::from(z - top).exp()).sum::<f64>().ln();
        out.extend(frame.iter().map(|&z| (f64::from(z) - norm) as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beam_sums_what_greedy_decoding_cannot_see() {
        // Of "a" and "b" every single frame prefers the blank, but all alignments of "a" together win.
        let labels = Labels { symbols: [" ", "a", "b"].map(String::from).to_vec(), blank: 3 };
        let frame = [0.01f32, 0.44, 0.05, 0.50].map(f32::ln);
        let logits = frame.repeat(2);
        assert_eq!(Decoder::Greedy.decode(&logits, 2, &labels).text, "");
        let beam = Decoder::beam(BeamOptions { word_bonus: 0.0, ..BeamOptions::default() }, None).unwrap();
        let found = beam.decode(&logits, 2, &labels);
        assert_eq!(found, Transcript { text: "a".into(), frames: 2, blank_frames: 2 });
    }

    #[test]
    fn options_that_cannot_work_are_named() {
        for (options, words) in [
            (BeamOptions { beam: 0, ..BeamOptions::default() }, "--beam"),
            (BeamOptions { beam: 100_001, ..BeamOptions::default() }, "--beam: expected 1 to 100000"),
            (BeamOptions { lm_weight: -1.0, ..BeamOptions::default() }, "--lm-weight: expected 0 or more"),
            (BeamOptions { lm_weight: f64::NAN, ..BeamOptions::default() }, "--lm-weight"),
            (BeamOptions { lexicon: true, ..BeamOptions::default() }, "--lexicon"),
        ] {
            assert!(Decoder::beam(options, None).unwrap_err().to_string().contains(words), "{words}");
        }
    }
}
