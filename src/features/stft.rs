//! Pre-emphasis, centred short-time Fourier transform, mel filters, logarithm.

use std::sync::{Arc, OnceLock};

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::mel::{self, Filter};
use super::{BINS, HOP, Padding};

/// Points of the transform.
const FFT: usize = 512;
/// Samples under the window, centred in the transform.
const WINDOW: usize = 320;
/// Coefficient of the pre-emphasis.
const PRE_EMPHASIS: f64 = 0.97;

/// The tables of the transform. Arithmetic is f64: it costs little beside decoding and leaves
/// f32 rounding of the input and output as the only loss.
pub(super) struct LogMel {
    /// Symmetric Hann.
    window: [f64; WINDOW],
    filters: Vec<Filter>,
    fft: Arc<dyn RealToComplex<f64>>,
}

impl LogMel {
    /// The one instance of the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<LogMel> = OnceLock::new();
        SHARED.get_or_init(|| {
            let turn = std::f64::consts::TAU / (WINDOW - 1) as f64;
            Self {
                window: std::array::from_fn(|i| 0.5 - 0.5 * (turn * i as f64).cos()),
                filters: mel::filters(FFT),
                fft: RealFftPlanner::new().plan_fft_forward(FFT),
            }
        })
    }

    /// The window's samples.
    pub fn window(&self) -> &[f64] {
        &self.window
    }

    /// The filters as a table, [BINS, FFT / 2 + 1] row-major.
    pub fn filter_table(&self) -> Vec<f64> {
        let mut table = vec![0.0; BINS * (FFT / 2 + 1)];
        for (row, filter) in table.chunks_exact_mut(FFT / 2 + 1).zip(&self.filters) {
            row[filter.first..filter.first + filter.weights.len()].copy_from_slice(&filter.weights);
        }
        table
    }

    /// `[frames, BINS]` of ln(mel power + floor). `frames` is at most 1 + samples / HOP.
    pub fn run(&self, mut samples: Vec<f64>, frames: usize, padding: Padding, floor: f64) -> Vec<f32> {
        for i in (1..samples.len()).rev() {
            samples[i] -= PRE_EMPHASIS * samples[i - 1];
        }
        let mut input = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0f64; FFT / 2 + 1];
        let mut values = Vec::with_capacity(frames * BINS);
        for frame in 0..frames {
            input.fill(0.0);
            // Frame t is centred on sample 160 t; under the window lie 160 samples before and after.
            let first = (frame * HOP).checked_sub(WINDOW / 2);
            let inside = first.and_then(|first| samples.get(first..first + WINDOW));
            let windowed = &mut input[(FFT - WINDOW) / 2..(FFT + WINDOW) / 2];
            for (i, (out, weight)) in windowed.iter_mut().zip(&self.window).enumerate() {
                let sample = match inside {
                    Some(samples) => samples[i],
                    None => beyond(&samples, frame * HOP + i, padding),
                };
                *out = sample * weight;
            }
            // Buffers made by the plan have the lengths it wants: the only error there is.
            let done = self.fft.process_with_scratch(&mut input, &mut spectrum, &mut scratch);
            debug_assert!(done.is_ok(), "{done:?}");
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = Complex::norm_sqr(value);
            }
            values.extend(self.filters.iter().map(|filter| {
                let bins = &power[filter.first..filter.first + filter.weights.len()];
                let energy: f64 = bins.iter().zip(&filter.weights).map(|(p, w)| p * w).sum();
                to_f32((energy + floor).ln())
            }));
        }
        values
    }
}

/// The sample at `shifted - WINDOW / 2`, which may lie before the first or after the last one.
fn beyond(samples: &[f64], shifted: usize, padding: Padding) -> f64 {
    let half = WINDOW / 2;
    if let Some(sample) = shifted.checked_sub(half).and_then(|at| samples.get(at)) {
        return *sample;
    }
    match padding {
        Padding::Constant => 0.0,
        Padding::Reflect if samples.len() < 2 => samples.first().copied().unwrap_or(0.0),
        Padding::Reflect => {
            // Mirrored without repeating the end sample: period 2 (N - 1).
            let period = 2 * (samples.len() - 1);
            let at = (shifted + period * (half / period + 1) - half) % period;
            samples[at.min(period - at)]
        }
    }
}

/// Rounds to f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
pub(super) fn to_f32(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_audio_is_mirrored_as_often_as_needed() {
        let samples = [1.0, 2.0, 3.0];
        let at = |i: i64| beyond(&samples, usize::try_from(i + 160).unwrap(), Padding::Reflect);
        let found: Vec<f64> = (-5..8).map(at).collect();
        assert_eq!(found, [2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
        assert_eq!(at(-160), samples[0]);
        assert_eq!(beyond(&[4.0], 0, Padding::Reflect), 4.0);
        assert_eq!(beyond(&samples, 159, Padding::Constant), 0.0);
        assert_eq!(beyond(&samples, 160, Padding::Constant), 1.0);
    }
}
