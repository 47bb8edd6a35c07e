//! Writes the shards that are missing, beside other processes that may be at work on some of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::build::{Source, With};
use super::codec::CodecModel;
use super::manifest::ShardEntry;
use super::resume::finished_since;
use super::sample::Sampled;
use super::stage::Done;
use super::tasks::claim::Claims;
use crate::error::{Error, Result};

/// Time between two looks at what others do.
const LOOK: Duration = Duration::from_millis(500);

impl Source {
    /// Writes the shards `pending` but for those that another process finishes first; they are returned beside. It is
    /// waited for while it is alive: a task that was started twice is done when all of its shards are.
    pub(super) fn write_all(
        &self,
        with: With,
        mut pending: Vec<usize>,
        of: (&str, &CodecModel, &[Sampled]),
    ) -> Result<(Done, Vec<(usize, ShardEntry)>)> {
        let (mut done, mut others) = (Done::default(), Vec::new());
        loop {
            let round = self.run(with, &pending, of, false)?;
            let written: BTreeSet<usize> = round.shards.iter().map(|(shard, _)| *shard).collect();
            pending.retain(|shard| !written.contains(shard));
            done = done.before(round);
            match with.claims {
                _ if pending.is_empty() => return Ok((done, others)),
                Some(claims) => self.wait(with, claims, &mut pending, &mut others)?,
                None if with.stop.requested() => return Err(interrupted()),
                None => {
                    let (missing, all) = (pending.len(), self.wanted.len());
                    return Err(Error::invalid(format!("{missing} of {all} shards were not written")));
                }
            }
            if pending.is_empty() {
                return Ok((done, others));
            }
        }
    }

    /// Waits until others have finished what is `pending`, or left some of it to this process.
    fn wait(
        &self,
        With { options, stop, .. }: With,
        claims: &Claims,
        pending: &mut Vec<usize>,
        others: &mut Vec<(usize, ShardEntry)>,
    ) -> Result<()> {
        let mut told = false;
        loop {
            pending.retain(|&shard| match finished_since(&options.out, &self.wanted[shard].file) {
                Some(entry) => {
                    others.push((shard, entry));
                    false
                }
                None => true,
            });
            let Some(&first) = pending.first() else { return Ok(()) };
            if stop.requested() {
                return Err(interrupted());
            }
            for &shard in &*pending {
                if claims.take(&self.wanted[shard].file)? {
                    return Ok(());
                }
            }
            if !told {
                let file = &self.wanted[first].file;
                tracing::info!("{file} is being written by {}; waiting for it", claims.holder(file));
                told = true;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// A stop before there is a codec.
pub(super) fn not_learned() -> Error {
    Error::Interrupted("the codec was not learned yet; nothing was written".to_owned())
}

/// A stop that loses nothing but what was in hand.
pub(super) fn interrupted() -> Error {
    Error::Interrupted("the finished shards are kept; the same command goes on after them".to_owned())
}
