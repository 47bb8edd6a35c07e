//! Adam, AdamW and NovoGrad over named tensors.
//!
//! State is kept by the tensor's name, never by a process-local id, and tensors are visited in
//! the order of their names: a run that is resumed from a checkpoint takes the same steps.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::recipe::{Optimizer as Settings, Rule};
use crate::error::{Error, Result};
use crate::kernels::{AdamStep, NovoGradStep, adam, larc, novograd, squared_norm};
use crate::models::parameters::{HostTensor, UpdateTensor};

/// Gradients of one or several batches, flat, by the tensor's name.
#[derive(Debug, Default)]
pub struct NamedGradients {
    by_name: BTreeMap<String, Tensor<1>>,
    batches: usize,
}

impl NamedGradients {
    /// Visitor that adds one batch's gradients; call [`NamedGradients::batch_done`] after it.
    pub fn collector<'a>(&'a mut self, gradients: &'a Gradients, prefix: &'a str) -> impl UpdateTensor + 'a {
        Collector { into: self, gradients, prefix }
    }

    /// Counts one batch.
    pub fn batch_done(&mut self) {
        self.batches += 1;
    }

    /// Mean over the batches.
    pub fn average(&mut self) {
        if self.batches > 1 {
            let scale = 1.0 / self.batches as f64;
            for gradient in self.by_name.values_mut() {
                *gradient = gradient.clone().mul_scalar(scale);
            }
        }
        self.batches = 1;
    }

    /// Visitor that adds `l2` times a tensor to its gradient where `regularised` says so of its name. A tensor
    /// without a gradient gets none.
    pub fn regulariser<'a>(
        &'a mut self,
        l2: f64,
        regularised: impl Fn(&str) -> bool + 'a,
    ) -> impl UpdateTensor + 'a {
        Regulariser { gradients: self, l2, regularised }
    }

    /// Global norm of all gradients; not finite when one of them is not.
    pub fn norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> = self.by_name.values().map(squared_norm).collect();
        if squares.is_empty() {
            return 0.0;
        }
        let squares = Tensor::cat(squares, 0).into_data();
        squares.iter::<f32>().map(f64::from).sum::<f64>().sqrt()
    }

    /// Scales all gradients so that their global norm, which is `norm`, is at most `limit`; 0 is no limit.
    pub fn clip(&mut self, norm: f64, limit: f64) {
        if limit <= 0.0 || norm <= limit {
            return;
        }
        let factor = limit / norm;
        for gradient in self.by_name.values_mut() {
            *gradient = gradient.clone().mul_scalar(factor);
        }
    }
}

struct Collector<'a> {
    into: &'a mut NamedGradients,
    gradients: &'a Gradients,
    prefix: &'a str,
}

impl UpdateTensor for Collector<'_> {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if let (true, Some(gradient)) = (trainable, tensor.grad(self.gradients)) {
            let flat: Tensor<1> = gradient.reshape([-1]);
            let name = format!("{}{name}", self.prefix);
            let sum = match self.into.by_name.remove(&name) {
                Some(earlier) => earlier + flat,
                None => flat,
            };
            self.into.by_name.insert(name, sum);
        }
        tensor
    }
}

struct Regulariser<'a, F> {
    gradients: &'a mut NamedGradients,
    l2: f64,
    regularised: F,
}

impl<F: Fn(&str) -> bool> UpdateTensor for Regulariser<'_, F> {
    fn update<const D: usize>(&mut self, name: &str, _trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if (self.regularised)(name)
            && let Some(gradient) = self.gradients.by_name.get_mut(name)
        {
            let w: Tensor<1> = tensor.clone().inner().reshape([-1]);
            *gradient = gradient.clone() + w.mul_scalar(self.l2);
        }
        tensor
    }
}

/// First and second moment of one tensor, flat; NovoGrad's second is one number.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// The optimiser of one stage.
#[derive(Debug)]
pub struct Optimizer {
    settings: Settings,
    moments: BTreeMap<String, Moments>,
    updates: u64,
}

