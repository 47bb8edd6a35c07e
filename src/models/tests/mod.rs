//! Tests of the models on the CPU; what they share.

#![expect(clippy::cast_possible_truncation, reason = "tests are of f32 values")]

mod deepspeech2;
mod directory;
mod layers;
mod network;
mod training;

use burn::tensor::{Device, Tensor, TensorData};

use super::*;

fn nano() -> ModelConfig {
    presets::find("jasper-nano").unwrap()
}

fn nano_blocks(config: &mut ModelConfig) -> &mut jasper::JasperConfig {
    match &mut config.architecture {
        Architecture::Jasper(jasper) => jasper,
        other => panic!("{other:?} is no Jasper"),
    }
}

fn noise(shape: [usize; 3], seed: u64, device: &Device) -> Tensor<3> {
    let mut random = Random::new(seed, "test", &[]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn relative<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let (found, expected) = (values(found), values(expected));
    assert_eq!(found.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&x| f64::from(x)))
}

/// A model whose running statistics are not the initial ones.
fn trained_nano(device: &Device) -> Model {
    let mut model = Model::new(nano(), 3, &device.clone().autodiff()).unwrap();
    for step in 0..3 {
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "dropout", &[]));
        model.forward(
            noise([2, 64, 60], step, &device.clone().autodiff()),
            &[60, 41],
            Mode::Train(&mut state),
        );
        model.apply_statistics(state.statistics, 0.5).unwrap();
    }
    model.valid()
}
