//! The nearest of 256 centroids, the inner loop of [`super::pq`].

use super::instructions::{Instructions, compiled};
use crate::kernels::Matrix;

/// Centroids of a group: as many as a byte can name.
pub(super) const CENTROIDS: usize = 256;
/// Points that are looked at together.
const POINTS: usize = 128;
/// Products that are looked at side by side.
const LANES: usize = 16;

/// Finds the nearest centroid of a group's points.
#[derive(Debug)]
pub(super) struct Nearest {
    /// [dimensions, CENTROIDS]
    centroids: Matrix,
    /// Half their squared norms.
    halves: Vec<f32>,
    dimensions: usize,
    /// [dimensions], the centroids again, row by row.
    #[cfg(target_arch = "x86_64")]
    rows: Vec<[f32; CENTROIDS]>,
}

impl Nearest {
    /// Of centroids [CENTROIDS, dimensions].
    pub(super) fn new(centroids: &[f32], dimensions: usize) -> Self {
        let half = |c: &[f32]| c.iter().map(|v| v * v).sum::<f32>() / 2.0;
        let halves = centroids.chunks_exact(dimensions).map(half).collect();
        #[cfg(target_arch = "x86_64")]
        let rows = {
            let row = |d: usize| std::array::from_fn(|centroid| centroids[centroid * dimensions + d]);
            (0..dimensions).map(row).collect()
        };
        Self {
            centroids: Matrix::transposed(centroids, dimensions, CENTROIDS),
            halves,
            dimensions,
            #[cfg(target_arch = "x86_64")]
            rows,
        }
    }

    /// The nearest centroid of every point: that with the largest x c - |c|^2 / 2, the first of several.
    pub(super) fn codes(&self, instructions: Instructions, points: &[f32]) -> Vec<u8> {
        #[cfg(target_arch = "x86_64")]
        if let (Instructions::Avx512, Some(halves)) = (instructions, self.halves.first_chunk()) {
            // SAFETY: the instructions were detected.
            return unsafe { avx512::codes(&self.rows, halves, points) };
        }
        let mut codes = Vec::with_capacity(points.len() / self.dimensions);
        for points in points.chunks(POINTS * self.dimensions) {
            let mut products = self.centroids.multiply(points);
            for products in products.as_chunks_mut::<CENTROIDS>().0 {
                codes.push(largest(instructions, products, &self.halves));
            }
        }
        codes
    }
}

compiled!(largest, largest_body(products: &mut [f32; CENTROIDS], halves: &[f32]) -> u8);

