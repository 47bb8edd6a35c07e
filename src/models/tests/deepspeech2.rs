//! DeepSpeech 2: counts, lengths, padding, gradients, directories.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use super::*;
use crate::models::deepspeech2::{DeepSpeech2Config, RnnForm};
use crate::models::jasper::StridePadding;
use crate::models::parameters::UpdateTensor;

fn preset(name: &str) -> ModelConfig {
    presets::find(name).unwrap()
}

fn network(config: &mut ModelConfig) -> &mut DeepSpeech2Config {
    match &mut config.architecture {
        Architecture::DeepSpeech2(network) => network,
        other => panic!("{other:?} is no DeepSpeech 2"),
    }
}

/// In `form`, with the smallest preset's sizes.
fn small(form: RnnForm) -> ModelConfig {
    let mut config = preset("deepspeech2-nano");
    network(&mut config).rnn.form = form;
    config
}

const FORMS: [RnnForm; 3] = [RnnForm::TwoStacks, RnnForm::Summed, RnnForm::Concatenated];

#[test]
fn counts_are_those_of_the_references() {
    let count = |config: &ModelConfig| Summary::of(config).unwrap().parameters;
    assert_eq!(count(&preset("deepspeech2")), 13_116_157);
    let mut summed = preset("deepspeech2-summed");
    assert_eq!(count(&summed), 13_123_837);
    network(&mut summed).rnn.biases = 2;
    assert_eq!(count(&summed), 13_136_125);
    // What PyTorch's nn.LSTM has between the same layers.
    network(&mut summed).rnn.form = RnnForm::Concatenated;
    assert_eq!(count(&summed), 17_592_573);
    for (hidden, total) in [(128, 12_981_245), (512, 13_385_981), (1024, 13_925_629)] {
        let mut config = preset("deepspeech2");
        network(&mut config).hidden = hidden;
        assert_eq!(count(&config), total);
    }
    let summary = Summary::of(&preset("deepspeech2")).unwrap();
    assert_eq!((summary.statistics, summary.hidden_width, summary.stride), (128, 256, 2));
    let convolutions: usize =
        summary.layers.iter().filter(|l| l.kind == "conv2d").map(|l| l.parameters).sum();
    assert_eq!(convolutions, 251_104, "the batch norms included");
}

#[test]
fn built_networks_have_the_described_parameters() {
    for form in FORMS {
        for biases in [1, 2] {
            let mut config = small(form);
            network(&mut config).rnn.biases = biases;
            let config = config.with_width(0.5).unwrap();
            let model = Model::new(config.clone(), 1, &Device::flex()).unwrap();
            assert_eq!(model.trainable_parameters(), Summary::of(&config).unwrap().parameters);
        }
    }
    let quarter = preset("deepspeech2").with_width(0.25).unwrap();
    assert_eq!((quarter.hidden_width(), quarter.name.as_str()), (64, "deepspeech2-x0.25"));
}

/// The L2 term takes in what OpenSeq2Seq's `regularizer` does, of either architecture.
#[test]
fn kernels_and_gammas_are_regularised_and_nothing_recurrent() {
    let regularised = |name: &str| -> Vec<String> {
        let model = Model::lazy(&preset(name), &Device::flex()).unwrap();
        let names = parameters::shapes(&model).into_iter().map(|tensor| tensor.name);
        names.filter(|name| model.regularised(name)).collect()
    };
    let mut found = regularised("deepspeech2");
    found.sort();
    let expected = [
        "connected.weight",
        "convolutions.0.norm.gamma",
        "convolutions.0.weight",
        "convolutions.1.norm.gamma",
        "convolutions.1.weight",
        "head.weight",
    ];
    assert_eq!(found, expected);
    // Jasper Mini: 33 separable layers and 10 separable shortcuts of two kernels and a gamma, and the head.
    let found = regularised("jasper-mini");
    assert_eq!(found.len(), 43 * 3 + 1);
    assert!(found.iter().all(|name| !name.ends_with("bias") && !name.ends_with("beta")));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let refused = |change: &dyn Fn(&mut DeepSpeech2Config), word: &str| {
        let mut config = preset("deepspeech2");
        change(network(&mut config));
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("architecture.deepspeech2.") && error.contains(word), "{error}");
    };
    refused(&|c| c.hidden = 0, "hidden");
    refused(&|c| c.rnn.biases = 3, "rnn.biases");
    refused(&|c| c.rnn.layers = 5_000, "rnn.layers");
    refused(&|c| c.dropout = 1.0, "dropout");
    refused(&|c| c.convolutions[1].kernel = [11, 20], "convolutions[1].kernel");
    refused(&|c| c.convolutions[0].stride = [0, 1], "convolutions[0].filters, kernel, stride");
    refused(&|c| c.convolutions.clear(), "convolutions");
}

