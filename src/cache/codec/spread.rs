//! From values that stand one behind the other to their channels: what a frame's bitmap leaves out is 0.
//!
//! A frame is one call of a function for the processor's instructions: it turns the bitmap of the frame before into this
//! one's, counts it, and places the values. Expansion of words by a mask is one instruction of AVX-512 (VBMI2) for 32
//! channels; with AVX2 a byte of the bitmap picks one of 256 shuffles.

use half::f16;

use super::instructions::Instructions;

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

/// Places `values` by the frames' bitmaps, each XORed with the one before; `out` is [frames, width]. Returns how many of
/// the values there were.
///
/// # Errors
/// `None` when there are fewer than the bitmaps say, or a bit is set beyond the width.
pub(super) fn spread(differences: &[u8], values: Values<'_>, width: usize, out: &mut [f32]) -> Option<usize> {
    spread_with(Instructions::detect(), differences, values, width, out)
}

pub(super) fn spread_with(
    instructions: Instructions,
    differences: &[u8],
    values: Values<'_>,
    width: usize,
    out: &mut [f32],
) -> Option<usize> {
    if let Values::Bytes { scales, zeros, .. } = values
        && (scales.len() != width || zeros.is_some_and(|zeros| zeros.len() != width))
    {
        return None;
    }
    let mut bits = vec![0u64; width.div_ceil(64)];
    let (mut left, mut used) = (values, 0);
    for (delta, out) in
        differences.chunks_exact(width.div_ceil(8).max(1)).zip(out.chunks_exact_mut(width.max(1)))
    {
        let count = match instructions {
            // SAFETY: the instructions were detected.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { avx512::frame(&mut bits, delta, left, out) },
            // SAFETY: the instructions were detected.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { avx2::frame(&mut bits, delta, left, out) },
            Instructions::Plain => plain_frame(&mut bits, delta, left, out),
        };
        let spare = bits.last().filter(|_| !width.is_multiple_of(64)).map_or(0, |last| last >> (width % 64));
        if count > left.len() || spare != 0 {
            return None;
        }
        left = left.after(count);
        used += count;
    }
    Some(used)
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

/// One frame: turns `bits` into its bitmap and returns how many values it has; where there are so many, fills `out`.
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

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Values, plain_frame, words};

    /// See [`super::plain_frame`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    pub(super) fn frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
        // So that whole vectors can be read wherever a group of channels begins. Payloads end in zeros: few frames have fewer.
        if values.len() < 64 * bits.len() {
            return plain_frame(bits, delta, values, out);
        }
        let (groups, rest) = out.as_chunks_mut::<64>();
        let (whole, last) = bits.split_at_mut(groups.len());
        let (mut at, mut channel) = (0, 0);
        let mut words = words(delta);
        for ((bits, delta), out) in whole.iter_mut().zip(&mut words).zip(groups) {
            *bits ^= delta;
            for (mask, out) in halved(*bits).into_iter().zip(out.as_chunks_mut::<32>().0) {
                // SAFETY: of every word's 64 values there are 32 from here on; 32 channels are there.
                unsafe { channels::<true>(mask, values, at, channel, out.as_mut_ptr(), u32::MAX) };
                (at, channel) = (at + mask.count_ones() as usize, channel + 32);
            }
        }
        if let (Some(bits), Some(delta)) = (last.first_mut(), words.next()) {
            *bits ^= delta;
            for (mask, out) in halved(*bits).into_iter().zip(rest.chunks_mut(32)) {
                let there = _bzhi_u32(u32::MAX, u32::try_from(out.len()).unwrap_or(0));
                // SAFETY: as above; no channel is touched but for those that are there.
                unsafe { channels::<false>(mask, values, at, channel, out.as_mut_ptr(), there) };
                (at, channel) = (at + mask.count_ones() as usize, channel + 32);
            }
        }
        at
    }

    /// 32 channels from `channel` on, or those of them that are `there`, by the values from `at` on.
    ///
    /// Words are expanded, not bytes: there are processors (Zen 5) that take ten times as long for bytes.
    ///
    /// # Safety
    /// There are 32 values from `at` on, and the channels that are said to be there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    unsafe fn channels<const ALL: bool>(
        mask: u32,
        values: Values<'_>,
        at: usize,
        channel: usize,
        out: *mut f32,
        there: u32,
    ) {
        let [first, second] = quartered(there);
        // SAFETY: see above.
        let words =
            |bytes: &[u8]| unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.as_ptr().add(at).cast())) };
        // SAFETY: see above.
        let floats = |of: &[f32]| unsafe {
            let of = of.as_ptr().add(channel);
            if ALL {
                [_mm512_loadu_ps(of), _mm512_loadu_ps(of.add(16))]
            } else {
                [_mm512_maskz_loadu_ps(first, of), _mm512_maskz_loadu_ps(second, of.wrapping_add(16))]
            }
        };
        let parts = |words: __m512i| [_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64::<1>(words)];
        let result = match values {
            Values::Halves { high, low } => {
                let halves = _mm512_or_si512(_mm512_slli_epi16::<8>(words(high)), words(low));
                parts(_mm512_maskz_expand_epi16(mask, halves)).map(|halves| _mm512_cvtph_ps(halves))
            }
            Values::Bytes { bytes, scales, zeros } => {
                let spread = parts(_mm512_maskz_expand_epi16(mask, words(bytes)));
                let mut values = spread.map(|words| _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(words)));
                if let Some(zeros) = zeros {
                    let zeros = floats(zeros);
                    values = [_mm512_sub_ps(values[0], zeros[0]), _mm512_sub_ps(values[1], zeros[1])];
                }
                let (scales, [first, second]) = (floats(scales), quartered(mask));
                [
                    _mm512_maskz_mul_ps(first, scales[0], values[0]),
                    _mm512_maskz_mul_ps(second, scales[1], values[1]),
                ]
            }
        };
        // SAFETY: see above.
        unsafe {
            if ALL {
                _mm512_storeu_ps(out, result[0]);
                _mm512_storeu_ps(out.add(16), result[1]);
            } else {
                _mm512_mask_storeu_ps(out, first, result[0]);
                _mm512_mask_storeu_ps(out.wrapping_add(16), second, result[1]);
            }
        }
    }

    #[inline]
    fn halved(mask: u64) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = mask.to_le_bytes();
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    }

    #[inline]
    fn quartered(mask: u32) -> [u16; 2] {
        let [a, b, c, d] = mask.to_le_bytes();
        [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::super::instructions::PLACES;
    use super::{Values, advance, plain_channels};

    /// See [`super::plain_frame`].
    #[target_feature(enable = "avx2,f16c,bmi2,popcnt")]
    pub(super) fn frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
        let count = advance(bits, delta);
        if count > values.len() {
            return count;
        }
        let whole = out.len() / 64 * 64;
        let mut at = 0;
        for ((word, &mask), out) in bits.iter().enumerate().zip(out.chunks_exact_mut(64)) {
            for (part, (mask, out)) in
                mask.to_le_bytes().into_iter().zip(out.as_chunks_mut::<8>().0).enumerate()
            {
                let result = match values {
                    Values::Halves { high, low } => halves(mask, eight(high, at), eight(low, at)),
                    Values::Bytes { bytes, scales, zeros } => {
                        let channel = 64 * word + 8 * part;
                        let channels = channel..channel + 8;
                        let zeros = zeros.map(|zeros| &zeros[channels.clone()]);
                        affine(mask, eight(bytes, at), &scales[channels], zeros)
                    }
                };
                // SAFETY: there is room for eight.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), result) };
                at += mask.count_ones() as usize;
            }
        }
        if whole < out.len() {
            plain_channels(bits, values, whole, at, out);
        }
        count
    }

    /// Eight bytes from `at` on; what is not there is 0.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn eight(bytes: &[u8], at: usize) -> __m128i {
        let rest = &bytes[at..];
        let eight = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
            let mut eight = [0; 8];
            eight[..rest.len()].copy_from_slice(rest);
            eight
        });
        _mm_cvtsi64_si128(i64::from_le_bytes(eight))
    }

    /// Each of the bytes at its place among eight channels.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn place(mask: u8, bytes: __m128i) -> __m128i {
        let places = i64::from_le_bytes(PLACES[usize::from(mask)]);
        _mm_shuffle_epi8(bytes, _mm_cvtsi64_si128(places))
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn halves(mask: u8, high: __m128i, low: __m128i) -> __m256 {
        _mm256_cvtph_ps(_mm_unpacklo_epi8(place(mask, low), place(mask, high)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn affine(mask: u8, bytes: __m128i, scales: &[f32], zeros: Option<&[f32]>) -> __m256 {
        let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let there = _mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bits);
        let there = _mm256_castsi256_ps(_mm256_cmpeq_epi32(there, bits));
        let mut value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(place(mask, bytes)));
        // SAFETY: those of eight channels.
        let load = |eight: &[f32]| unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        if let Some(zeros) = zeros {
            value = _mm256_sub_ps(value, load(zeros));
        }
        _mm256_and_ps(there, _mm256_mul_ps(load(scales), value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bits;
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
                    let mut out = vec![9f32; frames * width];
                    let used = spread_with(set, &mask, values, width, &mut out);
                    assert_eq!(used, Some(present));
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                let plain = with(Instructions::Plain);
                assert!(plain.iter().filter(|&&v| v != 0).count() <= present);
                for set in Instructions::all() {
                    assert_eq!(with(set), plain, "{set:?} {frames} {width}");
                    // One value too few, or a bit too many.
                    let mut out = vec![0f32; frames * width];
                    let fewer = match values {
                        Values::Halves { high, low } => {
                            Values::Halves { high, low: &low[..present.saturating_sub(1)] }
                        }
                        Values::Bytes { bytes, scales, zeros } => {
                            Values::Bytes { bytes: &bytes[..present.saturating_sub(1)], scales, zeros }
                        }
                    };
                    assert_eq!(spread_with(set, &mask, fewer, width, &mut out).is_none(), present > 0);
                    if width % 8 > 0 && frames > 0 {
                        let mut beyond = mask.clone();
                        beyond[row - 1] ^= 0x80;
                        let more = Values::Halves { high: &[1; 9000], low: &[1; 9000] };
                        assert_eq!(spread_with(set, &beyond, more, width, &mut out), None);
                    }
                }
            }
        }
    }
}
