//! From a forward pass to the payloads of one utterance.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::codec::{Codec, CodecModel, f16 as halves_codec};
use super::nbest::{self, NbestSearch};
use super::schema::{Key, Row};
use crate::labels::Labels;
use crate::models::HiddenLayer;

/// Frames, and channels, that are turned at a time: one cache line of every channel.
const BLOCK: usize = 16;

/// Output of one layer for one utterance.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// Which.
    pub layer: HiddenLayer,
    /// `[width, padded]`, channel by channel.
    pub values: &'a [f32],
    /// Channels.
    pub width: usize,
}

/// One utterance's part of a forward pass, as the model lays it out.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The last layer.
    pub hidden: Hidden<'a>,
    /// The inner layers of the cache.
    pub inner: &'a [Hidden<'a>],
    /// `[padded, labels]`, before or after log-softmax.
    pub logits: &'a [f32],
    /// Valid frames; those after them are padding.
    pub frames: usize,
    /// Frames of the batch.
    pub padded: usize,
    /// Labels, the blank included.
    pub labels: usize,
}

/// The columns that not every cache has, and codecs other than `f16`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// Asks for the column `softmax` at this temperature.
    pub temperature: Option<f64>,
    /// Asks for the column `nbest`, found by this search over these labels.
    pub nbest: Option<(&'a NbestSearch, &'a Labels)>,
    /// How hidden states are stored; exactly without.
    pub codecs: Option<&'a CodecModel>,
}

/// Encodes one utterance.
///
/// # Errors
/// When a value is not finite or beyond half precision; the text says which and where.
pub fn encode(key: Key, raw: Raw, extras: Extras<'_>) -> Result<Row, String> {
    let [states, weights] = hidden(&raw, raw.hidden, extras)?;
    let log_posterior = log_softmax(&raw)?;
    let mut payloads = vec![states, weights, halves_le(log_posterior.iter().copied())];
    if let Some(temperature) = extras.temperature {
        let probabilities = log_posterior.chunks_exact(raw.labels).flat_map(|frame| at(frame, temperature));
        payloads.push(halves_le(probabilities));
    }
    if let Some((search, labels)) = extras.nbest {
        // In what is stored, so that the column may be added later and is the same.
        let stored: Vec<f32> =
            payloads[2].chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        payloads.push(nbest::encode(&search.texts(&stored, labels))?);
    }
    for &inner in raw.inner {
        payloads.extend(hidden(&raw, inner, extras)?);
    }
    Ok(Row::new(key, payloads))
}

/// The payloads of a layer: its hidden states in half precision, `[frames, width]`, and m[t] = sigmoid(mean over d of
/// hidden[t, d]) from the single-precision values (TutorNet, equation 6).
fn hidden(raw: &Raw, layer: Hidden, extras: Extras<'_>) -> Result<[Vec<u8>; 2], String> {
    let codec = extras.codecs.and_then(|codecs| codecs.of(layer.layer)).unwrap_or(&Codec::F16);
    match codec {
        Codec::F16 => exact(raw, layer),
        codec => coded(raw, layer, codec),
    }
}

/// Hands out the first `frames` frames of a layer in squares of [`BLOCK`] channels by as many frames, `square[channel][frame]`,
/// with the first channel and the first frame of each: all channels of some frames, then the next frames. Either side is read or
/// written a cache line at a time that way.
#[inline(always)]
fn squares(
    layer: Hidden,
    frames: usize,
    padded: usize,
    mut take: impl FnMut(&[[f32; BLOCK]; BLOCK], usize, usize),
) {
    for start in (0..frames).step_by(BLOCK) {
        let count = BLOCK.min(frames - start);
        for first in (0..layer.width).step_by(BLOCK) {
            let mut square = [[0f32; BLOCK]; BLOCK];
            for (row, channel) in square.iter_mut().zip(first..layer.width) {
                row[..count].copy_from_slice(&layer.values[channel * padded + start..][..count]);
            }
            take(&square, first, start);
        }
    }
}

/// The hidden states `[frames, width]` of a layer, frame by frame.
pub fn by_frame(layer: Hidden, frames: usize, padded: usize) -> Vec<f32> {
    turned(layer, frames, padded).0
}

/// [`by_frame`]; sums over the channels of every frame, a channel after the other; and whether all values are finite.
fn turned(layer: Hidden, frames: usize, padded: usize) -> (Vec<f32>, Vec<f64>, bool) {
    let width = layer.width;
    let mut values = vec![0f32; frames * width];
    let mut sums = vec![0f64; frames.next_multiple_of(BLOCK)];
    let mut exponents = 0;
    squares(layer, frames, padded, |square, first, start| {
        for line in square {
            for (sum, value) in sums[start..][..BLOCK].iter_mut().zip(line) {
                *sum += f64::from(*value);
                // All bits of the exponent set: infinite or not a number.
                exponents |= u32::from(value.to_bits() & 0x7F80_0000 == 0x7F80_0000);
            }
        }
        let rows = values[start * width..].chunks_exact_mut(width).take(BLOCK);
        for (frame, row) in rows.enumerate() {
            row[first..].iter_mut().zip(square).for_each(|(value, line)| *value = line[frame]);
        }
    });
    sums.truncate(frames);
    (values, sums, exponents == 0)
}

