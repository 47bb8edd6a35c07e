//! How a cache is divided among tasks: `plan.toml`, there until the cache is sealed.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::resume::Wanted;
use super::assign::assign;
use crate::error::{Error, Result};
use crate::files;

/// Name of the plan in a cache directory.
pub const PLAN: &str = "plan.toml";
/// Value of the key `format`.
const FORMAT: &str = "tutornet-plan";

/// Which shards a cache has to have, and which task writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Always `tutornet-plan`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// BLAKE3 of `cache.toml`, 64 hexadecimal digits.
    pub identity: String,
    /// Number of tasks.
    pub tasks: u32,
    /// Number of the first task in the batch system's array; 0 for all else.
    pub first: u32,
    /// One entry a shard, in order.
    #[serde(default)]
    pub shards: Vec<Share>,
}

/// A shard to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// File name within the directory.
    pub file: String,
    /// Utterances.
    pub rows: u64,
    /// Output frames.
    pub frames: u64,
    /// The task that writes it, from 0.
    pub task: u32,
}

impl Plan {
    /// Divides `wanted` among `tasks` by the length of its audio.
    pub fn new(identity: &str, tasks: u32, first: u32, wanted: &[Wanted]) -> Self {
        let sum =
            |wanted: &Wanted, of: fn(&super::super::schema::Key) -> u64| wanted.keys.iter().map(of).sum();
        let loads: Vec<u64> = wanted.iter().map(|wanted| sum(wanted, |key| key.samples)).collect();
        let share = |(wanted, task): (&Wanted, u32)| Share {
            file: wanted.file.clone(),
            rows: wanted.keys.len() as u64,
            frames: sum(wanted, |key| u64::from(key.frames)),
            task,
        };
        Self {
            format: FORMAT.to_owned(),
            version: 1,
            identity: identity.to_owned(),
            tasks,
            first,
            shards: wanted.iter().zip(assign(&loads, tasks)).map(share).collect(),
        }
    }

