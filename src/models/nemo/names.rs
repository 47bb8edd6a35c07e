//! NeMo's names of tensors, and ours.

use std::collections::BTreeMap;

use super::torch::TorchTensor;
use crate::error::{Error, Result};
use crate::features;
use crate::models::jasper::{JasperConfig, LayerShape};
use crate::models::parameters::HostTensor;

/// Buffers of the preprocessor, which are compared with our frontend.
const FILTERS: &str = "preprocessor.featurizer.fb";
const WINDOW: &str = "preprocessor.featurizer.window";
/// How far they may lie from ours.
const TOLERANCE: f64 = 1e-5;

/// Pairs of NeMo's name and ours for every tensor of the network.
///
/// Block b's sub-layer r begins at `mconv.{4r}` (convolution, batch norm, ReLU, dropout) or, if
/// separable, `mconv.{5r}` (depthwise, pointwise, batch norm, ...); projection i is `res.{i}`.
fn pairs(config: &JasperConfig) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut layer = |theirs: String, first: usize, ours: String, shape: &LayerShape| {
        let mut next = first;
        let mut convolution = |ours: String| {
            pairs.push((format!("{theirs}.{next}.conv.weight"), ours));
            next += 1;
        };
        if shape.separable {
            convolution(format!("{ours}.depthwise"));
        }
        convolution(format!("{ours}.weight"));
        let norm = [
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "running_mean"),
            ("running_var", "running_variance"),
        ];
        for (their, our) in norm {
            pairs.push((format!("{theirs}.{next}.{their}"), format!("{ours}.norm.{our}")));
        }
    };
    for (b, block) in config.shapes()?.iter().enumerate() {
        for (r, shape) in block.layers.iter().enumerate() {
            let steps = if shape.separable { 5 } else { 4 };
            layer(format!("encoder.encoder.{b}.mconv"), steps * r, format!("blocks.{b}.layers.{r}"), shape);
        }
        for (i, shape) in block.residuals.iter().enumerate() {
            layer(format!("encoder.encoder.{b}.res.{i}"), 0, format!("blocks.{b}.residuals.{i}"), shape);
        }
    }
    for (their, our) in [("weight", "weight"), ("bias", "bias")] {
        pairs.push((format!("decoder.decoder_layers.0.{their}"), format!("head.{our}")));
    }
    Ok(pairs)
}

/// Renames the tensors of a checkpoint. Shapes are left to [`crate::models::parameters::import`],
/// after this function has compared them under NeMo's names.
///
/// # Errors
/// Names every tensor that is missing, misshapen or unknown, and a preprocessor buffer that is
/// not our frontend's.
pub fn translate(
    mut found: BTreeMap<String, TorchTensor>,
    config: &JasperConfig,
    expected: &BTreeMap<String, Vec<usize>>,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, HostTensor>> {
    let mut tensors = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut counters = 0;
    for (theirs, ours) in pairs(config)? {
        let shape = expected.get(&ours).cloned().unwrap_or_default();
        match found.remove(&theirs) {
            None => wrong.push(format!("{theirs} {shape:?} is missing")),
            Some(tensor) if tensor.shape != shape => {
                wrong.push(format!("{theirs}: expected shape {shape:?}, found {:?}", tensor.shape));
            }
            Some(TorchTensor { shape, values: Some(values), .. }) => {
                tensors.insert(ours, HostTensor { shape, values, trainable: true });
            }
            Some(tensor) => {
                wrong.push(format!("{theirs}: expected floating point values, found {}", tensor.kind))
            }
        }
        if let Some(norm) = theirs.strip_suffix(".running_mean")
            && found.remove(&format!("{norm}.num_batches_tracked")).is_some()
        {
            counters += 1;
        }
    }
    if counters > 0 {
        notes.push(format!("{counters} num_batches_tracked: counters of NeMo's training, no weights"));
    }
    for (name, ours) in [(FILTERS, features::mel_filters()), (WINDOW, features::window())] {
        if let Some(tensor) = found.remove(name) {
            compare(name, &tensor, &ours, notes).unwrap_or_else(|e| wrong.push(e));
        }
    }
    wrong.extend(found.iter().map(|(name, t)| format!("{name} {:?} {} is unknown", t.shape, t.kind)));
    if wrong.is_empty() {
        return Ok(tensors);
    }
    Err(Error::invalid(format!(
        "model_weights.ckpt does not fit the architecture of model_config.yaml, no tensor is dropped: {}",
        wrong.join("; ")
    )))
}

/// Compares a buffer of the preprocessor with our frontend's.
fn compare(name: &str, theirs: &TorchTensor, ours: &[f64], notes: &mut Vec<String>) -> Result<(), String> {
    let values = match &theirs.values {
        Some(values) if values.len() == ours.len() => values,
        _ => {
            return Err(format!(
                "{name}: expected {} floating point values, found {:?} {}",
                ours.len(),
                theirs.shape,
                theirs.kind
            ));
        }
    };
    let largest = values.iter().zip(ours).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if largest <= TOLERANCE {
        notes.push(format!("{name} agrees with the nemo frontend (largest difference {largest:.1e})"));
        return Ok(());
    }
    Err(format!("{name} differs from the nemo frontend by up to {largest:.1e}: the features would be others"))
}
