//! From values that stand one behind the other to their channels: what a frame's bitmap leaves out is 0.
//!
//! A frame is one call of a function for the processor's instructions: it turns the bitmap of the frame before into this
//! one's, counts it, and places the values. Expansion of words by a mask is one instruction of AVX-512 (VBMI2) for 32
//! channels; with AVX2 a byte of the bitmap picks one of 256 shuffles.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use half::f16;

use super::instructions::Instructions;
use super::pieces::{PIECE, Pieces};

/// Values that are not zero, in the order of frames and channels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values<'a> {
    /// Halves as high bytes and low bytes.
    Halves { high: &'a [u8], low: &'a [u8] },
    /// scale * (byte - zero), scales and zeros by channel; without zeros all of them are 0.
    Bytes { bytes: &'a [u8], scales: &'a [f32], zeros: Option<&'a [f32]> },
}

impl<'a> Values<'a> {
    /// How many there are; the shorter part counts.
    fn len(&self) -> usize {
        match self {
            Self::Halves { high, low } => high.len().min(low.len()),
            Self::Bytes { bytes, .. } => bytes.len(),
        }
    }

    /// Without the first `count`.
    fn after(self, count: usize) -> Self {
        match self {
            Self::Halves { high, low } => Self::Halves { high: &high[count..], low: &low[count..] },
            Self::Bytes { bytes, scales, zeros } => Self::Bytes { bytes: &bytes[count..], scales, zeros },
        }
    }
}

/// Places `values` by the frames' bitmaps, each XORed with the one before: [frames, width]. Returns how many of the values
/// there were.
///
/// # Errors
/// `None` when there are fewer than the bitmaps say, or a bit is set beyond the width.
pub(super) fn spread(
    differences: &[u8],
    values: Values<'_>,
    width: usize,
    pieces: &mut Pieces<'_>,
) -> Option<usize> {
    spread_with(Instructions::detect(), differences, values, width, pieces)
}

pub(super) fn spread_with(
    instructions: Instructions,
    differences: &[u8],
    values: Values<'_>,
    width: usize,
    pieces: &mut Pieces<'_>,
) -> Option<usize> {
    if let Values::Bytes { scales, zeros, .. } = values
        && (scales.len() != width || zeros.is_some_and(|zeros| zeros.len() != width))
    {
        return None;
    }
    let mut bits = vec![0u64; width.div_ceil(64)];
    let row = width.div_ceil(8).max(1);
    let mut left = values;
    for differences in differences.chunks(PIECE * row) {
        pieces.next(differences.len() / row, width, |out| {
            let piece = Piece { differences, width, bits: &mut bits, left: &mut left, out };
            match instructions {
                // SAFETY: the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { avx512::spread(piece) },
                // SAFETY: the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { avx2::spread(piece) },
                Instructions::Plain => piece.spread(plain_frame),
            }
        })?;
    }
    Some(values.len() - left.len())
}

/// Some frames.
struct Piece<'p, 'v> {
    /// Bitmaps, each XORed with the one before.
    differences: &'p [u8],
    width: usize,
    /// Bitmap of the frame before.
    bits: &'p mut [u64],
    /// Values of these frames and of those behind.
    left: &'p mut Values<'v>,
    /// [frames, width]
    out: &'p mut [f32],
}

impl Piece<'_, '_> {
    /// One `frame` after the other: it turns the bitmap of the frame before into its own and returns how many values it has;
    /// where there are so many, it places them.
    #[inline(always)]
    fn spread(self, frame: impl Fn(&mut [u64], &[u8], Values<'_>, &mut [f32]) -> usize) -> Option<()> {
        let Self { differences, width, bits, left, out } = self;
        let frames = differences.chunks_exact(width.div_ceil(8).max(1));
        for (delta, out) in frames.zip(out.chunks_exact_mut(width.max(1))) {
            let count = frame(bits, delta, *left, out);
            let last = bits.last().filter(|_| !width.is_multiple_of(64));
            let spare = last.map_or(0, |last| last >> (width % 64));
            if count > left.len() || spare != 0 {
                return None;
            }
            *left = left.after(count);
        }
        Some(())
    }
}

/// Eight bytes each, the last with zeros behind it.
#[inline(always)]
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|bytes| match bytes.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    })
}

