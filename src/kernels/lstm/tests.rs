//! The layer against PyTorch in double precision, against itself, and the same bits whatever the threads.

#![expect(clippy::cast_possible_truncation, reason = "tests are of f32 values")]

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;

use super::cpu::{self, Sizes, Weights};
use super::*;
use crate::kernels::lanes::{Width, sigmoid, tanh, widths};
use crate::random::Random;

const GOLDEN: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/lstm/lstm.safetensors"));

fn noise(count: usize, seed: u64, scale: f64) -> Vec<f32> {
    let mut random = Random::new(seed, "lstm", &[]);
    (0..count).map(|_| (scale * random.normal()) as f32).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let scale = norm(&mut expected.iter().map(|&v| f64::from(v)));
    assert!(off <= tolerance * scale, "{name}: {off:.2e} of {scale:.2e}");
}

/// A batch, its weights by direction, and what must come of them.
#[derive(Clone)]
struct Case {
    name: String,
    shape: [usize; 3],
    lengths: Vec<usize>,
    hidden: usize,
    x: Vec<f32>,
    dy: Vec<f32>,
    weights: [[Vec<f32>; 3]; 2],
    y: Vec<f32>,
    dx: Vec<f32>,
    gradients: [[Vec<f32>; 3]; 2],
}

fn golden() -> Vec<Case> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let read = |name: String| {
        let view = file.tensor(&name).unwrap();
        let words = view.data().chunks_exact(4).map(|b| b.try_into().unwrap());
        let values: Vec<f32> = match view.dtype() {
            safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            _ => words.map(f32::from_le_bytes).collect(),
        };
        (values, view.shape().to_vec())
    };
    let cases = ["odd", "single", "alone", "short", "wide"].map(|name| {
        let get = |key: &str| read(format!("{name}.{key}"));
        let (x, shape) = get("x");
        let three =
            |d: &str, p: &str| ["input", "recurrent", "bias"].map(|key| get(&format!("{d}.{p}{key}")).0);
        Case {
            name: name.to_owned(),
            shape: shape.try_into().unwrap(),
            lengths: get("lengths").0.iter().map(|&v| v as usize).collect(),
            hidden: get("forward.recurrent").1[1],
            x,
            dy: get("dy").0,
            weights: ["forward", "reverse"].map(|d| three(d, "")),
            y: get("y").0,
            dx: get("dx").0,
            gradients: ["forward", "reverse"].map(|d| three(d, "d")),
        }
    });
    cases.to_vec()
}

impl Case {
    fn x(&self, device: &Device) -> Tensor<3> {
        tensor(self.x.clone(), self.shape, device).require_grad()
    }

    fn dy(&self, device: &Device) -> Tensor<3> {
        let [batch, frames, _] = self.shape;
        tensor(self.dy.clone(), [batch, frames, 2 * self.hidden], device)
    }

    fn weights(&self, direction: usize, inputs: usize, device: &Device) -> LstmWeights {
        let [input, recurrent, bias] = self.weights[direction].clone();
        LstmWeights {
            input: tensor(input, [4 * self.hidden, inputs], device).require_grad(),
            recurrent: tensor(recurrent, [4 * self.hidden, self.hidden], device).require_grad(),
            bias: tensor(bias, [4 * self.hidden], device).require_grad(),
        }
    }

    /// What lies in the padding is no number.
    fn spoilt(&self) -> Self {
        let [_, frames, inputs] = self.shape;
        let mut case = self.clone();
        for (i, value) in case.x.iter_mut().enumerate() {
            if i / inputs % frames >= self.lengths[i / inputs / frames] {
                *value = f32::NAN;
            }
        }
        case
    }
}

fn gradients(weights: &LstmWeights, of: &burn::tensor::Gradients) -> [Vec<f32>; 3] {
    [
        host(weights.input.grad(of).unwrap()),
        host(weights.recurrent.grad(of).unwrap()),
        host(weights.bias.grad(of).unwrap()),
    ]
}

