//! What the rows of a comparison make of a few utterances.

use super::document::{Cell, Column, Table, Word};
use super::rows::{Comparison, Row};
use super::scored::Utterance;
use crate::score::aligned_words;

/// An easy, a middling and a hard utterance: the quarters of the first row's character error rates.
const QUARTERS: [usize; 3] = [1, 2, 3];

/// For each of a few utterances its name and what every row makes of it, the reference first. Utterances
/// are chosen by how hard they are for the first row that others are compared with; empty when no row has
/// single utterances of `set`. Of several seeds the first speaks.
pub fn of(comparison: &Comparison, set: &str) -> Vec<(String, Table)> {
    let bases = comparison.rows.iter().filter_map(|row| row.baseline);
    let judge = bases.into_iter().min().and_then(|base| comparison.rows.get(base));
    let judge = judge.into_iter().chain(&comparison.rows).find(|row| !utterances(row, set).is_empty());
    let Some(judge) = judge else { return Vec::new() };
    let mut ranked: Vec<&Utterance> = utterances(judge, set).iter().collect();
    ranked.sort_by(|a, b| a.chars.rate().total_cmp(&b.chars.rate()).then_with(|| a.id.cmp(&b.id)));
    let mut chosen: Vec<&Utterance> =
        QUARTERS.iter().filter_map(|quarter| ranked.get(quarter * ranked.len() / 4).copied()).collect();
    chosen.dedup_by(|a, b| a.id == b.id);
    chosen.into_iter().map(|utterance| (utterance.id.clone(), example(comparison, set, utterance))).collect()
}

fn utterances<'a>(row: &'a Row, set: &str) -> &'a [Utterance] {
    let sets = row.runs.first().and_then(|run| run.scored(row.decoding.as_deref()));
    sets.and_then(|sets| sets.get(set)).map_or(&[], |scored| &scored.utterances)
}

fn example(comparison: &Comparison, set: &str, utterance: &Utterance) -> Table {
    let reference = vec!["what was said".to_owned().into(), utterance.reference.clone().into()];
    let heard = comparison.rows.iter().filter_map(|row| {
        let found = utterances(row, set).iter().find(|u| u.id == utterance.id)?;
        // Two runs may have one method; the rows of a table differ.
        let name = row.runs.first().filter(|_| !comparison.paper).map(|run| format!(" ({})", run.name));
        let label = format!("{}{}", row.label, name.unwrap_or_default());
        Some(vec![label.into(), words(&found.reference, &found.hypothesis)])
    });
    Table {
        columns: vec![Column::text("Model"), Column::text("Text")],
        rows: std::iter::once(reference).chain(heard).collect(),
    }
}

fn words(reference: &str, hypothesis: &str) -> Cell {
    let word = |pair| match pair {
        (Some(said), Some(heard)) if said == heard => Some(Word::Right(String::from(heard))),
        (_, Some(heard)) => Some(Word::Wrong(String::from(heard))),
        (Some(said), None) => Some(Word::Missing(String::from(said))),
        (None, None) => None,
    };
    Cell::Words(aligned_words(reference, hypothesis).into_iter().filter_map(word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_marked() {
        let Cell::Words(marked) = words("the cat sat on", "the bat sat now on") else { unreachable!() };
        let (right, wrong) = (|w: &str| Word::Right(w.into()), |w: &str| Word::Wrong(w.into()));
        assert_eq!(marked, [right("the"), wrong("bat"), right("sat"), wrong("now"), right("on")]);
        assert_eq!(words("a b", "a"), Cell::Words(vec![right("a"), Word::Missing("b".into())]));
    }
}
