//! The convolution on the CPU: a product of matrices for every tap of a dense kernel, vector loops
//! over time for a depthwise one. Rows are padded once, so that no inner loop tests a border.

use std::borrow::Cow;

use burn::backend::DType;
use burn::tensor::{Bytes, Shape};
use burn_flex::{FlexTensor, Layout};
use gemm::Parallelism;
use rayon::prelude::*;

use super::conv1d::Conv1dOptions;
use super::simd::{accumulate_dots, correlate};

/// All threads of the pool on one product.
const ALL_THREADS: Parallelism = Parallelism::Rayon(0);

fn tensor(values: Vec<f32>, shape: [usize; 3]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

fn dims(tensor: &FlexTensor) -> [usize; 3] {
    tensor.layout().shape().dims()
}

/// A matrix inside a slice: element (row, column) lies at `start + row * rows + column * columns`.
#[derive(Clone, Copy)]
struct View {
    start: usize,
    rows: usize,
    columns: usize,
}

impl View {
    fn end(&self, m: usize, n: usize) -> usize {
        self.start + m.saturating_sub(1) * self.rows + n.saturating_sub(1) * self.columns
    }
}

/// destination [m, n] (+)= left [m, k] * right [k, n]
#[allow(clippy::too_many_arguments)]
fn product(
    [m, n, k]: [usize; 3],
    destination: (&mut [f32], View),
    accumulate: bool,
    left: (&[f32], View),
    right: (&[f32], View),
    threads: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (d, dv) = destination;
    let ((l, lv), (r, rv)) = (left, right);
    assert!(dv.end(m, n) < d.len() && (k == 0 || (lv.end(m, k) < l.len() && rv.end(k, n) < r.len())));
    let stride = |s: usize| s as isize;
    // SAFETY: every element that the views reach lies inside its slice (asserted above), and the
    // destination is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            d.as_mut_ptr().add(dv.start),
            stride(dv.columns),
            stride(dv.rows),
            accumulate,
            l.as_ptr().add(lv.start),
            stride(lv.columns),
            stride(lv.rows),
            r.as_ptr().add(rv.start),
            stride(rv.columns),
            stride(rv.rows),
            if accumulate { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Rows of `frames` values with zeros before and after; the rows themselves where there are none.
fn pad_rows(x: &[f32], frames: usize, (left, right): (usize, usize)) -> Cow<'_, [f32]> {
    if left + right == 0 {
        return Cow::Borrowed(x);
    }
    let width = left + frames + right;
    let mut out = vec![0f32; x.len() / frames.max(1) * width];
    for (row, source) in out.chunks_exact_mut(width).zip(x.chunks_exact(frames)) {
        row[left..left + frames].copy_from_slice(source);
    }
    Cow::Owned(out)
}

/// [out, in, kernel] -> [kernel, out, in], so that every tap is a matrix.
fn by_tap(weight: &[f32], [out, inputs, kernel]: [usize; 3]) -> Vec<f32> {
    if kernel == 1 {
        return weight.to_vec();
    }
    let mut taps = vec![0f32; weight.len()];
    for (oi, source) in weight.chunks_exact(kernel).enumerate() {
        for (k, &value) in source.iter().enumerate() {
            taps[k * out * inputs + oi] = value;
        }
    }
    taps
}

/// Runs `body` for every utterance of the batch: side by side on one thread each, or one
/// utterance on all threads.
fn for_each_utterance(out: &mut [f32], size: usize, body: impl Fn(usize, &mut [f32], Parallelism) + Sync) {
    if size == 0 {
        return;
    }
    if out.len() == size {
        body(0, out, ALL_THREADS);
    } else {
        out.par_chunks_mut(size).enumerate().for_each(|(b, out)| body(b, out, Parallelism::None));
    }
}

/// y [batch, out, frames_out]; see the module above for the formula.
pub(super) fn forward(x: &FlexTensor, weight: &FlexTensor, options: &Conv1dOptions) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let [batch, channels, frames] = dims(&x);
    let shape @ [out, inputs, kernel] = dims(&weight);
    let (xs, ws) = (x.storage::<f32>(), weight.storage::<f32>());
    let frames_out = options.output_frames(frames, kernel);
    let width = frames + options.padding.0 + options.padding.1;
    let mut y = vec![0f32; batch * out * frames_out];
    if options.groups > 1 {
        y.par_chunks_mut(frames_out.max(1)).enumerate().for_each(|(row, y)| {
            let padded = pad_rows(&xs[row * frames..(row + 1) * frames], frames, options.padding);
            let taps = &ws[row % channels * kernel..(row % channels + 1) * kernel];
            if options.stride == 1 {
                correlate(&padded, taps, options.dilation, y);
            } else {
                for (t, y) in y.iter_mut().enumerate() {
                    let at = |k: usize| padded[t * options.stride + k * options.dilation];
                    *y = taps.iter().enumerate().map(|(k, tap)| tap * at(k)).sum();
                }
            }
        });
    } else {
        let taps = by_tap(ws, shape);
        for_each_utterance(&mut y, out * frames_out, |b, y, threads| {
            let padded =
                pad_rows(&xs[b * channels * frames..(b + 1) * channels * frames], frames, options.padding);
            for k in 0..kernel {
                product(
                    [out, frames_out, inputs],
                    (y, View { start: 0, rows: frames_out, columns: 1 }),
                    k > 0,
                    (&taps, View { start: k * out * inputs, rows: inputs, columns: 1 }),
                    (&padded, View { start: k * options.dilation, rows: width, columns: options.stride }),
                    threads,
                );
            }
        });
    }
    tensor(y, [batch, out, frames_out])
}

/// dx [batch, in, frames]: every tap adds its product to the rows that it read.
pub(super) fn input_gradient(
    weight: &FlexTensor,
    dy: &FlexTensor,
    frames: usize,
    options: &Conv1dOptions,
) -> FlexTensor {
    let (weight, dy) = (weight.to_contiguous(), dy.to_contiguous());
    let [batch, out, frames_out] = dims(&dy);
    let shape @ [_, inputs, kernel] = dims(&weight);
    let channels = inputs * options.groups;
    let (ws, ds) = (weight.storage::<f32>(), dy.storage::<f32>());
    let (left, right) = options.padding;
    let width = frames + left + right;
    let mut dx = vec![0f32; batch * channels * frames];
    if options.groups > 1 {
        let reach = (kernel - 1) * options.dilation;
        dx.par_chunks_mut(frames.max(1)).enumerate().for_each(|(row, dx)| {
            let taps = &ws[row % channels * kernel..(row % channels + 1) * kernel];
            let dy = &ds[row * frames_out..(row + 1) * frames_out];
            if options.stride == 1 {
                // dx[t] = sum over k of w[k] dy[t + left - k * dilation]: a correlation with the
                // kernel reversed. Row `padded` holds dy from index left - reach on.
                let mut padded = vec![0f32; frames + reach];
                for (at, value) in padded.iter_mut().enumerate() {
                    if let Some(t) = (at + left).checked_sub(reach) {
                        *value = dy.get(t).copied().unwrap_or(0.0);
                    }
                }
                let reversed: Vec<f32> = taps.iter().rev().copied().collect();
                correlate(&padded, &reversed, options.dilation, dx);
            } else {
                let mut padded = vec![0f32; width];
                for (t, dy) in dy.iter().enumerate() {
                    for (k, tap) in taps.iter().enumerate() {
                        padded[t * options.stride + k * options.dilation] += tap * dy;
                    }
                }
                dx.copy_from_slice(&padded[left..left + frames]);
            }
        });
    } else {
        let taps = by_tap(ws, shape);
        for_each_utterance(&mut dx, channels * frames, |b, dx, threads| {
            let dy = &ds[b * out * frames_out..(b + 1) * out * frames_out];
            let mut padded = vec![0f32; channels * width];
            for k in 0..kernel {
                product(
                    [channels, frames_out, out],
                    (&mut padded, View { start: k * options.dilation, rows: width, columns: options.stride }),
                    true,
                    (&taps, View { start: k * out * inputs, rows: 1, columns: inputs }),
                    (dy, View { start: 0, rows: frames_out, columns: 1 }),
                    threads,
                );
            }
            for (dx, padded) in dx.chunks_exact_mut(frames).zip(padded.chunks_exact(width)) {
                dx.copy_from_slice(&padded[left..left + frames]);
            }
        });
    }
    tensor(dx, [batch, channels, frames])
}

/// dw [out, in / groups, kernel], summed over the batch in its order.
pub(super) fn weight_gradient(
    x: &FlexTensor,
    dy: &FlexTensor,
    kernel: usize,
    options: &Conv1dOptions,
) -> FlexTensor {
    let (x, dy) = (x.to_contiguous(), dy.to_contiguous());
    let [batch, channels, frames] = dims(&x);
    let [_, out, frames_out] = dims(&dy);
    let inputs = channels / options.groups;
    let (xs, ds) = (x.storage::<f32>(), dy.storage::<f32>());
    let width = frames + options.padding.0 + options.padding.1;
    let mut dw = vec![0f32; out * inputs * kernel];
    if options.groups > 1 {
        dw.par_chunks_mut(kernel).enumerate().for_each(|(channel, dw)| {
            for b in 0..batch {
                let row = b * channels + channel;
                let padded = pad_rows(&xs[row * frames..(row + 1) * frames], frames, options.padding);
                let dy = &ds[row * frames_out..(row + 1) * frames_out];
                if options.stride == 1 {
                    accumulate_dots(&padded, dy, options.dilation, dw);
                } else {
                    for (k, dw) in dw.iter_mut().enumerate() {
                        let at = |t: usize| padded[t * options.stride + k * options.dilation];
                        *dw += dy.iter().enumerate().map(|(t, dy)| dy * at(t)).sum::<f32>();
                    }
                }
            }
        });
        return tensor(dw, [out, inputs, kernel]);
    }
    let padded = pad_rows(xs, frames, options.padding);
    let mut taps = vec![0f32; kernel * out * inputs];
    let threads = if kernel == 1 { ALL_THREADS } else { Parallelism::None };
    taps.par_chunks_mut((out * inputs).max(1)).enumerate().for_each(|(k, tap)| {
        for b in 0..batch {
            let start = b * channels * width + k * options.dilation;
            product(
                [out, inputs, frames_out],
                (tap, View { start: 0, rows: inputs, columns: 1 }),
                b > 0,
                (ds, View { start: b * out * frames_out, rows: frames_out, columns: 1 }),
                (&padded, View { start, rows: options.stride, columns: width }),
                threads,
            );
        }
    });
    if kernel == 1 {
        return tensor(taps, [out, inputs, 1]);
    }
    for (oi, dw) in dw.chunks_exact_mut(kernel).enumerate() {
        for (k, value) in dw.iter_mut().enumerate() {
            *value = taps[k * out * inputs + oi];
        }
    }
    tensor(dw, [out, inputs, kernel])
}
