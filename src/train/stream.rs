//! Assembles batches on other threads, in the order of the plan.
//!
//! Worker w makes batches w, w + W, w + 2 W ... into a bounded channel of its own and the trainer
//! takes from the channels in turn: the order is the plan's whatever the threads do, and at most
//! [`AHEAD`] batches a worker wait in memory.

use std::collections::{BTreeSet, VecDeque};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam::channel::{Receiver, bounded};

use super::copies;
use super::objective::{Objective, Target};
use super::pipeline::{Data, Stage};
use super::prepare::{Prepared, PreparedStage, PreparedTeacher};
use super::profile::{Part, Profile};
use super::targets::{Place, TeacherSet};
use crate::cache::column::Column;
use crate::distill::guide;
use crate::error::{Error, Result};
use crate::features::transpose;
use crate::random::Random;
use crate::store::Ahead;

/// Batches that a worker may be ahead of the trainer.
const AHEAD: usize = 2;

/// Batches are padded to a multiple of this many feature frames, as in OpenSeq2Seq and NeMo.
const PAD_TO: usize = 16;

/// One batch on the host. `B` utterances, `T` padded feature frames, `U` padded output frames.
#[derive(Debug, Default)]
pub struct Batch {
    /// Names, for messages.
    pub utterances: Vec<String>,
    /// [B, bins, T], zero on padding.
    pub features: Vec<f32>,
    /// Valid feature frames.
    pub frames: Vec<usize>,
    /// `T`
    pub padded_frames: usize,
    /// Valid output frames on which teacher and student agree.
    pub target_frames: Vec<usize>,
    /// `U`
    pub padded_targets: usize,
    /// Transcripts as logit indices; empty for objectives that do not read them.
    pub text: Vec<Vec<u32>>,
    /// rkd: the teacher's layer of every pair.
    pub hidden: Vec<HiddenTarget>,
    /// Objectives on the posterior: [B, U, labels], the teacher's softmax; ctc+guided: its mask.
    pub posterior: Vec<f32>,
    /// ctc+sequence: the teacher's best texts as logit indices, with their weights.
    pub nbest: Vec<Vec<(Vec<u32>, f64)>>,
    /// Utterances left out because their bytes are damaged.
    pub corrupt: Vec<String>,
}

/// The teacher's hidden states at one layer.
#[derive(Debug, Clone, Default)]
pub struct HiddenTarget {
    /// [B, teacher width, U]
    pub values: Vec<f32>,
    /// [B, U], the frame weight (or 1) on valid frames, 0 on padding.
    pub weight: Vec<f32>,
}

/// What a worker needs to assemble the batches of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct Assembler<'a> {
    /// Corpora and caches.
    pub prepared: &'a Prepared,
    /// The stage's caches and examples.
    pub stage: &'a PreparedStage,
    /// The stage's settings.
    pub settings: &'a Stage,
    /// The data settings.
    pub data: &'a Data,
    /// The run's seed.
    pub seed: u64,
    /// Number of the stage.
    pub stage_number: u64,
    /// Number of the epoch within the stage.
    pub epoch: u64,
}

