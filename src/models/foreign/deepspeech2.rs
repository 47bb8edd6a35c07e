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
//! `.../fully_connected/{kernel, bias}`; `ForwardPass/fully_connected_ctc_decoder/fully_connected/{kernel, bias}`. See
//! [`openseq2seq`] for what their checkpoints have in common. Names, gate order and forget bias are those of a checkpoint
//! that TensorFlow wrote (`tests/golden/tensorflow`). OpenSeq2Seq does not mask between the convolutions: in a padded
//! batch its last frames of an utterance depend on the padding, ours do not.

use super::axes;
use super::file::Found;
use super::openseq2seq::{self, variables};
use super::take::{Pair, TENSORFLOW_NORM, TORCH_NORM, Taker, Tensors, norm};
use crate::error::{Error, Result};
use crate::models::deepspeech2::{DeepSpeech2Config, RnnForm};

const SCOPE: &str = "ForwardPass/ds2_encoder";

/// Whether the names are OpenSeq2Seq's.
pub(super) fn is_openseq2seq(found: &Found) -> bool {
    openseq2seq::has(found, "ds2_encoder")
}

/// Whether the names are those of a PyTorch module.
pub(super) fn is_module(found: &Found) -> bool {
    ["conv1.weight", "fc.weight", "output.weight"].iter().any(|name| found.contains_key(*name))
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
    axes::permuted(values, &[values.len() / columns, columns], &[1, 0])
}

/// From the names of a PyTorch module; counters of its batch norms are ignored.
pub(super) fn from_pytorch(
    found: Found,
    config: &DeepSpeech2Config,
    labels: usize,
    notes: &mut Vec<String>,
) -> Result<Tensors> {
    let mut taker = Taker::new(found);
    for (index, (inputs, c)) in config.channels().zip(&config.convolutions).enumerate() {
        let (theirs, ours) = (index + 1, format!("convolutions.{index}"));
        let shape = [c.filters, inputs, c.kernel[1], c.kernel[0]];
        let weight = taker.take(&format!("conv{theirs}.weight"), &shape);
        taker.put(format!("{ours}.weight"), &shape, weight);
        let norm = norm(&format!("bn{theirs}."), TORCH_NORM, &ours, c.filters);
        taker.leave_out_counters(&norm, notes);
        norm.into_iter().for_each(|pair| taker.pair(pair));
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
    for (theirs, ours, inputs, outputs) in [
        ("fc", "connected", config.recurrent_width(), config.hidden),
        ("output", "head", config.hidden, labels),
    ] {
        taker.pair(Pair {
            becomes: vec![outputs, inputs, 1],
            ..Pair::equal(format!("{theirs}.weight"), format!("{ours}.weight"), &[outputs, inputs])
        });
        taker.pair(Pair::equal(format!("{theirs}.bias"), format!("{ours}.bias"), &[outputs]));
    }
    taker.finish()
}

/// From OpenSeq2Seq's names; the optimiser's variables are ignored.
pub(super) fn from_openseq2seq(
    found: Found,
    config: &DeepSpeech2Config,
    labels: usize,
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
        taker.pair(Pair {
            theirs: format!("{theirs}/kernel"),
            shape: vec![time, bins, inputs, c.filters],
            order: vec![3, 2, 1, 0],
            ours: format!("{ours}.weight"),
            becomes: vec![c.filters, inputs, bins, time],
        });
        let norm = norm(&format!("{theirs}/bn/"), TENSORFLOW_NORM, &ours, c.filters);
        norm.into_iter().for_each(|pair| taker.pair(pair));
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
    for (theirs, ours, inputs, outputs) in [
        (connected, "connected", config.recurrent_width(), config.hidden),
        (head, "head", config.hidden, labels),
    ] {
        taker.pair(Pair {
            theirs: format!("{theirs}/kernel"),
            shape: vec![inputs, outputs],
            order: vec![1, 0],
            ours: format!("{ours}.weight"),
            becomes: vec![outputs, inputs, 1],
        });
        taker.pair(Pair::equal(format!("{theirs}/bias"), format!("{ours}.bias"), &[outputs]));
    }
    taker.finish()
}
