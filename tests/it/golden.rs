//! Golden files, and how near to them is near enough.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use tutornet::models::parameters::UpdateTensor;

/// The tensors of a file, those of integers converted.
pub fn read(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().filter(|(_, view)| view.data().len() % 4 == 0 && view.dtype() != Dtype::F16);
    tensors
        .map(|(name, view)| {
            let words = view.data().chunks_exact(4).map(|b| b.try_into().unwrap());
            let values = match view.dtype() {
                Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
                _ => words.map(f32::from_le_bytes).collect(),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}

pub fn tensor<const D: usize>((shape, values): &(Vec<usize>, Vec<f32>), device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
}

/// Demands that the norm of the difference is at most `tolerance` of the norm of what was expected; returns its share.
pub fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{name}");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let scale = norm(&mut expected.iter().map(|&v| f64::from(v)));
    assert!(off <= tolerance * scale, "{name}: {off:.2e} of {scale:.2e}");
    if off > 0.0 { off / scale } else { 0.0 }
}

pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Replaces every trainable tensor by its gradient.
pub struct Gradients<'a>(pub &'a burn::tensor::Gradients, pub BTreeMap<String, Vec<f32>>);

impl UpdateTensor for Gradients<'_> {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if trainable {
            self.1.insert(name.to_owned(), host(tensor.grad(self.0).expect("a gradient")));
        }
        tensor
    }
}
