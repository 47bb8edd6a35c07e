//! Objects in S3-compatible buckets, read through `object_store`; async ends here.
//!
//! [`bucket`] knows a bucket and its credentials, [`request`] asks and waits for a server that is gone,
//! [`fault`] says what an answer means, [`object`] gives ranges of one version of an object, and [`disk`] keeps
//! what was fetched, up to a bound.

mod address;
mod bucket;
mod disk;
mod fault;
mod object;
mod request;
mod slot;
mod traffic;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::ObjectStore;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use self::address::Address;
use self::bucket::Bucket;
use self::disk::Disk;
pub use self::object::{Held, Object};
pub use self::traffic::traffic;
use super::settings::Settings;
use crate::error::{Error, Result};

/// Threads that drive requests; they hardly compute.
const THREADS: usize = 2;
/// Requests at a time.
const AT_A_TIME: usize = 32;

/// What all objects of a process share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    runtime: Runtime,
    places: Arc<Semaphore>,
    disk: Arc<Disk>,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
    objects: Mutex<HashMap<String, Object>>,
}

/// Made at first use, and kept until the process ends.
fn shared() -> Result<&'static Shared> {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    if let Some(shared) = SHARED.get() {
        return Ok(shared);
    }
    let settings = Settings::from_environment()?;
    // Where another part of the program has chosen already, its choice is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("remote")
        .enable_all()
        .build()
        .map_err(|e| Error::invalid(format!("cannot start threads to read buckets: {e}")))?;
    let disk = Arc::new(Disk::open(&settings.directory, settings.bytes));
    let shared = Shared {
        settings,
        runtime,
        places: Arc::new(Semaphore::new(AT_A_TIME)),
        disk,
        buckets: Mutex::default(),
        objects: Mutex::default(),
    };
    Ok(SHARED.get_or_init(|| shared))
}

impl Shared {
    fn bucket(&self, name: &str) -> Result<Arc<Bucket>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(Arc::clone(bucket));
        }
        let bucket = Arc::new(Bucket::open(name, &self.settings, &self.places)?);
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }
}

/// The object at `path`, in the version that the process met first.
///
/// # Errors
/// When there is none, or its bucket cannot be read.
pub fn open(path: &Path) -> Result<Object> {
    let shared = shared()?;
    let address = Address::parse(path)?;
    let known = |address: &Address| {
        shared.objects.lock().unwrap_or_else(PoisonError::into_inner).get(&address.url).cloned()
    };
    if let Some(object) = known(&address) {
        return Ok(object);
    }
    let object = Object::find(&address, shared.bucket(&address.bucket)?, shared)?;
    let mut objects = shared.objects.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(objects.entry(address.url).or_insert(object).clone())
}

/// Names of the objects directly below `path`.
///
/// # Errors
/// When the bucket does not let them be listed.
pub fn names(path: &Path) -> Result<Vec<String>> {
    let shared = shared()?;
    let address = Address::parse(path)?;
    let bucket = shared.bucket(&address.bucket)?;
    let key = address.key.clone();
    let asked = Arc::clone(&bucket);
    let list = move || {
        let (bucket, key) = (Arc::clone(&asked), key.clone());
        async move { bucket.store.list_with_delimiter(Some(&key)).await }
    };
    let listed = shared
        .runtime
        .block_on(request::persist(&bucket, list))
        .map_err(|fault| fault.error("list", path))?;
    Ok(listed.objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
}
