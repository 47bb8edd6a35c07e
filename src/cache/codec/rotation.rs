//! A learned orthonormal basis: the principal components of a teacher's hidden states.

use nalgebra::{DMatrix, SymmetricEigen};

use super::pieces::{Pieces, whole};
use super::turn::Turn;
use crate::kernels::gram;

/// Frames that are summed in single precision before they enter a sum in double.
const CHUNK: usize = 2048;

/// From hidden states to coordinates about their mean along orthonormal directions, and back.
#[derive(Debug)]
pub struct Rotation {
    /// [width]
    mean: Vec<f32>,
    /// [width, rank], orthonormal columns by falling variance.
    basis: Vec<f32>,
    /// Smallest value that decoded hidden states have: 0 for a layer that was never negative.
    floor: f32,
    /// The basis the other way round, [rank, width].
    turned: Vec<f32>,
    /// What is added to coordinates of the hidden states themselves, [rank]: those of the mean with the other sign.
    away: Vec<f32>,
    forward: Turn,
    backward: Turn,
}

impl Rotation {
    /// From its parts: mean [width], basis [width, rank], floor.
    #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
    pub fn new(mean: Vec<f32>, basis: Vec<f32>, floor: f32) -> Self {
        let width = mean.len();
        let rank = basis.len() / width.max(1);
        let mut origin = vec![0f64; rank];
        for (mean, row) in mean.iter().zip(basis.chunks_exact(rank.max(1))) {
            origin.iter_mut().zip(row).for_each(|(sum, b)| *sum += f64::from(*mean) * f64::from(*b));
        }
        let turned: Vec<f32> = (0..rank)
            .flat_map(|r| (0..width).map(move |c| (c, r)))
            .map(|(c, r)| basis[c * rank + r])
            .collect();
        Self {
            forward: Turn::new(&turned, rank, width),
            turned,
            away: origin.iter().map(|o| -*o as f32).collect(),
            backward: Turn::new(&basis, width, rank),
            mean,
            basis,
            floor,
        }
    }

    /// The `rank` principal components of `sample`, [frames, width].
    #[expect(clippy::cast_possible_truncation, reason = "a basis is f32")]
    pub fn learn(sample: &[f32], width: usize, rank: usize) -> Self {
        let frames = sample.len() / width.max(1);
        let mut mean = vec![0f64; width];
        for frame in sample.chunks_exact(width.max(1)) {
            mean.iter_mut().zip(frame).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        mean.iter_mut().for_each(|sum| *sum /= frames.max(1) as f64);
        let mut covariance = vec![0f64; width * width];
        for chunk in sample.chunks(CHUNK * width.max(1)) {
            // About the mean, or what the two sums have in common would cost the last digits.
            let mut centred = Vec::with_capacity(chunk.len());
            for frame in chunk.chunks_exact(width.max(1)) {
                centred
                    .extend(frame.iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - mean) as f32));
            }
            let product = gram(&centred, width);
            covariance.iter_mut().zip(product).for_each(|(sum, p)| *sum += f64::from(p));
        }
        settle(&mut covariance);
        let eigen = SymmetricEigen::new(DMatrix::from_vec(width, width, covariance));
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]).then(a.cmp(&b)));
        order.truncate(rank);
        let mut basis = vec![0f32; width * order.len()];
        for (component, &from) in order.iter().enumerate() {
            for channel in 0..width {
                basis[channel * order.len() + component] = eigen.eigenvectors[(channel, from)] as f32;
            }
        }
        let lowest = sample.iter().copied().fold(f32::INFINITY, f32::min);
        let floor = if lowest >= 0.0 { 0.0 } else { f32::NEG_INFINITY };
        Self::new(mean.into_iter().map(|m| m as f32).collect(), basis, floor)
    }

    /// Channels of the hidden states.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// Number of coordinates.
    pub fn rank(&self) -> usize {
        self.away.len()
    }

    /// [width]
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// [width, rank]
    pub fn basis(&self) -> &[f32] {
        &self.basis
    }

    /// Smallest value of decoded hidden states.
    pub fn floor(&self) -> f32 {
        self.floor
    }

    /// Hidden states [frames, width] to coordinates [frames, rank].
    pub fn coordinates(&self, hidden: &[f32]) -> Vec<f32> {
        let (mut rows, mut out) = (hidden.chunks_exact(self.width().max(1)), Vec::new());
        let frames = rows.len();
        let next = |row: &mut [f32]| rows.next().map(|values| row.copy_from_slice(values));
        let basis = (self.turned.as_slice(), self.away.as_slice(), f32::NEG_INFINITY);
        let _all = whole(&mut out, |pieces| self.forward.channels(basis, (frames, 1), next, pieces));
        out
    }

    /// Coordinates of `frames` frames to hidden states, [frames, width]. The coordinates come in blocks of `block` frames, at
    /// most eight, the last may be shorter: `spectrum` is called for each in order and writes its orthonormal DCT-II over
    /// the frames, [frequency, rank]. A block of one frame is the frame's coordinates. Ends where there is none.
    pub(super) fn hidden(
        &self,
        (frames, block): (usize, usize),
        spectrum: impl FnMut(&mut [f32]) -> Option<()>,
        pieces: &mut Pieces<'_>,
    ) -> Option<()> {
        let Self { mean, basis, floor, .. } = self;
        self.backward.channels((basis, mean, *floor), (frames, block), spectrum, pieces)
    }
}

