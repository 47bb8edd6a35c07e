//! Names of codecs, as `--codec` and `cache.toml` have them.

use std::fmt;
use std::str::FromStr;

/// Relative errors that `klt` can be asked for.
const ERRORS: std::ops::RangeInclusive<f64> = 0.005..=0.9;
/// Bytes a frame that `pq` can be asked for.
const BYTES: std::ops::RangeInclusive<usize> = 8..=128;

/// A codec and its setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CodecName {
    /// `f16`: exact halves.
    F16,
    /// `u8`: a byte a value.
    U8,
    /// `klt:E`: relative error E; `klt` is `klt:0.1`.
    Klt(f64),
    /// `pq:N`: N bytes a frame; `pq` is `pq:64`.
    Pq(usize),
}

impl CodecName {
    /// Whether it learns from a sample of the teacher's hidden states.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Klt(_) | Self::Pq(_))
    }

    /// Refuses layers that it cannot be of.
    ///
    /// # Errors
    /// When there are fewer of the layer's `width` channels than bytes to describe them.
    pub fn require(self, width: usize) -> Result<(), String> {
        match self {
            Self::Pq(bytes) if bytes > width => {
                Err(format!("{self} wants at least {bytes} channels, there are {width}"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for CodecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::U8 => f.write_str("u8"),
            Self::Klt(error) => write!(f, "klt:{error}"),
            Self::Pq(bytes) => write!(f, "pq:{bytes}"),
        }
    }
}

impl FromStr for CodecName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, setting) =
            text.split_once(':').map_or((text, None), |(name, setting)| (name, Some(setting)));
        match (name, setting) {
            ("f16", None) => Ok(Self::F16),
            ("u8", None) => Ok(Self::U8),
            ("klt", None) => Ok(Self::Klt(0.1)),
            ("pq", None) => Ok(Self::Pq(64)),
            ("klt", Some(setting)) => match setting.parse() {
                Ok(error) if ERRORS.contains(&error) => Ok(Self::Klt(error)),
                _ => Err(format!(
                    "expected klt:E with a relative error E of {} to {}, found `{text}`",
                    ERRORS.start(),
                    ERRORS.end()
                )),
            },
            ("pq", Some(setting)) => match setting.parse() {
                Ok(bytes) if BYTES.contains(&bytes) => Ok(Self::Pq(bytes)),
                _ => Err(format!(
                    "expected pq:N with N bytes a frame of {} to {}, found `{text}`",
                    BYTES.start(),
                    BYTES.end()
                )),
            },
            _ => Err(format!("expected f16, u8, klt:E or pq:N, found `{text}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for name in ["f16", "u8", "klt:0.1", "klt:0.05", "pq:64", "pq:8"] {
            assert_eq!(name.parse::<CodecName>().unwrap().to_string(), name);
        }
        assert_eq!("klt".parse(), Ok(CodecName::Klt(0.1)));
        assert_eq!("pq".parse(), Ok(CodecName::Pq(64)));
        for bad in ["f32", "u8:3", "klt:0", "klt:x", "klt:nan", "pq:7", "pq:200", "pq:1.5", ""] {
            assert!(bad.parse::<CodecName>().unwrap_err().contains("expected"), "{bad}");
        }
    }
}
