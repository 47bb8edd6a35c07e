//! DeepSpeech 2 in the names of a PyTorch module and of OpenSeq2Seq's variables.
//!
//! PyTorch (n from 1, k from 0; the module in `tests/golden/deepspeech2/make.py`):
//!
//! | name | shape |
//! |---|---|
//! | `conv{n}.weight` | [out, in, taps in frequency, taps in time] |
//! | `bn{n}.weight`, `.bias`, `.running_mean`, `.running_var` | [out] |
//! | two stacks: `rnn_forward.*_l{k}`, `rnn_reverse.*_l{k}`; summed: `rnns.{k}.*_l0`, `.*_l0_reverse`; concatenated: `rnn.*_l{k}`, `.*_l{k}_reverse` | those of `nn.LSTM`; the first layer reads [channels, bins] |
//! | `fc.weight`, `fc.bias`, `output.weight`, `output.bias` | [out, in], [out] |
//!
//! OpenSeq2Seq (`ds2_encoder.py` without cuDNN, `fc_decoders.py`), as `np.savez` or a converter gives them:
//! `ForwardPass/ds2_encoder/conv{n}/{kernel, bn/gamma, bn/beta, bn/moving_mean, bn/moving_variance}`, kernel
//! [time, frequency, in, out]; `.../bidirectional_rnn/{fw,bw}/multi_rnn_cell/cell_{k}/basic_lstm_cell/{kernel, bias}`,
//! kernel [in + cells, 4 cells], gates in the order i, j, f, o, 1 added to f when it runs;
//! `.../fully_connected/{kernel, bias}`; `ForwardPass/fully_connected_ctc_decoder/fully_connected/{kernel, bias}`. Where
//! mixed precision kept a master copy in f32, that one is taken.

use std::collections::BTreeMap;

use super::file::Tensor;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::models::deepspeech2::{DeepSpeech2Config, RnnForm};
use crate::models::jasper::StridePadding;
use crate::models::parameters::HostTensor;

type Found = BTreeMap<String, Tensor>;
type Tensors = BTreeMap<String, HostTensor>;

const SCOPE: &str = "ForwardPass/ds2_encoder";
const MASTER: &str = "Loss_Optimization/FP32-master-copy/";

/// Whether the names are OpenSeq2Seq's.
pub(super) fn is_openseq2seq(found: &Found) -> bool {
    found.keys().any(|name| name.contains(SCOPE))
}

/// What every model of OpenSeq2Seq has, whatever the description says.
pub(super) fn adapt(network: &mut DeepSpeech2Config, frontend: &mut Frontend, notes: &mut Vec<String>) {
    network.padding = StridePadding::Same;
    *frontend = Frontend::OpenSeq2Seq;
    notes.push(
        "OpenSeq2Seq's names: convolutions padded as TensorFlow does, features of the openseq2seq frontend"
            .to_owned(),
    );
}

/// Takes tensors out of a file, and remembers what was wrong.
struct Taker {
    found: Found,
    tensors: Tensors,
    wrong: Vec<String>,
}

impl Taker {
    fn new(found: Found) -> Self {
        Self { found, tensors: Tensors::new(), wrong: Vec::new() }
    }

    /// The values of a tensor of this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        match self.found.remove(name) {
            None => self.wrong.push(format!("{name} {shape:?} is missing")),
            Some(tensor) if tensor.shape != shape => {
                self.wrong.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.shape));
            }
            Some(tensor) => return Some(tensor.values),
        }
        None
    }

    fn put(&mut self, name: String, shape: &[usize], values: Option<Vec<f32>>) {
        if let Some(values) = values {
            self.tensors.insert(name, HostTensor { shape: shape.to_vec(), values, trainable: true });
        }
    }

    /// The four tensors of a batch norm under their names for gamma, beta, mean and variance.
    fn norm(&mut self, theirs: &str, names: [&str; 4], ours: &str, channels: usize) {
        for (their, our) in names.into_iter().zip(["gamma", "beta", "running_mean", "running_variance"]) {
            let values = self.take(&format!("{theirs}{their}"), &[channels]);
            self.put(format!("{ours}.norm.{our}"), &[channels], values);
        }
    }

    fn finish(self) -> Result<Tensors> {
        let Self { found, tensors, mut wrong } = self;
        wrong.extend(found.iter().map(|(name, t)| format!("{name} {:?} is unknown", t.shape)));
        if wrong.is_empty() {
            return Ok(tensors);
        }
        Err(Error::invalid(format!(
            "the tensors are not those of the network, none is dropped: {}",
            wrong.join("; ")
        )))
    }
}

