//! SIGINT and SIGTERM ask for an orderly stop; a second one ends the process at once. SIGUSR1, as batch systems send before
//! a time limit, gives notice: what is in hand may still be finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Becomes true when the process was asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    now: Arc<AtomicBool>,
    soon: Arc<AtomicBool>,
}

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGUSR1.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Order matters: the second signal finds the flag already set and ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop.now))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.now)))
                .map_err(|e| Error::invalid(format!("cannot listen for signal {signal}: {e}")))?;
        }
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&stop.soon))
            .map_err(|e| Error::invalid(format!("cannot listen for SIGUSR1: {e}")))?;
        // A file-size limit (`ulimit -f`) then is an error of the write, as a full disk is.
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
            .map_err(|e| Error::invalid(format!("cannot listen for SIGXFSZ: {e}")))?;
        Ok(stop)
    }

    /// Whether a stop was asked for, at once or by notice.
    pub fn requested(&self) -> bool {
        self.at_once() || self.noticed()
    }

    /// Whether a stop was asked for that does not wait for what is in hand.
    pub fn at_once(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether notice was given: the work is to go on in another process.
    pub fn noticed(&self) -> bool {
        self.soon.load(Ordering::Relaxed)
    }
}