impl Assembler<'_> {
    /// Reads, augments and pads the examples at `positions` of the stage's list.
    ///
    /// # Errors
    /// When a payload is damaged and `skip_corrupt` is off.
    pub fn assemble(&self, positions: &[usize]) -> Result<Batch> {
        let mut batch = Batch::default();
        let mut rows = Vec::with_capacity(positions.len());
        let mut features = Vec::with_capacity(positions.len());
        for &position in positions {
            match self.read(position) {
                Ok((row, values)) => {
                    rows.push(row);
                    features.push(values);
                }
                Err(Error::Corrupt { path, utterance, column, detail }) if self.data.skip_corrupt => {
                    tracing::warn!(
                        "left out utterance {utterance}: {}, column {column}: {detail}",
                        path.display()
                    );
                    batch.corrupt.push(utterance);
                }
                Err(error) => return Err(error),
            }
        }
        let longest = rows.iter().map(|r| r.frames).max().unwrap_or(0);
        batch.padded_frames = longest.next_multiple_of(PAD_TO);
        batch.padded_targets = self.prepared.output_frames(batch.padded_frames);
        let bins = self.prepared.bins;
        batch.features = vec![0.0; rows.len() * bins * batch.padded_frames];
        let padded = batch.padded_frames;
        for (b, values) in features.iter().enumerate() {
            transpose(values, bins, &mut batch.features[b * bins * padded..(b + 1) * bins * padded], padded);
        }
        self.targets(&rows, &mut batch);
        for row in rows {
            batch.utterances.push(row.utterance);
            batch.frames.push(row.frames);
            batch.target_frames.push(row.target_frames);
            batch.text.push(row.text);
            batch.nbest.push(row.nbest);
        }
        Ok(batch)
    }

    /// Says what the examples at `positions` will need, so that the system may start to read it, or buckets to send it.
    fn ahead(&self, positions: &[usize]) -> Result<Ahead> {
        let mut ahead = Ahead::default();
        let examples =
            positions.iter().map(|&position| &self.prepared.examples[self.stage.examples[position]]);
        for (number, corpus) in self.prepared.train.iter().enumerate() {
            let of_it = examples.clone().filter(|example| example.corpus == number);
            ahead.join(corpus.ahead(&of_it.map(|example| example.utterance).collect::<Vec<_>>())?);
        }
        let columns = match self.settings.objective.target() {
            Target::None => return Ok(ahead),
            Target::Hidden => {
                let layers: BTreeSet<_> = self.stage.pairs.iter().map(|pair| pair.teacher).collect();
                let weighted = self.settings.frame_weighting();
                let weights = layers.iter().filter(|_| weighted).map(|&layer| Column::FrameWeight(layer));
                layers.iter().map(|&layer| Column::Hidden(layer)).chain(weights).collect()
            }
            Target::Posterior => vec![Column::Posterior],
            Target::Nbest => vec![Column::Nbest],
        };
        for teacher in &self.stage.teachers {
            let places = positions.iter().filter_map(|&position| teacher.places.get(position));
            ahead.join(teacher.set.ahead(&columns, places)?);
        }
        Ok(ahead)
    }

    fn read(&self, position: usize) -> Result<(Row, Vec<f32>)> {
        let example = &self.prepared.examples[self.stage.examples[position]];
        let corpus = &self.prepared.train[example.corpus];
        let utterance = &corpus.utterances()[example.utterance];
        let mut features = Vec::new();
        corpus.features(example.utterance, &mut features)?;
        let frames = utterance.frames as usize;
        if let Some(masks) = &self.data.spec_augment {
            let place = [self.stage_number, self.epoch, copies::name(&utterance.id)];
            let mut random = Random::new(self.seed, "spec_augment", &place);
            masks.mask(&mut features, frames, self.prepared.bins, &mut random);
        }
        let mut row = Row {
            utterance: utterance.id.clone(),
            frames,
            target_frames: self.prepared.output_frames(frames),
            ..Row::default()
        };
        if self.settings.objective.needs_text() {
            row.text.clone_from(&example.text);
        }
        let mut other = Vec::new();
        for (number, PreparedTeacher { set, weight, places }) in self.stage.teachers.iter().enumerate() {
            let Some(&place) = places.get(position) else { continue };
            row.target_frames = place.frames;
            match self.settings.objective.target() {
                Target::None => {}
                Target::Hidden => row.hidden = self.hidden(set, place)?,
                Target::Posterior => {
                    let out = if number == 0 { &mut row.posterior } else { &mut other };
                    set.posterior(place, self.settings.temperature(), out)?;
                    average(&mut row.posterior, &other, *weight, number);
                }
                Target::Nbest => row.nbest = set.nbest(place)?,
            }
        }
        if self.settings.objective == Objective::CtcGuided {
            let (labels, blank) = (self.prepared.labels, self.prepared.blank);
            guide(&mut row.posterior, labels, blank, self.settings.guide_blank());
        }
        Ok((row, features))
    }

    /// What every pair wants of the teacher, [frames, width]; a layer of several pairs is read once.
    fn hidden(&self, set: &TeacherSet, place: Place) -> Result<Vec<HiddenTarget>> {
        let pairs = &self.stage.pairs;
        let mut all: Vec<HiddenTarget> = Vec::with_capacity(pairs.len());
        for (number, pair) in pairs.iter().enumerate() {
            if let Some(same) = pairs[..number].iter().position(|other| other.teacher == pair.teacher) {
                all.push(all[same].clone());
                continue;
            }
            let mut target = HiddenTarget::default();
            set.hidden(pair.teacher, place, &mut target.values)?;
            if self.settings.frame_weighting() {
                set.frame_weight(pair.teacher, place, &mut target.weight)?;
            } else {
                target.weight = vec![1.0; place.frames];
            }
            all.push(target);
        }
        Ok(all)
    }

    fn targets(&self, rows: &[Row], batch: &mut Batch) {
        let padded = batch.padded_targets;
        let target = self.settings.objective.target();
        for (number, pair) in self.stage.pairs.iter().enumerate() {
            let size = pair.teacher_width * padded;
            let mut all =
                HiddenTarget { values: vec![0.0; rows.len() * size], weight: vec![0.0; rows.len() * padded] };
            for (b, row) in rows.iter().enumerate() {
                let Some(own) = row.hidden.get(number) else { continue };
                let used = &own.values[..row.target_frames * pair.teacher_width];
                transpose(used, pair.teacher_width, &mut all.values[b * size..(b + 1) * size], padded);
                all.weight[b * padded..][..row.target_frames]
                    .copy_from_slice(&own.weight[..row.target_frames]);
            }
            batch.hidden.push(all);
        }
        if target == Target::Posterior {
            let labels = self.prepared.labels;
            batch.posterior = vec![0.0; rows.len() * padded * labels];
            for (b, row) in rows.iter().enumerate() {
                let used = &row.posterior[..row.target_frames * labels];
                batch.posterior[b * padded * labels..][..used.len()].copy_from_slice(used);
            }
        }
    }
}

