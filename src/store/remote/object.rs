//! One version of one object, range by range.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::address::Address;
use super::bucket::Bucket;
use super::fault::Fault;
use super::slot::Slot;
use super::{Shared, request, traffic};
use crate::error::{Error, Result};

/// Fetched with the first request to an object, which also tells its size: a shard's footer is in it, or a small file.
const TAIL: u64 = 64 << 10;
/// Neighbouring ranges are fetched together up to this size, and files are read in pieces of it.
const TOGETHER: u64 = 8 << 20;

/// An object. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Object(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    key: object_store::path::Path,
    bucket: Arc<Bucket>,
    shared: &'static Shared,
    /// The ETag, which every request asks for.
    version: Option<String>,
    size: u64,
    /// Names this version among what the local copy keeps.
    id: String,
    /// The last bytes, until they have been used.
    tail: Mutex<Option<Bytes>>,
    slots: Mutex<HashMap<(u64, u64), Weak<Slot>>>,
}

/// Ranges on their way.
#[derive(Debug)]
pub struct Held(Vec<Arc<Slot>>);

/// Fills its slot, at the latest when it is dropped.
#[derive(Debug)]
struct Promise(Arc<Slot>);

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.fill(Err(Fault::other("the thread that fetched it ended early")));
    }
}

type Wanted = Vec<(Range<u64>, Promise)>;

impl Object {
    /// Asks for an object's version, size and last bytes.
    ///
    /// # Errors
    /// When it is not there, or its bucket cannot be read.
    pub(super) fn find(address: &Address, bucket: Arc<Bucket>, shared: &'static Shared) -> Result<Self> {
        let (key, path) = (address.key.clone(), PathBuf::from(&address.url));
        if key.as_ref().is_empty() {
            return Err(Error::invalid(format!(
                "{}: expected s3://BUCKET/PREFIX, found a bucket alone",
                path.display()
            )));
        }
        let attempt = || async {
            let options = GetOptions { range: Some(GetRange::Suffix(TAIL)), ..GetOptions::default() };
            let answer = bucket.store.get_opts(&key, options).await?;
            bucket.heard();
            let meta = answer.meta.clone();
            Ok((meta, answer.bytes().await?))
        };
        let found = shared.runtime.block_on(request::persist(&bucket, attempt));
        // There are no last bytes of an empty object: some servers refuse, others send what there is.
        let empty = |kind| match kind {
            ErrorKind::UnexpectedEof => true,
            ErrorKind::Unsupported => {
                let size = || async { bucket.store.head(&key).await.map(|meta| meta.size) };
                shared.runtime.block_on(request::persist(&bucket, size)) == Ok(0)
            }
            _ => false,
        };
        let (meta, tail) = match found {
            Ok((meta, tail)) => (Some(meta), tail),
            Err(fault) if empty(fault.kind) => (None, Bytes::new()),
            Err(fault) => return Err(fault.error("read", &path)),
        };
        traffic::fetched(tail.len() as u64);
        let size = meta.as_ref().map_or(0, |meta| meta.size);
        let version = meta.as_ref().and_then(|meta| meta.e_tag.clone());
        let id = identity(&bucket, address, meta.as_ref());
        Ok(Self(Arc::new(Inner {
            path,
            key,
            bucket,
            shared,
            // A weak one does not stand for every byte.
            version: version.filter(|tag| !tag.starts_with("W/")),
            size,
            id,
            tail: Mutex::new(Some(tail)),
            slots: Mutex::default(),
        })))
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.0.size
    }