/// The bitmap of the next frame, and how many bits it has.
#[inline(always)]
fn advance(bits: &mut [u64], delta: &[u8]) -> usize {
    let mut count = 0;
    for (word, delta) in bits.iter_mut().zip(words(delta)) {
        *word ^= delta;
        count += word.count_ones() as usize;
    }
    count
}

/// One frame: see [`Piece::spread`].
fn plain_frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
    let count = advance(bits, delta);
    if count <= values.len() {
        plain_channels(bits, values, 0, 0, out);
    }
    count
}

/// The channels from the multiple of 64 `from` on, whose values begin at `at`.
#[inline(always)]
fn plain_channels(bits: &[u64], values: Values<'_>, from: usize, mut at: usize, out: &mut [f32]) {
    out[from..].fill(0.0);
    for (word, &mask) in bits.iter().enumerate().skip(from / 64) {
        let mut mask = mask;
        while mask != 0 {
            let channel = 64 * word + mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let Some(out) = out.get_mut(channel) else { return };
            *out = match values {
                Values::Halves { high, low } => f16::from_le_bytes([low[at], high[at]]).to_f32(),
                Values::Bytes { bytes, scales, zeros } => {
                    scales[channel] * (f32::from(bytes[at]) - zeros.map_or(0.0, |zeros| zeros[channel]))
                }
            };
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{bits, whole};
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_processor_gives_the_same_bits() {
        let mut random = Random::new(7, "spread", &[]);
        for (frames, width) in [
            (1usize, 1usize),
            (3, 7),
            (2, 8),
            (5, 63),
            (4, 64),
            (9, 65),
            (2, 130),
            (75, 70),
            (3, 1024),
            (6, 200),
            (0, 9),
        ] {
            let row = width.div_ceil(8);
            let mut mask: Vec<u8> = (0..frames * row).map(|_| random.below(256) as u8).collect();
            if width % 8 > 0 {
                mask.chunks_mut(row).for_each(|row| row[row.len() - 1] &= (1 << (width % 8)) - 1);
            }
            let present: usize = mask.iter().map(|m| m.count_ones() as usize).sum();
            bits::difference(&mut mask, width);
            // Every half that is a number, the smallest included.
            let high: Vec<u8> = (0..present)
                .map(|_| [random.below(124), 128 + random.below(124)][random.below(2)] as u8)
                .collect();
            let low: Vec<u8> = (0..present).map(|_| random.below(256) as u8).collect();
            let scales: Vec<f32> = (0..width).map(|_| random.normal() as f32).collect();
            let zeros: Vec<f32> = (0..width).map(|_| random.below(256) as f32).collect();
            for values in [
                Values::Halves { high: &high, low: &low },
                Values::Bytes { bytes: &low, scales: &scales, zeros: Some(&zeros) },
                Values::Bytes { bytes: &low, scales: &scales, zeros: None },
            ] {
                let with = |set| {
                    let mut out = vec![9f32; 3];
                    let used = whole(&mut out, |pieces| spread_with(set, &mask, values, width, pieces));
                    assert_eq!(used, Some(present));
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let plain = with(Instructions::Plain);
                assert!(plain.iter().filter(|&&v| v != 0).count() <= present);
                for set in Instructions::all() {
                    assert_eq!(with(set), plain, "{set:?} {frames} {width}");
                    // One value too few, or a bit too many.
                    let spread_with = |mask: &[u8], values| {
                        whole(&mut Vec::new(), |pieces| spread_with(set, mask, values, width, pieces))
                    };
                    let fewer = match values {
                        Values::Halves { high, low } => {
                            Values::Halves { high, low: &low[..present.saturating_sub(1)] }
                        }
                        Values::Bytes { bytes, scales, zeros } => {
                            Values::Bytes { bytes: &bytes[..present.saturating_sub(1)], scales, zeros }
                        }
                    };
                    assert_eq!(spread_with(&mask, fewer).is_none(), present > 0);
                    if width % 8 > 0 && frames > 0 {
                        let mut beyond = mask.clone();
                        beyond[row - 1] ^= 0x80;
                        let more = Values::Halves { high: &[1; 9000], low: &[1; 9000] };
                        assert_eq!(spread_with(&beyond, more), None);
                    }
                }
            }
        }
    }
}
