//! Tensors of a `torch.save` file. The pickle is parsed by a reader that executes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use pytorch_reader::{DType, PickleValue, PytorchReader};

use crate::error::{Error, Result};

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct TorchTensor {
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Type of its elements as in the file.
    pub kind: String,
    /// Its values; `None` when they are not f32, f16 or bf16.
    pub values: Option<Vec<f32>>,
}

/// Reads every tensor of a state dictionary; errors call it `name`.
///
/// # Errors
/// When the file is damaged, or holds anything but tensors: an object that Python would have to
/// build by calling code is refused by its name.
pub fn read(path: &Path, name: &str) -> Result<BTreeMap<String, TorchTensor>> {
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("{name} cannot be read: {e}"));
    let contents = PytorchReader::read_pickle_data(path, None).map_err(|e| wrong(&e))?;
    let mut foreign = Vec::new();
    only_tensors("", &contents, &mut foreign);
    if !foreign.is_empty() {
        return Err(Error::invalid(format!(
            "{name}: expected tensors only, found {}; nothing of it was executed, and the model is refused",
            foreign.join(", ")
        )));
    }
    let reader = PytorchReader::new(path).map_err(|e| wrong(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in reader.tensors() {
        let bytes = tensor.read().map_err(|e| wrong(&format!("tensor {name}: {e}")))?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let values = match tensor.dtype() {
            DType::F32 => {
                Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            DType::F16 => Some(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            DType::BF16 => Some(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ => None,
        };
        let kind = format!("{:?}", tensor.dtype());
        tensors.insert(name.clone(), TorchTensor { shape: tensor.shape().to_vec(), kind, values });
    }
    Ok(tensors)
}

/// Collects what is neither a tensor nor a dictionary of them.
fn only_tensors(path: &str, value: &PickleValue, foreign: &mut Vec<String>) {
    let what = match value {
        PickleValue::Dict(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                only_tensors(&path, value, foreign);
            }
            return;
        }
        PickleValue::Unsupported(kind) if kind == "torch.Tensor" => return,
        PickleValue::Unsupported(kind) => kind.as_str(),
        PickleValue::None => "nothing (None)",
        PickleValue::Bool(_) => "a bool",
        PickleValue::Int(_) => "an int",
        PickleValue::Float(_) => "a float",
        PickleValue::String(_) => "a text",
        PickleValue::List(_) => "a list",
        PickleValue::Bytes(_) => "bytes",
    };
    let at = if path.is_empty() { "the top" } else { path };
    foreign.push(format!("{what} at {at}"));
}
