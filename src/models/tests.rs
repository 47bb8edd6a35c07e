#![expect(clippy::cast_possible_truncation, reason = "tests are of f32 values")]

use burn::tensor::{Device, Tensor, TensorData};

use super::jasper::{BlockConfig, Residual, StridePadding};
use super::parameters::UpdateTensor;
use super::*;

fn nano() -> ModelConfig {
    presets::find("jasper-nano").unwrap()
}

fn nano_blocks(config: &mut ModelConfig) -> &mut jasper::JasperConfig {
    let Architecture::Jasper(jasper) = &mut config.architecture;
    jasper
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

#[test]
fn published_parameter_counts() {
    let count = |config: &ModelConfig| Summary::of(config).unwrap().parameters;
    let mini = presets::find("jasper-mini").unwrap();
    assert_eq!(count(&mini), 8_192_733);
    assert_eq!(count(&presets::find("quartznet15x5").unwrap()), 18_924_381);
    assert_eq!(count(&mini.with_width(0.25).unwrap()), 574_173);
    assert_eq!(mini.with_width(0.25).unwrap().hidden_width(), 256);
    assert_eq!(Summary::of(&mini).unwrap().statistics, 36_352);
    assert_eq!(mini.stride(), 2);
}

/// Jasper DR 10x5 is a configuration like any other (facts: 332,632,349 with dense residuals).
#[test]
fn jasper_dr_is_only_another_configuration() {
    let block = |filters, repeat, kernel| BlockConfig {
        filters,
        repeat,
        kernel,
        stride: 1,
        dilation: 1,
        dropout: 0.2,
        separable: false,
        residual: Residual::None,
        dense: false,
    };
    let mut blocks = vec![BlockConfig { stride: 2, ..block(256, 1, 11) }];
    for (filters, kernel) in [(256, 11), (384, 13), (512, 17), (640, 21), (768, 25)] {
        let dense = BlockConfig { residual: Residual::Pointwise, dense: true, ..block(filters, 5, kernel) };
        blocks.extend([dense.clone(), dense]);
    }
    blocks.extend([BlockConfig { dilation: 2, ..block(896, 1, 29) }, block(1024, 1, 1)]);
    let mut config = nano();
    nano_blocks(&mut config).blocks = blocks;
    assert_eq!(Summary::of(&config).unwrap().parameters, 332_632_349);
    for block in &mut nano_blocks(&mut config).blocks {
        block.filters = 8;
        block.repeat = block.repeat.min(2);
    }
    let model = Model::new(config.clone(), 1, &Device::flex()).unwrap();
    assert_eq!(model.trainable_parameters(), Summary::of(&config).unwrap().parameters);
    let output = model.forward(noise([1, 64, 31], 1, &Device::flex()), &[31], Mode::Evaluate);
    assert_eq!((output.frames[0], output.logits.dims()), (16, [1, 16, 29]));
}

#[test]
fn built_networks_have_the_described_parameters() {
    let mini = presets::find("jasper-mini").unwrap().with_width(0.25).unwrap();
    for config in [nano(), mini] {
        let model = Model::new(config.clone(), 1, &Device::flex()).unwrap();
        assert_eq!(model.trainable_parameters(), Summary::of(&config).unwrap().parameters);
    }
}

#[test]
fn unknown_presets_get_a_suggestion() {
    let error = presets::find("jasper-mimi").unwrap_err().to_string();
    assert!(error.contains("did you mean jasper-mini") && error.contains("quartznet15x5"), "{error}");
}

/// Neither other utterances, nor more padding, nor what lies in the padding changes valid frames.
#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    for rule in [StridePadding::Symmetric, StridePadding::Same] {
        let mut model = trained_nano(&device);
        nano_blocks(&mut model.config).padding = rule;
        let saved = parameters::export(&model.network).unwrap();
        let network = Model::new(model.config.clone(), 0, &device).unwrap().network;
        model.network = parameters::import(network, saved).unwrap();
        let lengths = [60, 41, 1, 2];
        let mut batch = noise([4, 64, 66], 9, &device) * 1e3;
        let alone: Vec<Tensor<3>> =
            lengths.iter().zip(10..).map(|(&l, seed)| noise([1, 64, l], seed, &device)).collect();
        for (i, (x, &l)) in alone.iter().zip(&lengths).enumerate() {
            batch = batch.slice_assign([i..i + 1, 0..64, 0..l], x.clone());
        }
        let together = model.forward(batch, &lengths, Mode::Evaluate);
        for (i, (x, &l)) in alone.into_iter().zip(&lengths).enumerate() {
            let single = model.forward(x, &[l], Mode::Evaluate);
            let frames = l.div_ceil(2);
            assert_eq!((together.frames[i], single.frames[0]), (frames, frames));
            assert_eq!(single.logits.dims(), [1, frames, 29]);
            let logits = together.logits.clone().slice([i..i + 1, 0..frames, 0..29]);
            let hidden = together.hidden.clone().slice([i..i + 1, 0..128, 0..frames]);
            let off = relative(logits, single.logits).max(relative(hidden, single.hidden));
            assert!(off < 1e-5, "{rule:?}, length {l}: {off}");
        }
    }
}

