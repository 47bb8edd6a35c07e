//! A matrix of weights times strips of rows that lie in a larger array: what a convolution is once
//! every tap knows where it reads.
//!
//! target[to + m * row + j] = sum over k of weights[term[k] + m * weight_row] * source[from + offset[k] + j]
//!
//! for every strip (from, to, columns) and j < columns. Nothing is unrolled in memory (no im2col):
//! a tap is an offset into the padded input. Traffic: the weights once for every chunk of columns,
//! the input once for every 512 rows.

use rayon::prelude::*;

use super::tile::{COLUMNS, Left, MAX_ROWS, Offsets, tile};

/// Terms of the sum that are handled at once: 256 rows of 32 columns are the first-level cache.
const TERMS: usize = 256;
/// Rows of weights that are packed at once, 512 KiB with [`TERMS`] terms.
const BLOCK_ROWS: usize = 512;
/// Columns are copied into one panel when at least so many tiles read it.
const PANEL_READERS: usize = 5;

/// Neighbouring columns of the result that read neighbouring values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strip {
    pub from: usize,
    pub to: usize,
    pub columns: usize,
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
        let tiles: Vec<Strip> = self
            .strips
            .iter()
            .flat_map(|s| {
                (0..s.columns).step_by(COLUMNS).map(move |j| Strip {
                    from: s.from + j,
                    to: s.to + j,
                    columns: (s.columns - j).min(COLUMNS),
                })
            })
            .collect();
        if tiles.is_empty() || self.rows == 0 {
            return;
        }
        // Tasks for two to eight threads; many columns first, because each task packs its weights.
        let chunks = (tiles.len() / 24).clamp(1, 16);
        let blocks = self.rows.div_ceil(BLOCK_ROWS).max((8 / chunks).min(self.rows.div_ceil(64)));
        let per_chunk = tiles.len().div_ceil(chunks);
        let tasks: Vec<(usize, &[Strip])> =
            (0..blocks).flat_map(|block| tiles.chunks(per_chunk).map(move |chunk| (block, chunk))).collect();
        tasks.into_par_iter().for_each(|(block, chunk)| {
            let rows = (block * self.rows / blocks, (block + 1) * self.rows / blocks);
            SCRATCH.with_borrow_mut(|(packed, panel)| {
                // SAFETY: different tasks have different rows or different columns.
                unsafe { self.task(rows, chunk, source, target, packed, panel) }
            });
        });
    }

    unsafe fn task(
        &self,
        (first, end): (usize, usize),
        tiles: &[Strip],
        source: &[f32],
        target: Shared,
        packed: &mut Vec<f32>,
        panel: &mut Vec<f32>,
    ) {
        let rows = end - first;
        packed.resize(packed.len().max(rows * TERMS), 0.0);
        panel.resize(panel.len().max(COLUMNS * TERMS), 0.0);
        let in_panel: Vec<u32> = (0..u32::try_from(TERMS).unwrap_or(0)).map(|k| k * 32).collect();
        let copies = rows.div_ceil(MAX_ROWS) >= PANEL_READERS;
        let mut edge = [0f32; MAX_ROWS * COLUMNS];
        for from in (0..self.terms.len()).step_by(TERMS) {
            let range = from..self.terms.len().min(from + TERMS);
            let count = range.len();
            self.pack(first, rows, range.clone(), packed);
            let offsets = &self.offsets[range];
            let (direct, copied) = (Offsets::new(offsets), Offsets::new(&in_panel[..count]));
            for strip in tiles {
                let whole = strip.columns == COLUMNS;
                let (b, places) = if copies || strip.from + direct.reach() + COLUMNS > source.len() {
                    copy_panel(&source[strip.from..], offsets, strip.columns, panel);
                    (&panel[..], copied)
                } else {
                    (&source[strip.from..], direct)
                };
                for (row, height) in tile_rows(rows) {
                    let left = Left { values: &packed[row * count..], step: height, rows: height };
                    let c = target.at(strip.to + (first + row) * self.target_row);
                    if whole {
                        // SAFETY: a whole tile of the target, this task's own.
                        unsafe { tile(left, b, places, c, self.target_row, from > 0) };
                        continue;
                    }
                    // SAFETY: `edge` holds a tile; of the target only the strip's columns are used.
                    unsafe {
                        tile(left, b, places, edge.as_mut_ptr(), COLUMNS, false);
                        for (r, edge) in edge.chunks_exact(COLUMNS).take(height).enumerate() {
                            let c = std::slice::from_raw_parts_mut(c.add(r * self.target_row), strip.columns);
                            for (c, value) in c.iter_mut().zip(edge) {
                                *c = if from > 0 { *c + value } else { *value };
                            }
                        }
                    }
                }
            }
        }
    }

    /// Weights of one block of terms, tile by tile, [term][row] within a tile.
    fn pack(&self, first: usize, rows: usize, terms: std::ops::Range<usize>, packed: &mut [f32]) {
        let count = terms.len();
        let terms = &self.terms[terms];
        for (row, height) in tile_rows(rows) {
            let packed = &mut packed[row * count..(row + height) * count];
            let weights = &self.weights[(first + row) * self.weight_row..];
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
fn copy_panel(source: &[f32], offsets: &[u32], columns: usize, panel: &mut [f32]) {
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
