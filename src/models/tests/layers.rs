//! Outputs of inner layers.

use burn::tensor::{Device, Tensor};

use super::*;
use crate::models::deepspeech2::{DeepSpeech2Config, RnnForm};

const LENGTHS: [usize; 2] = [60, 41];

fn network(config: &mut ModelConfig) -> &mut DeepSpeech2Config {
    match &mut config.architecture {
        Architecture::DeepSpeech2(network) => network,
        other => panic!("{other:?} is no DeepSpeech 2"),
    }
}

fn run(config: &ModelConfig, layers: &[HiddenLayer]) -> Output {
    let device = Device::flex();
    let model = Model::new(config.clone(), 5, &device).unwrap();
    model.forward_with(noise([2, 64, 60], 8, &device), &LENGTHS, Mode::Evaluate, layers)
}

/// The valid frames of a [batch, width, frames] tensor, utterance by utterance.
fn valid(x: &Tensor<3>, frames: &[usize]) -> Vec<f32> {
    let [_, width, _] = x.dims();
    let part = |(row, &frames): (usize, &usize)| values(x.clone().slice([row..row + 1, 0..width, 0..frames]));
    frames.iter().enumerate().flat_map(part).collect()
}

/// Initial values depend on seed and name alone, so a network that ends after a block is the beginning of the whole.
#[test]
fn an_inner_layer_of_jasper_is_the_last_of_a_network_that_ends_there() {
    let mut dense = nano();
    for block in nano_blocks(&mut dense).blocks.iter_mut().filter(|b| b.residual != jasper::Residual::None) {
        block.dense = true;
    }
    for whole in [nano(), dense] {
        let blocks = nano_blocks(&mut whole.clone()).blocks.len();
        let all: Vec<HiddenLayer> = (0..u32::try_from(blocks - 1).unwrap()).map(HiddenLayer::Inner).collect();
        let taps = run(&whole, &all);
        assert_eq!((taps.layers.len(), all.len() > 2), (blocks - 1, true));
        for (number, tap) in taps.layers.iter().enumerate() {
            let mut part = whole.clone();
            nano_blocks(&mut part).blocks.truncate(number + 1);
            let expected = run(&part, &[]).hidden;
            assert_eq!(valid(tap, &taps.frames), valid(&expected, &taps.frames), "block {number}");
            assert_eq!(whole.layer_width(all[number]).unwrap(), tap.dims()[1]);
        }
    }
}

#[test]
fn an_inner_layer_of_deepspeech2_is_what_the_connected_layer_reads_of_a_network_that_ends_there() {
    for form in [RnnForm::TwoStacks, RnnForm::Summed, RnnForm::Concatenated] {
        let mut whole = presets::find("deepspeech2-nano").unwrap();
        network(&mut whole).rnn.form = form;
        network(&mut whole).rnn.layers = 3;
        let all = [HiddenLayer::Inner(2), HiddenLayer::Inner(0), HiddenLayer::Last, HiddenLayer::Inner(1)];
        let taps = run(&whole, &all);
        assert_eq!(values(taps.layers[2].clone()), values(taps.hidden.clone()));
        for (number, tap) in [(2, 0), (0, 1), (1, 3)] {
            let tap = &taps.layers[tap];
            let mut part = whole.clone();
            network(&mut part).rnn.layers = number + 1;
            let device = Device::flex();
            let model = Model::new(part.clone(), 5, &device).unwrap();
            let tensors = parameters::export(&model.network).unwrap();
            let (weight, bias) = (&tensors["connected.weight"].values, &tensors["connected.bias"].values);
            let hidden = run(&part, &[]).hidden;
            let [_, width, frames] = tap.dims();
            assert_eq!(whole.layer_width(HiddenLayer::Inner(number as u32)).unwrap(), width);
            let (tap, hidden, outputs) = (values(tap.clone()), values(hidden), bias.len());
            for (row, &valid) in taps.frames.iter().enumerate() {
                for (frame, out) in (0..valid).flat_map(|t| (0..outputs).map(move |o| (t, o))) {
                    let products = (0..width).map(|d| {
                        f64::from(weight[out * width + d])
                            * f64::from(tap[(row * width + d) * frames + frame])
                    });
                    let expected = (f64::from(bias[out]) + products.sum::<f64>()).max(0.0);
                    let found = f64::from(hidden[(row * outputs + out) * frames + frame]);
                    assert!((found - expected).abs() < 1e-5, "{form:?} layer {number}: {found} {expected}");
                }
            }
        }
    }
}

#[test]
fn layers_that_do_not_exist_or_have_more_frames_are_refused() {
    let error = |config: &ModelConfig, number| {
        config.layer_width(HiddenLayer::Inner(number)).unwrap_err().to_string()
    };
    let mini = presets::find("jasper-mini").unwrap();
    assert_eq!(mini.layer_width(HiddenLayer::Inner(5)).unwrap(), 512);
    assert_eq!(mini.layer_width(HiddenLayer::Last).unwrap(), 1024);
    for number in [12, 99] {
        let error = error(&mini, number);
        assert!(error.contains("last, or 0 to 11 (blocks.0 to blocks.11)"), "{error}");
    }
    assert!(
        error(&mini, 12).contains("blocks.12 is the last layer") && error(&mini, 99).contains("blocks.K")
    );
    let mut late = nano();
    nano_blocks(&mut late).blocks[2] =
        jasper::BlockConfig { stride: 2, ..nano_blocks(&mut nano()).blocks[0].clone() };
    assert!(error(&late, 1).contains("last, or 2 to 3"));
    assert!(late.layer_width(HiddenLayer::Inner(2)).is_ok());
    let deep = presets::find("deepspeech2").unwrap();
    assert_eq!(deep.layer_width(HiddenLayer::Inner(0)).unwrap(), 1024);
    assert!(error(&deep, 3).contains("last, or 0 to 2 (layers.0"));
}