/// `rows` rows of `columns` values; column `from(c)` becomes column c.
fn columns(values: &[f32], columns: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    values
        .chunks_exact(columns)
        .flat_map(|row| (0..columns).map(|c| row[from(c)]).collect::<Vec<_>>())
        .collect()
}

/// The transpose of [rows, columns].
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

/// From the names of a PyTorch module; counters of its batch norms are ignored.
pub(super) fn from_pytorch(
    mut found: Found,
    config: &DeepSpeech2Config,
    notes: &mut Vec<String>,
) -> Result<Tensors> {
    let before = found.len();
    found.retain(|name, _| !name.ends_with(".num_batches_tracked"));
    if found.len() < before {
        notes.push(format!("{} num_batches_tracked: counters, no weights", before - found.len()));
    }
    let mut taker = Taker::new(found);
    for (index, (inputs, c)) in config.channels().zip(&config.convolutions).enumerate() {
        let (theirs, ours) = (index + 1, format!("convolutions.{index}"));
        let shape = [c.filters, inputs, c.kernel[1], c.kernel[0]];
        let weight = taker.take(&format!("conv{theirs}.weight"), &shape);
        taker.put(format!("{ours}.weight"), &shape, weight);
        let names = ["weight", "bias", "running_mean", "running_var"];
        taker.norm(&format!("bn{theirs}."), names, &ours, c.filters);
    }
    let channels = config.convolutions.last().map_or(1, |c| c.filters);
    for (k, shape) in config.cells().enumerate() {
        for direction in ["forward", "reverse"] {
            let suffix = if direction == "reverse" { "_reverse" } else { "" };
            let name = |what: &str| match config.rnn.form {
                RnnForm::TwoStacks => format!("rnn_{direction}.{what}_l{k}"),
                RnnForm::Summed => format!("rnns.{k}.{what}_l0{suffix}"),
                RnnForm::Concatenated => format!("rnn.{what}_l{k}{suffix}"),
            };
            let ours = |what: &str| format!("layers.{k}.{direction}.{what}");
            let (rows, inputs) = (4 * shape.cells, shape.inputs);
            let mut input = taker.take(&name("weight_ih"), &[rows, inputs]);
            if k == 0 {
                // They read [channels, bins], we [bins, channels].
                let bins = inputs / channels;
                input = input.map(|w| columns(&w, inputs, |c| c % channels * bins + c / channels));
            }
            taker.put(ours("input"), &[rows, inputs], input);
            let recurrent = taker.take(&name("weight_hh"), &[rows, shape.cells]);
            taker.put(ours("recurrent"), &[rows, shape.cells], recurrent);
            let first = taker.take(&name("bias_ih"), &[rows]);
            let second = taker.take(&name("bias_hh"), &[rows]);
            if shape.biases > 1 {
                taker.put(ours("gate_bias"), &[rows], first);
                taker.put(ours("second_bias"), &[rows], second);
            } else {
                let both = first.zip(second);
                let sum = both.map(|(a, b)| a.iter().zip(&b).map(|(a, b)| a + b).collect());
                taker.put(ours("gate_bias"), &[rows], sum);
            }
        }
    }
    for (theirs, ours, inputs) in
        [("fc", "connected", config.recurrent_width()), ("output", "head", config.hidden)]
    {
        let outputs = taker.found.get(&format!("{theirs}.bias")).map_or(config.hidden, |t| t.values.len());
        let weight = taker.take(&format!("{theirs}.weight"), &[outputs, inputs]);
        taker.put(format!("{ours}.weight"), &[outputs, inputs, 1], weight);
        let bias = taker.take(&format!("{theirs}.bias"), &[outputs]);
        taker.put(format!("{ours}.bias"), &[outputs], bias);
    }
    taker.finish()
}

