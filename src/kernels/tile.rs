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
            return narrow_blocks(rows, shape.half, |row, count, column| {
                // SAFETY: a part of the tile that the caller vouches for.
                let (a, b, c) =
                    unsafe { (a.add(row * shape.a_row), b.add(column), c.add(row * shape.c_step + column)) };
                by_rows!(count, narrow(a, b, offsets, c, shape), 1 2 3 4 5 6);
            });
        }
    }
    narrow_blocks(rows, shape.half, |row, count, column| {
        // SAFETY: as above.
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
            for v in 0..V {
                columns[v] = _mm512_loadu_ps(row.add(16 * v));
            }
            for r in 0..R {
                let factor = _mm512_set1_ps(*a.add(if SPREAD { r * shape.a_row } else { r }));
                for v in 0..V {
                    sums[r][v] = _mm512_fmadd_ps(factor, columns[v], sums[r][v]);
                }
            }
            a = a.add(shape.a_step);
        }
        for r in 0..R {
            for v in 0..V {
                let at = c.add(r * shape.c_step + 16 * v);
                let sum = sums[r][v];
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
            for r in 0..R {
                let factor = _mm256_set1_ps(*a.add(r * shape.a_row));
                sums[r][0] = _mm256_fmadd_ps(factor, low, sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(factor, high, sums[r][1]);
            }
            a = a.add(shape.a_step);
        }
        for r in 0..R {
            for h in 0..2 {
                let at = c.add(r * shape.c_step + 8 * h);
                let sum = sums[r][h];
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
