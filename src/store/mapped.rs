//! A file in memory, and what the system is told about it.
//!
//! Shards are read in any order and are together larger than memory. Reading ahead of a fault would bring in neighbours
//! that nobody asked for, so the map is marked as random; what is wanted is named instead, as a whole, before it is touched.
//! What was read is unmapped again as soon as all maps together could hold more than [`RESIDENT`]: it stays in the system's
//! page cache for the next epoch, but does not count as this process's memory. To map a page anew costs about what it costs to
//! check its bytes, so small caches, whose pages come back soon, keep theirs. Every advice is that: where a system refuses
//! one, reading works as ever.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use memmap2::Mmap;

/// Bytes of files that this process keeps mapped at most, about: half a gibibyte.
const RESIDENT: usize = 512 << 20;
/// The system maps neighbours with a page that is touched, as far as the next multiple of this.
const AROUND: usize = 64 << 10;

/// Length of all maps that share [`RESIDENT`].
static ALL: AtomicUsize = AtomicUsize::new(0);

/// A whole file, mapped for reading. Clones share the map.
#[derive(Debug, Clone)]
pub struct Mapped(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    map: Mmap,
    /// Bytes that may have been mapped since all were given back.
    touched: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        ALL.fetch_sub(self.map.len(), Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl Mapped {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: shards are complete files that this program replaces by rename, never in place;
        // a foreign program that truncates one while it is mapped raises SIGBUS, as for any map.
        let map = unsafe { Mmap::map(file) }?;
        ALL.fetch_add(map.len(), Ordering::Relaxed);
        Ok(Self(Arc::new(Inner { map, touched: AtomicUsize::new(0) })))
    }

    /// The file's bytes.
    pub(super) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// No reading ahead from here on.
    pub(super) fn expect_random(&self) {
        #[cfg(unix)]
        let _ = self.0.map.advise(memmap2::Advice::Random);
    }

    /// These bytes will be read soon.
    pub(super) fn will_need(&self, span: Range<usize>) {
        #[cfg(unix)]
        let _ = self.0.map.advise_range(memmap2::Advice::WillNeed, span.start, span.len());
        #[cfg(not(unix))]
        let _ = span;
    }

    /// These bytes were read. Gives the map's pages back when they are more than its share by length; maps that are small
    /// enough together give nothing back.
    pub(super) fn was_read(&self, span: &Range<usize>) {
        let all = ALL.load(Ordering::Relaxed);
        if all <= RESIDENT {
            return;
        }
        let mapped = span.end.next_multiple_of(AROUND) - span.start / AROUND * AROUND;
        let touched = self.0.touched.fetch_add(mapped, Ordering::Relaxed) + mapped;
        if touched as u128 * all as u128 > RESIDENT as u128 * self.0.map.len() as u128 {
            self.0.touched.store(0, Ordering::Relaxed);
            self.give_back();
        }
    }

    /// All pages leave the process, not the page cache.
    pub(super) fn give_back(&self) {
        // SAFETY: the map is of a file and never written to; a page that another thread still reads comes back from the
        // file with what stood in it.
        #[cfg(unix)]
        let _ = unsafe { self.0.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}
