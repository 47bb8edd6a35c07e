//! Files that hold tensors under names: of what kind one is, and its tensors, whose values are read one tensor at a time.

mod npy;
mod npz;
mod safetensors;
pub(super) mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::files;

/// A tensor of a file, still in it.
pub(super) struct Stored {
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Type of its elements, as the file calls it.
    pub kind: String,
    /// `None` when its elements are no floating-point numbers.
    read: Option<Box<dyn Fn() -> Result<Vec<f32>>>>,
}

impl Stored {
    /// Whether it holds floating-point numbers; what does not is a counter, or no tensor.
    pub fn is_float(&self) -> bool {
        self.read.is_some()
    }

    /// Its values, last dimension fastest.
    ///
    /// # Errors
    /// When they are no floating-point numbers, or cannot be read.
    pub fn read(&self) -> Result<Vec<f32>> {
        match &self.read {
            Some(read) => read(),
            None => Err(Error::invalid(format!("expected floating point values, found {}", self.kind))),
        }
    }
}

/// The tensors of a file by their names.
pub(super) type Found = BTreeMap<String, Stored>;

/// A floating-point number in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl Float {
    /// Bytes of one.
    fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Little-endian values as f32.
    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Self::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Self::F32 => files::f32s(bytes).collect(),
            Self::F64 => {
                let word = |b: &[u8]| [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
                #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
                let narrow = |b: &[u8]| f64::from_le_bytes(word(b)) as f32;
                bytes.chunks_exact(8).map(narrow).collect()
            }
        }
    }
}

/// What a file is, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tar archive, plain or gzip: a `.nemo` file.
    Archive,
    /// What `torch.save` wrote.
    Torch,
    /// NumPy arrays in a zip archive.
    Npz,
    /// See [safetensors](https://github.com/huggingface/safetensors).
    Safetensors,
}

/// What tutornet imports, for errors.
const KNOWN: &str = "expected a .nemo file, or weights as .pt, .npz or .safetensors";
/// How a TensorFlow checkpoint gets here.
const CONVERT: &str = "tools/tf_to_npz.py, run once where TensorFlow is installed, turns it into an .npz";

/// Tells what `path` is.
///
/// # Errors
/// When it cannot be opened, or is nothing that can be imported; the error says what it seems to be.
pub(super) fn kind(path: &Path) -> Result<Kind> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let tensorflow = || Error::format(path, format!("a TensorFlow checkpoint: {CONVERT}"));
    if path.is_dir() {
        return Err(Error::format(path, format!("a directory; {KNOWN}")));
    }
    let mut index = path.as_os_str().to_owned();
    index.push(".index");
    if !path.exists() && Path::new(&index).is_file() {
        return Err(tensorflow());
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(512).read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
    if name.ends_with(".index") || name.ends_with(".meta") || name.contains(".data-0") {
        return Err(tensorflow());
    }
    if head.starts_with(b"\x89HDF") {
        let hint = "write its arrays into an .npz with h5py and numpy.savez";
        return Err(Error::format(path, format!("an HDF5 file, which is not read: {hint}")));
    }
    if head.starts_with(b"\x93NUMPY") {
        return Err(Error::format(path, "one NumPy array; a network's arrays come together in an .npz"));
    }
    if head.starts_with(&[0x1f, 0x8b]) || head.get(257..262) == Some(b"ustar") {
        return Ok(Kind::Archive);
    }
    if head.starts_with(b"PK") {
        return npz::or_torch(path);
    }
    let length = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    if length.is_some_and(|length| length < 1 << 32) && head.get(8) == Some(&b'{') {
        return Ok(Kind::Safetensors);
    }
    // The protocol of a pickle: what torch.save wrote before 1.6.
    if head.first() == Some(&0x80) {
        return Ok(Kind::Torch);
    }
    // A damaged file is told what is wrong in it.
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("nemo") => Ok(Kind::Archive),
        Some("safetensors") => Ok(Kind::Safetensors),
        Some("npz") => Ok(Kind::Npz),
        Some("pt" | "pth" | "ckpt") => Ok(Kind::Torch),
        _ => Err(Error::format(path, format!("no checkpoint that tutornet knows: {KNOWN}"))),
    }
}

/// The tensors of a file of weights, and the key of the dictionary that holds them, where there is one.
///
/// # Errors
/// When the file is damaged, or no file of weights.
pub(super) fn open(
    path: &Path,
    kind: Kind,
    state: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<(Found, Option<String>)> {
    let only_torch = || {
        let detail = "--state-dict goes with what torch.save wrote; this file has no dictionaries in it";
        Err(Error::format(path, detail))
    };
    match (kind, state) {
        (Kind::Torch, state) => {
            let located = |e: Error| Error::format(path, e.to_string());
            torch::open(path, "the state dictionary", state, notes).map_err(located)
        }
        (_, Some(_)) => only_torch(),
        (Kind::Npz, None) => Ok((npz::open(path)?, None)),
        (Kind::Safetensors, None) => Ok((safetensors::open(path)?, None)),
        (Kind::Archive, None) => {
            Err(Error::format(path, "a .nemo file says itself what network it is of; leave --like out"))
        }
    }
}
