//! What a table shows, as a TOML file says it: rows of runs, what they are compared with, and what the
//! paper has in their place.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

/// The paper's test sets, in its order.
pub const PAPER_SETS: [&str; 4] = ["dev-clean", "dev-other", "test-clean", "test-other"];

/// A table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Heading.
    pub title: String,
    /// What a reader must know before the numbers.
    #[serde(default)]
    pub note: String,
    /// Whether only the paper's experiments are known, not that this table is the one of this number.
    #[serde(default)]
    pub inferred: bool,
    /// The row (see [`RowDescription::name`]) of relative reductions, where a row names none of its own.
    pub baseline: Option<String>,
    /// Caption of the loss curves; none are drawn without it.
    pub curves: Option<String>,
    /// Whether parameters have columns.
    #[serde(default)]
    pub counts: bool,
    /// Whether rows differ in the frame weight, so that the spread of the teacher's weights matters.
    #[serde(default)]
    pub mask: bool,
    /// From top to bottom.
    pub row: Vec<RowDescription>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowDescription {
    /// What it shows.
    pub label: String,
    /// Name of the run's directory. `RUN.seed2` and so on are its other seeds.
    pub run: String,
    /// Where in the run's `scores` its scores lie: a subdirectory named after the decoding. Greedy without it.
    pub scores: Option<String>,
    /// The row that it is compared with.
    pub baseline: Option<String>,
    /// Whether it stands there to be looked at alone: no reduction, no curve.
    #[serde(default)]
    pub reference: bool,
    /// The preset of the paper's model.
    pub preset: Option<String>,
    /// What the paper has, as far as it is known.
    #[serde(default)]
    pub paper: Paper,
}

/// The paper's numbers for a row.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Paper {
    /// Parameters, as the paper writes them.
    pub parameters: Option<String>,
    /// Word error rate in percent by test set.
    #[serde(flatten)]
    pub wer: BTreeMap<String, f64>,
}

impl RowDescription {
    /// How `baseline` names the row: `RUN`, or `RUN/SCORES` where it has scores of its own.
    pub fn name(&self) -> String {
        self.scores.as_ref().map_or_else(|| self.run.clone(), |scores| format!("{}/{scores}", self.run))
    }
}

impl Description {
    /// Reads a table's file.
    ///
    /// # Errors
    /// Syntax, unknown or missing keys, a baseline that is no row, a test set that the paper does not have.
    pub fn read(path: &Path) -> Result<Self> {
        let table: Self = toml::from_str(&files::read_text(path)?)
            .map_err(|e| Error::format(path, format!("expected the description of a table: {e}")))?;
        table.validate().map_err(|detail| Error::format(path, detail))?;
        Ok(table)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.row.is_empty() {
            return Err("expected at least one [[row]], found none".to_owned());
        }
        for row in &self.row {
            if row.run.contains('/') || row.run.starts_with('.') || row.run.is_empty() {
                return Err(format!(
                    "row `{}`: run: expected the name of a directory, found `{}`",
                    row.label, row.run
                ));
            }
            if let Some(set) = row.paper.wer.keys().find(|set| !PAPER_SETS.contains(&set.as_str())) {
                let known = PAPER_SETS.join(", ");
                return Err(format!(
                    "row `{}`: paper: expected parameters or one of {known}, found `{set}`",
                    row.label
                ));
            }
        }
        let given = self.row.iter().map(|row| &row.baseline).chain([&self.baseline]);
        for baseline in given.flatten() {
            self.position(baseline)?;
        }
        Ok(())
    }

    fn position(&self, name: &str) -> std::result::Result<usize, String> {
        let found = self.row.iter().position(|row| row.name() == name);
        found.ok_or_else(|| {
            let names: Vec<String> = self.row.iter().map(RowDescription::name).collect();
            format!("baseline: expected one of the rows {}, found `{name}`", names.join(", "))
        })
    }

    /// The row that row `index` is compared with; `None` for the baseline itself and for references.
    pub fn baseline_of(&self, index: usize) -> Option<usize> {
        let row = self.row.get(index).filter(|row| !row.reference)?;
        let name = row.baseline.as_ref().or(self.baseline.as_ref())?;
        self.position(name).ok().filter(|&base| base != index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Description> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table-v.toml");
        std::fs::write(&path, text).unwrap();
        Description::read(&path)
    }

    const TABLE: &str = r#"
title = "Table"
baseline = "ctc"
[[row]]
label = "teacher"
run = "teacher"
reference = true
[[row]]
label = "CTC"
run = "ctc"
paper = { parameters = "8.2M", dev-clean = 8.66 }
[[row]]
label = "SKD"
run = "skd"
[[row]]
label = "SKD, beam"
run = "skd"
scores = "beam"
baseline = "skd"
"#;

    #[test]
    fn rows_know_what_they_are_compared_with() {
        let table = read(TABLE).unwrap();
        let baselines: Vec<_> = (0..4).map(|row| table.baseline_of(row)).collect();
        assert_eq!(baselines, [None, None, Some(1), Some(2)]);
        assert_eq!(table.row[3].name(), "skd/beam");
        assert_eq!(table.row[1].paper.wer["dev-clean"], 8.66);
        assert!(!table.inferred && table.curves.is_none());
    }

    #[test]
    fn slips_are_named() {
        for (from, to, words) in [
            ("baseline = \"ctc\"", "baseline = \"cct\"", "found `cct`"),
            ("dev-clean", "dev-claen", "found `dev-claen`"),
            ("reference", "referense", "unknown field `referense`"),
            ("run = \"teacher\"", "run = \"../teacher\"", "name of a directory"),
        ] {
            let error = read(&TABLE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("table-v.toml"), "{words} is not in {error}");
        }
        assert!(read("title = \"x\"\nrow = []\n").unwrap_err().to_string().contains("at least one [[row]]"));
    }

    #[test]
    fn every_table_of_the_paper_can_be_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/tables");
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let tables: Vec<_> =
            files.filter(|f| f.file_name().unwrap().to_string_lossy().starts_with("table-")).collect();
        assert_eq!(tables.len(), 12);
        for table in tables {
            Description::read(&table).unwrap();
        }
    }
}
