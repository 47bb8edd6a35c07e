//! The `[optimizer]` table: how gradients become steps, and how large the steps are.

use serde::{Deserialize, Serialize};

/// Rule by which gradients become steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Kingma and Ba, 2015, with the decay in the gradient.
    Adam,
    /// Loshchilov and Hutter, 2019: decay apart from the gradient.
    AdamW,
    /// NovoGrad as OpenSeq2Seq's `novograd.py` ran it: the second moment of a tensor is the squared norm of
    /// its newest gradient (the moving average was never stored), epsilon lies under the root.
    NovoGrad,
    /// NovoGrad as Ginsburg et al. (2019) published it: the second moment is a moving average, epsilon is added
    /// to its root, as in NeMo and in NVIDIA's DeepLearningExamples.
    #[serde(rename = "novograd-paper")]
    NovoGradPaper,
}

/// Optimiser and schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Update rule.
    pub name: Rule,
    /// Learning rate at the start of the stage.
    pub learning_rate: f64,
    /// Weight decay, of tensors with two dimensions or more for `adamw` and `adam`, of all for `novograd`.
    pub weight_decay: f64,
    /// Factor of the weights in the gradients of the tensors that the architecture names
    /// ([`crate::models::Network::regularised`]): the gradient of l2 / 2 * ||w||^2 in the loss, which the logged
    /// loss leaves out.
    pub l2: f64,
    /// Decay of the first moment; the rule's own default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// Decay of the second moment; the rule's own default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// Added to the denominator (under the root for `novograd`).
    pub epsilon: f64,
    /// Learning rate over the updates of the stage.
    pub schedule: Schedule,
    /// Largest global norm of the gradients; 0 turns clipping off.
    pub gradient_clip: f64,
    /// LARC in clip mode: the largest step of a tensor at rate 1 is this share of its norm; 0 turns it off.
    pub larc: f64,
    /// Batches whose gradients are averaged into one update.
    pub accumulate: usize,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            name: Rule::NovoGrad,
            learning_rate: 0.02,
            weight_decay: 1e-3,
            l2: 0.0,
            beta1: None,
            beta2: None,
            epsilon: 1e-8,
            schedule: Schedule::default(),
            gradient_clip: 0.0,
            larc: 0.0,
            accumulate: 1,
        }
    }
}

impl Optimizer {
    /// Decays of the two moments. OpenSeq2Seq's configurations say 0.98 for NovoGrad's second, but its code
    /// rebinds the variable instead of assigning it, so that it ran as 0; NVIDIA's later recipe set betas
    /// (0.95, 0) to keep that behaviour.
    pub fn betas(&self) -> (f64, f64) {
        let (first, second) = match self.name {
            Rule::Adam | Rule::AdamW => (0.9, 0.999),
            Rule::NovoGrad => (0.95, 0.0),
            Rule::NovoGradPaper => (0.95, 0.98),
        };
        (self.beta1.unwrap_or(first), self.beta2.unwrap_or(second))
    }

    /// Writes out what was left to the rule.
    pub(super) fn settle(&mut self) {
        let (beta1, beta2) = self.betas();
        (self.beta1, self.beta2) = (Some(beta1), Some(beta2));
    }

    /// Whether every value can work; `key` is where the table stands.
    ///
    /// # Errors
    /// Names the key, what it expects and what was found.
    pub fn check(&self, key: &str) -> Result<(), String> {
        positive(&format!("{key}.learning_rate"), self.learning_rate)?;
        for (name, value, most) in [
            ("weight_decay", self.weight_decay, f64::MAX),
            ("l2", self.l2, f64::MAX),
            ("gradient_clip", self.gradient_clip, f64::MAX),
            ("larc", self.larc, f64::MAX),
            ("epsilon", self.epsilon, 1.0),
            ("schedule.min", self.schedule.min, self.learning_rate),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(format!("{key}.{name}: expected 0 to {most:e}, found {value}"));
            }
        }
        if self.larc > 0.0 && self.gradient_clip > 0.0 {
            return Err(format!(
                "{key}.larc: expected larc or gradient_clip, found both ({} and {}): LARC bounds the step of every \
                 tensor already, and OpenSeq2Seq, which it is from, refuses the pair; set one of them to 0",
                self.larc, self.gradient_clip
            ));
        }
        positive(&format!("{key}.schedule.power"), self.schedule.power)?;
        if self.accumulate == 0 {
            return Err(format!("{key}.accumulate: expected 1 or more, found 0"));
        }
        let (beta1, beta2) = self.betas();
        for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("{key}.{name}: expected 0 <= {name} < 1, found {beta}"));
            }
        }
        if self.epsilon <= 0.0 && matches!(self.name, Rule::Adam | Rule::AdamW) {
            return Err(format!("{key}.epsilon: expected a number above 0, found {}", self.epsilon));
        }
        Ok(())
    }
}

/// Refuses what is not a finite number above 0.
pub(super) fn positive(key: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(format!("{key}: expected a number above 0, found {value}"))
}

/// Learning rate over a stage's updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Shape of the decay.
    pub name: ScheduleName,
    /// Exponent of the polynomial.
    pub power: f64,
    /// Learning rate at the end.
    pub min: f64,
    /// Updates of linear warm-up from 0.
    pub warmup: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { name: ScheduleName::Polynomial, power: 2.0, min: 1e-5, warmup: 0 }
    }
}

/// Shape of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// OpenSeq2Seq's `poly_decay`: (start - min) (1 - t / T)^power + min.
    Polynomial,
    /// No decay.
    Constant,
}

impl Schedule {
    /// Learning rate of update `update` (from 0) of `total`.
    pub fn at(&self, start: f64, update: u64, total: u64) -> f64 {
        if update < self.warmup {
            return start * (update + 1) as f64 / self.warmup as f64;
        }
        match self.name {
            ScheduleName::Constant => start,
            ScheduleName::Polynomial => {
                let left = 1.0 - update.min(total) as f64 / total.max(1) as f64;
                (start - self.min) * left.powf(self.power) + self.min
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomial_decay_is_openseq2seqs() {
        let schedule = Schedule::default();
        assert_eq!(schedule.at(0.02, 0, 100), 0.02);
        let half = (0.02 - 1e-5) * 0.25 + 1e-5;
        assert!((schedule.at(0.02, 50, 100) - half).abs() < 1e-15);
        assert_eq!(schedule.at(0.02, 100, 100), 1e-5);
    }

    #[test]
    fn warm_up_is_linear_and_ends_at_the_peak() {
        let schedule = Schedule { warmup: 4, name: ScheduleName::Constant, ..Schedule::default() };
        let rates: Vec<f64> = (0..6).map(|u| schedule.at(1.0, u, 100)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }
}
