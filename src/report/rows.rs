//! Rows of runs to be compared: those that a table's description names, or simply all that were given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::compare::OnSet;
use super::description::{Description, PAPER_SETS, Paper};
use super::run::RunRecord;
use super::scored::{Scored, list};
use crate::error::{Error, Result};

/// A table before it is set.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Heading.
    pub title: String,
    /// What a reader must know before the numbers, a paragraph each.
    pub notes: Vec<String>,
    /// Caption of the curves; `None` for none.
    pub curves: Option<String>,
    /// Whether it is a table of the paper, whose numbers stand beside ours.
    pub paper: bool,
    /// Whether parameters have columns.
    pub counts: bool,
    /// Whether the spread of the teachers' frame weights matters.
    pub mask: bool,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// What stands in one row: a run, or several that differ in their seeds alone.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it shows.
    pub label: String,
    /// One a seed; none when nothing was run.
    pub runs: Vec<Rc<RunRecord>>,
    /// How the scores were decoded; `None` is greedily.
    pub decoding: Option<String>,
    /// The row that it is compared with.
    pub baseline: Option<usize>,
    /// Whether it has no part in the comparison and no curve.
    pub reference: bool,
    /// The preset of the paper's model.
    pub preset: Option<String>,
    /// What the paper has.
    pub paper: Paper,
}

impl Row {
    /// What a run scored under the row's decoding, by test set.
    fn scores<'a>(&self, run: &'a RunRecord) -> Option<&'a BTreeMap<String, Scored>> {
        run.scored(self.decoding.as_deref()).filter(|sets| !sets.is_empty())
    }

    /// All seeds on one test set; `None` when none was scored on it.
    pub fn on(&self, set: &str) -> Option<OnSet<'_>> {
        OnSet::new(self.runs.iter().filter_map(|run| self.scores(run)?.get(set)).collect())
    }

    /// Names of the runs that were scored on one test set: of further seeds only the ending.
    pub fn names_on(&self, set: &str) -> String {
        let scored = |run: &&Rc<RunRecord>| self.scores(run).is_some_and(|sets| sets.contains_key(set));
        let mut names = self.runs.iter().filter(scored).map(|run| run.name.as_str());
        let first = names.next().unwrap_or_default();
        let text = |text, name: &str| format!("{text}, {}", name.strip_prefix(first).unwrap_or(name));
        names.fold(first.to_owned(), text)
    }

    /// Whether `other` is of the same runs, decoded otherwise.
    pub fn same_runs(&self, other: Option<&Self>) -> bool {
        let pairs = |other: &Self| self.runs.iter().zip(&other.runs).all(|(a, b)| Rc::ptr_eq(a, b));
        other.is_some_and(|other| self.runs.len() == other.runs.len() && pairs(other))
    }

    /// Runs that were scored on any test set.
    pub fn seeds(&self) -> usize {
        self.runs.iter().filter(|run| self.scores(run).is_some()).count()
    }

    /// Runs that have not left the blank plateau on any one test set.
    fn stuck(&self) -> usize {
        let stuck = |run: &&Rc<RunRecord>| {
            self.scores(run).is_some_and(|sets| sets.values().any(Scored::blank_plateau))
        };
        self.runs.iter().filter(stuck).count()
    }

    /// Whether any seed has not left the blank plateau.
    pub fn plateau(&self) -> bool {
        self.stuck() > 0
    }

    /// The label with what a reader must know of the runs behind it; of seeds only that they are other than
    /// `usual` in number.
    pub fn marked(&self, usual: usize) -> String {
        let mut text = self.label.clone();
        let (seeds, stuck) = (self.seeds(), self.stuck());
        if seeds > 1 && seeds != usual {
            text.push_str(&format!(" ({seeds} seeds)"));
        }
        match stuck {
            0 => {}
            _ if stuck == seeds => text.push_str(" (blank plateau)"),
            _ => text.push_str(&format!(" (blank plateau: {stuck} of {seeds} seeds)")),
        }
        if self.runs.iter().any(|run| !run.finished) {
            text.push_str(" (unfinished)");
        }
        text
    }
}

