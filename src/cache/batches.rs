//! Which utterances of a shard go through the teacher together.

/// Utterances of one shard, padded to the longest of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows of the shard, longest first.
    pub rows: Vec<usize>,
    /// Feature frames of the longest.
    pub padded: usize,
}

/// Cuts a shard, given its utterances' feature frames, into batches of at most `budget` padded frames
/// (or one utterance): longest first, so that memory is asked for most at the start. Utterances
/// without frames are in no batch.
///
/// The plan depends on nothing but the shard: the same shard makes the same batches on every run.
pub fn plan(frames: &[u32], budget: usize) -> Vec<Batch> {
    let mut order: Vec<usize> = (0..frames.len()).filter(|&row| frames[row] > 0).collect();
    order.sort_by_key(|&row| (std::cmp::Reverse(frames[row]), row));
    let mut batches = Vec::new();
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let padded = frames[longest] as usize;
        let count = (budget / padded).clamp(1, rest.len());
        batches.push(Batch { rows: rest[..count].to_vec(), padded });
        rest = &rest[count..];
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_utterance_is_in_one_batch_within_the_budget() {
        let frames: Vec<u32> = (0..100).map(|i| (i * 7919) % 1500).collect();
        let batches = plan(&frames, 4000);
        let mut seen: Vec<usize> = batches.iter().flat_map(|b| b.rows.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).filter(|&i| frames[i] > 0).collect::<Vec<_>>());
        for batch in &batches {
            assert!(batch.rows.len() * batch.padded <= 4000, "{batch:?}");
            assert_eq!(batch.padded, frames[batch.rows[0]] as usize);
        }
        let padding: usize = batches.iter().map(|b| b.rows.len() * b.padded).sum();
        let valid: u32 = frames.iter().sum();
        assert!(padding * 10 < valid as usize * 11, "{padding} frames for {valid}");
    }

    #[test]
    fn one_utterance_may_exceed_the_budget() {
        assert_eq!(
            plan(&[5, 90, 0], 10),
            [Batch { rows: vec![1], padded: 90 }, Batch { rows: vec![0], padded: 5 }]
        );
        assert!(plan(&[0, 0], 10).is_empty());
    }
}
