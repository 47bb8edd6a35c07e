//! Back-off n-gram models in the ARPA format.
//!
//! ln p(w | h) is that of the longest stored n-gram that ends in `h w`, plus the back-off weights of the
//! histories that had to be given up (Katz, 1987). Every order is a table with open addressing, 16 bytes an
//! n-gram at a load of at most 3/4; a 64-bit hash stands for the words.

use std::collections::HashMap;
use std::path::Path;

use super::arpa;
use crate::error::Result;

/// Largest order that is read or built.
pub const MAX_ORDER: usize = 6;
/// Start of a sentence, in the vocabulary of every model.
pub const START: &str = "<s>";
/// End of a sentence.
pub const END: &str = "</s>";
/// Every word that the model does not know.
pub const UNKNOWN: &str = "<unk>";
/// ln 10: ARPA files hold logarithms to base 10.
pub(super) const LN_10: f32 = std::f32::consts::LN_10;

/// Number of a word.
pub type Word = u32;

/// What a model remembers of the words before: the latest ones, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct History {
    words: [Word; MAX_ORDER - 1],
    length: u8,
}

impl History {
    /// The words, newest first.
    fn words(&self) -> &[Word] {
        &self.words[..usize::from(self.length)]
    }

    fn push(&mut self, word: Word, most: usize) {
        self.words.copy_within(..MAX_ORDER - 2, 1);
        self.words[0] = word;
        let longer = usize::from(self.length) + 1;
        self.length = u8::try_from(longer.min(most)).unwrap_or(u8::MAX);
    }
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct NGram {
    pub(super) words: HashMap<String, Word>,
    /// ln p and ln back-off of single words by their number.
    pub(super) singles: Vec<(f32, f32)>,
    /// Orders 2 and up.
    pub(super) tables: Vec<Table>,
    /// Whether an n-gram is stored whose shorter ending is not, as pruning may leave it: a longer one may then follow
    /// where one is missing.
    pub(super) gaps: bool,
    pub(super) unknown: Word,
    pub(super) start: Option<Word>,
    pub(super) end: Option<Word>,
}

impl NGram {
    /// Reads an ARPA file.
    ///
    /// # Errors
    /// With the line that is not as the format wants it.
    pub fn read(path: &Path) -> Result<Self> {
        arpa::read(path)
    }

    /// Highest order.
    pub fn order(&self) -> usize {
        self.tables.len() + 1
    }

    /// Number of words, `<s>`, `</s>` and `<unk>` included where the model has them.
    pub fn vocabulary(&self) -> usize {
        self.singles.len()
    }

    /// Words that text is made of, in no order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.keys().map(String::as_str).filter(|w| ![START, END, UNKNOWN].contains(w))
    }

    /// The history at the start of a sentence.
    pub fn start(&self) -> History {
        let mut history = History::default();
        if let Some(start) = self.start {
            history.push(start, self.order() - 1);
        }
        history
    }

    /// Whether the model has the word.
    pub fn knows(&self, word: &str) -> bool {
        self.words.contains_key(word)
    }

    /// ln p(word | history), and the history after it. Unknown words count as `<unk>`.
    pub fn score(&self, history: &History, word: &str) -> (f32, History) {
        self.score_word(history, self.words.get(word).copied().unwrap_or(self.unknown))
    }

    /// ln p of the end of the sentence; 0 when the model has none.
    pub fn score_end(&self, history: &History) -> f32 {
        self.end.map_or(0.0, |end| self.score_word(history, end).0)
    }

    fn score_word(&self, history: &History, word: Word) -> (f32, History) {
        let mut score = self.singles.get(word as usize).map_or(f32::NEG_INFINITY, |s| s.0);
        let mut matched = 0; // words of history in the longest n-gram that is there
        let mut key = first_key(word);
        for (length, (table, &earlier)) in self.tables.iter().zip(history.words()).enumerate() {
            key = longer_key(key, earlier);
            match table.find(key) {
                Some(entry) => {
                    score = entry.probability;
                    matched = length + 1;
                }
                None if self.gaps => {}
                None => break,
            }
        }
        // Histories longer than what matched are given up, each at the price of its weight.
        let mut key = 0;
        for (length, &earlier) in history.words().iter().enumerate() {
            key = if length == 0 { first_key(earlier) } else { longer_key(key, earlier) };
            if length < matched {
                continue;
            }
            score += match length {
                0 => self.singles.get(earlier as usize).map_or(0.0, |s| s.1),
                _ => self.tables[length - 1].find(key).map_or(0.0, |entry| entry.backoff),
            };
        }
        let mut next = *history;
        if !self.tables.is_empty() {
            next.push(word, self.order() - 1);
        }
        (score, next)
    }

    /// ln p of a sentence, its end included.
    pub fn sentence(&self, text: &str) -> f64 {
        let mut history = self.start();
        let mut total = 0.0;
        for word in text.split_whitespace() {
            let (score, next) = self.score(&history, word);
            total += f64::from(score);
            history = next;
        }
        total + f64::from(self.score_end(&history))
    }
}

/// An n-gram of order 2 or more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) probability: f32,
    pub(super) backoff: f32,
}

/// Open addressing with linear steps; key 0 is a free place.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    pub(super) fn new(count: usize) -> Self {
        Self { entries: vec![Entry::default(); count + count / 3 + 1] }
    }

    fn place(&self, key: u64) -> usize {
        // The upper half of the product spreads the key over the table without a division.
        let product = u128::from(key) * self.entries.len() as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let mut at = self.place(entry.key);
        while self.entries[at].key != 0 && self.entries[at].key != entry.key {
            at = (at + 1) % self.entries.len();
        }
        self.entries[at] = entry;
    }

    pub(super) fn find(&self, key: u64) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let mut at = self.place(key);
        loop {
            let entry = &self.entries[at];
            if entry.key == key {
                return Some(entry);
            }
            if entry.key == 0 {
                return None;
            }
            at = (at + 1) % self.entries.len();
        }
    }
}

/// Hash of the newest word.
pub(super) fn first_key(word: Word) -> u64 {
    mix(u64::from(word) + 1)
}

/// Hash of one more word to the left.
pub(super) fn longer_key(key: u64, earlier: Word) -> u64 {
    mix(key ^ (u64::from(earlier) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Finaliser of SplitMix64 (Steele et al., 2014): one to one, so 0 comes from 0 alone.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)).max(1)
}
