//! `tutornet cache`: a teacher runs once over a corpus.

use std::path::{Path, PathBuf};

use super::search::SearchArgs;
use super::{Context, life};
use crate::cache::tasks::Array;
use crate::cache::{
    self, CodecName, Missing, Options, RecodeOptions, Recoded, Repaired, Sealed, Sealing, Summary, Task,
};
use crate::device::{DeviceChoice, Precision};
use crate::models::HiddenLayer;

const EXAMPLES: &str = "\
Examples:
  tutornet cache --model models/quartznet --corpus corpora/clean-100 --out caches/quartznet/clean-100
  tutornet cache --model models/quartznet --corpus corpora/clean-100 --out caches/quartznet/clean-100 \\
      --device cuda:0 --batch-seconds 960
  tutornet cache --model models/quartznet --corpus corpora/clean-100 --out caches/quartznet-5best/clean-100 \\
      --nbest 5 --beam 256 --lm lm/4-gram.arpa --lm-weight 2.0 --word-bonus 1.5
  tutornet cache --repair --model models/quartznet --corpus corpora/clean-100 --out caches/quartznet/clean-100

Several processes, on one machine or on many that share a file system, write one cache together: the same command for each,
and `seal` when all have ended (pipelines/slurm has the scripts of a cluster):
  tutornet cache --model models/quartznet --corpus corpora/clean-100 --out caches/quartznet/clean-100 --shard 3 --of 8
  tutornet cache seal caches/quartznet/clean-100

Run the same command again after an interruption: it goes on after the last complete shard. Run over a
complete cache, it checks every shard and writes again what is missing or bad.";

