//! A range of bytes that somebody fetches and others wait for.

use std::sync::{Condvar, Mutex, PoisonError};

use bytes::Bytes;

use super::fault::Fault;

/// Empty until it is filled, once.
#[derive(Debug, Default)]
pub struct Slot {
    outcome: Mutex<Option<Result<Bytes, Fault>>>,
    filled: Condvar,
}

impl Slot {
    /// Waits until it is filled.
    pub fn wait(&self) -> Result<Bytes, Fault> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*outcome {
                Some(outcome) => return outcome.clone(),
                None => outcome = self.filled.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Fills it; what it was filled with first stays.
    pub fn fill(&self, with: Result<Bytes, Fault>) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(with);
        self.filled.notify_all();
    }

    /// Whether it was filled with an error, so that a new one is worth a try.
    pub fn failed(&self) -> bool {
        matches!(&*self.outcome.lock().unwrap_or_else(PoisonError::into_inner), Some(Err(_)))
    }
}
