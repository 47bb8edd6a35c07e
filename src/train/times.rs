//! `times.jsonl`: when a run was worked on, one JSON object a stretch. It is the one file of a run that
//! depends on the machine rather than on the pipeline, and nothing but reports reads it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::device::{DeviceChoice, is_cpu};
use crate::error::{Error, Result};
use crate::files;

/// Name of the file in a run's directory.
pub const TIMES_FILE: &str = "times.jsonl";

/// From a start (or a resumption) to the end or an orderly stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Updates of the run before the stretch.
    pub from: u64,
    /// Updates of the run after it.
    pub to: u64,
    /// Seconds of training, scoring on the dev corpora included.
    pub seconds: f64,
    /// Where it was computed: `cpu`, `wgpu`, `cuda:1` .., or `gpu` where `auto` found one.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
}

/// All stretches of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretches {
    /// In the order in which they ended.
    pub stretches: Vec<Stretch>,
}

impl Stretch {
    /// Of updates `from..to` that took `wall` on `device`, which `choice` asked for.
    pub fn new((from, to): (u64, u64), wall: Duration, device: &Device, choice: DeviceChoice) -> Self {
        let name = match (is_cpu(device), choice) {
            (true, _) => "cpu".to_owned(),
            (false, DeviceChoice::Auto) => "gpu".to_owned(),
            (false, named) => named.to_string(),
        };
        let threads = rayon::current_num_threads();
        Self { from, to, seconds: wall.as_secs_f64(), device: name, threads }
    }

    /// Appends the stretch to the file in `run`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn append(&self, run: &Path) -> Result<()> {
        let path = run.join(TIMES_FILE);
        let mut line = serde_json::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
        line.push('\n');
        let file = File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|e| Error::io("write", &path, e))
    }
}

impl Stretches {
    /// Seconds of all stretches.
    pub fn seconds(&self) -> f64 {
        self.stretches.iter().map(|s| s.seconds).sum()
    }

    /// Whether every one of `updates` lies in a stretch: one that was killed left no line, and its
    /// time is not known.
    pub fn cover(&self, updates: u64) -> bool {
        let mut parts: Vec<(u64, u64)> = self.stretches.iter().map(|s| (s.from, s.to)).collect();
        parts.sort_unstable();
        let reached = parts
            .into_iter()
            .fold(0, |reached, (from, to)| if from <= reached { reached.max(to) } else { reached });
        reached >= updates
    }
}

/// The stretches of a run; `None` when there is no file.
///
/// # Errors
/// When a line is not a stretch; a last line that was cut short is left out.
pub fn read(run: &Path) -> Result<Option<Stretches>> {
    let path = run.join(TIMES_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(&path)?;
    let mut stretches = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(stretch) => stretches.push(stretch),
            Err(_) if number + 1 == text.lines().count() && !text.ends_with('\n') => break,
            Err(e) => {
                let detail = format!("line {}: expected a stretch of training: {e}", number + 1);
                return Err(Error::format(&path, detail));
            }
        }
    }
    Ok(Some(Stretches { stretches }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from, to, seconds: 1.5, device: "cpu".into(), threads: 2 }
    }

    #[test]
    fn stretches_come_back_and_add_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        stretch(0, 10).append(dir.path()).unwrap();
        stretch(8, 20).append(dir.path()).unwrap();
        let stretches = read(dir.path()).unwrap().unwrap();
        assert_eq!((stretches.stretches.len(), stretches.seconds()), (2, 3.0));
        std::fs::write(dir.path().join(TIMES_FILE), "{}\n{\"from\"").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn a_killed_stretch_leaves_a_gap() {
        let of = |parts: &[(u64, u64)]| Stretches {
            stretches: parts.iter().map(|&(a, b)| stretch(a, b)).collect(),
        };
        assert!(of(&[(0, 10), (8, 20)]).cover(20) && of(&[(8, 20), (0, 10)]).cover(20));
        assert!(!of(&[(0, 10), (12, 20)]).cover(20));
        assert!(!of(&[(0, 10)]).cover(11) && of(&[]).cover(0));
    }
}
