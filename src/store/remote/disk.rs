//! What was fetched, kept on the local disk up to a bound; the least recently used goes first.
//!
//! `DIR/blocks/OBJECT/START-LENGTH` holds a range and behind it the xxh3-128 of its place and bytes. Several
//! processes share a directory: what is read is whole or refused, and who writes holds the lock of
//! `DIR/blocks/.lock`, in which the bytes in use are counted. The time at which a file was last changed is the
//! time of its last use.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

/// What a file system gives a file at least; sizes are counted in it.
const UNIT: u64 = 4096;
/// What a file's name takes in its directory at most, as names are here.
const ENTRY: u64 = 64;
/// Bytes behind a range.
const SEAL: usize = 16;
/// A file being written. There is one at a time.
const INCOMING: &str = "incoming";

/// The local copy.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    bound: u64,
    /// Threads of one process; the lock of the file keeps out other processes.
    lock: Mutex<()>,
    /// Whether it was said that nothing can be kept.
    said: AtomicBool,
}

/// A kept range.
#[derive(Debug)]
struct Kept {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

impl Disk {
    /// Keeps ranges below `directory`, `bound` bytes of them at most; none when that is 0.
    pub fn open(directory: &Path, bound: u64) -> Self {
        let root = directory.join("blocks");
        let disk = Self { root, bound, lock: Mutex::default(), said: AtomicBool::default() };
        if bound > 0 {
            // An earlier process may have been given more.
            disk.tell(
                disk.locked(|disk, used| if *used > disk.bound { disk.make_room(0, used) } else { Ok(()) }),
            );
        }
        disk
    }

    /// A range that is kept whole.
    pub fn read(&self, object: &str, range: &Range<u64>) -> Option<Bytes> {
        if self.bound == 0 {
            return None;
        }
        let path = self.path(object, range);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let length = bytes.len().saturating_sub(SEAL);
        let whole = length as u64 == range.end - range.start
            && bytes[length..] == seal(object, range, &bytes[..length]);
        if !whole {
            tracing::warn!("{}: damaged; fetched again", path.display());
            self.forget(object, range);
            return None;
        }
        // Without it the range is only forgotten sooner.
        let _ = file.set_modified(SystemTime::now());
        Some(Bytes::from(bytes).slice(..length))
    }

    /// Keeps a range, if there is room or room can be made.
    pub fn write(&self, object: &str, range: &Range<u64>, bytes: &[u8]) {
        if self.bound > 0 {
            self.tell(self.locked(|disk, used| disk.keep(object, range, bytes, used)));
        }
    }

    /// Removes a range.
    pub fn forget(&self, object: &str, range: &Range<u64>) {
        // Counted as used until somebody counts anew.
        let _ = fs::remove_file(self.path(object, range));
    }

    fn path(&self, object: &str, range: &Range<u64>) -> PathBuf {
        self.root.join(object).join(format!("{}-{}", range.start, range.end - range.start))
    }

    fn keep(&self, object: &str, range: &Range<u64>, bytes: &[u8], used: &mut u64) -> io::Result<()> {
        let path = self.path(object, range);
        let directory = self.root.join(object);
        // With its directory, which may be new.
        let size = in_units(bytes.len() as u64 + SEAL as u64) + ENTRY + UNIT;
        if size > self.bound || path.exists() {
            return Ok(());
        }
        if *used + size > self.bound {
            self.make_room(size, used)?;
            if *used + size > self.bound {
                return Ok(());
            }
        }
        let fresh = !directory.exists();
        let incoming = self.root.join(INCOMING);
        fs::create_dir_all(&directory)?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&incoming)?;
            file.write_all(bytes)?;
            file.write_all(&seal(object, range, bytes))?;
            fs::rename(&incoming, &path)
        };
        // Counted before: who is killed in between has counted too much, which the next count corrects.
        *used += if fresh { size } else { size - UNIT };
        self.count(*used)?;
        write().inspect_err(|_| drop(fs::remove_file(&incoming)))
    }

    /// Removes the least recently used until `size` more fits below nine tenths of the bound, and counts what is left.
    fn make_room(&self, size: u64, used: &mut u64) -> io::Result<()> {
        let mut all = Vec::new();
        // The two directories and the count.
        let mut total = 3 * UNIT;
        let _ = fs::remove_file(self.root.join(INCOMING));
        for object in fs::read_dir(&self.root)? {
            let object = object?;
            if !object.file_type()?.is_dir() {
                continue;
            }
            // One that has held many stays large.
            total += object.metadata()?.len().max(UNIT);
            for entry in fs::read_dir(object.path())? {
                let entry = entry?;
                // Another process may have forgotten it.
                let Ok(metadata) = entry.metadata() else { continue };
                let (used, size) = (metadata.modified()?, in_units(metadata.len()) + ENTRY);
                total += size;
                all.push(Kept { used, size, path: entry.path() });
            }
        }
        all.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        let enough = (self.bound - self.bound / 10).saturating_sub(size);
        for kept in &all {
            if total <= enough {
                break;
            }
            match fs::remove_file(&kept.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            total -= kept.size;
            // Only an empty one goes.
            if kept.path.parent().is_some_and(|directory| fs::remove_dir(directory).is_ok()) {
                total -= UNIT;
            }
        }
        *used = total;
        self.count(total)
    }

    /// Does something while no other thread or process writes; it is given the bytes in use.
    fn locked(&self, work: impl FnOnce(&Self, &mut u64) -> io::Result<()>) -> io::Result<()> {
        let _threads = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.root)?;
        let mut file = self.counter()?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // Without a number everything is counted when it is needed.
        let mut used = text.trim().parse().unwrap_or(u64::MAX / 2);
        work(self, &mut used)
    }

    fn counter(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).read(true).write(true).open(self.root.join(".lock"))
    }

    fn count(&self, used: u64) -> io::Result<()> {
        let mut file = self.counter()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("{used:020}\n").as_bytes())
    }

    /// A disk that does not take anything costs time, not the run.
    fn tell(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome
            && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{}: what is fetched cannot be kept: {error}", self.root.display());
        }
    }
}

