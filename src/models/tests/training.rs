//! Batch norm, dropout and gradients.

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::models::parameters::UpdateTensor;

/// Statistics against the definition, and the two ways to treat padding.
#[test]
fn batch_statistics_follow_the_mode() {
    let device = Device::flex().autodiff();
    let norm = norm::BatchNorm::lazy(2, 1e-3, &device);
    let x = Tensor::<3>::from_floats(
        [[[1.0, 2.0, 6.0], [0.0, 1.0, 5.0]], [[3.0, 9.0, 9.0], [2.0, 7.0, 7.0]]],
        &device,
    );
    let padding = padding::Padding::new(vec![3, 1], 3, &device);
    let run = |mode| {
        let mut state = TrainState::new(mode, Random::new(0, "", &[]));
        norm.normalise(x.clone(), &padding, None, &mut state);
        let statistics = state.statistics.remove(0);
        (values(statistics.mean), values(statistics.variance))
    };
    let close = |found: &[f32], expected: &[f32]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    };
    let (mean, variance) = run(BatchNormMode::Valid);
    close(&mean, &[3.0, 2.0]);
    close(&variance, &[14.0 / 3.0, 14.0 / 3.0]);
    let (mean, variance) = run(BatchNormMode::Padded);
    close(&mean, &[5.0, 22.0 / 6.0]);
    close(&variance, &[12.4, 9.466_667]);
}

/// The way of devices without a kernel gives what the CPU's kernel gives.
#[test]
fn composed_batch_norm_equals_the_kernel() {
    let device = Device::flex().autodiff();
    let mut norm = norm::BatchNorm::lazy(5, 1e-3, &device);
    norm.gamma = norm.gamma.map(|_| (noise([5, 1, 1], 1, &device).reshape([5]) + 2.0).require_grad());
    norm.beta = norm.beta.map(|_| noise([5, 1, 1], 2, &device).reshape([5]).require_grad());
    let padding = padding::Padding::new(vec![20, 13, 1], 20, &device);
    let upstream = padding.apply(noise([3, 5, 20], 4, &device));
    for mode in [BatchNormMode::Padded, BatchNormMode::Valid] {
        let run = |composed: bool| {
            let x = (noise([3, 5, 20], 3, &device) * 2.0 + 1.0).require_grad();
            let mut state = TrainState::new(mode, Random::new(0, "", &[]));
            let y = if composed {
                norm.in_tensor_operations(x.clone(), &padding, Some(&padding), &mut state)
            } else {
                norm.normalise(x.clone(), &padding, Some(&padding), &mut state)
            };
            let gradients = (y.clone() * upstream.clone()).sum().backward();
            let statistics = state.statistics.remove(0);
            let mut all = [values(y), values(statistics.mean), values(statistics.variance)].concat();
            all.extend(values(x.grad(&gradients).unwrap()));
            all.extend(values(norm.gamma.grad(&gradients).unwrap()));
            all.extend(values(norm.beta.grad(&gradients).unwrap()));
            Tensor::<1>::from_floats(all.as_slice(), &Device::flex())
        };
        let off = relative(run(true), run(false));
        assert!(off < 1e-5, "{mode:?} {off}");
    }
}

/// A forward pass changes nothing; accepted statistics move the running ones.
#[test]
fn running_statistics_move_on_request_only() {
    let device = Device::flex().autodiff();
    let mut model = Model::new(nano(), 1, &device).unwrap();
    let before = parameters::export(&model.network).unwrap();
    let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "", &[]));
    model.forward(noise([2, 64, 40], 1, &device), &[40, 30], Mode::Train(&mut state));
    assert_eq!(parameters::export(&model.network).unwrap(), before);
    let first = values(state.statistics[0].mean.clone());
    let mut others = state.statistics.clone();
    model.apply_statistics(state.statistics, 0.25).unwrap();
    let after = parameters::export(&model.network).unwrap();
    let moved = &after["blocks.0.layers.0.norm.running_mean"].values;
    assert!(moved.iter().zip(&first).all(|(a, b)| (a - 0.25 * b).abs() < 1e-7));
    for (name, tensor) in &after {
        assert_eq!(tensor.trainable, *tensor == before[name], "{name}");
    }
    others.swap(0, 5);
    let error = model.apply_statistics(others.clone(), 0.25).unwrap_err().to_string();
    assert!(error.contains("64 channels") && error.contains("96"), "{error}");
    others.truncate(3);
    let error = model.apply_statistics(others, 0.25).unwrap_err().to_string();
    assert!(error.contains("each of 11 batch norms"), "{error}");
    assert_eq!(parameters::export(&model.network).unwrap(), after, "a refusal leaves no trace");
}

