//! Utterances of like length together, under a budget of padded frames.

/// Groups utterances of `frames[i]` feature frames; every index is in exactly one group but
/// those without a frame, which no model can take; the longest come first (what does not fit into memory fails at once), and
/// `group.len() * longest <= budget` unless a single utterance exceeds it.
pub(super) fn group(frames: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..frames.len()).filter(|&i| frames[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(frames[i]), i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match groups.last_mut() {
            // The first of a group is its longest.
            Some(open) if (open.len() + 1) * frames[open[0]] <= budget => open.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_come_first() {
        assert_eq!(group(&[10, 50, 20, 500, 20, 0], 100), [vec![3], vec![1, 2], vec![4, 0]]);
        assert!(group(&[], 100).is_empty());
    }

    proptest! {
        #[test]
        fn every_utterance_once_within_the_budget(frames in proptest::collection::vec(0usize..400, 0..40), budget in 0usize..1000) {
            let groups = group(&frames, budget);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..frames.len()).filter(|&i| frames[i] > 0).collect::<Vec<_>>());
            for group in groups {
                let longest = group.iter().map(|&i| frames[i]).max().unwrap();
                prop_assert!(group.len() == 1 || group.len() * longest <= budget);
            }
        }
    }
}
