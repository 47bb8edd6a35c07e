//! Shapes, counts, lengths and padding.

use burn::tensor::{Device, Tensor};

use super::*;
use crate::models::jasper::StridePadding;

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

/// The counts of Jasper DR 10x5, block by block, and a small one of the same form.
#[test]
fn jasper_dr_has_its_published_blocks() {
    let mut config = presets::find("jasper-dr").unwrap();
    let summary = Summary::of(&config).unwrap();
    assert_eq!((summary.parameters, summary.statistics, summary.hidden_width), (332_632_349, 122_112, 1024));
    let count = |index: usize| {
        let prefix = format!("blocks.{index}.");
        summary.layers.iter().filter(|l| l.name.starts_with(&prefix)).map(|l| l.parameters).sum::<usize>()
    };
    assert_eq!((count(0), count(1), count(5), count(10)), (180_736, 3_673_088, 21_964_800, 77_289_984));
    assert_eq!((count(11), count(12)), (19_957_504, 919_552));
    let residuals = summary.layers.iter().filter(|l| l.kind == "residual").count();
    assert_eq!((summary.layers.len(), residuals), (108 + 1, 55));
    assert_eq!((config.padding(), summary.frontend.as_str()), (StridePadding::Same, "openseq2seq"));
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
    for (wrong, right) in
        [("jasper-mimi", "did you mean jasper-mini"), ("deepspeech", "did you mean deepspeech2")]
    {
        let error = presets::find(wrong).unwrap_err().to_string();
        assert!(error.contains(right) && error.contains("quartznet15x5"), "{error}");
    }
    assert!(!presets::find("whisper").unwrap_err().to_string().contains("did you mean"));
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
