//! One run directory, as far as a report needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::metrics::Metrics;
use crate::error::{Error, Result};
use crate::files;
use crate::score::{Counts, Scores, char_errors, read_utterance_scores, word_errors};

/// Above this rate of blank frames (in percent) a model has learned little but the blank.
const PLATEAU_BLANK_RATE: f64 = 99.0;

/// Scores of a run on one corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Rates and counts.
    pub scores: Scores,
    /// Per utterance, in the corpus's order: id, word errors, character errors; empty when only
    /// the JSON is there.
    pub utterances: Vec<(String, Counts, Counts)>,
}

impl Scored {
    /// Whether the output is (nearly) all blank, so that the error rates say nothing.
    pub fn blank_plateau(&self) -> bool {
        self.scores.all_blank || self.scores.blank_rate > PLATEAU_BLANK_RATE
    }

    fn read(json: &Path) -> Result<Self> {
        let scores = Scores::load(json)?;
        let table = json.with_extension("tsv");
        let utterances: Vec<_> = if table.is_file() {
            let rows = read_utterance_scores(&table)?.into_iter();
            rows.map(|(id, r, h)| (id, word_errors(&r, &h), char_errors(&r, &h))).collect()
        } else {
            Vec::new()
        };
        let errors: u64 = utterances.iter().map(|u| u.1.errors).sum();
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

/// A run: what it did, how its training went, what it scored.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// Name of the directory.
    pub name: String,
    /// The stages' objectives in words, such as `RKD, then CTC + SKD`.
    pub method: String,
    /// Whether the run came to its end.
    pub finished: bool,
    /// Whether every stage trained on CTC alone.
    pub ctc_only: bool,
    /// The course of the training; empty without `metrics.jsonl`.
    pub metrics: Metrics,
    /// By corpus name.
    pub scores: BTreeMap<String, Scored>,
}

/// The keys of a resolved pipeline that name the method; the others do not matter here.
#[derive(Deserialize)]
struct Pipeline {
    stage: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    objective: String,
    frame_weighting: Option<bool>,
}

impl Stage {
    fn words(&self) -> String {
        let objective =
            self.objective.split('+').map(|o| o.trim().to_uppercase()).collect::<Vec<_>>().join(" + ");
        if self.objective.contains("rkd") && self.frame_weighting == Some(false) {
            format!("{objective} without frame weight")
        } else {
            objective
        }
    }
}

impl RunRecord {
    /// Reads a run directory.
    ///
    /// # Errors
    /// When there is no `pipeline.toml`, or a file in it cannot be understood.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("pipeline.toml");
        if !path.is_file() {
            return Err(Error::format(
                dir,
                "expected a run directory with pipeline.toml, as `tutornet train --out DIR` makes it, found none",
            ));
        }
        let pipeline: Pipeline = toml::from_str(&files::read_text(&path)?)
            .map_err(|e| Error::format(&path, format!("expected a pipeline with stages: {e}")))?;
        let metrics = dir.join("metrics.jsonl");
        let metrics = if metrics.is_file() {
            Metrics::read(&metrics)?
        } else {
            tracing::warn!("{} is not there: the run has no curves", metrics.display());
            Metrics::default()
        };
        Ok(Self {
            name: name_of(dir)?,
            finished: dir.join("done.toml").is_file(),
            method: pipeline.stage.iter().map(Stage::words).collect::<Vec<_>>().join(", then "),
            ctc_only: pipeline.stage.iter().all(|s| s.objective == "ctc"),
            metrics,
            scores: scores(&dir.join("scores"))?,
        })
    }

    /// Whether any of the run's scores is of (nearly) all-blank output.
    pub fn blank_plateau(&self) -> bool {
        self.scores.values().any(Scored::blank_plateau)
    }
}

fn name_of(dir: &Path) -> Result<String> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::io("resolve", dir, e))?;
    Ok(absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned())
}

fn scores(dir: &Path) -> Result<BTreeMap<String, Scored>> {
    let mut found = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    let failed = |e| Error::io("list", dir, e);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path: PathBuf = entry.map_err(failed)?.path();
        let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|e| e == "json")) else {
            continue;
        };
        found.insert(name.to_string_lossy().into_owned(), Scored::read(&path)?);
    }
    Ok(found)
}
