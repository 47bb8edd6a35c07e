//! Initial values, a function of the seed and of each tensor's name.

use std::collections::BTreeMap;

use burn::module::Module;

use super::parameters::{HostTensor, shapes};
use crate::random::Random;

/// Values for every tensor of `network`.
///
/// Convolutions: normal with standard deviation sqrt(2.6 / (fan in + fan out)), cut at two
/// deviations (TensorFlow's `xavier_initializer(uniform=False)`, which OpenSeq2Seq's Jasper
/// configurations name). Matrices of recurrent layers: the same, their rows being outputs. Gamma, running variance and
/// the forget gate's bias (TensorFlow's `forget_bias`) 1, all else 0.
pub fn values<M: Module>(network: &M, seed: u64) -> BTreeMap<String, HostTensor> {
    shapes(network)
        .into_iter()
        .map(|tensor| {
            let count = tensor.shape.iter().product();
            let values = match (tensor.shape.as_slice(), tensor.name.rsplit('.').next()) {
                (&[outputs, inputs, ref kernel @ ..], _) => {
                    let kernel: usize = kernel.iter().product();
                    let mut random = Random::new(seed, &format!("init {}", tensor.name), &[]);
                    let deviation = (2.6 / ((inputs + outputs) * kernel) as f64).sqrt();
                    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
                    let draw = || (truncated_normal(&mut random) * deviation) as f32;
                    std::iter::repeat_with(draw).take(count).collect()
                }
                (_, Some("gamma" | "running_variance")) => vec![1.0; count],
                // The second of four gates.
                (_, Some("gate_bias")) => {
                    (0..count).map(|i| f32::from(u8::from(i / (count / 4) == 1))).collect()
                }
                _ => vec![0.0; count],
            };
            (tensor.name, HostTensor { shape: tensor.shape, values, trainable: tensor.trainable })
        })
        .collect()
}

fn truncated_normal(random: &mut Random) -> f64 {
    loop {
        let value = random.normal();
        if value.abs() < 2.0 {
            return value;
        }
    }
}
