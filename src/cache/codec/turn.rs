//! The way back from coordinates to channels: a product with the basis in whole numbers.
//!
//! The basis is kept as 16-bit numbers of one scale, and every row of coordinates becomes 16-bit numbers of a scale of its
//! own, both powers of two; products are summed in 32 bits. By Cauchy and Schwarz no sum, nor any part of one, is larger
//! than the row's norm times that of a channel's directions: the row's scale is the largest with which that fits. So nothing
//! overflows, the order of a sum does not matter, and every processor gives the same bits. What it costs is rounding: about
//! 3e-4 of a row's norm, where `klt:0.1` errs by 0.1.
//!
//! Most coordinates of `klt` are zero before the cosine transform is undone, which acts on time alone and may come last. Two
//! rows at a time go through a block of [`DEPTH`] components by [`PANEL`] channels, which lies in the first-level cache; of
//! the components only those where one of the two rows is not zero ([`Lists`]). The two rows are of one frequency, so that
//! they are zero at the same places more often than not.
//!
//! Less than [`NARROW`] channels and components cost little: they are turned in single precision, in one order of sums.

use super::cosine::{back, multiply};
use super::instructions::{Instructions, compiled};
use super::klt::BLOCK;
use super::pieces::Pieces;
use super::turn_kernel::{DEPTH, Lists, PANEL, Row, place, visits};

/// Rows that go through one panel of the basis after the other; their coordinates and sums lie in the second-level cache.
const GROUP: usize = 128;
/// Where there are fewer channels, and no more components, single precision serves.
const NARROW: usize = 256;
/// Bits of what is stored, without the sign.
const BITS: i32 = 15;
/// Largest exponent of a row's scale: a row that could have a larger one is as good as zero.
const MOST: i32 = 100;

/// What is done to channels before they are hidden states: the cosine transform is undone, the mean added.
struct Finish<'a> {
    instructions: Instructions,
    mean: &'a [f32],
    floor: f32,
    /// [time, frequency] of whole blocks, and of the last, which may be shorter.
    back: [Vec<f32>; 2],
}

impl Finish<'_> {
    /// Channels from `first` on of one block, [frequency, PANEL], which is overwritten, to `out`, [time, width].
    fn block(&self, values: &mut [[f32; PANEL]], first: usize, out: &mut [f32]) {
        let n = values.len();
        // Of one frame the transform changes nothing.
        if n > 1 {
            let whole = usize::from(self.back[0].len() != n * n);
            multiply(self.instructions, &self.back[whole], PANEL, values.as_flattened_mut());
        }
        for (values, out) in values.iter().zip(out.chunks_exact_mut(self.mean.len())) {
            settle(self.instructions, values, &self.mean[first..], self.floor, &mut out[first..]);
        }
    }
}

/// A basis laid out for the way back.
#[derive(Debug)]
pub(super) struct Turn {
    instructions: Instructions,
    width: usize,
    rank: usize,
    /// [panels, rank], the rank filled up with zeros to a multiple of [`DEPTH`]; empty where single precision serves.
    table: Vec<Row<i16>>,
    /// What is stored is the basis times 2^scale.
    scale: i32,
    /// Norm that a row may have so that no sum overflows.
    longest: f64,
}

/// What a thread keeps from call to call: half a megabyte.
#[derive(Default)]
struct Scratch {
    /// [two blocks of frames, rank]
    spectrum: Vec<f32>,
    lists: Lists,
    /// What a row's sums are multiplied by.
    factors: Vec<f32>,
    sums: Vec<Row<i32>>,
}

std::thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

/// 2^exponent; `exponent` within [-126, 127].
fn power(exponent: i32) -> f32 {
    f32::from_bits((exponent + 127).clamp(1, 254).cast_unsigned() << 23)
}

/// The largest exponent with 2^exponent <= `value`, which is positive and normal.
fn exponent(value: f64) -> i32 {
    i32::try_from(value.to_bits() >> 52 & 0x7FF).unwrap_or(0) - 1023
}

impl Turn {
    /// Of a basis [width, rank].
    pub(super) fn new(basis: &[f32], width: usize, rank: usize) -> Self {
        Self::with(Instructions::detect(), basis, width, rank)
    }

