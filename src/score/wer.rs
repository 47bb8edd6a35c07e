//! Levenshtein distance on words and on characters, split into its kinds of errors.
//!
//! Several alignments can reach the least distance. Of those, the one with the fewest
//! substitutions counts, that is, the one with the most words right: `a b` against `b c` is one
//! deletion, one insertion and one word right, not two substitutions (NIST's sclite decides alike
//! in such ties). Insertions minus deletions is fixed by the two lengths, so this rule leaves
//! exactly one triple of counts, and exchanging the texts exchanges insertions and deletions.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Errors of hypotheses against their references, in words or in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Units (words or characters) of the references.
    pub reference: u64,
    /// Substitutions, insertions and deletions together.
    pub errors: u64,
    /// Units of the reference that the hypothesis has as others.
    pub substitutions: u64,
    /// Units that only the hypothesis has.
    pub insertions: u64,
    /// Units that only the reference has.
    pub deletions: u64,
}

impl Counts {
    /// Error rate in percent; may exceed 100. Without any reference unit each error counts as 100 %.
    pub fn rate(&self) -> f64 {
        100.0 * self.errors as f64 / self.reference.max(1) as f64
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.reference += other.reference;
        self.errors += other.errors;
        self.substitutions += other.substitutions;
        self.insertions += other.insertions;
        self.deletions += other.deletions;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// Word errors; words are what white space separates.
pub fn word_errors(reference: &str, hypothesis: &str) -> Counts {
    let reference: Vec<&str> = reference.split_whitespace().collect();
    let hypothesis: Vec<&str> = hypothesis.split_whitespace().collect();
    compare(&reference, &hypothesis)
}

/// Character errors; a space between two words is a character, other white space is not.
pub fn char_errors(reference: &str, hypothesis: &str) -> Counts {
    let reference: Vec<char> = normalise_spaces(reference).chars().collect();
    let hypothesis: Vec<char> = normalise_spaces(hypothesis).chars().collect();
    compare(&reference, &hypothesis)
}

/// The words of a text with one space between two of them and none around.
pub fn normalise_spaces(text: &str) -> String {
    let mut words = text.split_whitespace();
    let mut normal = words.next().unwrap_or_default().to_owned();
    for word in words {
        normal.push(' ');
        normal.push_str(word);
    }
    normal
}

/// Cost of one insertion or deletion: the distance stands in the high half of a cost.
const EDIT: u64 = 1 << 32;
/// Cost of one substitution: an edit, counted in the low half as well, so that the least cost
/// is the least distance and of that the fewest substitutions.
const SUBSTITUTION: u64 = EDIT + 1;

/// The cost of turning a prefix into another, see [`EDIT`] and [`SUBSTITUTION`]; least of the
/// three ways to reach a cell of the table.
pub(super) fn cell(diagonal: u64, above: u64, left: u64, equal: bool) -> u64 {
    let diagonal = if equal { diagonal } else { diagonal + SUBSTITUTION };
    diagonal.min(above + EDIT).min(left + EDIT)
}

/// Cost of `length` insertions or deletions.
pub(super) fn border(length: usize) -> u64 {
    length as u64 * EDIT
}

fn compare<T: PartialEq>(reference: &[T], hypothesis: &[T]) -> Counts {
    // One row of the table at a time: row i holds the costs of reference[..i] against every
    // prefix of the hypothesis.
    let mut row: Vec<u64> = (0..=hypothesis.len()).map(border).collect();
    for (i, unit) in reference.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = border(i + 1);
        for (j, other) in hypothesis.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = cell(diagonal, above, row[j], unit == other);
            diagonal = above;
        }
    }
    let cost = row[hypothesis.len()];
    let (errors, substitutions) = (cost / EDIT, cost % EDIT);
    let (r, h) = (reference.len() as u64, hypothesis.len() as u64);
    // insertions + deletions = errors - substitutions, deletions - insertions = r - h
    let indels = errors - substitutions;
    let deletions = (indels + r - h) / 2;
    Counts { reference: r, errors, substitutions, insertions: indels - deletions, deletions }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(reference: u64, substitutions: u64, insertions: u64, deletions: u64) -> Counts {
        let errors = substitutions + insertions + deletions;
        Counts { reference, errors, substitutions, insertions, deletions }
    }

