//! `weights.safetensors`, read and written one tensor at a time: a network of 1.3 GB is in memory once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::parameters::{Handle, HostTensor};
use crate::error::{Error, Result};
use crate::files;

/// Values that are converted to bytes and back at once.
const PIECE: usize = 1 << 16;
/// Bytes of the longest list of tensors that is taken for one.
const LONGEST_HEADER: u64 = 100_000_000;

/// Writes the tensors in the order of their names; the same tensors give the same bytes. Returns the BLAKE3 of what
/// was written. Errors name `path`.
///
/// # Errors
/// When the device cannot deliver a tensor, or `out` does not take the bytes.
pub(super) fn write(path: &Path, tensors: &BTreeMap<String, Handle>, out: &mut impl Write) -> Result<String> {
    let encoding = |e: &dyn std::fmt::Display| Error::format(path, format!("cannot be encoded: {e}"));
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let end = offset + 4 * tensor.shape.iter().product::<usize>();
        let info = TensorInfo { dtype: Dtype::F32, shape: tensor.shape.clone(), data_offsets: (offset, end) };
        infos.push((name.clone(), info));
        offset = end;
    }
    let metadata = Metadata::new(None, infos).map_err(|e| encoding(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| encoding(&e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes).map_err(|e| Error::io("write", path, e))
    };
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    for tensor in tensors.values() {
        for piece in tensor.read()?.chunks(PIECE) {
            let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
            put(&bytes)?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Reads every tensor, and the BLAKE3 of the file.
///
/// # Errors
/// When the file cannot be read, is no safetensors file, or holds other numbers than F32.
pub(super) fn read(path: &Path) -> Result<(BTreeMap<String, HostTensor>, String)> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut hasher = blake3::Hasher::new();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let metadata = header(path, &mut file, Some(&mut hasher))?;
    let mut bytes = vec![0; 4 * PIECE];
    let mut tensors = BTreeMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        if info.dtype != Dtype::F32 {
            return Err(Error::format(path, format!("tensor {name}: expected F32, found {:?}", info.dtype)));
        }
        let count = info.shape.iter().product();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            let piece = &mut bytes[..4 * PIECE.min(count - values.len())];
            file.read_exact(piece).map_err(|e| Error::io("read", path, e))?;
            hasher.update(piece);
            values.extend(files::f32s(piece));
        }
        tensors.insert(name, HostTensor { shape: info.shape.clone(), values, trainable: true });
    }
    Ok((tensors, hasher.finalize().to_hex().to_string()))
}

/// The list at the head of a safetensors file, of which every tensor lies within the file; the next byte that is read
/// is the first tensor's.
///
/// # Errors
/// When it is none, or the file's length is another than the list says.
pub(super) fn header(
    path: &Path,
    file: &mut BufReader<File>,
    mut hasher: Option<&mut blake3::Hasher>,
) -> Result<Metadata> {
    let size = file.get_ref().metadata().map_err(|e| Error::io("read", path, e))?.len();
    let wrong = |detail: String| Error::format(path, format!("not a safetensors file: {detail}"));
    let mut read = |length: u64| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.by_ref().take(length).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
        if (bytes.len() as u64) < length {
            return Err(wrong(format!("it ends after {size} bytes, within its list of tensors")));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        Ok(bytes)
    };
    let length = read(8)?.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
    if length > LONGEST_HEADER {
        return Err(wrong(format!("its list of tensors would take {length} bytes")));
    }
    let metadata: Metadata = serde_json::from_slice(&read(length)?).map_err(|e| wrong(e.to_string()))?;
    let expected = metadata.data_len() as u64;
    match size.checked_sub(8 + length) {
        Some(found) if found == expected => Ok(metadata),
        found => {
            let found = found.unwrap_or(0);
            Err(wrong(format!("expected {expected} bytes of tensors, found {found}; copy the file again")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Model, parameters, presets};
    use burn::tensor::Device;
    use safetensors::tensor::TensorView;

    /// The bytes of `safetensors::serialize`, and back.
    #[test]
    fn the_file_is_a_plain_safetensors_file() {
        let config = presets::find("deepspeech2-nano").unwrap().with_width(0.25).unwrap();
        let model = Model::new(config, 3, &Device::flex()).unwrap();
        let handles = parameters::handles(&model.network);
        let mut bytes = Vec::new();
        let hash = write(Path::new("w"), &handles, &mut bytes).unwrap();
        let exported = parameters::export(&model.network).unwrap();
        let raw: BTreeMap<&String, Vec<u8>> = exported
            .iter()
            .map(|(n, t)| (n, t.values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = exported.iter().map(|(name, tensor)| {
            (name, TensorView::new(Dtype::F32, tensor.shape.clone(), &raw[name]).unwrap())
        });
        assert!(safetensors::serialize(views, None).unwrap() == bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let (tensors, found) = read(file.path()).unwrap();
        assert_eq!((&hash, found), (&blake3::hash(&bytes).to_hex().to_string(), hash.clone()));
        assert_eq!(tensors.len(), exported.len());
        for (name, tensor) in &tensors {
            assert!(tensor.values == exported[name].values && tensor.shape == exported[name].shape, "{name}");
        }
        for (cut, word) in [(bytes.len() - 4, "found"), (100, "list of tensors"), (3, "list of tensors")] {
            std::fs::write(file.path(), &bytes[..cut]).unwrap();
            let error = read(file.path()).unwrap_err().to_string();
            assert!(error.contains("not a safetensors file") && error.contains(word), "{error}");
        }
        std::fs::write(file.path(), [&[0xff; 8][..], &bytes].concat()).unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("would take"));
    }
}
