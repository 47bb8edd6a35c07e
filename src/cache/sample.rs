//! A sample of what the teacher computes over a corpus, and what it computes while a codec is learned from that.
//!
//! Utterances are taken from all of the corpus, evenly, before the shards are gone through. What the teacher said of
//! them is kept and encoded with the rest: nothing is computed twice, unless a cache goes on that was stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::batches::{Batch, plan};
use super::forward::{Forward, Input, Outcome, run_in_parts};
use super::resume::Wanted;
use super::stage::Done;
use super::together::not_learned;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::signal::Stop;

/// One utterance that the teacher was run over before there was a codec.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// Index of its shard.
    pub shard: usize,
    /// Its row there.
    pub row: usize,
    /// The batch that it was in.
    pub outcome: Arc<Outcome>,
    /// Its place in the batch.
    pub index: usize,
}

/// What a sample is taken of.
pub struct Source<'a> {
    /// The corpus.
    pub corpus: &'a Corpus,
    /// Its rows, with their output frames.
    pub wanted: &'a [Wanted],
    /// Output frames of the sample, about. While a codec is learned, the teacher goes ahead by half as many at most, as they are
    /// kept in memory.
    pub frames: u64,
    /// Padded feature frames of a batch.
    pub budget: usize,
    /// Whether all shards are this run's to write and none is there, so that what is computed ahead of the codec is of use.
    pub all: bool,
    /// Asks for an orderly end.
    pub stop: &'a Stop,
}

/// A teacher on its way.
struct Run<'a, T> {
    source: &'a Source<'a>,
    teacher: &'a T,
    limit: usize,
    features: Vec<f32>,
    done: Done,
}

impl Source<'_> {
    /// Runs the teacher over the sample and gives it to `learn`; while that works, in a thread of its own, the teacher goes on
    /// with the first batches of the first shards. Returns what was learned and everything that was computed.
    ///
    /// # Errors
    /// When the teacher fails, the corpus cannot be read, the run is stopped, or `learn` fails.
    pub fn learn<R: Send>(
        &self,
        teacher: &impl Forward,
        learn: impl FnOnce(&[Sampled]) -> Result<R> + Send,
    ) -> Result<(R, Vec<Sampled>, Done)> {
        let started = Instant::now();
        let mut run =
            Run { source: self, teacher, limit: usize::MAX, features: Vec::new(), done: Done::default() };
        let mut sampled = run.sample()?;
        let (learned, ahead) = std::thread::scope(|scope| {
            let sample = &sampled;
            let learner = scope.spawn(move || learn(sample));
            let ahead = if self.all { run.ahead(sample, &|| learner.is_finished()) } else { Ok(Vec::new()) };
            (learner.join(), ahead)
        });
        let learned = learned
            .unwrap_or_else(|_| Err(Error::invalid("learning the codec panicked; see the message above")))?;
        sampled.extend(ahead?);
        let Run { mut done, .. } = run;
        done.wall = started.elapsed();
        Ok((learned, sampled, done))
    }

    /// Place in the corpus of a shard's row.
    fn place(&self, shard: usize, row: usize) -> usize {
        self.corpus.shard(shard).start + row
    }

    /// Feature frames of it.
    fn frames(&self, shard: usize, row: usize) -> u32 {
        self.corpus.utterances()[self.place(shard, row)].frames
    }
}

