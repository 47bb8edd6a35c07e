//! Recognisers: a configuration, the network it describes, and the directory it is kept in.
//!
//! A model directory holds `model.toml` ([`ModelConfig`]: architecture, labels, frontend,
//! provenance) and `weights.safetensors`. Teacher and student are the same kind of thing.
//! [`jasper`] and [`deepspeech2`] are the architectures; [`foreign`] imports foreign checkpoints;
//! [`parameters`] gives every tensor a stable dotted name.

mod config;
pub mod deepspeech2;
mod directory;
pub mod foreign;
mod initial;
pub mod jasper;
mod layer;
pub mod norm;
pub mod padding;
pub mod parameters;
pub mod presets;
mod summary;
mod taps;
mod weights;

pub use config::{Architecture, ModelConfig, Provenance};
pub use directory::{MODEL_FILE, WEIGHTS_FILE, identity};
pub use layer::HiddenLayer;
pub use norm::{BatchNormMode, BatchStatistics};
pub use summary::{LayerSummary, Summary, describe};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::random::Random;

/// What a forward pass returns.
#[derive(Debug, Clone)]
pub struct Output {
    /// The last layer after its ReLU, [batch, width, frames]. Beyond an utterance's frames the
    /// values mean nothing.
    pub hidden: Tensor<3>,
    /// Scores before the softmax, [batch, frames, labels]. Beyond an utterance's frames the values
    /// mean nothing.
    pub logits: Tensor<3>,
    /// Outputs of the layers that were asked for, each [batch, its width, frames].
    pub layers: Vec<Tensor<3>>,
    /// Valid output frames of each utterance.
    pub frames: Vec<usize>,
}

/// How a forward pass treats batch norm and dropout.
#[derive(Debug)]
pub enum Mode<'a> {
    /// Running statistics, no dropout.
    Evaluate,
    /// The batch's statistics, collected in the state; dropout drawn from it.
    Train(&'a mut TrainState),
}

/// What one training pass needs and leaves behind.
#[derive(Debug)]
pub struct TrainState {
    /// Which frames enter the statistics.
    pub batch_norm: BatchNormMode,
    /// The statistics of every batch norm, in the order in which the pass met them; for
    /// [`Model::apply_statistics`] once the step is accepted.
    pub statistics: Vec<BatchStatistics>,
    random: Random,
}

impl TrainState {
    /// An empty state; `dropout` is the stream of this step's dropout.
    pub fn new(batch_norm: BatchNormMode, dropout: Random) -> Self {
        Self { batch_norm, statistics: Vec::new(), random: dropout }
    }

    /// Keeps a batch's mean and biased variance, [channels] over `count` frames.
    fn collect(&mut self, mean: Tensor<1>, variance: Tensor<1>, count: usize) {
        let unbiased = count as f64 / count.saturating_sub(1).max(1) as f64;
        self.statistics.push(BatchStatistics { mean: mean.detach(), variance: variance.detach() * unbiased });
    }

    /// Zeroes values with `probability` and scales the others up. The mask is drawn on the host,
    /// so that every device drops the same values.
    fn drop_out(&mut self, x: Tensor<3>, probability: f64) -> Tensor<3> {
        if probability <= 0.0 {
            return x;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a factor near 1")]
        let kept = (1.0 / (1.0 - probability)) as f32;
        let shape = x.dims();
        let draw = || if self.random.uniform() < probability { 0.0 } else { kept };
        let mask: Vec<f32> = std::iter::repeat_with(draw).take(shape.iter().product()).collect();
        let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
        x * mask
    }
}

/// The tensors of a model.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one network in a model")]
pub enum Network {
    /// See [`jasper`].
    Jasper(jasper::Jasper),
    /// See [`deepspeech2`].
    DeepSpeech2(deepspeech2::DeepSpeech2),
}

impl Network {
    /// Whether an L2 term takes in the tensor `name` (see [`parameters`]): kernels of convolutions and of fully
    /// connected layers, and gammas of batch norms, as OpenSeq2Seq's `regularizer` does; no bias, no beta, and
    /// nothing of a recurrent layer.
    pub fn regularised(&self, name: &str) -> bool {
        match self {
            Self::Jasper(_) => jasper::Jasper::regularised(name),
            Self::DeepSpeech2(_) => deepspeech2::DeepSpeech2::regularised(name),
        }
    }
}

/// A configuration and its network on one device.
#[derive(Debug, Clone)]
pub struct Model {
    /// What `model.toml` says.
    pub config: ModelConfig,
    /// The tensors.
    pub network: Network,
}

impl Model {
    /// A model with initial values that depend on `seed` and on each tensor's name only: the same
    /// on every device. An autodiff device makes it trainable.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let network = Self::lazy(&config, device)?;
        let values = initial::values(&network, seed);
        let network = parameters::import(network, values)?;
        Ok(Self { config, network })
    }

