//! A file in memory, and what the system is told about it.
//!
//! Shards are read in any order and are together larger than memory. Reading ahead of a fault would bring in neighbours
//! that nobody asked for, so the map is marked as random; what is wanted is named instead, as a whole, before it is touched.
//! What was read is unmapped again: it stays in the system's page cache for the next epoch, but does not count as this
//! process's memory. Every advice is that: where a system refuses one, reading works as ever.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A whole file, mapped for reading. Clones share the map.
#[derive(Debug, Clone)]
pub(super) struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: shards are complete files that this program replaces by rename, never in place;
        // a foreign program that truncates one while it is mapped raises SIGBUS, as for any map.
        unsafe { Mmap::map(file) }.map(|map| Self(Arc::new(map)))
    }

    /// The file's bytes.
    pub(super) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// No reading ahead from here on.
    pub(super) fn expect_random(&self) {
        #[cfg(unix)]
        let _ = self.0.advise(memmap2::Advice::Random);
    }

    /// These bytes will be read soon.
    pub(super) fn will_need(&self, span: Range<usize>) {
        #[cfg(unix)]
        let _ = self.0.advise_range(memmap2::Advice::WillNeed, span.start, span.len());
        #[cfg(not(unix))]
        let _ = span;
    }

    /// These bytes were read: their pages leave the process, not the page cache.
    pub(super) fn give_back(&self, span: Range<usize>) {
        // SAFETY: the map is of a file and never written to; a page that another thread still reads comes back from the
        // file with what stood in it.
        #[cfg(unix)]
        let _ = unsafe {
            self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, span.start, span.len())
        };
        #[cfg(not(unix))]
        let _ = span;
    }
}
