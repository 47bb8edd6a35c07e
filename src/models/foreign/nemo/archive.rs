//! The tar around a NeMo model.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

const CONFIG: &str = "model_config.yaml";
const WEIGHTS: &str = "model_weights.ckpt";
/// No model's settings come near this.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The two members that make a model.
pub struct Archive {
    /// The text of `model_config.yaml`.
    pub config: String,
    /// `model_weights.ckpt`, in a temporary file: its reader needs to seek.
    pub weights: NamedTempFile,
}

/// Unpacks the archive, plain or gzip.
///
/// # Errors
/// When it is no tar, is truncated, or lacks one of the two members.
pub fn open(path: &Path) -> Result<Archive> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut magic = Vec::new();
    let rewound = file.by_ref().take(2).read_to_end(&mut magic).and_then(|_| file.seek(SeekFrom::Start(0)));
    rewound.map_err(|e| Error::io("read", path, e))?;
    let file = BufReader::new(file);
    if magic == [0x1f, 0x8b] { unpack(path, MultiGzDecoder::new(file)) } else { unpack(path, file) }
}

fn unpack(path: &Path, reader: impl Read) -> Result<Archive> {
    let broken = |e: std::io::Error| {
        Error::format(
            path,
            format!("not a whole tar archive, plain or gzip ({e}): truncated, or no .nemo file?"),
        )
    };
    let mut config = None;
    let mut weights = None;
    let mut members = Vec::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().trim_start_matches("./").to_owned();
        let size = entry.size();
        let short = |found: u64| {
            Error::format(
                path,
                format!("{name} is truncated: expected {size} bytes, found {found}; copy the file again"),
            )
        };
        match name.as_str() {
            CONFIG => {
                if size > LARGEST_CONFIG {
                    return Err(Error::format(
                        path,
                        format!("{CONFIG}: {size} bytes are no model's settings"),
                    ));
                }
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(broken)?;
                if (text.len() as u64) < size {
                    return Err(short(text.len() as u64));
                }
                config = Some(text);
            }
            WEIGHTS => {
                let mut copy =
                    NamedTempFile::new().map_err(|e| Error::io("create", std::env::temp_dir(), e))?;
                let written = std::io::copy(&mut entry, &mut copy).map_err(broken)?;
                if written < size {
                    return Err(short(written));
                }
                weights = Some(copy);
            }
            _ => {}
        }
        members.push(name);
    }
    let missing = |name: &str| {
        let found = if members.is_empty() { "nothing".to_owned() } else { members.join(", ") };
        Error::format(
            path,
            format!("there is no {name} in the archive (found: {found}); is it a .nemo file?"),
        )
    };
    Ok(Archive {
        config: config.ok_or_else(|| missing(CONFIG))?,
        weights: weights.ok_or_else(|| missing(WEIGHTS))?,
    })
}
