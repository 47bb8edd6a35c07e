//! Batch norm in training, fused with the ReLU and the length mask that follow it.
//!
//! y[b, c, t] = f((x[b, c, t] - mean[c]) / sqrt(variance[c] + epsilon) * gamma[c] + beta[c])
//!
//! f is the identity, or ReLU times the length mask. Two passes over x forward and two over x and
//! dy backward; composed of the tensor library's operations it would be about forty.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::norm_backend::NormBackend;

/// What a batch norm does besides normalising.
#[derive(Debug, Clone, PartialEq)]
pub struct NormOptions {
    /// Added to the variance.
    pub epsilon: f64,
    /// Frames of each utterance that enter the statistics; all when absent.
    pub counted: Option<Vec<usize>>,
    /// Apply ReLU, and set frames beyond these lengths to zero.
    pub rectified: Option<Vec<usize>>,
}

/// A normalised batch and the statistics it was normalised by.
#[derive(Debug, Clone)]
pub struct Normalised {
    /// [batch, channels, frames]
    pub y: Tensor<3>,
    /// Mean of every channel, [channels], without a gradient of its own.
    pub mean: Tensor<1>,
    /// Biased variance of every channel, [channels], without a gradient of its own.
    pub variance: Tensor<1>,
}

/// Normalises `x` [batch, channels, frames] on the CPU; `gamma` and `beta` are [channels].
/// Differentiable once in all three, through the statistics.
///
/// # Panics
/// When `x` lives on another device than the CPU.
pub fn batch_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, options: &NormOptions) -> Normalised {
    let [_, channels, _] = x.dims();
    let constant = x.clone().detach().into_dispatch();
    let statistics: Tensor<2> = Tensor::from_dispatch(<Dispatch as NormBackend>::tutor_channel_statistics(
        constant,
        options.counted.clone(),
    ));
    let y = <Dispatch as NormBackend>::tutor_normalise(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        statistics.clone().into_dispatch(),
        options.clone(),
    );
    Normalised {
        y: Tensor::from_dispatch(y),
        mean: statistics.clone().narrow(0, 0, 1).reshape([channels]),
        variance: statistics.narrow(0, 1, 1).reshape([channels]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::activation::relu;
    use burn::tensor::{Device, TensorData};

    const SHAPE: [usize; 3] = [3, 5, 70];

    fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
        let mut random = Random::new(seed, "norm", &[]);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.5 + random.normal() as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn mask(frames: &[usize], device: &Device) -> Tensor<3> {
        let row = |&n: &usize| (0..SHAPE[2]).map(move |t| f32::from(u8::from(t < n)));
        let values: Vec<f32> = frames.iter().flat_map(row).collect();
        Tensor::from_data(TensorData::new(values, [SHAPE[0], 1, SHAPE[2]]), device)
    }

    /// The same in the tensor library's own operations.
    fn composed(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, options: &NormOptions) -> Tensor<3> {
        let device = x.device();
        let all = vec![SHAPE[2]; SHAPE[0]];
        let counted = options.counted.as_ref().unwrap_or(&all);
        let mask_in = mask(counted, &device);
        let count = counted.iter().sum::<usize>() as f64;
        let total = |v: Tensor<3>| (v * mask_in.clone()).sum_dim(2).sum_dim(0) / count;
        let mean = total(x.clone());
        let centred = x - mean;
        let variance = total(centred.clone().square());
        let channels = [1, SHAPE[1], 1];
        let y =
            centred / (variance + options.epsilon).sqrt() * gamma.reshape(channels) + beta.reshape(channels);
        match &options.rectified {
            Some(frames) => relu(y) * mask(frames, &device),
            None => y,
        }
    }

    fn close(name: &str, ours: Vec<f32>, reference: Vec<f32>) {
        let scale = reference.iter().map(|v| v * v).sum::<f32>().sqrt();
        let difference = ours.iter().zip(&reference).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        assert!(
            ours.len() == reference.len() && difference <= 3e-6 * scale,
            "{name}: {difference} of {scale}"
        );
    }

    #[test]
    fn equals_the_composed_operations_in_value_and_gradients() {
        let device = Device::flex().autodiff();
        let frames = vec![70, 41, 1];
        for counted in [None, Some(frames.clone())] {
            for rectified in [None, Some(frames.clone())] {
                let options = NormOptions { epsilon: 1e-3, counted: counted.clone(), rectified };
                let x = tensor(SHAPE, 1, &device).require_grad();
                let gamma = tensor([SHAPE[1]], 2, &device).require_grad();
                let beta = tensor([SHAPE[1]], 3, &device).require_grad();
                // In Valid mode frames beyond the end are masked before anything sees them.
                let upstream = tensor(SHAPE, 4, &device) * mask(&frames, &device);
                let ours = batch_norm(x.clone(), gamma.clone(), beta.clone(), &options);
                let reference = composed(x.clone(), gamma.clone(), beta.clone(), &options);
                let values = |t: Tensor<3>| t.into_data().try_to_vec::<f32>().unwrap();
                close("y", values(ours.y.clone()), values(reference.clone()));
                let a = (ours.y * upstream.clone()).sum().backward();
                let b = (reference * upstream).sum().backward();
                close("dx", values(x.grad(&a).unwrap()), values(x.grad(&b).unwrap()));
                for parameter in [&gamma, &beta] {
                    let gradient = |g| parameter.grad(g).unwrap().into_data().try_to_vec::<f32>().unwrap();
                    close("dgamma or dbeta", gradient(&a), gradient(&b));
                }
            }
        }
    }
}
