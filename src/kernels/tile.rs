//! The inner product of every dense convolution: a tile of up to 14 rows and 32 columns.
//!
//! c[r, j] (+)= sum over k of a[k * step + r * row] * b[offset[k] + j]
//!
//! The tile stays in registers while k runs: per k it reads 32 values of b and one of a for every row,
//! for 64 FLOP a row. Compiled for AVX-512 and AVX2 with FMA and chosen at run time; elsewhere plain
//! loops. Every element is one sum in the order of k, whatever the threads.

/// Columns of a tile.
pub(super) const COLUMNS: usize = 32;
/// Columns of half a tile.
pub(super) const HALF: usize = COLUMNS / 2;
/// Rows of the largest tile: 28 of AVX-512's 32 registers hold it.
pub(super) const MAX_ROWS: usize = 14;

/// Where the rows of b begin, one entry a term of the sum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets<'a> {
    values: &'a [u32],
    reach: usize,
}

impl<'a> Offsets<'a> {
    pub(super) fn new(values: &'a [u32]) -> Self {
        Self { values, reach: values.iter().max().map_or(0, |&v| v as usize) }
    }

    /// The largest offset.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }
}

/// The left factor: value (k, r) lies at `k * step + r * row`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub values: &'a [f32],
    pub step: usize,
    pub row: usize,
    pub rows: usize,
}

/// Computes one tile into `c`, whose rows are `step` apart; adds to it, or overwrites it. With
/// `half`, only the first [`HALF`] columns.
///
/// # Safety
/// `c` must be valid for `rows` rows of [`COLUMNS`] values ([`HALF`] with `half`), and nobody else
/// may use them meanwhile.
pub(super) unsafe fn tile(
    a: Left,
    b: &[f32],
    offsets: Offsets,
    (c, step): (*mut f32, usize),
    add: bool,
    half: bool,
) {
    let terms = offsets.values.len();
    let last = terms.saturating_sub(1) * a.step + a.rows.saturating_sub(1) * a.row;
    assert!(a.rows <= MAX_ROWS && (terms == 0 || last < a.values.len()));
    assert!(terms == 0 || offsets.reach + COLUMNS <= b.len());
    let shape = Shape { a_step: a.step, a_row: a.row, c_step: step, add, half };
    // SAFETY: the asserts bound every read, the caller vouches for `c`.
    unsafe { dispatch(a.rows, a.values.as_ptr(), b.as_ptr(), offsets.values, c, shape) }
}

#[derive(Clone, Copy)]
struct Shape {
    a_step: usize,
    a_row: usize,
    c_step: usize,
    add: bool,
    half: bool,
}

/// Calls `$body::<R>` for the R that equals `$rows`.
macro_rules! by_rows {
    ($rows:expr, $body:ident $arguments:tt, $($count:literal)*) => {
        match $rows {
            $($count => unsafe { $body::<$count> $arguments },)*
            _ => {}
        }
    };
}

/// The widest version that the processor has.
unsafe fn dispatch(rows: usize, a: *const f32, b: *const f32, offsets: &[u32], c: *mut f32, shape: Shape) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            if shape.a_row != 1 {
                by_rows!(rows, wide_spread(a, b, offsets, c, shape), 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            } else if shape.half {
                by_rows!(rows, wide_half(a, b, offsets, c, shape), 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            } else {
                by_rows!(rows, wide(a, b, offsets, c, shape), 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            }
            return;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the feature was detected, the rest is the caller's.
            return unsafe { dispatch_narrow(rows, a, b, offsets, c, shape) };
        }
    }
    // SAFETY: the caller's.
    unsafe { dispatch_plain(rows, a, b, offsets, c, shape) }
}

/// # Safety
/// As for [`tile`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
unsafe fn dispatch_narrow(
    rows: usize,
    a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    narrow_blocks(rows, shape.half, |row, count, column| {
        // SAFETY: a part of the tile that the caller vouches for.
        let (a, b, c) =
            unsafe { (a.add(row * shape.a_row), b.add(column), c.add(row * shape.c_step + column)) };
        by_rows!(count, narrow(a, b, offsets, c, shape), 1 2 3 4 5 6);
    });
}

/// # Safety
/// As for [`tile`].
unsafe fn dispatch_plain(
    rows: usize,
    a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    narrow_blocks(rows, shape.half, |row, count, column| {
        // SAFETY: a part of the tile that the caller vouches for.
        let (a, b, c) =
            unsafe { (a.add(row * shape.a_row), b.add(column), c.add(row * shape.c_step + column)) };
        by_rows!(count, plain(a, b, offsets, c, shape), 1 2 3 4 5 6);
    });
}

