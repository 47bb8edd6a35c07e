//! The directory of a run: what it holds, whether it may be started, resumed, or is done.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Best, State};
use super::inputs::{INPUTS_FILE, Inputs};
use super::parse;
use super::pipeline::Pipeline;
use super::run::Outcome;
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::models;
use crate::shard::Problem;

/// The resolved pipeline: runs again to the same result.
pub const PIPELINE_FILE: &str = "pipeline.toml";
/// The log of a run.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The newest states of a run.
pub const CHECKPOINTS: &str = "checkpoints";
/// Present when the run is complete.
pub const DONE_FILE: &str = "done.toml";

/// A run's directory, locked while the run goes on.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _lock: DirectoryLock,
}

/// How a run begins.
#[derive(Debug)]
pub enum Start {
    /// With initial weights.
    Fresh,
    /// From a checkpoint.
    From(Box<State>),
    /// Not at all: it was finished before.
    Done(Outcome),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    updates: u64,
    metrics_blake3: String,
    best: Option<Best>,
}

impl RunDirectory {
    /// Creates or opens `path` for `pipeline`.
    ///
    /// # Errors
    /// When another process trains there, when it holds a run and `resume` is off, or when the
    /// run in it has another pipeline or was started on other inputs, wherever they lie; what differs is named.
    pub fn open(path: &Path, pipeline: &Pipeline, inputs: &Inputs, resume: bool) -> Result<(Self, Start)> {
        files::require_own(path, &[PIPELINE_FILE], "run")?;
        files::create_dir(path)?;
        let directory = Self { path: path.to_path_buf(), _lock: DirectoryLock::acquire(path)? };
        files::sweep(path)?;
        let stored = path.join(PIPELINE_FILE);
        let mut inputs = Cow::Borrowed(inputs);
        let text = toml::to_string(pipeline).map_err(|e| Error::format(&stored, e.to_string()))?;
        if stored.exists() {
            if !resume {
                return Err(Error::invalid(format!(
                    "{} holds a run already; add --resume to go on with it, or choose another --out",
                    path.display()
                )));
            }
            let earlier = parse::parse(&files::read_sealed(&stored)?, &[], &stored)?;
            let (pipeline, same) = inputs.as_before(pipeline, &earlier, path)?;
            inputs = Cow::Owned(same);
            if let Some(difference) = difference(&earlier, &pipeline) {
                return Err(Error::mismatch(
                    format!("pipeline of the run in {}", path.display()),
                    difference.0,
                    difference.1,
                    "resume with the pipeline that started the run, or choose another --out",
                ));
            }
        } else {
            files::write_sealed(&stored, &text)?;
        }
        inputs.settle(path)?;
        let done = path.join(DONE_FILE);
        let whole = models::identity(&directory.student());
        if let (true, Err(error)) = (done.exists(), &whole) {
            tracing::warn!("the student is written again: {error}");
        }
        if done.exists() && whole.is_ok() {
            let done: Done = toml::from_str(&files::read_sealed(&done)?)
                .map_err(|e| Error::format(path.join(DONE_FILE), e.to_string()))?;
            let log = files::blake3_file(&directory.metrics()).unwrap_or_default();
            if log != done.metrics_blake3 {
                tracing::warn!("{}: not as the finished run left it", directory.metrics().display());
            }
            let outcome = Outcome {
                student: directory.student(),
                updates: done.updates,
                best: done.best,
                already_done: true,
            };
            return Ok((directory, Start::Done(outcome)));
        }
        if directory.checkpoints().exists() {
            files::sweep(&directory.checkpoints())?;
        }
        let start = State::newest(&directory.checkpoints(), &directory.metrics())?
            .map_or(Start::Fresh, |s| Start::From(Box::new(s)));
        Ok((directory, start))
    }

    /// One JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS_FILE)
    }

    /// The newest states.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The trained model.
    pub fn student(&self) -> PathBuf {
        self.path.join("student")
    }

    /// Marks the run as complete.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn mark_done(&self, outcome: &Outcome) -> Result<()> {
        let path = self.path.join(DONE_FILE);
        let metrics_blake3 = files::blake3_file(&self.metrics())?;
        let done = Done { updates: outcome.updates, metrics_blake3, best: outcome.best.clone() };
        let text = toml::to_string(&done).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write_sealed(&path, &text)
    }
}

/// Reads every file of a run but its student, and lists those that are not as they were written.
///
/// # Errors
/// When the directory cannot be listed.
pub fn verify(run: &Path) -> Result<Vec<Problem>> {
    let mut problems = checkpoint::verify(&run.join(CHECKPOINTS))?;
    let mut sealed = |name: &str| {
        let path = run.join(name);
        files::read_sealed(&path).map_err(|e| problems.push(Problem::file(&path, e.to_string()))).ok()
    };
    sealed(PIPELINE_FILE);
    sealed(INPUTS_FILE);
    if run.join(DONE_FILE).exists()
        && let Some(done) = sealed(DONE_FILE)
    {
        let path = run.join(METRICS_FILE);
        let expected = toml::from_str::<Done>(&done).map(|d| d.metrics_blake3);
        let found = files::blake3_file(&path);
        match (expected, found) {
            (Ok(expected), Ok(found)) if expected == found => {}
            (Ok(expected), Ok(found)) => {
                problems.push(Problem::file(&path, format!("expected BLAKE3 {expected}, found {found}")));
            }
            (Err(error), _) => problems.push(Problem::file(run.join(DONE_FILE), error.to_string())),
            (_, Err(error)) => problems.push(Problem::file(&path, error.to_string())),
        }
    }
    if !run.join(DONE_FILE).exists()
        && let Err(error) = State::newest(&run.join(CHECKPOINTS), &run.join(METRICS_FILE))
    {
        problems.push(Problem::file(run.join(METRICS_FILE), error.to_string()));
    }
    Ok(problems)
}

/// The first key in which two pipelines differ, with both values.
fn difference(earlier: &Pipeline, now: &Pipeline) -> Option<(String, String)> {
    fn walk(key: &str, a: &toml::Value, b: &toml::Value) -> Option<(String, String)> {
        let name = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
        match (a, b) {
            (toml::Value::Table(a), toml::Value::Table(b)) => {
                let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
                keys.into_iter().find_map(|k| match (a.get(k), b.get(k)) {
                    (Some(a), Some(b)) => walk(&name(k), a, b),
                    (a, b) => Some((shown(&name(k), a), shown(&name(k), b))),
                })
            }
            (toml::Value::Array(a), toml::Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().find_map(|(i, (a, b))| walk(&name(&i.to_string()), a, b))
            }
            _ if a == b => None,
            _ => Some((shown(key, Some(a)), shown(key, Some(b)))),
        }
    }
    fn shown(key: &str, value: Option<&toml::Value>) -> String {
        value.map_or_else(|| format!("{key} absent"), |v| format!("{key} = {v}"))
    }
    let (earlier, now) = (toml::Value::try_from(earlier).ok()?, toml::Value::try_from(now).ok()?);
    walk("", &earlier, &now)
}
