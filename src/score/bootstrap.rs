//! How far an error rate can be trusted: the bootstrap over utterances.
//!
//! Utterances are drawn with replacement, as many as there are, and the rate of the drawn ones
//! is taken: errors over reference units of the whole draw, not a mean of rates. The interval
//! holds the middle 95 % of 10,000 such rates (Bisani and Ney, "Bootstrap estimates for
//! confidence intervals in ASR performance evaluation", ICASSP 2004). Comparing two systems
//! draws the same utterances for both.

use super::Counts;
use crate::error::{Error, Result};
use crate::random::Random;

/// Draws of the whole test set.
pub const RESAMPLES: usize = 10_000;

/// Seed of every interval that `tutornet` prints: the same scores give the same interval.
pub const SEED: u64 = 1;

/// The middle 95 % of the resampled values, in percent.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    /// 2.5 % of the resamples lie below.
    pub low: f64,
    /// 2.5 % of the resamples lie above.
    pub high: f64,
}

impl From<[f64; 2]> for Interval {
    fn from([low, high]: [f64; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// 95 % interval of the error rate of one system; `utterances` holds its counts, one an utterance.
/// No utterances give the interval 0..0.
pub fn interval(utterances: &[Counts], seed: u64) -> Interval {
    middle(resample(utterances.len(), seed, |drawn| rate(drawn, utterances)))
}

/// 95 % interval of `rate(base) - rate(other)` in percentage points: above zero, `other` makes
/// fewer errors than `base`. Both hold one count an utterance, in the same order.
///
/// # Errors
/// When the two do not score the same references.
pub fn paired_difference(base: &[Counts], other: &[Counts], seed: u64) -> Result<Interval> {
    if base.len() != other.len() {
        return Err(Error::mismatch(
            "utterances of two scored runs",
            base.len().to_string(),
            other.len().to_string(),
            "evaluate both on the same corpus",
        ));
    }
    if let Some(at) = (0..base.len()).find(|&i| base[i].reference != other[i].reference) {
        return Err(Error::mismatch(
            format!("length of reference {at} of two scored runs"),
            base[at].reference.to_string(),
            other[at].reference.to_string(),
            "evaluate both on the same corpus",
        ));
    }
    Ok(middle(resample(base.len(), seed, |drawn| rate(drawn, base) - rate(drawn, other))))
}

fn rate(drawn: &[usize], utterances: &[Counts]) -> f64 {
    let (errors, reference) = drawn.iter().fold((0, 0), |(errors, reference), &i| {
        (errors + utterances[i].errors, reference + utterances[i].reference)
    });
    Counts { errors, reference, ..Counts::default() }.rate()
}

fn resample(utterances: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Vec<f64> {
    let mut random = Random::new(seed, "bootstrap", &[]);
    let mut drawn = vec![0; utterances];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.iter_mut().for_each(|d| *d = random.below(utterances));
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The 2.5 % and 97.5 % quantiles of sorted values, by the nearest rank.
fn middle(values: Vec<f64>) -> Interval {
    let outside = values.len() / 40;
    match (values.get(outside), values.get(values.len().saturating_sub(1 + outside))) {
        (Some(&low), Some(&high)) => Interval { low, high },
        _ => Interval { low: 0.0, high: 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Utterances of 10 words, each word wrong with probability `p`.
    fn system(utterances: usize, p: f64, random: &mut Random) -> Vec<Counts> {
        let wrong = |random: &mut Random| (0..10).filter(|_| random.uniform() < p).count() as u64;
        (0..utterances)
            .map(|_| Counts { reference: 10, errors: wrong(random), ..Counts::default() })
            .collect()
    }

    #[test]
    fn the_interval_has_the_width_of_theory() {
        let mut random = Random::new(3, "test", &[]);
        let counts = system(400, 0.2, &mut random);
        let total: Counts = counts.iter().copied().sum();
        let found = interval(&counts, SEED);
        // Binomial: 1.96 standard deviations of 4000 independent words at 20 % are 1.24 points.
        assert!(((found.high - found.low) / 2.0 - 1.24).abs() < 0.15, "{found:?}");
        assert!(found.low < total.rate() && total.rate() < found.high, "{found:?} {}", total.rate());
        assert_eq!(found, interval(&counts, SEED), "the same seed gives the same interval");
        let rates = |seed| resample(counts.len(), seed, |drawn| rate(drawn, &counts));
        assert_ne!(rates(SEED), rates(SEED + 1), "another seed draws others");
    }

    #[test]
    fn the_interval_covers_the_truth_about_95_times_in_100() {
        let mut random = Random::new(5, "test", &[]);
        let covered = (0..60)
            .filter(|_| {
                let found = interval(&system(50, 0.3, &mut random), SEED);
                found.low <= 30.0 && 30.0 <= found.high
            })
            .count();
        assert!((51..=60).contains(&covered), "{covered} of 60");
    }

    #[test]
    fn a_pair_is_told_apart_where_single_intervals_overlap() {
        let mut random = Random::new(4, "test", &[]);
        // Hard and easy utterances; the other system makes one error less on most.
        let base: Vec<Counts> =
            (0..100).map(|i| Counts { reference: 10, errors: 2 + i % 7, ..Counts::default() }).collect();
        let other: Vec<Counts> = base
            .iter()
            .map(|c| Counts { errors: c.errors - u64::from(random.uniform() < 0.5), ..*c })
            .collect();
        let (a, b) = (interval(&base, SEED), interval(&other, SEED));
        assert!(a.low < b.high, "the single intervals overlap: {a:?} {b:?}");
        let difference = paired_difference(&base, &other, SEED).unwrap();
        assert!(difference.low > 0.0, "{difference:?}");
        let reversed = paired_difference(&other, &base, SEED).unwrap();
        assert!((difference.low + reversed.high).abs() < 1e-9);
    }

    #[test]
    fn different_references_are_refused() {
        let one = |reference| vec![Counts { reference, ..Counts::default() }];
        let message = paired_difference(&one(3), &one(4), SEED).unwrap_err().to_string();
        assert!(message.contains("same corpus"), "{message}");
        assert!(paired_difference(&one(3), &[], SEED).is_err());
        assert_eq!(interval(&[], SEED), Interval { low: 0.0, high: 0.0 });
    }
}
