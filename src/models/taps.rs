//! Outputs of a network that are kept while a forward pass comes by them.

use burn::tensor::Tensor;

use super::layer::HiddenLayer;

/// Keeps the outputs of the layers that a caller wants while a forward pass comes by them.
pub(super) struct Taps<'a> {
    wanted: &'a [HiddenLayer],
    found: Vec<Option<Tensor<3>>>,
}

impl<'a> Taps<'a> {
    pub(super) fn new(wanted: &'a [HiddenLayer]) -> Self {
        Self { wanted, found: vec![None; wanted.len()] }
    }

    /// Passes by the output of inner layer `number`, [batch, width, frames].
    pub(super) fn inner(&mut self, number: usize, output: impl FnOnce() -> Tensor<3>) {
        if let Ok(number) = u32::try_from(number) {
            self.keep(HiddenLayer::Inner(number), output);
        }
    }

    /// The kept outputs in the order in which they were wanted.
    pub(super) fn finish(mut self, last: &Tensor<3>) -> Vec<Tensor<3>> {
        self.keep(HiddenLayer::Last, || last.clone());
        let found: Vec<_> = self.found.into_iter().flatten().collect();
        assert!(found.len() == self.wanted.len(), "{:?}: not all are layers of this network", self.wanted);
        found
    }

    fn keep(&mut self, layer: HiddenLayer, output: impl FnOnce() -> Tensor<3>) {
        if !self.wanted.contains(&layer) {
            return;
        }
        let output = output();
        for (wanted, found) in self.wanted.iter().zip(&mut self.found) {
            if *wanted == layer {
                *found = Some(output.clone());
            }
        }
    }
}
