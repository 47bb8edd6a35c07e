//! Files that hold tensors under names.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::files;
use crate::models::nemo::torch;

/// A tensor of a file: its shape and values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Every floating-point tensor by its name; those of other types are counters, and left out.
///
/// # Errors
/// When the file is neither a safetensors file nor a `torch.save` of tensors alone.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return safetensors(path);
    }
    let tensors = torch::read(path, "the state dictionary")?.into_iter();
    Ok(tensors
        .filter_map(|(name, tensor)| Some((name, Tensor { shape: tensor.shape, values: tensor.values? })))
        .collect())
}

fn safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = files::read(path)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::invalid(format!("not a safetensors file: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
        let values = match view.dtype() {
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            _ => continue,
        };
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}
