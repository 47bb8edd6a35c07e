//! `tutornet plan`: what a cache will cost.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use crate::cache::plan::{Plan, plan};
use crate::cache::rate::{USUAL, rate};
use crate::cache::{Cache, CodecName};
use crate::models::ModelConfig;

const EXAMPLES: &str = "\
Examples:
  tutornet plan --model jasper-dr --hours 960 --device-tflops 60
  tutornet plan --model models/quartznet --hours 100 --codec f16,klt:0.1 --rates caches/quartznet/dev-clean

Bytes are those of QuartzNet 15x5 over real speech, by channel; --rates measures your teacher's on a cache that is there.
Operations are two for every parameter and output frame: give --device-tflops what the device sustains, not its peak.";

/// Arguments of `tutornet plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The teacher: a model directory, a model.toml or a preset
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Audio, in hours
    #[arg(long, value_name = "H")]
    hours: f64,
    /// Codecs to compare [default: the usual ones]
    #[arg(long, value_name = "CODEC,..", value_delimiter = ',')]
    codec: Vec<CodecName>,
    /// Measure the codecs on this exact cache instead of estimating them
    #[arg(long, value_name = "CACHE")]
    rates: Option<PathBuf>,
    /// What the device sustains in the teacher's forward pass, 10^12 operations a second
    #[arg(long, value_name = "X", default_value_t = 0.15)]
    device_tflops: f64,
    /// What the disk reads, 10^9 bytes a second
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    disk_gbps: f64,
    /// How many times as fast as real time a student is trained
    #[arg(long, value_name = "X", default_value_t = 1000.0)]
    speed: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `tutornet plan`.
///
/// # Errors
/// When the model or the cache cannot be read, or a number is not above zero.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let measured = match &args.rates {
        None => Vec::new(),
        Some(cache) => {
            let codecs = if args.codec.is_empty() { USUAL.to_vec() } else { args.codec.clone() };
            rate(&Cache::open(cache)?, &codecs)?
        }
    };
    let costs = plan(&Plan {
        model: ModelConfig::find(&args.model)?,
        hours: args.hours,
        codecs: args.codec,
        measured,
        tflops: args.device_tflops,
        disk: args.disk_gbps,
        speed: args.speed,
    })?;
    let costs = serde_json::to_value(costs)?;
    if args.json {
        return super::print(&costs.to_string());
    }
    let mut lines = super::inspect::lines(&without_codecs(&costs));
    let rows = costs.get("codecs").and_then(Value::as_array).cloned().unwrap_or_default();
    lines.extend(super::inspect::table(&rows));
    super::print(&lines.join("\n"))
}

/// All but the table.
fn without_codecs(costs: &Value) -> Value {
    let mut rest = costs.as_object().cloned().unwrap_or_default();
    rest.remove("codecs");
    json!(rest)
}
