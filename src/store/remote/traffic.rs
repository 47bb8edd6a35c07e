//! What was fetched, counted over the process.

use std::sync::atomic::{AtomicU64, Ordering};

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static FETCHED: AtomicU64 = AtomicU64::new(0);
static RANGES: AtomicU64 = AtomicU64::new(0);
static KEPT: AtomicU64 = AtomicU64::new(0);

/// A request was sent.
pub fn asked() {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// Bytes came from a bucket.
pub fn fetched(bytes: u64) {
    FETCHED.fetch_add(bytes, Ordering::Relaxed);
}

/// A range came from the local copy.
pub fn kept(bytes: u64) {
    RANGES.fetch_add(1, Ordering::Relaxed);
    KEPT.fetch_add(bytes, Ordering::Relaxed);
}

/// All of it in words; `None` when nothing was asked for.
pub fn traffic() -> Option<String> {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let megabytes = |counter| get(counter) as f64 / 1e6;
    (get(&REQUESTS) > 0).then(|| {
        format!(
            "{} requests to buckets for {:.1} MB; {} ranges, {:.1} MB, from the local copy",
            get(&REQUESTS),
            megabytes(&FETCHED),
            get(&RANGES),
            megabytes(&KEPT)
        )
    })
}
