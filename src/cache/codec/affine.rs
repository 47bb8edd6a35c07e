//! Codec `u8`: a byte a value, affine with a scale and a zero of every channel of an utterance.
//!
//! value = scale * (byte - zero); of a channel without negative values the zero is 0, so that what was exactly zero stays
//! so. The relative error of a post-ReLU state is about 0.6 %. A payload has these parts, each followed by zeros up to a
//! multiple of [`super::PART`] bytes, as zstd wants it (see [`super::f16`]):
//!
//! 1. every channel's scale (f32, little-endian), then every channel's zero (one byte);
//! 2. one bit a value, set where the byte is not the zero, as in `f16`: every frame XORed with the frame before;
//! 3. the bytes of the values whose bit is set, frame by frame, channel by channel.

use super::instructions::{Instructions, compiled};
use super::spread::{Values, spread};
use super::{Pieces, align, bits};
use crate::files;

/// Steps between a channel's smallest and largest value. 255 would take 50 bytes a frame more of 1,024 channels and
/// err by 0.45 % instead.
const STEPS: f32 = 192.0;

/// Lays out `values`, `[frames, width]`, as a payload.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
pub fn encode(values: &[f32], frames: usize, width: usize) -> Vec<u8> {
    let instructions = Instructions::detect();
    let (mut low, mut high) = (vec![0f32; width], vec![0f32; width]);
    ranges(instructions, values, &mut low, &mut high);
    let scales: Vec<f32> = low.iter().zip(&high).map(|(low, high)| (high - low) / STEPS).collect();
    let zeros: Vec<u8> = low
        .iter()
        .zip(&scales)
        .map(|(low, &scale)| if scale > 0.0 { (-low / scale).round() as u8 } else { 0 })
        .collect();
    let inverse: Vec<f32> = scales.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    let row_bytes = width.div_ceil(8);
    let mask_at = align(5 * width);
    let values_at = mask_at + align(frames * row_bytes);
    // Room for every value, of which those that are there are kept.
    let mut payload = vec![0u8; values_at + frames * width];
    for (to, scale) in payload.chunks_exact_mut(4).zip(&scales) {
        to.copy_from_slice(&scale.to_le_bytes());
    }
    payload[4 * width..5 * width].copy_from_slice(&zeros);
    let (front, present) = payload.split_at_mut(values_at);
    let mask_of = &mut front[mask_at..mask_at + frames * row_bytes];
    let (mut bytes, mut at) = (vec![0u8; width], 0);
    for (frame, mask) in values.chunks_exact(width.max(1)).zip(mask_of.chunks_exact_mut(row_bytes.max(1))) {
        quantise(instructions, frame, &inverse, &zeros, &mut bytes);
        // Written whether there or not, kept when there: a branch would be mispredicted every other value.
        for ((bytes, zeros), mask) in bytes.chunks(8).zip(zeros.chunks(8)).zip(mask) {
            for (bit, (&byte, &zero)) in bytes.iter().zip(zeros).enumerate() {
                present[at] = byte;
                *mask |= u8::from(byte != zero) << bit;
                at += usize::from(byte != zero);
            }
        }
    }
    bits::difference(mask_of, width);
    // What was written last and not kept.
    present[at..].iter_mut().take(1).for_each(|byte| *byte = 0);
    payload.resize(values_at + align(at), 0);
    payload
}

compiled!(ranges, ranges_body(values: &[f32], low: &mut [f32], high: &mut [f32]));
compiled!(quantise, quantise_body(frame: &[f32], inverse: &[f32], zeros: &[u8], out: &mut [u8]));

