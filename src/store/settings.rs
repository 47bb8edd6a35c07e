//! How buckets are read: where the local copy lies, how large it may become, how long a server is waited for.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::signal::Stop;

/// Directory of the local copy.
const DIRECTORY: &str = "TUTORNET_REMOTE_CACHE";
/// Its size in megabytes.
const MEGABYTES: &str = "TUTORNET_REMOTE_CACHE_MB";
/// Seconds that a server that does not answer is waited for.
const WAIT: &str = "TUTORNET_REMOTE_WAIT";

/// Size of the local copy where nothing else is said.
const DEFAULT_MEGABYTES: u64 = 10_000;
/// Seconds that are waited where nothing else is said.
const DEFAULT_WAIT: u64 = 300;

static STOP: OnceLock<Stop> = OnceLock::new();

/// Lets reads from buckets end when `stop` is requested; without, a server that does not answer is waited for
/// whatever happens. The first call counts.
pub fn heed(stop: &Stop) {
    let _ = STOP.set(stop.clone());
}

/// How buckets are read; none of it changes what is read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the local copy.
    pub directory: PathBuf,
    /// Bytes that the local copy may take; 0 for no copy.
    pub bytes: u64,
    /// How long a server that answered before and does not now is waited for.
    pub wait: Duration,
    /// Ends all waiting.
    pub stop: Stop,
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// When a variable holds no number.
    pub fn from_environment() -> Result<Self> {
        let directory = std::env::var_os(DIRECTORY)
            .filter(|value| !value.is_empty())
            .map_or_else(default_directory, PathBuf::from);
        Ok(Self {
            directory,
            bytes: number(MEGABYTES, DEFAULT_MEGABYTES)?.saturating_mul(1_000_000),
            wait: Duration::from_secs(number(WAIT, DEFAULT_WAIT)?),
            stop: STOP.get().cloned().unwrap_or_default(),
        })
    }
}

fn number(name: &str, default: u64) -> Result<u64> {
    let Some(value) = std::env::var_os(name) else { return Ok(default) };
    let text = value.to_string_lossy();
    text.trim()
        .parse()
        .map_err(|_| Error::invalid(format!("{name}: expected a whole number, found {text:?}")))
}

/// `tutornet` in the user's directory for what can be fetched again.
fn default_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("tutornet")
}
