//! Reads what [`super::rans`] wrote: a round of all states at a time, as wide as the processor allows.
//!
//! Whether a state wants a word is a matter of chance that no processor foretells, so nothing branches on it: the states that
//! want one take theirs from the words that come next by an expansion under a mask (Giesen, "Interleaved entropy coders",
//! 2014), and the stream moves on by as many. What bounds it is the gather of the slots: 16 or 8 loads from tables of 8 KiB
//! a class, which lie in the second-level cache.

use super::instructions::Instructions;
use super::rans::{BITS, ESCAPE, FEW_STATES, LOW, STATES, TOTAL, Tables};

/// Values on their way out of a payload.
#[derive(Debug)]
pub struct Decoder<'a> {
    tables: &'a Tables,
    instructions: Instructions,
    /// As many as the tables are for.
    states: [u32; STATES],
    /// State of the next value.
    turn: usize,
    words: &'a [u8],
    /// Next word, in bytes.
    at: usize,
    escaped: &'a [u8],
    /// Whether more was asked for than there is.
    overrun: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tables: &'a Tables, payload: &'a [u8]) -> Result<Self, String> {
        let count = tables.states();
        let short =
            || format!("expected the {} bytes of {count} states, found {}", 4 * count + 4, payload.len());
        let (words, rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
        let (first, rest) = rest.split_at_checked(4 * count).ok_or_else(short)?;
        let words = u32::from_le_bytes(*words) as usize;
        let (words, escaped) = rest
            .split_at_checked(2 * words)
            .ok_or_else(|| format!("expected {words} words, found {} bytes", rest.len()))?;
        let mut states = [LOW; STATES];
        for (state, bytes) in states.iter_mut().zip(first.as_chunks::<4>().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        let instructions = Instructions::detect();
        Ok(Self { tables, instructions, states, turn: 0, words, at: 0, escaped, overrun: false })
    }

    /// The next `classes.len()` values, of these classes, of which there are tables; `out` is as long.
    pub fn values(&mut self, classes: &[u8], out: &mut [i16]) {
        let count = self.tables.states();
        let (classes, rest) = classes.split_at(((count - self.turn % count) % count).min(classes.len()));
        let (out, rest_out) = out.split_at_mut(classes.len());
        self.one_by_one(classes, out);
        let done = self.rounds(rest, rest_out);
        self.turn += done;
        self.one_by_one(&rest[done..], &mut rest_out[done..]);
    }

    /// As many whole rounds as there are certainly words for; returns the number of values.
    fn rounds(&mut self, classes: &[u8], out: &mut [i16]) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.tables.states() == STATES {
            let most = classes.iter().copied().max().unwrap_or(0);
            let fits = (usize::from(most) + 1) * TOTAL as usize <= self.tables.slots().len();
            // SAFETY of both: the instructions were detected, and there are tables of all classes.
            match self.instructions {
                Instructions::Avx512 if fits => return unsafe { self.rounds_avx512(classes, out) },
                Instructions::Avx2 if fits => return unsafe { self.rounds_avx2(classes, out) },
                _ => {}
            }
        }
        if self.tables.states() == STATES {
            self.rounds_of::<STATES, { 2 * STATES }>(classes, out)
        } else {
            self.rounds_of::<FEW_STATES, { 2 * FEW_STATES }>(classes, out)
        }
    }

    fn rounds_of<const N: usize, const BYTES: usize>(&mut self, classes: &[u8], out: &mut [i16]) -> usize {
        let slots = self.tables.slots();
        let mut done = 0;
        for (classes, out) in classes.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<N>().0) {
            let words = self.words.get(self.at..).and_then(|rest| rest.first_chunk::<BYTES>());
            let Some(words) = words else { break };
            let (mut next, mut escapes) = (0, 0u32);
            for ((state, &class), out) in self.states.iter_mut().zip(classes).zip(out.iter_mut()) {
                let slot = slots[usize::from(class) * TOTAL as usize + (*state & (TOTAL - 1)) as usize];
                let lower = (slot & 0xFFF) * (*state >> BITS) + (slot >> 12 & 0xFFF);
                // BYTES is a power of two, and no word lies beyond: this spares the check.
                let word = u16::from_le_bytes([words[next & (BYTES - 1)], words[next & (BYTES - 1) | 1]]);
                let wants = u32::from(lower < LOW);
                let all = wants.wrapping_neg();
                *state = lower << (all & 16) | (u32::from(word) & all);
                next += 2 * wants as usize;
                let value = (slot >> 24) as u8 as i8;
                escapes |= u32::from(value == ESCAPE);
                *out = i16::from(value);
            }
            self.at += next;
            if escapes > 0 {
                self.unescape(out);
            }
            done += N;
        }
        done
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    fn rounds_avx512(&mut self, classes: &[u8], out: &mut [i16]) -> usize {
        use std::arch::x86_64::*;
        let slots = self.tables.slots().as_ptr();
        // SAFETY: there are twice 16 states.
        let mut states =
            [0, 16].map(|from| unsafe { _mm512_loadu_si512(self.states[from..].as_ptr().cast()) });
        let (place_bits, slot_bits) =
            (_mm512_set1_epi32(0xFFF), _mm512_set1_epi32((TOTAL - 1).cast_signed()));
        let low = _mm512_set1_epi32(LOW.cast_signed());
        let escape = _mm512_set1_epi32(i32::from(ESCAPE));
        let mut done = 0;
        for (classes, out) in classes.as_chunks::<STATES>().0.iter().zip(out.as_chunks_mut::<STATES>().0) {
            let words = self.words.get(self.at..).and_then(|rest| rest.first_chunk::<{ 2 * STATES }>());
            let Some(words) = words else { break };
            // Both gathers before either is used.
            let found: [__m512i; 2] = std::array::from_fn(|half| {
                // SAFETY: 16 classes are read; their slots lie within the tables.
                unsafe {
                    let class = _mm512_cvtepu8_epi32(_mm_loadu_si128(classes[16 * half..].as_ptr().cast()));
                    let slot = _mm512_and_si512(states[half], slot_bits);
                    let index = _mm512_or_si512(_mm512_slli_epi32::<BITS>(class), slot);
                    _mm512_i32gather_epi32::<4>(index, slots.cast())
                }
            });
            let (mut next, mut escapes) = (0, 0);
            for (half, slot) in found.into_iter().enumerate() {
                let frequency = _mm512_and_si512(slot, place_bits);
                let place = _mm512_and_si512(_mm512_srli_epi32::<12>(slot), place_bits);
                let product = _mm512_mullo_epi32(frequency, _mm512_srli_epi32::<BITS>(states[half]));
                let lower = _mm512_add_epi32(product, place);
                let wants = _mm512_cmplt_epu32_mask(lower, low);
                // SAFETY: at most 16 words were taken by the first half, 16 more are there.
                let word = unsafe { _mm256_loadu_si256(words[next..].as_ptr().cast()) };
                let word = _mm512_maskz_expand_epi32(wants, _mm512_cvtepu16_epi32(word));
                let with_word = _mm512_or_si512(_mm512_slli_epi32::<16>(lower), word);
                states[half] = _mm512_mask_mov_epi32(lower, wants, with_word);
                next += 2 * wants.count_ones() as usize;
                let value = _mm512_srai_epi32::<24>(slot);
                escapes |= _mm512_cmpeq_epi32_mask(value, escape);
                // SAFETY: there is room for 16 values.
                unsafe {
                    let out = out[16 * half..].as_mut_ptr().cast();
                    _mm256_storeu_si256(out, _mm512_cvtepi32_epi16(value));
                }
            }
            self.at += next;
            if escapes != 0 {
                self.unescape(out);
            }
            done += STATES;
        }
        for (from, states) in [0, 16].into_iter().zip(states) {
            // SAFETY: there are twice 16 states.
            unsafe { _mm512_storeu_si512(self.states[from..].as_mut_ptr().cast(), states) };
        }
        done
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c,bmi2,popcnt")]
    fn rounds_avx2(&mut self, classes: &[u8], out: &mut [i16]) -> usize {
        use super::instructions::PLACES;
        use std::arch::x86_64::*;
        let slots = self.tables.slots().as_ptr();
        // SAFETY: there are four times eight states.
        let mut states =
            [0, 8, 16, 24].map(|from| unsafe { _mm256_loadu_si256(self.states[from..].as_ptr().cast()) });
        let (place_bits, slot_bits) =
            (_mm256_set1_epi32(0xFFF), _mm256_set1_epi32((TOTAL - 1).cast_signed()));
        let escape = _mm256_set1_epi32(i32::from(ESCAPE));
        let mut done = 0;
        for (classes, out) in classes.as_chunks::<STATES>().0.iter().zip(out.as_chunks_mut::<STATES>().0) {
            let words = self.words.get(self.at..).and_then(|rest| rest.first_chunk::<{ 2 * STATES }>());
            let Some(words) = words else { break };
            let found: [__m256i; 4] = std::array::from_fn(|part| {
                // SAFETY: eight classes are read; their slots lie within the tables.
                unsafe {
                    let class = _mm256_cvtepu8_epi32(_mm_loadl_epi64(classes[8 * part..].as_ptr().cast()));
                    let slot = _mm256_and_si256(states[part], slot_bits);
                    let index = _mm256_or_si256(_mm256_slli_epi32::<{ BITS.cast_signed() }>(class), slot);
                    _mm256_i32gather_epi32::<4>(slots.cast(), index)
                }
            });
            let mut next = 0;
            let mut escapes = _mm256_setzero_si256();
            for (part, slot) in found.into_iter().enumerate() {
                let frequency = _mm256_and_si256(slot, place_bits);
                let place = _mm256_and_si256(_mm256_srli_epi32::<12>(slot), place_bits);
                let above = _mm256_srli_epi32::<{ BITS.cast_signed() }>(states[part]);
                let lower = _mm256_add_epi32(_mm256_mullo_epi32(frequency, above), place);
                // Below 2^16: nothing in the upper half.
                let wants = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(lower), _mm256_setzero_si256());
                let mask = _mm256_movemask_ps(_mm256_castsi256_ps(wants)).cast_unsigned() as usize & 255;
                let places = i64::from_le_bytes(PLACES[mask]);
                let places = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(places));
                // SAFETY: at most 8 words were taken by each part before, 8 more are there.
                let word = unsafe { _mm_loadu_si128(words[next..].as_ptr().cast()) };
                let word = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(word), places);
                let with_word = _mm256_or_si256(_mm256_slli_epi32::<16>(lower), word);
                states[part] = _mm256_blendv_epi8(lower, with_word, wants);
                next += 2 * mask.count_ones() as usize;
                let value = _mm256_srai_epi32::<24>(slot);
                escapes = _mm256_or_si256(escapes, _mm256_cmpeq_epi32(value, escape));
                let halves =
                    _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256::<1>(value));
                // SAFETY: there is room for eight values.
                unsafe { _mm_storeu_si128(out[8 * part..].as_mut_ptr().cast(), halves) };
            }
            self.at += next;
            if _mm256_movemask_epi8(escapes) != 0 {
                self.unescape(out);
            }
            done += STATES;
        }
        for (from, states) in [0, 8, 16, 24].into_iter().zip(states) {
            // SAFETY: there are four times eight states.
            unsafe { _mm256_storeu_si256(self.states[from..].as_mut_ptr().cast(), states) };
        }
        done
    }

    /// Puts the values that stand beside in the places that say so.
    #[cold]
    fn unescape(&mut self, out: &mut [i16]) {
        for value in out.iter_mut().filter(|value| **value == i16::from(ESCAPE)) {
            *value = self.escape();
        }
    }

    fn escape(&mut self) -> i16 {
        match self.escaped.split_first_chunk::<2>() {
            Some((bytes, rest)) => {
                self.escaped = rest;
                i16::from_le_bytes(*bytes)
            }
            None => {
                self.overrun = true;
                i16::from(ESCAPE)
            }
        }
    }

    fn one_by_one(&mut self, classes: &[u8], out: &mut [i16]) {
        let slots = self.tables.slots();
        for (out, &class) in out.iter_mut().zip(classes) {
            let state = &mut self.states[self.turn % self.tables.states()];
            self.turn += 1;
            let slot = slots[usize::from(class) * TOTAL as usize + (*state & (TOTAL - 1)) as usize];
            let mut next = (slot & 0xFFF) * (*state >> BITS) + (slot >> 12 & 0xFFF);
            if next < LOW {
                let word = self.words.get(self.at..).and_then(|rest| rest.first_chunk::<2>());
                self.overrun |= word.is_none();
                self.at += 2;
                next = next << 16 | u32::from(u16::from_le_bytes(word.copied().unwrap_or_default()));
            }
            *state = next;
            let value = (slot >> 24) as u8 as i8;
            *out = if value == ESCAPE { self.escape() } else { i16::from(value) };
        }
    }

    /// Whether more was asked for than there is: what came last is not what was written.
    pub fn overrun(&self) -> bool {
        self.overrun
    }

    /// Whether exactly what was written has been read.
    ///
    /// # Errors
    /// When something is missing or left over.
    pub fn finish(self) -> Result<(), String> {
        if self.overrun || self.at != self.words.len() || !self.escaped.is_empty() {
            return Err("the coded values end early, or late".to_owned());
        }
        if self.states != [LOW; STATES] {
            return Err("the coded values do not end as they began".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rans::tests::{made_up, tables};
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_processor_reads_the_same_even_of_damage() {
        let tables = tables();
        let (classes, values) = made_up(5000);
        let good = tables.encode(&classes, &values);
        let read = |payload: &[u8], instructions, cut: usize| {
            let mut out = vec![0i16; values.len()];
            let mut decoder = tables.decoder(payload).unwrap();
            decoder.instructions = instructions;
            decoder.values(&classes[..cut], &mut out[..cut]);
            decoder.values(&classes[cut..], &mut out[cut..]);
            let states = decoder.states;
            (out, states, decoder.finish())
        };
        let mut random = Random::new(5, "damage", &[]);
        for round in 0..60 {
            let mut payload = good.clone();
            if round > 0 {
                // Behind the number of words: what is read goes wrong from there on, or ends early.
                let at = 4 + random.below(payload.len() - 4);
                payload[at] ^= 1 << random.below(8);
            }
            let cut = [0, 33, 1024, 4999][random.below(4)];
            let plain = read(&payload, Instructions::Plain, cut);
            assert!(round > 0 || (plain.0 == values && plain.2.is_ok()));
            for set in Instructions::all() {
                assert_eq!(read(&payload, set, cut), plain, "{set:?}");
            }
        }
    }
}
