use super::super::whole;
use super::*;
use crate::random::Random;

/// Orthonormal columns, [width, rank]; the first channel has nearly all of one for itself.
fn orthonormal(width: usize, rank: usize, random: &mut Random) -> Vec<f32> {
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for at in 0..rank {
        let mut column: Vec<f64> = (0..width).map(|_| random.normal()).collect();
        column[0] = if at == rank / 2 { 40.0 } else { 0.0 };
        for other in &columns {
            let dot: f64 = column.iter().zip(other).map(|(a, b)| a * b).sum();
            column.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
        }
        let norm = column.iter().map(|v| v * v).sum::<f64>().sqrt();
        columns.push(column.into_iter().map(|v| v / norm).collect());
    }
    (0..width * rank).map(|at| columns[at % rank][at / rank] as f32).collect()
}

/// Blocks of spectra, [frames, rank]: most values are zero, some rows all but nothing, some a channel's own direction.
fn spectra(frames: usize, basis: &[f32], rank: usize, random: &mut Random) -> Vec<f32> {
    let mut rows = Vec::new();
    for frame in 0..frames {
        let scale = [1.0, 0.013, 4e5, 7e-9, 30.0][frame % 5];
        let channel = random.below(basis.len() / rank);
        rows.extend((0..rank).map(|at| {
            let value =
                if random.below(3) == 0 { random.normal() * (1.0 + 30.0 / (1.0 + at as f64)) } else { 0.0 };
            let value = if frame % 7 == 3 { f64::from(basis[channel * rank + at]) } else { value };
            (value * scale) as f32
        }));
        if frame % 11 == 4 {
            let from = rows.len() - rank;
            rows[from..].fill(0.0);
        }
    }
    rows
}

/// What [`Turn::channels`] should give but for the floor, in double precision, and the norm of every frame's coordinates.
fn exact(
    rows: &[f32],
    [width, rank, block]: [usize; 3],
    basis: &[f32],
    mean: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut norms) = (Vec::new(), Vec::new());
    for rows in rows.chunks(block * rank) {
        let n = rows.len() / rank;
        for time in 0..n {
            let coordinates: Vec<f64> = (0..rank)
                .map(|at| {
                    let part = |k: usize| {
                        let norm = if k == 0 { 1.0 } else { 2.0 } / n as f64;
                        let angle = std::f64::consts::PI * (time as f64 + 0.5) * k as f64 / n as f64;
                        norm.sqrt() * angle.cos() * f64::from(rows[k * rank + at])
                    };
                    (0..n).map(part).sum()
                })
                .collect();
            out.extend((0..width).map(|channel| {
                let directions = &basis[channel * rank..][..rank];
                let products = coordinates.iter().zip(directions).map(|(c, &d)| c * f64::from(d));
                f64::from(mean[channel]) + products.sum::<f64>()
            }));
        }
        // A block's rows err together: by the transform each frame has a share of every row's rounding.
        let norm = rows.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        norms.extend(std::iter::repeat_n(norm, n));
    }
    (out, norms)
}

fn turned(turn: &Turn, parts: (&[f32], &[f32], f32), shape: (usize, usize), rows: &[f32]) -> Vec<f32> {
    let (mut out, mut at) = (vec![5.0; 3], 0);
    let next = |spectrum: &mut [f32]| {
        spectrum.copy_from_slice(&rows[at..at + spectrum.len()]);
        at += spectrum.len();
        Some(())
    };
    whole(&mut out, |pieces| turn.channels(parts, shape, next, pieces)).unwrap();
    assert_eq!(at, rows.len());
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_processor_gives_the_same_bits_and_they_are_those_of_the_product() {
    let mut random = Random::new(4, "turning back", &[]);
    for (width, rank, frames, block) in [
        (256, 128, 40, 8),
        (300, 129, 9, 8),
        (259, 40, 277, 1),
        (512, 300, 263, 8),
        (300, 1, 3, 8),
        (40, 270, 19, 1),
        (24, 24, 21, 8),
        (200, 7, 5, 1),
    ] {
        let basis = if rank <= width {
            orthonormal(width, rank, &mut random)
        } else {
            let turned = orthonormal(rank, width, &mut random);
            (0..width * rank).map(|at| turned[at % rank * width + at / rank]).collect()
        };
        let mean: Vec<f32> = (0..width).map(|_| random.normal() as f32).collect();
        let rows = spectra(frames, &basis, rank, &mut random);
        let with = |set, floor| {
            let turn = Turn::with(set, &basis, width, rank);
            turned(&turn, (&basis, &mean, floor), (frames, block), &rows)
        };
        let plain = with(Instructions::Plain, f32::NEG_INFINITY);
        for set in Instructions::all() {
            assert_eq!(bits(&with(set, f32::NEG_INFINITY)), bits(&plain), "{set:?}");
        }
        assert!(
            bits(&with(Instructions::detect(), 0.5))
                == bits(&plain.iter().map(|v| v.max(0.5)).collect::<Vec<_>>())
        );
        let (exact, norms) = exact(&rows, [width, rank, block], &basis, &mean);
        let (whole, mut worst) = (width.max(rank) >= NARROW, 0f64);
        for ((found, exact), norm) in plain.chunks_exact(width).zip(exact.chunks_exact(width)).zip(norms) {
            let square = |(a, b): (&f32, &f64)| (f64::from(*a) - b).powi(2);
            let off = found.iter().zip(exact).map(square).sum::<f64>().sqrt();
            // The mean is added in single precision.
            worst = worst.max((off - 1e-5).max(0.0) / norm.max(1e-30));
        }
        assert!(worst < if whole { 5e-4 } else { 1e-6 }, "{width} {rank} {block}: {worst}");
    }
}

#[test]
fn what_is_no_number_harms_its_block_alone() {
    let mut random = Random::new(5, "turning back", &[]);
    let (width, rank) = (270, 140);
    let basis = orthonormal(width, rank, &mut random);
    let mean = vec![0.25f32; width];
    let mut rows = vec![0f32; 20 * rank];
    rows[9 * rank + 3] = f32::INFINITY;
    rows[17 * rank] = 1e38;
    let turn = Turn::new(&basis, width, rank);
    let out = turned(&turn, (&basis, &mean, 0.0), (20, 8), &rows);
    assert!(out[..8 * width].iter().all(|&v| v == 0.25));
    assert!(out[8 * width..16 * width].iter().all(|&v| v == 0.0));
    assert!(out[16 * width..].iter().all(|v| v.is_finite()) && out[16 * width..].iter().any(|&v| v > 1e30));
}
