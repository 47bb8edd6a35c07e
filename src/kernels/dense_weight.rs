//! The weight gradient of a dense convolution.
//!
//! dw[o, i, m, n] = sum over b, h, w of dy[b, o, h, w] * x[b, i, h * stride.0 + m * dilation.0 - top, ...]
//!
//! dy is transposed once into panels of 32 outputs, which become the columns of a tile. Its rows are
//! neighbouring taps, which lie side by side in the padded input; where there are none (kernel width 1,
//! dilation), neighbouring channels. 2 * batch * out * in * kernel * size_out FLOP; the panels are read
//! once for every [`UNITS`] tiles.

use rayon::prelude::*;

use super::dense::{Plane, padded_input};
use super::product::{Shared, filled, tile_rows};
use super::scratch::Scratch;
use super::tile::{COLUMNS, Left, MAX_ROWS, Offsets, tile};

/// Frames that are summed in registers before they join the total.
const FRAMES: usize = 400;
/// Most units of one task: their tiles stay in the second-level cache.
const UNITS: usize = 128;
/// Tasks, about, where there are units enough.
const TASKS: usize = 24;

/// One tile of dw: up to 14 rows by 32 outputs.
#[derive(Debug, Clone, Copy)]
struct Unit {
    /// First value in the padded input, for the first frame of the batch, and the step to the next row.
    base: usize,
    step: usize,
    rows: usize,
    /// Row of the kernel.
    m: usize,
    /// Place in dw of the first row, and of every further one, within one output.
    place: usize,
    place_step: usize,
}

