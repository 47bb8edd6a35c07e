//! Our side of `make bench-peers`: does one piece of work when told to, and says how long it took.
//!
//! `compare.py` starts this program and its PyTorch twin `peer.py` for every row of the table and
//! speaks to both in the same words: one JSON object a line on standard input, one a line back.
//! Tensors travel as safetensors files. `prepare` draws the inputs that both then `load`. The only argument is
//! the device: `cpu` without one, else as `tutornet --device` has it.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on must stop")]

mod kernels;
mod networks;
mod real;
mod tensors;

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Value, json};

use tensors::Named;
use tutornet::device::{DeviceChoice, is_cpu};

/// One row of the table: what to compute, in which shape.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    /// Which kind of work; the other fields are its parameters.
    pub kind: String,
    /// Everything else.
    #[serde(flatten)]
    pub parameters: serde_json::Map<String, Value>,
}

impl Row {
    /// A parameter that every row of this kind has.
    pub fn get<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        let value = self.parameters.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).unwrap_or_else(|e| fail(&format!("row: {name}: {e}")))
    }
}

/// Work that is timed, and whose results are compared before that.
pub trait Work {
    /// What comes before each run and is not timed.
    fn make_ready(&mut self) {}
    /// Does the work once.
    fn run(&mut self);
    /// Does it once and gives everything it computed.
    fn outputs(&mut self) -> Vec<Named>;
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    /// Draws or reads the inputs of a row and writes them; the reply is the row with what it then knows.
    Prepare { row: Row, path: PathBuf },
    /// Reads the inputs of a row.
    Load { row: Row, path: PathBuf },
    /// Writes what the work computes.
    Outputs { path: PathBuf },
    /// Repeats the work for about so many seconds.
    Round { seconds: f64 },
    /// Peak memory since the start or the last `forget`.
    Memory,
    /// Forgets the peak so far.
    Forget,
    /// Times a product of square matrices of this order.
    Matmul { order: usize },
}

fn fail(message: &str) -> ! {
    eprintln!("peers: {message}");
    std::process::exit(1)
}

/// Where the work runs.
fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let choice = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
        let choice: DeviceChoice =
            choice.as_deref().unwrap_or("cpu").parse().unwrap_or_else(|e| fail(&format!("device: {e}")));
        choice.open().unwrap_or_else(|e| fail(&e.to_string()))
    };
    DEVICE.get_or_init(open).clone()
}

/// Waits until the device has done what it was given; the CPU is never behind.
fn wait() {
    let device = device();
    if !is_cpu(&device)
        && let Err(error) = device.sync()
    {
        fail(&format!("the device failed: {error:?}"));
    }
}

/// Peak resident memory in KiB, as the kernel of the system counts it.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Times of single runs, for about `seconds`.
fn round(work: &mut dyn Work, seconds: f64) -> Vec<f64> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || begin.elapsed() < Duration::from_secs_f64(seconds) {
        work.make_ready();
        wait();
        let start = Instant::now();
        work.run();
        wait();
        times.push(milliseconds(start));
    }
    times
}

fn load(row: &Row, inputs: tensors::Tensors) -> Box<dyn Work> {
    match row.kind.as_str() {
        "conv1d" => Box::new(kernels::over_time(row, &inputs)),
        "conv2d" => Box::new(kernels::over_plane(row, &inputs)),
        "ctc" => Box::new(kernels::Ctc::load(row, &inputs)),
        "bilstm" => Box::new(kernels::BiLstm::load(row, &inputs)),
        "step" => Box::new(networks::Step::load(row, &inputs)),
        "forward" => Box::new(networks::Forward::load(row, &inputs)),
        kind => fail(&format!("no work of kind {kind}")),
    }
}

fn prepare(row: &Row) -> Vec<Named> {
    match row.kind.as_str() {
        "conv1d" | "conv2d" | "ctc" | "bilstm" => kernels::prepare(row),
        "step" | "forward" => networks::prepare(row),
        kind => fail(&format!("no work of kind {kind}")),
    }
}

fn loaded(work: &mut Option<Box<dyn Work>>) -> &mut dyn Work {
    match work {
        Some(work) => work.as_mut(),
        None => fail("nothing is loaded"),
    }
}

fn main() {
    let mut work: Option<Box<dyn Work>> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input");
        let request: Request =
            serde_json::from_str(&line).unwrap_or_else(|e| fail(&format!("request {line}: {e}")));
        let reply = match request {
            Request::Prepare { mut row, path } => {
                if row.parameters.contains_key("corpus") {
                    real::describe(&mut row);
                }
                tensors::write(&path, &prepare(&row));
                json!({ "row": row.parameters })
            }
            Request::Load { row, path } => {
                work = Some(load(&row, tensors::read(&path)));
                json!({})
            }
            Request::Outputs { path } => {
                tensors::write(&path, &loaded(&mut work).outputs());
                json!({})
            }
            Request::Round { seconds } => json!({ "ms": round(loaded(&mut work), seconds) }),
            Request::Memory => json!({ "kib": peak_memory() }),
            Request::Forget => {
                // The system may refuse; the peak then counts from the start.
                let _ = std::fs::write("/proc/self/clear_refs", "5");
                json!({})
            }
            Request::Matmul { order } => json!({ "ms": kernels::matmul(order) }),
        };
        println!("{reply}");
    }
}