/// One utterance of a batch before padding.
#[derive(Debug, Default)]
struct Row {
    utterance: String,
    frames: usize,
    target_frames: usize,
    text: Vec<u32>,
    hidden: Vec<HiddenTarget>,
    posterior: Vec<f32>,
    nbest: Vec<(Vec<u32>, f64)>,
}

/// Adds another teacher's softmax, times its weight, to the average so far, which began with the first's. Where
/// their frames differ by one, the common ones count.
#[expect(clippy::cast_possible_truncation, reason = "weights between 0 and 1")]
fn average(sum: &mut [f32], other: &[f32], weight: f64, number: usize) {
    let weight = weight as f32;
    if number > 0 {
        sum.iter_mut().zip(other).for_each(|(sum, p)| *sum += weight * p);
    } else if weight != 1.0 {
        sum.iter_mut().for_each(|p| *p *= weight);
    }
}

/// Batches in the order of the plan.
#[derive(Debug)]
pub struct Stream<'scope> {
    channels: Vec<Receiver<Result<Batch>>>,
    readers: Vec<ScopedJoinHandle<'scope, ()>>,
    next: usize,
    left: usize,
}

impl<'scope> Stream<'scope> {
    /// Starts `workers` threads on `plan`; they end when the stream is dropped.
    pub fn start(
        scope: &'scope Scope<'scope, '_>,
        assembler: Assembler<'scope>,
        plan: Vec<Vec<usize>>,
        workers: usize,
        profile: &Profile,
    ) -> Self {
        let left = plan.len();
        let workers = workers.clamp(1, left.max(1));
        let mut shares: Vec<Vec<Vec<usize>>> = vec![Vec::new(); workers];
        for (number, positions) in plan.into_iter().enumerate() {
            shares[number % workers].push(positions);
        }
        let (mut channels, mut readers) = (Vec::new(), Vec::new());
        for (number, share) in shares.into_iter().enumerate() {
            let (sender, receiver) = bounded(AHEAD);
            let profile = profile.clone();
            readers.push(scope.spawn(move || {
                let mut ahead = VecDeque::new();
                for (turn, positions) in share.iter().enumerate() {
                    let batch = profile.time_on(number + 1, Part::Assemble, || {
                        // One batch ahead: as long as this one is worked on, the disk may take for the next.
                        for next in share.iter().skip(turn + ahead.len()).take(2 - ahead.len()) {
                            // What is wrong with it will be said when it is read.
                            ahead.push_back(assembler.ahead(next).unwrap_or_default());
                        }
                        let batch = assembler.assemble(positions);
                        ahead.pop_front();
                        batch
                    });
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            }));
            channels.push(receiver);
        }
        Self { channels, readers, next: 0, left }
    }

    /// Ends the threads, and waits for the batches that they have in hand.
    pub fn finish(self) {
        drop(self.channels);
        // A thread that panicked has already ended the training.
        self.readers.into_iter().for_each(|reader| drop(reader.join()));
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let channel = self.next % self.channels.len();
        self.next += 1;
        let gone = || Err(Error::invalid("a thread that reads batches ended early"));
        Some(self.channels[channel].recv().unwrap_or_else(|_| gone()))
    }
}