/// A model whose running statistics are not the initial ones.
fn trained(config: ModelConfig, device: &Device) -> Model {
    let autodiff = device.clone().autodiff();
    let mut model = Model::new(config, 3, &autodiff).unwrap();
    for step in 0..2 {
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "dropout", &[]));
        model.forward(noise([2, 64, 60], step, &autodiff), &[60, 41], Mode::Train(&mut state));
        model.apply_statistics(state.statistics, 0.5).unwrap();
    }
    model.valid()
}

/// Neither other utterances, nor more padding, nor what lies in the padding changes valid frames.
#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    for (form, rule) in FORMS
        .into_iter()
        .flat_map(|f| [StridePadding::Symmetric, StridePadding::Same].into_iter().map(move |rule| (f, rule)))
    {
        let mut config = small(form);
        network(&mut config).padding = rule;
        let model = trained(config, &device);
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
            assert_eq!((model.output_frames(l), single.logits.dims()), (frames, [1, frames, 29]));
            let logits = together.logits.clone().slice([i..i + 1, 0..frames, 0..29]);
            let hidden = together.hidden.clone().slice([i..i + 1, 0..96, 0..frames]);
            let off = relative(logits, single.logits).max(relative(hidden, single.hidden));
            assert!(off < 1e-5, "{form:?} {rule:?}, length {l}: {off}");
        }
    }
}

#[test]
fn directories_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(RnnForm::Summed);
    network(&mut config).rnn.biases = 2;
    network(&mut config).padding = StridePadding::Same;
    let model = trained(config, &Device::flex());
    model.save(dir.path()).unwrap();
    let loaded = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(loaded.config, model.config);
    let tensors = parameters::export(&loaded.network).unwrap();
    assert_eq!(tensors, parameters::export(&model.network).unwrap());
    for name in [
        "layers.1.reverse.second_bias",
        "layers.0.forward.input",
        "convolutions.0.norm.gamma",
        "connected.bias",
    ] {
        assert!(tensors.contains_key(name), "{name} of {:?}", tensors.keys());
    }
    let text = std::fs::read_to_string(dir.path().join(MODEL_FILE)).unwrap();
    assert!(text.contains("[architecture.deepspeech2]") && text.contains("form = \"summed\""), "{text}");
}

#[test]
fn forget_gates_start_open() {
    let model = Model::new(small(RnnForm::TwoStacks), 1, &Device::flex()).unwrap();
    let tensors = parameters::export(&model.network).unwrap();
    let bias = &tensors["layers.0.reverse.gate_bias"].values;
    assert!(bias.iter().enumerate().all(|(i, &b)| b == f32::from(u8::from((64..128).contains(&i)))));
    let weight = &tensors["layers.0.forward.recurrent"].values;
    let deviation = (weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32).sqrt();
    assert!((deviation - 0.88 * (2.6f32 / 320.0).sqrt()).abs() < 0.003, "{deviation}");
}

/// Takes a step down the gradient.
struct Descend<'a> {
    gradients: &'a burn::tensor::Gradients,
    without: Vec<String>,
}

impl UpdateTensor for Descend<'_> {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        match tensor.grad(self.gradients) {
            Some(gradient) if trainable => tensor.without_autodiff() - gradient * 2e-3,
            found => {
                if found.is_none() == trainable {
                    self.without.push(name.to_owned());
                }
                tensor
            }
        }
    }
}

/// Every parameter has a gradient, and following it lowers the loss; twice the same gives the same bits.
#[test]
fn training_descends_and_repeats() {
    let device = Device::flex().autodiff();
    for form in FORMS {
        for mode in [BatchNormMode::Padded, BatchNormMode::Valid] {
            let run = || {
                let mut config = small(form);
                network(&mut config).rnn.dropout = 0.1;
                network(&mut config).dropout = 0.1;
                let mut model = Model::new(config, 5, &device).unwrap();
                let mut losses = Vec::new();
                for _ in 0..4 {
                    let mut state = TrainState::new(mode, Random::new(7, "dropout", &[]));
                    let x = noise([2, 64, 50], 1, &device);
                    let output = model.forward(x, &[50, 34], Mode::Train(&mut state));
                    let mask = padding::Padding::new(output.frames, 25, &device).mask().unwrap();
                    let loss = (output.logits.square() * mask.swap_dims(1, 2)).mean();
                    losses.push(values(loss.clone())[0]);
                    let gradients = loss.backward();
                    let mut step = Descend { gradients: &gradients, without: Vec::new() };
                    model.network = parameters::map(model.network, &mut step);
                    assert!(step.without.is_empty(), "no gradient: {:?}", step.without);
                    model.apply_statistics(state.statistics, 0.1).unwrap();
                }
                let bits: BTreeMap<_, _> = parameters::export(&model.network).unwrap();
                (losses, bits)
            };
            let (losses, bits) = run();
            assert!(losses.is_sorted_by(|a, b| a > b), "{form:?} {mode:?} {losses:?}");
            assert!(run() == (losses, bits), "{form:?} {mode:?}");
        }
    }
}
