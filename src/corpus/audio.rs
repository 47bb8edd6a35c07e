//! FLAC and WAV files as mono 16 kHz samples.

use std::io::Cursor;
use std::path::Path;

use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::reason::{Fault, Reason};
use super::resample::resample;
use super::speed::Speed;
use crate::error::{Error, Result};
use crate::features::SAMPLE_RATE;
use crate::files;

/// A decoded file.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// 16 kHz, mono, in [-1, 1]; finite.
    pub samples: Vec<f32>,
    /// First 16 bytes of the BLAKE3 of the samples as little-endian f32: what the audio is, whatever
    /// file it came in.
    pub audio_hash: [u8; 16],
    /// Sampling rate of the file, Hz.
    pub rate: u32,
    /// Channels of the file.
    pub channels: usize,
    /// Whether the decoded samples were compared with an MD5 in the file (FLAC only).
    pub verified: bool,
}

impl Audio {
    /// The same played at another speed.
    pub(super) fn at(self, speed: Speed) -> Result<Self, Fault> {
        let samples = speed.apply(&self.samples)?;
        Ok(Self { audio_hash: hash(&samples), samples, ..self })
    }
}

/// Decodes a FLAC or WAV file; several channels are mixed, other rates resampled to 16 kHz.
///
/// A FLAC file is compared with the number of samples and the MD5 of its STREAMINFO.
///
/// # Errors
/// When the file cannot be read, is no FLAC or WAV, is damaged or truncated, or holds no sample,
/// only silence, or a value that is not finite.
pub fn decode_audio(path: &Path) -> Result<Audio> {
    let bytes = files::read(path)?;
    decode(bytes, path).map_err(|fault| Error::format(path, fault.detail))
}

/// [`decode_audio`] of bytes in memory; `path` serves as a hint of the format only.
pub(super) fn decode(bytes: Vec<u8>, path: &Path) -> Result<Audio, Fault> {
    // The demuxer slices without checking in places that only a damaged file reaches.
    let path = path.to_path_buf();
    let (interleaved, format) = std::panic::catch_unwind(move || read_all(bytes, &path))
        .unwrap_or_else(|_| Err(Fault::new(Reason::Damaged, "the decoder gave up on this file")))?;
    let Format { rate, channels, verified } = format;
    if let Some(at) = interleaved.iter().position(|s| !s.is_finite()) {
        let detail = format!("sample {} is {}, expected a number", at / channels.max(1), interleaved[at]);
        return Err(Fault::new(Reason::NotFinite, detail));
    }
    let mono = mix(interleaved, channels);
    if mono.is_empty() {
        return Err(Fault::new(Reason::Empty, "the file holds no samples"));
    }
    if mono.iter().all(|&s| s == mono[0]) {
        let detail = format!("all {} samples are {}", mono.len(), mono[0]);
        return Err(Fault::new(Reason::Silent, detail));
    }
    let samples = if rate == SAMPLE_RATE { mono } else { resample(&mono, rate)? };
    Ok(Audio { audio_hash: hash(&samples), samples, rate, channels, verified })
}

/// First 16 bytes of the BLAKE3 of the samples as little-endian f32.
fn hash(samples: &[f32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let mut block = Vec::with_capacity(16 * 1024);
    for samples in samples.chunks(4096) {
        block.clear();
        block.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
        hasher.update(&block);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    first
}

fn mix(interleaved: Vec<f32>, channels: usize) -> Vec<f32> {
    if channels <= 1 {
        return interleaved;
    }
    let mean = |frame: &[f32]| {
        let sum: f64 = frame.iter().map(|&s| f64::from(s)).sum();
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
        let mean = (sum / channels as f64) as f32;
        mean
    };
    interleaved.chunks_exact(channels).map(mean).collect()
}

struct Format {
    rate: u32,
    channels: usize,
    verified: bool,
}

/// All samples of the first audio track, interleaved.
fn read_all(bytes: Vec<u8>, path: &Path) -> Result<(Vec<f32>, Format), Fault> {
    if bytes.is_empty() {
        return Err(Fault::new(Reason::Empty, "the file has zero bytes"));
    }
    let flac = bytes.starts_with(b"fLaC");
    if !flac && !bytes.starts_with(b"RIFF") {
        return Err(Fault::new(Reason::Format, "expected a FLAC or WAV file, found other contents"));
    }
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let mut reader = symphonia::default::get_probe()
        .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|e| match e {
            DecodeError::IoError(_) if flac => {
                Fault::new(Reason::Truncated, "no audio follows the header: zero length, or truncated")
            }
            e => Fault::new(Reason::Damaged, format!("the header cannot be read: {e}")),
        })?;
    let track = reader
        .default_track(TrackType::Audio)
        .ok_or_else(|| Fault::new(Reason::Damaged, "the file has no audio track"))?;
    let (id, promised) = (track.id, track.num_frames);
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio());
    let parameters =
        parameters.ok_or_else(|| Fault::new(Reason::Damaged, "the audio format is not given"))?;
    let rate = parameters.sample_rate.filter(|&r| r > 0);
    let rate = rate.ok_or_else(|| Fault::new(Reason::Damaged, "the sampling rate is not given"))?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default().verify(true))
        .map_err(|e| Fault::new(Reason::Format, format!("the audio format is not supported: {e}")))?;

    let mut samples = Vec::new();
    let mut packet_samples: Vec<f32> = Vec::new();
    let mut channels = 0;
    let mut ended_early = false;
    loop {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(DecodeError::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                ended_early = true;
                break;
            }
            Err(e) => return Err(damaged(samples.len() / channels.max(1), &e)),
        };
        if packet.track_id != id {
            continue;
        }
        let buffer = decoder.decode(&packet).map_err(|e| damaged(samples.len() / channels.max(1), &e))?;
        if channels == 0 {
            channels = buffer.num_planes();
        }
        buffer.copy_to_vec_interleaved(&mut packet_samples);
        samples.extend_from_slice(&packet_samples);
    }
    let found = (samples.len() / channels.max(1)) as u64;
    check_length(promised, found, ended_early)?;
    let verified = match decoder.finalize().verify_ok {
        Some(false) => {
            let detail = "the decoded samples do not have the MD5 that STREAMINFO promises";
            return Err(Fault::new(Reason::Md5, detail));
        }
        verify => verify.is_some(),
    };
    Ok((samples, Format { rate, channels, verified }))
}

fn damaged(at: usize, error: &DecodeError) -> Fault {
    Fault::new(Reason::Damaged, format!("the stream cannot be decoded after sample {at}: {error}"))
}

/// `promised` samples a channel according to the header. It says nothing in files written to a pipe.
fn check_length(promised: Option<u64>, found: u64, ended_early: bool) -> Result<(), Fault> {
    let Some(expected) = promised.filter(|&expected| expected != found) else { return Ok(()) };
    // Cut inside the first frame, there is no frame to tell that the end came early.
    let (reason, why) = if found == 0 || ended_early && found < expected {
        (Reason::Truncated, "truncated")
    } else {
        (Reason::Damaged, "damaged")
    };
    let detail = format!("the header promises {expected} samples, {found} were decoded: {why}");
    Err(Fault::new(reason, detail))
}
