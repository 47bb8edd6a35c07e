//! Any sampling rate to 16 kHz.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::reason::{Fault, Reason};
use crate::features::SAMPLE_RATE;

/// Samples that the resampler takes at a time, at least.
const CHUNK: usize = 1024;
/// Rates that speech is recorded at, with room; others are a damaged header.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Band-limited resampling to exactly ceil(samples * 16000 / rate) samples, without delay.
pub(super) fn resample(samples: &[f32], rate: u32) -> Result<Vec<f32>, Fault> {
    if !RATES.contains(&rate) {
        let detail =
            format!("a sampling rate of {rate} Hz; expected {} to {} Hz", RATES.start(), RATES.end());
        return Err(Fault::new(Reason::Format, detail));
    }
    let failed = |e: String| Fault::new(Reason::Format, format!("resampling from {rate} Hz failed: {e}"));
    let wide: Vec<f64> = samples.iter().map(|&s| f64::from(s)).collect();
    let mut resampler = Fft::<f64>::new_custom(
        rate as usize,
        SAMPLE_RATE as usize,
        chunk(rate),
        1,
        1,
        WindowFunction::BlackmanHarris2,
        FixedSync::Both,
    )
    .map_err(|e| failed(e.to_string()))?;
    let input = InterleavedSlice::new(&wide, 1, wide.len()).map_err(|e| failed(e.to_string()))?;
    let output = resampler.process_all(&input, wide.len(), None).map_err(|e| failed(e.to_string()))?;
    // The length in floating point may be one off.
    let length = (samples.len() * SAMPLE_RATE as usize).div_ceil(rate as usize);
    let mut output: Vec<f32> = output.take_data().into_iter().map(narrow).collect();
    output.resize(length, 0.0);
    Ok(output)
}

/// An even number of the smallest blocks of both rates: the filter delays by half a chunk, and half
/// of an odd chunk would shift the audio by half a sample.
fn chunk(rate: u32) -> usize {
    let (mut a, mut b) = (rate as usize, SAMPLE_RATE as usize);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let block = 2 * (rate as usize / a);
    CHUNK.next_multiple_of(block)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(samples: usize, rate: u32, hz: f64) -> Vec<f32> {
        (0..samples)
            .map(|i| narrow(0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin()))
            .collect()
    }

    #[test]
    fn a_tone_keeps_its_frequency_level_and_place() {
        for rate in [8_000, 11_025, 22_050, 44_100, 48_000] {
            let length = rate as usize;
            let found = resample(&tone(length, rate, 440.0), rate).unwrap();
            assert_eq!(found.len(), 16_000, "{rate}");
            let expected = tone(16_000, 16_000, 440.0);
            let worst = found[1000..15_000].iter().zip(&expected[1000..]).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0f32, f32::max);
            assert!(worst < 1e-3, "{rate} Hz: {worst}");
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_filtered_out() {
        let found = resample(&tone(48_000, 48_000, 12_000.0), 48_000).unwrap();
        let worst = found[1000..15_000].iter().fold(0f32, |m, s| m.max(s.abs()));
        assert!(worst < 1e-3, "{worst}");
    }

    #[test]
    fn lengths_are_exact_and_odd_rates_work() {
        for (samples, rate) in [(1, 8_000), (3, 48_000), (48_001, 48_000), (999, 16_001), (5000, 1_000)] {
            let found = resample(&tone(samples, rate, 100.0), rate).unwrap();
            assert_eq!(found.len(), (samples * 16_000).div_ceil(rate as usize));
            assert!(found.iter().all(|s| s.is_finite()));
        }
        assert!(resample(&[0.0, 1.0], 5).is_err());
    }
}
