//! One row beside another on one test set: means over seeds, relative reductions, and whether the
//! difference is more than the chance of the test set.

use super::scored::{Scored, Utterance};
use crate::error::{Error, Result};
use crate::score::Counts;
use crate::score::bootstrap::{Interval, SEED, interval, paired_difference};

/// Words or characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Word error rate.
    Words,
    /// Character error rate.
    Chars,
}

/// A mean over seeds and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample (n - 1); `None` with a single seed.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of the values of all seeds; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, deviation })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Seeds differ by more than hundredths.
        match self.deviation {
            Some(deviation) => write!(f, "{:.1} ± {deviation:.1}", self.mean),
            None => write!(f, "{:.2}", self.mean),
        }
    }
}

/// (base - rate) / base in percent, the relative error rate reduction; `None` where the base makes no errors.
pub fn rerr(base: f64, rate: f64) -> Option<f64> {
    (base > 0.0).then(|| 100.0 * (base - rate) / base)
}

/// By how much a row is better than another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// Points of the error rate, positive when there are fewer errors.
    pub points: f64,
    /// 95 % interval of the paired bootstrap; `None` where no errors of single utterances are known.
    pub interval: Option<Interval>,
    /// Half the width of the 95 % interval of the difference of two means over seeds; `None` where
    /// neither side has several.
    pub over_seeds: Option<f64>,
}

impl Gain {
    /// Whether either interval holds zero: another test set of this size, or other seeds, could turn the two
    /// around.
    pub fn may_be_chance(&self) -> bool {
        self.interval.is_some_and(|i| i.low <= 0.0 && i.high >= 0.0)
            || self.over_seeds.is_some_and(|half| self.points.abs() <= half)
    }
}

/// 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// Half the 95 % interval of the difference of the means of two samples with one variance (Student's t, pooled); `None` where
/// both have a single value.
fn difference_of_means(one: &[f64], other: &[f64]) -> Option<f64> {
    let squares = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
    };
    let freedom = (one.len() + other.len()).checked_sub(2).filter(|&n| n > 0)?;
    let variance = (squares(one) + squares(other)) / freedom as f64;
    let error = (variance * (1.0 / one.len() as f64 + 1.0 / other.len() as f64)).sqrt();
    // Beyond the table the quantile falls from 2.20 to 1.96: the larger is the careful one.
    Some(STUDENT.get(freedom - 1).copied().unwrap_or(2.2) * error)
}

/// The same for differences of pairs (the paired t); `None` for fewer than two.
fn mean_of_differences(one: &[f64], other: &[f64]) -> Option<f64> {
    let differences: Vec<f64> = one.iter().zip(other).map(|(a, b)| a - b).collect();
    let freedom = differences.len().checked_sub(1).filter(|&n| n > 0)?;
    let error = Spread::of(&differences)?.deviation? / (differences.len() as f64).sqrt();
    Some(STUDENT.get(freedom - 1).copied().unwrap_or(2.2) * error)
}

/// All seeds of a row on one test set; at least one.
#[derive(Debug, Clone)]
pub struct OnSet<'a> {
    seeds: Vec<&'a Scored>,
}

impl<'a> OnSet<'a> {
    /// `None` without any seed.
    pub fn new(seeds: Vec<&'a Scored>) -> Option<Self> {
        (!seeds.is_empty()).then_some(Self { seeds })
    }

    /// The seeds in order.
    pub fn seeds(&self) -> &[&'a Scored] {
        &self.seeds
    }

    /// Error rate in percent.
    pub fn rate(&self, unit: Unit) -> Spread {
        self.mean(|scored| rate(scored, unit))
    }

    fn rates(&self, unit: Unit) -> Vec<f64> {
        self.seeds.iter().map(|scored| rate(scored, unit)).collect()
    }

    /// Output frames whose best label is the blank, in percent.
    pub fn blank_rate(&self) -> Spread {
        self.mean(|scored| scored.scores.blank_rate)
    }

    fn mean(&self, of: impl Fn(&&Scored) -> f64) -> Spread {
        let values: Vec<f64> = self.seeds.iter().map(of).collect();
        Spread::of(&values).unwrap_or(Spread { mean: f64::NAN, deviation: None })
    }

    /// Seeds that have not left the blank plateau.
    pub fn plateaus(&self) -> usize {
        self.seeds.iter().filter(|scored| scored.blank_plateau()).count()
    }

