//! Opens everything a pipeline names and refuses what does not fit, before any work.

use std::path::PathBuf;

use super::pipeline::{Pipeline, Stage};
use super::targets::{Place, TeacherSet};
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::kernels::ctc_possible;
use crate::models::Model;

/// Feature frames a second.
pub const FRAME_RATE: f64 = 100.0;

/// Corpora and caches of a run, joined.
#[derive(Debug)]
pub struct Prepared {
    /// Training corpora.
    pub train: Vec<Corpus>,
    /// Corpora scored after every epoch.
    pub dev: Vec<Corpus>,
    /// Training utterances within `max_seconds`.
    pub examples: Vec<Example>,
    /// One a stage of the pipeline.
    pub stages: Vec<PreparedStage>,
    /// Mel bins of the features.
    pub bins: usize,
    /// Logits of the student.
    pub labels: usize,
    /// Output frames of every number of feature frames up to the longest batch.
    output_frames: Vec<usize>,
}

/// One training utterance.
#[derive(Debug)]
pub struct Example {
    /// Index of the corpus.
    pub corpus: usize,
    /// Index of the utterance in that corpus.
    pub utterance: usize,
    /// Feature frames.
    pub frames: u32,
    /// Transcript as logit indices.
    pub text: Vec<u32>,
}

/// What one stage trains on.
#[derive(Debug)]
pub struct PreparedStage {
    /// The teacher's caches; `None` for objectives without one.
    pub teacher: Option<TeacherSet>,
    /// Indices into [`Prepared::examples`].
    pub examples: Vec<usize>,
    /// Where the targets of each of `examples` lie; empty without a teacher.
    pub places: Vec<Place>,
}

impl Prepared {
    /// Opens the corpora and caches of `pipeline` for a student.
    ///
    /// # Errors
    /// Missing directories, another frontend, other labels, utterances that a cache lacks, frames
    /// that do not align; each by name.
    pub fn open(pipeline: &Pipeline, model: &Model) -> Result<Self> {
        let open = |directories: &[PathBuf]| -> Result<Vec<Corpus>> {
            directories
                .iter()
                .map(|directory| {
                    let corpus = Corpus::open(directory)?;
                    corpus.require_frontend(&model.config.frontend, &model.config.name)?;
                    Ok(corpus)
                })
                .collect()
        };
        let (train, dev) = (open(&pipeline.data.train)?, open(&pipeline.data.dev)?);
        for corpus in &dev {
            if train.iter().any(|t| t.identity() == corpus.identity()) {
                tracing::warn!(
                    "{}: a dev corpus is also trained on; its scores flatter",
                    corpus.dir().display()
                );
            }
        }
        let (examples, longest) = examples(pipeline, model, &train)?;
        let output_frames = (0..=longest + 16).map(|frames| model.output_frames(frames)).collect();
        let mut prepared = Self {
            train,
            dev,
            examples,
            stages: Vec::new(),
            bins: model.config.feature_bins(),
            labels: model.config.labels.count(),
            output_frames,
        };
        for (number, stage) in pipeline.stage.iter().enumerate() {
            let stage = prepared.stage(number, stage, model)?;
            prepared.stages.push(stage);
        }
        Ok(prepared)
    }

    /// Output frames of `frames` feature frames.
    pub fn output_frames(&self, frames: usize) -> usize {
        self.output_frames[frames.min(self.output_frames.len() - 1)]
    }

    fn stage(&self, number: usize, stage: &Stage, model: &Model) -> Result<PreparedStage> {
        let teacher = match stage.objective.needs_teacher() {
            true => Some(TeacherSet::open(&stage.teacher, &model.config.labels)?),
            false => None,
        };
        let (mut examples, mut places, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let (mut impossible, mut slack) = (0usize, 0usize);
        for (index, example) in self.examples.iter().enumerate() {
            let corpus = &self.train[example.corpus];
            let utterance = &corpus.utterances()[example.utterance];
            let mut frames = self.output_frames(example.frames as usize);
            if let Some(teacher) = &teacher {
                match teacher.join(utterance, corpus.dir(), frames)? {
                    None => {
                        missing.push(utterance.id.as_str());
                        continue;
                    }
                    Some(place) => {
                        slack += usize::from(place.frames != frames);
                        frames = place.frames;
                        places.push(place);
                    }
                }
            }
            if stage.objective.needs_text() && !ctc_possible(frames, &example.text) {
                impossible += 1;
                places.truncate(examples.len());
                continue;
            }
            examples.push(index);
        }
        if let Some(first) = missing.first() {
            let names: Vec<String> = stage.teacher.iter().map(|d| d.display().to_string()).collect();
            return Err(Error::invalid(format!(
                "stage {number}: {} of {} training utterances are in none of the caches {} (the first: {first}); \
                 run `tutornet cache` over the rest of the corpus and add its cache to `teacher`",
                missing.len(),
                self.examples.len(),
                names.join(", ")
            )));
        }
        if examples.is_empty() {
            return Err(Error::invalid(format!("stage {number}: no training utterance is left")));
        }
        let objective = stage.objective;
        if impossible > 0 {
            tracing::warn!(
                "stage {number} ({objective}): {impossible} utterance(s) too short for their transcript left out"
            );
        }
        if slack > 0 {
            tracing::warn!(
                "stage {number} ({objective}): {slack} utterance(s) with a frame of slack between teacher and student"
            );
        }
        if let Some(teacher) = &teacher {
            tracing::info!(
                "stage {number} ({objective}): {} utterances from teacher {}",
                examples.len(),
                teacher.teacher()
            );
        }
        Ok(PreparedStage { teacher, examples, places })
    }
}

fn examples(pipeline: &Pipeline, model: &Model, train: &[Corpus]) -> Result<(Vec<Example>, usize)> {
    let limit = pipeline.data.max_seconds * FRAME_RATE;
    let mut seen = std::collections::HashMap::new();
    let (mut examples, mut longest, mut too_long) = (Vec::new(), 0, 0usize);
    for (corpus, directory) in train.iter().enumerate() {
        for (index, utterance) in directory.utterances().iter().enumerate() {
            if let Some(other) = seen.insert(utterance.id.as_str(), corpus) {
                return Err(Error::invalid(format!(
                    "utterance {} lies in both {} and {}; training corpora must not overlap",
                    utterance.id,
                    train[other].dir().display(),
                    directory.dir().display()
                )));
            }
            if f64::from(utterance.frames) > limit {
                too_long += 1;
                continue;
            }
            let text = model.config.labels.encode(&utterance.text).map_err(|e| {
                Error::invalid(format!("{}: utterance {}: {e}", directory.dir().display(), utterance.id))
            })?;
            longest = longest.max(utterance.frames as usize);
            examples.push(Example { corpus, utterance: index, frames: utterance.frames, text });
        }
    }
    if too_long > 0 {
        tracing::warn!(
            "{too_long} utterance(s) longer than data.max_seconds = {} left out",
            pipeline.data.max_seconds
        );
    }
    if examples.is_empty() {
        return Err(Error::invalid("the training corpora hold no utterance within data.max_seconds"));
    }
    Ok((examples, longest))
}
