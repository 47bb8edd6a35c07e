//! Takes the tensors of a network out of a file, and remembers what was wrong.

use std::collections::BTreeMap;

use super::axes;
use super::file::Found;
use crate::error::{Error, Result};
use crate::models::parameters::HostTensor;

/// Tensors under our names.
pub(super) type Tensors = BTreeMap<String, HostTensor>;

/// A tensor of ours and the one of a file that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// Its name in the file.
    pub theirs: String,
    /// The shape that it must have there.
    pub shape: Vec<usize>,
    /// Which of their axes comes first, second ...
    pub order: Vec<usize>,
    /// Our name of it.
    pub ours: String,
    /// Our shape: theirs in that order, axes of length 1 added or left out.
    pub becomes: Vec<usize>,
}

impl Pair {
    /// The same shape on both sides.
    pub fn equal(theirs: String, ours: String, shape: &[usize]) -> Self {
        let order = (0..shape.len()).collect();
        Self { theirs, shape: shape.to_vec(), order, ours, becomes: shape.to_vec() }
    }
}

/// How many names of a kind an error lists.
const FEW: usize = 4;

/// The first few of a list, and how many more there are.
pub(super) fn few(list: &[String], more: &str) -> String {
    let mut text = list.iter().take(FEW).cloned().collect::<Vec<_>>().join("; ");
    if list.len() > FEW {
        text += &format!("; and {} {more}", list.len() - FEW);
    }
    text
}

/// A file's tensors on their way into a network.
pub(super) struct Taker {
    found: Found,
    tensors: Tensors,
    missing: Vec<String>,
    wrong: Vec<String>,
}

impl Taker {
    /// Of everything that a file holds.
    pub fn new(found: Found) -> Self {
        Self { found, tensors: Tensors::new(), missing: Vec::new(), wrong: Vec::new() }
    }

    /// Takes what is known to be no weight out of the file; returns how many there were.
    pub fn leave_out(&mut self, is_none: impl Fn(&str) -> bool) -> usize {
        let before = self.found.len();
        self.found.retain(|name, _| !is_none(name));
        before - self.found.len()
    }

    /// Leaves out what PyTorch counts beside the statistics of the batch norms among `pairs`.
    pub fn leave_out_counters(&mut self, pairs: &[Pair], notes: &mut Vec<String>) {
        let norms = pairs.iter().filter_map(|pair| pair.theirs.strip_suffix(".running_mean"));
        let counters =
            norms.filter(|norm| self.found.remove(&format!("{norm}.num_batches_tracked")).is_some());
        let counters = counters.count();
        if counters > 0 {
            notes.push(format!("{counters} num_batches_tracked: counters of the training, no weights"));
        }
    }

    /// Takes a tensor that cannot be used out of the file, and remembers why.
    pub fn refuse(&mut self, name: &str, why: String) {
        self.found.remove(name);
        self.wrong.push(format!("{name}: {why}"));
    }

    /// The shape of a tensor that was not taken yet.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.found.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The values of a tensor of this shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        let Some(tensor) = self.found.remove(name) else {
            self.missing.push(format!("{name} {shape:?} is missing"));
            return None;
        };
        if tensor.shape != shape {
            self.wrong.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.shape));
            return None;
        }
        tensor.read().map_err(|e| self.wrong.push(format!("{name}: {e}"))).ok()
    }

    /// Gives values our name.
    pub fn put(&mut self, name: String, shape: &[usize], values: Option<Vec<f32>>) {
        if let Some(values) = values {
            self.tensors.insert(name, HostTensor { shape: shape.to_vec(), values, trainable: true });
        }
    }

    /// Takes a tensor, turns its axes and gives it our name.
    pub fn pair(&mut self, pair: Pair) {
        let values = self.take(&pair.theirs, &pair.shape).map(|values| {
            if pair.order.is_sorted() { values } else { axes::permuted(&values, &pair.shape, &pair.order) }
        });
        self.put(pair.ours, &pair.becomes, values);
    }

    /// The tensors that were taken.
    ///
    /// # Errors
    /// When some were missing, misshapen or left over: of each kind the first few are named, and the others counted.
    pub fn finish(self) -> Result<Tensors> {
        let unknown: Vec<String> = self
            .found
            .iter()
            .map(|(name, tensor)| format!("{name} {:?} {} is unknown", tensor.shape, tensor.kind))
            .collect();
        let kinds = [
            (&self.missing, "more are missing"),
            (&self.wrong, "more are misshapen or unreadable"),
            (&unknown, "more are unknown"),
        ];
        let found: Vec<String> =
            kinds.iter().filter(|(list, _)| !list.is_empty()).map(|(list, more)| few(list, more)).collect();
        if found.is_empty() {
            return Ok(self.tensors);
        }
        Err(Error::invalid(format!(
            "the tensors are not those of the network, and no tensor is dropped: {}",
            found.join("; ")
        )))
    }
}

/// The four tensors of a batch norm under their names for gamma, beta, mean and variance.
pub(super) fn norm(theirs: &str, names: [&str; 4], ours: &str, channels: usize) -> Vec<Pair> {
    let our = ["gamma", "beta", "running_mean", "running_variance"];
    let pair =
        |(their, our)| Pair::equal(format!("{theirs}{their}"), format!("{ours}.norm.{our}"), &[channels]);
    names.into_iter().zip(our).map(pair).collect()
}

/// PyTorch's names of what a batch norm has, in the order of [`norm`].
pub(super) const TORCH_NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// TensorFlow's.
pub(super) const TENSORFLOW_NORM: [&str; 4] = ["gamma", "beta", "moving_mean", "moving_variance"];
