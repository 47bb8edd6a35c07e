//! Opens everything a pipeline names and refuses what does not fit, before any work.

use std::path::PathBuf;

use super::copies::{Copies, SpeedCopies};
use super::objective::Target;
use super::pipeline::{LayerPair, Pipeline, Stage};
use super::targets::{Place, TeacherSet};
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::kernels::ctc_possible;
use crate::models::{HiddenLayer, Model};

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
    /// The blank among them.
    pub blank: usize,
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
    /// None for objectives without a teacher, several where their outputs are averaged.
    pub teachers: Vec<PreparedTeacher>,
    /// Indices into [`Prepared::examples`].
    pub examples: Vec<usize>,
    /// Which of `examples` are copies of one utterance.
    pub copies: Copies,
    /// Of an rkd stage.
    pub pairs: Vec<Pair>,
}

/// Two layers, of which the teacher's is what the student's shall become under a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The student's layer.
    pub student: HiddenLayer,
    /// Its channels.
    pub student_width: usize,
    /// The teacher's layer.
    pub teacher: HiddenLayer,
    /// Its channels.
    pub teacher_width: usize,
}

/// One teacher of a stage.
#[derive(Debug)]
pub struct PreparedTeacher {
    /// Its caches.
    pub set: TeacherSet,
    /// Its share of the average.
    pub weight: f64,
    /// Where the targets of each of the stage's examples lie.
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
            if !corpus.manifest().speeds.is_empty() {
                return Err(Error::invalid(format!(
                    "data.dev: {} holds copies of its utterances at other speeds, which are for training; \
                     prepare a dev corpus without --speed",
                    corpus.dir().display()
                )));
            }
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
            blank: model.config.labels.blank,
            output_frames,
        };
        for (number, stage) in pipeline.stage.iter().enumerate() {
            let stage = prepared.stage(number, stage, model, pipeline.data.speed_copies)?;
            prepared.stages.push(stage);
        }
        Ok(prepared)
    }

    /// Output frames of `frames` feature frames.
    pub fn output_frames(&self, frames: usize) -> usize {
        self.output_frames[frames.min(self.output_frames.len() - 1)]
    }

    fn stage(
        &self,
        number: usize,
        stage: &Stage,
        model: &Model,
        choice: SpeedCopies,
    ) -> Result<PreparedStage> {
        let mut teachers = Vec::new();
        for (caches, weight) in stage.teachers() {
            let set = TeacherSet::open(caches, &model.config.labels)?;
            if stage.objective.target() == Target::Nbest {
                set.require_nbest()?;
            }
            let mut places = Vec::with_capacity(self.examples.len());
            for example in &self.examples {
                let corpus = &self.train[example.corpus];
                let utterance = &corpus.utterances()[example.utterance];
                let frames = self.output_frames(example.frames as usize);
                places.push(set.join(utterance, corpus.dir(), frames)?);
            }
            let missing = places.iter().zip(&self.examples).filter(|(place, _)| place.is_none());
            let count = missing.clone().count();
            if let Some((_, first)) = missing.into_iter().next() {
                let first = &self.train[first.corpus].utterances()[first.utterance].id;
                let names: Vec<String> = caches.iter().map(|d| d.display().to_string()).collect();
                return Err(Error::invalid(format!(
                    "stage {number}: {count} of {} training utterances are in none of the caches {} (the first: {first}); \
                     run `tutornet cache` over the rest of the corpus and add its cache to `teacher`",
                    self.examples.len(),
                    names.join(", ")
                )));
            }
            teachers.push(PreparedTeacher { set, weight, places: places.into_iter().flatten().collect() });
        }
        let mut pairs = Vec::new();
        let wanted = stage.pairs();
        for &LayerPair { student, teacher } in &wanted {
            let student_width = model.config.layer_width(student)?;
            for of in &teachers {
                let teacher_width = of.set.width_of(teacher, &wanted)?;
                pairs.push(Pair { student, student_width, teacher, teacher_width });
            }
        }
        let mut examples = Vec::new();
        let (mut impossible, mut slack) = (0usize, 0usize);
        for (index, example) in self.examples.iter().enumerate() {
            let own = self.output_frames(example.frames as usize);
            let common = teachers.iter().map(|t| t.places[index].frames).fold(own, usize::min);
            if stage.objective.needs_text() && !ctc_possible(common, &example.text) {
                impossible += 1;
                continue;
            }
            slack += usize::from(common != own);
            for teacher in &mut teachers {
                teacher.places[index].frames = common;
                teacher.places.swap(index, examples.len());
            }
            examples.push(index);
        }
        teachers.iter_mut().for_each(|teacher| teacher.places.truncate(examples.len()));
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
        for teacher in &teachers {
            tracing::info!(
                "stage {number} ({objective}): {} utterances from teacher {}",
                examples.len(),
                teacher.set.teacher()
            );
        }
        let id = |&example: &usize| {
            let Example { corpus, utterance, .. } = self.examples[example];
            self.train[corpus].utterances()[utterance].id.as_str()
        };
        let copies = Copies::of(examples.iter().map(id));
        if copies.originals() < examples.len() {
            let epoch = match choice {
                SpeedCopies::One => "one copy",
                SpeedCopies::All => "all copies",
            };
            tracing::info!(
                "stage {number} ({objective}): {} different utterances; an epoch takes {epoch} of each",
                copies.originals()
            );
        }
        Ok(PreparedStage { teachers, examples, copies, pairs })
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