    /// The same weights under another configuration of the same shapes (dropout, batch norm).
    ///
    /// # Errors
    /// When the configuration cannot work, or has other shapes.
    pub fn with_config(self, config: ModelConfig, device: &Device) -> Result<Self> {
        let network = Self::lazy(&config, device)?;
        let network = parameters::import(network, parameters::export(&self.network)?)?;
        Ok(Self { config, network })
    }

    fn lazy(config: &ModelConfig, device: &Device) -> Result<Network> {
        config.validate()?;
        match &config.architecture {
            Architecture::Jasper(jasper) => {
                Ok(Network::Jasper(jasper::Jasper::lazy(jasper, config.labels.count(), device)?))
            }
            Architecture::DeepSpeech2(network) => {
                let network = deepspeech2::DeepSpeech2::lazy(network, config.labels.count(), device)?;
                Ok(Network::DeepSpeech2(network))
            }
        }
    }

    /// Runs the network over `features` [batch, bins, frames], of which each utterance has
    /// `frames` valid ones. What lies beyond them changes nothing in the valid output frames.
    /// Evaluation follows the type of `features`: f16 where the device supports it, f32 on the CPU
    /// in any case.
    ///
    /// # Panics
    /// When `frames` does not have one entry an utterance, or one beyond the tensor's end.
    pub fn forward(&self, features: Tensor<3>, frames: &[usize], mode: Mode<'_>) -> Output {
        self.forward_with(features, frames, mode, &[])
    }

    /// [`Model::forward`], which also returns the outputs of `layers`.
    ///
    /// # Panics
    /// As there; and when `layers` names one that [`ModelConfig::layer_width`] does not know.
    pub fn forward_with(
        &self,
        features: Tensor<3>,
        frames: &[usize],
        mode: Mode<'_>,
        layers: &[HiddenLayer],
    ) -> Output {
        let features = if is_cpu(&features.device()) { features.cast(DType::F32) } else { features };
        match &self.network {
            Network::Jasper(jasper) => jasper.forward(features, frames, mode, layers),
            Network::DeepSpeech2(network) => network.forward(features, frames, mode, layers),
        }
    }

    /// The same weights without gradients: on an autodiff device, the copy to evaluate with.
    pub fn valid(&self) -> Self {
        Self { config: self.config.clone(), network: self.network.valid() }
    }

    /// Moves the running statistics of batch norm towards those of an accepted step, `momentum`
    /// being the batch's share (the configuration's is [`ModelConfig::momentum`]).
    ///
    /// # Errors
    /// When the statistics are not those of this network.
    pub fn apply_statistics(&mut self, statistics: Vec<BatchStatistics>, momentum: f64) -> Result<()> {
        let norms: Vec<_> = match &mut self.network {
            Network::Jasper(jasper) => jasper.norms().collect(),
            Network::DeepSpeech2(network) => network.norms().collect(),
        };
        let differ = |expected: String, found: String| {
            let hint = "pass the statistics of exactly one forward pass of this model";
            Err(Error::mismatch("batch statistics", expected, found, hint))
        };
        if norms.len() != statistics.len() {
            let expected = format!("one entry for each of {} batch norms", norms.len());
            return differ(expected, statistics.len().to_string());
        }
        for (index, (norm, statistics)) in norms.iter().zip(&statistics).enumerate() {
            let (expected, found) = (norm.channels(), statistics.mean.dims()[0]);
            if expected != found {
                return differ(format!("{expected} channels in batch norm {index}"), found.to_string());
            }
        }
        for (norm, statistics) in norms.into_iter().zip(&statistics) {
            norm.apply(statistics, momentum);
        }
        Ok(())
    }

    /// Feature frames per output frame.
    pub fn stride(&self) -> usize {
        self.config.stride()
    }

    /// Width of the hidden states.
    pub fn hidden_width(&self) -> usize {
        self.config.hidden_width()
    }

    /// Output frames of `frames` feature frames.
    pub fn output_frames(&self, frames: usize) -> usize {
        self.config.output_frames(frames)
    }

    /// Number of trainable values.
    pub fn trainable_parameters(&self) -> usize {
        parameters::shapes(&self.network)
            .into_iter()
            .filter(|tensor| tensor.trainable)
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum()
    }
}

#[cfg(test)]
mod tests;
