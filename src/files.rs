//! Files that are whole or absent: temporary file in the same directory, sync, rename, sync.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store;

mod lock;
mod place;

pub use lock::DirectoryLock;
pub use place::{kind_of, require_apart, require_own};

/// Last line of a sealed text file: the BLAKE3 of every byte before it.
const SEAL: &str = "# blake3 ";

/// Creates a directory and its parents.
///
/// # Errors
/// With the path, when the system refuses, or when it lies in a bucket.
pub fn create_dir(path: &Path) -> Result<()> {
    store::require_local(path)?;
    std::fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, e))
}

/// Reads a whole file, or an object in a bucket.
///
/// # Errors
/// With the path, when the system refuses.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    if store::is_remote(path) {
        return store::read(path);
    }
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// Reads a whole UTF-8 file, or an object in a bucket.
///
/// # Errors
/// With the path, when the system refuses or the text is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    if store::is_remote(path) {
        let not_text = |_| Error::format(path, "expected UTF-8, found other bytes");
        return String::from_utf8(store::read(path)?).map_err(not_text);
    }
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// A file being written that appears under its name only when [`Pending::commit`] succeeds.
#[derive(Debug)]
pub struct Pending {
    temporary: tempfile::NamedTempFile,
    target: PathBuf,
}

/// Prefix of temporary files; [`sweep`] removes those that a killed process left behind.
pub const TEMPORARY: &str = ".tutornet-tmp-";

impl Pending {
    /// Opens a temporary file beside `target`.
    ///
    /// # Errors
    /// When the directory does not take a new file, or `target` is something other than a file:
    /// the rename would replace a device such as `/dev/null` by a file.
    pub fn create(target: &Path) -> Result<Self> {
        store::require_local(target)?;
        if std::fs::metadata(target).is_ok_and(|m| !m.is_file()) {
            return Err(Error::format(target, "expected a file or a free name, found a directory or device"));
        }
        let directory = parent(target);
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(directory)
            .map_err(|e| Error::io("create a file in", directory, e))?;
        Ok(Self { temporary, target: target.to_path_buf() })
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Syncs the bytes, gives the file its name and syncs the directory.
    ///
    /// # Errors
    /// When the disk is full or the system refuses; nothing then lies under the target's name.
    pub fn commit(self) -> Result<()> {
        self.temporary.as_file().sync_all().map_err(|e| Error::io("write", &self.target, e))?;
        self.temporary.persist(&self.target).map_err(|e| Error::io("rename to", &self.target, e.error))?;
        sync_directory_of(&self.target)
    }

    /// The same, but a name that is taken stays as it is: `false`. Of several processes, also on several machines, one
    /// gets the name.
    ///
    /// # Errors
    /// As for [`Pending::commit`].
    pub fn commit_new(self) -> Result<bool> {
        self.temporary.as_file().sync_all().map_err(|e| Error::io("write", &self.target, e))?;
        match self.temporary.persist_noclobber(&self.target) {
            Ok(_) => sync_directory_of(&self.target).map(|()| true),
            Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("rename to", &self.target, e.error)),
        }
    }
}

fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = parent(path);
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", directory, e))
}

/// A directory being filled that appears under its name only when [`PendingDirectory::commit`] succeeds.
#[derive(Debug)]
pub struct PendingDirectory {
    temporary: tempfile::TempDir,
    target: PathBuf,
}

impl PendingDirectory {
    /// Makes a temporary directory beside `target`.
    ///
    /// # Errors
    /// When the directory above does not take a new one.
    pub fn create(target: &Path) -> Result<Self> {
        let directory = parent(target);
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(directory)
            .map_err(|e| Error::io("create a directory in", directory, e))?;
        Ok(Self { temporary, target: target.to_path_buf() })
    }

    /// Where its files go; they are for the caller to sync.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the directory its name, and syncs it and the one above.
    ///
    /// # Errors
    /// When something lies under that name, or the system refuses.
    pub fn commit(self) -> Result<()> {
        let sync =
            |path: &Path| File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", path, e));
        sync(self.temporary.path())?;
        std::fs::rename(self.temporary.path(), &self.target)
            .map_err(|e| Error::io("rename to", &self.target, e))?;
        // It goes by its own name now.
        let _ = self.temporary.keep();
        sync(parent(&self.target))
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A file's new contents, synced, still to be given its name.
///
/// # Errors
/// See [`Pending`].
pub fn prepare(path: &Path, bytes: &[u8]) -> Result<Pending> {
    let write =
        |out: &mut BufWriter<&mut File>| out.write_all(bytes).map_err(|e| Error::io("write", path, e));
    prepare_with(path, write).map(|(pending, ())| pending)
}

/// A file's new contents as `write` produces them, and what it returns.
///
/// # Errors
/// See [`Pending`]; and those of `write`.
pub fn prepare_with<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<T>,
) -> Result<(Pending, T)> {
    let mut pending = Pending::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, pending.file());
    let result = write(&mut out)?;
    out.flush().map_err(|e| Error::io("write", path, e))?;
    drop(out);
    pending.file().sync_all().map_err(|e| Error::io("write", path, e))?;
    Ok((pending, result))
}

