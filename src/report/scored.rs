//! What a run scored on one corpus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::score::{Counts, Scores, char_errors, read_utterance_scores, word_errors};

/// Above this rate of blank frames (in percent) a model has learned little but the blank.
const PLATEAU_BLANK_RATE: f64 = 99.0;

/// Scores of a run on one corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Rates and counts.
    pub scores: Scores,
    /// In the corpus's order; empty when only the JSON is there.
    pub utterances: Vec<Utterance>,
}

/// One utterance as it was recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    /// Its name in the corpus.
    pub id: String,
    /// What was said.
    pub reference: String,
    /// What was recognised.
    pub hypothesis: String,
    /// Word errors.
    pub words: Counts,
    /// Character errors.
    pub chars: Counts,
}

impl Scored {
    /// Whether the run is still where CTC training begins, with the blank as the best label nearly
    /// everywhere: the output is all blank, more than 99 % of its frames are, or it holds fewer than half as
    /// many characters as were said. (Of a model that has learned to emit text, few characters are
    /// missing, whatever the rate of blank frames, which depends on how fast people speak.)
    pub fn blank_plateau(&self) -> bool {
        let said: u64 = self.utterances.iter().map(|u| u.chars.reference).sum();
        let written: usize = self.utterances.iter().map(|u| u.hypothesis.chars().count()).sum();
        self.scores.all_blank || self.scores.blank_rate > PLATEAU_BLANK_RATE || 2 * (written as u64) < said
    }

    /// Reads what `tutornet eval --out` wrote: the JSON, and the table of utterances where it is there.
    ///
    /// # Errors
    /// When a file cannot be understood, or the two are of different evaluations.
    pub fn read(json: &Path) -> Result<Self> {
        let scores = Scores::load(json)?;
        let table = json.with_extension("tsv");
        let rows = if table.is_file() { read_utterance_scores(&table)? } else { Vec::new() };
        let utterances: Vec<Utterance> = rows
            .into_iter()
            .map(|(id, reference, hypothesis)| Utterance {
                words: word_errors(&reference, &hypothesis),
                chars: char_errors(&reference, &hypothesis),
                id,
                reference,
                hypothesis,
            })
            .collect();
        let errors: u64 = utterances.iter().map(|u| u.words.errors).sum();
        if !utterances.is_empty() && (utterances.len(), errors) != (scores.utterances, scores.errors) {
            return Err(Error::mismatch(
                format!("scores in {} and {}", json.display(), table.display()),
                format!("{} errors in {} utterances", scores.errors, scores.utterances),
                format!("{errors} errors in {} utterances", utterances.len()),
                "the two are of different evaluations; evaluate again",
            ));
        }
        Ok(Self { scores, utterances })
    }
}

/// Scores by corpus name: `DIR/NAME.json`.
///
/// # Errors
/// When the directory cannot be listed or a file in it cannot be read.
pub fn read_all(dir: &Path) -> Result<BTreeMap<String, Scored>> {
    let mut found = BTreeMap::new();
    for path in list(dir)? {
        if let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|e| e == "json")) {
            found.insert(name.to_string_lossy().into_owned(), Scored::read(&path)?);
        }
    }
    Ok(found)
}

/// What lies in a directory; nothing when there is none.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |e| Error::io("list", dir, e);
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Transcript;
    use crate::score::{Evaluation, UtteranceScore};

    fn scored(hypothesis: &str, blank_frames: usize) -> Scored {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript { text: hypothesis.into(), frames: 1000, blank_frames };
        let utterances = vec![UtteranceScore::new("u", "a cat sat here", &transcript)];
        let path = dir.path().join("dev.json");
        Scores::save(&Evaluation::from_utterances(utterances, 1.0), &path).unwrap();
        Scored::read(&path).unwrap()
    }

    #[test]
    fn the_plateau_is_left_when_half_of_the_characters_are_written() {
        assert!(scored("", 1000).blank_plateau());
        assert!(scored("a cat sat here", 991).blank_plateau(), "more than 99 % of the frames");
        assert!(!scored("e a e a", 600).blank_plateau(), "7 of 14 characters");
        assert!(scored("e a e", 600).blank_plateau(), "5 of 14 characters");
        assert!(!scored("e a e a e", 900).blank_plateau(), "9 of 14 characters");
        assert!(!scored("the wrong words at length", 900).blank_plateau());
    }

    #[test]
    fn scores_are_found_by_corpus() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_all(&dir.path().join("nothing")).unwrap().is_empty());
        std::fs::create_dir(dir.path().join("beam")).unwrap();
        assert!(read_all(dir.path()).unwrap().is_empty());
    }
}
