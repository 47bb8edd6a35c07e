//! Codec `klt:E`: a learned rotation over channels, a cosine transform over time, one step for all, an entropy coder.
//!
//! Hidden states turn into coordinates along their principal components (the Karhunen-Loeve transform of a sample), which
//! hardly correlate; every coordinate of eight frames in turn goes through the orthonormal DCT-II, since what a network
//! says changes slowly. One quantiser step serves all values, as rate-distortion theory wants it of independent ones; the
//! step is the one with which the sample errs by E of its norm. Small values round to zero a little more readily than
//! to the nearest (a dead zone). What is left goes through [`super::rans`], in classes of like spread.
//!
//! A payload is what [`super::rans::Tables::encode`] makes of the quantised values, block after block of eight frames (the last
//! may be shorter, with a DCT of its length), frequency after frequency, component after component.

use super::Pieces;
use super::cosine::{Restorer, transform};
use super::instructions::Instructions;
use super::quantiser::{quantise, search, statistics};
use super::rans::Tables;
use super::rans_decoder::Decoder;
use super::rotation::Rotation;

/// Frames of a block.
pub const BLOCK: usize = 8;
/// Frames that are encoded at a time, whole blocks: what is made of them on the way stays in the cache.
const FRAMES: usize = 16 * BLOCK;
/// Of the sample, about so many frames are looked at in the search for the quantiser's step.
const SEARCH_FRAMES: usize = 4096;
/// The target is met on the sample with so much to spare, as other frames err a little more.
const SPARE: f64 = 0.97;

/// A codec as it was learned.
#[derive(Debug)]
pub struct Klt {
    rotation: Rotation,
    /// Of the quantiser.
    step: f32,
    /// What is added to |quantised| when it comes back: of 1, of more.
    lift: [f32; 2],
    /// Class of every frequency and component, [BLOCK, rank].
    classes: Vec<u8>,
    tables: Tables,
}

/// Row of the classes for frequency `row` of a block of `n` frames.
pub(super) fn frequency(row: usize, n: usize) -> usize {
    row * BLOCK / n
}

impl Klt {
    /// From its parts; `None` when they do not fit each other.
    pub fn new(
        rotation: Rotation,
        step: f32,
        lift: [f32; 2],
        classes: Vec<u8>,
        tables: Tables,
    ) -> Option<Self> {
        let most = usize::from(classes.iter().copied().max().unwrap_or(0));
        let rank = rotation.rank();
        let fits = rank > 0 && classes.len() == BLOCK * rank && most < tables.frequencies().len();
        (fits && step > 0.0 && step.is_finite()).then_some(Self { rotation, step, lift, classes, tables })
    }

    /// Learns rotation, step and frequencies from utterances, each [frames, width], so that decoded coordinates
    /// are off by `error` of the hidden states' norm.
    ///
    /// # Errors
    /// When the utterances hold nothing to learn from, or the error cannot be kept.
    pub fn learn(utterances: &[Vec<f32>], width: usize, error: f64) -> Result<Self, String> {
        let sample: Vec<f32> = utterances.iter().flatten().copied().collect();
        let rotation = Rotation::learn(&sample, width, width);
        let norm =
            (sample.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / sample.len().max(1) as f64).sqrt();
        drop(sample);
        let rank = rotation.rank();
        let coordinates: Vec<Vec<f32>> = utterances
            .iter()
            .map(|hidden| {
                let mut values = rotation.coordinates(hidden);
                transform(&mut values, rank);
                values
            })
            .collect();
        let frames: usize = coordinates.iter().map(|c| c.len() / rank.max(1)).sum();
        let every = frames.div_ceil(SEARCH_FRAMES).max(1);
        // Whole blocks: every eighth row might be of one frequency.
        let blocks = coordinates.iter().flat_map(|values| values.chunks(BLOCK * rank.max(1)));
        let few: Vec<f32> = blocks.step_by(every).flatten().copied().collect();
        let largest = coordinates.iter().flatten().fold(0f32, |most, value| most.max(value.abs()));
        let found = search(&few, norm, f64::from(largest), SPARE * error * norm);
        let (step, lift) = found.map_err(|off| {
            format!(
                "some values are so much larger than the others ({:.0} times their root mean square) that whole steps of them err by \
                 {:.4} of all at least, more than the {error} that were asked for: give a larger error, or store them as u8 or f16",
                f64::from(largest) / norm,
                off / norm / SPARE
            )
        })?;
        let (classes, tables) =
            statistics(&coordinates, rank, step).ok_or("there is nothing to learn from")?;
        Self::new(rotation, step, lift, classes, tables)
            .ok_or_else(|| "there is nothing to learn from".to_owned())
    }

    /// The rotation.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// Step, lifts, classes [BLOCK, rank], tables.
    pub fn parts(&self) -> (f32, [f32; 2], &[u8], &Tables) {
        (self.step, self.lift, &self.classes, &self.tables)
    }