/// Dropout depends on its stream alone, zeroes the share asked for and keeps the mean.
#[test]
fn dropout_is_seeded() {
    let device = Device::flex();
    let run = |seed| {
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(seed, "dropout", &[]));
        values(state.drop_out(Tensor::ones([4, 50, 50], &device), 0.3))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let kept = run(1).iter().filter(|&&v| v > 0.0).count() as f64 / 10_000.0;
    let mean = run(1).iter().sum::<f32>() / 10_000.0;
    assert!((kept - 0.7).abs() < 0.02 && (mean - 1.0).abs() < 0.03, "{kept} {mean}");
}

/// Scales one tensor by a factor near 1, or moves it along a direction.
struct Move {
    step: f64,
    seed: u64,
}

impl UpdateTensor for Move {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if trainable { tensor.clone() + direction(name, self.seed, &tensor) * self.step } else { tensor }
    }
}

/// Noise as large as the tensor's initial values: a step means the same to each of them.
fn direction<const D: usize>(name: &str, seed: u64, like: &Tensor<D>) -> Tensor<D> {
    let mut random = Random::new(seed, name, &[]);
    let shape = like.dims();
    let scale = match shape.as_slice() {
        [outputs, inputs, kernel @ ..] => {
            (2.0 / ((inputs + outputs) * kernel.iter().product::<usize>()) as f64).sqrt()
        }
        _ => 1.0,
    };
    let draws: Vec<f32> = (0..shape.iter().product()).map(|_| (scale * random.normal()) as f32).collect();
    Tensor::from_data(TensorData::new(draws, shape), &like.device())
}

/// Sums gradient times direction over all tensors.
struct Slope<'a> {
    gradients: &'a burn::tensor::Gradients,
    seed: u64,
    slope: f64,
    without: Vec<String>,
}

impl UpdateTensor for Slope<'_> {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if trainable {
            match tensor.grad(self.gradients) {
                Some(gradient) => {
                    let along = gradient * direction(name, self.seed, &tensor.clone().inner());
                    self.slope += values(along).iter().map(|&v| f64::from(v)).sum::<f64>();
                }
                None => self.without.push(name.to_owned()),
            }
        }
        tensor
    }
}

/// The gradient of a whole network along random directions, against finite differences. Both
/// ways to treat padding, a strided, a separable, a dense and a residual convolution take part, and
/// convolutions in two dimensions with recurrent layers.
#[test]
fn gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    let recurrent = presets::find("deepspeech2-nano").unwrap();
    let modes = [BatchNormMode::Padded, BatchNormMode::Valid];
    for (config, mode) in [nano(), recurrent].into_iter().flat_map(|c| modes.map(|mode| (c.clone(), mode))) {
        let name = config.name.clone();
        let model = Model::new(config, 5, &device).unwrap();
        let x = noise([2, 64, 50], 1, &device);
        let weights = noise([2, 25, 29], 2, &device);
        // Smooth in the logits and blind to padding, as every objective must be.
        let mask = padding::Padding::new(vec![25, 17], 25, &device).mask().unwrap().swap_dims(1, 2);
        let loss = |model: &Model| {
            let mut state = TrainState::new(mode, Random::new(0, "", &[]));
            let logits = model.forward(x.clone(), &[50, 34], Mode::Train(&mut state)).logits;
            (logits.tanh() * weights.clone() * mask.clone()).sum()
        };
        let gradients = loss(&model).backward();
        let (mut wrong, mut right) = (0.0, 0.0);
        for seed in 0..6 {
            let mut slope = Slope { gradients: &gradients, seed, slope: 0.0, without: Vec::new() };
            parameters::map(model.network.clone(), &mut slope);
            assert!(slope.without.is_empty(), "no gradient: {:?}", slope.without);
            let moved = |step: f64| {
                let network = parameters::map(model.network.clone(), &mut Move { step, seed });
                let model = Model { config: model.config.clone(), network };
                f64::from(values(loss(&model))[0])
            };
            // ReLU bends, so the step must be small; then f32 leaves two digits of the difference.
            let step = 1e-5;
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            wrong += (difference - slope.slope).powi(2);
            right += slope.slope.powi(2);
        }
        let off = (wrong / right).sqrt();
        assert!(off < 3e-2, "{name} {mode:?}: {off}");
    }
}

