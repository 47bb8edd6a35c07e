//! What every codec would make of a cache: bytes, error, speed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Cache;
use super::codec::{Codec, CodecName, Pieces};
use crate::error::{Error, Result};
use crate::models::HiddenLayer;
use crate::progress::Progress;
use crate::shard::ZSTD_LEVEL;

/// Output frames that are looked at, about: half of them to learn from, the other half to measure.
const FRAMES: u64 = 65_536;
/// A speed is measured for at least so long.
const AT_LEAST: Duration = Duration::from_millis(400);

/// The codecs of the documentation.
pub const USUAL: [CodecName; 8] = [
    CodecName::F16,
    CodecName::U8,
    CodecName::Klt(0.05),
    CodecName::Klt(0.1),
    CodecName::Klt(0.3),
    CodecName::Pq(128),
    CodecName::Pq(64),
    CodecName::Pq(16),
];

/// One codec on frames that it has not learned from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// The codec.
    pub codec: String,
    /// Bytes a frame behind zstd, as in a shard.
    pub bytes_per_frame: f64,
    /// How many times smaller than plain halves.
    pub ratio: f64,
    /// Norm of what decoding is off by over the norm of the hidden states.
    pub relative_error: f64,
    /// Gigabytes a second, counted as plain halves, from compressed payload to what stage two reads, on one core.
    pub decode_gb_per_s: f64,
    /// The same for encoding, of what was single precision.
    pub encode_gb_per_s: f64,
    /// Seconds that learning took.
    pub learn_s: f64,
}

/// Measures codecs on the last layer of an exact cache; where none are given the usual ones, without those that the layer
/// cannot have. Every second utterance of a sample is learned from, the others are measured.
///
/// # Errors
/// When the cache is not of codec `f16`, cannot have a codec that was given, has fewer than two utterances with frames, or is damaged.
pub fn rate(cache: &Cache, codecs: &[CodecName]) -> Result<Vec<Rate>> {
    if cache.identity().codec_name() != Ok(CodecName::F16) {
        return Err(Error::mismatch(
            format!("codec of {}", cache.dir().display()),
            "f16, whose hidden states are exact",
            cache.identity().codec.clone(),
            "rates are measured on a cache that was made with `tutornet cache --codec f16`",
        ));
    }
    let width = cache.identity().hidden_width as usize;
    let every = usize::try_from(cache.manifest().frames / FRAMES).unwrap_or(1).max(1);
    let places = (0..cache.entries().len()).filter(|&at| cache.entries()[at].frames > 0).step_by(every);
    let (mut known, mut unseen) = (Vec::new(), Vec::new());
    for (number, at) in places.enumerate() {
        let mut values = Vec::new();
        cache.hidden(HiddenLayer::Last, at, &mut values)?;
        if number % 2 == 0 { known.push(values) } else { unseen.push(values) }
    }
    if unseen.is_empty() {
        return Err(Error::format(
            cache.dir(),
            "expected at least two utterances with frames to measure codecs on",
        ));
    }
    let wanted = if codecs.is_empty() { USUAL.as_slice() } else { codecs };
    let progress = Progress::new("rate", "codecs", wanted.len() as u64);
    let mut rates = Vec::with_capacity(wanted.len());
    for &name in wanted {
        match measure(name, &known, &unseen, width) {
            Err(error @ Error::Invalid(_)) if codecs.is_empty() => tracing::warn!("left out: {error}"),
            rate => rates.push(rate?),
        }
        progress.add(1);
    }
    progress.finish();
    Ok(rates)
}

fn measure(name: CodecName, known: &[Vec<f32>], unseen: &[Vec<f32>], width: usize) -> Result<Rate> {
    let started = Instant::now();
    let codec =
        Codec::learn(name, known, width).map_err(|detail| Error::invalid(format!("{name}: {detail}")))?;
    let learn_s = started.elapsed().as_secs_f64();
    let frames: usize = unseen.iter().map(|u| u.len() / width).sum();
    let halves = (2 * frames * width) as f64;
    let frames_of = |values: &[f32]| values.len() / width;

    let started = Instant::now();
    let payloads: Vec<Vec<u8>> =
        unseen.iter().map(|values| codec.encode(values, frames_of(values), width)).collect();
    let encode = started.elapsed().as_secs_f64();
    let failed = |e: std::io::Error| Error::invalid(format!("zstd: {e}"));
    let compressed = payloads
        .iter()
        .map(|payload| zstd::bulk::compress(payload, ZSTD_LEVEL))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(failed)?;
    let bytes: usize = compressed.iter().map(Vec::len).sum();

    let (mut off, mut norm, mut out) = (0f64, 0f64, Vec::new());
    let wrong = |detail: String| Error::invalid(format!("{name}: {detail}"));
    for (values, payload) in unseen.iter().zip(&payloads) {
        codec.decode(payload, frames_of(values), width, &mut out).map_err(wrong)?;
        for (found, value) in out.iter().zip(values) {
            off += f64::from(found - value).powi(2);
            norm += f64::from(*value).powi(2);
        }
    }
    let (started, mut rounds) = (Instant::now(), 0u32);
    while rounds == 0 || started.elapsed() < AT_LEAST {
        for ((values, payload), compressed) in unseen.iter().zip(&payloads).zip(&compressed) {
            let payload = zstd::bulk::decompress(compressed, payload.len()).map_err(failed)?;
            let mut take = |_, values: &[f32]| {
                black_box(values.last());
            };
            let mut pieces = Pieces::new(&mut take);
            codec.decode_in_pieces(&payload, frames_of(values), width, &mut pieces).map_err(wrong)?;
        }
        rounds += 1;
    }
    let decode = started.elapsed().as_secs_f64() / f64::from(rounds);
    Ok(Rate {
        codec: name.to_string(),
        bytes_per_frame: bytes as f64 / frames.max(1) as f64,
        ratio: halves / bytes.max(1) as f64,
        relative_error: if norm > 0.0 { (off / norm).sqrt() } else { 0.0 },
        decode_gb_per_s: halves / decode / 1e9,
        encode_gb_per_s: halves / encode / 1e9,
        learn_s,
    })
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::example;
    use super::super::tests::write_cache;
    use super::*;

    #[test]
    fn what_a_narrow_layer_cannot_have_is_left_out_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_cache(dir.path(), &example(40), 2);
        let cache = Cache::open(dir.path()).unwrap();
        let rates = rate(&cache, &[]).unwrap();
        let names: Vec<&str> = rates.iter().map(|rate| rate.codec.as_str()).collect();
        assert!(names.contains(&"klt:0.1") && names.contains(&"pq:16"), "{names:?}");
        assert!(!names.contains(&"pq:128") && !names.contains(&"pq:64"), "{names:?}");
        let refused = rate(&cache, &[CodecName::F16, CodecName::Pq(64)]).unwrap_err().to_string();
        assert!(refused.contains("pq:64 wants at least 64 channels, there are 40"), "{refused}");
    }
}
