//! Writes what [`super::rans_decoder`] reads: from the last value to the first, a round of all states at a time.
//!
//! Whether a state gives up a word is a matter of chance, so nothing branches on it: the words of a round are pressed
//! together under a mask, and the buffer grows downwards by as many. The quotient by a frequency is below 2^21, so that
//! a division in single precision errs by one at most, which the remainder shows.

use super::instructions::Instructions;
use super::rans::{BITS, ESCAPED, LOW, NAMES, STATES, Tables, name};

/// Values that become a payload, and what was made of those behind `left`.
struct Encoder<'a> {
    tables: &'a Tables,
    classes: &'a [u8],
    values: &'a [i16],
    states: [u32; STATES],
    /// Values before this one are still to come.
    left: usize,
    /// Words are written downwards from its end.
    words: Vec<u16>,
    /// The first word.
    at: usize,
    /// Last first.
    escaped: Vec<i16>,
}

/// The payload: number of words, states, words, escaped values.
pub(super) fn encode(instructions: Instructions, tables: &Tables, classes: &[u8], values: &[i16]) -> Vec<u8> {
    let left = values.len().min(classes.len());
    let states = tables.states();
    let mut encoder = Encoder {
        tables,
        classes: &classes[..left],
        values: &values[..left],
        states: [LOW; STATES],
        left,
        words: vec![0; left],
        at: left,
        escaped: Vec::new(),
    };
    encoder.one_by_one(left - left % states);
    encoder.rounds(instructions);
    encoder.one_by_one(0);
    let Encoder { words, at, escaped, .. } = encoder;
    let words = &words[at..];
    let mut payload = Vec::with_capacity(4 + 4 * states + 2 * words.len() + 2 * escaped.len());
    payload.extend(u32::try_from(words.len()).unwrap_or(u32::MAX).to_le_bytes());
    payload.extend(encoder.states[..states].iter().flat_map(|state| state.to_le_bytes()));
    payload.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    payload.extend(escaped.iter().rev().flat_map(|value| value.to_le_bytes()));
    payload
}

