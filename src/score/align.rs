//! Reference and hypothesis one above the other, errors marked.

use super::wer::{border, cell};

/// Three lines: reference, hypothesis and the marks `S`, `I`, `D` under the words that differ.
/// The alignment is one with the counts of [`super::word_errors`]; where several have those, the
/// one whose differences stand furthest left.
pub fn aligned(reference: &str, hypothesis: &str) -> [String; 3] {
    let mut lines = [const { String::new() }; 3];
    for (left, right) in aligned_words(reference, hypothesis) {
        let mark = match (left, right) {
            (Some(a), Some(b)) if a == b => "",
            (Some(_), Some(_)) => "S",
            (Some(_), None) => "D",
            (None, _) => "I",
        };
        let gap = |other: Option<&str>| "*".repeat(other.map_or(0, |w| w.chars().count()));
        let (top, bottom) =
            (left.map_or_else(|| gap(right), str::to_owned), right.map_or_else(|| gap(left), str::to_owned));
        let width = top.chars().count().max(bottom.chars().count());
        for (line, word) in lines.iter_mut().zip([top.as_str(), bottom.as_str(), mark]) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&format!("{word:width$}"));
        }
    }
    lines.map(|line| line.trim_end().to_owned())
}

/// A word of the reference beside one of the hypothesis, or a word that only one of them has.
pub type Pair<'a> = (Option<&'a str>, Option<&'a str>);

/// The alignment of [`aligned`], pair by pair.
pub fn aligned_words<'a>(reference: &'a str, hypothesis: &'a str) -> Vec<Pair<'a>> {
    let reference: Vec<&str> = reference.split_whitespace().collect();
    let hypothesis: Vec<&str> = hypothesis.split_whitespace().collect();
    pairs(&reference, &hypothesis)
}

fn pairs<'a>(reference: &[&'a str], hypothesis: &[&'a str]) -> Vec<Pair<'a>> {
    let columns = hypothesis.len() + 1;
    let mut table: Vec<u64> = (0..columns).map(border).collect();
    for (i, word) in reference.iter().enumerate() {
        table.push(border(i + 1));
        for (j, other) in hypothesis.iter().enumerate() {
            let (above, left) = (i * columns + j + 1, (i + 1) * columns + j);
            table.push(cell(table[above - 1], table[above], table[left], word == other));
        }
    }
    let (mut i, mut j) = (reference.len(), hypothesis.len());
    let mut pairs = Vec::with_capacity(i.max(j));
    while i > 0 || j > 0 {
        let here = table[i * columns + j];
        let equal = i > 0 && j > 0 && reference[i - 1] == hypothesis[j - 1];
        // A way leads here if the cell's cost comes from it alone.
        let far = u64::MAX / 2;
        if i > 0 && j > 0 && cell(table[(i - 1) * columns + j - 1], far, far, equal) == here {
            (i, j) = (i - 1, j - 1);
            pairs.push((Some(reference[i]), Some(hypothesis[j])));
        } else if i > 0 && cell(far, table[(i - 1) * columns + j], far, false) == here {
            i -= 1;
            pairs.push((Some(reference[i]), None));
        } else {
            j -= 1;
            pairs.push((None, Some(hypothesis[j])));
        }
    }
    pairs.reverse();
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::score::word_errors;

    #[test]
    fn errors_stand_under_their_words() {
        let lines = aligned("the cat sat on a mat", "the bat sat on mat now");
        assert_eq!(
            lines,
            ["the cat sat on a mat ***", "the bat sat on * mat now", "    S          D     I",]
        );
        assert_eq!(aligned("", ""), ["", "", ""]);
    }

    proptest! {
        #[test]
        fn marks_agree_with_the_counts(a in "[ab ]{0,14}", b in "[ab ]{0,14}") {
            let counts = word_errors(&a, &b);
            let marks = aligned(&a, &b)[2].clone();
            let of = |mark: char| marks.chars().filter(|&m| m == mark).count() as u64;
            prop_assert_eq!((of('S'), of('I'), of('D')), (counts.substitutions, counts.insertions, counts.deletions));
        }
    }
}
