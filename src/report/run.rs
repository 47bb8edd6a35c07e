//! One run directory, as far as a report needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::metrics::Metrics;
use super::scored::{self, Scored};
use crate::error::{Error, Result};
use crate::files;
use crate::models::{MODEL_FILE, ModelConfig, Summary};
use crate::train::times::{self, Stretches};

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
    /// By corpus name, decoded greedily unless the method says otherwise.
    pub scores: BTreeMap<String, Scored>,
    /// By name of the decoding (`RUNDIR/scores/DECODING/NAME.json`), then by corpus name.
    pub decodings: BTreeMap<String, BTreeMap<String, Scored>>,
    /// The trained model, once it is there.
    pub student: Option<Student>,
    /// How long it was trained; `None` where nothing was noted.
    pub stretches: Option<Stretches>,
    /// The caches of its stages of RKD with frame weights, as the pipeline names them.
    pub weighted: Vec<PathBuf>,
}

/// A model in two figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Student {
    /// Its name.
    pub name: String,
    /// Trainable parameters.
    pub parameters: u64,
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
    guide_blank: Option<bool>,
    #[serde(default)]
    pairs: Vec<toml::Value>,
    #[serde(default)]
    fuse: Vec<toml::Value>,
    #[serde(default)]
    teacher: Vec<PathBuf>,
}

impl Stage {
    fn is_rkd(&self) -> bool {
        self.objective.split('+').any(|term| term.trim() == "rkd")
    }

    fn words(&self) -> String {
        let term = |name: &str| match name {
            "guided" => "guided".to_owned(),
            "sequence" => "sequence-level KD".to_owned(),
            acronym => acronym.to_uppercase(),
        };
        let mut words = self.objective.split('+').map(|o| term(o.trim())).collect::<Vec<_>>().join(" + ");
        if self.pairs.len() > 1 {
            words.push_str(&format!(" over {} pairs of layers", self.pairs.len()));
        }
        if self.fuse.len() > 1 {
            words.push_str(&format!(" of {} teachers", self.fuse.len()));
        }
        if self.is_rkd() && self.frame_weighting == Some(false) {
            words.push_str(" without frame weight");
        }
        if self.guide_blank == Some(true) {
            words.push_str(", blank frames too");
        }
        words
    }
}

impl RunRecord {
    /// Reads a run directory, or one that holds nothing but a trained `student` and its `scores`.
    ///
    /// # Errors
    /// When there is neither `pipeline.toml` nor a student, or a file in it cannot be understood.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("pipeline.toml");
        let student = student(&dir.join("student"))?;
        let stages = if path.is_file() {
            let pipeline: Pipeline = toml::from_str(&files::read_text(&path)?)
                .map_err(|e| Error::format(&path, format!("expected a pipeline with stages: {e}")))?;
            pipeline.stage
        } else if student.is_some() {
            Vec::new()
        } else {
            return Err(Error::format(
                dir,
                "expected a run directory with pipeline.toml, as `tutornet train --out DIR` makes it, found none",
            ));
        };
        let method = match stages[..] {
            [] => "not trained here".to_owned(),
            _ => stages.iter().map(Stage::words).collect::<Vec<_>>().join(", then "),
        };
        let scores = dir.join("scores");
        let by_corpus = scored::read_all(&scores)?;
        let method = match by_corpus.values().find_map(|scored| scored.scores.search.as_ref()) {
            None => method,
            Some(search) => format!(
                "{method}; beam search{}",
                if search.lm.is_some() { " with a language model" } else { "" }
            ),
        };
        let mut decodings = BTreeMap::new();
        for path in scored::list(&scores)? {
            if let (Some(name), true) = (path.file_name(), path.is_dir()) {
                decodings.insert(name.to_string_lossy().into_owned(), scored::read_all(&path)?);
            }
        }
        let weighted = |stage: &&Stage| stage.is_rkd() && stage.frame_weighting != Some(false);
        Ok(Self {
            name: name_of(dir)?,
            finished: stages.is_empty() || dir.join("done.toml").is_file(),
            method,
            ctc_only: !stages.is_empty() && stages.iter().all(|s| s.objective == "ctc"),
            metrics: if stages.is_empty() { Metrics::default() } else { metrics(dir)? },
            scores: by_corpus,
            decodings,
            student,
            stretches: times::read(dir)?,
            weighted: stages.iter().filter(weighted).flat_map(|stage| stage.teacher.clone()).collect(),
        })
    }

    /// Whether a directory holds what [`RunRecord::read`] reads.
    pub fn is_at(dir: &Path) -> bool {
        dir.join("pipeline.toml").is_file() || dir.join("student").join(MODEL_FILE).is_file()
    }

    /// What the run scored under a decoding; `None` is greedy decoding.
    pub fn scored(&self, decoding: Option<&str>) -> Option<&BTreeMap<String, Scored>> {
        decoding.map_or(Some(&self.scores), |name| self.decodings.get(name))
    }
}

fn metrics(dir: &Path) -> Result<Metrics> {
    let path = dir.join("metrics.jsonl");
    if path.is_file() {
        return Metrics::read(&path);
    }
    tracing::warn!("{} is not there: the run has no curves", path.display());
    Ok(Metrics::default())
}

fn student(dir: &Path) -> Result<Option<Student>> {
    if !dir.join(MODEL_FILE).is_file() {
        return Ok(None);
    }
    let summary = Summary::of(&ModelConfig::read(dir)?)?;
    Ok(Some(Student { name: summary.name, parameters: summary.parameters as u64 }))
}

fn name_of(dir: &Path) -> Result<String> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::io("resolve", dir, e))?;
    Ok(absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned())
}
