//! The tables of a comparison: every row on every test set, and all that is known of one set.

use super::compare::{Gain, OnSet, Unit, rerr};
use super::description::PAPER_SETS;
use super::document::{Block, Cell, Column, Table};
use super::markdown::thousands;
use super::rows::{Comparison, Row};
use crate::error::Result;
use crate::models::{Summary, presets};
use crate::score::bootstrap::Interval;

/// Stands behind a rate that may differ from the baseline's by chance.
const CHANCE: &str = "≈";

/// One line a row, a group of columns a test set, and what the marks mean.
///
/// # Errors
/// When two rows were scored on different utterances, or a preset does not exist.
pub fn overview(comparison: &Comparison) -> Result<Vec<Block>> {
    let sets = comparison.sets();
    let mut columns = vec![Column::text(if comparison.paper { "Model" } else { "Method" })];
    if !comparison.paper {
        columns.extend([Column::text("Run"), Column::number("Updates")]);
    }
    if comparison.counts {
        let group = "Parameters";
        columns.extend([
            Column::number("of this run").within(group),
            Column::number("of the paper's model, built here").within(group),
            Column::quiet("paper").within(group),
        ]);
    }
    let parts: Vec<Parts> = sets.iter().map(|set| Parts::of(comparison, set)).collect();
    for (set, parts) in sets.iter().zip(&parts) {
        let all = [
            (parts.ours, Column::number("WER (CER)")),
            (parts.reductions, Column::number("RERR")),
            (parts.paper, Column::quiet("paper")),
        ];
        columns.extend(all.into_iter().filter(|part| part.0).map(|part| part.1.within(set)));
    }
    let mut rows = Vec::new();
    let (mut chance, usual) = (false, comparison.usual_seeds());
    for row in &comparison.rows {
        let mut cells = vec![row.marked(usual)];
        if !comparison.paper {
            let run = row.runs.first();
            let updates = run.map(|run| run.metrics.updates).filter(|&updates| updates > 0);
            cells.push(run.map(|run| run.name.clone()).unwrap_or_default());
            cells.push(updates.map(thousands).unwrap_or_default());
        }
        if comparison.counts {
            cells.extend(parameters(row)?);
        }
        for (set, parts) in sets.iter().zip(&parts) {
            let found = on_set(comparison, row, set)?;
            chance |= found.chance;
            let all = [
                (parts.ours, found.rates),
                (parts.reductions, found.reduction),
                (parts.paper, row.paper.wer.get(set).map(|wer| format!("{wer:.2}")).unwrap_or_default()),
            ];
            cells.extend(all.into_iter().filter(|part| part.0).map(|part| part.1));
        }
        rows.push(cells.into_iter().map(Cell::from).collect());
    }
    let mut blocks = vec![Block::Table(Table { columns, rows })];
    blocks.extend(legend(comparison, chance).into_iter().map(Block::Paragraph));
    Ok(blocks)
}

/// Which columns a test set has.
struct Parts {
    ours: bool,
    reductions: bool,
    paper: bool,
}

impl Parts {
    fn of(comparison: &Comparison, set: &str) -> Self {
        let paper = comparison.paper && PAPER_SETS.contains(&set);
        let ours = comparison.scored_on(set)
            // A table of which nothing was run shows what will be there.
            || paper && !comparison.sets().iter().any(|set| comparison.scored_on(set));
        Self { ours, reductions: ours && comparison.rows.iter().any(|row| row.baseline.is_some()), paper }
    }
}

/// The cells of a row on one test set.
#[derive(Default)]
struct Found {
    rates: String,
    reduction: String,
    chance: bool,
}

