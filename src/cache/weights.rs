//! How far the frame weights of a cache vary, and so whether weighting frames can matter.

use std::collections::VecDeque;

use serde::Serialize;

use super::Cache;
use super::column::Column;
use crate::error::Result;
use crate::models::HiddenLayer;

/// Most values that quantiles are taken of; of more frames, evenly spaced ones.
const SAMPLE: u64 = 1 << 22;

/// Utterances whose weights are fetched together from a bucket.
const TOGETHER: usize = 512;

/// Below this ratio of what the heaviest and the lightest frames count, weights hardly vary.
const HARDLY: f64 = 1.5;

/// The column `frame_weight`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameWeight {
    /// Mean over all frames.
    pub mean: f64,
    /// Standard deviation over all frames.
    pub deviation: f64,
    /// Smallest and largest.
    pub range: [f32; 2],
    /// Below which 1 %, half and 99 % of the frames lie.
    pub quantiles: [f32; 3],
    /// How much more a frame at the 99 % quantile counts in equation (7) than one at the 1 % quantile: the
    /// square of the ratio of their weights.
    pub ratio: f64,
    /// The same in words.
    pub meaning: String,
}

/// Reads every frame weight of a layer of a cache.
///
/// # Errors
/// When one is not what was written.
pub fn frame_weights(cache: &Cache, layer: HiddenLayer) -> Result<FrameWeight> {
    let every = cache.manifest().frames.div_ceil(SAMPLE).max(1);
    let (mut sum, mut squares, mut count) = (0f64, 0f64, 0u64);
    let (mut weights, mut sample) = (Vec::new(), Vec::new());
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    let count_of = cache.entries().len();
    let (mut ahead, mut next) = (VecDeque::new(), 0);
    for index in 0..count_of {
        while next < count_of && next < index + 2 * TOGETHER {
            let end = count_of.min(next + TOGETHER);
            ahead.push_back((end, cache.ahead(&[Column::FrameWeight(layer)], next..end)?));
            next = end;
        }
        while ahead.front().is_some_and(|(end, _)| *end <= index) {
            ahead.pop_front();
        }
        cache.frame_weight(layer, index, &mut weights)?;
        for &weight in &weights {
            sum += f64::from(weight);
            squares += f64::from(weight).powi(2);
            least = least.min(weight);
            most = most.max(weight);
            if count.is_multiple_of(every) {
                sample.push(weight);
            }
            count += 1;
        }
    }
    if count == 0 {
        let meaning = "There are no frames.".to_owned();
        return Ok(FrameWeight {
            mean: 0.0,
            deviation: 0.0,
            range: [0.0; 2],
            quantiles: [0.0; 3],
            ratio: 1.0,
            meaning,
        });
    }
    let mean = sum / count as f64;
    let deviation = (squares / count as f64 - mean * mean).max(0.0).sqrt();
    sample.sort_by(f32::total_cmp);
    let quantiles = [1, 50, 99].map(|percent| nearest(&sample, percent));
    let lightest = f64::from(quantiles[0]).max(f64::MIN_POSITIVE);
    let ratio = (f64::from(quantiles[2]) / lightest).powi(2);
    Ok(FrameWeight { mean, deviation, range: [least, most], quantiles, ratio, meaning: meaning(ratio) })
}

/// The value at `percent` % of sorted values, by the nearest rank; 0 without any.
fn nearest(sorted: &[f32], percent: usize) -> f32 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

fn meaning(ratio: f64) -> String {
    let counts =
        format!("Of 98 % of the frames the heaviest counts {ratio:.2} times as much in RKD as the lightest");
    if ratio < HARDLY {
        format!("{counts}: the weights hardly vary, so with this teacher the mask can hardly matter.")
    } else {
        format!("{counts}: the weights vary enough for the mask to matter.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<f32> = (1..=200u16).map(f32::from).collect();
        assert_eq!([1, 50, 99].map(|p| nearest(&values, p)), [2.0, 100.0, 198.0]);
        assert_eq!([1, 50, 99].map(|p| nearest(&values[..1], p)), [1.0; 3]);
        assert_eq!(nearest(&[], 50), 0.0);
    }

    #[test]
    fn little_spread_is_said_to_be_little() {
        assert!(meaning(1.49).contains("can hardly matter") && meaning(1.49).contains("1.49"));
        assert!(!meaning(1.5).contains("hardly") && meaning(2.1).contains("vary enough"));
    }
}