std::thread_local! {
    static TOTALS: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

pub(super) fn weight_gradient(x: &[f32], dy: &[f32], plane: &Plane) -> Vec<f32> {
    let [rows, columns] = plane.size_out();
    let weights = plane.inputs * plane.kernel[0] * plane.kernel[1];
    if plane.batch * rows * columns == 0 {
        return vec![0f32; plane.outputs * weights];
    }
    let dy = panels(dy, plane.batch, plane.outputs, rows * columns);
    let copy = padded_input(x, plane);
    let x = copy.as_deref().unwrap_or(x);
    let by_taps = plane.dilation[1] == 1 && plane.kernel[1] >= plane.inputs.min(6);
    let units = if by_taps { taps(plane) } else { channels(plane) };
    let output_panels = plane.outputs.div_ceil(COLUMNS);
    let group = (units.len() * output_panels).div_ceil(TASKS).clamp(1, UNITS);
    let tasks: Vec<(usize, &[Unit])> =
        (0..output_panels).flat_map(|panel| units.chunks(group).map(move |units| (panel, units))).collect();
    let fill = |dw: Shared| {
        tasks.par_iter().with_max_len(1).for_each(|&(panel, units)| {
            TOTALS.with_borrow_mut(|totals| {
                totals.resize(totals.len().max(UNITS * MAX_ROWS * COLUMNS), 0.0);
                sum_units(x, units, &dy[panel * plane.batch * rows * columns * COLUMNS..], plane, totals);
                let outputs = (plane.outputs - panel * COLUMNS).min(COLUMNS);
                for o in 0..outputs {
                    for (unit, tile) in units.iter().zip(totals.chunks_exact(MAX_ROWS * COLUMNS)) {
                        for r in 0..unit.rows {
                            let at = (panel * COLUMNS + o) * weights + unit.place + r * unit.place_step;
                            // SAFETY: every place of dw belongs to one output and one unit.
                            unsafe { *dw.at(at) = tile[r * COLUMNS + o] };
                        }
                    }
                }
            });
        });
    };
    // SAFETY: the units of all outputs fill dw.
    unsafe { filled(plane.outputs * weights, fill) }
}

/// The tiles of some units over the whole batch, frame after frame.
fn sum_units(x: &[f32], units: &[Unit], dy: &[f32], plane: &Plane, totals: &mut [f32]) {
    let [rows, columns] = plane.size_out();
    let [height, width] = plane.padded();
    let pieces = columns.div_ceil(FRAMES);
    let offsets: Vec<u32> = (0..u32::try_from(FRAMES).unwrap_or(0)).map(|t| t * 32).collect();
    totals[..units.len() * MAX_ROWS * COLUMNS].fill(0.0);
    for b in 0..plane.batch {
        for h in 0..rows {
            for piece in 0..pieces {
                let (from, to) = (piece * columns / pieces, (piece + 1) * columns / pieces);
                let dy = &dy[((b * rows + h) * columns + from) * COLUMNS..][..(to - from) * COLUMNS];
                let offsets = Offsets::new(&offsets[..to - from]);
                let start =
                    (b * plane.inputs * height + h * plane.stride[0]) * width + from * plane.stride[1];
                for (unit, total) in units.iter().zip(totals.chunks_exact_mut(MAX_ROWS * COLUMNS)) {
                    if !plane.meets(h, unit.m) {
                        continue;
                    }
                    let values = &x[unit.base + start..];
                    let left = Left { values, step: plane.stride[1], row: unit.step, rows: unit.rows };
                    // SAFETY: `total` holds a tile.
                    unsafe { tile(left, dy, offsets, (total.as_mut_ptr(), COLUMNS), true, false) };
                }
            }
        }
    }
}

/// Rows of a tile are neighbouring taps.
fn taps(plane: &Plane) -> Vec<Unit> {
    let [height, width] = plane.padded();
    let mut units = Vec::new();
    for i in 0..plane.inputs {
        for m in 0..plane.kernel[0] {
            for (tap, rows) in tile_rows(plane.kernel[1]) {
                units.push(Unit {
                    base: (i * height + m * plane.dilation[0]) * width + tap,
                    step: 1,
                    rows,
                    m,
                    place: (i * plane.kernel[0] + m) * plane.kernel[1] + tap,
                    place_step: 1,
                });
            }
        }
    }
    units
}

/// Rows of a tile are neighbouring channels at one tap.
fn channels(plane: &Plane) -> Vec<Unit> {
    let [height, width] = plane.padded();
    let mut units = Vec::new();
    for (channel, rows) in tile_rows(plane.inputs) {
        for m in 0..plane.kernel[0] {
            for n in 0..plane.kernel[1] {
                let tap = m * plane.dilation[0] * width + n * plane.dilation[1];
                units.push(Unit {
                    base: channel * height * width + tap,
                    step: height * width,
                    rows,
                    m,
                    place: (channel * plane.kernel[0] + m) * plane.kernel[1] + n,
                    place_step: plane.kernel[0] * plane.kernel[1],
                });
            }
        }
    }
    units
}

/// [batch, channels, size] -> [channels / 32, batch, size, 32]; channels that are not there are zero.
fn panels(x: &[f32], batch: usize, channels: usize, size: usize) -> Scratch {
    let mut out = Scratch::new(channels.div_ceil(COLUMNS) * batch * size * COLUMNS);
    out.par_chunks_mut((size * COLUMNS).max(1)).with_max_len(4).enumerate().for_each(|(at, out)| {
        let (panel, b) = (at / batch, at % batch);
        let present = (channels - panel * COLUMNS).min(COLUMNS);
        if present < COLUMNS {
            out.fill(0.0);
        }
        transpose(&x[(b * channels + panel * COLUMNS) * size..][..present * size], size, out);
    });
    out
}

/// out[t, c] = x[c, t], where out has rows of [`COLUMNS`]; four by four, so that stores are as wide as loads.
fn transpose(x: &[f32], size: usize, out: &mut [f32]) {
    let channels = x.len() / size;
    for c in (0..channels - channels % 4).step_by(4) {
        let rows: [&[f32]; 4] = std::array::from_fn(|r| &x[(c + r) * size..(c + r + 1) * size]);
        for t in (0..size - size % 4).step_by(4) {
            let block: [[f32; 4]; 4] = std::array::from_fn(|i| std::array::from_fn(|r| rows[r][t + i]));
            for (i, values) in block.iter().enumerate() {
                out[(t + i) * COLUMNS + c..][..4].copy_from_slice(values);
            }
        }
        for t in size - size % 4..size {
            rows.iter().enumerate().for_each(|(r, row)| out[t * COLUMNS + c + r] = row[t]);
        }
    }
    for c in channels - channels % 4..channels {
        let row = &x[c * size..(c + 1) * size];
        row.iter().zip(out[c..].iter_mut().step_by(COLUMNS)).for_each(|(&value, out)| *out = value);
    }
}
