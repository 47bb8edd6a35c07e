//! The tables of a report.

use super::markdown::{escape, table, thousands};
use super::run::{RunRecord, Scored};
use crate::error::{Error, Result};
use crate::score::Counts;
use crate::score::bootstrap::{Interval, SEED, paired_difference};

/// The paper's columns, in its order; corpora of other names follow by name.
const PAPER_COLUMNS: [&str; 4] = ["dev-clean", "dev-other", "test-clean", "test-other"];

/// The Markdown text of a report without its plots.
///
/// # Errors
/// When two runs were scored on different corpora of one name.
pub fn render(runs: &[RunRecord], title: &str) -> Result<String> {
    let corpora = corpora(runs);
    let base = runs.iter().position(|r| r.ctc_only).unwrap_or(0);
    let mut text = format!("# {title}\n\n## Word error rate, %\n\n");
    text.push_str(&overview(runs, base, &corpora));
    text.push('\n');
    let baseline = escape(&runs[base].method);
    if runs.len() > 1 {
        text.push_str(&format!(
            "In parentheses: relative error rate reduction (WER_base - WER) / WER_base against {baseline} (run {}).\n",
            escape(&runs[base].name)
        ));
    }
    text.push_str("An empty cell was not run.\n");
    if runs.iter().any(|run| !run.finished) {
        text.push_str(
            "Unfinished: the run has not come to its end; `tutornet train --resume` goes on with it.\n",
        );
    }
    if runs.iter().any(RunRecord::blank_plateau) {
        text.push_str(
            "Blank plateau: the output is all blank, or more than 99 % of its frames are; such a run has not learned\n\
             to emit text, and its error rates say nothing about its method.\n",
        );
    }
    for corpus in &corpora {
        if runs.iter().any(|r| r.scores.contains_key(corpus)) {
            text.push_str(&format!("\n## {}\n\n", escape(corpus)));
            text.push_str(&details(runs, base, corpus)?);
        }
    }
    if corpora.iter().any(|c| runs.iter().any(|r| r.scores.contains_key(c))) {
        text.push_str(
            "\nIn brackets: 95 % bootstrap interval over utterances. CER gain: points of CER below the\n\
             baseline's, with the interval of the paired bootstrap; above zero throughout, the gain is not chance\n\
             of the test set (it may still be chance of the training seed).\n",
        );
    }
    Ok(text)
}

fn corpora(runs: &[RunRecord]) -> Vec<String> {
    let mut names: Vec<String> = runs.iter().flat_map(|r| r.scores.keys().cloned()).collect();
    names.sort_by_key(|n| {
        (PAPER_COLUMNS.iter().position(|c| c == n).unwrap_or(PAPER_COLUMNS.len()), n.clone())
    });
    names.dedup();
    if names.is_empty() { PAPER_COLUMNS.map(str::to_owned).to_vec() } else { names }
}

fn method(run: &RunRecord, plateau: bool) -> String {
    let plateau = if plateau { " (blank plateau)" } else { "" };
    let unfinished = if run.finished { "" } else { " (unfinished)" };
    format!("{}{plateau}{unfinished}", escape(&run.method))
}

/// One row a run, one column a corpus.
fn overview(runs: &[RunRecord], base: usize, corpora: &[String]) -> String {
    let mut heading: Vec<String> = ["Method", "Run", "Updates"].map(str::to_owned).to_vec();
    heading.extend(corpora.iter().map(|c| escape(c)));
    let rows: Vec<Vec<String>> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let updates = run.metrics.updates;
            let mut row = vec![
                method(run, run.blank_plateau()),
                escape(&run.name),
                if updates > 0 { thousands(updates) } else { String::new() },
            ];
            row.extend(corpora.iter().map(|corpus| {
                let wer = |r: &RunRecord| r.scores.get(corpus).map(|s| s.scores.wer);
                match (wer(run), wer(&runs[base])) {
                    (Some(wer), Some(reference)) if index != base && reference > 0.0 => {
                        format!("{wer:.2} ({:+.1})", 100.0 * (reference - wer) / reference)
                    }
                    (Some(wer), _) => format!("{wer:.2}"),
                    (None, _) => String::new(),
                }
            }));
            row
        })
        .collect();
    table(&heading, &rows, 2)
}

/// All that is known of one corpus, one row for each run that was scored on it.
fn details(runs: &[RunRecord], base: usize, corpus: &str) -> Result<String> {
    let heading =
        ["Method", "Run", "WER, %", "CER, %", "CER gain, points", "Blank frames, %", "Sub / ins / del"];
    let reference = runs[base].scores.get(corpus);
    let mut rows = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let Some(scored) = run.scores.get(corpus) else { continue };
        let s = &scored.scores;
        let less = match reference {
            Some(reference) if index != base => less_than(reference, scored)?,
            _ => String::new(),
        };
        rows.push(vec![
            method(run, scored.blank_plateau()),
            escape(&run.name),
            with_interval(s.wer, s.wer_interval),
            with_interval(s.cer, s.cer_interval),
            less,
            format!("{:.1}", s.blank_rate),
            format!("{} / {} / {}", s.substitutions, s.insertions, s.deletions),
        ]);
    }
    Ok(table(&heading.map(str::to_owned), &rows, 2))
}

fn less_than(reference: &Scored, scored: &Scored) -> Result<String> {
    let difference = reference.scores.cer - scored.scores.cer;
    if reference.utterances.is_empty() || scored.utterances.is_empty() {
        return Ok(format!("{difference:.2}"));
    }
    let ids = |s: &Scored| s.utterances.iter().map(|u| u.0.clone()).collect::<Vec<String>>();
    if let Some((base, other)) = ids(reference).iter().zip(&ids(scored)).find(|(a, b)| a != b) {
        return Err(Error::mismatch(
            "utterances of two runs scored on one corpus",
            base.clone(),
            other.clone(),
            "evaluate both runs on the same corpus, or give the corpora different names",
        ));
    }
    let chars = |s: &Scored| s.utterances.iter().map(|u| u.2).collect::<Vec<Counts>>();
    Ok(with_interval(difference, paired_difference(&chars(reference), &chars(scored), SEED)?))
}

fn with_interval(value: f64, interval: Interval) -> String {
    format!("{value:.2} [{:.1}, {:.1}]", interval.low, interval.high)
}
