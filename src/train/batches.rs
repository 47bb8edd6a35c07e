//! The plan of an epoch: which utterances share a batch, and in what order batches come.

use crate::random::Random;

/// Utterances whose length lies in one bucket of this many feature frames (1 s) may share a batch.
const BUCKET_FRAMES: u32 = 100;

/// What a batch may hold; one utterance in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// PADDED feature frames: the longest utterance times their number.
    pub frames: u64,
    /// Utterances.
    pub utterances: usize,
}

/// Positions of the utterances of every batch of an epoch, each batch within `budget`.
///
/// `frames` holds the feature frames of every utterance.
/// Utterances are shuffled, then ordered by length bucket, cut into batches, and the batches
/// shuffled; all of it a function of (`seed`, `stage`, `epoch`).
pub fn plan(frames: &[u32], budget: Budget, seed: u64, stage: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = Random::new(seed, "batches", &[stage, epoch]);
    let mut order: Vec<usize> = (0..frames.len()).collect();
    random.shuffle(&mut order);
    order.sort_by_key(|&i| frames[i] / BUCKET_FRAMES);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0u64;
    for i in order {
        longest = longest.max(u64::from(frames[i]));
        match batches.last_mut() {
            Some(batch)
                if batch.len() < budget.utterances && longest * (batch.len() as u64 + 1) <= budget.frames =>
            {
                batch.push(i);
            }
            _ => {
                longest = u64::from(frames[i]);
                batches.push(vec![i]);
            }
        }
    }
    random.shuffle(&mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(frames: &[u32], batch_frames: u64, seed: u64, stage: u64, epoch: u64) -> Vec<Vec<usize>> {
        super::plan(frames, Budget { frames: batch_frames, utterances: usize::MAX }, seed, stage, epoch)
    }

    fn frames() -> Vec<u32> {
        let mut random = Random::new(1, "lengths", &[]);
        (0..500).map(|_| 100 + random.below(1500) as u32).collect()
    }

    #[test]
    fn every_utterance_comes_once_within_the_budget() {
        let frames = frames();
        let batches = plan(&frames, 19_200, 1, 0, 0);
        let mut seen: Vec<usize> = batches.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        for batch in &batches {
            let longest = batch.iter().map(|&i| u64::from(frames[i])).max().unwrap();
            assert!(longest * batch.len() as u64 <= 19_200);
        }
        let padded: u64 = batches
            .iter()
            .map(|b| b.len() as u64 * b.iter().map(|&i| u64::from(frames[i])).max().unwrap())
            .sum();
        let valid: u64 = frames.iter().map(|&f| u64::from(f)).sum();
        assert!(padded as f64 / (valid as f64) < 1.12, "{padded} padded for {valid} valid frames");
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let frames = frames();
        assert_eq!(plan(&frames, 9_600, 1, 0, 3), plan(&frames, 9_600, 1, 0, 3));
        assert_ne!(plan(&frames, 9_600, 1, 0, 3), plan(&frames, 9_600, 1, 0, 4));
        assert_ne!(plan(&frames, 9_600, 1, 0, 3), plan(&frames, 9_600, 2, 0, 3));
    }

    #[test]
    fn batches_hold_the_number_asked_for() {
        let sizes = |utterances| -> Vec<usize> {
            let budget = Budget { frames: 32 * 1600, utterances };
            let batches = super::plan(&frames(), budget, 1, 0, 0);
            let mut sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(sizes(32), [vec![500 % 32], vec![32; 500 / 32]].concat());
        assert!(sizes(usize::MAX).iter().any(|&size| size > 32));
    }

    #[test]
    fn an_utterance_longer_than_the_budget_stands_alone() {
        assert_eq!(plan(&[500], 100, 1, 0, 0), vec![vec![0]]);
    }
}
