//! Axes, linear or logarithmic, with ticks at round numbers whatever part of a decade they span.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::markdown::thousands;

/// Most ticks of an axis.
const TICKS: usize = 7;

/// From `low` to `high`.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// A logarithmic axis that holds all of `values` above zero, with a little room; `None` without one.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = extent(values.filter(|v| *v > 0.0))?;
        Some(Self { low: low / 1.1, high: high * 1.1, logarithmic: true })
    }

    /// A linear axis that holds all of `values` and begins and ends at a tick; `None` without one.
    pub fn linear(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = extent(values)?;
        let step = step(if high > low { high - low } else { low.abs().max(1.0) });
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Some(Self { low, high: high.max(low + step), logarithmic: false })
    }

    /// A linear axis from 0 to a little beyond `high`.
    pub fn from_zero(high: f64) -> Self {
        Self { low: 0.0, high: high.max(1.0) * 1.02, logarithmic: false }
    }

    /// Whether `value` has a place on the axis.
    pub fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    /// Multiples of powers of ten within a logarithmic axis.
    fn decades(&self, multiples: &[f64]) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut power = 10f64.powf(self.low.log10().floor());
        while power <= self.high {
            ticks.extend(multiples.iter().map(|m| m * power).filter(|t| (self.low..=self.high).contains(t)));
            power *= 10.0;
        }
        ticks
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return self.even_ticks();
        }
        // The finest division that is not too fine.
        let divisions: [&[f64]; 4] = [
            &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0],
            &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 2.0, 5.0],
            &[1.0],
        ];
        let ticks = divisions.map(|d| self.decades(d));
        let ticks = ticks.iter().find(|t| t.len() <= TICKS).unwrap_or(&ticks[3]).clone();
        // Less than a decade may hold no two of them.
        if ticks.len() < 2 { self.even_ticks() } else { ticks }
    }

    /// Multiples of a round step.
    fn even_ticks(&self) -> Vec<f64> {
        let step = step(self.high - self.low);
        let first = (self.low / step).ceil();
        let tick = |i: u32| (first + f64::from(i)) * step;
        (0..).map(tick).take_while(|t| *t <= self.high + step * 1e-9).collect()
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values = values.filter(|v| v.is_finite());
    let first = values.next()?;
    Some(values.fold((first, first), |(low, high), v| (low.min(v), high.max(v))))
}

/// 1, 2 or 5 times a power of ten: the least step that cuts `span` into no more than [`TICKS`] - 1 parts.
fn step(span: f64) -> f64 {
    let rough = span / (TICKS - 1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a pixel of the picture")]
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light lines between ticks are asked for as well; the ticks alone are enough.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        if value.fract().abs() < 1e-9 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a tick, whole, its sign apart"
            )]
            let digits = thousands(value.abs().round() as u64);
            return if *value < 0.0 { format!("-{digits}") } else { digits };
        }
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_ticks_are_round_and_within() {
        let axis = |values: [f64; 2]| Axis::logarithmic(values.into_iter()).unwrap();
        assert_eq!(axis([430.0, 120.0]).ticks(), [150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0]);
        assert_eq!(axis([2000.0, 120.0]).ticks(), [200.0, 500.0, 1000.0, 2000.0]);
        assert_eq!(axis([0.5, 40_000.0]).ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(axis([10_800.0, 10_200.0]).ticks(), [9500.0, 10_000.0, 10_500.0, 11_000.0, 11_500.0]);
        assert!(Axis::logarithmic([0.0, f64::NAN].into_iter()).is_none());
    }

    #[test]
    fn a_linear_axis_begins_and_ends_at_a_tick() {
        let axis = |values: &[f64]| Axis::linear(values.iter().copied()).unwrap();
        assert_eq!(axis(&[99.7, 55.5]).ticks(), [50.0, 60.0, 70.0, 80.0, 90.0, 100.0]);
        assert_eq!(axis(&[0.0, 1560.0]).ticks(), [0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(axis(&[100.0]).ticks().first(), Some(&100.0));
        assert_eq!(axis(&[0.0]).range(), 0.0..0.2);
        assert!(Axis::linear([].into_iter()).is_none());
    }

    #[test]
    fn decades_have_equal_lengths() {
        let axis = Axis { low: 1.0, high: 100.0, logarithmic: true };
        assert_eq!([1.0, 10.0, 100.0].map(|v| axis.map(&v, (0, 200))), [0, 100, 200]);
        assert_eq!(axis.format_ext(&0.5), "0.5");
        assert_eq!(axis.format_ext(&2000.0), "2,000");
        assert_eq!(["-2,000", "-2.5", "0"], [-2000.0, -2.5, 0.0].map(|v| axis.format_ext(&v)));
        assert_eq!(Axis::from_zero(1560.0).ticks(), [0.0, 500.0, 1000.0, 1500.0]);
    }
}
