//! The training loop: stages, epochs, updates; evaluation and checkpoints between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;

use super::batches::{self, Budget};
use super::checkpoint::{Best, Position};
use super::directory::{RunDirectory, Start};
use super::inputs::Inputs;
use super::metrics::{Event, Metrics};
use super::objective::Objective;
use super::optimizer::{NamedGradients, Optimizer};
use super::pipeline::{Pipeline, Stage};
use super::prepare::{FRAME_RATE, Prepared};
use super::profile::{Part, Profile};
use super::step::{Losses, Place, forward_backward};
use super::stream::{Assembler, Batch, Stream};
use super::student;
use super::times::Stretch;
use crate::device::DeviceChoice;
use crate::distill::Bridge;
use crate::error::{Error, Result};
use crate::models::parameters::{self, HostTensor};
use crate::models::{BatchStatistics, Model, TrainState};
use crate::progress::{self, Progress};
use crate::random::Random;
use crate::signal::Stop;

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
        bridge: None,
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
    pub(super) bridge: Option<Bridge>,
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

    /// A fresh optimiser, and a bridge where the stage needs one.
    pub(super) fn begin_stage(&mut self) {
        let number = self.position.stage;
        let Some(stage) = self.pipeline.stage.get(number) else {
            self.bridge = None;
            return;
        };
        self.optimizer = Optimizer::new(stage.optimizer.as_ref().unwrap_or(&self.pipeline.optimizer));
        self.bridge = match (self.prepared.stages[number].teachers.first(), stage.objective) {
            (Some(teacher), Objective::Rkd) => Some(Bridge::new(
                self.model.hidden_width(),
                teacher.set.hidden_width(),
                stage.bridge_kernel(),
                Random::new(self.pipeline.seed, "bridge", &[number as u64]).below(usize::MAX) as u64,
                &self.device,
            )),
            _ => None,
        };
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
            let group: Vec<Batch> = self.profile.time(Part::DataWait, &self.device, || {
                stream.by_ref().take(accumulate).collect::<Result<_>>()
            })?;
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

    /// One optimiser step over a group of batches; a step with a number that is not finite leaves
    /// no trace but its count.
    fn update(&mut self, stage: &Stage, group: Vec<Batch>, total: u64) -> Result<Losses> {
        let position = self.position.clone();
        let settings = self.settings(stage).clone();
        let rate = settings.schedule.at(settings.learning_rate, position.stage_update, total);
        let mut gradients = NamedGradients::default();
        let mut statistics: Vec<Vec<BatchStatistics>> = Vec::new();
        let mut losses = Vec::new();
        let names: Vec<String> = group.iter().flat_map(|b| b.utterances.clone()).collect();
        for (part, batch) in group.into_iter().enumerate() {
            if batch.utterances.is_empty() {
                continue; // every utterance was damaged, and skip_corrupt is on
            }
            let place = [position.stage as u64, position.stage_update, part as u64];
            let dropout = Random::new(self.pipeline.seed, "dropout", &place);
            let mut state = TrainState::new(self.model.config.norm().statistics, dropout);
            let place = Place { settings: stage, device: &self.device, profile: &self.profile };
            let (loss, graph) =
                forward_backward(&self.model, self.bridge.as_ref(), batch, &mut state, place)?;
            losses.push(loss);
            statistics.push(state.statistics);
            if let Some(graph) = graph {
                let (profile, device) = (self.profile.clone(), self.device.clone());
                profile.time(Part::Optimizer, &device, || self.collect(&mut gradients, &graph));
            }
        }
        let loss = Losses::mean(&losses);
        let (profile, device) = (self.profile.clone(), self.device.clone());
        let (norm, accepted) = profile.time(Part::Optimizer, &device, || {
            gradients.average();
            self.regularise(&mut gradients, settings.l2);
            let norm = gradients.norm();
            let accepted = loss.total.is_finite() && norm.is_finite();
            if accepted {
                gradients.clip(norm, settings.gradient_clip);
                self.apply(gradients, rate);
                for statistics in statistics {
                    self.model.apply_statistics(statistics, self.model.config.momentum())?;
                }
            }
            Ok::<_, Error>((norm, accepted))
        })?;
        self.count(stage, &loss, norm, rate, accepted, &names)?;
        Ok(loss)
    }

    fn collect(&mut self, gradients: &mut NamedGradients, graph: &burn::tensor::Gradients) {
        let network = self.model.network.clone();
        parameters::map(network, &mut gradients.collector(graph, ""));
        if let Some(bridge) = self.bridge.clone() {
            parameters::map(bridge, &mut gradients.collector(graph, "bridge."));
        }
        gradients.batch_done();
    }

    /// The L2 term of the network; the bridge, which no recipe has, carries none.
    fn regularise(&self, gradients: &mut NamedGradients, l2: f64) {
        if l2 > 0.0 {
            let network = &self.model.network;
            parameters::map(
                network.clone(),
                &mut gradients.regulariser(l2, |name| network.regularised(name)),
            );
        }
    }

    fn apply(&mut self, mut gradients: NamedGradients, rate: f64) {
        self.optimizer.begin_step();
        let network = self.model.network.clone();
        self.model.network = parameters::map(network, &mut self.optimizer.stepper(&mut gradients, rate, ""));
        if let Some(bridge) = self.bridge.take() {
            self.bridge =
                Some(parameters::map(bridge, &mut self.optimizer.stepper(&mut gradients, rate, "bridge.")));
        }
    }

    /// Moves the position by one update, logs it, and stops a run that only meets non-finite numbers.
    fn count(
        &mut self,
        stage: &Stage,
        loss: &Losses,
        norm: f64,
        rate: f64,
        accepted: bool,
        names: &[String],
    ) -> Result<()> {
        let position = &mut self.position;
        position.update += 1;
        position.stage_update += 1;
        if accepted {
            position.rejected_in_a_row = 0;
            position.epoch_loss = (position.epoch_loss.0 + loss.total, position.epoch_loss.1 + 1);
        } else {
            position.rejected += 1;
            position.rejected_in_a_row += 1;
        }
        let (profile, device) = (self.profile.clone(), self.device.clone());
        let event = Event::Step {
            stage: position.stage,
            objective: stage.objective.to_string(),
            update: position.update,
            epoch: position.epoch + 1,
            loss: loss.total,
            parts: loss.parts.iter().copied().collect(),
            gradient_norm: norm,
            learning_rate: rate,
            rejected: !accepted,
        };
        profile.time(Part::Log, &device, || self.metrics.write(&event))?;
        if accepted {
            return Ok(());
        }
        tracing::warn!("update {} rejected: loss {}, gradient norm {norm}", position.update, loss.total);
        let limit = self.pipeline.checkpoint.max_rejected;
        if position.rejected_in_a_row < limit {
            return Ok(());
        }
        Err(Error::NonFinite(format!(
            "stage {} ({}): loss or gradient not finite in {limit} updates in a row, the last at update {} with utterances {}; \
             start again into another --out with a lower optimizer.learning_rate or with optimizer.gradient_clip (the checkpoints in {} are whole, from before)",
            position.stage,
            stage.objective,
            position.update,
            names.join(" "),
            self.directory.checkpoints().display()
        )))
    }

    fn settings<'s>(&'s self, stage: &'s Stage) -> &'s super::recipe::Optimizer {
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
