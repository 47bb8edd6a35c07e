//! Codec `pq:N`: product quantisation, N bytes a frame.
//!
//! The coordinates along the first principal components are dealt round to N groups; each group of a frame becomes the
//! number of the nearest of 256 centroids, learned by k-means (Jegou et al., 2011; the rotation before it and the dealing
//! balance the groups). A payload is `[frames, N]` bytes.

use rayon::prelude::*;

use super::instructions::Instructions;
use super::nearest::{CENTROIDS, Nearest};
use super::rotation::Rotation;
use super::{CodecName, Pieces};
use crate::random::Random;

/// Rounds of k-means.
const ROUNDS: usize = 12;
/// Points of the sample that k-means looks at.
const POINTS: usize = 16_384;
/// Frames that are encoded at a time: what is made of them on the way stays in the cache, where the points of the groups would
/// fall into the same lines if these were a power of two.
const FRAMES: usize = 120;

/// A codec as it was learned.
#[derive(Debug)]
pub struct Pq {
    rotation: Rotation,
    /// [groups, CENTROIDS, dimensions]
    centroids: Vec<f32>,
    groups: usize,
    dimensions: usize,
    instructions: Instructions,
    nearest: Vec<Nearest>,
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
            centroids.chunks_exact(CENTROIDS * dimensions).map(|c| Nearest::new(c, dimensions)).collect();
        let instructions = Instructions::detect();
        Some(Self { rotation, centroids, groups, dimensions, instructions, nearest })
    }

    /// Learns rotation and centroids from utterances, each [frames, width].
    ///
    /// # Errors
    /// When the hidden states are narrower than `groups`.
    pub fn learn(utterances: &[Vec<f32>], width: usize, groups: usize) -> Result<Self, String> {
        let sample: Vec<f32> = utterances.iter().flatten().copied().collect();
        CodecName::Pq(groups).require(width)?;
        let rank = components(width, groups);
        let rotation = Rotation::learn(&sample, width, rank);
        let frames = sample.len() / width;
        let few: Vec<f32> =
            sample.chunks_exact(width).step_by(frames.div_ceil(POINTS).max(1)).flatten().copied().collect();
        drop(sample);
        let coordinates = rotation.coordinates(&few);
        let points = deal(&coordinates, rank, groups);
        let size = (points.len() / groups).max(1);
        let centroids = (0..groups).into_par_iter().flat_map_iter(|group| {
            let points = points.chunks_exact(size).nth(group).unwrap_or_default();
            cluster(points, rank / groups, group as u64)
        });
        let centroids: Vec<f32> = centroids.collect();
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
        let (rank, groups, width) = (self.rotation.rank(), self.groups, self.rotation.width().max(1));
        let mut payload = vec![0u8; hidden.len() / width * groups];
        for (hidden, payload) in hidden.chunks(FRAMES * width).zip(payload.chunks_mut(FRAMES * groups)) {
            let points = deal(&self.rotation.coordinates(hidden), rank, groups);
            let of_group = points.chunks_exact((points.len() / groups).max(1));
            for (group, (nearest, points)) in self.nearest.iter().zip(of_group).enumerate() {
                let codes = nearest.codes(self.instructions, points);
                payload.chunks_exact_mut(groups).zip(codes).for_each(|(frame, code)| frame[group] = code);
            }
        }
        payload
    }

    /// A payload to coordinates along the rotation's components, [frames, rank]; replaces `out`.
    ///
    /// # Errors
    /// When the payload is not of so many frames.
    pub fn coordinates(&self, payload: &[u8], frames: usize, out: &mut Vec<f32>) -> Result<(), String> {
        let rank = self.rotation.rank();
        let all = self.frames(payload, frames)?;
        out.resize(frames * rank, 0.0);
        for (codes, out) in all.zip(out.chunks_exact_mut(rank)) {
            look_up(self.instructions, codes, &self.centroids, self.dimensions, out);
        }
        Ok(())
    }

    /// A payload to hidden states, [frames, width], some frames at a time.
    ///
    /// # Errors
    /// When the payload is not of so many frames.
    pub fn decode(&self, payload: &[u8], frames: usize, pieces: &mut Pieces<'_>) -> Result<(), String> {
        let mut all = self.frames(payload, frames)?;
        let next = |row: &mut [f32]| {
            let codes = all.next()?;
            look_up(self.instructions, codes, &self.centroids, self.dimensions, row);
            Some(())
        };
        self.rotation
            .hidden((frames, 1), next, pieces)
            .ok_or_else(|| format!("expected the codes of {frames} frames"))
    }

    /// The codes of every frame.
    fn frames<'a>(
        &self,
        payload: &'a [u8],
        frames: usize,
    ) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, String> {
        if payload.len() != frames * self.groups {
            return Err(format!("expected {} bytes, found {}", frames * self.groups, payload.len()));
        }
        Ok(payload.chunks_exact(self.groups))
    }
}

