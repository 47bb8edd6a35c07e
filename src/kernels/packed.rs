//! Products with a matrix that is laid out once, in the order in which the inner loop reads it: the few rows of a
//! recurrent step, which meet the same matrix at every step, and the many rows of a batch.
//!
//! 2 rows k n FLOP and 4 k n bytes of the matrix for every call: with 8 rows 4 FLOP a byte, so that a matrix larger
//! than the second-level cache (512 x 2048: 4 MiB) costs the third level 66 GB/s at 260 GFLOP/s; from 16 rows on
//! arithmetic alone is the bound.

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use rayon::prelude::*;

use super::lanes::{Lanes, Portable, Width};

/// Rows of the matrix that a pass takes: so many values of each left row stay in the first-level cache.
const DEPTH: usize = 512;
/// Columns of a transposed left matrix that one thread takes at a time.
const ROWS: usize = 128;

/// A matrix [k, n] in blocks of [`DEPTH`] rows, each in panels of two vectors' columns, each row by row; columns
/// beyond n are zero.
pub(super) struct Packed {
    values: Vec<f32>,
    k: usize,
    n: usize,
    width: Width,
}

/// Where the left values lie: row r of tile i at inner index k is `i * tile + r * row + k * step`; a tile has
/// [`Width::rows`] rows.
#[derive(Clone, Copy)]
struct Left {
    tile: usize,
    row: usize,
    step: usize,
}

/// Where a product goes.
pub(super) struct Out<'a> {
    /// From the first row's first column on.
    pub values: &'a mut [f32],
    /// Values from row to row.
    pub stride: usize,
    /// Add to what is there.
    pub accumulate: bool,
}

impl Packed {
    /// Lays out the matrix whose row `i` is `row(i)`, [n], or zero.
    pub(super) fn from_rows<'a>(
        k: usize,
        n: usize,
        width: Width,
        row: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Self {
        let mut packed = Self::zeros(k, n, width);
        packed.fill(row);
        packed
    }

    /// The same in the place of another matrix of this size.
    fn fill<'a>(&mut self, row: impl Fn(usize) -> Option<&'a [f32]>) {
        let panel = 2 * self.width.lanes();
        for i in 0..self.k {
            let row = row(i);
            for (first, start) in (0..self.n).step_by(panel).enumerate() {
                let columns = panel.min(self.n - start);
                let at = self.at(i, first);
                let to = &mut self.values[at..at + columns];
                match row {
                    Some(row) => to.copy_from_slice(&row[start..start + columns]),
                    None => to.fill(0.0),
                }
            }
        }
    }

    /// Lays out the transpose of `source` [n, k].
    pub(super) fn transposed(source: &[f32], k: usize, n: usize, width: Width) -> Self {
        let mut packed = Self::zeros(k, n, width);
        let panel = 2 * width.lanes();
        // Sixteen rows at a time: what is written stays in the first-level cache until its line is full.
        for (first, columns) in source.chunks(panel * k.max(1)).enumerate() {
            for start in (0..k).step_by(16) {
                for (column, source) in columns.chunks_exact(k).enumerate() {
                    let at = packed.at(start, first) + column;
                    for (row, value) in source[start..k.min(start + 16)].iter().enumerate() {
                        packed.values[at + row * panel] = *value;
                    }
                }
            }
        }
        packed
    }

    fn zeros(k: usize, n: usize, width: Width) -> Self {
        Self { values: vec![0f32; k * n.next_multiple_of(2 * width.lanes())], k, n, width }
    }

    /// Place of row `i` in panel `first`.
    fn at(&self, i: usize, first: usize) -> usize {
        let panel = 2 * self.width.lanes();
        let block = i / DEPTH;
        let depth = DEPTH.min(self.k - block * DEPTH);
        block * DEPTH * self.n.next_multiple_of(panel) + (first * depth + i % DEPTH) * panel
    }

    /// out[r, ..n] = left[r, ..k] * matrix for `rows` rows of `left`, `stride` values apart. Every row is computed
    /// alike, whatever the others and however many: sums over [`DEPTH`] products each, added in order.
    pub(super) fn multiply(&self, rows: usize, left: &[f32], stride: usize, mut out: Out<'_>) {
        let accumulate = out.accumulate;
        for start in (0..self.k).step_by(DEPTH) {
            out.accumulate = accumulate || start > 0;
            let layout = Left { tile: self.width.rows() * stride, row: stride, step: 1 };
            self.block(start, rows, left.get(start..).unwrap_or_default(), layout, &mut out);
        }
    }

    /// out[r, ..n] = sum over k of left[k, first + r] * matrix[k, ..n] for r < `rows`: the product with the
    /// transpose of `left` [k, stride], of a matrix of one block. `copy` is room that is used again.
    fn multiply_transposed(
        &self,
        rows: usize,
        (left, stride, first): (&[f32], usize, usize),
        copy: &mut Vec<f32>,
        mut out: Out<'_>,
    ) {
        let tile = self.width.rows();
        // Apart, so that the tiles do not fall into the same lines of the cache.
        let layout = Left { tile: self.k * tile + 16, row: 1, step: tile };
        copy.resize(rows.div_ceil(tile) * layout.tile, 0.0);
        for (k, row) in left.chunks(stride).take(self.k).enumerate() {
            let row = &row[first..first + rows];
            match tile {
                8 => tiles::<8>(row, &mut copy[k * tile..], layout.tile),
                6 => tiles::<6>(row, &mut copy[k * tile..], layout.tile),
                _ => tiles::<2>(row, &mut copy[k * tile..], layout.tile),
            }
        }
        self.block(0, rows, copy, layout, &mut out);
    }

    /// The part of a product that the rows of the matrix from `start` on give.
    fn block(&self, start: usize, rows: usize, left: &[f32], layout: Left, out: &mut Out<'_>) {
        match self.width {
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { wide(self, start, rows, left, layout, out) },
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => unsafe { narrow(self, start, rows, left, layout, out) },
            Width::Portable => block::<Portable>(self, start, rows, left, layout, out),
        }
    }
}

