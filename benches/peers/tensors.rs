//! Named tensors on the host and their files.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use tutornet::random::Random;

/// A tensor of f32 with its name.
#[derive(Debug, Clone)]
pub struct Named {
    /// What the file calls it.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

impl Named {
    /// A tensor on the host.
    pub fn new(name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), values }
    }

    /// A device's tensor, brought to the host.
    pub fn of<const D: usize>(name: &str, tensor: Tensor<D>) -> Self {
        Self::new(name, &tensor.dims(), tensor.into_data().iter::<f32>().collect())
    }

    /// Standard normal values.
    pub fn normal(name: &str, shape: &[usize], scale: f32) -> Self {
        let mut random = Random::new(1, name, &[]);
        #[expect(clippy::cast_possible_truncation, reason = "inputs are f32")]
        let draw = || random.normal() as f32 * scale;
        Self::new(name, shape, std::iter::repeat_with(draw).take(shape.iter().product()).collect())
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Tensors(BTreeMap<String, Named>);

impl Tensors {
    /// The tensor of that name, which the file must have.
    pub fn host(&self, name: &str) -> &Named {
        self.0.get(name).unwrap_or_else(|| super::fail(&format!("the inputs hold no {name}")))
    }

    /// The same on a device.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let named = self.host(name);
        Tensor::from_data(TensorData::new(named.values.clone(), named.shape.clone()), device)
    }
}

/// Writes tensors of f32.
pub fn write(path: &Path, tensors: &[Named]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.values));
        (tensor.name.as_str(), view.expect("a tensor's shape fits its values"))
    });
    let bytes = safetensors::serialize(views, None).expect("tensors have different names");
    std::fs::write(path, bytes).unwrap_or_else(|e| super::fail(&format!("{}: {e}", path.display())));
}

/// Reads tensors of f32.
pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| super::fail(&format!("{}: {e}", path.display())));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let named = file.iter().map(|(name, view)| {
        let values = bytemuck::pod_collect_to_vec(view.data());
        (name.to_owned(), Named::new(name, view.shape(), values))
    });
    Tensors(named.collect())
}