    /// 95 % bootstrap interval over utterances of the mean rate; `None` where the errors of single
    /// utterances of several seeds are not known.
    ///
    /// # Errors
    /// When the seeds were scored on different utterances.
    pub fn interval(&self, unit: Unit) -> Result<Option<Interval>> {
        if let [one] = self.seeds[..] {
            return Ok(Some(match unit {
                Unit::Words => one.scores.wer_interval,
                Unit::Chars => one.scores.cer_interval,
            }));
        }
        Ok(self.pooled(unit)?.map(|counts| interval(&counts, SEED)))
    }

    /// How much better `self` is than `base`; `same_runs` when both are the same runs, decoded in two ways, so
    /// that seeds are pairs.
    ///
    /// # Errors
    /// When the two were scored on different utterances.
    pub fn gain_over(&self, base: &Self, unit: Unit, same_runs: bool) -> Result<Gain> {
        let points = base.rate(unit).mean - self.rate(unit).mean;
        let (own_rates, base_rates) = (self.rates(unit), base.rates(unit));
        let over_seeds = if same_runs && own_rates.len() == base_rates.len() {
            mean_of_differences(&own_rates, &base_rates)
        } else {
            difference_of_means(&own_rates, &base_rates)
        };
        let (Some(mut own), Some(mut others)) = (self.pooled(unit)?, base.pooled(unit)?) else {
            return Ok(Gain { points, interval: None, over_seeds });
        };
        same_utterances(base.seeds[0], self.seeds[0])?;
        // As many seeds on both sides: every seed of one side counts as often as there are of the other.
        scale(&mut own, base.seeds.len());
        scale(&mut others, self.seeds.len());
        Ok(Gain { points, interval: Some(paired_difference(&others, &own, SEED)?), over_seeds })
    }

    /// For every utterance the counts of all seeds together; `None` when a seed has only sums.
    fn pooled(&self, unit: Unit) -> Result<Option<Vec<Counts>>> {
        let of = |utterance: &Utterance| match unit {
            Unit::Words => utterance.words,
            Unit::Chars => utterance.chars,
        };
        let mut pooled = vec![Counts::default(); self.seeds[0].utterances.len()];
        for scored in &self.seeds {
            same_utterances(self.seeds[0], scored)?;
            pooled.iter_mut().zip(&scored.utterances).for_each(|(sum, utterance)| *sum += of(utterance));
        }
        let known = self.seeds.iter().all(|scored| !scored.utterances.is_empty());
        Ok(known.then_some(pooled))
    }
}

fn rate(scored: &Scored, unit: Unit) -> f64 {
    match unit {
        Unit::Words => scored.scores.wer,
        Unit::Chars => scored.scores.cer,
    }
}

fn scale(counts: &mut [Counts], times: usize) {
    for count in counts {
        let once = *count;
        (1..times).for_each(|_| *count += once);
    }
}