fn on_set(comparison: &Comparison, row: &Row, set: &str) -> Result<Found> {
    let Some(own) = row.on(set) else { return Ok(Found::default()) };
    let base_row = row.baseline.and_then(|base| comparison.rows.get(base));
    let base = base_row.and_then(|base| base.on(set));
    let (mut marks, mut reduction) = (["", ""], String::new());
    if let Some(base) = &base {
        for (mark, unit) in marks.iter_mut().zip([Unit::Words, Unit::Chars]) {
            if own.gain_over(base, unit, row.same_runs(base_row))?.may_be_chance() {
                *mark = CHANCE;
            }
        }
        let wer = |on: &OnSet| on.rate(Unit::Words).mean;
        reduction = rerr(wer(base), wer(&own)).map(|r| format!("{r:+.1}")).unwrap_or_default();
    }
    let fewer = match own.seeds().len() {
        all if all == row.seeds() => String::new(),
        1 => ", 1 seed".to_owned(),
        some => format!(", {some} seeds"),
    };
    let rates =
        format!("{}{} ({}{}){fewer}", own.rate(Unit::Words), marks[0], own.rate(Unit::Chars), marks[1]);
    Ok(Found { rates, reduction, chance: marks.contains(&CHANCE) })
}

/// Of the run, of the paper's model as it is built here, and as the paper gives it.
fn parameters(row: &Row) -> Result<[String; 3]> {
    let own = row.runs.first().and_then(|run| run.student.as_ref());
    let full = row.preset.as_ref().map(|name| Summary::of(&presets::find(name)?)).transpose()?;
    Ok([
        own.map(|student| thousands(student.parameters)).unwrap_or_default(),
        full.map(|model| thousands(model.parameters as u64)).unwrap_or_default(),
        row.paper.parameters.clone().unwrap_or_default(),
    ])
}

fn legend(comparison: &Comparison, chance: bool) -> Vec<String> {
    let rows = &comparison.rows;
    let mut text =
        vec!["WER: word error rate, in parentheses character error rate (CER), in percent.".to_owned()];
    if let Some(reductions) = reductions(comparison) {
        text.push(reductions);
    }
    let several = rows.iter().any(|row| row.seeds() > 1);
    let (seeds, or_seeds) =
        if several { (", or than that over seeds (Student's t)", ", or other seeds,") } else { ("", "") };
    if chance {
        text.push(format!(
            "{CHANCE}: the rate differs from the baseline's by less than the 95 % interval of the paired bootstrap over \
             utterances{seeds}; another test set of this size{or_seeds} could show the opposite."
        ));
    }
    if several {
        let usual = comparison.usual_seeds();
        text.push(format!("±: standard deviation over seeds, {usual} of them unless a row says otherwise."));
    }
    text.push("An empty cell was not run, or has nothing to be compared with.".to_owned());
    if comparison.paper && comparison.sets().iter().any(|set| PAPER_SETS.contains(&set.as_str())) {
        text.push(
            "Under `paper`: the published number where it is known, on LibriSpeech's own test sets."
                .to_owned(),
        );
    }
    let mut paragraphs = vec![text.join(" ")];
    if !several && rows.iter().any(|row| row.baseline.is_some()) {
        paragraphs.push(
            "One seed: what is said of chance here is of the choice of test utterances alone. Another seed of the same \
             student may differ by more than two rows do."
                .to_owned(),
        );
    }
    let runs = || rows.iter().flat_map(|row| &row.runs);
    if runs().any(|run| !run.finished) {
        paragraphs.push(
            "Unfinished: the run has not come to its end; `tutornet train --resume` goes on with it."
                .to_owned(),
        );
    }
    if rows.iter().any(Row::plateau) {
        paragraphs.push(
            "Blank plateau: the output is all blank, or more than 99 % of its frames are, or it holds fewer than half \
             as many characters as were said. Such a run has not learned to emit text (CTC begins there), and its \
             error rates say little about its method."
                .to_owned(),
        );
    }
    paragraphs
}

