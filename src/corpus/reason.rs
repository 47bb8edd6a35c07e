//! Why an utterance was left out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds of reasons; the words stand in `skipped.jsonl` and in the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// An audio file without a transcript.
    TranscriptMissing,
    /// A transcript without words.
    TranscriptEmpty,
    /// A transcript with a character that is no label.
    TranscriptCharacters,
    /// A transcript without an audio file.
    AudioMissing,
    /// An utterance id met before, in another place.
    Duplicate,
    /// The file ends before its header says so.
    Truncated,
    /// The file cannot be decoded to the length its header says.
    Damaged,
    /// The decoded samples do not match the MD5 in the file.
    Md5,
    /// Neither FLAC nor WAV, or a variant that is not supported.
    Format,
    /// No samples.
    Empty,
    /// All samples are the same.
    Silent,
    /// A sample is NaN or infinite.
    NotFinite,
    /// Shorter than one frame of the frontend.
    TooShort,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TranscriptMissing => "transcript missing",
            Self::TranscriptEmpty => "transcript empty",
            Self::TranscriptCharacters => "characters outside the labels",
            Self::AudioMissing => "audio missing",
            Self::Duplicate => "utterance id met twice",
            Self::Truncated => "audio truncated",
            Self::Damaged => "audio damaged",
            Self::Md5 => "MD5 mismatch",
            Self::Format => "not FLAC or WAV",
            Self::Empty => "zero length",
            Self::Silent => "silent",
            Self::NotFinite => "samples not finite",
            Self::TooShort => "shorter than one frame",
        })
    }
}

/// A reason with what was expected and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: Reason,
    pub detail: String,
}

impl Fault {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// One line of `skipped.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// The utterance.
    pub utterance: String,
    /// Its file, relative to the source directory.
    pub file: String,
    /// What kind of fault.
    pub reason: Reason,
    /// Expected and found.
    pub detail: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "utterance {} ({}): {}: {}", self.utterance, self.file, self.reason, self.detail)
    }
}
