//! The LSTM layer on the CPU, over slices.
//!
//! Projected inputs of all frames are one product; so are both weight gradients and the input gradient, from the
//! gradients of the gates' sums that the way back leaves. Only the recurrent product runs step by step, over all
//! utterances that still have a frame at that step, with weights laid out once. Frames beyond an utterance's end
//! are never read. Directions, and groups of utterances where threads are left, run side by side; no sum depends
//! on how.

use rayon::prelude::*;

use super::gates::{Backward, Forward};
use crate::kernels::lanes::Width;
use crate::kernels::packed::{Out, Packed, transposed_product};

/// Rows of a large product that one thread takes at a time.
const ROWS: usize = 64;
/// Room between the rows of a step's left matrix, so that they do not fall into the same lines of the cache.
const APART: usize = 16;

/// Sizes of a layer and of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes<'a> {
    /// Valid frames of each utterance.
    pub lengths: &'a [usize],
    /// Frames of the tensors.
    pub frames: usize,
    /// Values that one direction reads of a frame.
    pub inputs: usize,
    /// Cells of one direction.
    pub hidden: usize,
    /// Whether each of two directions reads its own half of a frame; both read all of it otherwise.
    pub apart: bool,
    /// Whether the outputs of two directions are added; they are concatenated otherwise.
    pub summed: bool,
    /// Instructions to use.
    pub width: Width,
}

/// One direction's weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    /// [4 hidden, inputs]
    pub input: &'a [f32],
    /// [4 hidden, hidden]
    pub recurrent: &'a [f32],
    /// [4 hidden]
    pub bias: &'a [f32],
    /// Whether it runs from each utterance's end to its start.
    pub reverse: bool,
}

/// The gradient of one direction's weights, in their shapes.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    pub input: Vec<f32>,
    pub recurrent: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Sizes<'_> {
    /// Valid frames of the batch.
    fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Values of a frame of the output, and how many of them lie before direction `d`'s.
    fn output(&self, directions: usize, d: usize) -> (usize, usize) {
        if self.summed { (self.hidden, 0) } else { (directions * self.hidden, d * self.hidden) }
    }

    /// Values of a frame of the input, and how many of them lie before direction `d`'s.
    fn input(&self, directions: usize, d: usize) -> (usize, usize) {
        if self.apart { (directions * self.inputs, d * self.inputs) } else { (self.inputs, 0) }
    }

    /// Values that one direction keeps for the way back: gates, cells and outputs of every valid frame.
    fn kept(&self) -> usize {
        self.total() * 6 * self.hidden
    }
}

/// The parts of what a direction keeps: gates [total, 4 hidden], cells and outputs [total, hidden].
fn parts(kept: &[f32], hidden: usize) -> (&[f32], &[f32], &[f32]) {
    let total = kept.len() / (6 * hidden).max(1);
    let (gates, rest) = kept.split_at(4 * hidden * total);
    let (cells, outputs) = rest.split_at(hidden * total);
    (gates, cells, outputs)
}

/// `values` cut into the utterances' parts, `size` values a frame.
fn by_utterance<'a>(mut values: &'a mut [f32], lengths: &[usize], size: usize) -> Vec<&'a mut [f32]> {
    let cut = |&length: &usize| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(length * size);
        values = rest;
        part
    };
    lengths.iter().map(cut).collect()
}

/// Utterances in groups of much the same work, each group with its longest first.
fn groups<T>(mut utterances: Vec<T>, length: impl Fn(&T) -> usize, directions: usize) -> Vec<Vec<T>> {
    let free = (rayon::current_num_threads() / directions).max(1);
    let count = free.min(utterances.len().div_ceil(4)).max(1);
    utterances.sort_by_key(|utterance| std::cmp::Reverse(length(utterance)));
    let mut groups: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (i, utterance) in utterances.into_iter().enumerate() {
        groups[i % count].push(utterance);
    }
    groups
}

