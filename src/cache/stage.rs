//! The threads of stage one: read, forward, encode, write, each while the others do theirs.
//!
//! ```text
//! loader --inputs--> forward --outcomes--> encoders --rows--> writer
//! ```
//! The channels are bounded, so that a slow part holds the others back instead of filling memory: at
//! any time there are at most two batches before the device and two behind it, and the rows of the
//! shard being gathered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::batches::{Batch, plan};
use super::codec::CodecModel;
use super::encode::{Extras, Hidden, Raw, encode};
use super::forward::{Forward, Input, Outcome, run_in_parts};
use super::identity::Identity;
use super::manifest::ShardEntry;
use super::nbest::NbestSearch;
use super::resume::{Place, Wanted, finished_since};
use super::sample::Sampled;
use super::schema::{Key, Row};
use super::tasks::claim::Claims;
use super::together::interrupted;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::models::HiddenLayer;
use crate::progress::Progress;
use crate::signal::Stop;

/// Batches that wait before and behind the device.
const AHEAD: usize = 2;

/// What the threads share.
pub struct Job<'a> {
    /// Where the features come from.
    pub corpus: &'a Corpus,
    /// Where the shards go.
    pub dir: &'a std::path::Path,
    /// What they are of.
    pub identity: &'a Identity,
    /// BLAKE3 of `cache.toml`.
    pub cache: &'a str,
    /// Every shard of the corpus.
    pub wanted: &'a [Wanted],
    /// Indexes of those to write.
    pub pending: &'a [usize],
    /// What the manifest says of some of them: they are written as it says, or not at all.
    pub expected: &'a [ShardEntry],
    /// Padded feature frames of a batch.
    pub budget: usize,
    /// Threads that encode.
    pub workers: usize,
    /// How hidden states are stored.
    pub codecs: &'a CodecModel,
    /// What is computed already.
    pub sampled: &'a [Sampled],
    /// Finds the column `nbest`, where the identity has one.
    pub nbest: Option<&'a NbestSearch>,
    /// Keeps other processes from what this one is at work on, where several write.
    pub claims: Option<&'a Claims>,
    /// Advances by seconds of audio.
    pub progress: &'a Progress,
    /// Asks for an orderly end.
    pub stop: &'a Stop,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// The shards that were written, with their index.
    pub shards: Vec<(usize, ShardEntry)>,
    /// Time in the forward pass, copying to and from the device included.
    pub forward: Duration,
    /// Time from the first batch asked for to the last shard written.
    pub wall: Duration,
    /// Valid feature frames that went through.
    pub valid: u64,
    /// Feature frames that went through, padding included.
    pub padded: u64,
}

impl Done {
    /// The work of both, `self` having come first.
    pub fn before(self, later: Self) -> Self {
        Self {
            shards: self.shards.into_iter().chain(later.shards).collect(),
            forward: self.forward + later.forward,
            wall: self.wall + later.wall,
            valid: self.valid + later.valid,
            padded: self.padded + later.padded,
        }
    }
}

/// One utterance behind the device.
struct Encode {
    shard: usize,
    row: usize,
    /// Index within the outcome; `None` for an utterance without frames.
    from: Option<(Arc<Outcome>, usize)>,
}

