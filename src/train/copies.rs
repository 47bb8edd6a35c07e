//! Which copies of an utterance an epoch trains on, where a corpus has copies at other speeds.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::corpus::original;
use crate::random::Random;

/// What `data.speed_copies` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpeedCopies {
    /// One of an utterance and its copies, drawn anew in every epoch, each as likely as the others: OpenSeq2Seq's
    /// rule, and an epoch is as long as without copies.
    #[default]
    One,
    /// The utterance and every copy of it.
    All,
}

/// Utterances of a stage, each with its copies.
#[derive(Debug)]
pub struct Copies(Vec<Family>);

/// An utterance and its copies, as far as the stage trains on them.
#[derive(Debug)]
struct Family {
    /// Names the original in [`Random`].
    name: u64,
    /// Positions in the stage's list, at least one.
    members: Vec<usize>,
}

impl Copies {
    /// Of the utterances with these ids, whose positions they are.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut families: Vec<Family> = Vec::new();
        for (position, id) in ids.into_iter().enumerate() {
            let place = *places.entry(original(id)).or_insert_with(|| {
                families.push(Family { name: name(original(id)), members: Vec::new() });
                families.len() - 1
            });
            families[place].members.push(position);
        }
        Self(families)
    }

    /// Utterances without their copies.
    pub fn originals(&self) -> usize {
        self.0.len()
    }

    /// Positions of the utterances of an epoch: a function of (`seed`, `stage`, `epoch`) and each original's name.
    pub fn draw(&self, choice: SpeedCopies, seed: u64, stage: u64, epoch: u64) -> Vec<usize> {
        match choice {
            SpeedCopies::All => (0..self.0.iter().map(|f| f.members.len()).sum()).collect(),
            SpeedCopies::One => self.0.iter().map(|family| family.draw(seed, stage, epoch)).collect(),
        }
    }
}

impl Family {
    fn draw(&self, seed: u64, stage: u64, epoch: u64) -> usize {
        match self.members.as_slice() {
            [only] => *only,
            members => members[Random::new(seed, "speed", &[stage, epoch, self.name]).below(members.len())],
        }
    }
}

/// An utterance's id as a number for [`Random`].
pub(super) fn name(id: &str) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    u64::from_le_bytes(hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 5] = ["b@speed0.9", "a", "b", "b@speed1.1", "c@speed0.9"];

    #[test]
    fn one_of_each_family_is_drawn_and_every_member_has_its_turn() {
        let copies = Copies::of(IDS);
        assert_eq!(copies.originals(), 3);
        let mut met = [0usize; 5];
        for epoch in 0..300 {
            let drawn = copies.draw(SpeedCopies::One, 1, 0, epoch);
            assert_eq!(drawn, copies.draw(SpeedCopies::One, 1, 0, epoch));
            let [b, a, c] = drawn[..] else { panic!("{drawn:?}") };
            assert!([0, 2, 3].contains(&b) && (a, c) == (1, 4), "{drawn:?}");
            drawn.iter().for_each(|&position| met[position] += 1);
        }
        assert!([0, 2, 3].iter().all(|&p| (70..130).contains(&met[p])), "{met:?}");
        let all = |seed, stage| {
            (0..50).map(|e| copies.draw(SpeedCopies::One, seed, stage, e)[0]).collect::<Vec<_>>()
        };
        assert_ne!(all(1, 0), all(2, 0));
        assert_ne!(all(1, 0), all(1, 1));
        assert_eq!(copies.draw(SpeedCopies::All, 1, 0, 0), [0, 1, 2, 3, 4]);
    }

    /// A draw belongs to the utterance: what else the corpora hold does not change it.
    #[test]
    fn neighbours_change_nothing() {
        let (many, few) = (Copies::of(IDS), Copies::of(["b@speed0.9", "b", "b@speed1.1"]));
        for epoch in 0..50 {
            let name = |position: usize, ids: &[&str]| ids[position].to_owned();
            let ours = name(many.draw(SpeedCopies::One, 4, 1, epoch)[0], &IDS);
            let theirs = few.draw(SpeedCopies::One, 4, 1, epoch)[0];
            assert_eq!(ours, name(theirs, &["b@speed0.9", "b", "b@speed1.1"]));
        }
    }

    #[test]
    fn without_copies_both_choices_are_the_list_itself() {
        let copies = Copies::of(["x", "y", "z"]);
        for choice in [SpeedCopies::One, SpeedCopies::All] {
            assert_eq!(copies.draw(choice, 1, 2, 3), [0, 1, 2]);
        }
    }
}
