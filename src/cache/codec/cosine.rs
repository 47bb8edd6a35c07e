//! The cosine transform over eight frames, and the way back from a quantised block.
//!
//! Sums are taken in one order, product by product, whatever the vectors' width: every processor gives the same bits.

use super::instructions::{Instructions, compiled};
use super::klt::BLOCK;

/// Columns that are worked on at once.
const COLUMNS: usize = 16;

/// DCT-II of length `n`, orthonormal, [frequency, time].
fn cosines(n: usize) -> Vec<f32> {
    let value = |frequency: usize, time: usize| {
        let norm = if frequency == 0 { 1.0 } else { 2f64 } / n as f64;
        let angle = std::f64::consts::PI * (time as f64 + 0.5) * frequency as f64 / n as f64;
        norm.sqrt() * angle.cos()
    };
    #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
    let all = (0..n).flat_map(|f| (0..n).map(move |t| (f, t))).map(|(f, t)| value(f, t) as f32).collect();
    all
}

/// The transposed matrix of `cosines`, [time, frequency].
pub(super) fn back(n: usize) -> Vec<f32> {
    let forward = cosines(n);
    (0..n * n).map(|at| forward[at % n * n + at / n]).collect()
}

/// The transform of every block of `values`, [frames, rank], in place.
pub(super) fn transform(values: &mut [f32], rank: usize) {
    let whole = cosines(BLOCK);
    for block in values.chunks_mut(BLOCK * rank.max(1)) {
        let n = block.len() / rank.max(1);
        let own = (n != BLOCK).then(|| cosines(n));
        multiply(Instructions::detect(), own.as_deref().unwrap_or(&whole), rank, block);
    }
}

/// How many steps from zero a quantised value comes back; 0 stays 0.
#[inline(always)]
pub(super) fn lifted(quantised: i16, [one, more]: [f32; 2]) -> f32 {
    let size = f32::from(quantised.unsigned_abs());
    if size > 1.0 { size + more } else { size * (1.0 + one) }
}

/// From quantised blocks to values.
#[derive(Debug)]
pub(super) struct Restorer {
    step: f32,
    lift: [f32; 2],
    rank: usize,
    whole: Vec<f32>,
    instructions: Instructions,
}

impl Restorer {
    /// Of a quantiser, for blocks of `rank` components.
    pub(super) fn new(step: f32, lift: [f32; 2], rank: usize) -> Self {
        Self { step, lift, rank, whole: back(BLOCK), instructions: Instructions::detect() }
    }

    /// `quantised`, [frequency, rank], to values, of a block of any length.
    pub(super) fn spectrum(&self, quantised: &[i16], out: &mut [f32]) {
        dequantise(self.instructions, quantised, self.lift, self.step, out);
    }

    /// `quantised`, [frequency, rank], to `out`, [time, rank]; both of one block, which may be shorter.
    pub(super) fn restore(&self, quantised: &[i16], out: &mut [f32]) {
        let n = out.len() / self.rank;
        let own = (n != BLOCK).then(|| back(n));
        self.spectrum(quantised, out);
        multiply(self.instructions, own.as_deref().unwrap_or(&self.whole), self.rank, out);
    }
}

compiled!(dequantise, dequantise_body(quantised: &[i16], lift: [f32; 2], step: f32, out: &mut [f32]));
compiled!(pub(super) multiply, multiply_body(matrix: &[f32], rank: usize, block: &mut [f32]));

#[inline(always)]
fn dequantise_body(quantised: &[i16], lift: [f32; 2], step: f32, out: &mut [f32]) {
    for (out, &q) in out.iter_mut().zip(quantised) {
        *out = (lifted(q, lift) * step).copysign(f32::from(q));
    }
}

/// block = matrix block; matrix [n, n], block [n, rank].
#[inline(always)]
fn multiply_body(matrix: &[f32], rank: usize, block: &mut [f32]) {
    let n = block.len() / rank.max(1);
    let mut first = 0;
    if let Some(matrix) = matrix.first_chunk::<{ BLOCK * BLOCK }>().filter(|_| n == BLOCK) {
        while first + COLUMNS <= rank {
            let mut columns = [[0f32; COLUMNS]; BLOCK];
            for (row, column) in columns.iter_mut().enumerate() {
                column.copy_from_slice(&block[row * rank + first..][..COLUMNS]);
            }
            for (row, factors) in matrix.as_chunks::<BLOCK>().0.iter().enumerate() {
                let mut sums = [0f32; COLUMNS];
                for (column, factor) in columns.iter().zip(factors) {
                    for (sum, value) in sums.iter_mut().zip(column) {
                        *sum += factor * value;
                    }
                }
                block[row * rank + first..][..COLUMNS].copy_from_slice(&sums);
            }
            first += COLUMNS;
        }
    }
    let mut column = vec![0f32; n];
    for at in first..rank {
        column.iter_mut().enumerate().for_each(|(row, value)| *value = block[row * rank + at]);
        for (row, factors) in matrix.chunks_exact(n.max(1)).enumerate() {
            let products = factors.iter().zip(&column).map(|(factor, value)| factor * value);
            block[row * rank + at] = products.fold(0.0, |sum, product| sum + product);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_processor_gives_the_same_bits_and_the_way_back_leads_back() {
        let mut random = Random::new(2, "cosine", &[]);
        for (n, rank) in [(8usize, 40usize), (8, 3), (8, 16), (5, 33), (1, 20)] {
            let quantised: Vec<i16> = (0..n * rank).map(|_| (random.normal() * 3.0) as i16).collect();
            let (lift, step) = ([0.02, -0.03], 0.7);
            let with = |set| {
                let mut out = vec![9f32; n * rank];
                dequantise(set, &quantised, lift, step, &mut out);
                multiply(set, &back(n), rank, &mut out);
                out
            };
            let plain = with(Instructions::Plain);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            for set in Instructions::all() {
                assert_eq!(bits(&with(set)), bits(&plain), "{set:?}");
            }
            let mut again = vec![0f32; n * rank];
            Restorer::new(step, lift, rank).restore(&quantised, &mut again);
            assert_eq!(bits(&again), bits(&plain));
            transform(&mut again, rank);
            for (value, &q) in again.iter().zip(&quantised) {
                let expected = f32::from(q.signum()) * lifted(q, lift) * step;
                assert!((value - expected).abs() < 1e-5, "{value} {expected}");
            }
        }
        assert_eq!([0, 1, -1, 5].map(|q| lifted(q, [0.25, -0.5])), [0.0, 1.25, 1.25, 4.5]);
    }
}