    fn with(instructions: Instructions, basis: &[f32], width: usize, rank: usize) -> Self {
        let mut turn = Self { instructions, width, rank, table: Vec::new(), scale: 0, longest: 0.0 };
        let largest = basis.iter().fold(0f32, |most, value| most.max(value.abs()));
        if width.max(rank) < NARROW || rank == 0 || !(1e-6..1e6).contains(&largest) {
            return turn;
        }
        turn.scale = BITS - 1 - exponent(f64::from(largest));
        // Only a value just below a power of two rounds to 2^15.
        let whole = |value: f32| {
            let scaled = (value * power(turn.scale)).round_ties_even().clamp(-32_767.0, 32_767.0);
            #[expect(clippy::cast_possible_truncation, reason = "a whole number of 16 bits")]
            let whole = scaled as i16;
            whole
        };
        let depth = rank.next_multiple_of(DEPTH);
        turn.table = vec![Row::default(); width.div_ceil(PANEL) * depth];
        let mut most = 0f64;
        for (channel, directions) in basis.chunks_exact(rank).enumerate() {
            let panel = &mut turn.table[channel / PANEL * depth..][..rank];
            let to = place(instructions, channel % PANEL);
            let mut square = 0f64;
            for (row, &value) in panel.iter_mut().zip(directions) {
                row.0[to] = whole(value);
                square += f64::from(row.0[to]).powi(2);
            }
            most = most.max(square);
        }
        // A row's values are rounded, each by a half at most.
        turn.longest = (f64::from(i32::MAX) / most.sqrt() - 0.5 * (rank as f64).sqrt()) * (1.0 - 1e-9);
        turn
    }

    /// `frames` frames of coordinates to channels, [frames, width], with the basis that this was made of. The coordinates
    /// come in blocks of `block` frames, the last may be shorter, each as `spectrum` gives it when it is called for one
    /// after the other: the orthonormal DCT-II over the block's frames, [frequency, rank]. Ends where there is none.
    pub(super) fn channels(
        &self,
        (basis, mean, floor): (&[f32], &[f32], f32),
        (frames, block): (usize, usize),
        mut spectrum: impl FnMut(&mut [f32]) -> Option<()>,
        pieces: &mut Pieces<'_>,
    ) -> Option<()> {
        let mut scratch = SCRATCH.take();
        let block = block.clamp(1, BLOCK);
        let back = [block, frames % block].map(back);
        let finish = &Finish { instructions: self.instructions, mean, floor, back };
        let group = GROUP / block * block;
        let all = (0..frames).step_by(group).try_for_each(|first| {
            let frames = group.min(frames - first);
            pieces.next(frames, self.width, |out| {
                if !self.table.is_empty() {
                    self.gather(frames, block, &mut spectrum, &mut scratch)?;
                    self.turn(block, finish, &mut scratch, out);
                    return Some(());
                }
                let rows = &mut scratch.spectrum;
                for out in out.chunks_mut((block * self.width).max(1)) {
                    rows.clear();
                    rows.resize(out.len() / self.width * self.rank, 0.0);
                    spectrum(rows)?;
                    self.in_single(basis, rows, finish, out);
                }
                Some(())
            })
        });
        SCRATCH.set(scratch);
        all
    }

    /// One block, [n, rank] to [n, width], in single precision.
    fn in_single(&self, basis: &[f32], rows: &[f32], finish: &Finish<'_>, out: &mut [f32]) {
        let rank = self.rank.max(1);
        let n = out.len() / self.width;
        for first in (0..self.width).step_by(PANEL) {
            let columns = PANEL.min(self.width - first);
            let mut values = [[0f32; PANEL]; BLOCK];
            for (values, row) in values.iter_mut().zip(rows.chunks_exact(rank)) {
                let directions = basis[first * self.rank..].chunks_exact(rank);
                for (value, direction) in values.iter_mut().take(columns).zip(directions) {
                    dot(self.instructions, row, direction, value);
                }
            }
            finish.block(&mut values[..n], first, out);
        }
    }

    /// Of the sums of a group's blocks, that of frequency 0 of block `number`; the other frequencies follow at every second.
    /// Two blocks in turn, so that two rows that are worked on together are of one frequency.
    fn first(number: usize, block: usize) -> usize {
        number / 2 * 2 * block + number % 2
    }

