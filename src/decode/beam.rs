//! CTC prefix beam search (Hannun et al., 2014) with an n-gram model over words.
//!
//! A prefix is a text; its probability sums every alignment that spells it, kept apart by whether the last
//! frame was a blank. A finished word adds `weight * log10 p(word | words before) + bonus`: the scale of
//! OpenSeq2Seq's `ctc_beam_search_decoder.cpp`, where the weight multiplies KenLM's base-10 logarithm and
//! everything else is natural. As there, the last word is scored at the end and the sentence's end is not.
//! Texts neither begin nor end with a space, and have no two in a row: alignments that spell such do not count.

use serde::{Deserialize, Serialize};

use super::prefix;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::lm::NGram;

/// More prefixes than this are a slip of the keyboard, and would not fit into memory.
const MAX_BEAM: usize = 100_000;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeamOptions {
    /// Prefixes kept after every frame.
    pub beam: usize,
    /// Factor of log10 p of the n-gram model.
    pub lm_weight: f64,
    /// Added for every word.
    pub word_bonus: f64,
    /// Only words that the n-gram model has.
    pub lexicon: bool,
}

impl Default for BeamOptions {
    /// The paper's search: beam 256, weight 2.0, bonus 1.5.
    fn default() -> Self {
        Self { beam: 256, lm_weight: 2.0, word_bonus: 1.5, lexicon: false }
    }
}

/// A text and what it scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The text, single spaces between words.
    pub text: String,
    /// `acoustic + language`: what the search ranks by.
    pub score: f64,
    /// ln of the sum over the alignments that the beam kept.
    pub acoustic: f64,
    /// Weighted scores of the n-gram model, and word bonuses.
    pub language: f64,
}

/// A search that is ready to run.
#[derive(Debug, Clone)]
pub struct BeamSearch {
    options: BeamOptions,
    lm: Option<NGram>,
    /// The lexicon, sorted; empty without one.
    words: Vec<Box<str>>,
}

impl BeamSearch {
    /// A search with the words of a language model, or with the labels alone.
    ///
    /// # Errors
    /// When an option cannot work: a beam of nothing, a weight that is no number, a lexicon without a model.
    pub fn new(options: BeamOptions, lm: Option<NGram>) -> Result<Self> {
        if !(1..=MAX_BEAM).contains(&options.beam) {
            return Err(Error::invalid(format!("--beam: expected 1 to {MAX_BEAM}, found {}", options.beam)));
        }
        if options.lm_weight < 0.0 {
            let found = options.lm_weight;
            return Err(Error::invalid(format!("--lm-weight: expected 0 or more, found {found}")));
        }
        for (name, value) in [("--lm-weight", options.lm_weight), ("--word-bonus", options.word_bonus)] {
            if !value.is_finite() {
                return Err(Error::invalid(format!("{name}: expected a finite number, found {value}")));
            }
        }
        let mut words: Vec<Box<str>> = match (&lm, options.lexicon) {
            (Some(lm), true) => lm.words().map(Box::from).collect(),
            (None, true) => return Err(Error::invalid("--lexicon: its words are those of --lm; give one")),
            _ => Vec::new(),
        };
        words.sort_unstable();
        Ok(Self { options, lm, words })
    }

    /// Refuses a language model none of whose words can be spelt with `labels`: nothing would match it.
    ///
    /// # Errors
    /// Names one of the words.
    pub fn require_words_of(&self, labels: &Labels) -> Result<()> {
        let Some(lm) = &self.lm else { return Ok(()) };
        if lm.words().any(|word| labels.encode(word).is_ok()) {
            return Ok(());
        }
        let example = lm.words().min().unwrap_or("none");
        Err(Error::mismatch(
            "words of the language model",
            format!("words of the model's labels ({labels})"),
            format!("none of them, for example `{example}`"),
            "labels are lower case: write the words of the ARPA file so, or build one with `tutornet lm build`",
        ))
    }

    /// How it searches.
    pub fn options(&self) -> &BeamOptions {
        &self.options
    }

    /// The `count` best texts of one utterance, best first. `log_p` is [frames, labels]: ln softmax of the
    /// logits. With a lexicon that spells nothing of the beam, there may be none.
    pub fn run(&self, log_p: &[f32], labels: &Labels, count: usize) -> Vec<Hypothesis> {
        prefix::search(log_p, labels, self.lm.as_ref(), &self.words, &self.options, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::prefix::log_add;
    use std::collections::BTreeMap;

    /// Labels: space, a, b; the blank is 3.
    fn labels() -> Labels {
        Labels { symbols: [" ", "a", "b"].map(String::from).to_vec(), blank: 3 }
    }

    /// ln softmax of numbers that look random and are the same everywhere.
    fn log_p(frames: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut rows = Vec::new();
        for _ in 0..frames {
            let row: Vec<f64> = (0..4)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as f64 / 2f64.powi(31) * 3.0
                })
                .collect();
            let sum = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            rows.extend(row.iter().map(|z| (z - sum) as f32));
        }
        rows
    }

