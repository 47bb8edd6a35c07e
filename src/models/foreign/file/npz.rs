//! Arrays of an `.npz`: a zip archive, stored or deflated, of one `.npy` for each name.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use zip::ZipArchive;

use super::npy::Header;
use super::{Float, Found, Kind, Stored};
use crate::error::{Error, Result};
use crate::models::foreign::axes;

type Archive = Rc<RefCell<ZipArchive<BufReader<File>>>>;

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    ZipArchive::new(BufReader::new(file)).map_err(|e| {
        Error::format(path, format!("not a whole zip archive ({e}): truncated? copy the file again"))
    })
}

/// PyTorch's checkpoints are zip archives, too: tells them apart.
///
/// # Errors
/// When it is neither.
pub(super) fn or_torch(path: &Path) -> Result<Kind> {
    let archive = archive(path)?;
    let names: Vec<String> = archive.file_names().flatten().map(std::borrow::Cow::into_owned).collect();
    if names.iter().any(|name| name == "data.pkl" || name.ends_with("/data.pkl")) {
        return Ok(Kind::Torch);
    }
    if names.iter().any(|name| name.ends_with(".npy")) {
        return Ok(Kind::Npz);
    }
    let found = names.first().map_or("nothing".to_owned(), |first| format!("{first} ..."));
    Err(Error::format(path, format!("a zip archive of neither PyTorch nor NumPy: it holds {found}")))
}

/// Every array by its name.
///
/// # Errors
/// When the archive or the head of an array is damaged.
pub(super) fn open(path: &Path) -> Result<Found> {
    let archive: Archive = Rc::new(RefCell::new(archive(path)?));
    let count = archive.borrow().len();
    let mut found = Found::new();
    for index in 0..count {
        let (name, header) = {
            let mut archive = archive.borrow_mut();
            let unreadable = |e: zip::result::ZipError| Error::format(path, format!("entry {index}: {e}"));
            let mut entry = archive.by_index(index).map_err(unreadable)?;
            let name = entry.name().map_err(unreadable)?.into_owned();
            let wrong = |detail: String| Error::format(path, format!("{name}: {detail}"));
            let header = Header::read(&mut entry).map_err(wrong)?;
            if let Some((float, _)) = header.float() {
                let expected = header.count().and_then(|n| n.checked_mul(float.size()));
                let found = usize::try_from(entry.size()).ok().and_then(|n| n.checked_sub(header.length));
                if expected.is_none() || expected != found {
                    let found = found.unwrap_or(0);
                    let shape = &header.shape;
                    return Err(wrong(format!("{found} bytes are not an array {shape:?} {}", header.descr)));
                }
            }
            (name.strip_suffix(".npy").unwrap_or(&name).to_owned(), header)
        };
        let read = header.float().map(|(float, reversed)| {
            let array = Array {
                archive: Rc::clone(&archive),
                path: path.to_path_buf(),
                index,
                header: header.clone(),
            };
            Box::new(move || array.read(float, reversed)) as Box<dyn Fn() -> Result<Vec<f32>>>
        });
        found.insert(name, Stored { shape: header.shape, kind: header.descr, read });
    }
    Ok(found)
}

/// One array, still in the archive.
struct Array {
    archive: Archive,
    path: PathBuf,
    index: usize,
    header: Header,
}

impl Array {
    fn read(&self, float: Float, reversed: bool) -> Result<Vec<f32>> {
        let Header { length, shape, fortran, .. } = &self.header;
        let wrong =
            |e: &dyn std::fmt::Display| Error::format(&self.path, format!("entry {}: {e}", self.index));
        let mut archive = self.archive.borrow_mut();
        let mut entry = archive.by_index(self.index).map_err(|e| wrong(&e))?;
        // One byte more than there may be: the checksum is compared where the entry ends.
        let mut bytes = Vec::new();
        let most = entry.size().saturating_add(1);
        entry.by_ref().take(most).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
        let values = bytes.get_mut(*length..).unwrap_or_default();
        if reversed {
            values.chunks_exact_mut(float.size()).for_each(<[u8]>::reverse);
        }
        let values = float.decode(values);
        drop(bytes);
        if values.len() != shape.iter().product::<usize>() {
            return Err(wrong(&format!("{} values are not an array {shape:?}", values.len())));
        }
        if !fortran || shape.len() < 2 {
            return Ok(values);
        }
        // First dimension fastest: the array of the reversed shape, whose axes are turned round.
        let turned: Vec<usize> = shape.iter().rev().copied().collect();
        let order: Vec<usize> = (0..shape.len()).rev().collect();
        Ok(axes::permuted(&values, &turned, &order))
    }
}
