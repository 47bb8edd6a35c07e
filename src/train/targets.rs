//! The caches of ONE teacher as a single table by utterance, joined with the student's corpora.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::pipeline::LayerPair;
use crate::cache::Cache;
use crate::cache::column::Column;
use crate::cache::identity::Teacher;
use crate::corpus::Utterance;
use crate::distill::weights;
use crate::error::{Error, Result};
use crate::kernels::ctc_possible;
use crate::labels::Labels;
use crate::models::HiddenLayer;
use crate::store::Ahead;

/// Most frames by which a teacher's and a student's output may differ in length.
pub const FRAME_SLACK: usize = 1;

/// Where an utterance's targets lie, and how many of its frames both sides have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the cache.
    pub cache: usize,
    /// Index of the entry in that cache.
    pub entry: usize,
    /// Frames common to teacher and student.
    pub frames: usize,
}

/// The union of one teacher's caches.
#[derive(Debug)]
pub struct TeacherSet {
    caches: Vec<Cache>,
    places: HashMap<String, (usize, usize)>,
    /// For every logit of the student, the teacher's index; `None` when the orders agree.
    permutation: Option<Vec<usize>>,
    /// The student's.
    labels: Labels,
}

impl TeacherSet {
    /// Opens sealed caches and checks that they fit together and use the student's labels.
    ///
    /// # Errors
    /// Two teachers, an utterance in two caches, other labels; each by name.
    pub fn open(directories: &[PathBuf], labels: &Labels) -> Result<Self> {
        let caches = directories.iter().map(|d| Cache::open(d)).collect::<Result<Vec<_>>>()?;
        let first =
            caches.first().ok_or_else(|| Error::invalid("expected at least one cache, found none"))?;
        let mut places = HashMap::new();
        for (number, cache) in caches.iter().enumerate() {
            let (ours, theirs) = (&first.identity().teacher, &cache.identity().teacher);
            if ours != theirs {
                return Err(Error::mismatch(
                    format!("teacher of {}", cache.dir().display()),
                    format!("{}, as in {}", named(ours), first.dir().display()),
                    named(theirs),
                    "a stage takes caches of ONE teacher over several corpora; give each teacher its own stage, or average their softmax outputs \
                     with `fuse = [{ teacher = [..], weight = 0.5 }, ..]`",
                ));
            }
            for (entry, row) in cache.entries().iter().enumerate() {
                if let Some((other, _)) = places.insert(row.utterance.clone(), (number, entry)) {
                    return Err(Error::invalid(format!(
                        "utterance {} lies in both {} and {}; the caches of a stage must not overlap",
                        row.utterance,
                        caches[other].dir().display(),
                        cache.dir().display()
                    )));
                }
            }
        }
        let what = format!("cache {}", first.dir().display());
        let map = labels.permutation_from(&first.identity().labels, &what)?;
        let identity = map.iter().enumerate().all(|(i, &j)| i == j);
        Ok(Self { places, permutation: (!identity).then_some(map), labels: labels.clone(), caches })
    }

    /// Width of the teacher's hidden states at a layer, one of those that the stage's pairs want.
    ///
    /// # Errors
    /// When a cache does not have the layer; says how to make one that has them all.
    pub fn width_of(&self, layer: HiddenLayer, wanted: &[LayerPair]) -> Result<usize> {
        let mut width = None;
        for cache in &self.caches {
            let found = cache.identity().width_of(layer).ok_or_else(|| {
                let list = |layers: &BTreeSet<HiddenLayer>, between| {
                    layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
                };
                let inner = cache.identity().layers.iter().map(|inner| HiddenLayer::Inner(inner.layer));
                let mut layers: BTreeSet<_> = inner.chain([HiddenLayer::Last]).collect();
                let found = list(&layers, ", ");
                layers.extend(wanted.iter().map(|pair| pair.teacher));
                layers.remove(&HiddenLayer::Last);
                Error::mismatch(
                    format!("layers of cache {}", cache.dir().display()),
                    format!("the teacher's layer {layer}"),
                    found,
                    format!(
                        "make another with `tutornet cache --layers {}`, or take other layers in `pairs` (the teacher's last \
                         is \"last\")",
                        list(&layers, ",")
                    ),
                )
            })?;
            width = Some(found as usize);
        }
        width.ok_or_else(|| Error::invalid("expected at least one cache, found none"))
    }

    /// Teacher's name and hash, and its caches with their codecs, for the log.
    pub fn teacher(&self) -> String {
        let teacher = self.caches.first().map(|c| named(&c.identity().teacher)).unwrap_or_default();
        let cache = |c: &Cache| format!("{} ({})", c.dir().display(), c.identity().codec);
        format!("{teacher}: {}", self.caches.iter().map(cache).collect::<Vec<_>>().join(", "))
    }