    /// All bytes.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn read(&self) -> Result<Vec<u8>> {
        let kept = self.within_tail(&(0..self.0.size));
        let bytes = kept.map_or_else(|| self.fetched_now(0..self.0.size), Ok)?;
        Ok(bytes.to_vec())
    }

    /// BLAKE3 of all bytes, past the local copy.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn blake3(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut start = 0;
        while start < self.0.size {
            let end = self.0.size.min(start + TOGETHER);
            let kept = self.within_tail(&(start..end));
            hasher.update(&kept.map_or_else(|| self.fetched_now(start..end), Ok)?);
            start = end;
        }
        Ok(hasher.finalize())
    }

    /// The last `length` bytes, or all.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn tail(&self, length: u64) -> Result<Bytes> {
        let start = self.0.size.saturating_sub(length.max(TAIL));
        let range = start..self.0.size;
        self.within_tail(&range).map_or_else(|| Ok(self.ranges(&[range])?.remove(0)), Ok)
    }

    /// Gives the memory of the last bytes back, unless they are the whole object.
    pub fn settle(&self) {
        if self.0.size > TAIL {
            self.0.tail.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// The bytes of several ranges.
    ///
    /// # Errors
    /// When one cannot be fetched.
    pub fn ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let outside = ranges.iter().find(|range| range.start > range.end || range.end > self.0.size);
        if let Some(range) = outside {
            let detail =
                format!("bytes {} to {} of {}: outside the object", range.start, range.end, self.0.size);
            return Err(Error::format(&self.0.path, detail));
        }
        let Held(slots) = self.start(ranges);
        slots.iter().map(|slot| slot.wait().map_err(|fault| fault.error("read", &self.0.path))).collect()
    }

    /// Begins to fetch ranges, those that nobody fetches yet.
    pub fn start(&self, ranges: &[Range<u64>]) -> Held {
        let (mut held, mut wanted) = (Vec::with_capacity(ranges.len()), Wanted::new());
        let mut slots = self.slots();
        // Slots that nobody waits for any more leave their names behind.
        if slots.len() > 4096 {
            slots.retain(|_, slot| slot.strong_count() > 0);
        }
        for range in ranges {
            let name = (range.start, range.end);
            let under_way = slots.get(&name).and_then(Weak::upgrade).filter(|slot| !slot.failed());
            held.push(under_way.unwrap_or_else(|| {
                let slot = Arc::new(Slot::default());
                slots.insert(name, Arc::downgrade(&slot));
                wanted.push((range.clone(), Promise(Arc::clone(&slot))));
                slot
            }));
        }
        drop(slots);
        wanted.sort_by_key(|(range, _)| range.start);
        for run in runs(wanted) {
            let object = self.clone();
            self.0.shared.runtime.spawn(async move { object.serve(run).await });
        }
        Held(held)
    }

    /// Forgets what was fetched of a range.
    pub fn forget(&self, range: &Range<u64>) {
        self.slots().remove(&(range.start, range.end));
        self.0.tail.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.shared.disk.forget(&self.0.id, range);
    }

    /// Neighbouring ranges: from memory, from the local copy, or from the bucket and then into the local copy.
    async fn serve(self, wanted: Wanted) {
        let ranges: Vec<_> = wanted.iter().map(|(range, _)| range.clone()).collect();
        let object = self.clone();
        let look = move || -> Vec<Option<Bytes>> {
            let kept = |range: &Range<u64>| {
                object.within_tail(range).or_else(|| {
                    let bytes = object.0.shared.disk.read(&object.0.id, range)?;
                    traffic::kept(bytes.len() as u64);
                    Some(bytes)
                })
            };
            ranges.iter().map(kept).collect()
        };
        let kept = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let mut missing = Wanted::new();
        for (number, (range, promise)) in wanted.into_iter().enumerate() {
            match kept.get(number).cloned().flatten() {
                Some(bytes) => promise.0.fill(Ok(bytes)),
                None => missing.push((range, promise)),
            }
        }
        for run in runs(missing) {
            self.fetch(run).await;
        }
    }

    async fn fetch(&self, run: Wanted) {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return };
        let whole = first.start..last.end;
        match self.get(whole.clone()).await {
            Err(fault) => run.iter().for_each(|(_, promise)| promise.0.fill(Err(fault.clone()))),
            Ok(bytes) => {
                let mut parts = Vec::with_capacity(run.len());
                for (range, promise) in run {
                    let at = |place: u64| usize::try_from(place - whole.start).unwrap_or(usize::MAX);
                    // A copy: a part that is kept in memory does not keep its neighbours.
                    let part =
                        Bytes::copy_from_slice(bytes.get(at(range.start)..at(range.end)).unwrap_or_default());
                    promise.0.fill(Ok(part.clone()));
                    parts.push((range, part));
                }
                let object = self.clone();
                let write = move || {
                    for (range, part) in parts {
                        object.0.shared.disk.write(&object.0.id, &range, &part);
                    }
                };
                // What could not be kept is fetched again.
                let _ = tokio::task::spawn_blocking(write).await;
            }
        }
    }

    /// One request for a range of this version.
    async fn get(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let Inner { bucket, key, version, .. } = &*self.0;
        let attempt = || async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                if_match: version.clone(),
                ..GetOptions::default()
            };
            let answer = bucket.store.get_opts(key, options).await?;
            bucket.heard();
            answer.bytes().await
        };
        let bytes = request::persist(bucket, attempt).await?;
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            return Err(Fault::other(format!("expected {expected} bytes, the server sent {}", bytes.len())));
        }
        traffic::fetched(expected);
        Ok(bytes)
    }

    fn fetched_now(&self, range: Range<u64>) -> Result<Bytes> {
        let fetched = self.0.shared.runtime.block_on(self.get(range));
        fetched.map_err(|fault| fault.error("read", &self.0.path))
    }

    /// A range out of the last bytes, where they have it.
    fn within_tail(&self, range: &Range<u64>) -> Option<Bytes> {
        let tail = self.0.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = tail.as_ref()?;
        let first = self.0.size - tail.len() as u64;
        let start = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(first)?).ok()?;
        (start <= end && end <= tail.len()).then(|| tail.slice(start..end))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<(u64, u64), Weak<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Endpoint, place and version of an object in 32 hexadecimal digits.