impl Encoder<'_> {
    /// The values before `left` down to `end`.
    fn one_by_one(&mut self, end: usize) {
        let (entries, count) = (self.tables.entries(), self.tables.states());
        while self.left > end {
            self.left -= 1;
            let value = self.values[self.left];
            let entry = entries[usize::from(self.classes[self.left]) * NAMES + name(value)];
            if entry & ESCAPED != 0 {
                self.escaped.push(value);
            }
            let (frequency, start) = (entry & 0xFFF, entry >> 12 & 0xFFF);
            let state = &mut self.states[self.left % count];
            if *state >= frequency << (32 - BITS) {
                self.at -= 1;
                self.words[self.at] = (*state & 0xFFFF) as u16;
                *state >>= 16;
            }
            *state = ((*state / frequency) << BITS) + *state % frequency + start;
        }
    }

    /// Whole rounds, where this processor does them at once.
    fn rounds(&mut self, instructions: Instructions) {
        #[cfg(target_arch = "x86_64")]
        if instructions == Instructions::Avx512 && self.tables.states() == STATES {
            let most = self.classes.iter().copied().max().unwrap_or(0);
            if (usize::from(most) + 1) * NAMES <= self.tables.entries().len() {
                // SAFETY: the instructions were detected, and there are tables of all classes.
                unsafe { self.rounds_avx512() }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = instructions;
    }

    /// All values before `left`, a multiple of [`STATES`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn rounds_avx512(&mut self) {
        use std::arch::x86_64::*;
        let entries = self.tables.entries().as_ptr();
        // SAFETY: there are twice 16 states.
        let mut states =
            [0, 16].map(|from| unsafe { _mm512_loadu_si512(self.states[from..].as_ptr().cast()) });
        let low_bits = _mm512_set1_epi32(0xFFF);
        let (least, most) = (_mm512_set1_epi32(-128), _mm512_set1_epi32(127));
        let escape = _mm512_set1_epi32(ESCAPED.cast_signed());
        let classes = self.classes[..self.left].as_chunks::<STATES>().0.iter();
        for (classes, values) in classes.zip(self.values.as_chunks::<STATES>().0).rev() {
            // Both gathers before either is used.
            let found: [__m512i; 2] = std::array::from_fn(|half| {
                // SAFETY: 16 classes and 16 values are read; their entries lie within the tables.
                unsafe {
                    let class = _mm512_cvtepu8_epi32(_mm_loadu_si128(classes[16 * half..].as_ptr().cast()));
                    let value =
                        _mm512_cvtepi16_epi32(_mm256_loadu_si256(values[16 * half..].as_ptr().cast()));
                    let value = _mm512_max_epi32(_mm512_min_epi32(value, most), least);
                    let index =
                        _mm512_add_epi32(_mm512_slli_epi32::<8>(class), _mm512_sub_epi32(value, least));
                    _mm512_i32gather_epi32::<4>(index, entries.cast())
                }
            });
            let mut escapes = 0u32;
            for (half, entry) in found.into_iter().enumerate().rev() {
                escapes |= u32::from(_mm512_test_epi32_mask(entry, escape)) << (16 * half);
                let frequency = _mm512_and_si512(entry, low_bits);
                let start = _mm512_and_si512(_mm512_srli_epi32::<12>(entry), low_bits);
                let state = states[half];
                let gives = _mm512_cmpge_epu32_mask(state, _mm512_slli_epi32::<{ 32 - BITS }>(frequency));
                let words = _mm256_maskz_compress_epi16(gives, _mm512_cvtepi32_epi16(state));
                let count = gives.count_ones() as usize;
                self.at -= count;
                let room = self.words[self.at..][..count].as_mut_ptr();
                // SAFETY: there is room for as many as are stored.
                unsafe {
                    _mm256_mask_storeu_epi16(room.cast(), !(u16::MAX << count.min(15) << (count / 16)), words)
                };
                let state = _mm512_mask_srli_epi32::<16>(state, gives, state);
                let quotient = _mm512_cvttps_epu32(_mm512_div_ps(
                    _mm512_cvtepu32_ps(state),
                    _mm512_cvtepi32_ps(frequency),
                ));
                let rest = _mm512_sub_epi32(state, _mm512_mullo_epi32(quotient, frequency));
                let (one, zero) = (_mm512_set1_epi32(1), _mm512_setzero_si512());
                let (over, under) =
                    (_mm512_cmplt_epi32_mask(rest, zero), _mm512_cmpge_epi32_mask(rest, frequency));
                let quotient = _mm512_mask_sub_epi32(quotient, over, quotient, one);
                let quotient = _mm512_mask_add_epi32(quotient, under, quotient, one);
                let rest = _mm512_mask_add_epi32(rest, over, rest, frequency);
                let rest = _mm512_mask_sub_epi32(rest, under, rest, frequency);
                let above = _mm512_slli_epi32::<BITS>(quotient);
                states[half] = _mm512_add_epi32(above, _mm512_add_epi32(rest, start));
            }
            while escapes != 0 {
                let last = escapes.ilog2();
                self.escaped.push(values[last as usize]);
                escapes ^= 1 << last;
            }
        }
        self.left = 0;
        for (from, states) in [0, 16].into_iter().zip(states) {
            // SAFETY: there are twice 16 states.
            unsafe { _mm512_storeu_si512(self.states[from..].as_mut_ptr().cast(), states) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rans::tests::{made_up, tables};
    use super::*;

    #[test]
    fn every_processor_writes_the_same_bytes() {
        let tables = tables();
        for count in [0, 5, 31, 32, 33, 64, 4000] {
            let (classes, mut values) = made_up(count);
            if let Some(value) = values.last_mut() {
                *value = -32_000;
            }
            let plain = encode(Instructions::Plain, &tables, &classes, &values);
            for set in Instructions::all() {
                assert_eq!(encode(set, &tables, &classes, &values), plain, "{set:?} {count}");
            }
        }
    }

    /// Every frequency meets the states at the ends of its range, where a division that errs would show.
    #[test]
    fn every_frequency_divides_exactly() {
        let pairs: Vec<Vec<u16>> = (1..2047).map(|f| vec![1, f, 2047 - f]).collect();
        for frequencies in pairs.chunks(200) {
            let tables = Tables::new(frequencies.to_vec(), STATES).unwrap();
            let classes: Vec<u8> =
                (0..6400).map(|i| u8::try_from(i * 7 % frequencies.len()).unwrap()).collect();
            let values: Vec<i16> = (0..6400).map(|i| -i16::from(i * i % 11 < 5)).collect();
            let plain = encode(Instructions::Plain, &tables, &classes, &values);
            for set in Instructions::all() {
                assert_eq!(encode(set, &tables, &classes, &values), plain, "{set:?}");
            }
        }
    }
}
