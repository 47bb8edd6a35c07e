//! The teacher's N best texts of an utterance: a payload of their own, for sequence-level distillation.

use serde::{Deserialize, Serialize};

use crate::decode::{BeamSearch, SearchSettings};
use crate::kernels::ctc_log_likelihood;
use crate::labels::Labels;

/// One of the best texts of an utterance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbestText {
    /// Words between single spaces.
    pub text: String,
    /// ln p(text | audio) of the teacher, summed over all alignments (the CTC forward score).
    pub log_p: f64,
    /// What the search ranked it by, language model and word bonuses included.
    pub score: f64,
}

/// How they were found, as `cache.toml` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbestIdentity {
    /// Texts of an utterance at most.
    pub count: u32,
    /// The search.
    pub search: SearchSettings,
}

impl std::fmt::Display for NbestIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.count, self.search)
    }
}

/// A search for the best texts.
#[derive(Debug, Clone)]
pub struct NbestSearch {
    /// The search.
    pub search: BeamSearch,
    /// Texts at most.
    pub count: usize,
}

impl NbestSearch {
    /// The best texts of one utterance, best first by the search's score. `log_p` is [frames, labels], the
    /// logarithm of the posterior.
    pub fn texts(&self, log_p: &[f32], labels: &Labels) -> Vec<NbestText> {
        // Six decimals: enough for a weight, and the same text on every machine that reads it back.
        let rounded = |value: f64| (value * 1e6).round() / 1e6;
        let text = |hypothesis: crate::decode::Hypothesis| {
            let target = labels.encode(&hypothesis.text).ok()?;
            let exact = ctc_log_likelihood(log_p, labels.count(), &target, labels.blank)?;
            let (log_p, score) = (rounded(exact), rounded(hypothesis.score));
            (log_p.is_finite() && score.is_finite()).then_some(NbestText {
                text: hypothesis.text,
                log_p,
                score,
            })
        };
        self.search.run(log_p, labels, self.count).into_iter().filter_map(text).collect()
    }
}

/// The payload: a JSON array of objects with `text`, `log_p` and `score`.
///
/// # Errors
/// Never in practice: numbers are finite.
pub fn encode(texts: &[NbestText]) -> Result<Vec<u8>, String> {
    serde_json::to_vec(texts).map_err(|e| e.to_string())
}

/// The texts of a payload.
///
/// # Errors
/// With what is not as [`encode`] writes it.
pub fn decode(payload: &[u8]) -> Result<Vec<NbestText>, String> {
    serde_json::from_slice(payload).map_err(|e| format!("expected a JSON array of texts: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::BeamOptions;
    use crate::random::Random;

    #[test]
    fn texts_come_with_the_probability_of_all_their_alignments() {
        let labels = Labels { symbols: [" ", "a", "b"].map(String::from).to_vec(), blank: 3 };
        let mut random = Random::new(1, "nbest", &[]);
        let logits: Vec<f32> = (0..7 * 4).map(|_| random.normal() as f32).collect();
        let log_p = crate::decode::log_softmax(&logits, 4);
        // A narrow beam has lost alignments; the exact score has not.
        for beam in [3, 1000] {
            let options = BeamOptions { beam, word_bonus: 0.0, ..BeamOptions::default() };
            let search = NbestSearch { search: BeamSearch::new(options, None).unwrap(), count: 3 };
            let texts = search.texts(&log_p, &labels);
            assert!((1..=3).contains(&texts.len()));
            for text in &texts {
                // The search sums texts that differ in spaces at their ends.
                assert!(text.score <= text.log_p + 1e-5 || beam == 1000, "{text:?}");
                assert!(text.log_p < 0.0);
            }
            assert_eq!(decode(&encode(&texts).unwrap()).unwrap(), texts);
        }
        let none = NbestSearch { search: BeamSearch::new(BeamOptions::default(), None).unwrap(), count: 5 };
        assert_eq!(none.texts(&[], &labels), []);
        assert!(decode(b"[{\"text\":1}]").unwrap_err().contains("JSON array"));
    }
}
