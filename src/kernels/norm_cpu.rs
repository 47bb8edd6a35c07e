//! Batch norm on the CPU: channels side by side on the threads, every sum in a fixed order.

use burn::backend::DType;
use burn::tensor::{Bytes, Shape};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::norm::NormOptions;
use super::simd::{Affine, add_sum, add_weighted_sums, normalise_row, normalise_row_gradient};

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

fn dims(tensor: &FlexTensor) -> [usize; 3] {
    tensor.layout().shape().dims()
}

fn counted(options: Option<&[usize]>, b: usize, frames: usize) -> usize {
    options.map_or(frames, |counted| counted[b].min(frames))
}

/// Mean and biased variance, [2, channels]: two passes, since E[x^2] - E[x]^2 loses bits.
pub(super) fn statistics(x: &FlexTensor, valid: Option<&[usize]>) -> FlexTensor {
    let x = x.to_contiguous();
    let [batch, channels, frames] = dims(&x);
    let values = x.storage::<f32>();
    let count = (0..batch).map(|b| counted(valid, b, frames)).sum::<usize>().max(1) as f64;
    let both: Vec<(f32, f32)> = (0..channels)
        .into_par_iter()
        .map(|c| {
            let rows = || {
                (0..batch).map(move |b| {
                    let start = (b * channels + c) * frames;
                    &values[start..start + counted(valid, b, frames)]
                })
            };
            let mean = rows().map(|row| add_sum(row, 0.0, false)).sum::<f64>() / count;
            let variance = rows().map(|row| add_sum(row, mean as f32, true)).sum::<f64>() / count;
            (mean as f32, variance as f32)
        })
        .collect();
    let mut out: Vec<f32> = both.iter().map(|s| s.0).collect();
    out.extend(both.iter().map(|s| s.1));
    tensor(out, Shape::new([2, channels]))
}

/// Per channel: what a row needs to be normalised.
fn affine([gamma, beta, statistics]: [&FlexTensor; 3], epsilon: f64) -> Vec<Affine> {
    let (gamma, beta, statistics) = (gamma.to_contiguous(), beta.to_contiguous(), statistics.to_contiguous());
    let (gamma, beta, statistics) =
        (gamma.storage::<f32>(), beta.storage::<f32>(), statistics.storage::<f32>());
    let (mean, variance) = statistics.split_at(gamma.len());
    let one = |c: usize| {
        let inverse = 1.0 / (f64::from(variance[c]) + epsilon).sqrt();
        Affine {
            mean: mean[c],
            inverse: inverse as f32,
            scale: (f64::from(gamma[c]) * inverse) as f32,
            shift: beta[c],
        }
    };
    (0..gamma.len()).map(one).collect()
}

pub(super) fn forward(x: &FlexTensor, parameters: [&FlexTensor; 3], options: &NormOptions) -> FlexTensor {
    let x = x.to_contiguous();
    let [batch, channels, frames] = dims(&x);
    let affine = affine(parameters, options.epsilon);
    let mut y = vec![0f32; batch * channels * frames];
    let rows = y.par_chunks_mut(frames.max(1)).zip(x.storage::<f32>().par_chunks(frames.max(1)));
    rows.enumerate().for_each(|(row, (y, x))| {
        let (b, affine) = (row / channels, affine[row % channels]);
        match &options.rectified {
            // What lies beyond the end stays zero.
            Some(valid) => {
                let valid = valid[b].min(frames);
                normalise_row(&x[..valid], affine, true, &mut y[..valid]);
            }
            None => normalise_row(x, affine, false, y),
        }
    });
    tensor(y, Shape::new([batch, channels, frames]))
}

/// With d = dy where y passed the ReLU and the mask, s1 = sum d, s2 = sum d (x - mean), N frames counted:
/// dbeta = s1, dgamma = s2 / deviation,
/// dx = gamma / deviation * (d - [counted] (s1 + (x - mean) s2 / deviation^2) / N).
pub(super) fn backward(
    x: &FlexTensor,
    parameters: [&FlexTensor; 3],
    dy: &FlexTensor,
    options: &NormOptions,
) -> (FlexTensor, FlexTensor) {
    let (x, dy) = (x.to_contiguous(), dy.to_contiguous());
    let [batch, channels, frames] = dims(&x);
    let affine = affine(parameters, options.epsilon);
    let (xs, ds) = (x.storage::<f32>(), dy.storage::<f32>());
    let valid = options.counted.as_deref();
    let rectified = options.rectified.as_deref();
    let count = (0..batch).map(|b| counted(valid, b, frames)).sum::<usize>().max(1) as f64;
    let passed = |b: usize| counted(rectified, b, frames);
    let sums: Vec<(f64, f64)> = (0..channels)
        .into_par_iter()
        .map(|c| {
            let (mut first, mut second) = (0.0, 0.0);
            for b in 0..batch {
                let start = (b * channels + c) * frames;
                let range = start..start + passed(b);
                let (s1, s2) =
                    add_weighted_sums(&xs[range.clone()], &ds[range], affine[c], rectified.is_some());
                first += s1;
                second += s2;
            }
            (first, second)
        })
        .collect();
    let mut dx = vec![0f32; batch * channels * frames];
    dx.par_chunks_mut(frames.max(1)).enumerate().for_each(|(row, dx)| {
        let (b, c) = (row / channels, row % channels);
        let start = row * frames;
        let affine = affine[c];
        let constant = (sums[c].0 / count) as f32;
        let slope = (sums[c].1 / count * f64::from(affine.inverse).powi(2)) as f32;
        let (passed, counted) = (passed(b), counted(valid, b, frames));
        let x = &xs[start..start + frames];
        let dy = &ds[start..start + frames];
        normalise_row_gradient(&x[..passed], &dy[..passed], affine, rectified.is_some(), &mut dx[..passed]);
        for (dx, x) in dx[..counted].iter_mut().zip(x) {
            *dx -= affine.scale * (constant + (x - affine.mean) * slope);
        }
    });
    let mut gradients: Vec<f32> =
        sums.iter().zip(&affine).map(|(s, a)| (s.1 * f64::from(a.inverse)) as f32).collect();
    gradients.extend(sums.iter().map(|s| s.0 as f32));
    (tensor(dx, Shape::new([batch, channels, frames])), tensor(gradients, Shape::new([2, channels])))
}