/// Arguments of `tutornet cache`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The teacher: a model directory
    #[arg(long, value_name = "DIR", required = true)]
    model: Option<PathBuf>,
    /// The corpus to run it over, prepared for the teacher's frontend
    #[arg(long, value_name = "DIR", required = true)]
    corpus: Option<PathBuf>,
    /// The cache directory to make or to complete
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Where the teacher runs: auto, cpu, wgpu[:i] or cuda[:i]
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Arithmetic of the forward pass; f16 where the device computes in it
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Threads that encode what the teacher computes [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = super::prep::at_least_one)]
    workers: Option<usize>,
    /// Padded audio of one batch; halved where the device has too little memory [default: 16 on the CPU, else 120]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    batch_seconds: Option<f64>,
    /// Add a column with the softmax at this temperature, ready to use (students do not need it: any
    /// temperature is served from the posterior)
    #[arg(long, value_name = "T", value_parser = positive)]
    temperature: Option<f64>,
    /// How hidden states are stored: f16 (exact), u8 (a byte a value), klt:E (learned, relative error E), pq:N (learned,
    /// N bytes a frame); sizes and what they do to a student: see the README
    #[arg(long, value_name = "CODEC", default_value_t = CodecName::F16)]
    codec: CodecName,
    /// Take the learned codec of this cache of the same teacher instead of learning one: caches of several corpora that one
    /// stage reads must share it
    #[arg(long, value_name = "CACHE")]
    codec_from: Option<PathBuf>,
    /// Add the outputs of inner layers with their frame weights, for RKD over pairs of layers: numbers K of `blocks.K`
    /// or `layers.K` as `tutornet inspect MODEL` lists them; the last layer is always there
    #[arg(long, value_name = "K,K", value_delimiter = ',')]
    layers: Vec<HiddenLayer>,
    /// Add a column with the teacher's N best texts, for sequence-level distillation; how they are found, the
    /// options of the beam search say
    #[arg(long, value_name = "N", value_parser = super::prep::at_least_one)]
    nbest: Option<usize>,
    #[command(flatten)]
    search: SearchArgs,
    /// Be task I, from 0, of the N that write this cache together; `tutornet cache seal` completes it
    #[arg(long, value_name = "I", requires = "of", conflicts_with = "slurm")]
    shard: Option<u32>,
    /// How many tasks there are: the same for all, as long as the cache is not sealed
    #[arg(long, value_name = "N", requires = "shard", conflicts_with = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    of: Option<u32>,
    /// Be the task that Slurm says: SLURM_ARRAY_TASK_ID of an array 0-N or 1-N; a smaller array repeats some tasks
    #[arg(long)]
    slurm: bool,
    /// Read every byte of the cache in --out, write again what is not as it was written, and leave the rest alone; codec,
    /// layers, temperature, precision and the search for N best texts are the cache's own (of a search with a language model,
    /// give --lm). A cache that `recode` or `merge` made is mended by that
    #[arg(long, conflicts_with_all = ["codec", "layers", "temperature", "precision", "bare", "shard", "slurm"])]
    repair: bool,
    /// Let --repair write shards that come out with other bytes than manifest.toml names, as on another device or machine: it
    /// is another cache then, and runs that were begun on it do not go on
    #[arg(long, requires = "repair")]
    other_bytes: bool,
    /// Run the forward passes alone and keep nothing: what `cache` cannot be faster than
    #[arg(long, hide = true)]
    bare: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the caches below directories: of which teacher and corpus, how large, complete or not
    Ls(LsArgs),
    /// Write an exact cache with another codec, without the teacher
    Recode(RecodeArgs),
    /// Complete a cache that several tasks have written, or say which of them have to run again
    Seal(SealArgs),
    /// Make one cache of several of one teacher, over several corpora
    Merge(life::MergeArgs),
    /// Add the teacher's N best texts to a cache that is there, without the teacher
    Add(life::AddArgs),
    /// Write plain Arrow, NumPy or safetensors files for other programs
    Export(life::ExportArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The result is byte for byte what one process writes. Tasks that have not finished are named on stdout as `sbatch --array` takes
them, and the exit code is 1:
  tutornet cache seal caches/quartznet/clean-100
  sbatch --array=$(tutornet -q cache seal caches/quartznet/clean-100) pipelines/slurm/cache.sbatch")]
struct SealArgs {
    /// The cache directory that the tasks were given as --out
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
    /// Print one JSON object: what the cache holds, or the tasks that are missing
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Where to look
    #[arg(value_name = "DIR", default_value = ".")]
    roots: Vec<PathBuf>,
    /// Only those of this teacher: how its name or its hash begins, or its model directory
    #[arg(long, value_name = "TEACHER")]
    teacher: Option<String>,
    /// Only those of this corpus: first digits of its identity, or its directory; merged caches among them
    #[arg(long, value_name = "CORPUS")]
    corpus: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  tutornet cache recode caches/quartznet/clean-100 --codec klt:0.1 --out caches/quartznet-klt/clean-100")]
struct RecodeArgs {
    /// A cache of codec f16
    #[arg(value_name = "CACHE")]
    from: PathBuf,
    /// u8, klt:E (learned, relative error E) or pq:N (learned, N bytes a frame)
    #[arg(long, value_name = "CODEC")]
    codec: CodecName,
    /// Take the learned codec of this cache instead of learning one; with a learned --codec
    #[arg(long, value_name = "CACHE")]
    codec_from: Option<PathBuf>,
    /// The cache directory to make or to complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn ls(args: &LsArgs) -> anyhow::Result<()> {
    let wish = cache::Wish { teacher: args.teacher.clone(), corpus: args.corpus.clone() };
    let mut all = Vec::new();
    for root in &args.roots {
        all.extend(cache::list(root, &wish)?);
    }
    let rows = serde_json::to_value(&all)?;
    if args.json {
        return super::print(&rows.to_string());
    }
    if all.is_empty() {
        let mut there = 0;
        for root in &args.roots {
            there += cache::list(root, &cache::Wish::default())?.len();
        }
        match there {
            0 => tracing::info!("no caches there"),
            there => tracing::info!(
                "none match; there are {there}, which `cache ls` without --teacher and --corpus lists"
            ),
        }
        return Ok(());
    }
    let mut rows = rows.as_array().cloned().unwrap_or_default();
    for row in rows.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        let of = row.remove("of").filter(|of| !of.is_null()).map_or("?".to_owned(), |of| of.to_string());
        let shards = row.get("shards").map(ToString::to_string).unwrap_or_default();
        if shards != of {
            row.insert("shards".to_owned(), format!("{shards} of {of}").into());
        }
    }
    super::print(&super::inspect::table(&rows).join("\n"))
}

fn recode(args: RecodeArgs, context: &Context) -> anyhow::Result<()> {
    if args.codec_from.is_some() && !args.codec.is_learned() {
        let detail = "--codec-from goes with a learned --codec (klt:E or pq:N)".to_owned();
        return Err(super::usage_error(&["cache", "recode"], detail));
    }
    let options =
        RecodeOptions { from: args.from, out: args.out, codec: args.codec, codec_from: args.codec_from };
    let Recoded { before, after, shards } = cache::recode(&options, &context.stop)?;
    tracing::info!(
        "{}: {after:.0} bytes a frame of hidden states, {before:.0} before; {} of {} shards written",
        options.out.display(),
        shards.1,
        shards.0
    );
    Ok(())
}

fn seal(args: &SealArgs, context: &Context) -> anyhow::Result<()> {
    let dir = args.cache.display();
    match cache::seal(&args.cache, &context.stop)? {
        Sealing::Sealed(Sealed { utterances, frames, bytes_per_frame, shards, before }) => {
            let again = if before { "complete already: " } else { "" };
            tracing::info!(
                "{dir}: {again}{utterances} utterances, {frames} frames, {bytes_per_frame:.0} bytes a frame of hidden states"
            );
            if args.json {
                let found = serde_json::json!({
                    "utterances": utterances, "frames": frames, "hidden_bytes_per_frame": bytes_per_frame, "shards": shards,
                });
                super::print(&found.to_string())?;
            }
            Ok(())
        }
        Sealing::Missing(Missing { tasks, array, of, shards }) => {
            if args.json {
                let missing = serde_json::json!({
                    "missing_tasks": &tasks, "array": &array, "tasks": of, "missing_shards": shards.0, "shards": shards.1,
                });
                super::print(&missing.to_string())?;
            } else {
                super::print(&array)?;
            }
            let first = tasks.first().copied().unwrap_or(0);
            anyhow::bail!(
                "{dir} is not complete: {} of {} shards are missing, of {} of {of} tasks; run these again, with \
                 `sbatch --array={array}` or the `tutornet cache` command with --shard {first} --of {of}{}, then seal",
                shards.0,
                shards.1,
                tasks.len(),
                if tasks.len() > 1 { " and so on" } else { "" },
            )
        }
    }
}

/// A finite number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Runs `tutornet cache`.
///
/// # Errors
/// See [`crate::cache::build`].
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Ls(args)) => return ls(&args),
        Some(Command::Recode(args)) => return recode(args, context),
        Some(Command::Seal(args)) => return seal(&args, context),
        Some(Command::Merge(args)) => return life::merge(args, context),
        Some(Command::Add(args)) => return life::add(args, context),
        Some(Command::Export(args)) => return life::export(args, context),
        None => {}
    }
    let (Some(model), Some(corpus), Some(out)) = (args.model, args.corpus, args.out) else {
        let detail = "--model, --corpus and --out are needed".to_owned();
        return Err(super::usage_error(&["cache"], detail));
    };
    let nbest = match (args.nbest, args.search.given()) {
        (Some(count), _) => Some((args.search.open(true)?, count)),
        (None, false) => None,
        (None, true) if args.repair => None,
        (None, true) => {
            let detail = "the options of the beam search go with --nbest: `cache` searches for nothing else";
            return Err(super::usage_error(&["cache"], detail.to_owned()));
        }
    };
    if args.codec_from.is_some() && !args.codec.is_learned() && !args.repair {
        let detail = "--codec-from goes with a learned --codec (klt:E or pq:N)".to_owned();
        return Err(super::usage_error(&["cache"], detail));
    }
    let task = match (args.shard, args.of, args.slurm) {
        (Some(shard), Some(of), _) => Some(Task::Numbered { shard, of }),
        (_, _, true) => Some(Task::Slurm(Array::from_environment(|name| std::env::var(name).ok())?)),
        _ => None,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        model,
        corpus,
        out,
        device: args.device,
        precision: args.precision,
        workers: args.workers.unwrap_or(cores.div_ceil(2)),
        batch_seconds: args.batch_seconds,
        temperature: args.temperature,
        codec: args.codec,
        codec_from: args.codec_from,
        layers: args.layers,
        nbest,
        other_bytes: args.other_bytes,
        task,
    };
    if args.repair {
        let lm = if options.nbest.is_some() { Ok(None) } else { args.search.lm_alone() };
        let lm = lm.map_err(|detail| super::usage_error(&["cache"], detail))?;
        return repair(options, lm, args.json, context);
    }
    let summary = if args.bare {
        cache::bare(&options, &context.stop)?
    } else {
        cache::build(&options, &context.stop)?
    };
    let (out, shards) = (options.out.display(), summary.shards);
    if let Some(bytes) = summary.bytes_per_frame {
        let inner = summary.inner_bytes_per_frame.filter(|inner| *inner > 0.0);
        let inner = inner.map_or_else(String::new, |inner| format!(" and {inner:.0} of inner layers"));
        let (utterances, frames) = (summary.utterances, summary.frames);
        tracing::info!(
            "{out}: {utterances} utterances, {frames} frames, {bytes:.0} bytes a frame of hidden states{inner}"
        );
        if shards.1 == 0 {
            tracing::info!("complete already: every shard is as it was written");
        }
    } else if task.is_some() {
        let (all, written) = shards;
        let next = match cache::Manifest::load(&options.out) {
            Ok(_) => "the cache is complete already",
            Err(_) => "`tutornet cache seal` completes the cache",
        };
        tracing::info!("{out}: this task's {all} shards are there, {written} of them written now; {next}");
    }
    if summary.audio > 0.0 {
        tracing::info!("{}", speed(&summary));
    }
    if args.json {
        super::print(&json(&summary).to_string())?;
    }
    Ok(())
}