/// Place of step `step` in an utterance of `length` frames.
fn place(step: usize, length: usize, reverse: bool) -> usize {
    if reverse { length - 1 - step } else { step }
}

/// Runs `body` for every direction, side by side.
fn for_each_direction<T: Send, U: Send>(items: Vec<T>, body: impl Fn(usize, T) -> U + Sync + Send) -> Vec<U> {
    items.into_par_iter().enumerate().with_max_len(1).map(|(d, item)| body(d, item)).collect()
}

/// y [batch, frames, hidden or 2 hidden], zero beyond each utterance's end, and what [`backward`] needs.
pub(super) fn forward(x: &[f32], weights: &[Weights<'_>], sizes: &Sizes<'_>) -> (Vec<f32>, Vec<f32>) {
    let Sizes { lengths, frames, hidden, .. } = *sizes;
    let directions = weights.len();
    let mut kept = vec![0f32; directions * sizes.kept()];
    let parts_mut: Vec<&mut [f32]> = kept.chunks_exact_mut(sizes.kept().max(1)).collect();
    for_each_direction(parts_mut, |d, kept| {
        let (width, offset) = sizes.input(directions, d);
        forward_direction(&x[offset.min(x.len())..], width, &weights[d], sizes, directions, kept);
    });
    let (size, _) = sizes.output(directions, 0);
    let mut y = vec![0f32; lengths.len() * frames * size];
    let starts = starts(lengths);
    y.par_chunks_mut((frames * size).max(1)).enumerate().for_each(|(b, y)| {
        for (d, kept) in kept.chunks_exact(sizes.kept().max(1)).enumerate() {
            let outputs = &parts(kept, hidden).2[starts[b] * hidden..][..lengths[b] * hidden];
            let (_, offset) = sizes.output(directions, d);
            for (y, output) in y.chunks_exact_mut(size).zip(outputs.chunks_exact(hidden)) {
                let y = &mut y[offset..offset + hidden];
                if sizes.summed && d > 0 {
                    y.iter_mut().zip(output).for_each(|(y, output)| *y += output);
                } else {
                    y.copy_from_slice(output);
                }
            }
        }
    });
    (y, kept)
}

/// Valid frames before each utterance.
fn starts(lengths: &[usize]) -> Vec<usize> {
    let before = |sum: &mut usize, &length: &usize| {
        *sum += length;
        Some(*sum - length)
    };
    lengths.iter().scan(0, before).collect()
}

/// One utterance on its way forward.
struct Ahead<'a> {
    length: usize,
    gates: &'a mut [f32],
    cells: &'a mut [f32],
    outputs: &'a mut [f32],
}

