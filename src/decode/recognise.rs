//! A model run for its text.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use rayon::prelude::*;

use super::{Decoder, Transcript};
use crate::corpus::decode_audio;
use crate::error::{Error, Result};
use crate::models::{Mode, Model};

/// Runs the model over padded features ([batch, bins, frames]; each row has `frames` valid ones)
/// and decodes every row; `name` says what a row is, for errors.
///
/// # Errors
/// When a valid frame's logits are not finite, naming the row, or the device fails.
pub fn recognise(
    model: &Model,
    features: Tensor<3>,
    frames: &[usize],
    decoder: &Decoder,
    name: impl Fn(usize) -> String + Sync,
) -> Result<Vec<Transcript>> {
    let output = model.forward(features, frames, Mode::Evaluate);
    let [_, padded, labels] = output.logits.dims();
    let data = output.logits.into_data().convert::<f32>();
    let logits = data.try_to_vec::<f32>().map_err(|e| Error::Device {
        device: "in use".to_owned(),
        detail: format!("the logits of {} cannot be read: {e:?}", name(0)),
    })?;
    let transcript = |(row, &valid): (usize, &usize)| {
        let logits = &logits[row * padded * labels..][..valid * labels];
        if logits.iter().all(|v| v.is_finite()) {
            return Ok(decoder.decode(logits, valid, &model.config.labels));
        }
        Err(Error::NonFinite(format!(
            "model {}: the logits of {} are not finite; the weights diverged in training, or the device failed",
            model.config.name,
            name(row)
        )))
    };
    output.frames.par_iter().enumerate().map(transcript).collect()
}

/// The text of an audio file (FLAC or WAV, any rate), with the spaces that the model gave.
///
/// # Errors
/// When the file cannot be decoded, is too short for a single frame, or [`recognise`] fails.
pub fn transcribe_file(model: &Model, path: &Path, device: &Device, decoder: &Decoder) -> Result<Transcript> {
    let audio = decode_audio(path)?;
    let features = model.config.frontend.features(&audio.samples);
    if features.frames == 0 {
        let detail = format!("expected at least one frame of audio, found {} samples", audio.samples.len());
        return Err(Error::format(path, detail));
    }
    let shape = [1, features.frames, features.bins];
    let values = Tensor::<3>::from_data(TensorData::new(features.values, shape), device);
    let mut transcripts = recognise(model, values.swap_dims(1, 2), &[features.frames], decoder, |_| {
        path.display().to_string()
    })?;
    Ok(transcripts.pop().unwrap_or_default())
}
