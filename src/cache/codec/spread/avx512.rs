//! With 512 bits at a time.

use std::arch::x86_64::*;

use super::{Piece, Values, plain_frame, words};

/// See [`Piece::spread`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub(super) fn spread(piece: Piece<'_, '_>) -> Option<()> {
    piece.spread(|bits, delta, values, out| frame(bits, delta, values, out))
}

/// See [`super::plain_frame`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
fn frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
    // So that whole vectors can be read wherever a group of channels begins. Payloads end in zeros: few frames have fewer.
    if values.len() < 64 * bits.len() {
        return plain_frame(bits, delta, values, out);
    }
    let (groups, rest) = out.as_chunks_mut::<64>();
    let (whole, last) = bits.split_at_mut(groups.len());
    let (deltas, delta) = delta.split_at(8 * whole.len());
    let (mut at, mut channel) = (0, 0);
    for ((bits, delta), out) in whole.iter_mut().zip(deltas.as_chunks::<8>().0).zip(groups) {
        *bits ^= u64::from_le_bytes(*delta);
        for (mask, out) in halved(*bits).into_iter().zip(out.as_chunks_mut::<32>().0) {
            // SAFETY: of every word's 64 values there are 32 from here on; 32 channels are there.
            unsafe { channels::<true>(mask, values, at, channel, out.as_mut_ptr(), u32::MAX) };
            (at, channel) = (at + mask.count_ones() as usize, channel + 32);
        }
    }
    if let (Some(bits), Some(delta)) = (last.first_mut(), words(delta).next()) {
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

/// A byte of the first 32 and one of the last 32 in turn.
const IN_TURN: [u8; 64] = {
    let (mut all, mut at) = ([0; 64], 0u8);
    while at < 64 {
        all[at as usize] = at / 2 + 32 * (at % 2);
        at += 1;
    }
    all
};

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
    let load = |bytes: &[u8]| unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at).cast()) };
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
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(low)), load(high));
            // SAFETY: 64 bytes.
            let order = unsafe { _mm512_loadu_si512(IN_TURN.as_ptr().cast()) };
            let halves = _mm512_permutexvar_epi8(order, both);
            parts(_mm512_maskz_expand_epi16(mask, halves)).map(|halves| _mm512_cvtph_ps(halves))
        }
        Values::Bytes { bytes, scales, zeros } => {
            let spread = parts(_mm512_maskz_expand_epi16(mask, _mm512_cvtepu8_epi16(load(bytes))));
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