fn forward_direction(
    x: &[f32],
    row: usize,
    weights: &Weights<'_>,
    sizes: &Sizes<'_>,
    directions: usize,
    kept: &mut [f32],
) {
    let Sizes { lengths, frames, inputs, hidden, width, .. } = *sizes;
    let total = sizes.total();
    let (gates, rest) = kept.split_at_mut(4 * hidden * total);
    let (cells, outputs) = rest.split_at_mut(hidden * total);
    let matrix = Packed::transposed(weights.input, inputs, 4 * hidden, width);
    let mut gates = by_utterance(gates, lengths, 4 * hidden);
    gates.par_iter_mut().enumerate().for_each(|(b, gates)| {
        gates.par_chunks_mut(ROWS * 4 * hidden).enumerate().for_each(|(block, gates)| {
            let x = &x[(b * frames + block * ROWS) * row..];
            let rows = gates.len() / (4 * hidden);
            matrix.multiply(rows, x, row, Out { values: gates, stride: 4 * hidden, accumulate: false });
        });
    });
    drop(matrix);
    let matrix = Packed::transposed(weights.recurrent, hidden, 4 * hidden, width);
    let cells = by_utterance(cells, lengths, hidden);
    let outputs = by_utterance(outputs, lengths, hidden);
    let utterances = lengths.iter().zip(gates).zip(cells).zip(outputs);
    let utterances =
        utterances.map(|(((&length, gates), cells), outputs)| Ahead { length, gates, cells, outputs });
    groups(utterances.collect(), |utterance| utterance.length, directions).par_iter_mut().for_each(|group| {
        let stride = hidden + APART;
        let mut next = vec![0f32; group.len() * stride];
        let mut carried = vec![0f32; group.len() * hidden];
        let mut recurrent = vec![0f32; group.len() * 4 * hidden];
        for step in 0..group.first().map_or(0, |longest| longest.length) {
            let active = group.partition_point(|utterance| utterance.length > step);
            if step > 0 {
                let out = Out { values: &mut recurrent, stride: 4 * hidden, accumulate: false };
                matrix.multiply(active, &next, stride, out);
            }
            for (r, utterance) in group[..active].iter_mut().enumerate() {
                let t = place(step, utterance.length, weights.reverse);
                let frame = t * hidden..(t + 1) * hidden;
                Forward {
                    gates: &mut utterance.gates[4 * t * hidden..4 * (t + 1) * hidden],
                    recurrent: (step > 0).then(|| &recurrent[4 * r * hidden..4 * (r + 1) * hidden]),
                    bias: weights.bias,
                    carried: &mut carried[r * hidden..(r + 1) * hidden],
                    cell: &mut utterance.cells[frame.clone()],
                    output: &mut utterance.outputs[frame],
                    next: &mut next[r * stride..r * stride + hidden],
                }
                .run(width);
            }
        }
    });
}

/// The gradients of x, in its shape, and of every direction's weights. `kept` is what [`forward`] gave; `dy` is
/// read where y is valid.
pub(super) fn backward(
    x: &[f32],
    weights: &[Weights<'_>],
    sizes: &Sizes<'_>,
    kept: &[f32],
    dy: &[f32],
) -> (Vec<f32>, Vec<Gradients>) {
    let Sizes { lengths, frames, inputs, hidden, .. } = *sizes;
    let directions = weights.len();
    let kept: Vec<&[f32]> = kept.chunks_exact(sizes.kept().max(1)).collect();
    let empty: &[f32] = &[];
    let both = for_each_direction((0..directions).collect(), |d, _| {
        let (width, offset) = sizes.input(directions, d);
        let x = (&x[offset.min(x.len())..], width);
        let (width, offset) = sizes.output(directions, d);
        let dy = (&dy[offset.min(dy.len())..], width);
        backward_direction(x, dy, &weights[d], sizes, directions, kept.get(d).unwrap_or(&empty))
    });
    let matrices: Vec<Packed> = weights
        .par_iter()
        .map(|w| {
            Packed::from_rows(4 * hidden, inputs, sizes.width, |i| {
                Some(&w.input[i * inputs..(i + 1) * inputs])
            })
        })
        .collect();
    let (row, _) = sizes.input(directions, 0);
    let starts = starts(lengths);
    let mut dx = vec![0f32; lengths.len() * frames * row];
    dx.par_chunks_mut((frames * row).max(1)).enumerate().for_each(|(b, dx)| {
        let valid = &mut dx[..lengths[b] * row];
        valid.par_chunks_mut(ROWS * row).enumerate().for_each(|(block, dx)| {
            let rows = dx.len() / row;
            for (d, (matrix, (sums, _))) in matrices.iter().zip(&both).enumerate() {
                let (_, offset) = sizes.input(directions, d);
                let sums = &sums[(starts[b] + block * ROWS) * 4 * hidden..];
                let accumulate = d > 0 && !sizes.apart;
                let out = Out { values: &mut dx[offset..], stride: row, accumulate };
                matrix.multiply(rows, sums, 4 * hidden, out);
            }
        });
    });
    (dx, both.into_iter().map(|(_, gradients)| gradients).collect())
}

/// One utterance on its way back.
struct Back<'a> {
    index: usize,
    length: usize,
    sums: &'a mut [f32],
    bias: &'a mut [f32],
}

