//! A sample of what the teacher computes over a corpus, and the codec that is learned from it.
//!
//! Utterances are taken from all of the corpus, evenly, before the shards are gone through. What the teacher said of
//! them is kept and encoded with the rest: nothing is computed twice, unless a cache goes on that was stopped.

use std::sync::Arc;
use std::time::Instant;

use super::Cache;
use super::batches::plan;
use super::codec::{Codec, CodecModel, CodecName};
use super::encode::{Hidden, by_frame};
use super::forward::{Forward, Input, Outcome, run_in_parts};
use super::identity::Identity;
use super::resume::Wanted;
use super::stage::Done;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::models::HiddenLayer;
use crate::progress::Progress;
use crate::signal::Stop;

/// Output frames of a sample, about: 32 for every channel of a layer of 1,024. Twice as many buy 0.6 % of the bytes.
const FRAMES: u64 = 32_768;

/// One utterance of a sample.
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
    /// Padded feature frames of a batch.
    pub budget: usize,
    /// Asks for an orderly end.
    pub stop: &'a Stop,
}

impl Source<'_> {
    /// Runs the teacher over the sample.
    ///
    /// # Errors
    /// When the teacher fails, the corpus cannot be read, or the run is stopped.
    pub fn sample(&self, teacher: &impl Forward) -> Result<(Vec<Sampled>, Done)> {
        let started = Instant::now();
        let rows: Vec<(usize, usize, u32)> = self
            .wanted
            .iter()
            .enumerate()
            .flat_map(|(shard, wanted)| {
                wanted.keys.iter().enumerate().map(move |(row, key)| (shard, row, key.frames))
            })
            .filter(|(_, _, frames)| *frames > 0)
            .collect();
        let all: u64 = rows.iter().map(|row| u64::from(row.2)).sum();
        let every = usize::try_from(all / FRAMES).unwrap_or(1).max(1);
        let rows: Vec<(usize, usize, u32)> = rows.into_iter().step_by(every).collect();
        let place = |&(shard, row, _): &(usize, usize, u32)| self.corpus.shard(shard).start + row;
        let frames: Vec<u32> = rows.iter().map(|row| self.corpus.utterances()[place(row)].frames).collect();
        let progress =
            Progress::new("sample", "s of audio", frames.iter().map(|&f| u64::from(f)).sum::<u64>() / 100);
        let (mut sampled, mut done) = (Vec::with_capacity(rows.len()), Done::default());
        let (mut limit, mut features) = (usize::MAX, Vec::new());
        for batch in plan(&frames, self.budget) {
            if self.stop.requested() {
                return Err(Error::Interrupted(
                    "the codec was not learned yet; nothing was written".to_owned(),
                ));
            }
            let mut input = Input::new(batch.rows.iter().map(|&at| frames[at] as usize).collect());
            for (index, &at) in batch.rows.iter().enumerate() {
                self.corpus.features(place(&rows[at]), &mut features)?;
                input.set(index, &features);
            }
            let name = |index: usize| self.corpus.utterances()[place(&rows[batch.rows[index]])].id.clone();
            let busy = Instant::now();
            let mut take = |first: usize, outcome: Outcome| {
                let outcome = Arc::new(outcome);
                for index in 0..outcome.frames.len() {
                    let (shard, row, _) = rows[batch.rows[first + index]];
                    sampled.push(Sampled { shard, row, outcome: Arc::clone(&outcome), index });
                }
                Ok(())
            };
            run_in_parts(teacher, &input, &mut limit, &name, &mut take)?;
            done.forward += busy.elapsed();
            let valid: usize = input.frames.iter().sum();
            done.valid += valid as u64;
            done.padded += (input.frames.len() * input.padded) as u64;
            progress.add(valid as u64 / 100);
        }
        progress.finish();
        done.wall = started.elapsed();
        Ok((sampled, done))
    }
}

/// Learns the codecs of every layer of a cache from what the teacher said of a sample.
///
/// # Errors
/// As for [`learn`].
pub fn learn_from_sample(name: CodecName, identity: &Identity, sampled: &[Sampled]) -> Result<CodecModel> {
    let layers = identity.hidden_layers();
    learn(name, identity, &mut |layer, width| {
        let number = layers.iter().position(|(of, _)| *of == layer).unwrap_or(0);
        let utterance = |sampled: &Sampled| {
            let Sampled { outcome, index, .. } = sampled;
            let values = number.checked_sub(1).and_then(|inner| outcome.inner.get(inner));
            let size = width * outcome.padded;
            let values = values.unwrap_or(&outcome.hidden).get(index * size..(index + 1) * size);
            let hidden = Hidden { layer, values: values.unwrap_or_default(), width };
            by_frame(hidden, outcome.frames[*index], outcome.padded)
        };
        Ok(sampled.iter().map(utterance).collect())
    })
}

/// Learns the codecs of every layer from a sample of an exact cache.
///
/// # Errors
/// As for [`learn`]; and when a payload is damaged.
pub fn learn_from_cache(name: CodecName, cache: &Cache) -> Result<CodecModel> {
    let places: Vec<usize> =
        (0..cache.entries().len()).filter(|&at| cache.entries()[at].frames > 0).collect();
    let every = usize::try_from(cache.manifest().frames / FRAMES).unwrap_or(1).max(1);
    learn(name, cache.identity(), &mut |layer, _| {
        let read = |&at: &usize| {
            let mut values = Vec::new();
            cache.hidden(layer, at, &mut values).map(|()| values)
        };
        places.iter().step_by(every).map(read).collect()
    })
}

/// Learns the codecs of every layer; `utterances` gives a layer's sample, each [frames, width].
///
/// # Errors
/// When the sample holds nothing to learn from, or a layer is too narrow for the codec.
fn learn(
    name: CodecName,
    identity: &Identity,
    utterances: &mut dyn FnMut(HiddenLayer, usize) -> Result<Vec<Vec<f32>>>,
) -> Result<CodecModel> {
    let mut layers = Vec::new();
    for (layer, width) in identity.hidden_layers() {
        let utterances = utterances(layer, width)?;
        if let Some(at) = utterances.iter().position(|u| u.iter().any(|v| !v.is_finite())) {
            return Err(Error::invalid(format!(
                "teacher {}: layer {layer} of utterance {at} of the sample is not finite; a model whose outputs overflow \
                 cannot be distilled from",
                identity.teacher.name
            )));
        }
        let codec = Codec::learn(name, &utterances, width)
            .map_err(|detail| Error::invalid(format!("--codec {name}, layer {layer}: {detail}")))?;
        layers.push((layer, codec));
    }
    Ok(CodecModel::new(name, layers))
}
