//! The `preprocessor` section: every value that our frontend fixes must be the file's.

use serde_json::{Map, Value};

use super::section::Section;
use crate::error::Result;
use crate::features::{BINS, Frontend, HOP, NemoRule, SAMPLE_RATE};

/// Checks the settings of NeMo's `AudioToMelSpectrogramPreprocessor`.
///
/// # Errors
/// Names the first setting that differs from the frontend's, or is unknown.
pub fn read(settings: &Map<String, Value>, rule: NemoRule, notes: &mut Vec<String>) -> Result<Frontend> {
    let root = Section::new("", settings);
    let section = root.section("preprocessor")?;
    section.ignore(&["_target_", "cls", "params"]);
    if let Some(class) = root.class("preprocessor")
        && class != "AudioToMelSpectrogramPreprocessor"
    {
        return Err(root.unsupported("preprocessor", "AudioToMelSpectrogramPreprocessor"));
    }
    section.fixed_number("sample_rate", f64::from(SAMPLE_RATE))?;
    let seconds = |samples: f64| samples / f64::from(SAMPLE_RATE);
    section.fixed_number("window_size", seconds(320.0))?;
    section.fixed_number("window_stride", seconds(HOP as f64))?;
    section.fixed_number("n_window_size", 320.0)?;
    section.fixed_number("n_window_stride", HOP as f64)?;
    section.fixed_text("window", &["hann"])?;
    section.fixed_number("features", BINS as f64)?;
    section.fixed_number("n_fft", 512.0)?;
    section.fixed_text("normalize", &["per_feature"])?;
    section.fixed_number("preemph", 0.97)?;
    section.fixed_number("lowfreq", 0.0)?;
    section.fixed_number("highfreq", f64::from(SAMPLE_RATE) / 2.0)?;
    section.fixed_flag("log", true)?;
    section.fixed_text("log_zero_guard_type", &["add"])?;
    section.fixed_number("log_zero_guard_value", 2f64.powi(-24))?;
    section.fixed_number("frame_splicing", 1.0)?;
    section.fixed_number("mag_power", 2.0)?;
    section.fixed_text("mel_norm", &["slaney"])?;
    section.fixed_number("pad_value", 0.0)?;
    for flag in ["exact_pad", "stft_exact_pad", "stft_conv", "use_torchaudio"] {
        section.fixed_flag(flag, false)?;
    }
    // Drawn in training only.
    if section.get("dither").is_some() {
        notes.push("preprocessor.dither concerns training only: ignored".to_owned());
    }
    // Padding of batches, which masks hide; augmentation and its seed.
    section.ignore(&["pad_to", "nb_augmentation_prob", "nb_max_freq", "rng"]);
    section.finish()?;
    Ok(Frontend::Nemo(rule))
}
