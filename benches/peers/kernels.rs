//! Single kernels, forward and backward: from a gradient of ones when timed, from a given one when
//! the gradients are compared.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use tutornet::kernels::{
    Conv1dOptions, Conv2dOptions, LstmWeights, Together, bi_lstm, conv1d, conv2d, ctc_loss,
};

use super::tensors::{Named, Tensors};
use super::{Row, Work, milliseconds};

fn device() -> Device {
    super::device().autodiff()
}

/// Inputs of a kernel: standard normal, weights scaled so that outputs are about 1.
pub fn prepare(row: &Row) -> Vec<Named> {
    if row.kind == "ctc" {
        let shape: Vec<usize> = row.get("logits");
        return vec![Named::normal("logits", &shape, 2.0)];
    }
    if row.kind == "bilstm" {
        return BiLstm::inputs(row);
    }
    let (x, weight, y): (Vec<usize>, Vec<usize>, Vec<usize>) =
        (row.get("x"), row.get("weight"), row.get("y"));
    let fan_in: usize = weight[1..].iter().product();
    #[expect(clippy::cast_possible_truncation, reason = "a scale")]
    let scale = (1.0 / fan_in as f64).sqrt() as f32;
    vec![
        Named::normal("x", &x, 1.0),
        Named::normal("weight", &weight, scale),
        Named::normal("upstream", &y, 1.0),
    ]
}