fn repair(options: Options, lm: Option<&Path>, as_json: bool, context: &Context) -> anyhow::Result<()> {
    let out = options.out.display().to_string();
    let done = super::verify::with_progress("verify", |progress| {
        cache::repair(options, lm, &context.stop, progress)
    })?;
    let Repaired { problems, written, removed, other, summary } = &done;
    match summary {
        None => tracing::info!("{out}: nothing to repair, every byte is as it was written"),
        Some(_) => {
            written.iter().for_each(|file| tracing::info!("written again: {file}"));
            removed.iter().for_each(|file| tracing::info!("removed: {file}"));
            tracing::info!("{out}: {} problem(s) repaired", problems.len());
        }
    }
    for file in other {
        tracing::warn!(
            "{out}/{file}: other bytes than before, as --other-bytes allows: another device or machine made the first ones"
        );
    }
    if as_json {
        let summary = summary.as_ref().map(json);
        let report = serde_json::json!({
            "problems": problems, "written": written, "removed": removed, "other_bytes": other, "summary": summary,
        });
        super::print(&report.to_string())?;
    }
    Ok(())
}

fn speed(summary: &Summary) -> String {
    let wall = summary.wall.as_secs_f64().max(1e-9);
    format!(
        "{:.0} s of audio in {wall:.1} s: {:.1} times real time; {:.1} % of that in the forward pass, {:.1} % \
         of its frames were padding",
        summary.audio,
        summary.audio / wall,
        100.0 * summary.forward.as_secs_f64() / wall,
        100.0 * summary.padding
    )
}

fn json(summary: &Summary) -> serde_json::Value {
    let wall = summary.wall.as_secs_f64();
    serde_json::json!({
        "utterances": summary.utterances,
        "frames": summary.frames,
        "hidden_bytes_per_frame": summary.bytes_per_frame,
        "inner_bytes_per_frame": summary.inner_bytes_per_frame,
        "shards": summary.shards.0,
        "shards_written": summary.shards.1,
        "audio_seconds": summary.audio,
        "seconds": wall,
        "forward_seconds": summary.forward.as_secs_f64(),
        "audio_per_second": if wall > 0.0 { summary.audio / wall } else { 0.0 },
        "padding": summary.padding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_above_zero_only() {
        assert_eq!(positive("2.5"), Ok(2.5));
        for bad in ["0", "-1", "NaN", "inf", "x"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
    }
}
