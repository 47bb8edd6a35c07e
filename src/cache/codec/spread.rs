//! From values that stand one behind the other to their channels: what a frame's bitmap leaves out is 0.
//!
//! A frame is one call of a function for the processor's instructions: it turns the bitmap of the frame before into this
//! one's, counts it, and places the values. Expansion of bytes by a mask is one instruction of AVX-512 (VBMI2) for 64
//! channels; with AVX2 a byte of the bitmap picks one of 256 shuffles.

use half::f16;

use super::instructions::Instructions;

/// Values that are not zero, in the order of frames and channels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values<'a> {
    /// Halves as high bytes and low bytes.
    Halves { high: &'a [u8], low: &'a [u8] },
    /// scale * (byte - zero), scales and zeros by channel.
    Bytes { bytes: &'a [u8], scales: &'a [f32], zeros: &'a [f32] },
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
        && (scales.len() != width || zeros.len() != width)
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

/// The bitmap of the next frame, and how many bits it has.
#[inline(always)]
fn advance(bits: &mut [u64], delta: &[u8]) -> usize {
    let (whole, rest) = delta.as_chunks::<8>();
    let mut count = 0;
    for (word, delta) in bits.iter_mut().zip(whole) {
        *word ^= u64::from_le_bytes(*delta);
        count += word.count_ones() as usize;
    }
    if let (Some(word), false) = (bits.get_mut(whole.len()), rest.is_empty()) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        *word ^= u64::from_le_bytes(last);
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
                    scales[channel] * (f32::from(bytes[at]) - zeros[channel])
                }
            };
            at += 1;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Values, advance};

    /// Bytes of two vectors in turn: those of the first 32 places, or of the last.
    const fn turns(first: u8) -> [u8; 64] {
        let mut all = [0; 64];
        let mut place = 0;
        while place < 32 {
            all[2 * place as usize] = first + place;
            all[2 * place as usize + 1] = 64 + first + place;
            place += 1;
        }
        all
    }
    const TURNS: [[u8; 64]; 2] = [turns(0), turns(32)];

    /// See [`super::plain_frame`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    pub(super) fn frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
        let count = advance(bits, delta);
        if count > values.len() {
            return count;
        }
        match values {
            Values::Halves { high, low } => halves(bits, high, low, out),
            Values::Bytes { bytes, scales, zeros } => affine(bits, bytes, scales, zeros, out),
        }
        count
    }

    /// The first of `values`, as many as `mask` has bits, at the places of those bits; the others are 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn expand(mask: u64, values: &[u8]) -> __m512i {
        let there = _bzhi_u64(u64::MAX, mask.count_ones().min(u32::try_from(values.len()).unwrap_or(64)));
        // SAFETY: no more is read than there is.
        unsafe { _mm512_maskz_expand_epi8(mask, _mm512_maskz_loadu_epi8(there, values.as_ptr().cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn halves(bits: &[u64], mut high: &[u8], mut low: &[u8], out: &mut [f32]) {
        // SAFETY: both are 64 bytes.
        let turns = TURNS.map(|turns| unsafe { _mm512_loadu_si512(turns.as_ptr().cast()) });
        for (&mask, out) in bits.iter().zip(out.chunks_mut(64)) {
            let count = mask.count_ones() as usize;
            let (ups, downs) = (expand(mask, high), expand(mask, low));
            (high, low) = (&high[count..], &low[count..]);
            let both = turns.map(|turns| _mm512_permutex2var_epi8(downs, turns, ups));
            let quarters = [
                _mm512_castsi512_si256(both[0]),
                _mm512_extracti64x4_epi64::<1>(both[0]),
                _mm512_castsi512_si256(both[1]),
                _mm512_extracti64x4_epi64::<1>(both[1]),
            ];
            for (out, halves) in out.chunks_mut(16).zip(quarters) {
                store(out, _mm512_cvtph_ps(halves));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn affine(bits: &[u64], mut bytes: &[u8], scales: &[f32], zeros: &[f32], out: &mut [f32]) {
        let channels = scales.chunks(64).zip(zeros.chunks(64));
        for ((&mask, out), (scales, zeros)) in bits.iter().zip(out.chunks_mut(64)).zip(channels) {
            let spread = expand(mask, bytes);
            bytes = &bytes[mask.count_ones() as usize..];
            let quarters = [
                _mm512_castsi512_si128(spread),
                _mm512_extracti32x4_epi32::<1>(spread),
                _mm512_extracti32x4_epi32::<2>(spread),
                _mm512_extracti32x4_epi32::<3>(spread),
            ];
            let channels = scales.chunks(16).zip(zeros.chunks(16));
            for (part, ((out, bytes), (scales, zeros))) in
                out.chunks_mut(16).zip(quarters).zip(channels).enumerate()
            {
                let there = sixteen(mask >> (16 * part));
                let value = _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), load(zeros));
                store(out, _mm512_maskz_mul_ps(there, load(scales), value));
            }
        }
    }

    #[inline]
    fn sixteen(mask: u64) -> u16 {
        let [low, high, ..] = mask.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// The lanes that `values`, of 16 at most, has.
    #[inline]
    fn lanes(values: &[f32]) -> u16 {
        u16::MAX.checked_shr(16 - u32::try_from(values.len().min(16)).unwrap_or(0)).unwrap_or(0)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[f32]) -> __m512 {
        // SAFETY: no more is read than there is.
        unsafe { _mm512_maskz_loadu_ps(lanes(values), values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(out: &mut [f32], values: __m512) {
        // SAFETY: no more is written than there is room for.
        unsafe {
            if out.len() == 16 {
                _mm512_storeu_ps(out.as_mut_ptr(), values);
            } else {
                _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(out), values);
            }
        }
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
                        affine(mask, eight(bytes, at), &scales[channels.clone()], &zeros[channels])
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
    fn affine(mask: u8, bytes: __m128i, scales: &[f32], zeros: &[f32]) -> __m256 {
        let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let there = _mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bits);
        let there = _mm256_castsi256_ps(_mm256_cmpeq_epi32(there, bits));
        let value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(place(mask, bytes)));
        // SAFETY: both are of eight channels.
        let (scales, zeros) = unsafe { (_mm256_loadu_ps(scales.as_ptr()), _mm256_loadu_ps(zeros.as_ptr())) };
        _mm256_and_ps(there, _mm256_mul_ps(scales, _mm256_sub_ps(value, zeros)))
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
                Values::Bytes { bytes: &low, scales: &scales, zeros: &zeros },
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
