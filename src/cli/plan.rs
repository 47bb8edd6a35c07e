//! `tutornet plan`: what a cache will cost.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use crate::cache::plan::{Plan, plan};
use crate::cache::rate::rate;
use crate::cache::{Cache, CodecName};
use crate::corpus::Corpus;
use crate::models::ModelConfig;

const EXAMPLES: &str = "\
Examples:
  tutornet plan --model jasper-dr --hours 960 --device-tflops 60
  tutornet plan --model models/quartznet --corpus corpora/clean-100 --rates caches/quartznet/dev-clean

Bytes are those of QuartzNet 15x5 over real speech, by channel, and decoding is that of a core of an AMD EPYC (Zen 5); --rates
measures both, for your teacher and on your machine. Operations are two for every parameter and output frame: give
--device-tflops what the device sustains, not its peak.

Columns: gigabytes are 10^9 bytes; read_mb_per_s and decode_cores are what training at --speed asks of the disk and of the
processor; read_hours is one pass over the cache, by the disk or by --cores that decode, whichever takes longer;
pays_from_epoch is the number of epochs from which on writing a cache once and reading it in each takes less time than
running the teacher in each. A cache that does not pay in time may still spare the memory of the teacher beside the student.";

/// Arguments of `tutornet plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The teacher: a model directory, a model.toml or a preset
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Audio, in hours
    #[arg(long, value_name = "H", required_unless_present = "corpus")]
    hours: Option<f64>,
    /// A corpus to take the hours and the number of shards from
    #[arg(long, value_name = "DIR", conflicts_with = "hours")]
    corpus: Option<PathBuf>,
    /// Codecs to compare [default: the usual ones]
    #[arg(long, value_name = "CODEC,..", value_delimiter = ',')]
    codec: Vec<CodecName>,
    /// Measure the codecs on this exact cache instead of estimating them
    #[arg(long, value_name = "CACHE")]
    rates: Option<PathBuf>,
    /// What the device sustains in the teacher's forward pass, 10^12 operations a second; the default is what two cores of an
    /// AMD EPYC (Zen 5) do
    #[arg(long, value_name = "X", default_value_t = 0.25)]
    device_tflops: f64,
    /// What the disk reads, 10^9 bytes a second
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    disk_gbps: f64,
    /// Cores that decode what is read
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    cores: f64,
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
/// When the model, the corpus or the cache cannot be read, or a number is not above zero.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let mut wanted = of(&args)?;
    if let Some(cache) = &args.rates {
        let cache = Cache::open(cache)?;
        let width = usize::try_from(cache.identity().hidden_width)?;
        // A width that the model does not have is refused before minutes are spent on it.
        wanted.measured = Some((Vec::new(), width));
        plan(&wanted)?;
        wanted.measured = Some((rate(&cache, &args.codec)?, width));
    }
    let costs = plan(&wanted)?;
    let costs = serde_json::to_value(costs)?;
    if args.json {
        return super::print(&costs.to_string());
    }
    let mut lines = super::inspect::lines(&without_codecs(&costs));
    let rows = costs.get("codecs").and_then(Value::as_array).cloned().unwrap_or_default();
    lines.extend(super::inspect::table(&rows.into_iter().map(never).collect::<Vec<_>>()));
    super::print(&lines.join("\n"))
}

/// What is asked for, nothing measured yet.
fn of(args: &Args) -> anyhow::Result<Plan> {
    let corpus = args.corpus.as_deref().map(Corpus::open).transpose()?;
    let manifest = corpus.as_ref().map(Corpus::manifest);
    Ok(Plan {
        model: ModelConfig::find(&args.model)?,
        hours: args.hours.or(manifest.map(|m| m.hours)).unwrap_or_default(),
        shards: manifest.map(|m| m.shards.len() as u64),
        codecs: args.codec.clone(),
        measured: None,
        tflops: args.device_tflops,
        disk: args.disk_gbps,
        cores: args.cores,
        speed: args.speed,
    })
}

/// A row for people: what never pays says so.
fn never(mut row: Value) -> Value {
    if let Some(cell) = row.get_mut("pays_from_epoch").filter(|cell| cell.is_null()) {
        *cell = json!("never");
    }
    row
}

/// All but the table.
fn without_codecs(costs: &Value) -> Value {
    let mut rest = costs.as_object().cloned().unwrap_or_default();
    rest.remove("codecs");
    json!(rest)
}
