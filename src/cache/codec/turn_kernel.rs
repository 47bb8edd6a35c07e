//! The inner loop of [`super::turn`]: two rows of whole numbers times a block of a basis.
//!
//! A component's 16-bit channels lie one behind the other. Two components' are interleaved in registers, pairs of products
//! are summed by one instruction (`vpdpwssd`, or `vpmaddwd` and an addition), 32 or 16 to a vector. The channels of 32, or
//! 16, in turn lie in such an order ([`place`]) that sums come out in theirs.

use super::instructions::Instructions;

/// Components of a block of the basis. With as many channels as a panel has it fills two thirds of a first-level cache.
pub(super) const DEPTH: usize = 128;
/// Channels of a panel.
pub(super) const PANEL: usize = 128;
/// Components that the inner loop takes at a time.
const TURN: usize = 4;

/// A panel's channels.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row<T>(pub(super) [T; PANEL]);

impl<T: Default + Copy> Default for Row<T> {
    fn default() -> Self {
        Self([T::default(); PANEL])
    }
}

/// Where a panel's channel lies in the table.
pub(super) fn place(instructions: Instructions, channel: usize) -> usize {
    let half = match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => 8,
        Instructions::Plain => return channel,
    };
    // Interleaving takes four of each eight, for the first half of the sums, and the other four for the second.
    let (part, at) = (channel % (2 * half) / half, channel % half);
    channel / (2 * half) * (2 * half) + at / 4 * 8 + part * 4 + at % 4
}

/// Pairs of rows without what is zero in both: of every block of components their places and the two rows' values.
#[derive(Default)]
pub(super) struct Lists {
    places: Vec<[u8; TURN]>,
    values: Vec<[[i16; TURN]; 2]>,
    /// Where each block of each pair ends.
    ends: Vec<usize>,
}

/// One block of a pair of rows.
type List<'a> = std::iter::Zip<std::slice::Iter<'a, [u8; TURN]>, std::slice::Iter<'a, [[i16; TURN]; 2]>>;

impl Lists {
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.values.clear();
        self.ends.clear();
    }

    /// Takes in two rows as whole numbers: times a factor each, which keeps them within 16 bits.
    pub(super) fn push(&mut self, instructions: Instructions, rows: [&[f32]; 2], factors: [f32; 2]) {
        for (first, second) in rows[0].chunks(DEPTH).zip(rows[1].chunks(DEPTH)) {
            let mut whole = [[0i16; DEPTH]; 2];
            round(instructions, first, factors[0], &mut whole[0]);
            round(instructions, second, factors[1], &mut whole[1]);
            let mut found = Found { places: [0; DEPTH], values: [[0; DEPTH]; 2] };
            let count = match instructions {
                // SAFETY: the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { avx512::find(&whole, &mut found) },
                _ => find(&whole, &mut found),
            };
            // What is left of the last turn names some component, with values of zero.
            let turns = count.div_ceil(TURN);
            for values in &mut found.values {
                values[count..turns * TURN].fill(0);
            }
            self.places.extend_from_slice(&found.places.as_chunks().0[..turns]);
            let [first, second] = found.values.each_ref().map(|values| &values.as_chunks().0[..turns]);
            self.values.extend(first.iter().zip(second).map(|(first, second)| [*first, *second]));
            self.ends.push(self.places.len());
        }
    }

    /// Block `number` of `blocks` of every pair in turn.
    #[inline(always)]
    fn of_block(&self, number: usize, blocks: usize) -> impl Iterator<Item = List<'_>> {
        let pairs = self.ends.len() / blocks.max(1);
        (0..pairs).map(move |pair| {
            let at = pair * blocks + number;
            let range = at.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[at];
            self.places[range.clone()].iter().zip(&self.values[range])
        })
    }
}

/// What is not zero of a block of two rows.
struct Found {
    places: [u8; DEPTH],
    values: [[i16; DEPTH]; 2],
}

/// Returns how many components there are.
fn find(rows: &[[i16; DEPTH]; 2], found: &mut Found) -> usize {
    let mut count = 0;
    for (place, (&first, &second)) in (0..=u8::MAX).zip(rows[0].iter().zip(&rows[1])) {
        // No branch: what is zero is written over.
        found.places[count] = place;
        found.values[0][count] = first;
        found.values[1][count] = second;
        count += usize::from(first | second != 0);
    }
    count
}