impl<T: Forward> Run<'_, T> {
    /// Utterances of all of the corpus, evenly.
    fn sample(&mut self) -> Result<Vec<Sampled>> {
        let source = self.source;
        let rows: Vec<(usize, usize, u32)> = source
            .wanted
            .iter()
            .enumerate()
            .flat_map(|(shard, wanted)| {
                wanted.keys.iter().enumerate().map(move |(row, key)| (shard, row, key.frames))
            })
            .filter(|(_, _, frames)| *frames > 0)
            .collect();
        let all: u64 = rows.iter().map(|row| u64::from(row.2)).sum();
        let every = usize::try_from(all / source.frames.max(1)).unwrap_or(1).max(1);
        let rows: Vec<(usize, usize)> = rows.into_iter().step_by(every).map(|(s, r, _)| (s, r)).collect();
        let frames: Vec<u32> = rows.iter().map(|&(shard, row)| source.frames(shard, row)).collect();
        let progress =
            Progress::new("sample", "s of audio", frames.iter().map(|&f| u64::from(f)).sum::<u64>() / 100);
        let mut sampled = Vec::with_capacity(rows.len());
        for batch in plan(&frames, source.budget) {
            if source.stop.requested() {
                return Err(not_learned());
            }
            let before = self.done.valid;
            self.batch(&batch, |row| rows[row], &mut sampled)?;
            progress.add((self.done.valid - before) / 100);
        }
        progress.finish();
        Ok(sampled)
    }

    /// The batches that the run over the shards would begin with, `sampled` left out, until `enough`.
    fn ahead(&mut self, sampled: &[Sampled], enough: &dyn Fn() -> bool) -> Result<Vec<Sampled>> {
        let source = self.source;
        let (mut ahead, mut output) = (Vec::new(), 0u64);
        for shard in 0..source.wanted.len() {
            let there: BTreeSet<usize> = sampled.iter().filter(|s| s.shard == shard).map(|s| s.row).collect();
            let left: Vec<usize> =
                (0..source.corpus.shard(shard).len()).filter(|row| !there.contains(row)).collect();
            let frames: Vec<u32> = left.iter().map(|&row| source.frames(shard, row)).collect();
            for batch in plan(&frames, source.budget) {
                if enough() || output >= source.frames / 2 || source.stop.requested() {
                    return Ok(ahead);
                }
                let before = ahead.len();
                self.batch(&batch, |row| (shard, left[row]), &mut ahead)?;
                output += ahead[before..].iter().map(|s| s.outcome.frames[s.index] as u64).sum::<u64>();
            }
        }
        Ok(ahead)
    }

    /// Runs a batch; `which` says the shard, and the row there, of each of the batch's rows.
    fn batch(
        &mut self,
        batch: &Batch,
        which: impl Fn(usize) -> (usize, usize),
        out: &mut Vec<Sampled>,
    ) -> Result<()> {
        let source = self.source;
        let of = |index: usize| which(batch.rows[index]);
        let frames = (0..batch.rows.len()).map(of).map(|(shard, row)| source.frames(shard, row) as usize);
        let mut input = Input::new(frames.collect());
        for index in 0..batch.rows.len() {
            let (shard, row) = of(index);
            source.corpus.features(source.place(shard, row), &mut self.features)?;
            input.set(index, &self.features);
        }
        let name = |index: usize| {
            let (shard, row) = of(index);
            source.corpus.utterances()[source.place(shard, row)].id.clone()
        };
        let busy = Instant::now();
        let mut take = |first: usize, outcome: Outcome| {
            let outcome = Arc::new(outcome);
            for index in 0..outcome.frames.len() {
                let (shard, row) = of(first + index);
                out.push(Sampled { shard, row, outcome: Arc::clone(&outcome), index });
            }
            Ok(())
        };
        run_in_parts(self.teacher, &input, &mut self.limit, &name, &mut take)?;
        self.done.forward += busy.elapsed();
        let valid: usize = input.frames.iter().sum();
        self.done.valid += valid as u64;
        self.done.padded += (input.frames.len() * input.padded) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::super::forward::Failure;
    use super::super::schema::Key;
    use super::*;
    use crate::features::BINS;

    /// Hidden states are the first bin of every frame.
    struct Bin<'a>(&'a AtomicUsize);

    impl Forward for Bin<'_> {
        fn forward(&self, input: &Input) -> std::result::Result<Outcome, Failure> {
            self.0.fetch_add(input.frames.len(), Ordering::SeqCst);
            let first = |at: usize| &input.features[at * BINS * input.padded..][..input.padded];
            let hidden = (0..input.frames.len()).flat_map(first).copied().collect();
            let (frames, padded) = (input.frames.clone(), input.padded);
            Ok(Outcome { hidden, inner: Vec::new(), logits: Vec::new(), frames, padded })
        }
    }

    #[test]
    fn the_teacher_goes_ahead_within_bounds_and_over_nothing_twice() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/corpus");
        let corpus = Corpus::open(&path).unwrap();
        let key = |u: &crate::corpus::Utterance| Key {
            utterance: u.id.clone(),
            samples: u.samples,
            audio_hash: u.audio_hash,
            frames: u.frames,
        };
        let keys = |shard| corpus.utterances()[corpus.shard(shard)].iter().map(key).collect();
        let shards = 0..corpus.shard_count();
        let wanted: Vec<Wanted> =
            shards.map(|shard| Wanted { file: shard.to_string(), keys: keys(shard) }).collect();
        let (count, all) = (corpus.utterances().len(), wanted.iter().flat_map(|w| &w.keys));
        let all: u64 = all.map(|key| u64::from(key.frames)).sum();
        assert_eq!((count, wanted.len()), (3, 2));
        // One utterance is the sample. Half of as many frames are reached by the first one ahead.
        for (frames, go, expected) in [(all / 3, true, 2), (all / 3, false, 1), (all, true, 3)] {
            let (stop, seen) = (Stop::default(), AtomicUsize::new(0));
            let source = Source { corpus: &corpus, wanted: &wanted, frames, budget: 1, all: go, stop: &stop };
            let learn = |sampled: &[Sampled]| {
                for _ in 0..2000 {
                    if seen.load(Ordering::SeqCst) >= expected {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(sampled.len())
            };
            let (sample, computed, done) = source.learn(&Bin(&seen), learn).unwrap();
            assert_eq!(sample, if frames == all { 3 } else { 1 });
            assert_eq!((computed.len(), seen.load(Ordering::SeqCst)), (expected, expected), "{frames} {go}");
            let rows: BTreeSet<(usize, usize)> = computed.iter().map(|s| (s.shard, s.row)).collect();
            assert_eq!(rows.len(), expected);
            let mut valid = 0;
            for Sampled { shard, row, outcome, index } in &computed {
                let mut features = Vec::new();
                corpus.features(source.place(*shard, *row), &mut features).unwrap();
                let own = &outcome.hidden[index * outcome.padded..][..outcome.frames[*index]];
                assert_eq!(own, features.iter().step_by(BINS).copied().collect::<Vec<_>>());
                valid += own.len() as u64;
            }
            assert_eq!(done.valid, valid);
        }
    }
}
