//! The quantiser of [`super::klt`]: one step for all values, found by search, and how often what it makes of them comes.

use super::cosine::lifted;
use super::instructions::{Instructions, compiled};
use super::klt::{BLOCK, frequency};
use super::rans::{LARGEST, Tables};

/// What is added to |value| / step before the fraction is cut off; 0.5 would be rounding.
const ROUNDING: f32 = 0.42;
/// Classes an octave of spread.
const CLASSES_PER_OCTAVE: f64 = 4.0;
/// Steps of the search for the quantiser's step, each halving the interval.
const SEARCH: usize = 18;
/// Most steps of a quantised value: an `i16` holds them.
const MOST: f32 = 32_000.0;
/// The step is such that the sample's largest value is at most so many: other frames may hold four times as much.
const MOST_OF_SAMPLE: f64 = 8_000.0;
/// Sums that are kept side by side.
const LANES: usize = 16;

compiled!(quantise_with, quantise_body(values: &[f32], inverse: f32, out: &mut [i16]));
compiled!(lift_sums, lift_sums_body(values: &[f32], inverse: f32) -> [[f64; 2]; 2]);
compiled!(squared_error, squared_error_body(values: &[f32], step: f32, lift: [f32; 2]) -> f64);
compiled!(add_squares, add_squares_body(values: &[f32], sums: &mut [f64]));

/// `values` in steps of 1 / `inverse`, cut off towards zero after [`ROUNDING`] was added; `out` is as long.
pub(super) fn quantise(instructions: Instructions, values: &[f32], inverse: f32, out: &mut [i16]) {
    quantise_with(instructions, values, inverse, out);
}

#[inline(always)]
fn quantise_body(values: &[f32], inverse: f32, out: &mut [i16]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = quantised(value, inverse);
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
fn quantised(value: f32, inverse: f32) -> i16 {
    let size = (value.abs() * inverse + ROUNDING).min(MOST) as i32 as i16;
    if value < 0.0 { -size } else { size }
}

/// The step with which `values` come back off by `target` (root of the mean square), and its lifts; `norm` is the size
/// of hidden states, `largest` the largest value that will have to be held.
///
/// # Errors
/// With the least that they come back off by, when steps that hold the largest value are too coarse.
#[expect(clippy::cast_possible_truncation, reason = "steps are f32")]
pub(super) fn search(values: &[f32], norm: f64, largest: f64, target: f64) -> Result<(f32, [f32; 2]), f64> {
    let instructions = Instructions::detect();
    let off = |step: f64| {
        let lift = lifts(instructions, values, step as f32);
        (squared_error(instructions, values, step as f32, lift) / values.len().max(1) as f64).sqrt()
    };
    let least = (1e-4 * norm).max(largest / MOST_OF_SAMPLE);
    let found = off(least);
    if found > target {
        return Err(found);
    }
    let (mut low, mut high) = (least, least.max(16.0 * norm));
    for _ in 0..SEARCH {
        let middle = (low * high).sqrt();
        if off(middle) > target {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok((low as f32, lifts(instructions, values, low as f32)))
}

/// Mean distance of what is quantised to 1, and to more, from those numbers.
#[expect(clippy::cast_possible_truncation, reason = "a lift is f32")]
fn lifts(instructions: Instructions, values: &[f32], step: f32) -> [f32; 2] {
    lift_sums(instructions, values, 1.0 / step).map(|[sum, count]| (sum / count.max(1.0)) as f32)
}

/// Sum of the distances, and number, of what is quantised to 1, and to more.
#[inline(always)]
fn lift_sums_body(values: &[f32], inverse: f32) -> [[f64; 2]; 2] {
    let mut sums = [[[0f64; LANES]; 2]; 2];
    for values in values.chunks(LANES) {
        for (lane, &value) in values.iter().enumerate() {
            let size = quantised(value, inverse).unsigned_abs();
            let distance = f64::from(value.abs() * inverse) - f64::from(size);
            for (sums, there) in sums.iter_mut().zip([size == 1, size > 1]) {
                sums[0][lane] += if there { distance } else { 0.0 };
                sums[1][lane] += f64::from(u8::from(there));
            }
        }
    }
    sums.map(|sums| sums.map(|lanes| lanes.iter().sum()))
}

/// Sum of the squares of what `values` come back off by.
#[inline(always)]
fn squared_error_body(values: &[f32], step: f32, lift: [f32; 2]) -> f64 {
    let inverse = 1.0 / step;
    let mut sums = [0f64; LANES];
    for values in values.chunks(LANES) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            let off = f64::from(lifted(quantised(value, inverse), lift) * step - value.abs());
            *sum += off * off;
        }
    }
    sums.iter().sum()
}

#[inline(always)]
fn add_squares_body(values: &[f32], sums: &mut [f64]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += f64::from(value) * f64::from(value);
    }
}

