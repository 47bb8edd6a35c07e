//! The training loop: stages, epochs, updates; evaluation and checkpoints between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;

use super::batches::{self, Budget};
use super::checkpoint::{Best, Position};
use super::directory::{RunDirectory, Start};
use super::inputs::Inputs;
use super::metrics::Metrics;
use super::optimizer::Optimizer;
use super::pipeline::{Pipeline, Stage};
use super::prepare::{FRAME_RATE, Prepared};
use super::profile::{Part, Profile};
use super::stream::{Assembler, Batch, Stream};
use super::student;
use super::times::Stretch;
use crate::device::DeviceChoice;
use crate::distill::Bridge;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::models::parameters::HostTensor;
use crate::progress::{self, Progress};
use crate::random::Random;
use crate::signal::Stop;
use crate::store;

/// What came out of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The student's model directory.
    pub student: PathBuf,
    /// Updates of the run.
    pub updates: u64,
    /// The best dev score, when there is a dev corpus.
    pub best: Option<Best>,
    /// Whether the run had been finished before.
    pub already_done: bool,
}

/// How a pipeline is run; none of it changes the result.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's directory.
    pub out: PathBuf,
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Measure where the time goes.
    pub profile: bool,
}

/// Runs a pipeline, from the start or (`resume`) from its newest checkpoint.
///
/// # Errors
/// Whatever does not fit, before any work; later a damaged shard, a full disk, a loss that stays
/// non-finite, or a signal. The newest checkpoint is whole in every case.
pub fn run(pipeline: &Pipeline, options: &Options, stop: &Stop) -> Result<Outcome> {
    store::require_local(&options.out)?;
    // The pool may exist already when a program runs several pipelines; the first one sized it.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(pipeline.threads).build_global();
    let device = options.device.open()?.autodiff();
    let mut model = student::build(pipeline, &device)?;
    let prepared = Prepared::open(pipeline, &model)?;
    let inputs = Inputs::of(pipeline, &prepared)?;
    let (directory, start) = RunDirectory::open(&options.out, pipeline, &inputs, options.resume)?;
    let state = match start {
        Start::Done(outcome) => return Ok(outcome),
        Start::Fresh => None,
        Start::From(state) => Some(*state),
    };
    let metrics =
        Metrics::open(&directory.metrics(), state.as_ref().map_or(0, |s| s.position.metrics_bytes))?;
    model.config.provenance.origin = format!("training run {}", pipeline.name);
    let mut trainer = Trainer {
        pipeline,
        prepared: &prepared,
        directory: &directory,
        device,
        model,
        bridges: Vec::new(),
        optimizer: Optimizer::new(&pipeline.optimizer),
        position: Position::default(),
        best: None,
        metrics,
        stop,
        profile: Profile::new(options.profile),
    };
    match state {
        Some(state) => trainer.restore(state)?,
        None => trainer.begin_stage(),
    }
    let (started, before) = (Instant::now(), trainer.position.update);
    let trained = trainer.stages();
    // A run that was stopped is as good to look at as one that ended.
    let (wall, updates) = (started.elapsed(), trainer.position.update - before);
    match trainer.profile.finish(&options.out, wall, updates) {
        Ok(table) => table.into_iter().for_each(|table| progress::suspend(|| eprintln!("{table}"))),
        Err(error) => tracing::warn!("no profile: {error}"),
    }
    let stretch = Stretch::new((before, before + updates), wall, &trainer.device, options.device);
    let noted = stretch.append(&options.out);
    trained?;
    noted?;
    trainer.finish()
}

pub(super) struct Trainer<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) prepared: &'a Prepared,
    pub(super) directory: &'a RunDirectory,
    pub(super) device: Device,
    pub(super) model: Model,
    /// One for each pair of layers of the stage.
    pub(super) bridges: Vec<Bridge>,
    pub(super) optimizer: Optimizer,
    pub(super) position: Position,
    /// Weights of the best evaluation, on the host.
    pub(super) best: Option<BTreeMap<String, HostTensor>>,
    pub(super) metrics: Metrics,
    pub(super) stop: &'a Stop,
    pub(super) profile: Profile,
}

