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
    /// Reads, augments and pads the examples at `positions` of the stage's list. What is decoded goes through `scratch` to its
    /// place in the batch, utterance by utterance.
    ///
    /// # Errors
    /// When a payload is damaged and `skip_corrupt` is off.
    pub fn assemble(&self, positions: &[usize], scratch: &mut Scratch) -> Result<Batch> {
        let mut corrupt = Vec::new();
        let mut left = positions.to_vec();
        loop {
            let mut batch = self.empty(&left);
            let mut whole = Vec::with_capacity(left.len());
            for (row, &position) in left.iter().enumerate() {
                match self.read(position, row, &mut batch, scratch) {
                    Ok(()) => whole.push(position),
                    Err(Error::Corrupt { path, utterance, column, detail }) if self.data.skip_corrupt => {
                        tracing::warn!(
                            "left out utterance {utterance}: {}, column {column}: {detail}",
                            path.display()
                        );
                        corrupt.push(utterance);
                    }
                    Err(error) => return Err(error),
                }
            }
            if whole.len() == left.len() {
                batch.corrupt = corrupt;
                return Ok(batch);
            }
            // Others have other places: once more without those that are damaged, which hardly ever happens.
            left = whole;
        }
    }

    /// A batch with room for the examples at `positions`, and what is known of them without reading a payload.
    fn empty(&self, positions: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for &position in positions {
            let example = &self.prepared.examples[self.stage.examples[position]];
            let utterance = &self.prepared.train[example.corpus].utterances()[example.utterance];
            let frames = utterance.frames as usize;
            let mut places = self.stage.teachers.iter().filter_map(|teacher| teacher.places.get(position));
            let target_frames =
                places.next_back().map_or_else(|| self.prepared.output_frames(frames), |place| place.frames);
            batch.utterances.push(utterance.id.clone());
            batch.frames.push(frames);
            batch.target_frames.push(target_frames);
            let needs_text = self.settings.objective.needs_text();
            batch.text.push(if needs_text { example.text.clone() } else { Vec::new() });
        }
        let rows = positions.len();
        batch.padded_frames = batch.frames.iter().max().map_or(0, |longest| longest.next_multiple_of(PAD_TO));
        batch.padded_targets = self.prepared.output_frames(batch.padded_frames);
        batch.features = vec![0.0; rows * self.prepared.bins * batch.padded_frames];
        let padded = batch.padded_targets;
        let hidden = |width: usize| HiddenTarget {
            values: vec![0.0; rows * width * padded],
            weight: vec![0.0; rows * padded],
        };
        batch.hidden = self.stage.pairs.iter().map(|pair| hidden(pair.teacher_width)).collect();
        if self.settings.objective.target() == Target::Posterior {
            batch.posterior = vec![0.0; rows * padded * self.prepared.labels];
        }
        batch.nbest = vec![Vec::new(); rows];
        batch
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

    /// Reads the example at `position` into row `row` of a batch that has room for it.
    fn read(&self, position: usize, row: usize, batch: &mut Batch, scratch: &mut Scratch) -> Result<()> {
        let example = &self.prepared.examples[self.stage.examples[position]];
        let corpus = &self.prepared.train[example.corpus];
        let (bins, frames, padded) = (self.prepared.bins, batch.frames[row], batch.padded_frames);
        corpus.features(example.utterance, &mut scratch.values)?;
        if let Some(masks) = &self.data.spec_augment {
            let utterance = &corpus.utterances()[example.utterance];
            let place = [self.stage_number, self.epoch, copies::name(&utterance.id)];
            let mut random = Random::new(self.seed, "spec_augment", &place);
            masks.mask(&mut scratch.values, frames, bins, &mut random);
        }
        let size = bins * padded;
        transpose(&scratch.values, bins, &mut batch.features[row * size..(row + 1) * size], (0, padded));
        for (number, PreparedTeacher { set, weight, places }) in self.stage.teachers.iter().enumerate() {
            let Some(&place) = places.get(position) else { continue };
            match self.settings.objective.target() {
                Target::None => {}
                Target::Hidden => self.hidden(set, place, row, batch, scratch)?,
                Target::Posterior => {
                    let out = if number == 0 { &mut scratch.posterior } else { &mut scratch.values };
                    set.posterior(place, self.settings.temperature(), out)?;
                    average(&mut scratch.posterior, &scratch.values, *weight, number);
                }
                Target::Nbest => batch.nbest[row] = set.nbest(place)?,
            }
        }
        if self.settings.objective.target() == Target::Posterior {
            self.posterior(row, batch, &mut scratch.posterior);
        }
        Ok(())
    }

    /// What every pair wants of the teacher; a layer of several pairs is read once.
    fn hidden(
        &self,
        set: &TeacherSet,
        place: Place,
        row: usize,
        batch: &mut Batch,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (pairs, frames, padded) = (&self.stage.pairs, batch.target_frames[row], batch.padded_targets);
        for (number, pair) in pairs.iter().enumerate() {
            let (before, after) = batch.hidden.split_at_mut(number);
            let Some(target) = after.first_mut() else { continue };
            let size = pair.teacher_width * padded;
            let (values, weights) = (row * size..(row + 1) * size, row * padded..row * padded + frames);
            let same = pairs[..number].iter().position(|other| other.teacher == pair.teacher);
            if let Some(same) = same.and_then(|same| before.get(same)) {
                target.values[values.clone()].copy_from_slice(&same.values[values]);
                target.weight[weights.clone()].copy_from_slice(&same.weight[weights]);
                continue;
            }
            let (width, out) = (pair.teacher_width, &mut target.values[values]);
            set.hidden(pair.teacher, place, |first, piece| {
                // The teacher may have a frame more than the student.
                let used = frames.saturating_sub(first) * width;
                transpose(&piece[..used.min(piece.len())], width, out, (first, padded));
            })?;
            if self.settings.frame_weighting() {
                set.frame_weight(pair.teacher, place, &mut scratch.values)?;
                target.weight[weights].copy_from_slice(&scratch.values[..frames]);
            } else {
                target.weight[weights].fill(1.0);
            }
        }
        Ok(())
    }

    /// Puts the teachers' softmax, [frames, labels], in its place.
    fn posterior(&self, row: usize, batch: &mut Batch, softmax: &mut [f32]) {
        let labels = self.prepared.labels;
        if self.settings.objective == Objective::CtcGuided {
            guide(softmax, labels, self.prepared.blank, self.settings.guide_blank());
        }
        let used = &softmax[..batch.target_frames[row] * labels];
        batch.posterior[row * batch.padded_targets * labels..][..used.len()].copy_from_slice(used);
    }
}

/// What a thread needs to assemble batches; kept from utterance to utterance, since fresh memory costs more than to read into it.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Features, hidden states or whatever else has just been read.
    values: Vec<f32>,
    /// The softmax of the teachers so far.
    posterior: Vec<f32>,
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
                let (mut ahead, mut scratch) = (VecDeque::new(), Scratch::default());
                for (turn, positions) in share.iter().enumerate() {
                    let batch = profile.time_on(number + 1, Part::Assemble, || {
                        // One batch ahead: as long as this one is worked on, the disk may take for the next.
                        for next in share.iter().skip(turn + ahead.len()).take(2 - ahead.len()) {
                            // What is wrong with it will be said when it is read.
                            ahead.push_back(assembler.ahead(next).unwrap_or_default());
                        }
                        let batch = assembler.assemble(positions, &mut scratch);
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
