//! Speed perturbation (Ko et al., "Audio Augmentation for Speech Recognition", 2015): copies of every utterance
//! that are played faster or slower, so that tempo and pitch change together.
//!
//! A copy is an utterance of its own, `ID@speed1.1` for 1.1 times faster: a teacher hears it like any other, and
//! its cache joins by that name and by the hash of the copy's audio. OpenSeq2Seq's factors are those of the new
//! length, so its 1.1 is 1 / 1.1 = 0.909 here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::librispeech::{Found, Listing};
use super::reason::Fault;
use super::resample::resample;
use crate::error::{Error, Result};
use crate::features::SAMPLE_RATE;

/// What stands between the id of an utterance and the speed of its copy.
const MARK: &str = "@speed";
/// Speeds at which speech is still speech, in thousandths.
const RANGE: std::ops::RangeInclusive<u32> = 500..=2000;

/// How much faster a copy is than its original, in steps of a thousandth; never 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Speed(u32);

impl Speed {
    fn new(thousandths: u32) -> Result<Self, String> {
        if RANGE.contains(&thousandths) && thousandths != 1000 {
            return Ok(Self(thousandths));
        }
        let found = f64::from(thousandths) / 1000.0;
        Err(format!(
            "expected a speed of 0.5 to 2 other than 1 (the original is always there), found {found}"
        ))
    }

    /// The samples [n] at 16 kHz of an utterance, played at this speed: ceil(n / speed) of them.
    pub(super) fn apply(self, samples: &[f32]) -> Result<Vec<f32>, Fault> {
        // What was recorded at 16 kHz and is faster by s was recorded at s times 16 kHz.
        resample(samples, SAMPLE_RATE / 1000 * self.0)
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a speed such as 0.9, with up to three decimals, found `{text}`");
        let (whole, decimals) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.len() > 1 || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
            return Err(wrong());
        }
        let number = format!("{whole}{decimals:0<3}");
        Self::new(number.parse().map_err(|_| wrong())?)
    }
}

impl TryFrom<f64> for Speed {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        value.to_string().parse()
    }
}

impl From<Speed> for f64 {
    fn from(speed: Speed) -> Self {
        Self::from(speed.0) / 1000.0
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&f64::from(*self).to_string())
    }
}

/// `0.9,1.1`, as the option takes them.
pub(super) fn list(speeds: &[Speed]) -> String {
    speeds.iter().map(Speed::to_string).collect::<Vec<_>>().join(",")
}

/// The id of the utterance that `id` is a copy of; `id` itself when it is none.
pub fn original(id: &str) -> &str {
    id.split_once(MARK).map_or(id, |(original, _)| original)
}

/// Adds a copy of every utterance at every speed, sorted by id again.
///
/// # Errors
/// When the tree has an utterance whose name is that of a copy.
pub(super) fn with_copies(listing: Listing, speeds: &[Speed]) -> Result<Listing> {
    if speeds.is_empty() {
        return Ok(listing);
    }
    if let Some(copy) = listing.found.iter().find(|found| found.id.contains(MARK)) {
        return Err(Error::invalid(format!(
            "{}: utterance {} is named like a copy; rename it, or leave --speed out",
            copy.file.display(),
            copy.id
        )));
    }
    let copies = |found: &Found| -> Vec<Found> {
        let copy =
            |&speed| Found { id: format!("{}{MARK}{speed}", found.id), speed: Some(speed), ..found.clone() };
        speeds.iter().map(copy).collect()
    };
    let mut found: Vec<Found> = listing.found.iter().flat_map(copies).collect();
    found.extend(listing.found);
    found.sort();
    Ok(Listing { found, ..listing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_written_the_same() {
        for (text, written) in
            [("0.9", "0.9"), ("1.1", "1.1"), (" 1.05", "1.05"), ("2", "2"), (".909", "0.909")]
        {
            let speed: Speed = text.parse().unwrap();
            assert_eq!(speed.to_string(), written);
            assert_eq!(Speed::try_from(f64::from(speed)), Ok(speed));
            let table = toml::Table::from_iter([("s".to_owned(), toml::Value::try_from(speed).unwrap())]);
            assert_eq!(table.to_string().trim(), format!("s = {:?}", f64::from(speed)));
            assert_eq!(table["s"].clone().try_into::<Speed>().unwrap(), speed);
        }
        for (text, word) in [
            ("1", "other than 1"),
            ("1.000", "other than 1"),
            ("0.4", "0.5 to 2"),
            ("2.001", "0.5 to 2"),
            ("1.1005", "three decimals"),
            ("-1", "such as 0.9"),
            ("1e0", "such as 0.9"),
            ("", "0.5 to 2"),
            ("nan", "such as 0.9"),
        ] {
            let error = text.parse::<Speed>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_original_of_a_name() {
        assert_eq!(original("1-2-0003@speed1.1"), "1-2-0003");
        assert_eq!(original("1-2-0003"), "1-2-0003");
    }

    /// Faster is shorter and higher, and nothing else changes.
    #[test]
    fn a_tone_at_another_speed_has_another_length_and_pitch() {
        let tone = |count: usize, hz: f64| -> Vec<f32> {
            #[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
            let sample = |i: usize| (0.5 * (std::f64::consts::TAU * hz * i as f64 / 16_000.0).sin()) as f32;
            (0..count).map(sample).collect()
        };
        for (text, length) in [("1.1", 14_546), ("0.9", 17_778), ("0.909", 17_602), ("1.05", 15_239)] {
            let speed: Speed = text.parse().unwrap();
            let found = speed.apply(&tone(16_000, 440.0)).unwrap();
            assert_eq!(found.len(), length, "{text}: ceil(16000 / speed)");
            let expected = tone(length, 440.0 * f64::from(speed));
            let inner = 1000..length - 1000;
            let worst = found[inner.clone()].iter().zip(&expected[inner]).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0f32, f32::max);
            assert!(worst < 1e-3, "{text}: {worst}");
        }
    }
}