    /// Says that payloads of utterances will be wanted soon; see [`Cache::ahead`].
    ///
    /// # Errors
    /// When a cache does not have one of the columns.
    pub fn ahead<'p>(
        &self,
        columns: &[Column],
        places: impl Iterator<Item = &'p Place> + Clone,
    ) -> Result<Ahead> {
        let mut ahead = Ahead::default();
        for (number, cache) in self.caches.iter().enumerate() {
            let of_it = places.clone().filter(|place| place.cache == number);
            ahead.join(cache.ahead(columns, of_it.map(|place| place.entry))?);
        }
        Ok(ahead)
    }

    /// Finds the targets of an utterance of the student's corpus; `None` when no cache has it.
    ///
    /// # Errors
    /// When the cache heard other audio under this name, or its frames differ from the student's
    /// by more than [`FRAME_SLACK`].
    pub fn join(&self, utterance: &Utterance, corpus: &Path, student_frames: usize) -> Result<Option<Place>> {
        let Some(&(cache, entry)) = self.places.get(&utterance.id) else { return Ok(None) };
        let row = &self.caches[cache].entries()[entry];
        let directory = self.caches[cache].dir().display().to_string();
        if (row.samples, row.audio_hash) != (utterance.samples, utterance.audio_hash) {
            return Err(Error::mismatch(
                format!("audio of utterance {} in cache {directory}", utterance.id),
                format!("{} samples as in {}", utterance.samples, corpus.display()),
                format!("{} samples of other audio", row.samples),
                "the cache was made from another version of the corpus; make it again",
            ));
        }
        let teacher_frames = row.frames as usize;
        if teacher_frames.abs_diff(student_frames) > FRAME_SLACK {
            return Err(Error::mismatch(
                format!("output frames of utterance {}", utterance.id),
                format!("{student_frames} (the student's)"),
                format!("{teacher_frames} in {directory}, stride {}", self.caches[cache].identity().stride),
                "teacher and student must have the same stride",
            ));
        }
        Ok(Some(Place { cache, entry, frames: teacher_frames.min(student_frames) }))
    }

    /// Hidden states of an utterance at a layer, [frames, width], some frames at a time as [`Cache::hidden_in_pieces`] gives them,
    /// whatever the codec: a cache's coordinates are turned back here, since adaptive optimisers train a bridge worse along
    /// principal components than along channels.
    ///
    /// # Errors
    /// When the shard is damaged.
    pub fn hidden(&self, layer: HiddenLayer, place: Place, take: impl FnMut(usize, &[f32])) -> Result<()> {
        self.caches[place.cache].hidden_in_pieces(layer, place.entry, take)
    }

    /// Frame weights of an utterance at a layer, [frames].
    ///
    /// # Errors
    /// When the shard is damaged.
    pub fn frame_weight(&self, layer: HiddenLayer, place: Place, out: &mut Vec<f32>) -> Result<()> {
        self.caches[place.cache].frame_weight(layer, place.entry, out)
    }

    /// Refuses caches without the teacher's N best texts.
    ///
    /// # Errors
    /// With the first such cache.
    pub fn require_nbest(&self) -> Result<()> {
        let Some(cache) = self.caches.iter().find(|cache| cache.identity().nbest.is_none()) else {
            return Ok(());
        };
        Err(Error::mismatch(
            format!("cache {}", cache.dir().display()),
            "the teacher's N best texts",
            "a cache without them",
            format!(
                "`tutornet cache add {} --nbest 5` (and --lm) adds them, without the teacher",
                cache.dir().display()
            ),
        ))
    }

    /// The teacher's best texts that fit into the frames, as the student's labels, with the weights of
    /// [`weights`].
    ///
    /// # Errors
    /// When the shard is damaged, or a text has a character that the student has no label for.
    pub fn nbest(&self, place: Place) -> Result<Vec<(Vec<u32>, f64)>> {
        let mut texts = Vec::new();
        let mut log_p = Vec::new();
        for hypothesis in self.caches[place.cache].nbest(place.entry)? {
            let text = self.labels.encode(&hypothesis.text)?;
            if ctc_possible(place.frames, &text) {
                texts.push(text);
                log_p.push(hypothesis.log_p);
            }
        }
        Ok(texts.into_iter().zip(weights(&log_p)).collect())
    }

    /// Softmax at `temperature` in the student's label order, [frames, labels]:
    /// p_tau is proportional to p_1^(1 / tau).
    ///
    /// # Errors
    /// When the shard is damaged.
    pub fn posterior(&self, place: Place, temperature: f64, out: &mut Vec<f32>) -> Result<()> {
        let cache = &self.caches[place.cache];
        cache.log_posterior(place.entry, out)?;
        let labels = cache.identity().labels.count();
        let mut ordered = vec![0f32; labels];
        for row in out.chunks_exact_mut(labels) {
            if let Some(map) = &self.permutation {
                ordered.iter_mut().zip(map).for_each(|(o, &from)| *o = row[from]);
                row.copy_from_slice(&ordered);
            }
            soften(row, temperature);
        }
        Ok(())
    }
}

fn named(teacher: &Teacher) -> String {
    format!("{} ({:.12})", teacher.name, teacher.hash)
}

/// Log-probabilities at temperature 1 to probabilities at `temperature`.
#[expect(clippy::cast_possible_truncation, reason = "probabilities are f32")]
fn soften(row: &mut [f32], temperature: f64) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f64;
    for value in row.iter_mut() {
        let weight = (f64::from(*value - top) / temperature).exp();
        sum += weight;
        *value = weight as f32;
    }
    for value in row.iter_mut() {
        *value = (f64::from(*value) / sum) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softening_log_probabilities_equals_softmax_of_scaled_logits() {
        let logits = [3.0f64, -1.0, 0.5, -7.0];
        for temperature in [0.5, 1.0, 2.0, 10.0] {
            let norm = |tau: f64| logits.iter().map(|z| (z / tau).exp()).sum::<f64>();
            let mut row: Vec<f32> = logits.iter().map(|z| (z - norm(1.0).ln()) as f32).collect();
            soften(&mut row, temperature);
            for (ours, z) in row.iter().zip(logits) {
                let expected = (z / temperature).exp() / norm(temperature);
                assert!((f64::from(*ours) - expected).abs() < 1e-6, "{temperature}: {ours} {expected}");
            }
        }
    }
}
