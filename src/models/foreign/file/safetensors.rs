//! Tensors of a safetensors file.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use safetensors::Dtype;

use super::{Float, Found, Stored};
use crate::error::{Error, Result};
use crate::models::weights;

/// Every tensor by its name.
///
/// # Errors
/// When the file is no safetensors file, or not whole.
pub(super) fn open(path: &Path) -> Result<Found> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut reader = BufReader::new(file);
    let metadata = weights::header(path, &mut reader, None)?;
    let first = reader.stream_position().map_err(|e| Error::io("read", path, e))?;
    let file = Rc::new(reader.into_inner());
    let mut found = Found::new();
    for (name, info) in metadata.tensors() {
        let float = match info.dtype {
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::Bf16),
            Dtype::F32 => Some(Float::F32),
            Dtype::F64 => Some(Float::F64),
            _ => None,
        };
        let (start, end) = info.data_offsets;
        let read = float.map(|float| {
            let (file, path) = (Rc::clone(&file), path.to_path_buf());
            let read = move || {
                let mut bytes = vec![0; end - start];
                file.read_exact_at(&mut bytes, first + start as u64)
                    .map_err(|e| Error::io("read", &path, e))?;
                Ok(float.decode(&bytes))
            };
            Box::new(read) as Box<dyn Fn() -> Result<Vec<f32>>>
        });
        let kind = format!("{:?}", info.dtype);
        found.insert(name, Stored { shape: info.shape.clone(), kind, read });
    }
    Ok(found)
}
