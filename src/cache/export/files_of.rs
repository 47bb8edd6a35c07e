//! Files an utterance: `.npy` and `.safetensors`, all of a shard in one directory that appears whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::{Dtype as Kind, TensorView};

use super::super::Entry;
use super::super::column::Column;
use super::values::{Values, about};
use super::{Dtype, Format, Job};
use crate::error::{Error, Result};
use crate::files;

/// Writes the directory `path` with the files of these utterances.
///
/// # Errors
/// When a payload is damaged or the disk is full; the directory then does not exist.
pub fn write(job: &Job, rows: &[usize], path: &Path, format: Format) -> Result<()> {
    let pending = files::PendingDirectory::create(path)?;
    rows.par_iter().try_for_each(|&index| -> Result<()> {
        let entry = &job.cache.entries()[index];
        let read = |&column: &Column| Ok((column.to_string(), Values::read(job, column, index)?));
        let values: Vec<(String, Values)> = job.columns.iter().map(read).collect::<Result<_>>()?;
        if format == Format::Safetensors {
            let bytes = safetensors_of(job, entry, &values)?;
            write_synced(&pending.path().join(file_name(entry, "safetensors")), &bytes)?;
        } else {
            for (column, values) in &values {
                write_synced(
                    &pending.path().join(file_name(entry, &ending(column, values.shape().is_some()))),
                    &npy(values),
                )?;
            }
        }
        job.progress.add(1);
        Ok(())
    })?;
    pending.commit()
}

/// Path of an utterance's file below the export: its directory, its name, an ending.
pub fn name(directory: &str, entry: &Entry, ending: &str) -> String {
    format!("{directory}/{}", file_name(entry, ending))
}

/// Paths of an utterance's `.npy` files by column.
pub fn npy_names(directory: &str, entry: &Entry, columns: &[Column]) -> serde_json::Value {
    let path = |column: &Column| {
        let ending = ending(&column.to_string(), *column != Column::Nbest);
        (column.to_string(), serde_json::Value::from(name(directory, entry, &ending)))
    };
    columns.iter().map(path).collect::<serde_json::Map<_, _>>().into()
}

fn ending(column: &str, numbers: bool) -> String {
    format!("{column}.{}", if numbers { "npy" } else { "json" })
}

/// The utterance's name with an ending. What a file's name cannot hold, or hides it, is written as %XX.
fn file_name(entry: &Entry, ending: &str) -> String {
    let mut name = String::new();
    for (at, byte) in entry.utterance.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_@+=,".contains(&byte) || (byte == b'.' && at > 0);
        if plain { name.push(char::from(byte)) } else { name.push_str(&format!("%{byte:02X}")) }
    }
    format!("{name}.{ending}")
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Numbers behind the header of NumPy's format 1.0, padded so that they begin at a multiple of 64; a text as it is.
fn npy(values: &Values) -> Vec<u8> {
    let Some((dtype, shape)) = values.shape() else { return values.bytes() };
    let kind = if dtype == Dtype::F16 { "<f2" } else { "<f4" };
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let shape = if shape.matches(", ").count() > 1 { shape.trim_end_matches(", ") } else { shape.trim_end() };
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let size = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = size - 1).bytes());
    bytes.extend(values.bytes());
    bytes
}

/// Tensors by column; the metadata has one key, as the order of several would not be fixed.
fn safetensors_of(job: &Job, entry: &Entry, values: &[(String, Values)]) -> Result<Vec<u8>> {
    let wrong = |e: safetensors::SafeTensorError| Error::format(job.cache.dir(), e.to_string());
    let mut metadata = about(entry);
    let numbers: Vec<(&String, Dtype, Vec<usize>, Vec<u8>)> = values
        .iter()
        .filter_map(|(name, values)| values.shape().map(|(kind, shape)| (name, kind, shape, values.bytes())))
        .collect();
    for (name, values) in values {
        if let (Values::Text(text), Some(metadata)) = (values, metadata.as_object_mut()) {
            metadata.insert(name.clone(), text.clone().into());
        }
    }
    let views = numbers
        .iter()
        .map(|(name, kind, shape, bytes)| {
            let kind = if *kind == Dtype::F16 { Kind::F16 } else { Kind::F32 };
            Ok((name.as_str(), TensorView::new(kind, shape.clone(), bytes)?))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(wrong)?;
    let metadata = HashMap::from([("tutornet".to_owned(), metadata.to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(wrong)
}
