//! Which process holds a claim.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// One process, among all machines that share a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Name of the machine, for people.
    pub host: String,
    /// Boot of the machine and space of process numbers (a container has its own), within which a number means one
    /// process; empty where the system does not say.
    pub space: String,
    /// Number of the process.
    pub process: u32,
    /// When it began, in the system's own ticks: numbers are used again.
    pub started: u64,
    /// Tells apart what one process has opened.
    pub serial: u64,
    /// Task of a batch system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// How often that task was begun again.
    #[serde(default)]
    pub restarts: u32,
}

impl Holder {
    /// This process; another at every call.
    pub fn this() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        let text = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        let boot = text("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let numbers = std::fs::read_link("/proc/self/ns/pid");
        let numbers = numbers.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            host: text("/proc/sys/kernel/hostname").unwrap_or_else(|_| "an unknown machine".to_owned()),
            space: if boot.is_empty() || numbers.is_empty() {
                String::new()
            } else {
                format!("{boot} {numbers}")
            },
            process,
            started: started(process).unwrap_or(0),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            job: environment("SLURM_JOB_ID"),
            restarts: environment("SLURM_RESTART_COUNT").and_then(|n| n.parse().ok()).unwrap_or(0),
        }
    }

    /// What stands in its claims.
    pub fn text(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// The process that wrote a claim, if it says so.
    pub fn parse(text: &[u8]) -> Option<Self> {
        toml::from_str(std::str::from_utf8(text).ok()?).ok()
    }

    /// A name for files that only this process makes.
    pub fn token(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex().chars().take(16).collect()
    }

    /// Whether `other` is at work, as far as one can tell without waiting: of the same machine, or an earlier start of the
    /// same task, which the batch system has ended before it began this one.
    pub fn knows_alive(&self, other: &Self) -> Option<bool> {
        if !self.space.is_empty() && other.space == self.space {
            return Some(started(other.process).is_some_and(|since| since == other.started));
        }
        (self.job.is_some() && self.job == other.job && other.restarts < self.restarts).then_some(false)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.process, self.host)?;
        self.job.as_ref().map_or(Ok(()), |job| write!(f, ", job {job}"))
    }
}

/// When a process of this machine began; `None` when there is none of this number, or it has ended and only waits for its
/// parent to ask.
fn started(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before the last parenthesis may hold anything. Behind it, field 3 is the state and field 22 the start.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_from_its_text_and_knows_itself() {
        let this = Holder::this();
        assert_eq!(Holder::parse(this.text().as_bytes()), Some(this.clone()));
        assert_ne!(Holder::this().token(), this.token());
        assert!(!this.space.is_empty() && this.started > 0, "{this:?}");
        assert_eq!(this.knows_alive(&this), Some(true));
        assert_eq!(Holder::parse(b"process = 1"), None);
        assert_eq!(Holder::parse(&[0xff]), None);
    }

    #[test]
    fn an_ended_process_is_dead_even_before_its_parent_asks() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let this = Holder::this();
        let of_child = Holder { process: child.id(), started: started(child.id()).unwrap(), ..this.clone() };
        assert_eq!(this.knows_alive(&of_child), Some(true));
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while this.knows_alive(&of_child) == Some(true) {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        assert_eq!(this.knows_alive(&of_child), Some(false));
        child.wait().unwrap();
        assert_eq!(this.knows_alive(&of_child), Some(false));
    }

    #[test]
    fn an_earlier_start_of_a_task_is_over_and_other_machines_are_unknown() {
        let job = |restarts| Holder { job: Some("4711".to_owned()), restarts, ..Holder::this() };
        let far = |restarts| Holder { space: "far".to_owned(), ..job(restarts) };
        assert_eq!(job(1).knows_alive(&far(0)), Some(false));
        assert_eq!(job(1).knows_alive(&far(1)), None);
        assert_eq!(job(0).knows_alive(&far(1)), None);
        assert_eq!(Holder::this().knows_alive(&far(0)), None);
    }
}
