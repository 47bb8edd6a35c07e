//! The Jasper family in the names of NeMo, DeepLearningExamples and OpenSeq2Seq.
//!
//! b and r count blocks and layers from 0, i the projections of a block.
//!
//! | | convolution, plain; separable | its batch norm | projection |
//! |---|---|---|---|
//! | NeMo | `encoder.encoder.{b}.mconv.{4r}.conv.weight` [out, in, k]; `mconv.{5r}`, `mconv.{5r+1}` | `mconv.{4r+1}.*`; `mconv.{5r+2}.*` | `res.{i}.0.conv.weight`, `res.{i}.1.*` |
//! | DeepLearningExamples | `encoder.layers.{b}.conv.{4r}.weight`; (its QuartzNet) `encoder.layers.{b}.mconv.{5r}.weight`, ... | as NeMo | `res.{i}.0.weight`, `res.{i}.1.*` |
//! | OpenSeq2Seq | `ForwardPass/w2l_encoder/conv{b+1}{r+1}/kernel` [k, in, out]; `/depthwise_kernel` [k, in, 1], `/pointwise_kernel` [1, in, out] | `.../bn/gamma`, `beta`, `moving_mean`, `moving_variance` | in the last layer: `/res_{i}/...`, `/res_bn_{i}/...`; without dense residuals `/res/...`, `/res_bn/...` |
//!
//! Heads: `decoder.decoder_layers.0.{weight, bias}`, `decoder.layers.0.{weight, bias}` (both [labels, in, 1]),
//! `ForwardPass/fully_connected_ctc_decoder/fully_connected/{kernel [in, labels], bias}`. DeepLearningExamples' first
//! checkpoints say `jasper_encoder.encoder.` and `jasper_decoder.decoder_layers.` instead.
//!
//! Sources: NeMo `jasper.py`, `conv_asr.py`; DeepLearningExamples `jasper/model.py`, `common/helpers.py`; OpenSeq2Seq
//! `tdnn_encoder.py`, `conv_blocks.py`, `fc_decoders.py`; the names and layouts of its kernels are those of checkpoints
//! that TensorFlow wrote (`tests/golden/tensorflow`). DeepLearningExamples trains with masked convolutions unless its
//! configuration says `use_conv_masks: false`, which its checkpoints do not record.

use super::file::Found;
use super::openseq2seq;
use super::take::{Pair, TENSORFLOW_NORM, TORCH_NORM, Taker, Tensors, norm};
use crate::error::Result;
use crate::models::jasper::{JasperConfig, LayerShape};

/// Whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Nemo,
    DeepLearningExamples,
    OpenSeq2Seq,
}

/// Tells the names apart; `None` when they are none of these.
pub(super) fn names(found: &Found) -> Option<Names> {
    let begins = |prefixes: &[&str]| found.keys().any(|name| prefixes.iter().any(|p| name.starts_with(p)));
    if openseq2seq::has(found, "w2l_encoder") {
        Some(Names::OpenSeq2Seq)
    } else if begins(&["encoder.layers.", "jasper_encoder.encoder."]) {
        Some(Names::DeepLearningExamples)
    } else if begins(&["encoder.encoder."]) {
        Some(Names::Nemo)
    } else {
        None
    }
}

/// The tensors of the network under our names.
///
/// # Errors
/// Names tensors that are missing, misshapen or unknown.
pub(super) fn translate(
    found: Found,
    names: Names,
    config: &JasperConfig,
    labels: usize,
    notes: &mut Vec<String>,
) -> Result<Tensors> {
    let found = match names {
        Names::OpenSeq2Seq => openseq2seq::variables(found, notes),
        Names::DeepLearningExamples => modern(found, notes),
        Names::Nemo => found,
    };
    // DeepLearningExamples' QuartzNet calls its convolutions as NeMo does.
    let mconv = found.keys().any(|name| name.starts_with("encoder.layers.0.mconv."));
    let mut taker = Taker::new(found);
    let all = pairs(names, mconv, config, labels)?;
    taker.leave_out_counters(&all, notes);
    all.into_iter().for_each(|pair| taker.pair(pair));
    taker.finish()
}

/// The names that DeepLearningExamples gave before 2020, in those of today (`convert_v1_state_dict`).
fn modern(found: Found, notes: &mut Vec<String>) -> Found {
    let mut others = 0;
    let mut renamed = Found::new();
    for (name, tensor) in found {
        let rules = [
            ("jasper_encoder.encoder.", "encoder.layers."),
            ("jasper_decoder.decoder_layers.", "decoder.layers."),
        ];
        if name.starts_with("acoustic_model.") || name.starts_with("audio_preprocessor.") {
            others += 1;
            continue;
        }
        let rule = rules.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
        renamed.insert(rule.unwrap_or(name), tensor);
    }
    if others > 0 {
        notes.push(format!("{others} tensors of acoustic_model and audio_preprocessor: copies, no weights"));
    }
    renamed
}

