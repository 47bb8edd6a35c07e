//! The codec that is learned from a sample: of what the teacher computes ([`super::sample`]), or of an exact cache.

use super::Cache;
use super::codec::{Codec, CodecModel, CodecName};
use super::encode::{Hidden, by_frame};
use super::identity::Identity;
use super::sample::Sampled;
use crate::error::{Error, Result};
use crate::models::HiddenLayer;

/// Output frames of a sample, about: 32 for every channel of a layer of 1,024. Twice as many buy 0.6 % of the bytes.
pub(super) const FRAMES: u64 = 32_768;

/// Learns the codecs of every layer of a cache from what the teacher said of a sample.
///
/// # Errors
/// As for [`learn`].
pub fn learn_from_sample(name: CodecName, identity: &Identity, sampled: &[Sampled]) -> Result<CodecModel> {
    let layers = identity.hidden_layers();
    learn(name, identity, &mut |layer, width| {
        let number = layers.iter().position(|(of, _)| *of == layer).unwrap_or(0);
        let utterance = |sampled: &Sampled| {
            let Sampled { outcome, index, .. } = sampled;
            let values = number.checked_sub(1).and_then(|inner| outcome.inner.get(inner));
            let size = width * outcome.padded;
            let values = values.unwrap_or(&outcome.hidden).get(index * size..(index + 1) * size);
            let hidden = Hidden { layer, values: values.unwrap_or_default(), width };
            by_frame(hidden, outcome.frames[*index], outcome.padded)
        };
        Ok(sampled.iter().map(utterance).collect())
    })
}

/// Learns the codecs of every layer from a sample of an exact cache.
///
/// # Errors
/// As for [`learn`]; and when a payload is damaged.
pub fn learn_from_cache(name: CodecName, cache: &Cache) -> Result<CodecModel> {
    let places: Vec<usize> =
        (0..cache.entries().len()).filter(|&at| cache.entries()[at].frames > 0).collect();
    let every = usize::try_from(cache.manifest().frames / FRAMES).unwrap_or(1).max(1);
    learn(name, cache.identity(), &mut |layer, _| {
        let read = |&at: &usize| {
            let mut values = Vec::new();
            cache.hidden(layer, at, &mut values).map(|()| values)
        };
        places.iter().step_by(every).map(read).collect()
    })
}

/// Learns the codecs of every layer; `utterances` gives a layer's sample, each [frames, width].
///
/// # Errors
/// When the sample holds nothing to learn from, or a layer is too narrow for the codec.
fn learn(
    name: CodecName,
    identity: &Identity,
    utterances: &mut dyn FnMut(HiddenLayer, usize) -> Result<Vec<Vec<f32>>>,
) -> Result<CodecModel> {
    let mut layers = Vec::new();
    for (layer, width) in identity.hidden_layers() {
        let utterances = utterances(layer, width)?;
        if let Some(at) = utterances.iter().position(|u| u.iter().any(|v| !v.is_finite())) {
            return Err(Error::invalid(format!(
                "teacher {}: layer {layer} of utterance {at} of the sample is not finite; a model whose outputs overflow \
                 cannot be distilled from",
                identity.teacher.name
            )));
        }
        let codec = Codec::learn(name, &utterances, width)
            .map_err(|detail| Error::invalid(format!("--codec {name}, layer {layer}: {detail}")))?;
        layers.push((layer, codec));
    }
    Ok(CodecModel::new(name, layers))
}