/// Lowers and raises every channel's range to hold its values.
#[inline(always)]
fn ranges_body(values: &[f32], low: &mut [f32], high: &mut [f32]) {
    for frame in values.chunks_exact(low.len().max(1)) {
        for ((low, high), &value) in low.iter_mut().zip(high.iter_mut()).zip(frame) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn quantise_body(frame: &[f32], inverse: &[f32], zeros: &[u8], out: &mut [u8]) {
    for (out, (value, (inverse, &zero))) in out.iter_mut().zip(frame.iter().zip(inverse.iter().zip(zeros))) {
        *out = (value * inverse + f32::from(zero)).round().clamp(0.0, 255.0) as u8;
    }
}

/// Undoes [`encode`]: `[frames, width]` values, some frames at a time.
///
/// # Errors
/// When the payload's parts cannot have come from that many frames.
pub fn decode(payload: &[u8], frames: usize, width: usize, pieces: &mut Pieces<'_>) -> Result<(), String> {
    let mask_at = align(5 * width);
    let values_at = mask_at + align(frames * width.div_ceil(8));
    let found = payload.len();
    let short = || format!("expected at least {values_at} bytes, found {found}");
    let scales = payload.get(..4 * width).ok_or_else(short)?;
    let scales: Vec<f32> = files::f32s(scales).collect();
    let zeros = payload.get(4 * width..5 * width).ok_or_else(short)?;
    // Channels without negative values, as after a ReLU, have none.
    let zeros = zeros.iter().any(|&zero| zero != 0).then(|| zeros.iter().map(|&zero| f32::from(zero)));
    let zeros = zeros.map(Iterator::collect::<Vec<f32>>);
    let mask = payload.get(mask_at..mask_at + frames * width.div_ceil(8)).ok_or_else(short)?;
    let bytes = payload.get(values_at..).unwrap_or_default();
    let values = Values::Bytes { bytes, scales: &scales, zeros: zeros.as_deref() };
    let present = spread(mask, values, width, pieces);
    if present.is_none_or(|present| values_at + align(present) != found) {
        let present = bits::count(mask, width)?;
        let expected = values_at + align(present);
        return Err(format!("expected {expected} bytes for {present} values, found {found}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Codec;
    use super::*;
    use crate::random::Random;

    fn decode(payload: &[u8], frames: usize, width: usize, out: &mut Vec<f32>) -> Result<(), String> {
        Codec::U8.decode(payload, frames, width, out)
    }

    #[test]
    fn half_a_step_is_the_largest_error_and_zeros_stay() {
        let mut random = Random::new(1, "u8", &[]);
        for (frames, width, signed) in [(50, 24, false), (33, 9, true), (1, 1, true), (0, 7, false)] {
            let values: Vec<f32> = (0..frames * width)
                .map(|_| random.normal() as f32 * 3.0)
                .map(|v| if signed { v } else { v.max(0.0) })
                .collect();
            let payload = encode(&values, frames, width);
            let mut out = Vec::new();
            decode(&payload, frames, width, &mut out).unwrap();
            assert_eq!(out.len(), values.len());
            for channel in 0..width {
                let own = || values.iter().skip(channel).step_by(width).copied();
                let (low, high) = own().fold((0f32, 0f32), |(l, h), v| (l.min(v), h.max(v)));
                let step = (high - low) / STEPS;
                for (found, value) in out.iter().skip(channel).step_by(width).zip(own()) {
                    // The zero is rounded to a step as well.
                    assert!((found - value).abs() <= step * 1.01, "{found} {value} {step}");
                    assert!(value != 0.0 || *found == 0.0);
                }
            }
        }
    }

    #[test]
    fn other_payloads_are_refused_and_never_panic() {
        let values: Vec<f32> = (0..64u8).map(f32::from).collect();
        let payload = encode(&values, 2, 32);
        let mut out = Vec::new();
        assert!(decode(&payload, 2, 32, &mut out).is_ok());
        for length in [0, 4, 200, payload.len() - 1] {
            assert!(decode(&payload[..length], 2, 32, &mut out).is_err(), "{length}");
        }
        assert!(decode(&payload, 2, 31, &mut out).is_err() || out.len() == 62);
        assert!(decode(&payload, 3, 32, &mut out).is_err() || out.len() == 96);
    }
}
