//! A matrix of weights times strips of rows that lie in a larger array: what a convolution is once
//! every tap knows where it reads.
//!
//! target[to + m * row + j] = sum over k of weights[term[k] + m * weight_row] * source[from + offset[k] + j]
//!
//! for every strip (from, to, columns) and j < columns, over those k that the strip names. Nothing is unrolled in memory (no im2col):
//! a tap is an offset into the padded input. Traffic: the weights once for every chunk of columns,
//! the input once for every 512 rows.

use rayon::prelude::*;

use super::scratch::Scratch;
use super::tile::{COLUMNS, HALF, Left, MAX_ROWS, Offsets, tile};

/// Terms of the sum that are handled at once: their 32 columns stay close, and a tile is stored seldom.
const TERMS: usize = 512;
/// Weights of at most so many values are packed once, for all tasks; larger ones by each task for its rows,
/// so that they pass through memory once.
const PACKED: usize = 2 << 20;
/// Rows of one task, so that its packed weights stay in the second-level cache.
const BLOCK_ROWS: usize = 512;
/// Tiles of the result that one task computes, about; the tasks are cut alike whatever the threads.
const TASK_TILES: usize = 160;

/// Neighbouring columns of the result that read neighbouring values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strip {
    pub from: usize,
    pub to: usize,
    pub columns: usize,
    /// First and end of the terms that can differ from zero here; at least one.
    pub terms: (usize, usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub rows: usize,
    pub weights: &'a [f32],
    pub weight_row: usize,
    pub terms: &'a [u32],
    pub offsets: &'a [u32],
    pub strips: &'a [Strip],
    pub target_row: usize,
    /// Copy the values under a tile together before its use: for offsets that lie far apart.
    pub gather: bool,
}

/// A pointer that tasks share; they write to different places.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);
// SAFETY: whoever writes through it says why the places differ.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// `count` values that are written before they are read.
///
/// # Safety
/// `fill` must write every value.
pub(super) unsafe fn filled(count: usize, fill: impl FnOnce(Shared)) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    fill(Shared(values.as_mut_ptr()));
    // SAFETY: the capacity is there, and the caller has vouched for the values.
    unsafe { values.set_len(count) };
    values
}

