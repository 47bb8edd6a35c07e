//! Where the time of a run goes: spans of the training thread and of those that read batches.
//!
//! A table adds up the training thread's spans, which do not overlap; a trace in the format of
//! chrome://tracing and Perfetto holds every span of all threads. Off, it reads no clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde_json::{Value, json};

use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::files;

/// Name of the trace in a run's directory.
pub const TRACE_FILE: &str = "trace.json";
/// Spans that a trace keeps; later ones only count in the table.
const MOST_SPANS: usize = 400_000;

/// What a thread is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The training thread waits for a batch.
    DataWait,
    /// The student's forward pass, the transfer of the batch included.
    Forward,
    /// The losses of the stage.
    Loss,
    /// Their gradients.
    Backward,
    /// Gradient norm, clipping, the step of every tensor, batch-norm statistics.
    Optimizer,
    /// A line of metrics.jsonl.
    Log,
    /// Scores on the dev corpora.
    Scoring,
    /// Writing a checkpoint.
    Checkpoint,
    /// Another thread reads, augments and pads a batch; no part of the training thread's time.
    Assemble,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::DataWait => "data wait",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Log => "log",
            Self::Scoring => "dev scores",
            Self::Checkpoint => "checkpoint",
            Self::Assemble => "assemble",
        }
    }
}

/// A finished span: part, thread, microseconds since the start, microseconds long.
#[derive(Debug, Clone, Copy)]
struct Span {
    part: Part,
    thread: usize,
    start: f64,
    length: f64,
}

#[derive(Debug, Default)]
struct Record {
    spans: Vec<Span>,
    /// Seconds and number of spans of every part.
    totals: BTreeMap<Part, (f64, u64)>,
}

/// A clock that several threads share, or none.
#[derive(Debug, Clone)]
pub struct Profile(Option<Arc<(Instant, Mutex<Record>)>>);

impl Profile {
    /// A clock that runs from now on, or one that measures nothing.
    pub fn new(on: bool) -> Self {
        Self(on.then(|| Arc::new((Instant::now(), Mutex::default()))))
    }

    /// Runs `work` as `part` of the training thread. On a device that works ahead of the program the
    /// span ends when the device is done.
    pub fn time<T>(&self, part: Part, device: &Device, work: impl FnOnce() -> T) -> T {
        self.time_on(0, part, || {
            let result = work();
            if self.0.is_some() && !is_cpu(device) {
                // A device that fails says so where its result is read.
                let _ = device.sync();
            }
            result
        })
    }

    /// Runs `work` as `part` of thread number `thread`.
    pub fn time_on<T>(&self, thread: usize, part: Part, work: impl FnOnce() -> T) -> T {
        let Some((zero, record)) = self.0.as_deref() else { return work() };
        let start = Instant::now();
        let result = work();
        let length = start.elapsed().as_secs_f64();
        let mut record = lock(record);
        let total = record.totals.entry(part).or_default();
        *total = (total.0 + length, total.1 + 1);
        if record.spans.len() < MOST_SPANS {
            let start = start.duration_since(*zero).as_secs_f64();
            record.spans.push(Span { part, thread, start: start * 1e6, length: length * 1e6 });
        }
        result
    }

    /// The table of `updates` updates that took `wall`, and the trace into `directory`; nothing when off.
    ///
    /// # Errors
    /// When the trace cannot be written.
    pub fn finish(&self, directory: &Path, wall: Duration, updates: u64) -> Result<Option<String>> {
        let Some((_, record)) = self.0.as_deref() else { return Ok(None) };
        let record = lock(record);
        let path = directory.join(TRACE_FILE);
        let trace = serde_json::to_vec(&record.trace()).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write(&path, &trace)?;
        Ok(Some(record.table(&path, wall.as_secs_f64(), updates)))
    }
}

/// A thread that panicked left whole spans behind.
fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    /// Trace Event Format: complete events (`X`) in microseconds, and the names of the threads.
    fn trace(&self) -> Value {
        let threads = self.spans.iter().map(|span| span.thread).max().unwrap_or(0);
        let names = (0..=threads).map(|thread| {
            let name = if thread == 0 { "training".to_owned() } else { format!("reader {thread}") };
            json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": { "name": name } })
        });
        let spans = self.spans.iter().map(|s| {
            json!({ "ph": "X", "cat": "train", "name": s.part.name(), "pid": 1, "tid": s.thread, "ts": s.start, "dur": s.length })
        });
        json!({ "displayTimeUnit": "ms", "traceEvents": names.chain(spans).collect::<Vec<_>>() })
    }

    fn table(&self, path: &Path, wall: f64, updates: u64) -> String {
        let share = |seconds: f64| 100.0 * seconds / wall.max(f64::MIN_POSITIVE);
        let row = |name: &str, seconds: f64| {
            let each = 1e3 * seconds / updates.max(1) as f64;
            format!("{name:<12}{seconds:>10.2}{each:>14.2}{:>9.2}", share(seconds))
        };
        let mut table = format!("{:<12}{:>10}{:>14}{:>9}\n", "part", "seconds", "ms an update", "% of all");
        let mut sum = 0.0;
        for (part, (seconds, _)) in self.totals.iter().filter(|(part, _)| **part != Part::Assemble) {
            sum += seconds;
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{}", row(part.name(), *seconds));
        }
        let _ = writeln!(table, "{}", row("sum", sum));
        let _ = writeln!(table, "{}", row("all", wall));
        let (seconds, batches) = self.totals.get(&Part::Assemble).copied().unwrap_or_default();
        let _ = writeln!(table, "reading threads assembled {batches} batches in {seconds:.2} s beside that");
        let all: u64 = self.totals.values().map(|(_, count)| count).sum();
        let kept = match self.spans.len() as u64 {
            kept if kept == all => "every span is".to_owned(),
            kept => format!("the first {kept} of {all} spans are"),
        };
        let _ = write!(
            table,
            "{updates} updates made here; {kept} in {} (chrome://tracing, ui.perfetto.dev)",
            path.display()
        );
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_up_and_make_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let profile = Profile::new(true);
        let started = Instant::now();
        let nap = || std::thread::sleep(std::time::Duration::from_millis(3));
        assert_eq!(
            profile.time(Part::Forward, &device, || {
                nap();
                7
            }),
            7
        );
        profile.time(Part::Forward, &device, nap);
        profile.time_on(2, Part::Assemble, nap);
        let table = profile.finish(dir.path(), started.elapsed(), 2).unwrap().unwrap();
        let line = |name: &str| table.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
        let share: f64 = line("sum").split_whitespace().last().unwrap().parse().unwrap();
        assert!((40.0..100.0).contains(&share) && line("forward").contains("  0.01"), "{table}");
        let trace: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(TRACE_FILE)).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!((spans.len(), events.len()), (3, 6));
        assert!(spans.iter().all(|s| s["dur"].as_f64().unwrap() >= 3e3 && s["ts"].as_f64().unwrap() >= 0.0));
        assert_eq!((&spans[2]["tid"], &spans[2]["name"]), (&json!(2), &json!("assemble")));
    }

    #[test]
    fn off_it_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::new(false);
        assert_eq!(profile.time_on(0, Part::Log, || 3), 3);
        assert_eq!(profile.finish(dir.path(), Duration::ZERO, 0).unwrap(), None);
        assert!(!dir.path().join(TRACE_FILE).exists());
    }
}
