//! A pipeline: one experiment as a TOML file. Every key has a default except `name`, `student`,
//! `data.train` and the stages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::copies::SpeedCopies;
use super::objective::{Objective, Target};
use super::recipe::Optimizer;
use crate::device::Precision;
use crate::features::SpecAugment;
use crate::models::jasper::StridePadding;
use crate::models::{BatchNormMode, HiddenLayer};

/// One experiment: a student, its data, and the stages that train it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Name of the experiment; appears in reports.
    pub name: String,
    /// The model to train.
    pub student: Student,
    /// Seed of everything random in the run.
    #[serde(default = "one")]
    pub seed: u64,
    /// CPU threads; part of what makes a run repeatable.
    #[serde(default = "all_threads")]
    pub threads: usize,
    /// Arithmetic of the training passes; only `f32` for now.
    #[serde(default)]
    pub precision: Precision,
    /// Corpora and batches.
    pub data: Data,
    /// Optimiser of every stage that has none of its own.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// When state is saved and which weights become the student.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// What is trained, in order.
    pub stage: Vec<Stage>,
}

/// The model to train: `student = "preset or path"` or a `[student]` table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Student {
    /// Preset name, a model directory (training goes on from its weights) or a model.toml.
    pub preset: String,
    /// Scales the number of channels of every layer but the input and the labels.
    pub width: f64,
    /// Which frames batch-norm statistics are taken over.
    pub batch_norm: BatchNormMode,
    /// Share of the new value in the running statistics; `None` keeps the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm_momentum: Option<f64>,
    /// Probability of dropout wherever the architecture has a place for it; `None` keeps the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Where the zeros of a strided convolution lie; `None` keeps the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<StridePadding>,
}

impl<'de> Deserialize<'de> for Student {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            preset: String,
            #[serde(default = "unit")]
            width: f64,
            #[serde(default)]
            batch_norm: BatchNormMode,
            batch_norm_momentum: Option<f64>,
            dropout: Option<f64>,
            padding: Option<StridePadding>,
        }
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Table;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a preset, a path, or a table with `preset`")
            }
            fn visit_str<E: serde::de::Error>(self, preset: &str) -> Result<Table, E> {
                Ok(Table {
                    preset: preset.to_owned(),
                    width: 1.0,
                    batch_norm: BatchNormMode::default(),
                    batch_norm_momentum: None,
                    dropout: None,
                    padding: None,
                })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                Table::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        let Table { preset, width, batch_norm, batch_norm_momentum, dropout, padding } =
            deserializer.deserialize_any(Visitor)?;
        Ok(Self { preset, width, batch_norm, batch_norm_momentum, dropout, padding })
    }
}

/// Corpora and batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Corpus directories to train on.
    pub train: Vec<PathBuf>,
    /// Corpus directories scored after every epoch; may be empty.
    #[serde(default)]
    pub dev: Vec<PathBuf>,
    /// Epochs between two scorings of the dev corpora; the last epoch of a stage is always scored.
    #[serde(default = "one")]
    pub dev_every_epochs: u64,
    /// Seconds of padded audio in a batch.
    #[serde(default = "batch_seconds")]
    pub batch_seconds: f64,
    /// Most utterances in a batch; as many as `batch_seconds` allows when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_utterances: Option<usize>,
    /// Longer utterances are left out, and counted.
    #[serde(default = "max_seconds")]
    pub max_seconds: f64,
    /// What an epoch takes of an utterance that has copies at other speeds.
    #[serde(default)]
    pub speed_copies: SpeedCopies,
    /// Masks on the student's input; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_augment: Option<SpecAugment>,
    /// A shard that fails its checksum costs its utterances instead of stopping the run.
    #[serde(default)]
    pub skip_corrupt: bool,
}

/// One stage: an objective, the caches it reads, and how long it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What is minimised.
    pub objective: Objective,
    /// Caches of ONE teacher over the training corpora.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teacher: Vec<PathBuf>,
    /// Several teachers whose softmax outputs are averaged; in place of `teacher`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fuse: Vec<Fused>,
    /// rkd: pairs of layers, the student's and the teacher's (default: the last of both).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Vec<LayerPair>>,
    /// rkd: whether frames are weighted by the teacher's mask (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_weighting: Option<bool>,
    /// rkd: kernel width of the bridges from the student's to the teacher's width (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge_kernel: Option<usize>,
    /// Weight of the teacher's term beside CTC ([`Objective::default_lambda`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// ctc+skd, kd, ctc+kd: temperature of both softmaxes (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// ctc+guided: whether frames whose best label is the blank are guided too (default false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide_blank: Option<bool>,
    /// Passes over the training corpora; exclusive with `max_updates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Optimiser steps; exclusive with `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_updates: Option<u64>,
    /// Optimiser of this stage alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Optimizer>,
}

