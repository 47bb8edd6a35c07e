//! Codec `pq:N`: product quantisation, N bytes a frame.
//!
//! The coordinates along the first principal components are dealt round to N groups; each group of a frame becomes the
//! number of the nearest of 256 centroids, learned by k-means (Jegou et al., 2011; the rotation before it and the dealing
//! balance the groups). A payload is `[frames, N]` bytes.

use super::rotation::Rotation;
use crate::kernels::Matrix;
use crate::random::Random;

/// Centroids of a group: as many as a byte can name.
const CENTROIDS: usize = 256;
/// Rounds of k-means.
const ROUNDS: usize = 12;
/// Points of the sample that k-means looks at.
const POINTS: usize = 16_384;

/// A codec as it was learned.
#[derive(Debug)]
pub struct Pq {
    rotation: Rotation,
    /// [groups, CENTROIDS, dimensions]
    centroids: Vec<f32>,
    groups: usize,
    dimensions: usize,
    /// The centroids of every group as a matrix [dimensions, CENTROIDS], and half their squared norms.
    nearest: Vec<(Matrix, Vec<f32>)>,
}

impl Pq {
    /// From its parts: centroids [groups, 256, dimensions]; `None` when they do not fit the rotation.
    pub fn new(rotation: Rotation, centroids: Vec<f32>, groups: usize) -> Option<Self> {
        let dimensions = rotation.rank().checked_div(groups)?;
        let fits = dimensions > 0 && dimensions * groups == rotation.rank();
        if !fits || centroids.len() != groups * CENTROIDS * dimensions {
            return None;
        }
        let nearest =
            centroids.chunks_exact(CENTROIDS * dimensions).map(|c| nearest(c, dimensions)).collect();
        Some(Self { rotation, centroids, groups, dimensions, nearest })
    }

    /// Learns rotation and centroids from utterances, each [frames, width].
    ///
    /// # Errors
    /// When the hidden states are narrower than `groups`.
    pub fn learn(utterances: &[Vec<f32>], width: usize, groups: usize) -> Result<Self, String> {
        let sample: Vec<f32> = utterances.iter().flatten().copied().collect();
        let rank = width.min(512).min(16 * groups) / groups * groups;
        if rank == 0 {
            return Err(format!("pq:{groups} wants at least {groups} channels, there are {width}"));
        }
        let rotation = Rotation::learn(&sample, width, rank);
        let frames = sample.len() / width;
        let few: Vec<f32> =
            sample.chunks_exact(width).step_by(frames.div_ceil(POINTS).max(1)).flatten().copied().collect();
        drop(sample);
        let coordinates = rotation.coordinates(&few);
        let mut centroids = Vec::with_capacity(CENTROIDS * rank);
        for group in 0..groups {
            let points = gather(&coordinates, rank, groups, group);
            centroids.extend(cluster(&points, rank / groups, group as u64));
        }
        Self::new(rotation, centroids, groups).ok_or_else(|| "there is nothing to learn from".to_owned())
    }

    /// The rotation.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// [groups, 256, dimensions], and the number of groups.
    pub fn centroids(&self) -> (&[f32], usize) {
        (&self.centroids, self.groups)
    }

    /// Hidden states [frames, width] to a payload.
    pub fn encode(&self, hidden: &[f32]) -> Vec<u8> {
        let (rank, groups) = (self.rotation.rank(), self.groups);
        let coordinates = self.rotation.coordinates(hidden);
        let mut payload = vec![0u8; coordinates.len() / rank.max(1) * groups];
        for (group, nearest) in self.nearest.iter().enumerate() {
            let points = gather(&coordinates, rank, groups, group);
            for (frame, code) in assign(&points, nearest).enumerate() {
                payload[frame * groups + group] = code;
            }
        }
        payload
    }

    /// A payload to coordinates along the rotation's components, [frames, rank].
    ///
    /// # Errors
    /// When the payload is not of so many frames.
    pub fn coordinates(&self, payload: &[u8], frames: usize) -> Result<Vec<f32>, String> {
        let (groups, dimensions) = (self.groups, self.dimensions);
        if payload.len() != frames * groups {
            return Err(format!("expected {} bytes, found {}", frames * groups, payload.len()));
        }
        let mut out = vec![0f32; frames * self.rotation.rank()];
        for (codes, out) in payload.chunks_exact(groups).zip(out.chunks_exact_mut(self.rotation.rank())) {
            for (group, &code) in codes.iter().enumerate() {
                let from = (group * CENTROIDS + usize::from(code)) * dimensions;
                for (dimension, value) in self.centroids[from..from + dimensions].iter().enumerate() {
                    out[dimension * groups + group] = *value;
                }
            }
        }
        Ok(out)
    }
}