/// [`hidden`] with another codec than the exact one.
fn coded(raw: &Raw, layer: Hidden, codec: &Codec) -> Result<[Vec<u8>; 2], String> {
    let (values, sums, finite) = turned(layer, raw.frames, raw.padded);
    if !finite {
        return Err(offence(raw, layer, "expected a finite number", f32::is_finite));
    }
    Ok([codec.encode(&values, raw.frames, layer.width), weights(&sums, layer.width)])
}

/// Frame weights of frames whose channels have these sums.
fn weights(sums: &[f64], width: usize) -> Vec<u8> {
    sums.iter().flat_map(|sum| sigmoid(sum / width.max(1) as f64).to_le_bytes()).collect()
}

/// [`hidden`] with the codec `f16`.
fn exact(raw: &Raw, layer: Hidden) -> Result<[Vec<u8>; 2], String> {
    let Raw { frames, padded, .. } = *raw;
    let width = layer.width;
    let mut halves = vec![0u16; frames * width];
    let mut sums = vec![0f64; frames.next_multiple_of(BLOCK)];
    let mut exponents = 0u16;
    squares(layer, frames, padded, |square, first, start| {
        let mut values = [[f16::ZERO; BLOCK]; BLOCK];
        values.as_flattened_mut().convert_from_f32_slice(square.as_flattened());
        for (line, values) in square.iter().zip(&values) {
            for ((sum, &single), value) in sums[start..][..BLOCK].iter_mut().zip(line).zip(values) {
                *sum += f64::from(single);
                // All bits of the exponent set: infinite or not a number.
                exponents |= u16::from(value.to_bits() & 0x7C00 == 0x7C00);
            }
        }
        let rows = halves[start * width..].chunks_exact_mut(width).take(BLOCK);
        for (frame, row) in rows.enumerate() {
            row[first..].iter_mut().zip(&values).for_each(|(half, line)| *half = line[frame].to_bits());
        }
    });
    if exponents != 0 {
        return Err(offence(raw, layer, "half precision ends at 65504", |v| f16::from_f32(v).is_finite()));
    }
    Ok([halves_codec::encode(&halves, frames, width), weights(&sums[..frames], width)])
}

/// Says where the first value is that does not `hold`, and what is expected of it.
fn offence(raw: &Raw, layer: Hidden, expected: &str, hold: impl Fn(f32) -> bool) -> String {
    let place = (0..raw.frames)
        .flat_map(|frame| (0..layer.width).map(move |channel| (frame, channel)))
        .find(|&(frame, channel)| !hold(layer.values[channel * raw.padded + frame]));
    let (frame, channel) = place.unwrap_or_default();
    let value = layer.values[channel * raw.padded + frame];
    format!("the hidden state of frame {frame}, channel {channel} is {value}: {expected}")
}

/// Natural logarithms of the softmax of every valid frame, in f64.
fn log_softmax(raw: &Raw) -> Result<Vec<f64>, String> {
    let mut out = Vec::with_capacity(raw.frames * raw.labels);
    for (frame, logits) in raw.logits.chunks_exact(raw.labels).take(raw.frames).enumerate() {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&z| f64::from(z - top).exp()).sum();
        if !sum.is_finite() || !top.is_finite() {
            return Err(format!("the logits of frame {frame} are not finite"));
        }
        out.extend(logits.iter().map(|&z| f64::from(z) - f64::from(top) - sum.ln()));
    }
    Ok(out)
}