/// Where product - half is largest, first; 0 where none is a number.
#[inline(always)]
fn largest_body(products: &mut [f32; CENTROIDS], halves: &[f32]) -> u8 {
    let mut best = [f32::NEG_INFINITY; LANES];
    for (products, halves) in
        products.as_chunks_mut::<LANES>().0.iter_mut().zip(halves.as_chunks::<LANES>().0)
    {
        for ((best, product), half) in best.iter_mut().zip(products).zip(halves) {
            *product -= half;
            *best = if *product > *best { *product } else { *best };
        }
    }
    let best = best.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The first of them, found without a branch a value.
    let mut first = [u32::MAX; LANES];
    for (code, products) in (0u32..).step_by(LANES).zip(products.as_chunks::<LANES>().0) {
        for (lane, (first, product)) in (0u32..).zip(first.iter_mut().zip(products)) {
            let own = if *product >= best { code + lane } else { u32::MAX };
            *first = (*first).min(own);
        }
    }
    u8::try_from(first.iter().copied().min().unwrap_or(0)).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::CENTROIDS;

    /// Points that meet a centroid while it is in a register.
    const TILE: usize = 4;

    /// See [`super::Nearest::codes`]; products are summed as [`super::Matrix`] does it, but stay in registers.
    #[target_feature(enable = "avx512f")]
    pub(super) fn codes(rows: &[[f32; CENTROIDS]], halves: &[f32; CENTROIDS], points: &[f32]) -> Vec<u8> {
        let dimensions = rows.len().max(1);
        let mut codes = Vec::with_capacity(points.len() / dimensions);
        let tiles = points.chunks_exact(TILE * dimensions);
        let rest = tiles.remainder().chunks_exact(dimensions);
        for points in tiles {
            codes.extend(tile::<TILE>(rows, halves, points));
        }
        for point in rest {
            codes.extend(tile::<1>(rows, halves, point));
        }
        codes
    }

    /// The codes of R points, [R, dimensions].
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tile<const R: usize>(rows: &[[f32; CENTROIDS]], halves: &[f32; CENTROIDS], points: &[f32]) -> [u8; R] {
        let mut points = points.chunks_exact(rows.len().max(1));
        let points: [&[f32]; R] = std::array::from_fn(|_| points.next().unwrap_or_default());
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut best = [_mm512_set1_ps(f32::NEG_INFINITY); R];
        let mut which = [_mm512_setzero_si512(); R];
        for (block, halves) in halves.as_chunks::<32>().0.iter().enumerate() {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            for (dimension, row) in rows.iter().enumerate() {
                let row = &row.as_chunks::<32>().0[block];
                // SAFETY: 16 values each.
                let centroids = [0, 16].map(|half| unsafe { _mm512_loadu_ps(row[half..].as_ptr()) });
                for (sums, point) in sums.iter_mut().zip(points) {
                    let value = _mm512_set1_ps(point[dimension]);
                    *sums = [0, 1].map(|half| _mm512_fmadd_ps(value, centroids[half], sums[half]));
                }
            }
            for half in [0, 1] {
                // SAFETY: 16 values.
                let halves = unsafe { _mm512_loadu_ps(halves[16 * half..].as_ptr()) };
                let place = i32::try_from(32 * block + 16 * half).unwrap_or(0);
                let codes = _mm512_add_epi32(_mm512_set1_epi32(place), lanes);
                for ((best, which), sums) in best.iter_mut().zip(&mut which).zip(sums) {
                    let found = _mm512_sub_ps(sums[half], halves);
                    // What comes first stays where what comes later is no larger.
                    let more = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(found, *best);
                    *best = _mm512_mask_mov_ps(*best, more, found);
                    *which = _mm512_mask_mov_epi32(*which, more, codes);
                }
            }
        }
        std::array::from_fn(|r| {
            let most = _mm512_set1_ps(_mm512_reduce_max_ps(best[r]));
            let there = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(best[r], most);
            u8::try_from(_mm512_mask_reduce_min_epi32(there, which[r])).unwrap_or(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_nearest_is_found_by_every_processor_and_the_first_of_several() {
        let mut random = Random::new(8, "nearest", &[]);
        for (count, dimensions) in [(0, 3), (1, 1), (9, 8), (131, 5), (3, 24)] {
            // Whole numbers, whose products are exact: there are ties.
            let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(5) as f32 - 2.0).collect() };
            let (centroids, points) = (draw(CENTROIDS * dimensions), draw(count * dimensions));
            let nearest = Nearest::new(&centroids, dimensions);
            let expected: Vec<u8> = points
                .chunks_exact(dimensions)
                .map(|point| {
                    let square = |c: &[f32]| c.iter().zip(point).map(|(c, p)| (c - p).powi(2)).sum::<f32>();
                    let distances: Vec<f32> = centroids.chunks_exact(dimensions).map(square).collect();
                    let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
                    u8::try_from(distances.iter().position(|&d| d == least).unwrap()).unwrap()
                })
                .collect();
            for set in Instructions::all() {
                assert_eq!(nearest.codes(set, &points), expected, "{set:?} {count} {dimensions}");
            }
            let points: Vec<f32> = (0..count * dimensions).map(|_| random.normal() as f32).collect();
            let centroids: Vec<f32> = (0..CENTROIDS * dimensions).map(|_| random.normal() as f32).collect();
            let nearest = Nearest::new(&centroids, dimensions);
            let best = nearest.codes(Instructions::detect(), &points);
            for set in Instructions::all() {
                assert_eq!(nearest.codes(set, &points), best, "{set:?} {count} {dimensions}");
            }
        }
    }
}