    /// Reads `DIR/plan.toml` and its seal; `None` when there is none.
    ///
    /// # Errors
    /// When the file is damaged, or of a version that this program does not read.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(PLAN);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_sealed(&path)?;
        let plan: Self = toml::from_str(&text).map_err(|e| Error::format(&path, e.message().to_owned()))?;
        if (plan.format.as_str(), plan.version) != (FORMAT, 1) {
            return Err(Error::mismatch(
                format!("format of {}", path.display()),
                format!("{FORMAT} 1"),
                format!("{} {}", plan.format, plan.version),
                "go on with the tutornet that began the cache, or remove the file and begin all tasks again: finished \
                 shards stay",
            ));
        }
        if plan.shards.iter().any(|share| share.task >= plan.tasks) {
            return Err(Error::format(&path, format!("expected tasks below {}", plan.tasks)));
        }
        Ok(Some(plan))
    }

    /// Writes `DIR/plan.toml`, sealed, or takes the one that another task has written.
    ///
    /// # Errors
    /// When the plan that is there is of another number of tasks, or of something else.
    pub fn settle(&self, dir: &Path) -> Result<Self> {
        let path = dir.join(PLAN);
        let text = toml::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
        if !path.exists() && files::write_new(&path, files::seal(&text).as_bytes())? {
            return Ok(self.clone());
        }
        let there = match Self::load(dir) {
            Ok(there) => there.unwrap_or_else(|| self.clone()),
            Err(error) if files::read_sealed(&path).is_err() => {
                // What it said follows from the corpus and the number of tasks.
                tracing::warn!("{error}; writing it again");
                files::write_sealed(&path, &text)?;
                self.clone()
            }
            Err(error) => return Err(error),
        };
        self.require(&there, dir)?;
        Ok(there)
    }

    /// Refuses a number of tasks that is not the plan's.
    ///
    /// # Errors
    /// With both numbers.
    pub fn require_tasks(&self, tasks: u32, dir: &Path) -> Result<()> {
        if tasks == self.tasks {
            return Ok(());
        }
        Err(Error::mismatch(
            format!("number of tasks that write {}", dir.display()),
            format!("{} (from {PLAN})", self.tasks),
            tasks.to_string(),
            format!(
                "run the missing tasks with --of {}; to divide anew, end every task and remove {PLAN}: finished shards \
                 stay",
                self.tasks
            ),
        ))
    }

    fn require(&self, there: &Self, dir: &Path) -> Result<()> {
        there.require_tasks(self.tasks, dir)?;
        let whole = |plan: &Self| (plan.identity.clone(), plan.shards.clone());
        if whole(self) != whole(there) {
            let detail = "it divides another corpus or cache than this command's; end every task, remove it and begin \
                          them all again: finished shards stay";
            return Err(Error::format(dir.join(PLAN), detail));
        }
        Ok(())
    }

    /// Indexes of the shards of one task.
    pub fn own(&self, task: u32) -> Vec<usize> {
        let shards = self.shards.iter().enumerate();
        shards.filter(|(_, share)| share.task == task).map(|(shard, _)| shard).collect()
    }

    /// Tasks as the batch system counts them, in the notation of `sbatch --array`: `0-2,7`. `tasks` ascends.
    pub fn array(&self, tasks: &[u32]) -> String {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for task in tasks.iter().map(|task| task.saturating_add(self.first)) {
            match runs.last_mut() {
                Some(run) if run.1.checked_add(1) == Some(task) => run.1 = task,
                _ => runs.push((task, task)),
            }
        }
        let mut text = String::new();
        for (from, to) in runs {
            let comma = if text.is_empty() { "" } else { "," };
            let range = if from == to { String::new() } else { format!("-{to}") };
            let _ = write!(text, "{comma}{from}{range}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::schema::Key;
    use super::*;

    fn wanted(lengths: &[u64]) -> Vec<Wanted> {
        let key = |n: u64| Key { utterance: n.to_string(), samples: n, audio_hash: [0; 16], frames: 2 };
        let shards = lengths.iter().enumerate();
        shards.map(|(i, &n)| Wanted { file: format!("shard-{i:05}.parquet"), keys: vec![key(n)] }).collect()
    }

    #[test]
    fn the_first_plan_holds_for_all_that_come_after() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(Plan::load(dir).unwrap(), None);
        let plan = Plan::new("x", 2, 1, &wanted(&[5, 9, 4]));
        assert_eq!(plan.own(0), [1]);
        assert_eq!(plan.own(1), [0, 2]);
        assert_eq!((plan.shards[2].rows, plan.shards[2].frames), (1, 2));
        assert_eq!(plan.settle(dir).unwrap(), plan);
        assert_eq!(Plan::load(dir).unwrap(), Some(plan.clone()));
        // Who counts from 0 is told how the plan counts.
        assert_eq!(Plan { first: 0, ..plan.clone() }.settle(dir).unwrap().first, 1);
        let error = Plan::new("x", 3, 0, &wanted(&[5, 9, 4])).settle(dir).unwrap_err().to_string();
        assert!(
            error.contains("expected 2 (from plan.toml), found 3") && error.contains("--of 2"),
            "{error}"
        );
        let error = Plan::new("x", 2, 0, &wanted(&[5, 9])).settle(dir).unwrap_err().to_string();
        assert!(error.contains("another corpus"), "{error}");
        let path = dir.join(PLAN);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(Plan::load(dir).is_err(), "bit flip at {at}");
        }
        assert_eq!(plan.settle(dir).unwrap(), plan);
        assert_eq!(std::fs::read(&path).unwrap(), good);
        let future = String::from_utf8(good).unwrap().replace("version = 1", "version = 2");
        files::write_sealed(&path, future.split("# blake3").next().unwrap()).unwrap();
        let error = plan.settle(dir).unwrap_err().to_string();
        assert!(error.contains("tutornet-plan 2"), "{error}");
    }

    #[test]
    fn tasks_are_named_as_an_array() {
        let plan = |first| Plan::new("x", 9, first, &[]);
        assert_eq!(plan(0).array(&[0, 1, 2, 4, 7, 8]), "0-2,4,7-8");
        assert_eq!(plan(1).array(&[0, 8]), "1,9");
        assert_eq!(plan(0).array(&[]), "");
    }
}
