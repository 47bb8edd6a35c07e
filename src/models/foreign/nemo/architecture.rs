//! The `encoder` and `decoder` sections: a list of blocks, and the labels.

use serde_json::{Map, Value};

use super::section::Section;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::models::jasper::{BlockConfig, JasperConfig, Residual, StridePadding};
use crate::models::norm::NormConfig;

/// Top-level keys that concern training, decoding or bookkeeping.
const NOT_THE_NETWORK: [&str; 30] = [
    "target",
    "name",
    "nemo_version",
    "sample_rate",
    "labels",
    "repeat",
    "dropout",
    "separable",
    "n_filters",
    "train_ds",
    "validation_ds",
    "test_ds",
    "optim",
    "trainer",
    "exp_manager",
    "hydra",
    "spec_augment",
    "loss",
    "decoding",
    "decoding_config",
    "log_prediction",
    "use_cer",
    "ctc_reduction",
    "skip_nan_grad",
    "model_defaults",
    "compute_eval_loss",
    "init_from_nemo_model",
    "init_from_pretrained_model",
    "kernel_size_factor",
    "cfg",
];

/// The network and its labels.
///
/// # Errors
/// Names the first setting that this program does not know.
pub fn read(settings: &Map<String, Value>, notes: &mut Vec<String>) -> Result<(JasperConfig, Labels)> {
    let root = Section::new("", settings);
    root.fixed_number("sample_rate", f64::from(crate::features::SAMPLE_RATE))?;
    root.ignore(&NOT_THE_NETWORK);
    root.ignore(&["preprocessor"]);
    if let Some(target) = root.get("target").and_then(Value::as_str)
        && target.rsplit('.').next() != Some("EncDecCTCModel")
    {
        return Err(root.unsupported("target", "an EncDecCTCModel (characters, CTC)"));
    }
    let jasper = encoder(&root, notes)?;
    let labels = decoder(&root, &jasper)?;
    root.finish()?;
    Ok((jasper, labels))
}

fn encoder(root: &Section<'_>, notes: &mut Vec<String>) -> Result<JasperConfig> {
    let section = root.section("encoder")?;
    section.ignore(&["_target_", "cls", "params", "init_mode"]);
    if root.class("encoder").is_some_and(|class| class != "ConvASREncoder") {
        return Err(root.unsupported("encoder", "a ConvASREncoder"));
    }
    section.fixed_text("activation", &["relu"])?;
    section.fixed_text("normalization_mode", &["batch"])?;
    section.fixed_text("residual_mode", &["add"])?;
    section.fixed_number("norm_groups", -1.0)?;
    section.fixed_flag("conv_mask", true)?;
    section.fixed_number("frame_splicing", 1.0)?;
    section.fixed_flag("quantize", false)?;
    let features = section.count("feat_in", None)?;
    if features != crate::features::BINS {
        return Err(section.unsupported("feat_in", &crate::features::BINS.to_string()));
    }
    let blocks = match section.get("jasper") {
        Some(Value::Array(blocks)) => blocks
            .iter()
            .enumerate()
            .map(|(index, block)| {
                let path = format!("encoder.jasper[{index}]");
                let map = block.as_object().ok_or_else(|| {
                    Error::invalid(format!("model_config.yaml: {path}: expected a mapping, found {block}"))
                })?;
                block_config(Section::new(path, map))
            })
            .collect::<Result<Vec<_>>>()?,
        _ => return Err(section.unsupported("jasper", "a list of blocks")),
    };
    section.finish()?;
    if blocks.iter().any(|block| block.dropout > 0.0) {
        notes.push("encoder.jasper[..].dropout is kept for further training; evaluation has none".to_owned());
    }
    Ok(JasperConfig { features, padding: StridePadding::Symmetric, norm: NormConfig::default(), blocks })
}

/// NeMo `JasperEncoderConfig`.
fn block_config(section: Section<'_>) -> Result<BlockConfig> {
    section.fixed_number("groups", 1.0)?;
    section.fixed_number("heads", -1.0)?;
    section.fixed_flag("se", false)?;
    section.ignore(&["se_reduction_ratio", "se_context_size", "se_context_window", "se_interpolation_mode"]);
    section.fixed_number("kernel_size_factor", 1.0)?;
    section.fixed_flag("stride_last", false)?;
    section.fixed_number("future_context", -1.0)?;
    section.fixed_text("residual_mode", &["add"])?;
    section.fixed_text("normalization", &["batch"])?;
    let residual = section.flag("residual", true)?;
    let dense = section.flag("residual_dense", false)?;
    let config = BlockConfig {
        filters: section.count("filters", None)?,
        repeat: section.count("repeat", Some(1))?,
        kernel: section.single("kernel", None)?,
        stride: section.single("stride", Some(1))?,
        dilation: section.single("dilation", Some(1))?,
        dropout: section.number("dropout", 0.0)?,
        separable: section.flag("separable", false)?,
        residual: if residual { Residual::Pointwise } else { Residual::None },
        dense,
    };
    section.finish()?;
    Ok(config)
}

fn decoder(root: &Section<'_>, encoder: &JasperConfig) -> Result<Labels> {
    let section = root.section("decoder")?;
    section.ignore(&["_target_", "cls", "params", "init_mode"]);
    if root.class("decoder").is_some_and(|class| class != "ConvASRDecoder") {
        return Err(root.unsupported("decoder", "a ConvASRDecoder"));
    }
    section.fixed_flag("add_blank", true)?;
    section.fixed_number("feat_in", encoder.hidden_width() as f64)?;
    let symbols = match section.get("vocabulary") {
        Some(Value::Array(list)) => list
            .iter()
            .map(|symbol| symbol.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| section.unsupported("vocabulary", "a list of texts"))?,
        _ => return Err(section.unsupported("vocabulary", "a list of texts")),
    };
    section.fixed_number("num_classes", symbols.len() as f64)?;
    section.finish()?;
    // NeMo's CTC blank is the last logit.
    Ok(Labels { blank: symbols.len(), symbols })
}