/// Cuts a row into pieces of R values, `apart` from one another.
#[inline(always)]
fn tiles<const R: usize>(row: &[f32], to: &mut [f32], apart: usize) {
    let (whole, rest) = row.as_chunks::<R>();
    for (piece, to) in whole.iter().zip(to.chunks_mut(apart)) {
        to[..R].copy_from_slice(piece);
    }
    if let Some(to) = to.get_mut(whole.len() * apart..).filter(|_| !rest.is_empty()) {
        to[..rest.len()].copy_from_slice(rest);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn wide(matrix: &Packed, start: usize, rows: usize, left: &[f32], layout: Left, out: &mut Out<'_>) {
    block::<Avx512>(matrix, start, rows, left, layout, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrow(matrix: &Packed, start: usize, rows: usize, left: &[f32], layout: Left, out: &mut Out<'_>) {
    block::<Avx2>(matrix, start, rows, left, layout, out);
}

#[inline(always)]
fn block<V: Lanes>(
    matrix: &Packed,
    start: usize,
    rows: usize,
    left: &[f32],
    layout: Left,
    out: &mut Out<'_>,
) {
    let panel = 2 * V::WIDTH;
    let depth = DEPTH.min(matrix.k - start);
    let begin = matrix.at(start, 0);
    let panels = matrix.values[begin..].chunks_exact(depth * panel);
    for (first, values) in (0..matrix.n).step_by(panel).zip(panels) {
        let columns = panel.min(matrix.n - first);
        for row in (0..rows).step_by(V::ROWS) {
            let count = V::ROWS.min(rows - row);
            let left = &left[row / V::ROWS * layout.tile..];
            let at = row * out.stride + first;
            // The last panel of a matrix whose columns do not fill it goes through a copy.
            let mut edge = [0f32; 8 * 32];
            let whole = columns == panel;
            let (to, stride) =
                if whole { (&mut out.values[at..], out.stride) } else { (&mut edge[..], panel) };
            let accumulate = out.accumulate && whole;
            macro_rules! tile {
                ($($count:literal)*) => {
                    match count {
                        $($count => tile::<V, $count>(values, left, layout, to, stride, accumulate),)*
                        _ => {}
                    }
                };
            }
            tile!(1 2 3 4 5 6 7 8);
            if !whole {
                for (r, edge) in edge.chunks_exact(panel).take(count).enumerate() {
                    let to = &mut out.values[at + r * out.stride..][..columns];
                    for (to, &value) in to.iter_mut().zip(edge) {
                        *to = if out.accumulate { *to + value } else { value };
                    }
                }
            }
        }
    }
}

/// R rows by two vectors, kept in registers over the panel's depth.
#[inline(always)]
fn tile<V: Lanes, const R: usize>(
    panel: &[f32],
    left: &[f32],
    layout: Left,
    out: &mut [f32],
    stride: usize,
    accumulate: bool,
) {
    let depth = panel.len() / (2 * V::WIDTH);
    assert!(depth > 0 && (R - 1) * layout.row + (depth - 1) * layout.step < left.len());
    assert!((R - 1) * stride + 2 * V::WIDTH <= out.len());
    let mut sums = [[V::splat(0.0); 2]; R];
    // SAFETY: the greatest offsets were asserted above.
    unsafe {
        let (mut panel, mut left) = (panel.as_ptr(), left.as_ptr());
        for _ in 0..depth {
            let matrix = [V::load(panel), V::load(panel.add(V::WIDTH))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*left.add(r * layout.row));
                *sums = [value.multiply_add(matrix[0], sums[0]), value.multiply_add(matrix[1], sums[1])];
            }
            panel = panel.add(2 * V::WIDTH);
            left = left.wrapping_add(layout.step);
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = out.as_mut_ptr().add(r * stride);
            for (half, sum) in sums.iter().enumerate() {
                let out = out.add(half * V::WIDTH);
                let sum = if accumulate { V::load(out).add(*sum) } else { *sum };
                sum.store(out);
            }
        }
    }
}

/// left^T * right, [m, n], of `left` [k, m] and the matrix [k, n] whose row `i` is `row(i)`, or zero. One block of rows
/// after the other, on all threads.
pub(super) fn transposed_product<'a>(
    left: &[f32],
    [k, m, n]: [usize; 3],
    width: Width,
    row: impl Fn(usize) -> Option<&'a [f32]>,
) -> Vec<f32> {
    let mut product = vec![0f32; m * n];
    let mut packed = Packed::zeros(0, n, width);
    for start in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - start);
        if packed.k != depth {
            packed = Packed::zeros(depth, n, width);
        }
        packed.fill(|i| row(start + i));
        let blocks = product.par_chunks_mut((ROWS * n).max(1)).enumerate();
        blocks.for_each_init(Vec::new, |copy, (block, product)| {
            let rows = product.len() / n;
            let out = Out { values: product, stride: n, accumulate: start > 0 };
            packed.multiply_transposed(rows, (&left[start * m..], m, block * ROWS), copy, out);
        });
    }
    product
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "tests are of f32 values")]

    use super::*;
    use crate::random::Random;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "packed", &[]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    /// Largest difference to the product in f64, beyond what is added to.
    fn off(found: &[f32], [m, n, k]: [usize; 3], value: impl Fn(usize, usize, usize) -> f64) -> f64 {
        let exact = |i: usize| (0..k).map(|l| value(i / n, i % n, l)).sum::<f64>();
        assert_eq!(found.len(), m * n);
        found.iter().enumerate().map(|(i, &f)| (f64::from(f) - exact(i)).abs()).fold(0.0, f64::max)
    }

    /// Sizes below, at and beyond those of tiles, panels and blocks.
    #[test]
    fn products_are_those_of_the_definition() {
        let widths = super::super::lanes::widths();
        for [m, n, k] in [[1, 1, 1], [8, 32, 512], [9, 33, 513], [13, 70, 40], [300, 5, 1030], [2, 31, 511]] {
            let (left, right, turned) = (noise(m * k, 1), noise(k * n, 2), noise(k * m, 3));
            let tolerance = 2e-5 * (k as f64).sqrt();
            for &width in &widths {
                let name = format!("{width:?} {m} {n} {k}");
                let rows = |i: usize| Some(&right[i * n..(i + 1) * n]);
                let right_at = |l: usize, c: usize| f64::from(right[l * n + c]);
                // Rows of the left side and of the product that lie apart, added to what is there.
                let wide: Vec<f32> =
                    left.chunks_exact(k).flat_map(|row| [row, &[f32::NAN; 3]].concat()).collect();
                let mut product = vec![1f32; m * (n + 2)];
                let packed = Packed::from_rows(k, n, width, rows);
                let out = Out { values: &mut product, stride: n + 2, accumulate: true };
                packed.multiply(m, &wide, k + 3, out);
                let gaps = product.chunks_exact(n + 2).flat_map(|row| &row[n..]);
                assert!(gaps.copied().all(|v| v == 1.0), "{name}");
                let product: Vec<f32> =
                    product.chunks_exact(n + 2).flat_map(|row| &row[..n]).map(|v| v - 1.0).collect();
                let at = |r: usize, c: usize, l: usize| f64::from(left[r * k + l]) * right_at(l, c);
                assert!(off(&product, [m, n, k], at) < tolerance, "{name}");

                let columns: Vec<f32> = (0..n * k).map(|i| right[i % k * n + i / k]).collect();
                let mut again = vec![f32::NAN; m * n];
                let packed = Packed::transposed(&columns, k, n, width);
                packed.multiply(m, &left, k, Out { values: &mut again, stride: n, accumulate: false });
                assert!(off(&again, [m, n, k], at) < tolerance, "{name} transposed");

                // A row that is zero.
                let product = transposed_product(&turned, [k, m, n], width, |i| rows(i).filter(|_| i != 3));
                let at = |r: usize, c: usize, l: usize| {
                    if l == 3 { 0.0 } else { f64::from(turned[l * m + r]) * right_at(l, c) }
                };
                assert!(off(&product, [m, n, k], at) < tolerance, "{name} left transposed");
            }
        }
    }
}