/// The coordinates of one group, [frames, dimensions]: every `groups`-th from `group` on.
fn gather(coordinates: &[f32], rank: usize, groups: usize, group: usize) -> Vec<f32> {
    let frames = coordinates.chunks_exact(rank.max(1));
    frames.flat_map(|frame| frame.iter().skip(group).step_by(groups).copied()).collect()
}

fn nearest(centroids: &[f32], dimensions: usize) -> (Matrix, Vec<f32>) {
    let half = |c: &[f32]| c.iter().map(|v| v * v).sum::<f32>() / 2.0;
    let halves = centroids.chunks_exact(dimensions).map(half).collect();
    (Matrix::transposed(centroids, dimensions, CENTROIDS), halves)
}

/// The nearest centroid of every point: that with the largest x c - |c|^2 / 2, the first of several.
fn assign<'a>(points: &'a [f32], (matrix, halves): &'a (Matrix, Vec<f32>)) -> impl Iterator<Item = u8> + 'a {
    matrix
        .multiply(points)
        .chunks_exact(CENTROIDS)
        .map(|products| {
            let mut best = (f32::NEG_INFINITY, 0u8);
            for (code, (product, half)) in (0..=u8::MAX).zip(products.iter().zip(halves)) {
                if product - half > best.0 {
                    best = (product - half, code);
                }
            }
            best.1
        })
        .collect::<Vec<_>>()
        .into_iter()
}

/// 256 centroids of `points`, [n, dimensions], by k-means from points drawn at random.
#[expect(clippy::cast_possible_truncation, reason = "centroids are f32")]
fn cluster(points: &[f32], dimensions: usize, group: u64) -> Vec<f32> {
    let count = (points.len() / dimensions).max(1);
    let mut random = Random::new(1, "centroids", &[group]);
    let draw = |random: &mut Random| points.get(random.below(count) * dimensions..).unwrap_or_default();
    let mut centroids: Vec<f32> = Vec::with_capacity(CENTROIDS * dimensions);
    for _ in 0..CENTROIDS {
        let point = draw(&mut random);
        centroids.extend((0..dimensions).map(|d| point.get(d).copied().unwrap_or(0.0)));
    }
    for _ in 0..ROUNDS {
        let nearest = nearest(&centroids, dimensions);
        let mut sums = vec![0f64; CENTROIDS * dimensions];
        let mut members = vec![0u32; CENTROIDS];
        for (point, code) in points.chunks_exact(dimensions).zip(assign(points, &nearest)) {
            let code = usize::from(code);
            members[code] += 1;
            let sums = &mut sums[code * dimensions..][..dimensions];
            sums.iter_mut().zip(point).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        for (code, &members) in members.iter().enumerate() {
            let centroid = &mut centroids[code * dimensions..][..dimensions];
            let own = &sums[code * dimensions..][..dimensions];
            if members > 0 {
                centroid.iter_mut().zip(own).for_each(|(c, sum)| *c = (sum / f64::from(members)) as f32);
            } else {
                // Nobody's centroid starts again from another point.
                let point = draw(&mut random);
                centroid.iter_mut().zip(point).for_each(|(c, v)| *c = *v);
            }
        }
    }
    centroids
}

#[cfg(test)]
mod tests {
    use super::super::rotation::tests::made_up;
    use super::*;

    #[test]
    fn more_bytes_err_less_and_lengths_are_exact() {
        let width = 32;
        let sample: Vec<Vec<f32>> = (0..6).map(|i| made_up(400, width, i)).collect();
        let unseen = made_up(301, width, 77);
        let mut errors = Vec::new();
        for groups in [8, 16] {
            let codec = Pq::learn(&sample, width, groups).unwrap();
            let payload = codec.encode(&unseen);
            assert_eq!(payload.len(), 301 * groups);
            let coordinates = codec.coordinates(&payload, 301).unwrap();
            let hidden = codec.rotation().hidden(&coordinates);
            let square = |v: f32| f64::from(v) * f64::from(v);
            let off: f64 = hidden.iter().zip(&unseen).map(|(a, b)| square(a - b)).sum();
            errors.push((off / unseen.iter().map(|&v| square(v)).sum::<f64>()).sqrt());
            assert!(codec.coordinates(&payload, 300).is_err());
            // What a code says is the nearest there is.
            assert_eq!(codec.encode(&codec.rotation().hidden(&[])), Vec::<u8>::new());
            let again = Pq::learn(&sample, width, groups).unwrap();
            assert_eq!(again.encode(&unseen), payload, "learned alike every time");
        }
        assert!(errors[0] < 0.4 && errors[1] < errors[0], "{errors:?}");
        assert!(Pq::learn(&sample, width, 64).is_err());
    }
}