/// Two layers of an rkd stage: `[student's, teacher's]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<HiddenLayer>", into = "Vec<HiddenLayer>")]
pub struct LayerPair {
    /// The student's layer.
    pub student: HiddenLayer,
    /// The teacher's layer.
    pub teacher: HiddenLayer,
}

impl TryFrom<Vec<HiddenLayer>> for LayerPair {
    type Error = String;

    fn try_from(layers: Vec<HiddenLayer>) -> Result<Self, String> {
        match layers[..] {
            [student, teacher] => Ok(Self { student, teacher }),
            _ => Err(format!("expected [student's layer, teacher's layer], found {} layers", layers.len())),
        }
    }
}

impl From<LayerPair> for Vec<HiddenLayer> {
    fn from(pair: LayerPair) -> Self {
        vec![pair.student, pair.teacher]
    }
}

impl Stage {
    /// Whether RKD weights frames.
    pub fn frame_weighting(&self) -> bool {
        self.frame_weighting.unwrap_or(true)
    }

    /// Pairs of layers of an rkd stage, the student's and the teacher's; none for other objectives.
    pub fn pairs(&self) -> Vec<LayerPair> {
        match (&self.pairs, self.objective.target()) {
            (_, Target::None | Target::Posterior | Target::Nbest) => Vec::new(),
            (Some(pairs), Target::Hidden) => pairs.clone(),
            (None, Target::Hidden) => {
                vec![LayerPair { student: HiddenLayer::Last, teacher: HiddenLayer::Last }]
            }
        }
    }

    /// Kernel width of the RKD bridges.
    pub fn bridge_kernel(&self) -> usize {
        self.bridge_kernel.unwrap_or(1)
    }

    /// Weight of the teacher's term.
    pub fn lambda(&self) -> f64 {
        self.lambda.or(self.objective.default_lambda()).unwrap_or(1.0)
    }

    /// Temperature of both softmaxes.
    pub fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(1.0)
    }

    /// Whether guided CTC guides frames whose best label is the blank.
    pub fn guide_blank(&self) -> bool {
        self.guide_blank.unwrap_or(false)
    }

    /// Writes out what the objective uses and the pipeline left to its default.
    pub(super) fn settle(&mut self) {
        let objective = self.objective;
        let set = |uses: bool, value| uses.then_some(value);
        if objective == Objective::Rkd {
            self.pairs = Some(self.pairs());
            self.frame_weighting = Some(self.frame_weighting());
            self.bridge_kernel = Some(self.bridge_kernel());
        }
        self.lambda = set(objective.default_lambda().is_some(), self.lambda());
        self.temperature = set(objective.has_temperature(), self.temperature());
        self.guide_blank = (objective == Objective::CtcGuided).then(|| self.guide_blank());
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.settle();
        }
    }

    /// The stage's teachers, each as its caches, and their weights; one teacher of weight 1 without `fuse`.
    pub fn teachers(&self) -> Vec<(&[PathBuf], f64)> {
        let fused = self.fuse.iter().map(|fused| (fused.teacher.as_slice(), fused.weight));
        let one = (!self.teacher.is_empty()).then_some((self.teacher.as_slice(), 1.0));
        one.into_iter().chain(fused).collect()
    }
}

/// One of several teachers of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table { teacher = [\"CACHEDIR\"], weight = 0.5 }")]
pub struct Fused {
    /// Its caches.
    pub teacher: Vec<PathBuf>,
    /// Its share of the average; those of a stage sum to 1.
    pub weight: f64,
}

/// When state is saved and which weights become the student.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Updates between two checkpoints; one is also written after every epoch and on SIGTERM.
    pub every_updates: u64,
    /// Which weights lie in RUNDIR/student at the end.
    pub select: Select,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps in a row whose loss or gradient is not finite before the run stops.
    pub max_rejected: u32,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every_updates: 500, select: Select::Best, keep: 2, max_rejected: 10 }
    }
}

/// Which weights become the student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// Lowest dev WER of the last stage; ties by CER, then the later. The last when dev is empty.
    Best,
    /// The last weights.
    Last,
}

fn one() -> u64 {
    1
}

fn unit() -> f64 {
    1.0
}

fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn batch_seconds() -> f64 {
    192.0
}

fn max_seconds() -> f64 {
    16.7
}
