//! With 256 bits at a time.

use std::arch::x86_64::*;

use super::super::instructions::PLACES;
use super::{Piece, Values, advance, plain_channels};

/// See [`Piece::spread`].
#[target_feature(enable = "avx2,f16c,bmi2,popcnt")]
pub(super) fn spread(piece: Piece<'_, '_>) -> Option<()> {
    piece.spread(|bits, delta, values, out| frame(bits, delta, values, out))
}

/// See [`super::plain_frame`].
#[inline]
#[target_feature(enable = "avx2,f16c,bmi2,popcnt")]
fn frame(bits: &mut [u64], delta: &[u8], values: Values<'_>, out: &mut [f32]) -> usize {
    let count = advance(bits, delta);
    if count > values.len() {
        return count;
    }
    let whole = out.len() / 64 * 64;
    let mut at = 0;
    for ((word, &mask), out) in bits.iter().enumerate().zip(out.chunks_exact_mut(64)) {
        for (part, (mask, out)) in mask.to_le_bytes().into_iter().zip(out.as_chunks_mut::<8>().0).enumerate()
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