/// Batch norm alone bends nowhere: its gradient is held to three digits.
#[test]
fn batch_norm_gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    let norm = norm::BatchNorm::lazy(5, 1e-3, &device);
    let parameter = |seed| noise([5, 1, 1], seed, &device).reshape([5]);
    let (gamma, beta) = (parameter(1) + 2.0, parameter(2));
    let x = noise([3, 5, 20], 3, &device) * 2.0 + 1.0;
    let directions = (parameter(4), parameter(5), noise([3, 5, 20], 6, &device));
    let weights = noise([3, 5, 20], 7, &device);
    let padding = padding::Padding::new(vec![20, 13, 1], 20, &device);
    for mode in [BatchNormMode::Padded, BatchNormMode::Valid] {
        let loss = |gamma: Tensor<1>, beta: Tensor<1>, x: Tensor<3>| {
            let mut norm = norm.clone();
            norm.gamma = norm.gamma.map(|_| gamma);
            norm.beta = norm.beta.map(|_| beta);
            let mut state = TrainState::new(mode, Random::new(0, "", &[]));
            let y = norm.normalise(x, &padding, None, &mut state);
            padding.apply(y.tanh() * weights.clone()).sum()
        };
        let leaves = [gamma.clone(), beta.clone()].map(Tensor::require_grad);
        let input = x.clone().require_grad();
        let [g, b] = leaves.clone();
        let gradients = loss(g, b, input.clone()).backward();
        let along = |tensor: &Tensor<1>, direction: &Tensor<1>| {
            (tensor.grad(&gradients).unwrap() * direction.clone().inner()).sum().into_scalar::<f32>()
        };
        let slope = along(&leaves[0], &directions.0)
            + along(&leaves[1], &directions.1)
            + (input.grad(&gradients).unwrap() * directions.2.clone().inner()).sum().into_scalar::<f32>();
        let moved = |step: f64| {
            let (g, b, d) = directions.clone();
            values(loss(gamma.clone() + g * step, beta.clone() + b * step, x.clone() + d * step))[0]
        };
        let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((slope - difference).abs() < 2e-3 * slope.abs().max(1.0), "{mode:?} {slope} {difference}");
    }
}

/// `map` gives leaves back: a second step finds gradients again.
#[test]
fn updated_parameters_still_train() {
    let device = Device::flex().autodiff();
    let mut model = Model::new(nano(), 5, &device).unwrap();
    for _ in 0..2 {
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "", &[]));
        let output = model.forward(noise([1, 64, 20], 1, &device), &[20], Mode::Train(&mut state));
        let gradients = output.logits.square().sum().backward();
        let mut slope = Slope { gradients: &gradients, seed: 0, slope: 0.0, without: Vec::new() };
        parameters::map(model.network.clone(), &mut slope);
        assert!(slope.without.is_empty(), "no gradient: {:?}", slope.without);
        assert_eq!(
            parameters::shapes(&model.network).len(),
            parameters::export(&model.network).unwrap().len()
        );
        model.network = parameters::map(model.network, &mut Move { step: 1e-3, seed: 1 });
    }
}
