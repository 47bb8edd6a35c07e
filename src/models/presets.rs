//! Models by name.

use super::config::{Architecture, ModelConfig, Provenance};
use super::deepspeech2::{ConvolutionConfig, DeepSpeech2Config, RnnConfig, RnnForm};
use super::jasper::{BlockConfig, JasperConfig, Residual, StridePadding};
use super::norm::NormConfig;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::labels::Labels;

/// Names that [`find`] knows.
pub const NAMES: [&str; 6] =
    ["quartznet15x5", "jasper-mini", "jasper-nano", "deepspeech2", "deepspeech2-summed", "deepspeech2-nano"];

/// The configuration of a preset: English labels, the default frontend.
///
/// # Errors
/// Lists the presets when there is none of that name.
pub fn find(name: &str) -> Result<ModelConfig> {
    let architecture = match name {
        "quartznet15x5" => Architecture::Jasper(quartznet()),
        "jasper-mini" => Architecture::Jasper(mini()),
        "jasper-nano" => Architecture::Jasper(nano()),
        "deepspeech2" => Architecture::DeepSpeech2(deepspeech2(RnnForm::TwoStacks, 256)),
        "deepspeech2-summed" => Architecture::DeepSpeech2(deepspeech2(RnnForm::Summed, 512)),
        "deepspeech2-nano" => Architecture::DeepSpeech2(deepspeech2_nano()),
        _ => {
            let distance = |n: &&str| strsim::damerau_levenshtein(n, name);
            let near = NAMES.iter().filter(|n| distance(n) <= 3).min_by_key(|n| distance(n));
            let hint = near.map_or_else(String::new, |n| format!("; did you mean {n}?"));
            return Err(Error::invalid(format!(
                "there is no preset `{name}`: expected one of {}{hint}",
                NAMES.join(", ")
            )));
        }
    };
    Ok(ModelConfig {
        name: name.to_owned(),
        frontend: Frontend::default(),
        labels: Labels::english(),
        provenance: Provenance { origin: format!("preset {name}"), ..Provenance::default() },
        architecture,
    })
}

fn network(padding: StridePadding, blocks: Vec<BlockConfig>) -> JasperConfig {
    JasperConfig { features: 64, padding, norm: NormConfig::default(), blocks }
}

/// A separable block without shortcut.
fn block(filters: usize, repeat: usize, kernel: usize) -> BlockConfig {
    BlockConfig {
        filters,
        repeat,
        kernel,
        stride: 1,
        dilation: 1,
        dropout: 0.0,
        separable: true,
        residual: Residual::None,
        dense: false,
    }
}

/// QuartzNet 15x5, 18,924,381 trainable parameters: Kriman et al. (2020), table 1, in the form of
/// NeMo's `quartznet_15x5.yaml` (plain 1x1 residuals, none around the dilated block).
fn quartznet() -> JasperConfig {
    let mut blocks = vec![BlockConfig { stride: 2, ..block(256, 1, 33) }];
    for (filters, kernel) in [(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)] {
        let repeated = BlockConfig { residual: Residual::Pointwise, ..block(filters, 5, kernel) };
        blocks.extend(std::iter::repeat_n(repeated, 3));
    }
    blocks.push(BlockConfig { dilation: 2, ..block(512, 1, 87) });
    blocks.push(BlockConfig { separable: false, ..block(1024, 1, 1) });
    network(StridePadding::Symmetric, blocks)
}

/// Jasper Mini, 8,192,733 trainable parameters: OpenSeq2Seq `jasper-Mini-for-Jetson.py`.
fn mini() -> JasperConfig {
    let mut blocks = vec![BlockConfig { stride: 2, ..block(256, 1, 11) }];
    for (filters, kernel) in [(256, 11), (256, 13), (512, 17), (512, 21), (512, 25)] {
        let repeated = BlockConfig { residual: Residual::Separable, ..block(filters, 3, kernel) };
        blocks.extend(std::iter::repeat_n(repeated, 2));
    }
    blocks.push(BlockConfig { dilation: 2, ..block(512, 1, 29) });
    blocks.push(block(1024, 1, 1));
    network(StridePadding::Symmetric, blocks)
}

/// A small network of the same kind for tests and demonstrations.
fn nano() -> JasperConfig {
    let repeated =
        |filters, kernel| BlockConfig { residual: Residual::Pointwise, ..block(filters, 2, kernel) };
    let blocks = vec![
        BlockConfig { stride: 2, ..block(64, 1, 11) },
        repeated(64, 11),
        repeated(96, 13),
        repeated(96, 17),
        BlockConfig { separable: false, ..block(128, 1, 1) },
    ];
    network(StridePadding::Symmetric, blocks)
}

/// DeepSpeech 2 with 3 bidirectional LSTM layers of 512 cells a direction, 13,116,157 trainable parameters as two stacks
/// with 256 hidden values, 13,123,837 with summed directions and 512: the convolutions of OpenSeq2Seq's
/// `ds2_small_1gpu.py`, batch norm with its momentum (0.99 in TensorFlow's convention). OpenSeq2Seq trains with
/// dropout 0.5 after every recurrent layer and after the fully connected one; there is none here.
fn deepspeech2(form: RnnForm, hidden: usize) -> DeepSpeech2Config {
    DeepSpeech2Config {
        features: 64,
        padding: StridePadding::Symmetric,
        hidden,
        dropout: 0.0,
        rnn: RnnConfig { form, layers: 3, cells: 512, biases: 1, dropout: 0.0 },
        norm: NormConfig { momentum: 0.01, ..NormConfig::default() },
        convolutions: vec![
            ConvolutionConfig { filters: 32, kernel: [11, 41], stride: [2, 2] },
            ConvolutionConfig { filters: 32, kernel: [11, 21], stride: [1, 2] },
        ],
    }
}

/// A small network of the same kind for tests and demonstrations, whose running statistics move as fast as Jasper's.
fn deepspeech2_nano() -> DeepSpeech2Config {
    DeepSpeech2Config {
        hidden: 96,
        rnn: RnnConfig { form: RnnForm::TwoStacks, layers: 2, cells: 64, biases: 1, dropout: 0.0 },
        norm: NormConfig::default(),
        convolutions: vec![
            ConvolutionConfig { filters: 8, kernel: [11, 21], stride: [2, 4] },
            ConvolutionConfig { filters: 16, kernel: [5, 11], stride: [1, 2] },
        ],
        ..deepspeech2(RnnForm::TwoStacks, 0)
    }
}