/// y, dx and every weight's gradient of a way to compute the layer.
fn compare(case: &Case, way: impl Fn(Tensor<3>, [LstmWeights; 2]) -> Tensor<3>) {
    let device = Device::flex().autodiff();
    let x = case.x(&device);
    let weights = [0, 1].map(|d| case.weights(d, case.shape[2], &device));
    let y = way(x.clone(), weights.clone());
    let of = (y.clone() * case.dy(&device)).sum().backward();
    let name = &case.name;
    close(&format!("{name} y"), &host(y), &case.y, 1e-5);
    close(&format!("{name} dx"), &host(x.grad(&of).unwrap()), &case.dx, 1e-5);
    for (d, (weights, expected)) in weights.iter().zip(&case.gradients).enumerate() {
        for (i, (found, expected)) in gradients(weights, &of).iter().zip(expected).enumerate() {
            close(&format!("{name} direction {d} gradient {i}"), found, expected, 1e-5);
        }
    }
}

#[test]
fn equals_pytorch_in_double_precision() {
    for case in golden() {
        for case in [case.spoilt(), case] {
            compare(&case, |x, [a, b]| bi_lstm(x, a, b, &case.lengths, Together::default()));
            compare(&case, |x, [a, b]| composed::both(x, [&a, &b], &case.lengths, Together::default()));
            compare(&case, |x, [a, b]| {
                let y = lstm(x.clone(), a, &case.lengths, false);
                Tensor::cat(vec![y, lstm(x, b, &case.lengths, true)], 2)
            });
        }
    }
}

/// A layer with random values, deeper than a block of the product.
fn random(lengths: &[usize], frames: usize, inputs: usize, hidden: usize) -> Case {
    let weight = |seed: u64, count: usize| noise(count, seed, 1.0 / (hidden as f64).sqrt());
    let three = |s: u64| {
        [weight(s, 4 * hidden * inputs), weight(s + 1, 4 * hidden * hidden), weight(s + 2, 4 * hidden)]
    };
    let shape = [lengths.len(), frames, inputs];
    let none = || [Vec::new(), Vec::new(), Vec::new()];
    Case {
        name: format!("{lengths:?} {inputs} {hidden}"),
        shape,
        lengths: lengths.to_vec(),
        hidden,
        x: noise(shape.iter().product(), 7, 1.0),
        dy: noise(lengths.len() * frames * 2 * hidden, 8, 1.0),
        weights: [three(1), three(4)],
        y: Vec::new(),
        dx: Vec::new(),
        gradients: [none(), none()],
    }
}

/// Every way to join two directions, on the CPU's kernel and in tensor operations.
#[test]
fn joins_directions_as_told() {
    let device = Device::flex().autodiff();
    let (hidden, inputs) = (140, 12);
    let lengths = [70, 66, 3, 70, 51, 70, 69, 70, 70, 12];
    let case = random(&lengths, 70, 2 * inputs, hidden);
    for (apart, summed) in [(false, false), (false, true), (true, false), (true, true)] {
        let together = Together { apart, summed };
        let read = if apart { inputs } else { 2 * inputs };
        let width = if summed { hidden } else { 2 * hidden };
        let run = |kernel: bool| {
            let x = case.x(&device);
            let cut = |d: usize| {
                let mut one = case.clone();
                one.weights[d][0].truncate(4 * hidden * read);
                one.weights(d, read, &device)
            };
            let [a, b] = [cut(0), cut(1)];
            let y = if kernel {
                bi_lstm(x.clone(), a.clone(), b.clone(), &lengths, together)
            } else {
                composed::both(x.clone(), [&a, &b], &lengths, together)
            };
            assert_eq!(y.dims(), [lengths.len(), 70, width]);
            let of = (y.clone() * case.dy(&device).narrow(2, 0, width)).sum().backward();
            let mut all = vec![host(y), host(x.grad(&of).unwrap())];
            all.extend(gradients(&a, &of));
            all.extend(gradients(&b, &of));
            all
        };
        for (i, (found, expected)) in run(true).iter().zip(&run(false)).enumerate() {
            close(&format!("{together:?} {i}"), found, expected, 1e-5);
        }
    }
}