/// Softmax at a temperature from the logarithms at temperature 1: p_tau is proportional to p_1^(1/tau).
fn at(log_posterior: &[f64], temperature: f64) -> impl Iterator<Item = f64> {
    let powers: Vec<f64> = log_posterior.iter().map(|l| (l / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(move |p| p / sum)
}

/// Half precision, little-endian. Logarithms below the range stay at its end, e^-65504.
fn halves_le(values: impl Iterator<Item = f64>) -> Vec<u8> {
    values.flat_map(|v| f16::from_f64(v.max(-65504.0)).to_le_bytes()).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a weight is stored in single precision")]
fn sigmoid(x: f64) -> f32 {
    (1.0 / (1.0 + (-x).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::codec::PART;
    use crate::random::Random;

    fn key(frames: u32) -> Key {
        Key { utterance: "u".into(), samples: 0, audio_hash: [0; 16], frames }
    }

    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "test", &[]);
        (0..count).map(|_| random.normal().max(0.0) as f32).collect()
    }

    #[test]
    fn payloads_hold_the_valid_frames_and_nothing_of_the_padding() {
        let (frames, padded, width, labels) = (37, 50, 24, 5);
        let (hidden, logits) = (noise(width * padded, 1), noise(padded * labels, 2));
        let last = Hidden { layer: HiddenLayer::Last, values: &hidden, width };
        let inner = [Hidden { layer: HiddenLayer::Inner(2), values: &hidden[3 * padded..], width: 5 }];
        let raw = Raw { hidden: last, inner: &inner, logits: &logits, frames, padded, labels };
        let row = encode(key(37), raw, Extras { temperature: Some(2.0), ..Extras::default() }).unwrap();
        let mut values = Vec::new();
        Codec::F16.decode(&row.payloads[0], frames, width, &mut values).unwrap();
        assert_eq!(
            row.payloads.iter().skip(1).map(Vec::len).collect::<Vec<_>>(),
            [37 * 4, 37 * 10, 37 * 10, 3 * PART, 37 * 4]
        );
        assert_eq!(row.checksum.len(), 6 * 16);
        let mut of_inner = Vec::new();
        Codec::F16.decode(&row.payloads[4], frames, 5, &mut of_inner).unwrap();
        for frame in 0..frames {
            let channels: Vec<f32> = (0..width).map(|d| hidden[d * padded + frame]).collect();
            let halves: Vec<f32> = channels.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
            assert_eq!(values[frame * width..][..width], halves);
            let mean = channels.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
            let weight = f32::from_le_bytes(row.payloads[1][frame * 4..][..4].try_into().unwrap());
            assert_eq!(weight, sigmoid(mean));
            assert_eq!(of_inner[frame * 5..][..5], halves[3..8]);
            let mean = channels[3..8].iter().map(|&v| f64::from(v)).sum::<f64>() / 5.0;
            let weight = f32::from_le_bytes(row.payloads[5][frame * 4..][..4].try_into().unwrap());
            assert_eq!(weight, sigmoid(mean));

            let read = |payload: &[u8]| -> Vec<f64> {
                let halves = payload[frame * labels * 2..][..labels * 2].chunks_exact(2);
                halves.map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            };
            let z: Vec<f64> = logits[frame * labels..][..labels].iter().map(|&z| f64::from(z)).collect();
            let softmax = |tau: f64| -> Vec<f64> {
                let sum: f64 = z.iter().map(|z| (z / tau).exp()).sum();
                z.iter().map(|z| (z / tau).exp() / sum).collect()
            };
            for (tau, stored) in [(1.0, read(&row.payloads[2])), (2.0, read(&row.payloads[3]))] {
                let stored: Vec<f64> =
                    if tau == 1.0 { stored.iter().map(|l| l.exp()).collect() } else { stored };
                for (a, b) in stored.iter().zip(softmax(tau)) {
                    assert!((a - b).abs() < 6e-4, "tau {tau}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn any_temperature_is_served_from_the_logarithms() {
        // A very sure frame: the softmax itself would underflow at half precision.
        let log_p: Vec<f64> = [0.0f64, -3.0, -12.0, -25.0, -60.0].to_vec();
        let sum: f64 = log_p.iter().map(|l| l.exp()).sum();
        let log_p: Vec<f64> = log_p.iter().map(|l| l - sum.ln()).collect();
        let stored: Vec<f64> = log_p.iter().map(|&l| f16::from_f64(l).to_f64()).collect();
        for tau in [0.5, 1.0, 2.0, 5.0, 10.0] {
            for (a, b) in at(&stored, tau).zip(at(&log_p, tau)) {
                assert!((a - b).abs() < 5e-4, "tau {tau}: {a} {b}");
            }
        }
    }

    #[test]
    fn values_beyond_half_precision_are_named() {
        let (mut hidden, mut logits) = (noise(8 * 20, 3), noise(20 * 5, 4));
        fn raw<'a>(hidden: &'a [f32], logits: &'a [f32]) -> Raw<'a> {
            let hidden = Hidden { layer: HiddenLayer::Last, values: hidden, width: 8 };
            Raw { hidden, inner: &[], logits, frames: 19, padded: 20, labels: 5 }
        }
        for bad in [65520.0, f32::INFINITY, f32::NAN] {
            hidden[3 * 20 + 18] = bad;
            let error = encode(key(19), raw(&hidden, &logits), Extras::default()).unwrap_err();
            assert!(error.contains("frame 18, channel 3"), "{error}");
            hidden[3 * 20 + 18] = 65519.0;
            hidden[3 * 20 + 19] = bad;
            assert!(
                encode(key(19), raw(&hidden, &logits), Extras::default()).is_ok(),
                "padding is not looked at"
            );
        }
        for bad in [f32::NAN, f32::INFINITY] {
            logits[7 * 5 + 2] = bad;
            let error = encode(key(19), raw(&hidden, &logits), Extras::default()).unwrap_err();
            assert!(error.contains("logits of frame 7"), "{error}");
        }
    }
}