/// Classes by spread, [BLOCK, rank], and how often their values come in transformed utterances.
pub(super) fn statistics(utterances: &[Vec<f32>], rank: usize, step: f32) -> Option<(Vec<u8>, Tables)> {
    let (instructions, inverse) = (Instructions::detect(), 1.0 / step);
    let rows = || {
        utterances.iter().flat_map(|values| values.chunks(BLOCK * rank.max(1))).flat_map(|block| {
            let n = block.len() / rank.max(1);
            block.chunks_exact(rank.max(1)).enumerate().map(move |(row, values)| (frequency(row, n), values))
        })
    };
    let mut squares = vec![0f64; BLOCK * rank];
    let mut counts = [0f64; BLOCK];
    for (row, values) in rows() {
        counts[row] += 1.0;
        add_squares(instructions, values, &mut squares[row * rank..][..rank]);
    }
    let spread = |at: usize| (squares[at] / counts[at / rank].max(1.0)).sqrt() / f64::from(step);
    #[expect(clippy::cast_possible_truncation, reason = "clamped")]
    let wish =
        |at: usize| (spread(at).max(1e-9).log2() * CLASSES_PER_OCTAVE).round().clamp(-24.0, 32.0) as i32;
    let wishes: Vec<i32> = (0..BLOCK * rank).map(wish).collect();
    let mut there: Vec<i32> = wishes.clone();
    there.sort_unstable();
    there.dedup();
    let class = |wish: &i32| u8::try_from(there.binary_search(wish).unwrap_or(0)).unwrap_or(0);
    let classes: Vec<u8> = wishes.iter().map(class).collect();
    // Escape, 0, -1, 1 ..: as often negative as positive, as the sign of a component is nothing but chance.
    let mut of_size = vec![vec![0u64; LARGEST.unsigned_abs() as usize + 1]; there.len().max(1)];
    let mut sizes = vec![0i16; rank];
    for (row, values) in rows() {
        quantise(instructions, values, inverse, &mut sizes);
        for (size, &class) in sizes.iter().zip(&classes[row * rank..][..rank]) {
            if let Some(count) = of_size[usize::from(class)].get_mut(usize::from(size.unsigned_abs())) {
                *count += 1;
            }
        }
    }
    let counts: Vec<Vec<u64>> = of_size
        .iter()
        .map(|sizes| {
            let end = sizes.iter().rposition(|&count| count > 0).unwrap_or(0);
            let both = sizes[1..=end].iter().flat_map(|&count| [count, count]);
            [0, 2 * sizes[0]].into_iter().chain(both).collect()
        })
        .collect();
    Some((classes, Tables::from_counts(&counts)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_processor_quantises_and_counts_alike() {
        let mut random = Random::new(5, "quantiser", &[]);
        let mut values: Vec<f32> = (0..3001).map(|_| (random.normal() * 2.0) as f32).collect();
        values.extend([0.0, -0.0, 0.58, -0.58, 1e9, -1e9, f32::MAX, 1e-40]);
        let (inverse, step, lift) = (1.25, 0.8, [0.1, -0.05]);
        let with = |set| {
            let mut out = vec![0i16; values.len()];
            quantise(set, &values, inverse, &mut out);
            let mut squares = vec![0.5f64; values.len()];
            add_squares(set, &values, &mut squares);
            let sums = (lift_sums(set, &values, inverse), squared_error(set, &values, step, lift));
            (out, squares, sums)
        };
        let plain = with(Instructions::Plain);
        for set in Instructions::all() {
            assert_eq!(with(set), plain, "{set:?}");
        }
        for (value, quantised) in values.iter().zip(plain.0) {
            let size = (value.abs() * inverse + ROUNDING).floor().min(32_000.0);
            assert_eq!(f32::from(quantised), if *value < 0.0 { -size } else { size }, "{value}");
        }
    }
}