/// TensorFlow's rule puts 4 zeros left and 5 right of an even number of frames; an odd one is
/// completed to an even one first.
#[test]
fn stride_padding_follows_its_rule() {
    let shape =
        jasper::LayerShape { inputs: 1, outputs: 1, kernel: 11, stride: 2, dilation: 1, separable: false };
    assert_eq!(shape.padding(StridePadding::Symmetric, 100), (5, 5));
    assert_eq!(shape.padding(StridePadding::Same, 100), (4, 5));
    assert_eq!(shape.padding(StridePadding::Same, 99), (4, 6));
    let dilated = jasper::LayerShape { kernel: 29, stride: 1, dilation: 2, ..shape };
    for rule in [StridePadding::Symmetric, StridePadding::Same] {
        assert_eq!(dilated.padding(rule, 99), (28, 28));
    }
}

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
        norm.normalise(x.clone(), &padding, false, &mut state);
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
        [outputs, inputs, kernel] => (2.0 / ((inputs + outputs) * kernel) as f64).sqrt(),
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
/// ways to treat padding, a strided, a separable, a dense and a residual convolution take part.
#[test]
fn gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    for mode in [BatchNormMode::Padded, BatchNormMode::Valid] {
        let model = Model::new(nano(), 5, &device).unwrap();
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
        assert!(off < 3e-2, "{mode:?}: {off}");
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
            let y = norm.normalise(x, &padding, false, &mut state);
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

#[test]
fn directories_round_trip_and_notice_changes() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let model = trained_nano(&device);
    model.save(dir.path()).unwrap();
    let files =
        |d: &std::path::Path| [MODEL_FILE, WEIGHTS_FILE].map(|name| std::fs::read(d.join(name)).unwrap());
    let first = files(dir.path());
    let loaded = Model::load(dir.path(), &device).unwrap();
    assert_eq!(loaded.config, model.config);
    assert_eq!(parameters::export(&loaded.network).unwrap(), parameters::export(&model.network).unwrap());
    loaded.save(dir.path()).unwrap();
    assert_eq!(files(dir.path()), first, "saving is deterministic");
    assert_eq!(identity(dir.path()).unwrap(), model.identity().unwrap());
    let mut renamed = loaded.clone();
    renamed.config.name = "other".into();
    assert_eq!(renamed.identity().unwrap(), model.identity().unwrap());
    nano_blocks(&mut renamed.config).norm.epsilon = 1e-5;
    assert_ne!(renamed.identity().unwrap(), model.identity().unwrap());

    let weights = dir.path().join(WEIGHTS_FILE);
    let mut bytes = first[1].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    for error in [Model::load(dir.path(), &device).map(|_| ()), identity(dir.path()).map(|_| ())] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(WEIGHTS_FILE) && error.contains("expected BLAKE3"), "{error}");
    }
    std::fs::write(&weights, &first[1]).unwrap();
    let text = String::from_utf8(first[0].clone()).unwrap();
    let refused = |from: &str, to: &str, words: &[&str]| {
        assert!(text.contains(from), "{text}");
        std::fs::write(dir.path().join(MODEL_FILE), text.replacen(from, to, 1)).unwrap();
        let error = Model::load(dir.path(), &device).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)) && error.contains(MODEL_FILE), "{error}");
    };
    refused("version = 1", "version = 2", &["expected 1, found 2"]);
    refused("padding = ", "pading = ", &["unknown field `pading`", "line"]);
    refused("kernel = 11", "kernel = 12", &["blocks[0].kernel", "odd", "12"]);
    refused("filters = 96", "filters = \"x\"", &["filters", "line"]);
}

/// All misfits are named at once.
#[test]
fn misfitting_tensors_are_named() {
    let model = trained_nano(&Device::flex());
    let mut tensors = parameters::export(&model.network).unwrap();
    tensors.remove("head.bias").unwrap();
    let mut odd = tensors["head.weight"].clone();
    odd.shape = vec![128, 29, 1];
    tensors.insert("head.weight".into(), odd.clone());
    tensors.insert("head.extra".into(), odd);
    let error = parameters::import(model.network, tensors).unwrap_err().to_string();
    for words in [
        "head.bias [29] is missing",
        "head.weight: expected shape [29, 128, 1], found [128, 29, 1]",
        "head.extra [128, 29, 1] is not part",
    ] {
        assert!(error.contains(words), "{error}");
    }
}

/// Initial values depend on seed and name only, and have the deviation asked for.
#[test]
fn initial_values_are_seeded() {
    let export =
        |seed| parameters::export(&Model::new(nano(), seed, &Device::flex()).unwrap().network).unwrap();
    let (one, two) = (export(1), export(2));
    assert_eq!(one, export(1));
    let weight = &one["blocks.3.layers.1.weight"];
    assert_ne!(weight.values, two["blocks.3.layers.1.weight"].values);
    let variance =
        weight.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / weight.values.len() as f64;
    // A normal cut at two deviations keeps 0.774 of its variance.
    let expected = 0.774 * 2.6 / 192.0;
    assert!((variance / expected - 1.0).abs() < 0.05, "{variance} {expected}");
}