/// Every tensor of the network.
///
/// # Errors
/// When the configuration cannot work.
fn pairs(names: Names, mconv: bool, config: &JasperConfig, labels: usize) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (b, (block, shapes)) in config.blocks.iter().zip(config.shapes()?).enumerate() {
        let last = shapes.layers.len();
        for (r, shape) in shapes.layers.iter().enumerate() {
            let ours = format!("blocks.{b}.layers.{r}");
            match names {
                Names::OpenSeq2Seq => {
                    let layer = format!("ForwardPass/w2l_encoder/conv{}{}", b + 1, r + 1);
                    tensorflow(&layer, &format!("{layer}/bn/"), &ours, shape, &mut pairs);
                }
                _ => {
                    let first = if shape.separable { 5 * r } else { 4 * r };
                    let (list, suffix) = match names {
                        Names::Nemo => (format!("encoder.encoder.{b}.mconv"), ".conv.weight"),
                        _ if mconv => (format!("encoder.layers.{b}.mconv"), ".weight"),
                        _ => (format!("encoder.layers.{b}.conv"), ".weight"),
                    };
                    torch(&list, first, suffix, &ours, shape, &mut pairs);
                }
            }
        }
        for (i, shape) in shapes.residuals.iter().enumerate() {
            let ours = format!("blocks.{b}.residuals.{i}");
            match names {
                Names::OpenSeq2Seq => {
                    let layer = format!("ForwardPass/w2l_encoder/conv{}{last}", b + 1);
                    let number = if block.dense { format!("_{i}") } else { String::new() };
                    let norm = format!("{layer}/res_bn{number}/");
                    tensorflow(&format!("{layer}/res{number}"), &norm, &ours, shape, &mut pairs);
                }
                Names::Nemo => {
                    let list = format!("encoder.encoder.{b}.res.{i}");
                    torch(&list, 0, ".conv.weight", &ours, shape, &mut pairs);
                }
                Names::DeepLearningExamples => {
                    torch(&format!("encoder.layers.{b}.res.{i}"), 0, ".weight", &ours, shape, &mut pairs);
                }
            }
        }
    }
    let (width, ours) = (config.hidden_width(), |what: &str| format!("head.{what}"));
    let head = match names {
        Names::Nemo => "decoder.decoder_layers.0.",
        Names::DeepLearningExamples => "decoder.layers.0.",
        Names::OpenSeq2Seq => "ForwardPass/fully_connected_ctc_decoder/fully_connected/",
    };
    if names == Names::OpenSeq2Seq {
        pairs.push(Pair {
            theirs: format!("{head}kernel"),
            shape: vec![width, labels],
            order: vec![1, 0],
            ours: ours("weight"),
            becomes: vec![labels, width, 1],
        });
    } else {
        pairs.push(Pair::equal(format!("{head}weight"), ours("weight"), &[labels, width, 1]));
    }
    pairs.push(Pair::equal(format!("{head}bias"), ours("bias"), &[labels]));
    Ok(pairs)
}

/// The modules from `first` on of a list: depthwise and pointwise, or one convolution, then batch norm.
fn torch(list: &str, first: usize, suffix: &str, ours: &str, shape: &LayerShape, pairs: &mut Vec<Pair>) {
    let LayerShape { inputs, outputs, kernel, separable, .. } = *shape;
    let mut next = first;
    let mut convolution = |what: &str, shape: [usize; 3]| {
        pairs.push(Pair::equal(format!("{list}.{next}{suffix}"), format!("{ours}.{what}"), &shape));
        next += 1;
    };
    if separable {
        convolution("depthwise", [inputs, 1, kernel]);
    }
    convolution("weight", [outputs, inputs, if separable { 1 } else { kernel }]);
    pairs.extend(norm(&format!("{list}.{next}."), TORCH_NORM, ours, outputs));
}

/// The variables of one layer.
fn tensorflow(layer: &str, batch_norm: &str, ours: &str, shape: &LayerShape, pairs: &mut Vec<Pair>) {
    let LayerShape { inputs, outputs, kernel, separable, .. } = *shape;
    let mut variable = |theirs: &str, shape: [usize; 3], order: [usize; 3], what: &str| {
        pairs.push(Pair {
            theirs: format!("{layer}/{theirs}"),
            shape: shape.to_vec(),
            order: order.to_vec(),
            ours: format!("{ours}.{what}"),
            becomes: order.iter().map(|&axis| shape[axis]).collect(),
        });
    };
    if separable {
        variable("depthwise_kernel", [kernel, inputs, 1], [1, 2, 0], "depthwise");
        variable("pointwise_kernel", [1, inputs, outputs], [2, 1, 0], "weight");
    } else {
        variable("kernel", [kernel, inputs, outputs], [2, 1, 0], "weight");
    }
    pairs.extend(norm(batch_norm, TENSORFLOW_NORM, ours, outputs));
}
