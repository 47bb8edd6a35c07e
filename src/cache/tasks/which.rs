//! Which of the tasks this process is.

use std::path::Path;

use super::plan::{PLAN, Plan};
use crate::error::{Error, Result};

/// One of the tasks that write a cache, as the user or the batch system says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Number `shard`, from 0, of `of`.
    Numbered {
        /// This task.
        shard: u32,
        /// How many there are.
        of: u32,
    },
    /// A task of a Slurm array.
    Slurm(Array),
}

/// What Slurm says of an array in the environment of each of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// `SLURM_ARRAY_TASK_ID`.
    pub id: u32,
    /// `SLURM_ARRAY_TASK_MIN`, `SLURM_ARRAY_TASK_MAX` and `SLURM_ARRAY_TASK_COUNT`; what is missing of them is needed only
    /// to begin a cache.
    pub extent: Option<Extent>,
}

/// Smallest and largest number of an array's tasks, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Extent {
    pub min: u32,
    pub max: u32,
    pub count: u32,
}

impl Array {
    /// Reads the environment through `get`.
    ///
    /// # Errors
    /// When it is not that of a task of an array.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| match get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.parse::<u32>().map(Some).map_err(|_| {
                Error::invalid(format!("--slurm: {name}: expected a whole number, found {value:?}"))
            }),
        };
        let Some(id) = number("SLURM_ARRAY_TASK_ID")? else {
            return Err(Error::invalid(
                "--slurm: expected the environment of a task of a Slurm array, found no SLURM_ARRAY_TASK_ID; submit with \
                 `sbatch --array=0-N`, or say --shard I --of N",
            ));
        };
        let extent = (
            number("SLURM_ARRAY_TASK_MIN")?,
            number("SLURM_ARRAY_TASK_MAX")?,
            number("SLURM_ARRAY_TASK_COUNT")?,
        );
        let extent = if let (Some(min), Some(max), Some(count)) = extent {
            if !(min..=max).contains(&id) || count == 0 || u64::from(count) > u64::from(max - min) + 1 {
                return Err(Error::invalid(format!(
                    "--slurm: task {id} of {count} from {min} to {max} is no task of an array; were these variables set \
                     by Slurm?"
                )));
            }
            Some(Extent { min, max, count })
        } else {
            None
        };
        Ok(Self { id, extent })
    }

    /// Number of tasks and number of the first, for a cache that nobody has begun.
    fn whole(self) -> Result<(u32, u32)> {
        let Some(Extent { min, max, count }) = self.extent else {
            return Err(Error::invalid(
                "--slurm: expected SLURM_ARRAY_TASK_MIN, _MAX and _COUNT, which say how many tasks there are; found not all",
            ));
        };
        if min > 1 || max - min + 1 != count {
            return Err(Error::invalid(format!(
                "--slurm: expected an array of all tasks, --array=0-{} for {count} of them, as nothing says yet into how \
                 many the work is divided; found {count} from {min} to {max}",
                count - 1
            )));
        }
        Ok((count, min))
    }

    /// Number of this task, from 0, in a plan that is there.
    fn within(self, plan: &Plan, dir: &Path) -> Result<u32> {
        let Plan { tasks, first, .. } = *plan;
        let last = u64::from(first) + u64::from(tasks) - 1;
        let fits = |Extent { min, max, count }: Extent| {
            min >= first && u64::from(max) <= last && (count < tasks || min == first)
        };
        if self.id < first || u64::from(self.id) > last || !self.extent.is_none_or(fits) {
            let found = self.extent.map_or_else(
                || format!("task {}", self.id),
                |Extent { min, max, count }| format!("{count} from {min} to {max}"),
            );
            return Err(Error::mismatch(
                format!("tasks that write {}", dir.display()),
                format!("--array={first}-{last} or some of it (from {PLAN})"),
                found,
                format!(
                    "submit those; to divide anew, end every task and remove {PLAN}: finished shards stay"
                ),
            ));
        }
        Ok(self.id - first)
    }
}

