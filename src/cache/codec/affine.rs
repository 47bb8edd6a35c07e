//! Codec `u8`: a byte a value, affine with a scale and a zero of every channel of an utterance.
//!
//! value = scale * (byte - zero); of a channel without negative values the zero is 0, so that what was exactly zero stays
//! so. The relative error of a post-ReLU state is about 0.6 %. A payload has these parts, each followed by zeros up to a
//! multiple of [`super::PART`] bytes, as zstd wants it (see [`super::f16`]):
//!
//! 1. every channel's scale (f32, little-endian), then every channel's zero (one byte);
//! 2. one bit a value, set where the byte is not the zero, as in `f16`: every frame XORed with the frame before;
//! 3. the bytes of the values whose bit is set, frame by frame, channel by channel.

use super::spread::{Values, spread};
use super::{align, bits};
use crate::files;

/// Steps between a channel's smallest and largest value. 255 would take 50 bytes a frame more of 1,024 channels and
/// err by 0.45 % instead.
const STEPS: f32 = 192.0;

/// Lays out `values`, `[frames, width]`, as a payload.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
pub fn encode(values: &[f32], frames: usize, width: usize) -> Vec<u8> {
    let mut range = vec![(0f32, 0f32); width];
    for frame in values.chunks_exact(width.max(1)) {
        for ((low, high), &value) in range.iter_mut().zip(frame) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }
    let scales: Vec<f32> = range.iter().map(|(low, high)| (high - low) / STEPS).collect();
    let zeros: Vec<u8> = range
        .iter()
        .zip(&scales)
        .map(|((low, _), &scale)| if scale > 0.0 { (-low / scale).round() as u8 } else { 0 })
        .collect();
    let inverse: Vec<f32> = scales.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    let bytes: Vec<u8> = values
        .chunks_exact(width.max(1))
        .flat_map(|frame| {
            let channels = inverse.iter().zip(&zeros);
            frame
                .iter()
                .zip(channels)
                .map(|(v, (i, &zero))| (v * i + f32::from(zero)).round().clamp(0.0, 255.0) as u8)
        })
        .collect();
    let mut present = Vec::with_capacity(values.len());
    let mut mask = vec![0u8; frames * width.div_ceil(8)];
    for (row, mask) in bytes.chunks_exact(width.max(1)).zip(mask.chunks_exact_mut(width.div_ceil(8).max(1))) {
        for (channel, (&byte, &zero)) in row.iter().zip(&zeros).enumerate() {
            if byte != zero {
                mask[channel / 8] |= 1 << (channel % 8);
                present.push(byte);
            }
        }
    }
    bits::difference(&mut mask, width);
    let mut payload: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).chain(zeros).collect();
    for part in [mask, present] {
        payload.resize(align(payload.len()), 0);
        payload.extend(part);
    }
    payload.resize(align(payload.len()), 0);
    payload
}

/// Undoes [`encode`] into `out`, which becomes `[frames, width]` values.
///
/// # Errors
/// When the payload's parts cannot have come from that many frames.
pub fn decode(payload: &[u8], frames: usize, width: usize, out: &mut Vec<f32>) -> Result<(), String> {
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
    out.resize(frames * width, 0.0);
    let bytes = payload.get(values_at..).unwrap_or_default();
    let present = spread(mask, Values::Bytes { bytes, scales: &scales, zeros: zeros.as_deref() }, width, out);
    if present.is_none_or(|present| values_at + align(present) != found) {
        let present = bits::count(mask, width)?;
        let expected = values_at + align(present);
        return Err(format!("expected {expected} bytes for {present} values, found {found}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

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
