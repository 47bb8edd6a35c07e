//! SpecAugment (Park et al. 2019) without time warping: bands of bins and stretches of frames set to 0.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Masks on a student's input, after normalisation, so that 0 is the mean of every bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecAugment {
    /// Bands of bins masked in every utterance.
    pub freq_masks: usize,
    /// Largest width of a band, in bins.
    pub freq_width: usize,
    /// Stretches of frames masked in every utterance.
    pub time_masks: usize,
    /// Largest width of a stretch, in frames.
    pub time_width: usize,
}

impl SpecAugment {
    /// Masks `values` `[frames, bins]` in place. Widths are uniform in 0 ..= W, starts uniform in
    /// 0 ..= (F - width), as in OpenSeq2Seq; a mask may cover another.
    pub fn mask(&self, values: &mut [f32], frames: usize, bins: usize, random: &mut Random) {
        debug_assert_eq!(values.len(), frames * bins);
        for _ in 0..self.freq_masks {
            let band = span(self.freq_width, bins, random);
            for frame in values.chunks_exact_mut(bins.max(1)) {
                frame[band.clone()].fill(0.0);
            }
        }
        for _ in 0..self.time_masks {
            let stretch = span(self.time_width, frames, random);
            values[stretch.start * bins..stretch.end * bins].fill(0.0);
        }
    }
}

/// A span of at most `width` inside `0..length`.
fn span(width: usize, length: usize, random: &mut Random) -> std::ops::Range<usize> {
    let width = random.below(width.min(length) + 1);
    let start = random.below(length - width + 1);
    start..start + width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_widths_asked_for_and_reach_both_ends() {
        let masks = SpecAugment { freq_masks: 1, freq_width: 6, time_masks: 1, time_width: 4 };
        let (frames, bins) = (12, 10);
        let (mut widest, mut first, mut last) = (0, false, false);
        for seed in 0..400 {
            let mut values = vec![1f32; frames * bins];
            masks.mask(&mut values, frames, bins, &mut Random::new(seed, "mask", &[]));
            let zero_bin = |b: usize| (0..frames).all(|t| values[t * bins + b] == 0.0);
            let zero_frame = |t: usize| (0..bins).all(|b| values[t * bins + b] == 0.0);
            let band: Vec<usize> = (0..bins).filter(|&b| zero_bin(b)).collect();
            let stretch = (0..frames).filter(|&t| zero_frame(t)).count();
            assert!(band.len() <= 6 && stretch <= 4);
            assert!(band.windows(2).all(|w| w[1] == w[0] + 1));
            let zeros = values.iter().filter(|v| **v == 0.0).count();
            assert_eq!(zeros, band.len() * frames + stretch * bins - band.len() * stretch);
            widest = widest.max(band.len());
            first |= band.first() == Some(&0);
            last |= band.last() == Some(&(bins - 1));
        }
        assert!(widest == 6 && first && last);
    }

    #[test]
    fn masks_wider_than_the_utterance_are_clamped() {
        let masks = SpecAugment { freq_masks: 2, freq_width: 100, time_masks: 2, time_width: 100 };
        for seed in 0..50 {
            let mut random = Random::new(seed, "mask", &[]);
            masks.mask(&mut [1.0; 6], 2, 3, &mut random);
            masks.mask(&mut [], 0, 3, &mut random);
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = "freq_masks = 2\nfreq_width = 6\ntime_masks = 2\ntime_width = 6\nwarp = 1";
        assert!(toml::from_str::<SpecAugment>(text).unwrap_err().to_string().contains("warp"));
    }
}