impl Task {
    /// The number of tasks, the first's number in the batch system, and this one's from 0.
    ///
    /// # Errors
    /// When it fits neither itself nor the plan that `dir` has.
    pub fn settle(self, dir: &Path) -> Result<(u32, u32, u32)> {
        match self {
            Self::Numbered { shard, of } if shard < of => {
                if let Ok(Some(plan)) = Plan::load(dir) {
                    plan.require_tasks(of, dir)?;
                }
                Ok((of, 0, shard))
            }
            Self::Numbered { shard, of } => Err(Error::invalid(format!(
                "--shard {shard} --of {of}: tasks are counted from 0, expected 0 to {}",
                of.saturating_sub(1)
            ))),
            Self::Slurm(array) => match Plan::load(dir) {
                Ok(Some(plan)) => Ok((plan.tasks, plan.first, array.within(&plan, dir)?)),
                // A damaged plan is written again, as for one that counts its tasks itself.
                Ok(None) | Err(_) => array.whole().map(|(tasks, first)| (tasks, first, array.id - first)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(id: &str, min: &str, max: &str, count: &str) -> Result<Array> {
        let all = [("ID", id), ("MIN", min), ("MAX", max), ("COUNT", count)];
        Array::from_environment(|name| {
            let (_, value) = all.iter().find(|(key, _)| name == format!("SLURM_ARRAY_TASK_{key}"))?;
            (!value.is_empty()).then(|| (*value).to_owned())
        })
    }

    fn refused<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
        let message = result.unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    #[test]
    fn an_environment_that_is_not_an_arrays_is_refused() {
        refused(array("", "0", "7", "8"), &["SLURM_ARRAY_TASK_ID", "sbatch --array", "--shard I --of N"]);
        refused(array("x", "0", "7", "8"), &["SLURM_ARRAY_TASK_ID", "\"x\""]);
        refused(array("-1", "0", "7", "8"), &["\"-1\""]);
        refused(array("8", "0", "7", "8"), &["task 8 of 8 from 0 to 7"]);
        refused(array("0", "0", "7", "9"), &["no task of an array"]);
        refused(array("0", "0", "7", "0"), &["no task of an array"]);
        refused(array("3", "5", "1", "2"), &["no task of an array"]);
        assert!(array("4294967295", "0", "4294967295", "2").is_ok());
    }

    #[test]
    fn a_whole_array_begins_and_some_of_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let settle = |id, min, max, count| Task::Slurm(array(id, min, max, count).unwrap()).settle(dir);
        assert_eq!(settle("3", "0", "7", "8").unwrap(), (8, 0, 3));
        assert_eq!(settle("1", "1", "8", "8").unwrap(), (8, 1, 0));
        refused(settle("3", "3", "5", "2"), &["--array=0-1", "found 2 from 3 to 5"]);
        refused(settle("4", "2", "9", "8"), &["--array=0-7"]);
        refused(settle("3", "", "", ""), &["SLURM_ARRAY_TASK_MIN"]);

        Plan::new("x", 8, 1, &[]).settle(dir).unwrap();
        assert_eq!(settle("1", "1", "8", "8").unwrap(), (8, 1, 0));
        assert_eq!(settle("5", "3", "5", "2").unwrap(), (8, 1, 4));
        assert_eq!(settle("8", "", "", "").unwrap(), (8, 1, 7));
        refused(settle("1", "0", "7", "8"), &["--array=1-8", "8 from 0 to 7"]);
        refused(settle("1", "1", "16", "16"), &["--array=1-8", "16 from 1 to 16"]);
        refused(settle("9", "9", "9", "1"), &["--array=1-8"]);
        refused(settle("0", "", "", ""), &["task 0"]);
    }

    #[test]
    fn numbers_count_from_zero() {
        let numbered = |shard, of| Task::Numbered { shard, of }.settle(Path::new("none"));
        assert_eq!(numbered(7, 8).unwrap(), (8, 0, 7));
        refused(numbered(8, 8), &["--shard 8 --of 8", "0 to 7"]);
        refused(numbered(0, 0), &["counted from 0"]);
    }
}
