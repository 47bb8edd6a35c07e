//! Which task writes which shard.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The task, 0 to `tasks` - 1, of every shard: longest processing time first. Shards are taken by `loads`, largest first
/// (ties: the lower index), and each goes to the task with the least so far (ties: the lower number), so that no task has
/// more than 4/3 of what the best division would give its busiest (Graham, Bounds on Multiprocessing Timing Anomalies,
/// 1969). It follows from the loads and the number of tasks alone.
pub fn assign(loads: &[u64], tasks: u32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by_key(|&shard| (Reverse(loads[shard]), shard));
    // Tasks beyond the number of shards get nothing.
    let busy = u32::try_from(loads.len()).map_or(tasks, |shards| tasks.min(shards));
    let mut least: BinaryHeap<_> = (0..busy).map(|task| Reverse((0u64, task))).collect();
    let mut assigned = vec![0; loads.len()];
    for shard in order {
        let Some(Reverse((load, task))) = least.pop() else { break };
        assigned[shard] = task;
        least.push(Reverse((load.saturating_add(loads[shard]), task)));
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_task(loads: &[u64], tasks: u32) -> Vec<u64> {
        let mut sums = vec![0; tasks as usize];
        for (shard, task) in assign(loads, tasks).into_iter().enumerate() {
            sums[task as usize] += loads[shard];
        }
        sums
    }

    #[test]
    fn the_longest_come_first_and_ties_go_to_the_lower_number() {
        assert_eq!(assign(&[5, 5, 4, 4, 3, 3, 3], 3), [0, 1, 2, 2, 0, 1, 0]);
        assert_eq!(assign(&[7, 7, 7, 7], 2), [0, 1, 0, 1]);
        assert_eq!(assign(&[1, 2, 3], 1), [0, 0, 0]);
        assert_eq!(assign(&[1, 2, 3], u32::MAX), [2, 1, 0]);
        assert_eq!(assign(&[0, 0, 0], 2), [0, 0, 0]);
        assert_eq!(assign(&[], 4), [0u32; 0]);
        assert_eq!(assign(&[u64::MAX, u64::MAX, 1], 2), [0, 1, 0]);
    }

    #[test]
    fn it_is_complete_disjoint_and_within_a_third_of_the_best() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 40
        };
        for round in 0..200 {
            let loads: Vec<u64> = (0..next() % 60 + 1).map(|_| next() % 1000 + 1).collect();
            let tasks = u32::try_from(next() % 12 + 1).unwrap();
            let assigned = assign(&loads, tasks);
            // One number a shard: complete and disjoint by construction, if each is a task's.
            assert!(assigned.len() == loads.len() && assigned.iter().all(|&task| task < tasks), "{round}");
            let sums = per_task(&loads, tasks);
            assert_eq!(sums.iter().sum::<u64>(), loads.iter().sum::<u64>());
            // The best division is at least the mean and at least the largest shard; Graham's bound over these needs the
            // true optimum, so the weaker one of list scheduling is checked: mean + largest.
            let largest = *loads.iter().max().unwrap();
            let mean = loads.iter().sum::<u64>().div_ceil(u64::from(tasks));
            assert!(*sums.iter().max().unwrap() <= mean + largest, "{loads:?} over {tasks}");
        }
    }
}
