//! Tensors of a `torch.save` file. The pickle is parsed by a reader that executes nothing.

use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchReader};

use super::{Float, Found, Stored};
use crate::error::{Error, Result};

/// Dictionaries of weights inside a training checkpoint, the better one first: DeepLearningExamples evaluates the
/// averages of its weights where there are any.
const STATES: [&str; 2] = ["ema_state_dict", "state_dict"];

/// What `torch.save` keeps beside a module's state dictionary: versions of the layouts of its parts.
const METADATA: &str = "_metadata";

/// Every tensor of a file that is one state dictionary; errors call it `name`.
///
/// # Errors
/// When the file is damaged, or holds anything but tensors: an object that Python would have to
/// build by calling code is refused by its name.
pub(in crate::models::foreign) fn plain(path: &Path, name: &str) -> Result<Found> {
    let contents = PytorchReader::read_pickle_data(path, None).map_err(|e| unreadable(name, &e))?;
    tensors(path, name, &contents, None)
}

/// Every tensor of the state dictionary under `state`, or else under one of [`STATES`], or else of the file as a whole;
/// and the key that was taken.
///
/// # Errors
/// When the file is damaged, there is no such key, or the dictionary holds anything but tensors.
pub(super) fn open(
    path: &Path,
    name: &str,
    state: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<(Found, Option<String>)> {
    let contents = PytorchReader::read_pickle_data(path, None).map_err(|e| unreadable(name, &e))?;
    let PickleValue::Dict(entries) = &contents else {
        return tensors(path, name, &contents, None).map(|found| (found, None));
    };
    let is_dictionary = |key: &str| matches!(entries.get(key), Some(PickleValue::Dict(_)));
    let key = match state {
        Some(key) if is_dictionary(key) => key,
        Some(key) => {
            let mut there: Vec<&str> =
                entries.keys().map(String::as_str).filter(|key| is_dictionary(key)).collect();
            there.sort_unstable();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Error::invalid(format!(
                "--state-dict {key}: there is no dictionary of that name; found: {there}"
            )));
        }
        None => match STATES.into_iter().find(|key| is_dictionary(key)) {
            Some(key) => key,
            None => return tensors(path, name, &contents, None).map(|found| (found, None)),
        },
    };
    let mut others: Vec<&str> = entries.keys().map(String::as_str).filter(|other| *other != key).collect();
    others.sort_unstable();
    let others = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
    notes.push(format!("weights from {key}; not used: {others}"));
    tensors(path, key, &entries[key], Some(key)).map(|found| (found, Some(key.to_owned())))
}

fn unreadable(name: &str, e: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{name} cannot be read: {e}"))
}

fn tensors(path: &Path, name: &str, contents: &PickleValue, key: Option<&str>) -> Result<Found> {
    let mut foreign = Vec::new();
    only_tensors("", contents, &mut foreign);
    if !foreign.is_empty() {
        return Err(Error::invalid(format!(
            "{name}: expected tensors only, found {}; nothing of it was executed, and the model is refused \
             (--state-dict KEY names the dictionary of weights in a file that holds more)",
            super::super::take::few(&foreign, "more")
        )));
    }
    let reader = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let reader = reader.map_err(|e| unreadable(name, &e))?;
    let mut found = Found::new();
    for (tensor_name, tensor) in reader.into_tensors() {
        let float = match tensor.dtype() {
            DType::F64 => Some(Float::F64),
            DType::F32 => Some(Float::F32),
            DType::F16 => Some(Float::F16),
            DType::BF16 => Some(Float::Bf16),
            _ => None,
        };
        let (shape, kind) = (tensor.shape().to_vec(), format!("{:?}", tensor.dtype()));
        let what = name.to_owned();
        let read = float.map(|float| {
            let read = move || {
                let mut bytes = tensor.read().map_err(|e| unreadable(&what, &e))?;
                // The reader gives them in the machine's order.
                if cfg!(target_endian = "big") {
                    bytes.chunks_exact_mut(float.size()).for_each(<[u8]>::reverse);
                }
                Ok(float.decode(&bytes))
            };
            Box::new(read) as Box<dyn Fn() -> Result<Vec<f32>>>
        });
        found.insert(tensor_name, Stored { shape, kind, read });
    }
    Ok(found)
}

/// Collects what is neither a tensor nor a dictionary of them.
fn only_tensors(path: &str, value: &PickleValue, foreign: &mut Vec<String>) {
    let what = match value {
        PickleValue::Dict(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                if key == METADATA && only_versions(value) {
                    continue;
                }
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

/// Whether there are numbers alone at the end of every path.
fn only_versions(value: &PickleValue) -> bool {
    match value {
        PickleValue::Dict(entries) => entries.values().all(only_versions),
        value => matches!(value, PickleValue::Int(_) | PickleValue::None),
    }
}
