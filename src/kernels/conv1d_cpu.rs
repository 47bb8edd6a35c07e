//! The convolution over time on the CPU: dense ones through [`super::dense`] at height 1, depthwise
//! ones in vector loops over time. Rows are padded once, so that no inner loop tests a border.

use std::borrow::Cow;

use burn::backend::DType;
use burn::tensor::{Bytes, Shape};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::conv1d::Conv1dOptions;
use super::dense::{self, Plane};
use super::dense_weight;
use super::simd::{accumulate_dots, correlate};

fn tensor(values: Vec<f32>, shape: [usize; 3]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

fn dims(tensor: &FlexTensor) -> [usize; 3] {
    tensor.layout().shape().dims()
}

/// A row of `frames` values with zeros before and after; the row itself where there are none.
fn pad_row(x: &[f32], frames: usize, (left, right): (usize, usize)) -> Cow<'_, [f32]> {
    if left + right == 0 {
        return Cow::Borrowed(x);
    }
    let mut out = vec![0f32; left + frames + right];
    out[left..left + frames].copy_from_slice(x);
    Cow::Owned(out)
}

/// The shape of a dense convolution for [`super::dense`].
fn plane(
    batch: usize,
    outputs: usize,
    [inputs, frames, kernel]: [usize; 3],
    options: &Conv1dOptions,
) -> Plane {
    Plane {
        batch,
        inputs,
        outputs,
        size: [1, frames],
        kernel: [1, kernel],
        stride: [1, options.stride],
        dilation: [1, options.dilation],
        padding: [(0, 0), options.padding],
    }
}

/// y [batch, out, frames_out]; see the module above for the formula.
pub(super) fn forward(x: &FlexTensor, weight: &FlexTensor, options: &Conv1dOptions) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let [batch, channels, frames] = dims(&x);
    let [out, inputs, kernel] = dims(&weight);
    let (xs, ws) = (x.storage::<f32>(), weight.storage::<f32>());
    let frames_out = options.output_frames(frames, kernel);
    if options.groups == 1 {
        let y = dense::forward(xs, ws, &plane(batch, out, [inputs, frames, kernel], options));
        return tensor(y, [batch, out, frames_out]);
    }
    let mut y = vec![0f32; batch * out * frames_out];
    y.par_chunks_mut(frames_out.max(1)).enumerate().for_each(|(row, y)| {
        let padded = pad_row(&xs[row * frames..(row + 1) * frames], frames, options.padding);
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
    tensor(y, [batch, out, frames_out])
}

/// dx [batch, in, frames].
pub(super) fn input_gradient(
    weight: &FlexTensor,
    dy: &FlexTensor,
    frames: usize,
    options: &Conv1dOptions,
) -> FlexTensor {
    let (weight, dy) = (weight.to_contiguous(), dy.to_contiguous());
    let [batch, out, frames_out] = dims(&dy);
    let [_, inputs, kernel] = dims(&weight);
    let channels = inputs * options.groups;
    let (ws, ds) = (weight.storage::<f32>(), dy.storage::<f32>());
    if options.groups == 1 {
        let dx = dense::input_gradient(ws, ds, &plane(batch, out, [inputs, frames, kernel], options));
        return tensor(dx, [batch, channels, frames]);
    }
    let (left, right) = options.padding;
    let mut dx = vec![0f32; batch * channels * frames];
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
            let mut padded = vec![0f32; left + frames + right];
            for (t, dy) in dy.iter().enumerate() {
                for (k, tap) in taps.iter().enumerate() {
                    padded[t * options.stride + k * options.dilation] += tap * dy;
                }
            }
            dx.copy_from_slice(&padded[left..left + frames]);
        }
    });
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
    if options.groups == 1 {
        let dw = dense_weight::weight_gradient(xs, ds, &plane(batch, out, [inputs, frames, kernel], options));
        return tensor(dw, [out, inputs, kernel]);
    }
    let mut dw = vec![0f32; out * inputs * kernel];
    dw.par_chunks_mut(kernel).enumerate().for_each(|(channel, dw)| {
        for b in 0..batch {
            let row = b * channels + channel;
            let padded = pad_row(&xs[row * frames..(row + 1) * frames], frames, options.padding);
            let dy = &ds[row * frames_out..(row + 1) * frames_out];
            if options.stride == 1 && frames_out > 0 {
                accumulate_dots(&padded, dy, options.dilation, dw);
            } else if frames_out > 0 {
                for (k, dw) in dw.iter_mut().enumerate() {
                    let at = |t: usize| padded[t * options.stride + k * options.dilation];
                    *dw += dy.iter().enumerate().map(|(t, dy)| dy * at(t)).sum::<f32>();
                }
            }
        }
    });
    tensor(dw, [out, inputs, kernel])
}