    #[test]
    fn known_cases() {
        assert_eq!(word_errors("the cat sat", "the cat sat"), counts(3, 0, 0, 0));
        assert_eq!(word_errors("the cat sat", "the bat sat down"), counts(3, 1, 1, 0));
        assert_eq!(word_errors("the cat sat", "cat sat"), counts(3, 0, 0, 1));
        assert_eq!(word_errors("the cat sat", ""), counts(3, 0, 0, 3));
        assert_eq!(word_errors("", "uh huh"), counts(0, 0, 2, 0));
        assert_eq!(word_errors("", ""), counts(0, 0, 0, 0));
        assert_eq!(char_errors("kitten", "sitting"), counts(6, 2, 1, 0));
        assert_eq!(char_errors("sunday", "saturday"), counts(6, 1, 2, 0));
        // NIST's example of a tie: the alignment with a word right wins.
        assert_eq!(word_errors("a b", "b c"), counts(2, 0, 1, 1));
    }

    #[test]
    fn white_space_separates_and_is_never_an_error_itself() {
        assert_eq!(word_errors(" a  b ", "a b"), counts(2, 0, 0, 0));
        assert_eq!(char_errors(" a  b ", "a b"), counts(3, 0, 0, 0));
        assert_eq!(char_errors("a b", "ab"), counts(3, 0, 0, 1));
        assert_eq!(normalise_spaces("\ta \n b "), "a b");
    }

    #[test]
    fn counts_add_up_and_rate_is_a_percentage() {
        let sum: Counts = [counts(10, 1, 0, 1), counts(30, 0, 2, 0)].into_iter().sum();
        assert_eq!(sum, counts(40, 1, 2, 1));
        assert!((sum.rate() - 10.0).abs() < 1e-12);
        assert!((counts(2, 0, 4, 0).rate() - 200.0).abs() < 1e-12, "insertions may exceed the words");
    }

    /// The definition, without sharing: every alignment, by recursion.
    fn exhaustive(a: &[char], b: &[char]) -> (u64, u64) {
        match (a, b) {
            ([], rest) | (rest, []) => (rest.len() as u64, 0),
            ([x, a_rest @ ..], [y, b_rest @ ..]) => {
                let (d, s) = exhaustive(a_rest, b_rest);
                let diagonal = if x == y { (d, s) } else { (d + 1, s + 1) };
                let (d, s) = exhaustive(a_rest, b);
                let (e, t) = exhaustive(a, b_rest);
                diagonal.min((d + 1, s)).min((e + 1, t))
            }
        }
    }

    fn words() -> impl Strategy<Value = Vec<char>> {
        proptest::collection::vec(prop_oneof![Just('a'), Just('b'), Just('c')], 0..24)
    }

    fn few() -> impl Strategy<Value = Vec<char>> {
        proptest::collection::vec(prop_oneof![Just('a'), Just('b'), Just('c')], 0..6)
    }

    proptest! {
        #[test]
        fn equals_the_definition(a in few(), b in few()) {
            let found = compare(&a, &b);
            prop_assert_eq!((found.errors, found.substitutions), exhaustive(&a, &b));
        }

        #[test]
        fn parts_make_the_whole(a in words(), b in words()) {
            let c = compare(&a, &b);
            prop_assert_eq!(c.substitutions + c.insertions + c.deletions, c.errors);
            prop_assert_eq!(c.reference, a.len() as u64);
            // Right words are what both sides have beside the errors.
            prop_assert_eq!(c.reference - c.substitutions - c.deletions, b.len() as u64 - c.substitutions - c.insertions);
        }

        #[test]
        fn symmetric(a in words(), b in words()) {
            let (ab, ba) = (compare(&a, &b), compare(&b, &a));
            prop_assert_eq!((ab.errors, ab.substitutions), (ba.errors, ba.substitutions));
            prop_assert_eq!((ab.insertions, ab.deletions), (ba.deletions, ba.insertions));
        }

        #[test]
        fn a_metric(a in words(), b in words(), c in words()) {
            let d = |x: &[char], y: &[char]| compare(x, y).errors;
            prop_assert_eq!(d(&a, &b) == 0, a == b);
            prop_assert!(d(&a, &c) <= d(&a, &b) + d(&b, &c));
            prop_assert!(d(&a, &b) <= a.len().max(b.len()) as u64);
            prop_assert!(d(&a, &b) >= a.len().abs_diff(b.len()) as u64);
        }
    }
}
