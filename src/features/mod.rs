//! From samples to log-mel features, and the masks that a student's input gets.
//!
//! Three frontends share one filterbank and one short-time Fourier transform (window 320, hop 160,
//! FFT 512, 64 Slaney bins up to 8 kHz):
//!
//! | | `nemo` | `openseq2seq` | `deeplearningexamples` |
//! |---|---|---|---|
//! | input | as it is | divided by (peak + 1e-5), then dither 1e-5 N(0, 1) | dither 1e-5 N(0, 1) |
//! | floor | ln(x + 2^-24) | ln(x + 1e-20) | ln(x + 1e-20) |
//! | frames | ceil(N/160); variants in [`NemoRule`] | 1 + floor(N/160) | ceil(N/160) |
//! | normalisation per utterance and bin | (x - mean) / (std with ddof 1 + 1e-5) | (x - mean) / (std with ddof 0) | as `nemo` |
//!
//! Sources: NeMo `parts/preprocessing/features.py`, OpenSeq2Seq `data/speech2text/speech_utils.py`,
//! DeepLearningExamples `PyTorch/SpeechRecognition/Jasper/common/features.py`.

mod mel;
mod spec_augment;
mod stft;
mod transpose;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use spec_augment::SpecAugment;
pub use transpose::transpose;

use crate::random::Random;
use stft::LogMel;

/// Samples per second of every frontend.
pub const SAMPLE_RATE: u32 = 16_000;
/// Samples between two frames.
pub const HOP: usize = 160;
/// Values per frame.
pub const BINS: usize = 64;

/// A feature chain; a corpus is prepared for one, a model was trained on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Frontend {
    /// NeMo's `AudioToMelSpectrogramPreprocessor`, without dither (which it applies in training only).
    Nemo(NemoRule),
    /// OpenSeq2Seq's `logfbank` with the librosa backend. Its dither, drawn anew for every file there,
    /// is here the same stream for every utterance, so that features are a function of the audio.
    OpenSeq2Seq,
    /// `FilterbankFeatures` of NVIDIA's DeepLearningExamples (PyTorch Jasper and QuartzNet), which dithers in
    /// evaluation too; the dither is as in `OpenSeq2Seq`. What its inference does beside that, trimming silence and
    /// putting 16 empty frames before an utterance, is not done.
    DeepLearningExamples,
}

impl Default for Frontend {
    fn default() -> Self {
        Self::Nemo(NemoRule::default())
    }
}

impl fmt::Display for Frontend {
    /// What `prep --frontend` takes; [`Frontend::prep_arguments`] has the variants too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nemo(_) => "nemo",
            Self::OpenSeq2Seq => "openseq2seq",
            Self::DeepLearningExamples => "deeplearningexamples",
        })
    }
}

/// What changed between NeMo's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NemoRule {
    /// Number of frames for N samples.
    #[serde(default)]
    pub frames: FrameRule,
    /// What lies before the first and after the last sample.
    #[serde(default)]
    pub padding: Padding,
}

/// Number of frames for N samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum FrameRule {
    /// ceil(N/160): NeMo 0.10.
    #[default]
    #[serde(rename = "ceil")]
    Ceil,
    /// floor(N/160): NeMo's current code. Audio shorter than one hop has no frame.
    #[serde(rename = "floor")]
    Floor,
    /// floor(N/160) + 1: NeMo 1.0 to 1.23.
    #[serde(rename = "floor+1")]
    #[value(name = "floor+1")]
    FloorPlusOne,
}

/// What the centred transform sees beyond the ends of the audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum Padding {
    /// The audio mirrored at its first and last sample (mirrored again where it is shorter than the
    /// 256 samples needed, as `numpy.pad` does; PyTorch refuses such audio).
    #[default]
    #[serde(rename = "reflect")]
    Reflect,
    /// Zeros: NeMo since July 2025.
    #[serde(rename = "constant")]
    Constant,
}

/// Log-mel features of one utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Frames, 100 a second.
    pub frames: usize,
    /// Values a frame: [`BINS`].
    pub bins: usize,
    /// `[frames, bins]`, row-major.
    pub values: Vec<f32>,
}