std::thread_local! {
    /// Packed weights and columns of this thread.
    static SCRATCH: std::cell::RefCell<(Vec<f32>, Vec<f32>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
}

/// Rows cut into tiles of nearly equal height: (first, count).
pub(super) fn tile_rows(rows: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let tiles = rows.div_ceil(MAX_ROWS);
    (0..tiles).map(move |i| (i * rows / tiles, (i + 1) * rows / tiles - i * rows / tiles))
}

impl Product<'_> {
    /// Computes all strips.
    ///
    /// # Safety
    /// `target` must be valid for what the strips and rows reach, each place reached once.
    pub(super) unsafe fn run(&self, source: &[f32], target: Shared) {
        let columns: Vec<Strip> = self
            .strips
            .iter()
            .flat_map(|s| {
                (0..s.columns).step_by(COLUMNS).map(move |j| Strip {
                    from: s.from + j,
                    to: s.to + j,
                    columns: (s.columns - j).min(COLUMNS),
                    terms: s.terms,
                })
            })
            .collect();
        let rows: Vec<(usize, usize)> = tile_rows(self.rows).collect();
        if columns.is_empty() || rows.is_empty() {
            return;
        }
        let once = self.rows * self.terms.len() <= PACKED;
        let packed = once.then(|| self.pack_all(&rows));
        let packed = packed.as_deref();
        let most = (BLOCK_ROWS / MAX_ROWS).min(if once { rows.len() } else { rows.len().div_ceil(8) });
        let blocks = rows.len().div_ceil(most.max(1));
        let block = rows.len().div_ceil(blocks);
        let chunk = if once { (TASK_TILES / block).max(4) } else { columns.len() };
        let tasks: Vec<_> =
            rows.chunks(block).flat_map(|rows| columns.chunks(chunk).map(move |c| (rows, c))).collect();
        tasks.into_par_iter().with_max_len(1).for_each(|(rows, columns)| {
            SCRATCH.with_borrow_mut(|scratch| {
                // SAFETY: different tasks have different rows or different columns.
                unsafe { self.task(rows, columns, packed, source, target, scratch) }
            });
        });
    }

    /// All weights, block of terms by block of terms, tile by tile.
    fn pack_all(&self, rows: &[(usize, usize)]) -> Scratch {
        let mut packed = Scratch::new(self.rows * self.terms.len());
        packed.par_chunks_mut(self.rows * TERMS).enumerate().for_each(|(block, packed)| {
            let from = block * TERMS;
            self.pack(rows, from..self.terms.len().min(from + TERMS), packed);
        });
        packed
    }

    unsafe fn task(
        &self,
        rows: &[(usize, usize)],
        columns: &[Strip],
        ready: Option<&[f32]>,
        source: &[f32],
        target: Shared,
        (own, panel): &mut (Vec<f32>, Vec<f32>),
    ) {
        let first = rows.first().map_or(0, |r| r.0);
        let height: usize = rows.iter().map(|r| r.1).sum();
        if ready.is_none() {
            own.resize(own.len().max(height * TERMS), 0.0);
        }
        panel.resize(panel.len().max(COLUMNS * TERMS), 0.0);
        let in_panel: Vec<u32> = (0..u32::try_from(TERMS).unwrap_or(0)).map(|k| k * 32).collect();
        for from in (0..self.terms.len()).step_by(TERMS) {
            let range = from..self.terms.len().min(from + TERMS);
            let count = range.len();
            let packed = match ready {
                Some(all) => &all[from * self.rows + first * count..],
                None => {
                    self.pack(rows, range.clone(), own);
                    &own[..]
                }
            };
            for strip in columns {
                let (start, end) = (range.start.max(strip.terms.0), range.end.min(strip.terms.1));
                if start >= end {
                    continue;
                }
                let offsets = Offsets::new(&self.offsets[start..end]);
                let beyond = strip.from + offsets.reach() + COLUMNS > source.len();
                let (b, places) = if self.gather || beyond {
                    gather(&source[strip.from..], &self.offsets[start..end], strip.columns, panel);
                    (&panel[..], Offsets::new(&in_panel[..end - start]))
                } else {
                    (&source[strip.from..], offsets)
                };
                for &(row, height) in rows {
                    let values = &packed[(row - first) * count + (start - from) * height..];
                    let left = Left { values, step: height, row: 1, rows: height };
                    let c = target.at(strip.to + row * self.target_row);
                    // SAFETY: a part of the target that is this task's own.
                    unsafe { self.tile_into(left, b, places, c, strip.columns, start > strip.terms.0) };
                }
            }
        }
    }

    /// One tile of the target, of which only `columns` are there.
    unsafe fn tile_into(&self, a: Left, b: &[f32], offsets: Offsets, c: *mut f32, columns: usize, add: bool) {
        let half = columns <= HALF;
        if columns == COLUMNS || columns == HALF {
            // SAFETY: the caller's.
            return unsafe { tile(a, b, offsets, (c, self.target_row), add, half) };
        }
        let mut edge = [0f32; MAX_ROWS * COLUMNS];
        // SAFETY: `edge` holds a tile; of the target only what is there is used.
        unsafe {
            tile(a, b, offsets, (edge.as_mut_ptr(), COLUMNS), false, half);
            for (r, edge) in edge.chunks_exact(COLUMNS).take(a.rows).enumerate() {
                let c = std::slice::from_raw_parts_mut(c.add(r * self.target_row), columns);
                for (c, value) in c.iter_mut().zip(edge) {
                    *c = if add { *c + value } else { *value };
                }
            }
        }
    }

    /// Weights of one block of terms, tile by tile, [term][row] within a tile.
    fn pack(&self, rows: &[(usize, usize)], terms: std::ops::Range<usize>, packed: &mut [f32]) {
        let count = terms.len();
        let terms = &self.terms[terms];
        let first = rows.first().map_or(0, |r| r.0);
        for &(row, height) in rows {
            let packed = &mut packed[(row - first) * count..][..height * count];
            let weights = &self.weights[row * self.weight_row..];
            for (packed, &term) in packed.chunks_exact_mut(height).zip(terms) {
                let weights = &weights[term as usize..];
                for (r, packed) in packed.iter_mut().enumerate() {
                    *packed = weights[r * self.weight_row];
                }
            }
        }
    }
}

/// Copies the columns of one tile so that they lie together; columns beyond the strip are zero.
fn gather(source: &[f32], offsets: &[u32], columns: usize, panel: &mut [f32]) {
    for (panel, &offset) in panel.chunks_exact_mut(COLUMNS).zip(offsets) {
        let from = offset as usize;
        if columns == COLUMNS {
            panel.copy_from_slice(&source[from..from + COLUMNS]);
        } else {
            panel[..columns].copy_from_slice(&source[from..from + columns]);
            panel[columns..].fill(0.0);
        }
    }
}