super::instructions::compiled!(round, round_body(row: &[f32], factor: f32, out: &mut [i16; DEPTH]));

/// Nearest whole numbers of up to 16 bits, ties to even.
#[inline(always)]
fn round_body(row: &[f32], factor: f32, out: &mut [i16; DEPTH]) {
    // 1.5 * 2^23: behind it a number's low bits are those of its whole part.
    const ROUND: f32 = 12_582_912.0;
    for (out, value) in out.iter_mut().zip(row) {
        let [low, high, ..] = (value * factor + ROUND).to_bits().to_le_bytes();
        *out = i16::from_le_bytes([low, high]);
    }
}

/// Adds the products of block `number` of `blocks` of the listed pairs of rows with that block of a panel to the pairs' sums;
/// the first block's take the place of what is there.
pub(super) fn visits(
    instructions: Instructions,
    lists: &Lists,
    (number, blocks): (usize, usize),
    table: &[Row<i16>; DEPTH],
    sums: &mut [Row<i32>],
) {
    let pairs = lists.of_block(number, blocks).zip(sums.as_chunks_mut::<2>().0);
    let add = number > 0;
    match instructions {
        // SAFETY: the instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { avx512::visits(pairs, table, add) },
        // SAFETY: the instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { avx2::visits(pairs, table, add) },
        Instructions::Plain => pairs.for_each(|(list, sums)| plain(list, table, add, sums)),
    }
}