/// Components that `groups` bytes describe. More than this err no less on real hidden states, and what they cost to turn back
/// grows with them: `make bench-read` reads pq:64 with 384 a third faster than with 512, and errs by as much.
pub fn components(width: usize, groups: usize) -> usize {
    let worth = (48 * 48 * groups).isqrt();
    width.min(512).min(16 * groups).min(worth) / groups.max(1) * groups
}

/// The centroids that a frame's codes name, dealt out to the frame's components; `centroids` is [groups, 256, dimensions].
fn look_up(instructions: Instructions, codes: &[u8], centroids: &[f32], dimensions: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    let done = match instructions {
        Instructions::Plain => 0,
        // SAFETY: the instructions were detected.
        _ => unsafe { eights(codes, centroids, dimensions, out) },
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (done, _) = (0, instructions);
    for (group, &code) in codes.iter().enumerate().skip(done) {
        let from = (group * CENTROIDS + usize::from(code)) * dimensions;
        for (dimension, value) in centroids[from..from + dimensions].iter().enumerate() {
            out[dimension * codes.len() + group] = *value;
        }
    }
}

/// [`look_up`] of eight groups by eight dimensions at a time, turned in registers; how many groups that were.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn eights(codes: &[u8], centroids: &[f32], dimensions: usize, out: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
    let groups = codes.len();
    for first in (0..dimensions).step_by(8) {
        let there = (dimensions - first).min(8);
        let lanes = _mm256_set1_epi32(i32::try_from(there).unwrap_or(0));
        let mask = _mm256_cmpgt_epi32(lanes, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (block, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
            let rows: [__m256; 8] = std::array::from_fn(|row| {
                let centroid = (8 * block + row) * CENTROIDS + usize::from(codes[row]);
                let from = &centroids[centroid * dimensions + first..][..there];
                // SAFETY: as many values as the mask has lanes.
                unsafe { _mm256_maskload_ps(from.as_ptr(), mask) }
            });
            // Pairs, then fours, then halves: [group, dimension] becomes [dimension, group].
            let pair = |a: usize| {
                (_mm256_unpacklo_ps(rows[a], rows[a + 1]), _mm256_unpackhi_ps(rows[a], rows[a + 1]))
            };
            let four = |a: usize| {
                let ((low, high), (next_low, next_high)) = (pair(a), pair(a + 2));
                [
                    _mm256_shuffle_ps::<0x44>(low, next_low),
                    _mm256_shuffle_ps::<0xEE>(low, next_low),
                    _mm256_shuffle_ps::<0x44>(high, next_high),
                    _mm256_shuffle_ps::<0xEE>(high, next_high),
                ]
            };
            let (front, back) = (four(0), four(4));
            for dimension in 0..4 {
                let halves = [
                    _mm256_permute2f128_ps::<0x20>(front[dimension], back[dimension]),
                    _mm256_permute2f128_ps::<0x31>(front[dimension], back[dimension]),
                ];
                for (half, values) in halves.into_iter().enumerate() {
                    if 4 * half + dimension >= there {
                        continue;
                    }
                    let to = &mut out[(first + 4 * half + dimension) * groups + 8 * block..][..8];
                    // SAFETY: eight values.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), values) };
                }
            }
        }
    }
    groups / 8 * 8
}

/// Coordinates [frames, dimensions, groups] as the points of every group, [groups, frames, dimensions].
fn deal(coordinates: &[f32], rank: usize, groups: usize) -> Vec<f32> {
    let (frames, dimensions) = (coordinates.len() / rank.max(1), rank / groups);
    let mut points = vec![0f32; frames * rank];
    for (frame, values) in coordinates.chunks_exact(rank.max(1)).enumerate() {
        for group in 0..groups {
            let point = &mut points[(group * frames + frame) * dimensions..][..dimensions];
            point.iter_mut().enumerate().for_each(|(d, to)| *to = values[d * groups + group]);
        }
    }
    points
}

/// 256 centroids of `points`, [n, dimensions], by k-means from points drawn at random.
#[expect(clippy::cast_possible_truncation, reason = "centroids are f32")]
fn cluster(points: &[f32], dimensions: usize, group: u64) -> Vec<f32> {
    let count = (points.len() / dimensions).max(1);
    let instructions = Instructions::detect();
    let mut random = Random::new(1, "centroids", &[group]);
    let draw = |random: &mut Random| points.get(random.below(count) * dimensions..).unwrap_or_default();
    let mut centroids: Vec<f32> = Vec::with_capacity(CENTROIDS * dimensions);
    for _ in 0..CENTROIDS {
        let point = draw(&mut random);
        centroids.extend((0..dimensions).map(|d| point.get(d).copied().unwrap_or(0.0)));
    }
    for _ in 0..ROUNDS {
        let codes = Nearest::new(&centroids, dimensions).codes(instructions, points);
        let mut sums = vec![0f64; CENTROIDS * dimensions];
        let mut members = vec![0u32; CENTROIDS];
        for (point, code) in points.chunks_exact(dimensions).zip(codes) {
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
    use super::super::rotation::tests::{hidden as turned_back, made_up};
    use super::super::whole;
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
            let mut coordinates = Vec::new();
            codec.coordinates(&payload, 301, &mut coordinates).unwrap();
            let mut hidden = Vec::new();
            whole(&mut hidden, |pieces| codec.decode(&payload, 301, pieces)).unwrap();
            assert_eq!(hidden, turned_back(codec.rotation(), &coordinates));
            let square = |v: f32| f64::from(v) * f64::from(v);
            let off: f64 = hidden.iter().zip(&unseen).map(|(a, b)| square(a - b)).sum();
            errors.push((off / unseen.iter().map(|&v| square(v)).sum::<f64>()).sqrt());
            assert!(codec.coordinates(&payload, 300, &mut Vec::new()).is_err());
            // What a code says is the nearest there is.
            assert_eq!(codec.encode(&[]), Vec::<u8>::new());
            let again = Pq::learn(&sample, width, groups).unwrap();
            assert_eq!(again.encode(&unseen), payload, "learned alike every time");
        }
        assert!(errors[0] < 0.4 && errors[1] < errors[0], "{errors:?}");
        assert!(Pq::learn(&sample, width, 64).is_err());
    }

    #[test]
    fn components_are_dealt_evenly_and_grow_with_the_bytes() {
        let of = |groups| components(1024, groups);
        assert_eq!([8, 16, 32, 64, 128].map(of), [128, 192, 256, 384, 512]);
        for (width, groups) in [(1024, 100), (300, 64), (64, 64), (63, 64), (40, 3)] {
            let found = components(width, groups);
            assert!(found <= width && found % groups == 0, "{width} {groups}: {found}");
        }
    }

    #[test]
    fn every_processor_looks_up_the_same() {
        let mut random = Random::new(3, "codes", &[]);
        for (groups, dimensions) in [(8, 16), (64, 8), (12, 8), (64, 6), (16, 12), (5, 24), (128, 4), (3, 1)]
        {
            let centroids: Vec<f32> = (0..groups * CENTROIDS * dimensions).map(|n| n as f32).collect();
            let codes: Vec<u8> = (0..groups).map(|_| random.below(256) as u8).collect();
            let with = |set| {
                let mut out = vec![-1f32; groups * dimensions];
                look_up(set, &codes, &centroids, dimensions, &mut out);
                out
            };
            let plain = with(Instructions::Plain);
            let (group, dimension) = (groups - 1, dimensions - 1);
            let expected = (group * CENTROIDS + usize::from(codes[group])) * dimensions + dimension;
            assert_eq!(plain[dimension * groups + group], expected as f32);
            for set in Instructions::all() {
                assert_eq!(with(set), plain, "{set:?} {groups} {dimensions}");
            }
        }
    }
}