/// The gradients of the gates' sums, [total, 4 hidden], and of the weights.
fn backward_direction(
    (x, x_row): (&[f32], usize),
    (dy, dy_row): (&[f32], usize),
    weights: &Weights<'_>,
    sizes: &Sizes<'_>,
    directions: usize,
    kept: &[f32],
) -> (Vec<f32>, Gradients) {
    let Sizes { lengths, frames, inputs, hidden, width, .. } = *sizes;
    let (total, four) = (sizes.total(), 4 * hidden);
    let (gates, cells, outputs) = parts(kept, hidden);
    let starts = starts(lengths);
    let matrix =
        Packed::from_rows(four, hidden, width, |i| Some(&weights.recurrent[i * hidden..(i + 1) * hidden]));
    let mut sums = vec![0f32; total * four];
    let mut biases = vec![0f32; lengths.len() * four];
    let utterances =
        by_utterance(&mut sums, lengths, four).into_iter().zip(biases.chunks_exact_mut(four.max(1)));
    let utterances = utterances.enumerate().map(|(index, (sums, bias))| {
        let length = lengths[index];
        Back { index, length, sums, bias }
    });
    groups(utterances.collect(), |utterance| utterance.length, directions).par_iter_mut().for_each(|group| {
        let stride = four + APART;
        let mut next = vec![0f32; group.len() * stride];
        let mut carried = vec![0f32; group.len() * hidden];
        let mut recurrent = vec![0f32; group.len() * hidden];
        for step in (0..group.first().map_or(0, |longest| longest.length)).rev() {
            let active = group.partition_point(|utterance| utterance.length > step);
            for (r, utterance) in group[..active].iter_mut().enumerate() {
                let t = place(step, utterance.length, weights.reverse);
                let at = starts[utterance.index] + t;
                let frame = |t: usize| t * hidden..(t + 1) * hidden;
                let before = if weights.reverse { at + 1 } else { at.wrapping_sub(1) };
                Backward {
                    gates: &gates[four * at..four * (at + 1)],
                    cell: &cells[frame(at)],
                    previous: (step > 0).then(|| &cells[frame(before)]),
                    above: &dy[(utterance.index * frames + t) * dy_row..][..hidden],
                    recurrent: &recurrent[frame(r)],
                    carried: &mut carried[frame(r)],
                    sums: &mut utterance.sums[four * t..four * (t + 1)],
                    next: &mut next[r * stride..r * stride + four],
                    bias: utterance.bias,
                }
                .run(width);
            }
            if step > 0 {
                let out = Out { values: &mut recurrent, stride: hidden, accumulate: false };
                matrix.multiply(active, &next, stride, out);
            }
        }
    });
    drop(matrix);
    let mut bias = vec![0f32; four];
    for one in biases.chunks_exact(four.max(1)) {
        bias.iter_mut().zip(one).for_each(|(sum, value)| *sum += value);
    }
    let places: Vec<(usize, usize)> =
        lengths.iter().enumerate().flat_map(|(b, &length)| (0..length).map(move |t| (b, t))).collect();
    let input = transposed_product(&sums, [total, four, inputs], width, |i| {
        let (b, t) = places[i];
        Some(&x[(b * frames + t) * x_row..][..inputs])
    });
    let recurrent = transposed_product(&sums, [total, four, hidden], width, |i| {
        let (b, t) = places[i];
        let start = if weights.reverse { t + 1 == lengths[b] } else { t == 0 };
        let before = if weights.reverse { i + 1 } else { i.wrapping_sub(1) };
        (!start).then(|| &outputs[before * hidden..(before + 1) * hidden])
    });
    (sums, Gradients { input, recurrent, bias })
}
