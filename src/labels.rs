//! The output alphabet of a CTC model: 0 space, 1-26 a-z, 27 apostrophe, 28 blank.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Labels of a model or cache in the order of its logits; the blank is one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// One string per logit except the blank, in order.
    pub symbols: Vec<String>,
    /// Index of the blank among the logits (0 ..= `symbols.len()`).
    pub blank: usize,
}

impl Default for Labels {
    fn default() -> Self {
        Self::english()
    }
}

impl Labels {
    /// The 29 labels of NeMo's and OpenSeq2Seq's English character models.
    pub fn english() -> Self {
        let mut symbols = vec![" ".to_owned()];
        symbols.extend(('a'..='z').map(String::from));
        symbols.push("'".to_owned());
        Self { symbols, blank: 28 }
    }

    /// Number of logits: the symbols and the blank.
    pub fn count(&self) -> usize {
        self.symbols.len() + 1
    }

    /// The symbol behind a logit; `None` for the blank and beyond the end.
    pub fn symbol(&self, logit: usize) -> Option<&str> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match logit.cmp(&self.blank) {
            Less => self.symbols.get(logit).map(String::as_str),
            Equal => None,
            Greater => self.symbols.get(logit - 1).map(String::as_str),
        }
    }

    /// The logit index of every character of `text`.
    ///
    /// # Errors
    /// Names the first character that is not a label.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut buffer = [0u8; 4];
        text.chars()
            .map(|c| {
                let at = self.symbols.iter().position(|s| *s == *c.encode_utf8(&mut buffer));
                let at = at.map(|i| if i < self.blank { i } else { i + 1 });
                at.and_then(|i| u32::try_from(i).ok()).ok_or_else(|| {
                    Error::invalid(format!("character {c:?} is not among the {} labels", self.symbols.len()))
                })
            })
            .collect()
    }

    /// The text of a sequence of logit indices; blanks are left out, nothing is collapsed.
    pub fn decode(&self, logits: &[u32]) -> String {
        logits.iter().filter_map(|&i| self.symbol(i as usize)).collect()
    }

    /// For every logit of `self`, the index of the same label in `other`.
    ///
    /// # Errors
    /// When `other` is no permutation of `self`; both sets are named.
    pub fn permutation_from(&self, other: &Self, what: &str) -> Result<Vec<usize>> {
        let refused = || {
            Error::mismatch(
                format!("labels of {what}"),
                self.to_string(),
                other.to_string(),
                "teacher and student must share one label set (any order)",
            )
        };
        if self.count() != other.count() {
            return Err(refused());
        }
        (0..self.count())
            .map(|i| match self.symbol(i) {
                None => Ok(other.blank),
                Some(s) => (0..other.count()).find(|&j| other.symbol(j) == Some(s)).ok_or_else(refused),
            })
            .collect()
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} labels \"{}\" with blank {}", self.count(), self.symbols.concat(), self.blank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_has_the_published_order() {
        let labels = Labels::english();
        assert_eq!(labels.count(), 29);
        assert_eq!(labels.encode("a z'").unwrap(), [1, 0, 26, 27]);
        assert_eq!(labels.decode(&[1, 28, 0, 26, 27]), "a z'");
        assert!(labels.encode("a1").unwrap_err().to_string().contains("'1'"));
    }

    #[test]
    fn permutations_are_found_and_others_refused() {
        let english = Labels::english();
        let mut blank_first = english.clone();
        blank_first.blank = 0;
        let map = english.permutation_from(&blank_first, "cache").unwrap();
        assert_eq!((map[28], map[0], map[27]), (0, 1, 28));
        let mut other = english.clone();
        other.symbols[3] = "ä".into();
        assert!(english.permutation_from(&other, "cache").unwrap_err().to_string().contains("ä"));
    }
}