/// Milliseconds of the best of several products of square matrices, by the tensor library and by a
/// pointwise convolution.
pub fn matmul(order: usize) -> f64 {
    let device = super::device();
    let random = |shape| Tensor::<3>::random(shape, Distribution::Default, &device);
    let (a, b) = (random([order, order, 1]), random([1, order, order]));
    let matrices = || (a.clone().reshape([order, order]), b.clone().reshape([order, order]));
    let once = || {
        super::wait();
        let ((left, right), start): ((Tensor<2>, Tensor<2>), _) = (matrices(), Instant::now());
        std::hint::black_box(left.matmul(right));
        super::wait();
        let library = milliseconds(start);
        let start = Instant::now();
        std::hint::black_box(conv1d(b.clone(), a.clone(), &Conv1dOptions::default()));
        super::wait();
        library.min(milliseconds(start))
    };
    (0..8).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// A convolution over time or over a plane.
#[derive(Debug)]
pub struct Convolution<const D: usize, O> {
    x: Tensor<D>,
    weight: Tensor<D>,
    upstream: Tensor<D>,
    options: O,
    convolve: fn(Tensor<D>, Tensor<D>, &O) -> Tensor<D>,
}

impl<const D: usize, O> Convolution<D, O> {
    fn load(inputs: &Tensors, options: O, convolve: fn(Tensor<D>, Tensor<D>, &O) -> Tensor<D>) -> Self {
        Self {
            x: inputs.tensor("x", &device()).require_grad(),
            weight: inputs.tensor("weight", &device()).require_grad(),
            upstream: inputs.tensor("upstream", &device()),
            options,
            convolve,
        }
    }

    fn forward(&self) -> Tensor<D> {
        (self.convolve)(self.x.clone(), self.weight.clone(), &self.options)
    }
}

/// conv1d with the inputs of a file.
pub fn over_time(row: &Row, inputs: &Tensors) -> Convolution<3, Conv1dOptions> {
    let [left, right]: [usize; 2] = row.get("padding");
    let options = Conv1dOptions {
        stride: row.get("stride"),
        padding: (left, right),
        dilation: row.get("dilation"),
        groups: row.get("groups"),
    };
    Convolution::load(inputs, options, conv1d)
}

/// conv2d with the inputs of a file.
pub fn over_plane(row: &Row, inputs: &Tensors) -> Convolution<4, Conv2dOptions> {
    let options = Conv2dOptions { stride: row.get("stride"), padding: row.get("padding"), dilation: [1, 1] };
    Convolution::load(inputs, options, conv2d)
}

impl<const D: usize, O> Work for Convolution<D, O> {
    fn run(&mut self) {
        // From a gradient of ones, which the tensor library makes itself.
        std::hint::black_box(self.forward().backward());
    }

    fn outputs(&mut self) -> Vec<Named> {
        let y = self.forward();
        let gradients = (y.clone() * self.upstream.clone()).sum().backward();
        vec![
            Named::of("y", y.inner()),
            Named::of("dx", self.x.grad(&gradients).expect("a gradient")),
            Named::of("dweight", self.weight.grad(&gradients).expect("a gradient")),
        ]
    }
}

/// The CTC loss of a batch, log-softmax included.
#[derive(Debug)]
pub struct Ctc {
    logits: Tensor<3>,
    frames: Vec<usize>,
    targets: Vec<Vec<u32>>,
    blank: usize,
}

impl Ctc {
    /// With the logits of a file; lengths and targets follow from the row.
    pub fn load(row: &Row, inputs: &Tensors) -> Self {
        Self {
            logits: inputs.tensor("logits", &device()).require_grad(),
            frames: row.get("frames"),
            targets: row.get("targets"),
            blank: row.get("blank"),
        }
    }

    fn loss(&self) -> Tensor<1> {
        ctc_loss(self.logits.clone(), &self.frames, &self.targets, self.blank)
    }
}

impl Work for Ctc {
    fn run(&mut self) {
        std::hint::black_box(self.loss().sum().backward());
    }

    fn outputs(&mut self) -> Vec<Named> {
        let loss = self.loss();
        let gradients = loss.clone().sum().backward();
        let gradient = self.logits.grad(&gradients).expect("a gradient");
        vec![Named::of("loss", loss.inner()), Named::of("dlogits", gradient)]
    }
}

/// Layers of LSTMs in both directions, their outputs side by side; tensors by PyTorch's names.
#[derive(Debug)]
pub struct BiLstm {
    x: Tensor<3>,
    upstream: Tensor<3>,
    /// One a layer: forward and reverse.
    layers: Vec<[LstmWeights; 2]>,
    frames: Vec<usize>,
}

/// PyTorch's ending of the names of a layer and direction.
fn ending(layer: usize, direction: usize) -> String {
    format!("l{layer}{}", ["", "_reverse"][direction])
}

impl BiLstm {
    /// PyTorch's second bias is zero: ours is the sum of both.
    fn inputs(row: &Row) -> Vec<Named> {
        let (x, y): (Vec<usize>, Vec<usize>) = (row.get("x"), row.get("y"));
        let (width, layers): (usize, usize) = (row.get("width"), row.get("layers"));
        let mut named = vec![Named::normal("x", &x, 1.0), Named::normal("upstream", &y, 1.0)];
        for (layer, direction) in (0..layers).flat_map(|layer| [(layer, 0), (layer, 1)]) {
            let (end, rows) = (ending(layer, direction), 4 * width);
            let inputs = if layer == 0 { x[2] } else { 2 * width };
            named.push(Named::normal(&format!("weight_ih_{end}"), &[rows, inputs], 0.04));
            named.push(Named::normal(&format!("weight_hh_{end}"), &[rows, width], 0.04));
            named.push(Named::normal(&format!("bias_ih_{end}"), &[rows], 0.04));
            named.push(Named::new(&format!("bias_hh_{end}"), &[rows], vec![0.0; rows]));
        }
        named
    }

    /// With the inputs of a file.
    pub fn load(row: &Row, inputs: &Tensors) -> Self {
        let x: Vec<usize> = row.get("x");
        let weights = |layer: usize, direction: usize| {
            let end = ending(layer, direction);
            LstmWeights {
                input: inputs.tensor(&format!("weight_ih_{end}"), &device()).require_grad(),
                recurrent: inputs.tensor(&format!("weight_hh_{end}"), &device()).require_grad(),
                bias: inputs.tensor(&format!("bias_ih_{end}"), &device()).require_grad(),
            }
        };
        Self {
            x: inputs.tensor("x", &device()).require_grad(),
            upstream: inputs.tensor("upstream", &device()),
            layers: (0..row.get("layers")).map(|layer| [0, 1].map(|d| weights(layer, d))).collect(),
            frames: vec![x[1]; x[0]],
        }
    }

    fn forward(&self) -> Tensor<3> {
        self.layers.iter().fold(self.x.clone(), |x, [forward, reverse]| {
            bi_lstm(x, forward.clone(), reverse.clone(), &self.frames, Together::default())
        })
    }
}

impl Work for BiLstm {
    fn run(&mut self) {
        std::hint::black_box(self.forward().backward());
    }

    fn outputs(&mut self) -> Vec<Named> {
        let y = self.forward();
        let gradients = (y.clone() * self.upstream.clone()).sum().backward();
        let mut named =
            vec![Named::of("y", y.inner()), Named::of("dx", self.x.grad(&gradients).expect("a gradient"))];
        for (layer, directions) in self.layers.iter().enumerate() {
            for (direction, weights) in directions.iter().enumerate() {
                let end = ending(layer, direction);
                let bias = weights.bias.grad(&gradients).expect("a gradient");
                named.extend([
                    Named::of(
                        &format!("dweight_ih_{end}"),
                        weights.input.grad(&gradients).expect("a gradient"),
                    ),
                    Named::of(
                        &format!("dweight_hh_{end}"),
                        weights.recurrent.grad(&gradients).expect("a gradient"),
                    ),
                    Named::of(&format!("dbias_ih_{end}"), bias.clone()),
                    Named::of(&format!("dbias_hh_{end}"), bias),
                ]);
            }
        }
        named
    }
}
