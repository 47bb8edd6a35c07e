//! A file in memory, and what the system is told about it.
//!
//! Shards are read in any order and are together larger than memory. Reading ahead of a fault would bring in neighbours
//! that nobody asked for, so the map is marked as random; what is wanted is named instead, as a whole, before it is touched.
//! What was read is unmapped again as soon as all maps together could hold more than [`RESIDENT`]: it stays in the system's
//! page cache for the next epoch, but does not count as this process's memory. To map a page anew costs about what it costs to
//! check its bytes, so small caches, whose pages come back soon, keep theirs. Naming what is in memory anyway costs a twentieth
//! of reading it: it is done once for as long as pages stay mapped, and again when a read finds that the system took some of them
//! away. Every advice is that: where a system refuses one, reading works as ever.

#[cfg(target_os = "linux")]
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Where the spans begin that were named since all were given back: a word a payload at most.
    named: Mutex<HashSet<usize>>,
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
        Ok(Self(Arc::new(Inner { map, touched: AtomicUsize::new(0), named: Mutex::default() })))
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
        let mut named = self.0.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.insert(span.start) {
            return;
        }
        drop(named);
        #[cfg(unix)]
        let _ = self.0.map.advise_range(memmap2::Advice::WillNeed, span.start, span.len());
    }

    /// Spans are to be named again.
    fn forget_named(&self) {
        self.0.named.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// These bytes were read. Gives the map's pages back when they are more than its share by length; maps that are small
    /// enough together give nothing back.
    pub(super) fn was_read(&self, span: &Range<usize>) {
        if waited() {
            self.forget_named();
        }
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
        self.forget_named();
        // SAFETY: the map is of a file and never written to; a page that another thread still reads comes back from the
        // file with what stood in it.
        #[cfg(unix)]
        let _ = unsafe { self.0.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

/// Whether this thread had to wait for a page to be read since it was asked last: one that had been named was not there, or no
/// longer.
#[cfg(target_os = "linux")]
fn waited() -> bool {
    thread_local! {
        static BEFORE: Cell<libc::c_long> = const { Cell::new(0) };
    }
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is written to; as zeros it is one as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    BEFORE.replace(usage.ru_majflt) != usage.ru_majflt
}

/// Where it is not known, everything is named every time.
#[cfg(not(target_os = "linux"))]
fn waited() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_named_once_until_its_pages_go() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[7; 100_000]).unwrap();
        let map = Mapped::new(&file).unwrap();
        let named = || map.0.named.lock().unwrap().len();
        map.will_need(10..20_000);
        map.will_need(10..20_000);
        map.will_need(20_000..30_000);
        assert_eq!(named(), 2);
        map.give_back();
        assert_eq!(named(), 0);
        assert!(map.as_ref()[10..20_000].iter().all(|&byte| byte == 7));
        map.will_need(10..20_000);
        assert_eq!(named(), 1);
    }
}
