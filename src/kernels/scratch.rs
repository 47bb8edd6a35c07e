//! Memory for copies that live as long as one kernel, kept for the next one.
//!
//! A fresh buffer of some MiB comes from the system page by page, which costs as much as padding a
//! batch does; on a 2-D convolution of DeepSpeech2 it was an eighth of the time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers that are kept at most.
const KEPT: usize = 3;

static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Values with whatever an earlier kernel left in them; goes back when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    values: Vec<f32>,
    count: usize,
}

impl Scratch {
    /// `count` values.
    pub(super) fn new(count: usize) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, and no giant for a small need.
        let fits = |values: &Vec<f32>| (count..=4 * count).contains(&values.len());
        let best = (0..spare.len()).filter(|&i| fits(&spare[i])).min_by_key(|&i| spare[i].len());
        let values = best.map(|i| spare.swap_remove(i));
        drop(spare);
        Self { values: values.unwrap_or_else(|| vec![0.0; count]), count }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(std::mem::take(&mut self.values));
        if spare.len() > KEPT {
            // The oldest is the least likely to be needed again.
            spare.remove(0);
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.count]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for() {
        for count in [0, 5, 1000, 300, 7] {
            let mut scratch = Scratch::new(count);
            assert_eq!(scratch.len(), count);
            scratch.fill(1.0);
        }
    }
}