impl Trainer<'_> {
    /// Every stage from the position on.
    fn stages(&mut self) -> Result<()> {
        while self.position.stage < self.pipeline.stage.len() {
            self.stage()?;
            self.position = Position {
                stage: self.position.stage + 1,
                epoch: 0,
                batch: 0,
                stage_update: 0,
                epoch_loss: (0.0, 0),
                ..self.position.clone()
            };
            self.begin_stage();
            self.checkpoint()?;
        }
        Ok(())
    }

    /// A fresh optimiser, and the bridges that the stage needs.
    pub(super) fn begin_stage(&mut self) {
        let number = self.position.stage;
        self.bridges.clear();
        let Some(stage) = self.pipeline.stage.get(number) else { return };
        self.optimizer = Optimizer::new(stage.optimizer.as_ref().unwrap_or(&self.pipeline.optimizer));
        for (index, pair) in self.prepared.stages[number].pairs.iter().enumerate() {
            let place: Vec<u64> =
                [number as u64].into_iter().chain((index > 0).then_some(index as u64)).collect();
            self.bridges.push(Bridge::new(
                pair.student_width,
                pair.teacher_width,
                stage.bridge_kernel(),
                Random::new(self.pipeline.seed, "bridge", &place).below(usize::MAX) as u64,
                &self.device,
            ));
        }
    }

    /// All epochs of the stage that the position is in.
    fn stage(&mut self) -> Result<()> {
        let number = self.position.stage;
        let stage = &self.pipeline.stage[number];
        let total = self.updates_of(stage, number);
        let epochs = stage.epochs.unwrap_or(u64::MAX);
        let title = format!("stage {number} {}", stage.objective);
        let progress = Progress::new(&title, "updates", total);
        progress.add(self.position.stage_update);
        // A run that was stopped before its last scoring comes back with batches used and no updates left.
        while self.position.epoch < epochs && (self.position.stage_update < total || self.position.batch > 0)
        {
            self.epoch(stage, total, &progress)?;
            let last = self.position.epoch + 1 == epochs || self.position.stage_update == total;
            self.end_of_epoch(stage, last, &progress)?;
        }
        progress.finish();
        Ok(())
    }

    /// Updates from the position to the end of the epoch (or of the stage).
    fn epoch(&mut self, stage: &Stage, total: u64, progress: &Progress) -> Result<()> {
        let (number, epoch) = (self.position.stage, self.position.epoch);
        let prepared = self.prepared;
        let assembler = Assembler {
            prepared,
            stage: &prepared.stages[number],
            settings: stage,
            data: &self.pipeline.data,
            seed: self.pipeline.seed,
            stage_number: number as u64,
            epoch,
        };
        let plan = self.plan(number, epoch);
        let workers = (self.pipeline.threads / 2).clamp(1, 4);
        std::thread::scope(|scope| {
            let rest = plan.get(self.position.batch..).unwrap_or_default().to_vec();
            let mut stream = Stream::start(scope, assembler, rest, workers, &self.profile);
            let result = self.updates(stage, total, &mut stream, progress);
            self.profile.time(Part::DataWait, &self.device, || stream.finish());
            result
        })
    }

    /// Updates until the stream, or the stage, is at its end.
    fn updates(
        &mut self,
        stage: &Stage,
        total: u64,
        stream: &mut Stream<'_>,
        progress: &Progress,
    ) -> Result<()> {
        let epoch = self.position.epoch;
        let accumulate = self.settings(stage).accumulate;
        while self.position.stage_update < total {
            let group = self.profile.time(Part::DataWait, &self.device, || {
                stream.by_ref().take(accumulate).collect::<Result<_>>()
            });
            let group: Vec<Batch> = match group {
                // A reader that waited for a bucket gave up first.
                Err(Error::Interrupted(_)) if self.stop.requested() => {
                    self.checkpoint()?;
                    return Err(self.interrupted());
                }
                group => group?,
            };
            if group.is_empty() {
                break;
            }
            let batches = group.len();
            if group.iter().all(|batch| batch.utterances.is_empty()) {
                self.position.batch += batches; // all damaged, and skip_corrupt is on
                continue;
            }
            let losses = self.update(stage, group, total)?;
            self.position.batch += batches;
            progress.message(format!("epoch {} loss {:.2}", epoch + 1, losses.total));
            progress.add(1);
            // Weights whose last losses were not finite do not push a better checkpoint out.
            let due = self.position.update.is_multiple_of(self.pipeline.checkpoint.every_updates)
                && self.position.rejected_in_a_row == 0;
            if due || self.stop.requested() {
                self.checkpoint()?;
            }
            if self.stop.requested() {
                return Err(self.interrupted());
            }
        }
        Ok(())
    }

    pub(super) fn settings<'s>(&'s self, stage: &'s Stage) -> &'s super::recipe::Optimizer {
        stage.optimizer.as_ref().unwrap_or(&self.pipeline.optimizer)
    }

    fn plan(&self, stage: usize, epoch: u64) -> Vec<Vec<usize>> {
        let (prepared, data) = (&self.prepared.stages[stage], &self.pipeline.data);
        let (seed, number) = (self.pipeline.seed, stage as u64);
        let chosen = prepared.copies.draw(data.speed_copies, seed, number, epoch);
        let frames: Vec<u32> =
            chosen.iter().map(|&p| self.prepared.examples[prepared.examples[p]].frames).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be above 0")]
        let budget = Budget {
            frames: (data.batch_seconds * FRAME_RATE) as u64,
            utterances: data.batch_utterances.unwrap_or(usize::MAX),
        };
        let mut plan = batches::plan(&frames, budget, seed, number, epoch);
        plan.iter_mut().flatten().for_each(|place| *place = chosen[*place]);
        plan
    }

    /// Updates of a stage: its own limit, or those of its epochs.
    fn updates_of(&self, stage: &Stage, number: usize) -> u64 {
        if let Some(updates) = stage.max_updates {
            return updates;
        }
        let accumulate = self.settings(stage).accumulate;
        let epochs = 0..stage.epochs.unwrap_or(0);
        epochs.map(|epoch| self.plan(number, epoch).len().div_ceil(accumulate) as u64).sum()
    }
}