/// Scales a matrix to about 1 by a power of two, which changes no digit, and makes 0 of what is as good as 0: its squares
/// would leave the range of a double on the way to the eigenvectors, and make NaN of them.
fn settle(matrix: &mut [f64]) {
    let largest = matrix.iter().fold(0f64, |most, value| most.max(value.abs()));
    if largest > 0.0 && largest.is_finite() {
        let scale = (-largest.log2().floor()).exp2();
        matrix
            .iter_mut()
            .for_each(|value| *value = if value.abs() < 1e-30 * largest { 0.0 } else { *value * scale });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::Random;

    /// Coordinates, [frames, rank], to hidden states.
    pub fn hidden(rotation: &Rotation, coordinates: &[f32]) -> Vec<f32> {
        let (mut frames, mut out) = (coordinates.chunks_exact(rotation.rank()), Vec::new());
        let next = |row: &mut [f32]| frames.next().map(|values| row.copy_from_slice(values));
        let shape = (coordinates.len() / rotation.rank(), 1);
        whole(&mut out, |pieces| rotation.hidden(shape, next, pieces)).unwrap();
        out
    }

    /// Post-ReLU mixtures of a few slow sources: correlated over channels and over time. [frames, width]
    pub fn made_up(frames: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "made-up states", &[]);
        let mut mixing = Random::new(9, "mixing", &[]);
        let sources = 6;
        let mix: Vec<f32> = (0..sources * width).map(|_| mixing.normal() as f32).collect();
        let mut state = vec![0f32; sources];
        let mut out = Vec::with_capacity(frames * width);
        for _ in 0..frames {
            state.iter_mut().for_each(|s| *s = 0.8 * *s + 0.6 * random.normal() as f32);
            for channel in 0..width {
                let sum: f32 = (0..sources).map(|s| state[s] * mix[s * width + channel]).sum();
                out.push((sum + 0.3 * random.normal() as f32).max(0.0));
            }
        }
        out
    }

    #[test]
    fn channels_that_are_all_but_dead_make_no_nan() {
        for scale in [1e-37f32, 1e-30, 1e-20, 1e12] {
            let mut sample = made_up(500, 24, 3);
            for frame in sample.chunks_exact_mut(24) {
                frame[6..].iter_mut().for_each(|value| *value *= scale);
            }
            let rotation = Rotation::learn(&sample, 24, 24);
            assert!(rotation.basis().iter().all(|b| b.is_finite()), "{scale}");
        }
        assert!(Rotation::learn(&[0.0; 240], 24, 24).basis().iter().all(|b| b.is_finite()));
    }

    #[test]
    fn coordinates_are_those_of_the_definition_whatever_the_width() {
        for width in [24, 200] {
            let sample = made_up(900, width, 4);
            let rotation = Rotation::learn(&sample, width, width);
            let found = rotation.coordinates(&sample);
            for (hidden, found) in sample.chunks_exact(width).zip(found.chunks_exact(width)) {
                let norm = hidden.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let mut square = 0f64;
                for (component, found) in found.iter().enumerate() {
                    let basis = rotation.basis().iter().skip(component).step_by(width);
                    let about =
                        hidden.iter().zip(rotation.mean()).map(|(h, m)| f64::from(*h) - f64::from(*m));
                    let exact: f64 = about.zip(basis).map(|(h, b)| h * f64::from(*b)).sum();
                    square += (f64::from(*found) - exact).powi(2);
                }
                assert!(square.sqrt() < 5e-4 * norm, "{width}: {} of {norm}", square.sqrt());
            }
            // A frame's coordinates do not hang on what comes with it.
            assert_eq!(rotation.coordinates(&sample[width..8 * width]), found[width..8 * width]);
        }
    }

    #[test]
    fn a_full_rotation_is_orthonormal_and_turns_back() {
        let (width, sample) = (24, made_up(3000, 24, 1));
        let rotation = Rotation::learn(&sample, width, width);
        let basis = rotation.basis();
        for a in 0..width {
            for b in 0..width {
                let dot: f64 = (0..width)
                    .map(|c| f64::from(basis[c * width + a]) * f64::from(basis[c * width + b]))
                    .sum();
                assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-5, "{a} {b}: {dot}");
            }
        }
        let coordinates = rotation.coordinates(&sample);
        let variance = |component: usize| -> f64 {
            coordinates.iter().skip(component).step_by(width).map(|&v| f64::from(v).powi(2)).sum()
        };
        assert!((1..width).all(|c| variance(c) <= variance(c - 1) * 1.0001));
        let back = hidden(&rotation, &coordinates);
        assert!(back.iter().zip(&sample).all(|(a, b)| (a - b).abs() < 1e-4));
        // The first six of 24 hold nearly everything.
        let all: f64 = (0..width).map(variance).sum();
        assert!((0..6).map(variance).sum::<f64>() > 0.7 * all);
        assert_eq!(Rotation::learn(&sample, width, 5).rank(), 5);
    }
}