impl Optimizer {
    /// An optimiser that has taken no step.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), moments: BTreeMap::new(), updates: 0 }
    }

    /// Counts a step; call it before the tensors of that step are visited.
    pub fn begin_step(&mut self) {
        self.updates += 1;
    }

    /// Visitor that moves every tensor that has a gradient, and takes the gradient. Tensors without one (the CTC head
    /// during RKD) keep their value: no step, no decay.
    pub fn stepper<'a>(
        &'a mut self,
        gradients: &'a mut NamedGradients,
        learning_rate: f64,
        prefix: &'a str,
    ) -> impl UpdateTensor + 'a {
        Stepper { optimizer: self, gradients, learning_rate, prefix }
    }

    /// Moves a flat tensor `w` along its gradient `g`.
    fn step(&mut self, name: &str, w: Tensor<1>, g: Tensor<1>, matrix: bool, rate: f64) -> Tensor<1> {
        let (beta1, beta2) = self.settings.betas();
        let (epsilon, decay) = (self.settings.epsilon, self.settings.weight_decay);
        let g = if self.settings.larc > 0.0 { larc(&w, g, self.settings.larc, rate) } else { g };
        let earlier = self.moments.remove(name);
        let zeros = |g: &Tensor<1>| Moments { first: g.zeros_like(), second: g.zeros_like() };
        let (moments, w) = match self.settings.name {
            Rule::NovoGrad | Rule::NovoGradPaper => {
                let square = squared_norm(&g);
                // The second moment starts at the first squared norm.
                let (first, second) = match earlier {
                    Some(m) => (m.first, m.second.mul_scalar(beta2) + square.mul_scalar(1.0 - beta2)),
                    None => (g.zeros_like(), square),
                };
                let under_root = self.settings.name == Rule::NovoGrad;
                let step = NovoGradStep { rate, beta1, epsilon, under_root, decay };
                let [w, first] = novograd(w, g, first, &second, &step);
                (Moments { first, second }, w)
            }
            Rule::Adam | Rule::AdamW => {
                let decay = if matrix { decay } else { 0.0 };
                let coupled = self.settings.name == Rule::Adam;
                let Moments { first, second } = earlier.unwrap_or_else(|| zeros(&g));
                let step = AdamStep {
                    rate,
                    betas: (beta1, beta2),
                    epsilon,
                    coupled_decay: if coupled { decay } else { 0.0 },
                    decoupled_decay: if coupled { 0.0 } else { decay },
                    step: self.updates,
                };
                let [w, first, second] = adam(w, g, first, second, &step);
                (Moments { first, second }, w)
            }
        };
        self.moments.insert(name.to_owned(), moments);
        w
    }

    /// Updates taken and all moments, on the host.
    pub fn export(&self) -> (u64, BTreeMap<String, HostTensor>) {
        let mut tensors = BTreeMap::new();
        for (name, moments) in &self.moments {
            for (kind, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                let values: Vec<f32> = tensor.clone().into_data().iter::<f32>().collect();
                let host = HostTensor { shape: vec![values.len()], values, trainable: false };
                tensors.insert(format!("{kind}.{name}"), host);
            }
        }
        (self.updates, tensors)
    }

    /// Restores what [`Optimizer::export`] gave.
    ///
    /// # Errors
    /// When a tensor has one moment and not the other.
    pub fn import(
        &mut self,
        updates: u64,
        mut tensors: BTreeMap<String, HostTensor>,
        device: &Device,
    ) -> Result<()> {
        self.updates = updates;
        self.moments.clear();
        let names: Vec<String> =
            tensors.keys().filter_map(|k| k.strip_prefix("first.")).map(String::from).collect();
        for name in names {
            let mut take = |kind: &str| {
                let host = tensors.remove(&format!("{kind}.{name}")).ok_or_else(|| {
                    Error::invalid(format!(
                        "optimiser state: expected the {kind} moment of {name}, found none"
                    ))
                })?;
                let length = host.values.len();
                Ok::<_, Error>(Tensor::from_data(TensorData::new(host.values, [length]), device))
            };
            let moments = Moments { first: take("first")?, second: take("second")? };
            self.moments.insert(name, moments);
        }
        Ok(())
    }
}

struct Stepper<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut NamedGradients,
    learning_rate: f64,
    prefix: &'a str,
}