    /// Hidden states [frames, width] to a payload.
    pub fn encode(&self, hidden: &[f32]) -> Vec<u8> {
        let (rank, width) = (self.rotation.rank().max(1), self.rotation.width().max(1));
        let count = hidden.len() / width * rank;
        let (mut quantised, mut classes) = (vec![0i16; count], Vec::with_capacity(count));
        let (instructions, inverse) = (Instructions::detect(), 1.0 / self.step);
        for (hidden, quantised) in hidden.chunks(FRAMES * width).zip(quantised.chunks_mut(FRAMES * rank)) {
            let mut values = self.rotation.coordinates(hidden);
            transform(&mut values, rank);
            quantise(instructions, &values, inverse, quantised);
            for block in quantised.chunks(BLOCK * rank) {
                let n = block.len() / rank;
                for row in 0..n {
                    classes.extend_from_slice(&self.classes[frequency(row, n) * rank..][..rank]);
                }
            }
        }
        self.tables.encode(&classes, &quantised)
    }

    /// A payload to coordinates along the rotation's components, [frames, rank]; replaces `out`.
    ///
    /// # Errors
    /// When the payload cannot be of so many frames.
    pub fn coordinates(&self, payload: &[u8], frames: usize, out: &mut Vec<f32>) -> Result<(), String> {
        let rank = self.rotation.rank();
        let restorer = Restorer::new(self.step, self.lift, rank);
        let mut blocks = Blocks::new(self, payload)?;
        out.clear();
        // A payload does not say of how many frames it is: it ends, and no more room is made than it fills.
        for first in (0..frames).step_by(BLOCK) {
            let from = out.len();
            out.resize(from + BLOCK.min(frames - first) * rank, 0.0);
            let block = &mut out[from..];
            restorer.restore(blocks.next(block.len()), block);
            if blocks.decoder.overrun() {
                break;
            }
        }
        blocks.decoder.finish()
    }

    /// A payload to hidden states, [frames, width], some frames at a time. Not by way of the coordinates: what is turned
    /// back is their cosine transform, of which most is zero.
    ///
    /// # Errors
    /// When the payload cannot be of so many frames.
    pub fn decode(&self, payload: &[u8], frames: usize, pieces: &mut Pieces<'_>) -> Result<(), String> {
        let restorer = Restorer::new(self.step, self.lift, self.rotation.rank());
        let mut blocks = Blocks::new(self, payload)?;
        // As above.
        let next = |spectrum: &mut [f32]| {
            restorer.spectrum(blocks.next(spectrum.len()), spectrum);
            (!blocks.decoder.overrun()).then_some(())
        };
        let all = self.rotation.hidden((frames, BLOCK), next, pieces);
        blocks.decoder.finish()?;
        all.ok_or_else(|| format!("expected the values of {frames} frames"))
    }
}

/// The quantised blocks of a payload, one after the other.
struct Blocks<'a> {
    codec: &'a Klt,
    decoder: Decoder<'a>,
    quantised: Vec<i16>,
}

impl<'a> Blocks<'a> {
    fn new(codec: &'a Klt, payload: &'a [u8]) -> Result<Self, String> {
        let quantised = vec![0; codec.classes.len()];
        Ok(Self { codec, decoder: codec.tables.decoder(payload)?, quantised })
    }