impl Comparison {
    /// Runs as they were given; the first that trained on CTC alone is the baseline, or else the first.
    pub fn of_runs(runs: &[Rc<RunRecord>], references: &[Rc<RunRecord>], title: &str) -> Self {
        let base = runs.iter().position(|run| run.ctc_only).unwrap_or(0);
        let row = |run: &Rc<RunRecord>, baseline, reference| Row {
            label: run.method.clone(),
            runs: vec![Rc::clone(run)],
            decoding: None,
            baseline,
            reference,
            preset: None,
            paper: Paper::default(),
        };
        let compared =
            runs.iter().enumerate().map(|(index, run)| row(run, (index != base).then_some(base), false));
        let rows = compared.chain(references.iter().map(|run| row(run, None, true))).collect();
        Self {
            title: title.to_owned(),
            notes: Vec::new(),
            curves: Some("Losses".to_owned()),
            paper: false,
            counts: false,
            mask: false,
            rows,
        }
    }

    /// The runs that `description` names, as far as they are there.
    ///
    /// # Errors
    /// When a run is there and cannot be read.
    pub fn of_table(description: &Description, runs: &mut Library) -> Result<Self> {
        let mut rows = Vec::new();
        for (index, row) in description.row.iter().enumerate() {
            rows.push(Row {
                label: row.label.clone(),
                runs: runs.seeds(&row.run)?,
                decoding: row.scores.clone(),
                baseline: description.baseline_of(index),
                reference: row.reference,
                preset: row.preset.clone(),
                paper: row.paper.clone(),
            });
        }
        let mut notes = Vec::new();
        if !description.note.trim().is_empty() {
            notes.push(description.note.trim().to_owned());
        }
        if description.inferred {
            notes.push(
                "That the paper makes this comparison is known; that it stands in its table of this number is inferred \
                 from the order of its experiments."
                    .to_owned(),
            );
        }
        Ok(Self {
            title: description.title.clone(),
            notes,
            curves: description.curves.clone(),
            paper: true,
            counts: description.counts,
            mask: description.mask,
            rows,
        })
    }

    /// Every test set of the table: the paper's in its order, then others by name. Without any score
    /// those of the paper.
    pub fn sets(&self) -> Vec<String> {
        let scored = self.rows.iter().flat_map(|row| {
            let sets = row.runs.iter().filter_map(|run| row.scores(run));
            sets.flat_map(|sets| sets.keys().cloned()).collect::<Vec<_>>()
        });
        let published = self.rows.iter().flat_map(|row| row.paper.wer.keys().cloned());
        let mut sets: Vec<String> = scored.chain(published).collect();
        let place = |set: &String| PAPER_SETS.iter().position(|s| s == set).unwrap_or(PAPER_SETS.len());
        sets.sort_by_key(|set| (place(set), set.clone()));
        sets.dedup();
        if sets.is_empty() { PAPER_SETS.map(str::to_owned).to_vec() } else { sets }
    }

    /// The number of seeds that most rows with several have; 1 where no row has several.
    pub fn usual_seeds(&self) -> usize {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.seeds() > 1) {
            *counts.entry(row.seeds()).or_default() += 1;
        }
        counts.into_iter().max_by_key(|&(_, rows)| rows).map_or(1, |(seeds, _)| seeds)
    }

    /// Whether any row was scored on `set`.
    pub fn scored_on(&self, set: &str) -> bool {
        self.rows.iter().any(|row| row.on(set).is_some())
    }
}

/// The runs below one directory, each read once.
#[derive(Debug)]
pub struct Library {
    root: PathBuf,
    records: BTreeMap<String, Vec<Rc<RunRecord>>>,
}

impl Library {
    /// # Errors
    /// When there is no such directory.
    pub fn new(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::format(root, "expected the directory that holds the runs, found none"));
        }
        Ok(Self { root: root.to_path_buf(), records: BTreeMap::new() })
    }

    /// `NAME` and `NAME.seedN` for every N, as far as they are there: the first seed first.
    fn seeds(&mut self, name: &str) -> Result<Vec<Rc<RunRecord>>> {
        if let Some(found) = self.records.get(name) {
            return Ok(found.clone());
        }
        let mut seeds = vec![(0, self.root.join(name))];
        for path in list(&self.root)? {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = file.strip_prefix(name).and_then(|rest| rest.strip_prefix(".seed"));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                seeds.push((number.max(1), path));
            }
        }
        seeds.sort();
        let there = seeds.into_iter().map(|(_, path)| path).filter(|path| RunRecord::is_at(path));
        let records = there.map(|path| RunRecord::read(&path).map(Rc::new)).collect::<Result<Vec<_>>>()?;
        self.records.insert(name.to_owned(), records.clone());
        Ok(records)
    }
}