/// Where both know their utterances, these must be the same.
fn same_utterances(base: &Scored, other: &Scored) -> Result<()> {
    let (left, right) = (&base.utterances, &other.utterances);
    if left.is_empty() || right.is_empty() {
        return Ok(());
    }
    let (expected, found) = match left.iter().zip(right).find(|(a, b)| a.id != b.id) {
        Some((a, b)) => (a.id.clone(), b.id.clone()),
        None if left.len() != right.len() => (left.len().to_string(), right.len().to_string()),
        None => return Ok(()),
    };
    Err(Error::mismatch(
        "utterances of two runs scored on one corpus",
        expected,
        found,
        "evaluate both runs on the same corpus, or give the corpora different names",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Transcript;
    use crate::score::{Evaluation, UtteranceScore};

    /// Twenty utterances of four words, of which `wrong(i)` are wrong in utterance `i`.
    fn scored(wrong: impl Fn(usize) -> usize) -> Scored {
        let words = ["one", "two", "six", "ten"];
        let score = |i: usize| {
            let heard: Vec<&str> = (0..4).map(|w| if w < wrong(i) { "the" } else { words[w] }).collect();
            let transcript = Transcript { text: heard.join(" "), frames: 10, blank_frames: 5 };
            UtteranceScore::new(&format!("u-{i}"), &words.join(" "), &transcript)
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.json");
        crate::score::Scores::save(&Evaluation::from_utterances((0..20).map(score).collect(), 1.0), &path)
            .unwrap();
        Scored::read(&path).unwrap()
    }

    fn on(seeds: &[Scored]) -> OnSet<'_> {
        OnSet::new(seeds.iter().collect()).unwrap()
    }

    #[test]
    fn reductions_are_relative_to_the_base() {
        assert_eq!(rerr(20.0, 15.0), Some(25.0));
        assert_eq!(rerr(8.0, 10.0), Some(-25.0));
        assert_eq!(rerr(0.0, 1.0), None);
    }

    #[test]
    fn seeds_have_a_mean_and_a_deviation() {
        let spread = Spread::of(&[10.0, 12.0, 14.0]).unwrap();
        assert_eq!((spread.mean, spread.deviation), (12.0, Some(2.0)));
        assert_eq!(spread.to_string(), "12.0 ± 2.0");
        assert_eq!(Spread::of(&[7.5]).unwrap().to_string(), "7.50");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_consistent_gain_is_told_from_chance() {
        let base = [scored(|_| 2)];
        let better = [scored(|i| 1 + usize::from(i == 0))];
        let other = [scored(|i| if i % 2 == 0 { 1 } else { 3 })];
        let gain = on(&better).gain_over(&on(&base), Unit::Words, false).unwrap();
        assert!((gain.points - 23.75).abs() < 1e-9 && !gain.may_be_chance(), "{gain:?}");
        let even = on(&other).gain_over(&on(&base), Unit::Words, false).unwrap();
        assert!(even.points.abs() < 1e-9 && even.may_be_chance(), "{even:?}");
        let same = on(&base).gain_over(&on(&base), Unit::Chars, false).unwrap();
        assert!(same.points == 0.0 && same.may_be_chance());
        let worse = on(&base).gain_over(&on(&better), Unit::Words, false).unwrap();
        assert!(worse.points < 0.0 && !worse.may_be_chance());
    }

    #[test]
    fn a_gain_that_other_seeds_could_undo_may_be_chance() {
        // 10, 12, 14 against 13, 15, 17: t = 1.837 with 4 degrees of freedom, 2.776 would be needed.
        let half = difference_of_means(&[10.0, 12.0, 14.0], &[13.0, 15.0, 17.0]).unwrap();
        assert!((3.0 / half - 1.837 / 2.776).abs() < 1e-3, "{half}");
        assert_eq!(difference_of_means(&[1.0], &[2.0]), None);
        // A single run beside three: their variance serves both.
        let half = difference_of_means(&[10.0, 12.0, 14.0], &[30.0]).unwrap();
        assert!((half - 4.303 * 2.0 * (4.0f64 / 3.0).sqrt()).abs() < 1e-9, "{half}");
        // The same runs decoded in two ways: pairs, -3, -3.5, -2.5, however far apart the runs are.
        let half = mean_of_differences(&[10.0, 20.0, 40.0], &[13.0, 23.5, 42.5]).unwrap();
        assert!((half - 4.303 * 0.5 / 3.0f64.sqrt()).abs() < 1e-9, "{half}");
        let interval = Some(Interval { low: 1.0, high: 5.0 });
        let gain = |points| Gain { points, interval, over_seeds: Some(2.0) };
        assert!(gain(1.9).may_be_chance() && gain(-1.9).may_be_chance() && !gain(2.1).may_be_chance());
    }

    #[test]
    fn unequal_numbers_of_seeds_are_paired_by_their_means() {
        let base = [scored(|_| 2)];
        let seeds = [scored(|_| 1), scored(|i| i % 2), scored(|_| 1)];
        let (one, three) = (on(&base), on(&seeds));
        let gain = three.gain_over(&one, Unit::Words, false).unwrap();
        // 50 % against the mean of 25, 12.5 and 25 %.
        assert!((gain.points - (50.0 - 62.5 / 3.0)).abs() < 1e-9, "{gain:?}");
        let found = gain.interval.unwrap();
        assert!(found.low < gain.points && gain.points < found.high && found.low > 20.0, "{found:?}");
        assert!(three.interval(Unit::Words).unwrap().is_some());
        assert_eq!(one.interval(Unit::Words).unwrap(), Some(base[0].scores.wer_interval));
    }

    #[test]
    fn sums_alone_have_no_paired_interval() {
        let mut bare = scored(|_| 1);
        bare.utterances.clear();
        let (base, bare) = ([scored(|_| 2)], [bare]);
        let gain = on(&bare).gain_over(&on(&base), Unit::Words, false).unwrap();
        assert!(gain.interval.is_none() && !gain.may_be_chance() && gain.points > 20.0);
        let mut shorter = scored(|_| 1);
        shorter.utterances.pop();
        let message = on(&[shorter]).gain_over(&on(&base), Unit::Words, false).unwrap_err().to_string();
        assert!(message.contains("20") && message.contains("19"), "{message}");
        let mut renamed = scored(|_| 1);
        renamed.utterances[3].id = "other".into();
        let message = on(&[renamed]).gain_over(&on(&base), Unit::Words, false).unwrap_err().to_string();
        assert!(
            message.contains("u-3") && message.contains("other") && message.contains("same corpus"),
            "{message}"
        );
    }
}