    /// The next block, of so many values: [frequency, rank].
    fn next(&mut self, values: usize) -> &[i16] {
        let Self { codec, decoder, quantised } = self;
        let quantised = &mut quantised[..values];
        if values == codec.classes.len() {
            decoder.values(&codec.classes, quantised);
        } else {
            let rank = codec.rotation.rank().max(1);
            let n = values / rank;
            for (row, quantised) in quantised.chunks_exact_mut(rank).enumerate() {
                decoder.values(&codec.classes[frequency(row, n) * rank..][..rank], quantised);
            }
        }
        quantised
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotation::tests::made_up;
    use super::super::whole;
    use super::*;

    fn decode(codec: &Klt, payload: &[u8], frames: usize) -> Result<Vec<f32>, String> {
        let mut out = vec![5.0; 3];
        whole(&mut out, |pieces| codec.decode(payload, frames, pieces)).map(|()| out)
    }

    fn relative(found: &[f32], expected: &[f32]) -> f64 {
        let square = |v: f64| v * v;
        let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum();
        (error / expected.iter().map(|&v| square(f64::from(v))).sum::<f64>()).sqrt()
    }

    #[test]
    fn the_error_is_the_one_that_was_asked_for_and_costs_what_it_must() {
        let width = 32;
        let sample: Vec<Vec<f32>> = (0..10).map(|i| made_up(300 + 7 * i, width, i as u64)).collect();
        let unseen = made_up(403, width, 99);
        let mut bytes = Vec::new();
        for target in [0.02, 0.1, 0.3] {
            let codec = Klt::learn(&sample, width, target).unwrap();
            let payload = codec.encode(&unseen);
            let mut coordinates = Vec::new();
            codec.coordinates(&payload, 403, &mut coordinates).unwrap();
            let true_coordinates = codec.rotation().coordinates(&unseen);
            let norm = relative(&vec![0.0; unseen.len()], &unseen);
            assert_eq!(norm, 1.0);
            // Errors of coordinates are those of hidden states: the rotation is orthonormal.
            let square = |v: f32| f64::from(v) * f64::from(v);
            let off: f64 = coordinates.iter().zip(&true_coordinates).map(|(a, b)| square(a - b)).sum();
            let error = (off / unseen.iter().map(|&v| square(v)).sum::<f64>()).sqrt();
            assert!((0.9 * target..=1.03 * target).contains(&error), "{error} of {target}");
            let hidden = decode(&codec, &payload, 403).unwrap();
            assert!(relative(&hidden, &unseen) <= error + 1e-6, "clipping at zero takes nothing away");
            assert!(hidden.iter().all(|&v| v >= 0.0));
            bytes.push(payload.len());
        }
        assert!(bytes[0] > 3 * bytes[2] / 2 && bytes[1] > bytes[2], "{bytes:?}");
        assert!(bytes[1] < 403 * width, "{bytes:?}: less than a byte a value");
    }

    #[test]
    fn every_length_comes_back() {
        let width = 16;
        let sample: Vec<Vec<f32>> = (0..4).map(|i| made_up(200, width, i)).collect();
        let codec = Klt::learn(&sample, width, 0.05).unwrap();
        for frames in [0, 1, 2, 7, 8, 9, 23] {
            let hidden = made_up(frames, width, 50);
            let payload = codec.encode(&hidden);
            let mut found = vec![7.0; 50];
            codec.coordinates(&payload, frames, &mut found).unwrap();
            let expected = codec.rotation().coordinates(&hidden);
            assert_eq!(found.len(), frames * width);
            assert!(frames == 0 || relative(&found, &expected) < 0.3);
            assert!(codec.coordinates(&payload, frames + 1, &mut Vec::new()).is_err());
            for many in [u32::MAX as usize * 1024, usize::MAX] {
                assert!(codec.coordinates(&payload, many, &mut Vec::new()).is_err());
                assert!(decode(&codec, &payload, many).is_err());
            }
        }
        // A value far beyond the sample is escaped, not cut.
        let mut far = made_up(8, width, 60);
        far[20] = 900.0;
        let found = decode(&codec, &codec.encode(&far), 8).unwrap();
        assert!(relative(&found, &far) < 0.01);
    }

    /// Error of decoded hidden states over those that were learned from.
    fn error_of(codec: &Klt, sample: &[Vec<f32>], width: usize) -> f64 {
        let mut all = (Vec::new(), Vec::new());
        for hidden in sample {
            all.0.extend(decode(codec, &codec.encode(hidden), hidden.len() / width).unwrap());
            all.1.extend_from_slice(hidden);
        }
        relative(&all.0, &all.1)
    }

    #[test]
    fn a_dominant_component_is_held_at_every_error_or_refused() {
        let width = 256;
        // One source in all channels, now and then loud: a coefficient of eight frames is 130 times the root mean square.
        let mut sample: Vec<Vec<f32>> = (0..6).map(|i| made_up(160, width, i)).collect();
        for (number, hidden) in sample.iter_mut().enumerate() {
            for (frame, values) in hidden.chunks_exact_mut(width).enumerate() {
                let loud = if (frame / 8 + number) % 11 == 0 { 900.0 } else { 20.0 };
                values.iter_mut().for_each(|value| *value += loud);
            }
        }
        for target in [0.005, 0.01, 0.02, 0.1] {
            let codec = Klt::learn(&sample, width, target).unwrap();
            let error = error_of(&codec, &sample, width);
            assert!(error <= 1.03 * target, "{error} of {target}");
        }
        // What whole steps cannot hold beside the rest is refused: half of the energy is in one value of 30 million.
        let mut spiked: Vec<Vec<f32>> = (0..600).map(|i| made_up(800, 64, i)).collect();
        let energy: f32 = spiked.iter().flatten().map(|v| v * v).sum();
        spiked[3][77] = energy.sqrt();
        let refused = Klt::learn(&spiked, 64, 0.005).unwrap_err();
        assert!(refused.contains("give a larger error"), "{refused}");
        assert!(Klt::learn(&spiked, 64, 0.9).is_ok());
    }

    #[test]
    fn lengths_in_step_with_the_blocks_are_learned_from_as_others_are() {
        let width = 16;
        for first in [1, 5] {
            let lengths = std::iter::once(first).chain(std::iter::repeat_n(400, 80));
            let sample: Vec<Vec<f32>> = lengths.zip(0..).map(|(n, seed)| made_up(n, width, seed)).collect();
            for target in [0.1, 0.3] {
                let codec = Klt::learn(&sample, width, target).unwrap();
                let error = error_of(&codec, &sample, width);
                assert!((0.8 * target..=1.03 * target).contains(&error), "{first}: {error} of {target}");
            }
        }
    }
}
