//! The LSTM layer, and a network of such layers, on a GPU backend, where it is made of the tensor library's
//! operations.

use burn::tensor::{Device, Tensor, TensorData};
use tutornet::device::DeviceChoice;
use tutornet::kernels::{LstmWeights, Together, bi_lstm};
use tutornet::models::parameters::UpdateTensor;
use tutornet::models::{BatchNormMode, Mode, Model, TrainState, parameters, presets};
use tutornet::random::Random;

use crate::harness::not_run;

const LENGTHS: [usize; 4] = [12, 1, 7, 11];

fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = Random::new(seed, "lstm", &[]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.4 * random.normal() as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn close(found: &[f32], expected: &[f32], tolerance: f64, name: &str) {
    assert_eq!(found.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    assert!(off <= tolerance * norm(&mut expected.iter().copied()), "{name} {off}");
}

/// Output and all gradients, one after the other.
fn all(device: &Device, together: Together) -> Vec<f32> {
    let device = device.clone().autodiff();
    let (inputs, hidden) = (10, 12);
    let x = noise([4, 13, inputs], 1, &device).require_grad();
    let read = if together.apart { inputs / 2 } else { inputs };
    let [a, b] = [2, 5].map(|seed| LstmWeights {
        input: noise([4 * hidden, read], seed, &device).require_grad(),
        recurrent: noise([4 * hidden, hidden], seed + 1, &device).require_grad(),
        bias: noise([4 * hidden], seed + 2, &device).require_grad(),
    });
    let y = bi_lstm(x.clone(), a.clone(), b.clone(), &LENGTHS, together);
    let of = (y.clone() * noise(y.dims(), 9, &device)).sum().backward();
    let mut all = [host(y), host(x.grad(&of).unwrap())].concat();
    for w in [a, b] {
        all.extend(host(w.input.grad(&of).unwrap()));
        all.extend(host(w.recurrent.grad(&of).unwrap()));
        all.extend(host(w.bias.grad(&of).unwrap()));
    }
    all
}

#[test]
fn wgpu_computes_the_layer_that_the_cpu_computes() {
    let name = "lstm: wgpu_computes_the_layer_that_the_cpu_computes";
    let Ok(gpu) = DeviceChoice::Wgpu(None).open() else { return not_run(name, "no Vulkan driver") };
    for (apart, summed) in [(false, false), (true, false), (false, true)] {
        let together = Together { apart, summed };
        let (found, expected) = (all(&gpu, together), all(&Device::flex(), together));
        close(&found, &expected, 1e-5, &format!("{together:?}"));
    }
}

/// Collects the gradient of every trainable tensor.
struct Collect<'a> {
    of: &'a burn::tensor::Gradients,
    all: &'a mut Vec<f32>,
}

impl UpdateTensor for Collect<'_> {
    fn update<const D: usize>(&mut self, _name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if trainable {
            self.all.extend(host(tensor.grad(self.of).expect("a gradient")));
        }
        tensor
    }
}

#[test]
fn wgpu_computes_the_network_that_the_cpu_computes() {
    let name = "lstm: wgpu_computes_the_network_that_the_cpu_computes";
    let Ok(gpu) = DeviceChoice::Wgpu(None).open() else { return not_run(name, "no Vulkan driver") };
    let run = |device: &Device| {
        let config = presets::find("deepspeech2-nano").unwrap().with_width(0.5).unwrap();
        let autodiff = device.clone().autodiff();
        let model = Model::new(config, 3, &autodiff).unwrap();
        let evaluated = model.valid().forward(noise([2, 64, 30], 1, device), &[30, 30], Mode::Evaluate);
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(2, "dropout", &[]));
        let output = model.forward(noise([2, 64, 30], 1, &autodiff), &[30, 21], Mode::Train(&mut state));
        let loss = output.logits.slice([0..2, 0..11, 0..29]).square().sum();
        let mut all = host(loss.clone());
        for statistics in state.statistics {
            all.extend([host(statistics.mean), host(statistics.variance)].concat());
        }
        parameters::map(model.network, &mut Collect { of: &loss.backward(), all: &mut all });
        (host(evaluated.logits), all)
    };
    let (found, expected) = (run(&gpu), run(&Device::flex()));
    close(&found.0, &expected.0, 1e-4, "evaluation");
    close(&found.1, &expected.1, 1e-3, "training");
}