    /// ln p of every text, over all 4^frames alignments that spell it to the letter.
    fn every_text(log_p: &[f32], labels: &Labels) -> BTreeMap<String, f64> {
        let frames = log_p.len() / 4;
        let mut texts: BTreeMap<String, f64> = BTreeMap::new();
        for path in 0..4usize.pow(u32::try_from(frames).unwrap()) {
            let at = |t: usize| path >> (2 * t) & 3;
            let spelled: String = (0..frames)
                .filter(|&t| t == 0 || at(t) != at(t - 1))
                .filter_map(|t| labels.symbol(at(t)))
                .collect();
            let text = spelled.trim().to_owned();
            if text.len() < spelled.len() || text.contains("  ") {
                continue;
            }
            let p: f64 = (0..frames).map(|t| f64::from(log_p[t * 4 + at(t)])).sum();
            let sum = texts.entry(text).or_insert(f64::NEG_INFINITY);
            *sum = log_add(*sum, p);
        }
        texts
    }

    const ALL: BeamOptions = BeamOptions { beam: 100_000, lm_weight: 2.0, word_bonus: 0.0, lexicon: false };

    fn beam_search(
        log_p: &[f32],
        labels: &Labels,
        lm: Option<NGram>,
        options: &BeamOptions,
    ) -> Vec<Hypothesis> {
        BeamSearch::new(*options, lm).unwrap().run(log_p, labels, usize::MAX)
    }

    #[test]
    fn a_wide_beam_finds_the_probability_of_every_text() {
        let labels = labels();
        for seed in 1..4 {
            let log_p = log_p(6, seed);
            let texts = every_text(&log_p, &labels);
            let found = beam_search(&log_p, &labels, None, &ALL);
            assert_eq!(found.len(), texts.len());
            assert!(found.windows(2).all(|w| w[0].score >= w[1].score));
            for h in &found {
                assert!((h.acoustic - texts[&h.text]).abs() < 1e-9, "{h:?} {}", texts[&h.text]);
            }
            // A narrow beam keeps the order of what it keeps, and never claims more than there is.
            for h in beam_search(&log_p, &labels, None, &BeamOptions { beam: 8, ..ALL }) {
                assert!(h.acoustic <= texts[&h.text] + 1e-9);
            }
        }
        assert_eq!(beam_search(&[], &labels, None, &ALL)[0].text, "");
    }

    fn model() -> NGram {
        let built = crate::lm::build(["a ab", "ab ba a", "a a"].into_iter(), &[], 3).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &built.arpa).unwrap();
        NGram::read(file.path()).unwrap()
    }

    #[test]
    fn words_are_weighed_by_the_model() {
        let (labels, lm, log_p) = (labels(), model(), log_p(6, 5));
        let options = BeamOptions { word_bonus: 1.5, ..ALL };
        let texts = every_text(&log_p, &labels);
        let found = beam_search(&log_p, &labels, Some(lm.clone()), &options);
        assert_eq!(found.len(), texts.len());
        for h in &found {
            let (mut history, mut language) = (lm.start(), 0.0);
            for word in h.text.split_whitespace() {
                let (score, next) = lm.score(&history, word);
                language += 2.0 * f64::from(score) / std::f64::consts::LN_10 + 1.5;
                history = next;
            }
            assert!((h.language - language).abs() < 1e-6, "{h:?} {language}");
            assert!((h.score - texts[&h.text] - language).abs() < 1e-6);
        }
        let best =
            texts.keys().map(|t| found.iter().find(|h| h.text == *t).unwrap().score).fold(f64::MIN, f64::max);
        assert!((found[0].score - best).abs() < 1e-12);
    }

    #[test]
    fn a_lexicon_admits_its_words_only() {
        let (labels, lm, log_p) = (labels(), model(), log_p(7, 6));
        let options = BeamOptions { lexicon: true, ..ALL };
        let found = beam_search(&log_p, &labels, Some(lm.clone()), &options);
        let words = ["a", "ab", "ba"];
        let allowed = |text: &str| text.split_whitespace().all(|w| words.contains(&w));
        assert!(found.len() > 5 && found.iter().all(|h| allowed(&h.text)), "{found:?}");
        let texts = every_text(&log_p, &labels);
        assert_eq!(found.len(), texts.keys().filter(|t| allowed(t)).count());
    }
}