/// From OpenSeq2Seq's names; the optimiser's variables are ignored.
pub(super) fn from_openseq2seq(
    found: Found,
    config: &DeepSpeech2Config,
    notes: &mut Vec<String>,
) -> Result<Tensors> {
    if config.rnn.form != RnnForm::TwoStacks || config.rnn.biases != 1 {
        return Err(Error::invalid(
            "OpenSeq2Seq's cells are two stacks with one bias each: expected a network with rnn.form = \"two-stacks\" \
             and rnn.biases = 1",
        ));
    }
    let mut taker = Taker::new(variables(found, notes));
    for (index, (inputs, c)) in config.channels().zip(&config.convolutions).enumerate() {
        let (theirs, ours) = (format!("{SCOPE}/conv{}", index + 1), format!("convolutions.{index}"));
        let [time, bins] = c.kernel;
        let kernel = taker.take(&format!("{theirs}/kernel"), &[time, bins, inputs, c.filters]);
        // [time, frequency, in, out] to [out, in, frequency, time].
        let weight = kernel.map(|kernel| {
            let at = |o: usize, i: usize, f: usize, t: usize| ((t * bins + f) * inputs + i) * c.filters + o;
            let mut weight = Vec::with_capacity(kernel.len());
            for o in 0..c.filters {
                for i in 0..inputs {
                    for f in 0..bins {
                        weight.extend((0..time).map(|t| kernel[at(o, i, f, t)]));
                    }
                }
            }
            weight
        });
        taker.put(format!("{ours}.weight"), &[c.filters, inputs, bins, time], weight);
        let names = ["gamma", "beta", "moving_mean", "moving_variance"];
        taker.norm(&format!("{theirs}/bn/"), names, &ours, c.filters);
    }
    for (k, shape) in config.cells().enumerate() {
        for (theirs, direction) in [("fw", "forward"), ("bw", "reverse")] {
            let (cells, inputs) = (shape.cells, shape.inputs);
            let rows = 4 * cells;
            let cell = format!("{SCOPE}/bidirectional_rnn/{theirs}/multi_rnn_cell/cell_{k}/basic_lstm_cell");
            // i, j, f, o: their second is our third.
            let from = |c: usize| [0, 2, 1, 3][c / cells] * cells + c % cells;
            let kernel = taker.take(&format!("{cell}/kernel"), &[inputs + cells, rows]);
            let kernel = kernel.map(|kernel| columns(&kernel, rows, from));
            let part = |range: std::ops::Range<usize>| {
                kernel.as_ref().map(|k| transposed(&k[range.start * rows..range.end * rows], rows))
            };
            let (input, recurrent) = (part(0..inputs), part(inputs..inputs + cells));
            let ours = |what: &str| format!("layers.{k}.{direction}.{what}");
            taker.put(ours("input"), &[rows, inputs], input);
            taker.put(ours("recurrent"), &[rows, cells], recurrent);
            let bias = taker.take(&format!("{cell}/bias"), &[rows]);
            let bias = bias.map(|bias| {
                let mut bias = columns(&bias, rows, from);
                bias[cells..2 * cells].iter_mut().for_each(|b| *b += 1.0);
                bias
            });
            taker.put(ours("gate_bias"), &[rows], bias);
        }
    }
    let connected = format!("{SCOPE}/fully_connected");
    let head = "ForwardPass/fully_connected_ctc_decoder/fully_connected".to_owned();
    for (theirs, ours, inputs) in
        [(connected, "connected", config.recurrent_width()), (head, "head", config.hidden)]
    {
        let bias = format!("{theirs}/bias");
        let outputs = taker.found.get(&bias).map_or(config.hidden, |t| t.values.len());
        let kernel = taker.take(&format!("{theirs}/kernel"), &[inputs, outputs]);
        taker.put(
            format!("{ours}.weight"),
            &[outputs, inputs, 1],
            kernel.map(|kernel| transposed(&kernel, outputs)),
        );
        let bias = taker.take(&bias, &[outputs]);
        taker.put(format!("{ours}.bias"), &[outputs], bias);
    }
    taker.finish()
}

/// The variables of the network alone: `:0` cut off, master copies in place of what they are copies of, the
/// optimiser's own left out.
fn variables(found: Found, notes: &mut Vec<String>) -> Found {
    let (mut kept, mut masters, mut others) = (Found::new(), Found::new(), 0);
    for (name, tensor) in found {
        let name = name.strip_suffix(":0").unwrap_or(&name);
        let slot = name.rsplit('/').next().unwrap_or_default();
        if ["Adam", "Adam_1", "Momentum"].contains(&slot) || name.ends_with("_power") || name == "global_step"
        {
            others += 1;
        } else if let Some(name) = name.strip_prefix(MASTER) {
            masters.insert(name.to_owned(), tensor);
        } else if name.starts_with("Loss_Optimization/") {
            others += 1;
        } else {
            kept.insert(name.to_owned(), tensor);
        }
    }
    if others > 0 {
        notes.push(format!("{others} variables of the optimiser: no weights"));
    }
    if !masters.is_empty() {
        notes.push(format!("{} weights from their copies in f32", masters.len()));
    }
    kept.extend(masters);
    kept
}
