//! Models by name.

use super::config::{Architecture, ModelConfig, Provenance};
use super::deepspeech2::{ConvolutionConfig, DeepSpeech2Config, RnnConfig, RnnForm};
use super::jasper::{BlockConfig, JasperConfig, Residual, StridePadding};
use super::norm::NormConfig;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::labels::Labels;

/// Names that [`find`] knows.
pub const NAMES: [&str; 7] = [
    "jasper-dr",
    "jasper-mini",
    "jasper-nano",
    "quartznet15x5",
    "deepspeech2",
    "deepspeech2-summed",
    "deepspeech2-nano",
];

/// The configuration of a preset: English labels, and frontend and padding of the toolkit that its architecture
/// comes from. The frontend is that of the published recipe: a student takes the one of its corpora.
///
/// # Errors
/// Lists the presets when there is none of that name.
pub fn find(name: &str) -> Result<ModelConfig> {
    let (architecture, frontend) = match name {
        "jasper-dr" => (Architecture::Jasper(jasper_dr()), Frontend::OpenSeq2Seq),
        "jasper-mini" => (Architecture::Jasper(mini()), Frontend::OpenSeq2Seq),
        "jasper-nano" => (Architecture::Jasper(nano()), Frontend::default()),
        "quartznet15x5" => (Architecture::Jasper(quartznet()), Frontend::default()),
        "deepspeech2" => {
            (Architecture::DeepSpeech2(deepspeech2(RnnForm::TwoStacks, 256)), Frontend::OpenSeq2Seq)
        }
        "deepspeech2-summed" => {
            (Architecture::DeepSpeech2(deepspeech2(RnnForm::Summed, 512)), Frontend::OpenSeq2Seq)
        }
        "deepspeech2-nano" => (Architecture::DeepSpeech2(deepspeech2_nano()), Frontend::default()),
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
        frontend,
        labels: Labels::english(),
        provenance: Provenance { origin: format!("preset {name}"), ..Provenance::default() },
        architecture,
    })
}

/// What has been published about a preset's size: the TutorNet paper's Table I, or the network's own paper.
pub fn published(name: &str) -> Option<&'static str> {
    Some(match name {
        "jasper-dr" => "332.6M (TutorNet, Table I)",
        "jasper-mini" => "8.2M (TutorNet, Table I)",
        "deepspeech2" | "deepspeech2-summed" => {
            "13.1M (TutorNet, Table I, which does not say how the directions meet)"
        }
        "quartznet15x5" => "18.9M (QuartzNet, table 1)",
        _ => return None,
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

/// Jasper DR 10x5, 332,632,349 trainable parameters (computed): OpenSeq2Seq `jasper10x5_LibriSpeech_nvgrad_masks.py`,
/// whose published word error rates are those of the paper's teacher.
fn jasper_dr() -> JasperConfig {
    let plain = |filters, repeat, kernel| BlockConfig { separable: false, ..block(filters, repeat, kernel) };
    let mut blocks = vec![BlockConfig { stride: 2, dropout: 0.2, ..plain(256, 1, 11) }];
    let widths = [(256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3)];
    for (filters, kernel, dropout) in widths {
        let repeated =
            BlockConfig { residual: Residual::Pointwise, dense: true, dropout, ..plain(filters, 5, kernel) };
        blocks.extend(std::iter::repeat_n(repeated, 2));
    }
    blocks.push(BlockConfig { dilation: 2, dropout: 0.4, ..plain(896, 1, 29) });
    blocks.push(BlockConfig { dropout: 0.4, ..plain(1024, 1, 1) });
    network(StridePadding::Same, blocks)
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
    network(StridePadding::Same, blocks)
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

/// DeepSpeech 2, as inferred: no published configuration is the paper's, and these two forms are those of its 13.1M
/// parameters. 3 bidirectional LSTM layers of 512 cells a direction, 13,116,157 trainable parameters as two stacks
/// with 256 hidden values, 13,123,837 with summed directions and 512: the convolutions of OpenSeq2Seq's
/// `ds2_small_1gpu.py`, batch norm with its momentum (0.99 in TensorFlow's convention). OpenSeq2Seq trains with
/// dropout 0.5 after every recurrent layer and after the fully connected one; there is none here.
fn deepspeech2(form: RnnForm, hidden: usize) -> DeepSpeech2Config {
    DeepSpeech2Config {
        features: 64,
        padding: StridePadding::Same,
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
        padding: StridePadding::Symmetric,
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
