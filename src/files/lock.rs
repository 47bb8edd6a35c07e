//! Locks on directories.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A lock on a directory, held until dropped (or until the process dies).
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
    exclusive: bool,
}

impl Drop for DirectoryLock {
    /// Leaves an empty file: two directories with the same contents then have the same bytes.
    fn drop(&mut self) {
        if self.exclusive {
            // The holder's number is of no use any more, and nothing depends on its going.
            let _ = self.file.set_len(0);
        }
    }
}

impl DirectoryLock {
    /// Locks `directory` through the file `.lock` in it, for this process alone.
    ///
    /// # Errors
    /// When another process holds it; the message names that process.
    pub fn acquire(directory: &Path) -> Result<Self> {
        let (path, mut file) = Self::open(directory)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(held(directory, &path)),
            Err(std::fs::TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        file.set_len(0)
            .and_then(|()| write!(file, "process {}", std::process::id()))
            .map_err(|e| Error::io("write", &path, e))?;
        Ok(Self { file, exclusive: true })
    }

    /// Locks `directory` together with others that do the same, against whoever wants it alone. A file system
    /// without locks is no obstacle.
    ///
    /// # Errors
    /// When a process has it alone; the message names that process.
    pub fn share(directory: &Path) -> Result<Self> {
        let (path, file) = Self::open(directory)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(held(directory, &path)),
            Err(std::fs::TryLockError::Error(e)) => {
                tracing::debug!("{}: {e}; going on without a lock", path.display());
            }
        }
        Ok(Self { file, exclusive: false })
    }

    fn open(directory: &Path) -> Result<(PathBuf, File)> {
        let path = directory.join(".lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        file.map_err(|e| Error::io("open", &path, e)).map(|file| (path, file))
    }
}

fn held(directory: &Path, path: &Path) -> Error {
    let holder = std::fs::read_to_string(path).unwrap_or_default();
    Error::invalid(format!(
        "{} is being written by another process ({}); wait for it or stop it",
        directory.display(),
        if holder.trim().is_empty() { "unknown" } else { holder.trim() }
    ))
}
