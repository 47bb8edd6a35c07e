//! The optimisers' update of one tensor: one pass over weight, gradient and moments on the CPU, the tensor
//! library's own operations elsewhere.
//!
//! Adam reads 4 and writes 3 values an element (28 bytes, about 12 FLOPs), NovoGrad 3 and 2 (20 bytes, 6 FLOPs)
//! after its norm (4 bytes): both are bound by memory. Elements do not meet, so that threads change nothing.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::simd::{self, Adam, NovoGrad};
use super::sum;
use crate::device::is_cpu;

/// Elements that a thread takes at once: four arrays of it fit into a core's second-level cache.
const CHUNK: usize = 1 << 15;

/// Kingma and Ba, 2015 (bias-corrected), with decoupled decay after Loshchilov and Hutter, 2019.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub rate: f64,
    /// Of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Factor of w in the gradient (Adam).
    pub coupled_decay: f64,
    /// Share of w that goes at rate 1 (AdamW).
    pub decoupled_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

/// Weight, first and second moment after a step along `g`; all flat and of one length.
pub fn adam(w: Tensor<1>, g: Tensor<1>, first: Tensor<1>, second: Tensor<1>, s: &AdamStep) -> [Tensor<1>; 3] {
    let steps = s.step as f64;
    let (beta1, beta2) = s.betas;
    let (unbias1, unbias2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
    if is_cpu(&w.device()) {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let rule = Adam {
            beta1: beta1 as f32,
            fresh1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            fresh2: (1.0 - beta2) as f32,
            rate: (s.rate / unbias1) as f32,
            scale: (1.0 / unbias2.sqrt()) as f32,
            epsilon: s.epsilon as f32,
            coupled: s.coupled_decay as f32,
            kept: (1.0 - s.rate * s.decoupled_decay) as f32,
        };
        return on_host([w, first, second], g, |[w, m, v], g| simd::adam(w, g, m, v, rule));
    }
    let g = if s.coupled_decay > 0.0 { g + w.clone().mul_scalar(s.coupled_decay) } else { g };
    let first = first.mul_scalar(beta1) + g.clone().mul_scalar(1.0 - beta1);
    let second = second.mul_scalar(beta2) + (g.clone() * g).mul_scalar(1.0 - beta2);
    let root = second.clone().div_scalar(unbias2).sqrt().add_scalar(s.epsilon);
    let step = first.clone().div_scalar(unbias1) / root;
    let w = w.mul_scalar(1.0 - s.rate * s.decoupled_decay) - step.mul_scalar(s.rate);
    [w, first, second]
}

/// Ginsburg et al., 2019.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NovoGradStep {
    /// Learning rate.
    pub rate: f64,
    /// Of the first moment.
    pub beta1: f64,
    /// Keeps the divisor from 0.
    pub epsilon: f64,
    /// Whether epsilon is added to the square (OpenSeq2Seq's `novograd.py`) or to its root (the paper, NeMo).
    pub under_root: bool,
    /// Factor of w in the direction.
    pub decay: f64,
}

/// Weight and first moment after a step along `g`: it is divided by the root of `square` (its running squared
/// norm, [1]), decay joins it, and the first moment is a plain sum.
pub fn novograd(
    w: Tensor<1>,
    g: Tensor<1>,
    first: Tensor<1>,
    square: &Tensor<1>,
    s: &NovoGradStep,
) -> [Tensor<1>; 2] {
    if is_cpu(&w.device()) {
        let square = f64::from(square.clone().into_scalar::<f32>());
        let divisor = if s.under_root { (square + s.epsilon).sqrt() } else { square.sqrt() + s.epsilon };
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let rule = NovoGrad {
            scale: (1.0 / divisor) as f32,
            decay: s.decay as f32,
            beta1: s.beta1 as f32,
            rate: s.rate as f32,
        };
        return on_host([w, first], g, |[w, m], g| simd::novograd(w, g, m, rule));
    }
    let divisor = match s.under_root {
        true => square.clone().add_scalar(s.epsilon).sqrt(),
        false => square.clone().sqrt().add_scalar(s.epsilon),
    };
    let mut direction = g / divisor;
    if s.decay > 0.0 {
        direction = direction + w.clone().mul_scalar(s.decay);
    }
    let first = first.mul_scalar(s.beta1) + direction;
    [w - first.clone().mul_scalar(s.rate), first]
}

/// Added to a gradient's norm, and the smallest factor, of [`larc`].
const LARC_FLOOR: f64 = 1e-7;

/// LARC in clip mode (You, Gitman and Ginsburg, 2017; OpenSeq2Seq `optimizers.py`): `g` times
/// min(1, max(`eta` ||w|| / (`rate` (||g|| + 1e-7)), 1e-7)). The norm of a step along it at `rate` is then at most
/// `eta` ||w||, but for a tensor that is 0: that one still moves, by 1e-7 of its gradient.
pub fn larc(w: &Tensor<1>, g: Tensor<1>, eta: f64, rate: f64) -> Tensor<1> {
    let (weight, gradient) = (squared_norm(w), squared_norm(&g));
    if is_cpu(&g.device()) {
        let [weight, gradient] = [weight, gradient].map(|n| f64::from(n.into_scalar::<f32>()).sqrt());
        let factor = (eta * weight / (rate * (gradient + LARC_FLOOR))).max(LARC_FLOOR);
        return if factor < 1.0 { g.mul_scalar(factor) } else { g };
    }
    let divisor = gradient.sqrt().add_scalar(LARC_FLOOR).mul_scalar(rate);
    let factor = weight.sqrt().mul_scalar(eta) / divisor;
    g * factor.clamp(LARC_FLOOR, 1.0)
}