/// Cuts a tile into blocks of up to 6 x 16 for processors with 16 registers.
fn narrow_blocks(rows: usize, half: bool, block: impl Fn(usize, usize, usize)) {
    for column in (0..if half { HALF } else { COLUMNS }).step_by(HALF) {
        for row in (0..rows).step_by(6) {
            block(row, (rows - row).min(6), column);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide<const R: usize>(a: *const f32, b: *const f32, offsets: &[u32], c: *mut f32, shape: Shape) {
    // SAFETY: the caller's.
    unsafe { wide_body::<R, 2, false>(a, b, offsets, c, shape) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide_half<const R: usize>(
    a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    // SAFETY: the caller's.
    unsafe { wide_body::<R, 1, false>(a, b, offsets, c, shape) }
}

/// Rows of a that lie apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide_spread<const R: usize>(
    a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    // SAFETY: the caller's.
    unsafe { wide_body::<R, 2, true>(a, b, offsets, c, shape) }
}

/// R rows of V registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn wide_body<const R: usize, const V: usize, const SPREAD: bool>(
    mut a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: `tile` has checked the bounds of a and b; c is the caller's.
    unsafe {
        for r in 0..R {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(r * shape.c_step + 16 * v).cast());
            }
        }
        for &offset in offsets {
            let row = b.add(offset as usize);
            let mut columns = [_mm512_setzero_ps(); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(row.add(16 * v));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.add(if SPREAD { r * shape.a_row } else { r }));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_fmadd_ps(factor, column, *sum);
                }
            }
            a = a.add(shape.a_step);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let at = c.add(r * shape.c_step + 16 * v);
                _mm512_storeu_ps(at, if shape.add { _mm512_add_ps(_mm512_loadu_ps(at), sum) } else { sum });
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn narrow<const R: usize>(
    mut a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: as in `wide`.
    unsafe {
        for &offset in offsets {
            let row = b.add(offset as usize);
            let (low, high) = (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = _mm256_set1_ps(*a.add(r * shape.a_row));
                sums[0] = _mm256_fmadd_ps(factor, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(factor, high, sums[1]);
            }
            a = a.add(shape.a_step);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (h, &sum) in sums.iter().enumerate() {
                let at = c.add(r * shape.c_step + 8 * h);
                _mm256_storeu_ps(at, if shape.add { _mm256_add_ps(_mm256_loadu_ps(at), sum) } else { sum });
            }
        }
    }
}

unsafe fn plain<const R: usize>(
    mut a: *const f32,
    b: *const f32,
    offsets: &[u32],
    c: *mut f32,
    shape: Shape,
) {
    let mut sums = [[0f32; 16]; R];
    // SAFETY: as in `wide`.
    unsafe {
        for &offset in offsets {
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = *a.add(r * shape.a_row);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum += factor * *b.add(offset as usize + j);
                }
            }
            a = a.add(shape.a_step);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let at = c.add(r * shape.c_step + j);
                *at = if shape.add { *at + sum } else { *sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    type Version = unsafe fn(usize, *const f32, *const f32, &[u32], *mut f32, Shape);

    /// Every version that this processor can run, for all heights, dense and spread rows, whole and half.
    #[test]
    fn all_versions_compute_the_definition() {
        let mut versions: Vec<(&str, Version)> = vec![("widest", dispatch), ("plain", dispatch_plain)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            versions.push(("narrow", dispatch_narrow));
        }
        let mut random = Random::new(1, "tile", &[]);
        let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
        let (a, b, before) = (draw(4000), draw(4000), draw(MAX_ROWS * 40));
        let offsets = [0u32, 7, 3, 100, 64, 65, 1, 900, 32, 5, 11];
        for (name, version) in versions {
            for rows in 1..=MAX_ROWS {
                for (a_step, a_row, half, add) in [
                    (rows, 1, false, false),
                    (rows, 1, true, true),
                    (2, 130, false, true),
                    (1, 1, false, true),
                ] {
                    let mut c = before.clone();
                    let shape = Shape { a_step, a_row, c_step: 40, add, half };
                    // SAFETY: 11 terms of 14 rows lie in `a`, offsets of 900 + 32 in `b`, 14 rows in `c`.
                    unsafe { version(rows, a.as_ptr(), b.as_ptr(), &offsets, c.as_mut_ptr(), shape) };
                    for (at, (&c, &before)) in c.iter().zip(&before).enumerate() {
                        let (r, j) = (at / 40, at % 40);
                        let inside = r < rows && j < if half { HALF } else { COLUMNS };
                        let term = |(k, &o): (usize, &u32)| {
                            f64::from(a[k * a_step + r * a_row]) * f64::from(b[o as usize + j])
                        };
                        let sum = || offsets.iter().enumerate().map(term).sum::<f64>();
                        let kept = if add || !inside { f64::from(before) } else { 0.0 };
                        let expected = if inside { kept + sum() } else { kept };
                        assert!((f64::from(c) - expected).abs() < 1e-4, "{name} {rows} {a_step} {r} {j}");
                    }
                }
            }
        }
    }
}