/// What reductions are relative to; rows with a baseline of their own are named.
fn reductions(comparison: &Comparison) -> Option<String> {
    let is = "RERR: relative error rate reduction (WER_base - WER) / WER_base, in percent,";
    let compared =
        || comparison.rows.iter().enumerate().filter_map(|(index, row)| Some((index, row.baseline?)));
    if compared().count() > 1 && compared().all(|(index, base)| base + 1 == index) {
        return Some(format!("{is} against the row above."));
    }
    let mut bases: Vec<(usize, Vec<&str>)> = Vec::new();
    for row in &comparison.rows {
        let Some(base) = row.baseline else { continue };
        match bases.iter_mut().find(|(found, _)| *found == base) {
            Some((_, rows)) => rows.push(&row.label),
            None => bases.push((base, vec![&row.label])),
        }
    }
    let name = |base: usize| {
        let row = comparison.rows.get(base)?;
        let run = row.runs.first().map(|run| format!(" (run {})", run.name));
        Some(format!("{}{}", row.label, run.filter(|_| !comparison.paper).unwrap_or_default()))
    };
    // Most rows share one; those that do not are named.
    bases.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    let each = bases.iter().enumerate().filter_map(|(index, (base, rows))| {
        let shared = index == 0 && (bases.len() == 1 || rows.len() > 1);
        let of = if shared { String::new() } else { format!("{} ", rows.join("; ")) };
        Some(format!("{of}against {}", name(*base)?))
    });
    let against = each.collect::<Vec<_>>().join(", ");
    if against.is_empty() {
        return None;
    }
    Some(format!("{is} {against}."))
}

/// All that is known of one test set, one line for each row that was scored on it; `None` without any.
///
/// # Errors
/// When two rows were scored on different utterances.
pub fn details(comparison: &Comparison, set: &str) -> Result<Option<Table>> {
    let mut rows = Vec::new();
    for row in &comparison.rows {
        let Some(own) = row.on(set) else { continue };
        let base_row = row.baseline.and_then(|base| comparison.rows.get(base));
        let base = base_row.and_then(|base| base.on(set));
        let same_runs = row.same_runs(base_row);
        let gain = |unit| base.as_ref().map(|base| own.gain_over(base, unit, same_runs)).transpose();
        let kinds = match own.seeds() {
            [one] => {
                let s = &one.scores;
                format!("{} / {} / {}", s.substitutions, s.insertions, s.deletions)
            }
            _ => String::new(),
        };
        let cells = [
            label_on(row, &own),
            row.names_on(set),
            with_interval(own.rate(Unit::Words), own.interval(Unit::Words)?),
            with_interval(own.rate(Unit::Chars), own.interval(Unit::Chars)?),
            points(gain(Unit::Words)?),
            points(gain(Unit::Chars)?),
            format!("{:.1}", own.blank_rate().mean),
            kinds,
        ];
        rows.push(cells.map(Cell::from).to_vec());
    }
    let columns = vec![
        Column::text(if comparison.paper { "Model" } else { "Method" }),
        Column::text("Run"),
        Column::number("WER, %"),
        Column::number("CER, %"),
        Column::number("WER gain, points"),
        Column::number("CER gain, points"),
        Column::number("Blank frames, %"),
        Column::number("Sub / ins / del"),
    ];
    Ok((!rows.is_empty()).then_some(Table { columns, rows }))
}

/// What the brackets of [`details`] mean.
pub const BRACKETS: &str = "In brackets: 95 % bootstrap interval over utterances. Gain: points below the baseline's rate, \
    with the interval of the paired bootstrap; above zero throughout, the gain is not chance of the test set. Whether it is \
    chance of the training seed, only several seeds can show: behind ± stands half the 95 % interval over seeds (Student's t).";

fn label_on(row: &Row, own: &OnSet) -> String {
    match own.plateaus() {
        0 => row.label.clone(),
        all if all == own.seeds().len() => format!("{} (blank plateau)", row.label),
        some => format!("{} (blank plateau: {some} of {} seeds)", row.label, own.seeds().len()),
    }
}

fn points(gain: Option<Gain>) -> String {
    let text = |gain: Gain| {
        let seeds = gain.over_seeds.map(|half| format!(" ± {half:.2}")).unwrap_or_default();
        with_interval(format!("{:.2}{seeds}", gain.points), gain.interval)
    };
    gain.map(text).unwrap_or_default()
}

fn with_interval(value: impl std::fmt::Display, interval: Option<Interval>) -> String {
    let interval = interval.map(|i| format!(" [{:.1}, {:.1}]", i.low, i.high)).unwrap_or_default();
    format!("{value}{interval}")
}