impl UpdateTensor for Stepper<'_> {
    fn update<const D: usize>(&mut self, name: &str, _trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        let name = format!("{}{name}", self.prefix);
        let Some(gradient) = self.gradients.by_name.remove(&name) else { return tensor };
        let shape = tensor.dims();
        let flat: Tensor<1> = tensor.inner().reshape([-1]);
        let moved = self.optimizer.step(&name, flat, gradient, D >= 2, self.learning_rate);
        Tensor::from_inner(moved.reshape(shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::Schedule;

    fn settings(name: Rule) -> Settings {
        Settings {
            name,
            learning_rate: 0.1,
            weight_decay: 0.01,
            schedule: Schedule::default(),
            ..Settings::default()
        }
    }

    fn run(settings: &Settings, steps: usize) -> Vec<f32> {
        let device = Device::flex();
        let mut optimizer = Optimizer::new(settings);
        let mut w = Tensor::<1>::from_floats([1.0, -2.0, 3.0], &device);
        for step in 0..steps {
            let g = Tensor::<1>::from_floats([0.5, -0.25 * step as f32, 1.0 / (1.0 + step as f32)], &device);
            optimizer.begin_step();
            w = optimizer.step("w", w, g, true, 0.1);
        }
        w.into_data().try_to_vec::<f32>().unwrap()
    }

    fn gradient(step: usize) -> [f64; 3] {
        [0.5, -0.25 * step as f64, 1.0 / (1.0 + step as f64)]
    }

    fn close(ours: &[f32], expected: [f64; 3]) {
        for (a, b) in ours.iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 2e-6, "{ours:?} {expected:?}");
        }
    }

    #[test]
    fn adamw_follows_its_paper() {
        let (mut w, mut m, mut v) = ([1.0, -2.0, 3.0], [0.0; 3], [0.0; 3]);
        for step in 0..20 {
            let g = gradient(step);
            for i in 0..3 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let (mh, vh) = (
                    m[i] / (1.0 - 0.9f64.powi(step as i32 + 1)),
                    v[i] / (1.0 - 0.999f64.powi(step as i32 + 1)),
                );
                w[i] = w[i] - 0.1 * 0.01 * w[i] - 0.1 * mh / (vh.sqrt() + 1e-8);
            }
        }
        close(&run(&settings(Rule::AdamW), 20), w);
    }

    #[test]
    fn novograd_follows_openseq2seq_with_either_second_moment() {
        for beta2 in [0.0, 0.5] {
            let (mut w, mut m, mut v) = ([1.0, -2.0, 3.0], [0.0; 3], 0.0);
            for step in 0..20 {
                let g = gradient(step);
                let square: f64 = g.iter().map(|g| g * g).sum();
                v = if step == 0 { square } else { beta2 * v + (1.0 - beta2) * square };
                for i in 0..3 {
                    m[i] = 0.95 * m[i] + g[i] / (v + 1e-8).sqrt() + 0.01 * w[i];
                    w[i] -= 0.1 * m[i];
                }
            }
            close(&run(&Settings { beta2: Some(beta2), ..settings(Rule::NovoGrad) }, 20), w);
        }
    }

    #[test]
    fn restored_state_continues_bit_for_bit() {
        let device = Device::flex();
        let g = Tensor::<1>::from_floats([0.3, -0.1], &device);
        let start = Tensor::<1>::from_floats([1.0, 2.0], &device);
        for rule in [Rule::Adam, Rule::AdamW, Rule::NovoGrad, Rule::NovoGradPaper] {
            let settings = |rule| Settings { larc: 0.001, ..settings(rule) };
            let mut optimizer = Optimizer::new(&settings(rule));
            optimizer.begin_step();
            let w = optimizer.step("w", start.clone(), g.clone(), false, 0.1);
            let (updates, tensors) = optimizer.export();
            let mut restored = Optimizer::new(&settings(rule));
            restored.import(updates, tensors, &device).unwrap();
            optimizer.begin_step();
            restored.begin_step();
            let a = optimizer.step("w", w.clone(), g.clone(), false, 0.1).into_data();
            let b = restored.step("w", w, g.clone(), false, 0.1).into_data();
            assert_eq!(a.try_to_vec::<f32>().unwrap(), b.try_to_vec::<f32>().unwrap());
        }
    }
}