/// Replaces a file's contents atomically.
///
/// # Errors
/// See [`Pending`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    prepare(path, bytes)?.commit()
}

/// Writes a file unless there is one of that name; whether it did. Whoever reads it sees all of it.
///
/// # Errors
/// See [`Pending`].
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    prepare(path, bytes)?.commit_new()
}

/// Removes temporary files and directories that a killed process left in `directory`. Call it under the directory's lock.
///
/// # Errors
/// When the directory cannot be listed.
pub fn sweep(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", directory, e))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// The text with a last line that carries the BLAKE3 of what stands before it.
pub fn seal(text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let body = format!("{text}{end}");
    let hash = blake3::hash(body.as_bytes());
    format!("{body}{SEAL}{hash}\n")
}

/// The little-endian single-precision numbers of some bytes; what is left over at the end is no number.
pub fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Writes a text that carries the BLAKE3 of itself in its last line.
///
/// # Errors
/// See [`Pending`].
pub fn write_sealed(path: &Path, text: &str) -> Result<()> {
    write(path, seal(text).as_bytes())
}

/// Reads a text written by [`write_sealed`] and checks its seal.
///
/// # Errors
/// When the file is missing, has no seal, or its bytes do not match it.
pub fn read_sealed(path: &Path) -> Result<String> {
    let text = read_text(path)?;
    let (body, seal) = text
        .rfind(SEAL)
        .map(|at| text.split_at(at))
        .ok_or_else(|| Error::format(path, "expected a last line `# blake3 HASH`, found none: truncated?"))?;
    let found = blake3::hash(body.as_bytes()).to_hex();
    let expected = seal[SEAL.len()..].strip_suffix('\n').unwrap_or_default();
    if expected != found.as_str() {
        return Err(Error::format(
            path,
            format!(
                "the file was changed after it was sealed: its last line says {expected}, its bytes give {found}"
            ),
        ));
    }
    Ok(body.to_owned())
}

/// Whether a text carries a seal, be it one that does not hold.
///
/// # Errors
/// When the file is missing or no text.
pub fn is_sealed(path: &Path) -> Result<bool> {
    read_text(path).map(|text| text.contains(SEAL))
}

/// Reads a text that may carry a seal, as [`read_sealed`] does when it has one: for files that
/// people may also write themselves.
///
/// # Errors
/// When the file is missing, or has a seal that does not hold.
pub fn read_maybe_sealed(path: &Path) -> Result<String> {
    let text = read_text(path)?;
    if text.contains(SEAL) { read_sealed(path) } else { Ok(text) }
}

/// BLAKE3 of a file, or of an object in a bucket, as 64 hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn blake3_file(path: &Path) -> Result<String> {
    if store::is_remote(path) {
        return Ok(store::blake3(path)?.to_hex().to_string());
    }
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    // In blocks of 64 KiB: fewer, and the hash cannot use the width of the processor.
    hasher.update_reader(file).map_err(|e| Error::io("read", path, e))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Removes a file; one that is not there need not be.
///
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        // A disk that takes no writing says so of files as well that are not there.
        Err(e) if path.try_exists().unwrap_or(true) => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Bytes of a file, or of an object in a bucket; `None` when it is not there.
///
/// # Errors
/// When the system refuses for another reason.
pub fn size(path: &Path) -> Result<Option<u64>> {
    if store::is_remote(path) {
        return store::size(path);
    }
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// Says how a file's BLAKE3 differs from `expected`, if it does.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_difference(path: &Path, expected: &str) -> Result<Option<String>> {
    let found = blake3_file(path)?;
    Ok((found != expected).then(|| format!("expected BLAKE3 {expected}, found {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_directories_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
        for target in [device.as_path(), dir.path()] {
            let message = write(target, b"text").unwrap_err().to_string();
            assert!(message.contains("found a directory or device"), "{message}");
        }
        assert!(device.is_symlink());
    }

    #[test]
    fn a_seal_holds_and_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corpus.toml");
        write_sealed(&path, "a = 1").unwrap();
        assert_eq!(read_sealed(&path).unwrap(), "a = 1\n");
        for position in 0..std::fs::read(&path).unwrap().len() {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[position] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(read_sealed(&path).is_err(), "bit flip at {position} went unnoticed");
            bytes[position] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
        }
        std::fs::write(&path, [&std::fs::read(&path).unwrap()[..], b"\n"].concat()).unwrap();
        assert!(read_sealed(&path).is_err(), "an appended line end went unnoticed");
    }

    #[test]
    fn a_dropped_pending_file_leaves_nothing_and_a_lock_excludes() {
        let dir = tempfile::tempdir().unwrap();
        drop(Pending::create(&dir.path().join("x")).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let error = DirectoryLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(DirectoryLock::share(dir.path()).is_err());
        drop(lock);
        DirectoryLock::acquire(dir.path()).unwrap();
        let shared = [DirectoryLock::share(dir.path()).unwrap(), DirectoryLock::share(dir.path()).unwrap()];
        assert!(DirectoryLock::acquire(dir.path()).is_err());
        drop(shared);
        DirectoryLock::acquire(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(".lock")).unwrap(), b"");
    }

    #[test]
    fn a_new_file_takes_no_name_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(write_new(&path, b"one").unwrap() && !write_new(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