    /// Takes in the coordinates of `frames` frames.
    fn gather(
        &self,
        frames: usize,
        block: usize,
        spectrum: &mut impl FnMut(&mut [f32]) -> Option<()>,
        scratch: &mut Scratch,
    ) -> Option<()> {
        let Scratch { spectrum: rows, lists, factors, .. } = scratch;
        lists.clear();
        factors.clear();
        let side = block * self.rank;
        rows.resize(2 * side, 0.0);
        for start in (0..frames).step_by(2 * block) {
            for (number, rows) in rows.chunks_exact_mut(side).enumerate() {
                let n = block.min(frames.saturating_sub(start + number * block));
                let (rows, none) = rows.split_at_mut(n * self.rank);
                none.fill(0.0);
                if n > 0 {
                    spectrum(rows)?;
                }
            }
            let (first, second) = rows.split_at(side);
            for pair in first.chunks_exact(self.rank).zip(second.chunks_exact(self.rank)) {
                let pair = <[&[f32]; 2]>::from(pair);
                let scales = pair.map(|row| self.scale_of(row));
                lists.push(self.instructions, pair, scales.map(|scale| scale.map_or(0.0, power)));
                factors.extend(scales.map(|s| s.map_or(f32::NAN, |s| power(-s) * power(-self.scale))));
            }
        }
        Some(())
    }

    /// The exponent of a row's scale; `None` where it holds what is no number.
    fn scale_of(&self, row: &[f32]) -> Option<i32> {
        let (mut square, mut largest) = (0f64, 0f32);
        measure(self.instructions, row, &mut square, &mut largest);
        if !square.is_finite() {
            return None;
        }
        if largest < f32::MIN_POSITIVE {
            return Some(0);
        }
        let fits = exponent(self.longest / square.sqrt()).min(exponent(32_767.0 / f64::from(largest)));
        Some(fits.min(MOST))
    }

    /// Turns what was taken in; `out` is [frames, width].
    fn turn(&self, block: usize, finish: &Finish<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { lists, factors, sums, .. } = scratch;
        let blocks = self.rank.div_ceil(DEPTH);
        sums.resize(factors.len(), Row::default());
        let mut values = [[0f32; PANEL]; BLOCK];
        for (panel, first) in self.table.chunks_exact(blocks * DEPTH).zip((0..self.width).step_by(PANEL)) {
            for (number, table) in panel.as_chunks::<DEPTH>().0.iter().enumerate() {
                visits(self.instructions, lists, (number, blocks), table, sums);
            }
            for (number, out) in out.chunks_mut(block * self.width).enumerate() {
                let n = out.len() / self.width;
                let at = Self::first(number, block);
                for (frequency, values) in values.iter_mut().enumerate().take(n) {
                    let row = at + 2 * frequency;
                    scaled(self.instructions, &sums[row].0, factors[row], values);
                }
                finish.block(&mut values[..n], first, out);
            }
        }
    }
}

compiled!(measure, measure_body(row: &[f32], square: &mut f64, largest: &mut f32));
compiled!(scaled, scaled_body(sums: &[i32; PANEL], factor: f32, out: &mut [f32; PANEL]));
compiled!(dot, dot_body(first: &[f32], second: &[f32], out: &mut f32));
compiled!(settle, settle_body(values: &[f32; PANEL], mean: &[f32], floor: f32, out: &mut [f32]));

/// Values that are summed apart, so that the order is one whatever the vectors' width.
const LANES: usize = 16;

/// A row's squared norm and its largest value.
#[inline(always)]
fn measure_body(row: &[f32], square: &mut f64, largest: &mut f32) {
    // Four vectors of sums, so that additions need not wait for each other.
    let (mut squares, mut most) = ([0f64; 4 * LANES], [0f32; 4 * LANES]);
    for values in row.chunks(4 * LANES) {
        for ((square, most), value) in squares.iter_mut().zip(&mut most).zip(values) {
            *square += f64::from(*value) * f64::from(*value);
            *most = if value.abs() > *most { value.abs() } else { *most };
        }
    }
    *square = squares.iter().sum();
    *largest = most.into_iter().fold(0.0, f32::max);
}

#[inline(always)]
fn scaled_body(sums: &[i32; PANEL], factor: f32, out: &mut [f32; PANEL]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = *sum as f32 * factor;
    }
}

#[inline(always)]
fn dot_body(first: &[f32], second: &[f32], out: &mut f32) {
    let mut sums = [0f32; LANES];
    for (first, second) in first.chunks(LANES).zip(second.chunks(LANES)) {
        for ((sum, first), second) in sums.iter_mut().zip(first).zip(second) {
            *sum += first * second;
        }
    }
    *out = sums.iter().sum();
}

#[inline(always)]
fn settle_body(values: &[f32; PANEL], mean: &[f32], floor: f32, out: &mut [f32]) {
    for ((out, value), mean) in out.iter_mut().zip(values).zip(mean) {
        *out = (value + mean).max(floor);
    }
}

#[cfg(test)]
mod tests;