/// Squared l2 norm, [1]; the same bits whatever the number of threads.
pub fn squared_norm(g: &Tensor<1>) -> Tensor<1> {
    if !is_cpu(&g.device()) {
        return sum(g.clone() * g.clone());
    }
    let data = g.clone().into_data();
    let Ok(values) = data.as_slice::<f32>() else { return sum(g.clone() * g.clone()) };
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(|part| simd::add_sum(part, 0.0, true)).collect();
    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    let total = parts.iter().sum::<f64>() as f32;
    Tensor::from_data(TensorData::new(vec![total], [1]), &g.device())
}

/// Lets `change` work on the values of `tensors` in place (a copy where they are shared), chunk by chunk.
fn on_host<const N: usize>(
    tensors: [Tensor<1>; N],
    g: Tensor<1>,
    change: impl Fn([&mut [f32]; N], &[f32]) + Sync,
) -> [Tensor<1>; N] {
    let device = g.device();
    let mut g = g.into_data();
    let mut values = tensors.map(Tensor::into_data);
    {
        // CPU tensors of this program are f32: other types have no such slice, and nothing is changed.
        let Ok(g) = g.as_mut_slice::<f32>() else { return values.map(|v| Tensor::from_data(v, &device)) };
        let count = g.len();
        let mut parts: Vec<([&mut [f32]; N], &[f32])> = Vec::with_capacity(count.div_ceil(CHUNK));
        let mut chunks = values
            .each_mut()
            .map(|v| v.as_mut_slice::<f32>().map(|v| v.chunks_mut(CHUNK)).into_iter().flatten());
        for g in g.chunks(CHUNK) {
            let part = chunks.each_mut().map(|c| c.next().unwrap_or_default());
            parts.push((part, g));
        }
        parts.into_par_iter().for_each(|(part, g)| change(part, g));
    }
    values.map(|v| Tensor::from_data(v, &device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use burn::tensor::Device;

    fn draw(seed: u64, count: usize) -> Vec<f32> {
        let mut random = Random::new(seed, "step", &[]);
        (0..count).map(|_| random.normal() as f32).collect()
    }

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex())
    }

    fn values(tensor: Tensor<1>) -> Vec<f64> {
        tensor.into_data().iter::<f32>().map(f64::from).collect()
    }

    fn close(ours: Tensor<1>, expected: &[f64]) {
        let ours = values(ours);
        assert_eq!(ours.len(), expected.len());
        for (a, b) in ours.iter().zip(expected) {
            assert!((a - b).abs() <= 3e-6 * (1.0 + b.abs()), "{a} {b}");
        }
    }

    /// More than two chunks and an odd rest, against the formula in f64; inputs that are shared stay as they were.
    #[test]
    fn one_pass_is_the_formula() {
        let count = 2 * CHUNK + 13;
        let [w, g, m] = [1, 2, 3].map(|seed| draw(seed, count));
        let v: Vec<f32> = draw(4, count).iter().map(|v| v * v).collect();
        let at = |x: &[f32], i: usize| f64::from(x[i]);
        for (coupled_decay, decoupled_decay) in [(0.0, 0.0), (0.02, 0.0), (0.0, 0.02)] {
            let step = AdamStep {
                rate: 0.1,
                betas: (0.9, 0.98),
                epsilon: 1e-8,
                coupled_decay,
                decoupled_decay,
                step: 3,
            };
            let shared = tensor(&w);
            let [ours, first, second] = adam(shared.clone(), tensor(&g), tensor(&m), tensor(&v), &step);
            let mut expected = [const { Vec::new() }; 3];
            for i in 0..count {
                let g = at(&g, i) + coupled_decay * at(&w, i);
                let (m, v) = (0.9 * at(&m, i) + 0.1 * g, 0.98 * at(&v, i) + 0.02 * g * g);
                let root = (v / (1.0 - 0.98f64.powi(3))).sqrt() + 1e-8;
                let kept = at(&w, i) * (1.0 - 0.1 * decoupled_decay);
                expected[0].push(kept - 0.1 * m / (1.0 - 0.9f64.powi(3)) / root);
                expected[1].push(m);
                expected[2].push(v);
            }
            close(ours, &expected[0]);
            close(first, &expected[1]);
            close(second, &expected[2]);
            assert!(values(shared).iter().zip(&w).all(|(a, b)| *a == f64::from(*b)));
        }
        let square: f64 = g.iter().map(|g| f64::from(*g).powi(2)).sum();
        let norm = squared_norm(&tensor(&g));
        close(norm.clone(), &[square]);
        // An epsilon as large as the square, so that its place is seen.
        for (under_root, divisor) in [(true, (2.0 * square).sqrt()), (false, square.sqrt() + square)] {
            let step = NovoGradStep { rate: 0.1, beta1: 0.95, epsilon: square, under_root, decay: 0.01 };
            let [ours, first] = novograd(tensor(&w), tensor(&g), tensor(&m), &norm, &step);
            let moments: Vec<f64> =
                (0..count).map(|i| 0.95 * at(&m, i) + at(&g, i) / divisor + 0.01 * at(&w, i)).collect();
            let moved: Vec<f64> = moments.iter().enumerate().map(|(i, m)| at(&w, i) - 0.1 * m).collect();
            close(ours, &moved);
            close(first, &moments);
        }
    }
}