impl Frontend {
    /// Features of 16 kHz audio in [-1, 1].
    ///
    /// Defined for every finite input, never NaN: no samples give no frames; where a bin does not
    /// vary (silence, a single frame) its values are 0.
    pub fn features(&self, audio: &[f32]) -> Features {
        let frames = self.frames(audio.len());
        let mut values = match self {
            Self::Nemo(rule) => {
                let samples = audio.iter().map(|&s| f64::from(s)).collect();
                let floor = 2f64.powi(-24);
                LogMel::shared().run(samples, frames, rule.padding, floor)
            }
            Self::OpenSeq2Seq => {
                let peak = audio.iter().fold(0f64, |peak, &s| peak.max(f64::from(s).abs()));
                LogMel::shared().run(dithered(audio, peak + 1e-5), frames, Padding::Reflect, 1e-20)
            }
            Self::DeepLearningExamples => {
                LogMel::shared().run(dithered(audio, 1.0), frames, Padding::Reflect, 1e-20)
            }
        };
        match self {
            Self::Nemo(_) | Self::DeepLearningExamples => normalise(&mut values, frames, 1, 1e-5),
            Self::OpenSeq2Seq => normalise(&mut values, frames, 0, 0.0),
        }
        Features { frames, bins: BINS, values }
    }

    /// Frames that `samples` samples give.
    pub fn frames(&self, samples: usize) -> usize {
        match self {
            _ if samples == 0 => 0,
            Self::Nemo(NemoRule { frames: FrameRule::Ceil, .. }) | Self::DeepLearningExamples => {
                samples.div_ceil(HOP)
            }
            Self::Nemo(NemoRule { frames: FrameRule::Floor, .. }) => samples / HOP,
            Self::Nemo(NemoRule { frames: FrameRule::FloorPlusOne, .. }) | Self::OpenSeq2Seq => {
                samples / HOP + 1
            }
        }
    }

    /// The arguments of `tutornet prep` that give this frontend, variants included; every pair of
    /// different frontends differs here.
    pub fn prep_arguments(&self) -> String {
        let mut text = format!("--frontend {self}");
        if let Self::Nemo(rule) = self {
            let name = |value: &dyn fmt::Debug, names: &[(&str, &str)]| {
                let value = format!("{value:?}");
                names.iter().find(|(variant, _)| *variant == value).map_or(value.clone(), |n| n.1.to_owned())
            };
            if rule.frames != FrameRule::default() {
                let names = [("Floor", "floor"), ("FloorPlusOne", "floor+1")];
                text += &format!(" --nemo-frames {}", name(&rule.frames, &names));
            }
            if rule.padding != Padding::default() {
                text += &format!(" --nemo-padding {}", name(&rule.padding, &[("Constant", "constant")]));
            }
        }
        text
    }
}

/// The mel filters of both frontends, [64, 257] row-major: what NeMo keeps as `featurizer.fb`.
pub fn mel_filters() -> Vec<f64> {
    LogMel::shared().filter_table()
}

/// The window of both frontends, 320 samples: what NeMo keeps as `featurizer.window`.
pub fn window() -> Vec<f64> {
    LogMel::shared().window().to_vec()
}

/// Audio divided by `divisor`, and a dither of 1e-5; with its peak + 1e-5, OpenSeq2Seq's `normalize_signal`.
fn dithered(audio: &[f32], divisor: f64) -> Vec<f64> {
    let mut noise = Random::new(0, "openseq2seq dither", &[]);
    audio.iter().map(|&s| f64::from(s) / divisor + 1e-5 * noise.normal()).collect()
}

/// Per bin: (x - mean) / (std + epsilon), the variance divided by `frames - ddof`.
fn normalise(values: &mut [f32], frames: usize, ddof: usize, epsilon: f64) {
    if frames == 0 {
        return;
    }
    let mut mean = [0f64; BINS];
    let mut square = [0f64; BINS];
    for frame in values.chunks_exact(BINS) {
        for (sum, &v) in mean.iter_mut().zip(frame) {
            *sum += f64::from(v);
        }
    }
    for sum in &mut mean {
        *sum /= frames as f64;
    }
    for frame in values.chunks_exact(BINS) {
        for ((sum, &v), mean) in square.iter_mut().zip(frame).zip(&mean) {
            *sum += (f64::from(v) - mean).powi(2);
        }
    }
    // One frame with ddof 1 has no deviation; NeMo replaces the NaN by 0 as well.
    let count = frames.saturating_sub(ddof).max(1) as f64;
    let scale = square.map(|sum| {
        let deviation = (sum / count).sqrt() + epsilon;
        if deviation > 0.0 { 1.0 / deviation } else { 0.0 }
    });
    for frame in values.chunks_exact_mut(BINS) {
        for ((v, mean), scale) in frame.iter_mut().zip(&mean).zip(&scale) {
            *v = stft::to_f32((f64::from(*v) - mean) * scale);
        }
    }
}

#[cfg(test)]
mod tests;
