//! Batch normalisation whose running statistics change only when the trainer says so.
//!
//! Differs from burn's own in three points: the running variance is the unbiased one (PyTorch,
//! TensorFlow), the statistics may leave padding out, and a forward pass changes nothing: it
//! hands the batch's statistics to [`TrainState`], so that a rejected step leaves no trace.

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TrainState;
use super::padding::Padding;
use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::kernels::{NormOptions, Normalised, batch_norm};

/// Settings of every batch norm of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormConfig {
    /// Added to the variance.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Share of a batch in the running statistics (PyTorch's convention; TensorFlow's 0.9 is 0.1 here).
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// What the statistics of a batch are taken over.
    #[serde(default)]
    pub statistics: BatchNormMode,
}

fn default_epsilon() -> f64 {
    1e-3
}
fn default_momentum() -> f64 {
    0.1
}

impl Default for NormConfig {
    fn default() -> Self {
        Self {
            epsilon: default_epsilon(),
            momentum: default_momentum(),
            statistics: BatchNormMode::default(),
        }
    }
}

impl NormConfig {
    /// # Errors
    /// Names the key whose value cannot work.
    pub fn validate(&self) -> Result<()> {
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::invalid(format!(
                "norm.epsilon: expected a positive number, found {}",
                self.epsilon
            )));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(Error::invalid(format!("norm.momentum: expected 0 ..= 1, found {}", self.momentum)));
        }
        Ok(())
    }
}

/// Which frames enter the statistics of a training batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormMode {
    /// All of them, padding included, as in OpenSeq2Seq and NeMo.
    #[default]
    Padded,
    /// Those of the utterances only.
    Valid,
}

/// What one batch norm saw in one training batch, without a gradient.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// Mean of every channel, [channels].
    pub mean: Tensor<1>,
    /// Unbiased variance of every channel, [channels].
    pub variance: Tensor<1>,
}

/// One batch norm over [batch, channels, frames].
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, [channels].
    pub gamma: Param<Tensor<1>>,
    /// Shift, [channels].
    pub beta: Param<Tensor<1>>,
    /// Mean used in evaluation, [channels].
    pub running_mean: Param<Tensor<1>>,
    /// Variance used in evaluation, [channels].
    pub running_variance: Param<Tensor<1>>,
    epsilon: f64,
}

impl BatchNorm {
    /// A batch norm whose tensors are not allocated before they are loaded or used.
    pub fn lazy(channels: usize, epsilon: f64, device: &Device) -> Self {
        let tensor = |trainable| lazy_parameter([channels], trainable, device);
        Self {
            gamma: tensor(true),
            beta: tensor(true),
            running_mean: tensor(false),
            running_variance: tensor(false),
            epsilon,
        }
    }

    /// Channels that it normalises.
    pub fn channels(&self) -> usize {
        self.gamma.lazy_shape()[0]
    }

    /// Evaluation as y = x * scale + shift: both [channels].
    pub fn affine(&self) -> (Tensor<1>, Tensor<1>) {
        let scale = self.gamma.val() / (self.running_variance.val() + self.epsilon).sqrt();
        let shift = self.beta.val() - self.running_mean.val() * scale.clone();
        (scale, shift)
    }

    /// Normalises `x` [batch, channels, frames] by the batch's own statistics, which are appended
    /// to `state`; with `rectified`, ReLU follows, and zeros beyond these lengths.
    pub fn normalise(
        &self,
        x: Tensor<3>,
        padding: &Padding,
        rectified: Option<&Padding>,
        state: &mut TrainState,
    ) -> Tensor<3> {
        if !is_cpu(&x.device()) {
            return self.in_tensor_operations(x, padding, rectified, state);
        }
        let (counted, count) = counted(&x, padding, state.batch_norm);
        let rectified = rectified.map(|padding| padding.frames().to_vec());
        let options = NormOptions { epsilon: self.epsilon, counted, rectified };
        let Normalised { y, mean, variance } = batch_norm(x, self.gamma.val(), self.beta.val(), &options);
        state.collect(mean, variance, count);
        y
    }

    /// [`Self::normalise`] for devices without the fused kernel.
    pub(super) fn in_tensor_operations(
        &self,
        x: Tensor<3>,
        padding: &Padding,
        rectified: Option<&Padding>,
        state: &mut TrainState,
    ) -> Tensor<3> {
        let [_, channels, _] = x.dims();
        let (counted, count) = counted(&x, padding, state.batch_norm);
        let mask = counted.and_then(|_| padding.mask());
        let masked = |values: Tensor<3>| match &mask {
            Some(mask) => values * mask.clone(),
            None => values,
        };
        let total = |values: Tensor<3>| values.sum_dim(2).sum_dim(0) / count as f64;
        let mean = total(masked(x.clone()));
        // Two passes: E[x^2] - E[x]^2 loses too many bits of f32 where the mean is large.
        let centred = x - mean.clone();
        let variance = total(masked(centred.clone().square()));
        state.collect(mean.reshape([channels]), variance.clone().reshape([channels]), count);
        let scale = self.gamma.val().reshape([1, channels, 1]) / (variance + self.epsilon).sqrt();
        let y = centred * scale + self.beta.val().reshape([1, channels, 1]);
        match rectified {
            Some(padding) => padding.apply(relu(y)),
            None => y,
        }
    }

    /// Moves the running statistics towards those of a batch by `momentum`.
    pub fn apply(&mut self, statistics: &BatchStatistics, momentum: f64) {
        let blend = |old: Param<Tensor<1>>, new: &Tensor<1>| {
            old.map(|old| (old * (1.0 - momentum) + new.clone() * momentum).detach())
        };
        self.running_mean = blend(self.running_mean.clone(), &statistics.mean);
        self.running_variance = blend(self.running_variance.clone(), &statistics.variance);
    }
}

/// The lengths over which statistics are taken, `None` for the whole tensor, and their number of
/// frames, at least 1.
fn counted(x: &Tensor<3>, padding: &Padding, mode: BatchNormMode) -> (Option<Vec<usize>>, usize) {
    let [batch, _, width] = x.dims();
    match mode {
        BatchNormMode::Valid if padding.mask().is_some() => {
            (Some(padding.frames().to_vec()), padding.frames().iter().sum::<usize>().max(1))
        }
        _ => (None, (batch * width).max(1)),
    }
}

/// A parameter that takes memory only once it is loaded or used (it is then zero).
pub fn lazy_parameter<const D: usize>(
    shape: [usize; D],
    trainable: bool,
    device: &Device,
) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, grad| {
            let zeros = Tensor::zeros(shape, device);
            if grad { zeros.require_grad() } else { zeros }
        },
        device.clone(),
        trainable,
        shape.into(),
    )
}
