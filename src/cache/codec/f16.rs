//! Codec `f16`: the half-precision values, exactly, laid out so that zstd finds what there is to find.
//!
//! About half of a post-ReLU state is exact zeros, the low bytes of the rest are noise, and their
//! high bytes (exponent and two bits of mantissa) hold about 4.7 bits each. A payload therefore
//! has three parts:
//!
//! 1. one bit a value, set where its 16 bits are not all zero: `ceil(width / 8)` bytes a frame,
//!    least significant bit first, every frame XORed with the frame before it (a channel that is on
//!    tends to stay on);
//! 2. the high bytes of the values whose bit is set, frame by frame, channel by channel;
//! 3. their low bytes.
//!
//! Every part is followed by zeros up to a multiple of [`super::PART`] bytes: zstd models a block of that
//! size at a time, and a block that mixes two parts would model neither. On real hidden states
//! (QuartzNet 15x5, 1024 wide) this takes 985 bytes a frame, the same parts end to end 1,090.

use super::spread::{Values, spread};
use super::{Pieces, align, bits};

/// Lays out the bits of `values` (`[frames, width]`, row-major) as a payload.
pub fn encode(values: &[u16], frames: usize, width: usize) -> Vec<u8> {
    let row_bytes = width.div_ceil(8);
    let present = values.iter().filter(|&&v| v != 0).count();
    let high_at = align(frames * row_bytes);
    let low_at = high_at + align(present);
    let mut payload = vec![0u8; low_at + align(present)];
    let (mask_of, bytes) = payload.split_at_mut(high_at);
    let mask_of = &mut mask_of[..frames * row_bytes];
    let (high, low) = bytes.split_at_mut(low_at - high_at);
    // Written whether zero or not, kept when not: a branch would be mispredicted every other value.
    let (mut row_high, mut row_low) = (vec![0u8; width + 1], vec![0u8; width + 1]);
    let mut at = 0;
    for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
        let mut count = 0;
        for (byte, values) in values.chunks(8).enumerate() {
            let mut mask = 0u8;
            for (bit, &value) in values.iter().enumerate() {
                [row_low[count], row_high[count]] = value.to_le_bytes();
                mask |= u8::from(value != 0) << bit;
                count += usize::from(value != 0);
            }
            mask_of[row * row_bytes + byte] = mask;
        }
        high[at..at + count].copy_from_slice(&row_high[..count]);
        low[at..at + count].copy_from_slice(&row_low[..count]);
        at += count;
    }
    bits::difference(mask_of, width);
    payload
}

/// Undoes [`encode`]: `[frames, width]` values, some frames at a time.
///
/// # Errors
/// When the payload's parts cannot have come from that many frames; the text says what was
/// expected and found.
pub fn decode(payload: &[u8], frames: usize, width: usize, pieces: &mut Pieces<'_>) -> Result<(), String> {
    let row_bytes = width.div_ceil(8);
    let high_at = align(frames * row_bytes);
    let found = payload.len();
    let deltas = payload
        .get(..frames * row_bytes)
        .ok_or_else(|| format!("expected at least {high_at} bytes, found {found}"))?;
    // The two parts are of one length: where the second begins follows from where it ends.
    let part = found.saturating_sub(high_at) / 2;
    let (high, low) = payload.get(high_at..).unwrap_or_default().split_at(part);
    let present = spread(deltas, Values::Halves { high, low }, width, pieces);
    if present.is_none_or(|present| high_at + 2 * align(present) != found) {
        let present = bits::count(deltas, width)?;
        let expected = high_at + 2 * align(present);
        return Err(format!("expected {expected} bytes for {present} non-zeros, found {found}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, PART};
    use super::*;
    use half::f16;
    use proptest::prelude::*;

    fn decode(payload: &[u8], frames: usize, width: usize, out: &mut Vec<f32>) -> Result<(), String> {
        Codec::F16.decode(payload, frames, width, out)
    }

    fn round_trip(values: &[u16], frames: usize, width: usize) {
        let payload = encode(values, frames, width);
        let mut out = Vec::new();
        decode(&payload, frames, width, &mut out).unwrap();
        let bits: Vec<u16> = out.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
        assert_eq!(bits, values);
    }

    #[test]
    fn every_finite_half_survives() {
        let values: Vec<u16> = (0..=u16::MAX).filter(|&b| f16::from_bits(b).is_finite()).collect();
        assert_eq!(values.len(), 63_488);
        round_trip(&values, 62, 1024);
        round_trip(&values, 1024, 62);
        round_trip(&[], 0, 1024);
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        // Two frames of nine channels: channels 0 and 8 on, then 0 only.
        let mut values = vec![0u16; 18];
        (values[0], values[8], values[9]) = (0x3C01, 0x4002, 0x4403);
        let payload = encode(&values, 2, 9);
        assert_eq!(payload.len(), 3 * PART);
        assert_eq!(payload[..5], [1, 1, 0, 1, 0]);
        assert_eq!(payload[PART..PART + 4], [0x3C, 0x40, 0x44, 0]);
        assert_eq!(payload[2 * PART..2 * PART + 4], [1, 2, 3, 0]);
    }

    #[test]
    fn payloads_of_another_size_are_refused() {
        let payload = encode(&[0x3C00; 64], 2, 32);
        let mut out = Vec::new();
        assert!(decode(&payload, 2, 32, &mut out).is_ok());
        assert!(decode(&payload[..100], 2, 32, &mut out).unwrap_err().contains("found 100"));
        assert!(decode(&payload[..4], 2, 32, &mut out).unwrap_err().contains("found 4"));
        assert!(decode(&payload, 2, 31, &mut out).unwrap_err().contains("beyond the width"));
        assert!(decode(&[], 2, 32, &mut out).is_err());
    }

    proptest! {
        #[test]
        fn any_shape_round_trips(width in 1usize..70, seed in proptest::collection::vec(0u16..0x7C00, 0..400)) {
            let frames = seed.len() / width;
            let values: Vec<u16> = seed[..frames * width].iter().map(|&v| if v % 3 == 0 { 0 } else { v }).collect();
            round_trip(&values, frames, width);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), frames in 0usize..9, width in 1usize..40) {
            let mut long = bytes.clone();
            long.resize(2 * PART + bytes.len(), 0);
            let mut out = Vec::new();
            let _ = decode(&bytes, frames, width, &mut out);
            let _ = decode(&long, frames, width, &mut out);
        }
    }
}