fn in_units(size: u64) -> u64 {
    size.next_multiple_of(UNIT)
}

/// xxh3-128 of a range's place and bytes.
fn seal(object: &str, range: &Range<u64>, bytes: &[u8]) -> [u8; SEAL] {
    let mut hasher = Xxh3::with_seed(range.start);
    hasher.update(object.as_bytes());
    hasher.update(bytes);
    hasher.digest128().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_use(directory: &Path) -> u64 {
        let mut total = 0;
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            let (own, within) = (metadata.len(), metadata.is_dir().then(|| in_use(&entry.path())));
            total += within.map_or(in_units(own), |within| own.max(UNIT) + within);
        }
        total
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), 1 << 20);
        let (range, bytes) = (100..1100, vec![7; 1000]);
        assert_eq!(disk.read("a", &range), None);
        disk.write("a", &range, &bytes);
        assert_eq!(disk.read("a", &range).unwrap(), bytes);
        assert_eq!(disk.read("a", &(101..1101)), None);
        assert_eq!(disk.read("b", &range), None);
        let path = disk.path("a", &range);
        let good = fs::read(&path).unwrap();
        for (at, other) in [("a", 101..1101u64), ("b", range.clone())] {
            fs::create_dir_all(dir.path().join("blocks").join(at)).unwrap();
            fs::write(disk.path(at, &other), &good).unwrap();
            assert_eq!(disk.read(at, &other), None, "the bytes of another place");
        }
        for damage in [&good[..500], &[]] {
            fs::write(&path, damage).unwrap();
            assert_eq!(disk.read("a", &range), None);
            assert!(!path.exists());
        }
        for at in [0, 999, 1000, 1015] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(disk.read("a", &range), None, "byte {at}");
            disk.write("a", &range, &bytes);
            assert_eq!(disk.read("a", &range).unwrap(), bytes);
        }
    }

    #[test]
    fn the_bound_holds_and_the_least_recently_used_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bound = 100 * UNIT;
        // Two processes, as far as the disk can tell.
        let disks = [Disk::open(dir.path(), bound), Disk::open(dir.path(), bound)];
        let bytes = vec![1; 8000];
        let range = |number: u64| number * 8000..(number + 1) * 8000;
        for number in 0..200u64 {
            disks[usize::from(number % 2 == 1)].write(
                &format!("object{}", number % 3),
                &range(number),
                &bytes,
            );
            assert!(UNIT + in_use(dir.path()) <= bound, "{number}: {}", in_use(dir.path()));
            // Never long unused.
            assert!(disks[0].read("object0", &range(0)).is_some(), "{number}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(in_use(dir.path()) > bound / 2);
        assert!(
            disks[1].read("object1", &range(1)).is_none() && disks[1].read("object1", &range(199)).is_some()
        );
        // Names take room as well.
        let many = tempfile::tempdir().unwrap();
        let disk = Disk::open(many.path(), 1500 * UNIT);
        for number in 0..3000u64 {
            disk.write("object", &(number * 100..number * 100 + 100), &bytes[..100]);
            if number % 100 == 99 {
                assert!(UNIT + in_use(many.path()) <= 1500 * UNIT, "{number}: {}", in_use(many.path()));
            }
        }
        assert!(in_use(many.path()) > 1000 * UNIT);
        // Too large for the bound, and nothing at all.
        disks[0].write("large", &(0..500_000), &vec![0; 500_000]);
        assert!(disks[0].read("large", &(0..500_000)).is_none());
        let none = Disk::open(&dir.path().join("none"), 0);
        none.write("a", &range(0), &bytes);
        assert!(none.read("a", &range(0)).is_none() && !dir.path().join("none").exists());
        // Another process with less room makes it at once; a count that was lost is made anew.
        fs::write(dir.path().join("blocks/.lock"), "").unwrap();
        fs::write(dir.path().join("blocks").join(INCOMING), vec![0; 50_000]).unwrap();
        drop(Disk::open(dir.path(), 20 * UNIT));
        assert!(UNIT + in_use(dir.path()) <= 20 * UNIT, "{}", in_use(dir.path()));
    }

    #[test]
    fn a_directory_that_takes_nothing_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let disk = Disk::open(&file, 1 << 20);
        disk.write("a", &(0..3), b"abc");
        assert_eq!(disk.read("a", &(0..3)), None);
    }
}
