//! Decodes and computes on several threads, writes rows in order on one.
//!
//! At most [`WINDOW`] utterances a worker are between the file and the shard, so memory does not
//! grow with the corpus, and the order of rows does not depend on the threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use super::librispeech::{Found, skipped};
use super::manifest::ShardEntry;
use super::plan::Finished;
use super::prep::{Options, shard_file, strict};
use super::reason::{Fault, Reason, Skipped};
use super::{Utterance, audio, schema};
use crate::error::{Error, Result};
use crate::features::{Frontend, SAMPLE_RATE};
use crate::files;
use crate::progress::Progress;
use crate::shard::ShardWriter;
use crate::signal::Stop;

/// Utterances in flight per worker.
const WINDOW: usize = 4;
/// How long a request to stop may go unnoticed while files are slow.
const PATIENCE: Duration = Duration::from_millis(200);

/// A shard to be made.
pub(super) struct Shard<'a> {
    pub index: usize,
    pub found: &'a [Found],
    /// Stamp of the input, for the record.
    pub input: String,
}

/// A computed utterance.
struct Row {
    utterance: Utterance,
    payload: Vec<u8>,
    verified: bool,
}

/// What a worker sends: an error stops the run, a fault skips the utterance.
type Done = (usize, Result<std::result::Result<Row, Fault>>);

/// Makes the shards in order; `finished` gets the record of each when it is whole on disk.
pub(super) fn run(
    options: &Options,
    shards: &[Shard],
    stop: &Stop,
    mut finished: impl FnMut(usize, Finished) -> Result<()>,
) -> Result<()> {
    let total: usize = shards.iter().map(|s| s.found.len()).sum();
    if total == 0 {
        return Ok(());
    }
    let progress = Progress::new("prep", "utterances", total as u64);
    let window = options.workers * WINDOW;
    let result = std::thread::scope(|scope| {
        let (job, jobs) = crossbeam::channel::bounded::<(usize, &Found)>(window);
        let (done, results) = crossbeam::channel::bounded::<Done>(window);
        for _ in 0..options.workers.min(total) {
            let (jobs, done) = (jobs.clone(), done.clone());
            scope.spawn(move || {
                for (sequence, found) in jobs {
                    if done.send((sequence, compute(&options.root, found, options.frontend))).is_err() {
                        break;
                    }
                }
            });
        }
        drop((jobs, done));
        let mut all = shards.iter().flat_map(|s| s.found).enumerate();
        let mut early = BTreeMap::new();
        let (mut in_flight, mut next) = (0, 0);
        let mut samples = 0;
        for shard in shards {
            let mut open = Open::default();
            for found in shard.found {
                let row = loop {
                    while in_flight < window
                        && let Some(one) = all.next()
                    {
                        job.send(one).map_err(|_| lost())?;
                        in_flight += 1;
                    }
                    if let Some(row) = early.remove(&next) {
                        break row;
                    }
                    match results.recv_timeout(PATIENCE) {
                        Ok((sequence, row)) => drop(early.insert(sequence, row)),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return Err(lost()),
                    }
                    if stop.requested() {
                        return Err(Error::Interrupted(format!(
                            "complete shards are kept in {}; the same command goes on",
                            options.out.display()
                        )));
                    }
                };
                in_flight -= 1;
                next += 1;
                samples += open.take(options, shard, found, row?)?;
                progress.add(1);
                progress.message(format!("{:.2} h", samples as f64 / f64::from(SAMPLE_RATE) / 3600.0));
            }
            finished(shard.index, open.finish(shard)?)?;
        }
        Ok(())
    });
    progress.finish();
    result
}

fn lost() -> Error {
    Error::invalid("a worker thread ended early; the same command goes on where it stopped")
}

/// Reads, decodes and transforms one utterance.
fn compute(root: &Path, found: &Found, frontend: Frontend) -> Result<std::result::Result<Row, Fault>> {
    let path = root.join(&found.file);
    // A file that cannot be read says nothing about its contents: that stops the run.
    let bytes = files::read(&path)?;
    let at_speed = |audio: audio::Audio| match found.speed {
        None => Ok(audio),
        Some(speed) => audio.at(speed),
    };
    let audio = match audio::decode(bytes, &path).and_then(at_speed) {
        Ok(audio) => audio,
        Err(fault) => return Ok(Err(fault)),
    };
    let features = frontend.features(&audio.samples);
    if features.frames == 0 {
        let detail = format!("{} samples give no frame", audio.samples.len());
        return Ok(Err(Fault::new(Reason::TooShort, detail)));
    }
    let frames = u32::try_from(features.frames)
        .map_err(|_| Error::format(&path, format!("{} frames are too many", features.frames)))?;
    let utterance = Utterance {
        id: found.id.clone(),
        speaker: found.speaker().to_owned(),
        text: found.text.clone(),
        samples: audio.samples.len() as u64,
        audio_hash: audio.audio_hash,
        frames,
        shard: 0,
        row: 0,
    };
    let payload = features.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    // A file is counted once, by what it holds.
    Ok(Ok(Row { utterance, payload, verified: audio.verified || found.speed.is_some() }))
}

/// The shard being written.
#[derive(Default)]
struct Open {
    /// Created with the first usable utterance.
    writer: Option<ShardWriter>,
    samples: u64,
    without_md5: u64,
    speakers: BTreeSet<String>,
    skipped: Vec<Skipped>,
}

impl Open {
    /// Appends a row or notes a fault; gives the samples appended.
    fn take(
        &mut self,
        options: &Options,
        shard: &Shard,
        found: &Found,
        row: std::result::Result<Row, Fault>,
    ) -> Result<u64> {
        let row = match row {
            Ok(row) => row,
            Err(fault) => {
                let one = skipped(&found.id, &found.file, fault);
                if options.strict {
                    return Err(strict(&[one]));
                }
                tracing::debug!("skipped {one}");
                self.skipped.push(one);
                return Ok(0);
            }
        };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => {
                let path = options.out.join(shard_file(shard.index));
                let metadata = schema::metadata(&options.frontend);
                empty.insert(ShardWriter::create(&path, schema::schema(), &[schema::FEATURES], &metadata)?)
            }
        };
        writer.write(&schema::row(&row.utterance, &row.payload)?)?;
        self.samples += row.utterance.samples;
        self.without_md5 += u64::from(!row.verified);
        self.speakers.insert(row.utterance.speaker);
        Ok(row.utterance.samples)
    }

    fn finish(self, shard: &Shard) -> Result<Finished> {
        let entry = match self.writer {
            None => None,
            Some(writer) => {
                let summary = writer.finish()?;
                Some(ShardEntry {
                    file: shard_file(shard.index),
                    rows: summary.rows,
                    bytes: summary.bytes,
                    blake3: summary.blake3,
                })
            }
        };
        Ok(Finished {
            input: shard.input.clone(),
            samples: self.samples,
            without_md5: self.without_md5,
            speakers: self.speakers.into_iter().collect(),
            shard: entry,
            skipped: self.skipped,
        })
    }
}