/// Runs `teacher` over the pending shards and writes them; with `bare`, runs it and drops the outcome.
///
/// # Errors
/// The first error of any thread; shards that were finished stay.
pub fn run(job: &Job, teacher: &impl Forward, bare: bool) -> Result<Done> {
    let started = Instant::now();
    // Set by an encoder that fails, as its fellows would go on without it.
    let abort = AtomicBool::new(false);
    let (input_sender, inputs) = bounded(AHEAD);
    let (outcome_sender, outcomes) = bounded::<Encode>(2 * job.workers + AHEAD);
    let (row_sender, rows) = bounded(2 * job.workers + AHEAD);
    let (results, mut done) = std::thread::scope(|scope| {
        let loader = scope.spawn(|| load(job, input_sender));
        let encoders: Vec<_> = (0..job.workers.max(1))
            .map(|_| {
                let (outcomes, rows) = (outcomes.clone(), row_sender.clone());
                let abort = &abort;
                scope.spawn(move || {
                    encode_all(job, &outcomes, &rows).inspect_err(|_| abort.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        // Only the threads hold the ends now: when one stops, its neighbours see it.
        drop((outcomes, row_sender));
        let writer = scope.spawn(|| write(job, rows));
        let mut done = Done::default();
        let forwarded = forward(job, teacher, bare, &abort, inputs, outcome_sender, &mut done);
        let mut results = Vec::new();
        match joined(writer.join()) {
            Ok(shards) => done.shards = shards,
            Err(e) => results.push(Err(e)),
        }
        results.extend(encoders.into_iter().map(|e| joined(e.join())));
        results.extend([forwarded, joined(loader.join())]);
        (results, done)
    });
    done.wall = started.elapsed();
    results.into_iter().collect::<Result<()>>()?;
    Ok(done)
}

fn joined<T>(result: std::thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| Err(Error::invalid("a thread of the cache panicked; see the message above")))
}

/// Reads and pads the features of every pending shard's batches.
fn load(job: &Job, sender: Sender<(usize, Batch, Input)>) -> Result<()> {
    let mut features = Vec::new();
    for &shard in job.pending {
        if job.stop.noticed() {
            // What was begun is finished.
            return Ok(());
        }
        if !claim(job, shard)? {
            continue;
        }
        let range = job.corpus.shard(shard);
        let utterances = &job.corpus.utterances()[range.clone()];
        let there: BTreeSet<usize> = job.sampled.iter().filter(|s| s.shard == shard).map(|s| s.row).collect();
        let frames: Vec<u32> = utterances.iter().map(|u| u.frames).collect();
        let left: Vec<usize> = (0..frames.len()).filter(|row| !there.contains(row)).collect();
        let of_left: Vec<u32> = left.iter().map(|&row| frames[row]).collect();
        for mut batch in plan(&of_left, job.budget) {
            batch.rows.iter_mut().for_each(|row| *row = left[*row]);
            let mut input = Input::new(batch.rows.iter().map(|&row| frames[row] as usize).collect());
            for (index, &row) in batch.rows.iter().enumerate() {
                job.corpus.features(range.start + row, &mut features)?;
                input.set(index, &features);
            }
            if sender.send((shard, batch, input)).is_err() {
                // The device stopped; it says why.
                return Ok(());
            }
        }
        let silent = frames.iter().enumerate().filter(|(_, f)| **f == 0).map(|(row, _)| row).collect();
        let empty = Batch { rows: silent, padded: 0 };
        if !empty.rows.is_empty() && sender.send((shard, empty, Input::new(Vec::new()))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a shard is this process' to write: nobody else is at work on it or has finished it.
fn claim(job: &Job, shard: usize) -> Result<bool> {
    let (Some(claims), file) = (job.claims, &job.wanted[shard].file) else { return Ok(true) };
    if !claims.take(file)? {
        return Ok(false);
    }
    let finished = finished_since(job.dir, file).is_some();
    if finished {
        claims.release(file);
    }
    Ok(!finished)
}

/// Runs the teacher over what the loader reads.
fn forward(
    job: &Job,
    teacher: &impl Forward,
    bare: bool,
    abort: &AtomicBool,
    inputs: Receiver<(usize, Batch, Input)>,
    sender: Sender<Encode>,
    done: &mut Done,
) -> Result<()> {
    for Sampled { shard, row, outcome, index } in job.sampled.iter().filter(|_| !bare) {
        let from = Some((Arc::clone(outcome), *index));
        if job.pending.contains(shard) && sender.send(Encode { shard: *shard, row: *row, from }).is_err() {
            return Ok(());
        }
    }
    let mut limit = usize::MAX;
    for (shard, batch, input) in inputs {
        if job.stop.at_once() {
            return Err(interrupted());
        }
        if batch.padded == 0 {
            let rows = batch.rows.iter().map(|&row| Encode { shard, row, from: None });
            if !bare && rows.map(|e| sender.send(e)).any(|sent| sent.is_err()) {
                return Ok(());
            }
            continue;
        }
        let utterances = &job.wanted[shard].keys;
        let name = |index: usize| utterances[batch.rows[index]].utterance.clone();
        let mut busy = Instant::now();
        let mut closed = false;
        let mut take = |first: usize, outcome: Outcome| {
            done.forward += busy.elapsed();
            let outcome = Arc::new(outcome);
            for index in 0..if bare { 0 } else { outcome.frames.len() } {
                let from = Some((Arc::clone(&outcome), index));
                closed |= sender.send(Encode { shard, row: batch.rows[first + index], from }).is_err();
            }
            busy = Instant::now();
            Ok(())
        };
        run_in_parts(teacher, &input, &mut limit, &name, &mut take)?;
        if closed || abort.load(Ordering::Relaxed) {
            // An encoder or the writer stopped; it says why.
            return Ok(());
        }
        let valid: usize = input.frames.iter().sum();
        done.valid += valid as u64;
        done.padded += (input.frames.len() * input.padded) as u64;
        job.progress.add(done.valid / 100 - (done.valid - valid as u64) / 100);
    }
    Ok(())
}

/// Turns outcomes into rows.
fn encode_all(job: &Job, outcomes: &Receiver<Encode>, rows: &Sender<(usize, usize, Row)>) -> Result<()> {
    let (width, labels) = (job.identity.hidden_width as usize, job.identity.labels.count());
    let layers = job.identity.hidden_layers();
    for Encode { shard, row, from } in outcomes {
        let key = job.wanted[shard].keys[row].clone();
        let mut inner: Vec<Hidden> =
            layers.iter().skip(1).map(|&(layer, width)| Hidden { layer, values: &[], width }).collect();
        let raw = match &from {
            None => {
                let hidden = Hidden { layer: HiddenLayer::Last, values: &[], width };
                Raw { hidden, inner: &inner, logits: &[], frames: 0, padded: 0, labels }
            }
            Some((outcome, index)) => {
                let (frames, padded) = (outcome.frames[*index], outcome.padded);
                if frames != key.frames as usize {
                    return Err(Error::mismatch(
                        format!("output frames of utterance {}", key.utterance),
                        key.frames.to_string(),
                        frames.to_string(),
                        "the model's stride is not what its configuration says",
                    ));
                }
                let size = |width: usize| index * width * padded..(index + 1) * width * padded;
                for (inner, values) in inner.iter_mut().zip(&outcome.inner) {
                    inner.values = &values[size(inner.width)];
                }
                Raw {
                    hidden: Hidden { layer: HiddenLayer::Last, values: &outcome.hidden[size(width)], width },
                    inner: &inner,
                    logits: &outcome.logits[size(labels)],
                    frames,
                    padded,
                    labels,
                }
            }
        };
        let Key { utterance, .. } = &key;
        let offence = |detail| {
            Error::invalid(format!(
                "teacher {}, utterance {utterance}: {detail}; a model whose outputs overflow cannot be \
                 distilled from",
                job.identity.teacher.name
            ))
        };
        let nbest = job.nbest.map(|search| (search, &job.identity.labels));
        let extras = Extras { temperature: job.identity.temperature, nbest, codecs: Some(job.codecs) };
        let encoded = encode(key.clone(), raw, extras).map_err(offence)?;
        if rows.send((shard, row, encoded)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Gathers the rows of one shard after the other and writes each when it is whole.
fn write(job: &Job, rows: Receiver<(usize, usize, Row)>) -> Result<Vec<(usize, ShardEntry)>> {
    let mut gathered = std::collections::BTreeMap::<usize, Gathered>::new();
    let mut written = Vec::new();
    for (shard, row, encoded) in rows {
        let wanted = &job.wanted[shard];
        let gathering = gathered.entry(shard).or_insert_with(|| Gathered::new(wanted.keys.len()));
        gathering.put(row, encoded);
        if gathering.missing > 0 {
            continue;
        }
        let rows: Vec<Row> =
            gathered.remove(&shard).map(|g| g.rows).unwrap_or_default().into_iter().flatten().collect();
        let frames = rows.iter().map(|r| u64::from(r.key.frames)).sum();
        // Whoever took over a claim of this process has written the same; where machines compute differently, the first counts.
        let finished = job.claims.and_then(|_| finished_since(job.dir, &wanted.file));
        let place = Place { dir: job.dir, identity: job.identity, cache: job.cache, expected: job.expected };
        let entry = match finished {
            Some(entry) => entry,
            None => place.write(&wanted.file, frames, &rows)?,
        };
        if let Some(claims) = job.claims {
            claims.release(&wanted.file);
        }
        tracing::debug!("{}: {} utterances, {} bytes", entry.file, entry.rows, entry.bytes);
        written.push((shard, entry));
    }
    Ok(written)
}

/// The rows of a shard as they come.
struct Gathered {
    rows: Vec<Option<Row>>,
    missing: usize,
}

impl Gathered {
    fn new(rows: usize) -> Self {
        Self { rows: vec![None; rows], missing: rows }
    }

    fn put(&mut self, row: usize, encoded: Row) {
        if let Some(place @ None) = self.rows.get_mut(row) {
            *place = Some(encoded);
            self.missing -= 1;
        }
    }
}