/// One pair of rows.
fn plain(list: List<'_>, table: &[Row<i16>; DEPTH], add: bool, rows: &mut [Row<i32>; 2]) {
    /// Channels whose sums stay in registers.
    const FEW: usize = 16;
    for from in 0..PANEL / FEW {
        let mut sums = [[0i32; FEW]; 2];
        if add {
            for (sums, row) in sums.iter_mut().zip(rows.iter()) {
                *sums = row.0.as_chunks().0[from];
            }
        }
        for (places, [first, second]) in list.clone() {
            for ((&place, &first), &second) in places.iter().zip(first).zip(second) {
                let factors: &[i16; FEW] = &table[usize::from(place) % DEPTH].0.as_chunks().0[from];
                let (first, second) = (i32::from(first), i32::from(second));
                for (at, &factor) in factors.iter().enumerate() {
                    sums[0][at] += i32::from(factor) * first;
                    sums[1][at] += i32::from(factor) * second;
                }
            }
        }
        for (sums, row) in sums.into_iter().zip(rows.iter_mut()) {
            row.0.as_chunks_mut().0[from] = sums;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{DEPTH, Found, List, PANEL, Row};

    /// Vectors of 16 sums.
    const VECTORS: usize = PANEL / 16;

    /// Adds the products of two pairs of 16 bits to each sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add_products(sums: &mut __m512i, channels: __m512i, values: __m512i) {
        // SAFETY: as the intrinsic _mm512_dpwssd_epi32, of which the compiler makes a multiplication and an addition where
        // one follows another; they take twice the slots.
        unsafe {
            asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) *sums, in(zmm_reg) channels, in(zmm_reg) values,
                options(pure, nomem, nostack, preserves_flags));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn visits<'a>(
        pairs: impl Iterator<Item = (List<'a>, &'a mut [Row<i32>; 2])>,
        table: &[Row<i16>; DEPTH],
        add: bool,
    ) {
        for (list, rows) in pairs {
            let mut sums = [[_mm512_setzero_si512(); VECTORS]; 2];
            if add {
                for (sums, row) in sums.iter_mut().zip(rows.iter()) {
                    for (at, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: 16 values.
                        *sums = unsafe { _mm512_load_si512(row.0[16 * at..].as_ptr().cast()) };
                    }
                }
            }
            for (places, values) in list {
                for half in [0, 2] {
                    let [first, second] =
                        [places[half], places[half + 1]].map(|p| &table[usize::from(p) % DEPTH].0);
                    let values = [0, 1].map(|row: usize| {
                        // SAFETY: two of four values.
                        _mm512_set1_epi32(unsafe {
                            values[row][half..].as_ptr().cast::<i32>().read_unaligned()
                        })
                    });
                    for at in 0..VECTORS / 2 {
                        // SAFETY: 32 values each.
                        let [first, second] = [first, second]
                            .map(|row| unsafe { _mm512_load_si512(row[32 * at..].as_ptr().cast()) });
                        let (low, high) =
                            (_mm512_unpacklo_epi16(first, second), _mm512_unpackhi_epi16(first, second));
                        for (sums, values) in sums.iter_mut().zip(values) {
                            add_products(&mut sums[2 * at], low, values);
                            add_products(&mut sums[2 * at + 1], high, values);
                        }
                    }
                }
            }
            for (row, sums) in rows.iter_mut().zip(sums) {
                for (at, sums) in sums.into_iter().enumerate() {
                    // SAFETY: room for 16 values.
                    unsafe { _mm512_store_si512(row.0[16 * at..].as_mut_ptr().cast(), sums) };
                }
            }
        }
    }

    /// See [`super::find`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2")]
    pub(super) fn find(rows: &[[i16; DEPTH]; 2], found: &mut Found) -> usize {
        let mut places: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap_or(0));
        let mut count = 0;
        for from in (0..DEPTH).step_by(32) {
            // SAFETY: 32 values each.
            let values = [0, 1].map(|row| unsafe { _mm512_loadu_si512(rows[row][from..].as_ptr().cast()) });
            let mask =
                _mm512_test_epi16_mask(values[0], values[0]) | _mm512_test_epi16_mask(values[1], values[1]);
            let mut next = [[0i16; 32]; 2];
            let mut next_places = [0u8; 32];
            // SAFETY: room for 32 values each.
            unsafe {
                for (next, values) in next.iter_mut().zip(values) {
                    _mm512_storeu_si512(next.as_mut_ptr().cast(), _mm512_maskz_compress_epi16(mask, values));
                }
                let all = _mm256_loadu_si256(places.as_ptr().cast());
                _mm256_storeu_si256(next_places.as_mut_ptr().cast(), _mm256_maskz_compress_epi8(mask, all));
            }
            // At most `from` were found, so that there is room for 32 more.
            found.places[count..count + 32].copy_from_slice(&next_places);
            for (found, next) in found.values.iter_mut().zip(next) {
                found[count..count + 32].copy_from_slice(&next);
            }
            count += mask.count_ones() as usize;
            places.iter_mut().for_each(|place| *place = place.wrapping_add(32));
        }
        count
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{DEPTH, List, PANEL, Row};

    /// Vectors of eight sums that are worked on at once: of two rows they and their factors fill the registers.
    const VECTORS: usize = 4;

    #[target_feature(enable = "avx2")]
    pub(super) fn visits<'a>(
        pairs: impl Iterator<Item = (List<'a>, &'a mut [Row<i32>; 2])>,
        table: &[Row<i16>; DEPTH],
        add: bool,
    ) {
        for (list, rows) in pairs {
            for from in (0..PANEL).step_by(8 * VECTORS) {
                let mut sums = [[_mm256_setzero_si256(); VECTORS]; 2];
                if add {
                    for (sums, row) in sums.iter_mut().zip(rows.iter()) {
                        for (at, sums) in sums.iter_mut().enumerate() {
                            // SAFETY: eight values.
                            *sums = unsafe { _mm256_load_si256(row.0[from + 8 * at..].as_ptr().cast()) };
                        }
                    }
                }
                for (places, values) in list.clone() {
                    for half in [0, 2] {
                        let [first, second] =
                            [places[half], places[half + 1]].map(|p| &table[usize::from(p) % DEPTH].0);
                        let values = [0, 1].map(|row: usize| {
                            // SAFETY: two of four values.
                            _mm256_set1_epi32(unsafe {
                                values[row][half..].as_ptr().cast::<i32>().read_unaligned()
                            })
                        });
                        for at in 0..VECTORS / 2 {
                            // SAFETY: 16 values each.
                            let [first, second] = [first, second].map(|row| unsafe {
                                _mm256_load_si256(row[from + 16 * at..].as_ptr().cast())
                            });
                            let both =
                                [_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)];
                            for (sums, values) in sums.iter_mut().zip(values) {
                                for (part, channels) in both.into_iter().enumerate() {
                                    let sum = &mut sums[2 * at + part];
                                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(channels, values));
                                }
                            }
                        }
                    }
                }
                for (row, sums) in rows.iter_mut().zip(sums) {
                    for (at, sums) in sums.into_iter().enumerate() {
                        // SAFETY: room for eight values.
                        unsafe { _mm256_store_si256(row.0[from + 8 * at..].as_mut_ptr().cast(), sums) };
                    }
                }
            }
        }
    }
}
