//! What a run's `metrics.jsonl` says. Its updates count from the start of the run, over all stages.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// Parts of a loss that a step may log, in the order of the plots, with the unit of each.
pub const TERMS: [(&str, &str); 6] = [
    ("ctc", "nats"),
    ("skd", "squared error"),
    ("rkd", "squared error"),
    ("kd", "nats"),
    ("guided", "probability"),
    ("sequence", "nats"),
];

/// The course of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Updates made.
    pub updates: u64,
    /// For each of [`TERMS`]: (update, value).
    pub losses: [Vec<(u64, f64)>; TERMS.len()],
    /// (update, CER in percent) of the dev corpora after each epoch.
    pub dev_cer: Vec<(u64, f64)>,
    /// The update after which each stage but the last ended.
    pub boundaries: Vec<u64>,
}

/// Key of a line: stage, then update. A resumed run may log an update again: the later line counts.
type Lines = BTreeMap<(u64, u64), Value>;

impl Metrics {
    /// Reads `metrics.jsonl`. A last line that was cut short by a kill is left out.
    ///
    /// # Errors
    /// When the file cannot be read or another line is not a JSON object with `event`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let (mut steps, mut epochs) = (Lines::new(), Lines::new());
        let count = text.lines().count();
        for (number, line) in text.lines().enumerate() {
            let value: Value = match serde_json::from_str(line) {
                Ok(value) => value,
                Err(_) if number + 1 == count && !text.ends_with('\n') => break,
                Err(e) => {
                    let detail =
                        format!("line {}: expected one JSON object a line, found otherwise: {e}", number + 1);
                    return Err(Error::format(path, detail));
                }
            };
            let place = |key: &str| value.get(key).and_then(Value::as_u64);
            let lines = match value.get("event").and_then(Value::as_str) {
                Some("step") => &mut steps,
                Some("epoch") => &mut epochs,
                Some(_) => continue,
                None => {
                    return Err(Error::format(
                        path,
                        format!("line {}: expected the key `event`", number + 1),
                    ));
                }
            };
            let (Some(stage), Some(update)) = (place("stage"), place("update")) else {
                let detail = format!("line {}: expected the numbers `stage` and `update`", number + 1);
                return Err(Error::format(path, detail));
            };
            lines.insert((stage, update), value);
        }
        Ok(Self::collect(&steps, &epochs))
    }

    fn collect(steps: &Lines, epochs: &Lines) -> Self {
        let mut metrics = Self::default();
        for (&(_, update), value) in steps {
            for ((term, _), points) in TERMS.iter().zip(&mut metrics.losses) {
                if let Some(loss) = value.get(*term).and_then(Value::as_f64) {
                    points.push((update, loss));
                }
            }
        }
        for (&(_, update), value) in epochs {
            if let Some(rate) = value.get("dev_cer").and_then(Value::as_f64) {
                metrics.dev_cer.push((update, rate));
            }
        }
        let mut last = BTreeMap::new();
        for &(stage, update) in steps.keys().chain(epochs.keys()) {
            let last = last.entry(stage).or_insert(0);
            *last = update.max(*last);
        }
        metrics.boundaries = last.into_values().collect();
        metrics.updates = metrics.boundaries.pop().unwrap_or(0);
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Metrics> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Metrics::read(&path)
    }

    const RUN: &str = r#"{"event":"step","stage":0,"update":1,"epoch":1,"loss":9.0,"rkd":9.0}
{"event":"step","stage":0,"update":2,"epoch":1,"loss":8.0,"rkd":8.0}
{"event":"epoch","stage":0,"epoch":1,"update":2,"dev_wer":100.0,"dev_cer":100.0,"dev_blank_rate":99.9}
{"event":"step","stage":1,"update":3,"epoch":1,"loss":5.0,"ctc":4.0,"skd":4.0}
{"event":"resume","stage":1}
{"event":"step","stage":1,"update":3,"epoch":1,"loss":5.5,"ctc":4.5,"skd":4.0}
{"event":"step","stage":1,"update":4,"epoch":1,"loss":null,"ctc":null,"skd":null,"rejected":true}
{"event":"epoch","stage":1,"epoch":1,"update":4,"dev_wer":null,"dev_cer":null}
{"event":"step","stage":1,"upd"#;

    #[test]
    fn the_later_line_of_an_update_counts() {
        let metrics = read(RUN).unwrap();
        assert_eq!(metrics.updates, 4);
        assert_eq!(metrics.boundaries, [2]);
        let [ctc, skd, rkd, rest @ ..] = &metrics.losses;
        assert_eq!([ctc, skd, rkd], [&vec![(3, 4.5)], &vec![(3, 4.0)], &vec![(1, 9.0), (2, 8.0)]]);
        assert!(rest.iter().all(Vec::is_empty));
        assert_eq!(metrics.dev_cer, [(2, 100.0)]);
        assert_eq!(read("").unwrap(), Metrics::default());
    }

    #[test]
    fn a_broken_line_is_named() {
        let message = read("{\"event\":\"done\"}\n{\"ev\n{}\n").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
        let message = read("{\"event\":\"step\",\"update\":1}\n").unwrap_err().to_string();
        assert!(message.contains("line 1") && message.contains("stage"), "{message}");
    }
}
