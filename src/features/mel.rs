//! Triangular filters on Slaney's mel scale with area norm, as `librosa.filters.mel` builds them.

use super::{BINS, SAMPLE_RATE};

/// One filter: weights of consecutive bins of the power spectrum.
#[derive(Debug)]
pub(super) struct Filter {
    /// First bin with a weight.
    pub first: usize,
    /// Weights of `first`, `first + 1`, ...
    pub weights: Vec<f64>,
}

/// Below this frequency the scale is linear.
const BREAK_HZ: f64 = 1000.0;
/// Hz per mel of the linear part.
const LINEAR: f64 = 200.0 / 3.0;
/// Mel at the break.
const BREAK_MEL: f64 = BREAK_HZ / LINEAR;

/// Step of the logarithmic part: ln(6.4) / 27 per mel.
fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < BREAK_HZ { hz / LINEAR } else { BREAK_MEL + (hz / BREAK_HZ).ln() / log_step() }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < BREAK_MEL { mel * LINEAR } else { BREAK_HZ * ((mel - BREAK_MEL) * log_step()).exp() }
}

/// The 64 filters from 0 to 8000 Hz over the bins of a 512-point transform.
pub(super) fn filters(fft: usize) -> Vec<Filter> {
    let rate = f64::from(SAMPLE_RATE);
    let top = hz_to_mel(rate / 2.0);
    let edges: Vec<f64> = (0..BINS + 2).map(|i| mel_to_hz(top * i as f64 / (BINS + 1) as f64)).collect();
    edges
        .windows(3)
        .map(|edge| {
            let (low, centre, high) = (edge[0], edge[1], edge[2]);
            let weight = |bin: usize| {
                let hz = bin as f64 * rate / fft as f64;
                let rise = (hz - low) / (centre - low);
                let fall = (high - hz) / (high - centre);
                rise.min(fall).max(0.0) * 2.0 / (high - low)
            };
            let bins: Vec<usize> = (0..=fft / 2).filter(|&bin| weight(bin) > 0.0).collect();
            let first = bins.first().copied().unwrap_or(0);
            Filter { first, weights: bins.into_iter().map(weight).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(filters: &[Filter], row: usize, bin: usize) -> f64 {
        bin.checked_sub(filters[row].first).and_then(|i| filters[row].weights.get(i)).copied().unwrap_or(0.0)
    }

    #[test]
    fn weights_have_the_published_values() {
        let filters = filters(512);
        let close = |found: f64, expected: f64, places: f64| {
            assert!((found - expected).abs() < places, "expected {expected}, found {found}");
        };
        close(at(&filters, 0, 1), 0.014_511_28, 5e-9);
        close(at(&filters, 0, 2), 0.014_075_51, 5e-9);
        close(at(&filters, 63, 233), 8.809e-5, 5e-9);
        close(at(&filters, 63, 234), 3.2827e-4, 5e-9);
        let sum: f64 = filters.iter().flat_map(|f| &f.weights).sum();
        close(sum, 2.046_181_62, 5e-9);
        assert_eq!(filters.len(), BINS);
        assert!(filters.iter().all(|f| f.weights.len() >= 2));
    }

    #[test]
    fn the_scale_has_its_published_edges() {
        assert!((hz_to_mel(8000.0) - 45.245_640).abs() < 1e-6);
        for hz in [0.0, 46.4058, 999.0, 1001.0, 7999.0] {
            assert!((mel_to_hz(hz_to_mel(hz)) - hz).abs() < 1e-9);
        }
        let step = hz_to_mel(8000.0) / 65.0;
        assert!((mel_to_hz(step) - 46.4058).abs() < 1e-4 && (mel_to_hz(3.0 * step) - 139.2174).abs() < 1e-4);
    }
}