/// A padded batch is its utterances, each alone; one without a frame is nothing.
#[test]
fn utterances_do_not_meet() {
    let device = Device::flex().autodiff();
    let lengths = [9, 0, 4, 1, 7];
    let case = random(&lengths, 11, 10, 20).spoilt();
    let [a, b] = [0, 1].map(|d| case.weights(d, 10, &device));
    let together = bi_lstm(case.x(&device), a.clone(), b.clone(), &lengths, Together::default());
    assert_eq!(host(together.clone()).iter().filter(|v| v.is_nan()).count(), 0);
    for (i, &length) in lengths.iter().enumerate() {
        let beyond = together.clone().slice([i..i + 1, length..11]);
        assert!(host(beyond).iter().all(|&v| v == 0.0));
        if length > 0 {
            let x = case.x(&device).slice([i..i + 1, 0..length]);
            let alone = bi_lstm(x, a.clone(), b.clone(), &[length], Together::default());
            close("alone", &host(together.clone().slice([i..i + 1, 0..length])), &host(alone), 1e-6);
        }
    }
}

/// Everything that the layer computes, on so many threads.
fn bits(case: &Case, width: Width, threads: usize) -> Vec<Vec<f32>> {
    let sizes = Sizes {
        lengths: &case.lengths,
        frames: case.shape[1],
        inputs: case.shape[2],
        hidden: case.hidden,
        apart: false,
        summed: false,
        width,
    };
    let direction = |d: usize| {
        let [input, recurrent, bias] = &case.weights[d];
        Weights { input, recurrent, bias, reverse: d == 1 }
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut all = Vec::new();
        for weights in [vec![direction(0), direction(1)], vec![direction(1)]] {
            let (y, kept) = cpu::forward(&case.x, &weights, &sizes);
            let dy = &case.dy[..y.len()];
            let (dx, gradients) = cpu::backward(&case.x, &weights, &sizes, &kept, dy);
            all.extend([y, dx]);
            all.extend(gradients.into_iter().flat_map(|g| [g.input, g.recurrent, g.bias]));
        }
        all
    })
}

#[test]
fn threads_change_no_bit() {
    let case = random(&[70, 66, 3, 70, 51, 70, 69, 70, 70, 12, 1], 70, 50, 140);
    let one = bits(&case, Width::detect(), 1);
    for threads in [2, 3, 8] {
        assert!(bits(&case, Width::detect(), threads) == one, "{threads} threads");
    }
}

#[test]
fn every_width_computes_the_same() {
    for case in [random(&[20, 7, 19], 20, 50, 37), random(&[3; 17], 3, 9, 64)] {
        let reference = bits(&case, Width::Portable, 2);
        for width in widths() {
            for (i, (found, expected)) in bits(&case, width, 2).iter().zip(&reference).enumerate() {
                close(&format!("{width:?} {i} {}", case.name), found, expected, 2e-6);
            }
        }
    }
}

#[test]
fn squashing_functions_are_exact_to_single_precision() {
    let mut worst = [0f64; 2];
    for i in -200_000..=200_000 {
        let x = i as f32 * 5e-4;
        let exact = f64::from(x);
        worst[0] = worst[0].max((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs());
        worst[1] = worst[1].max((f64::from(tanh(x)) - exact.tanh()).abs());
    }
    assert!(worst.iter().all(|&w| w < 2e-7), "{worst:?}");
    for x in [f32::INFINITY, 1e30] {
        assert_eq!([sigmoid(x), tanh(x), tanh(-x)], [1.0, 1.0, -1.0]);
        assert!(sigmoid(-x) < 1e-30);
    }
    assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
}