fn identity(bucket: &Bucket, address: &Address, meta: Option<&ObjectMeta>) -> String {
    let version = meta.map(|meta| match &meta.e_tag {
        Some(tag) => format!("{tag} {}", meta.size),
        None => format!("{} {}", meta.last_modified.timestamp_millis(), meta.size),
    });
    let text = format!("{}\n{}\n{}", bucket.endpoint, address.url, version.unwrap_or_default());
    let mut digits = blake3::hash(text.as_bytes()).to_hex().to_string();
    digits.truncate(32);
    digits
}

/// Sorted ranges in runs of neighbours, each no longer than [`TOGETHER`] unless it is one range.
fn runs(wanted: Wanted) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for (range, promise) in wanted {
        let fits =
            all.last().and_then(|run| run.first().zip(run.last())).is_some_and(|((first, _), (last, _))| {
                last.end == range.start && range.end - first.start <= TOGETHER
            });
        match all.last_mut() {
            Some(run) if fits => run.push((range, promise)),
            _ => all.push(vec![(range, promise)]),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_fetched_together_up_to_a_size() {
        let wanted = |ranges: &[Range<u64>]| -> Wanted {
            ranges.iter().map(|range| (range.clone(), Promise(Arc::default()))).collect()
        };
        let shapes =
            |ranges: &[Range<u64>]| -> Vec<usize> { runs(wanted(ranges)).iter().map(Vec::len).collect() };
        assert_eq!(shapes(&[0..10, 10..20, 20..30, 31..40, 40..50]), [3, 2]);
        assert_eq!(shapes(&[0..TOGETHER, TOGETHER..TOGETHER + 1, TOGETHER + 1..TOGETHER + 2]), [1, 2]);
        assert_eq!(shapes(&[]), [0; 0]);
    }

    #[test]
    fn a_promise_that_is_not_kept_is_an_error_and_not_a_wait_for_ever() {
        let slot = Arc::new(Slot::default());
        drop(Promise(Arc::clone(&slot)));
        assert!(slot.wait().unwrap_err().words.contains("ended early") && slot.failed());
        let slot = Arc::new(Slot::default());
        let promise = Promise(Arc::clone(&slot));
        promise.0.fill(Ok(Bytes::from_static(b"abc")));
        drop(promise);
        assert_eq!(slot.wait().unwrap(), "abc");
    }
}
