//! `tutornet train`

use std::path::PathBuf;

use clap::Parser;

use super::{Context, print};
use crate::device::DeviceChoice;
use crate::train::{parse, run};

const EXAMPLES: &str = "\
Examples:
  tutornet train pipelines/demo-rkd-skd.toml --out runs/rkd-skd
  tutornet train pipelines/demo-rkd-skd.toml --out runs/rkd-skd --resume
  tutornet train pipelines/demo-ctc.toml --out runs/seed2 --set seed=2 --set stage.0.epochs=5
  tutornet train pipelines/demo-ctc.toml --out runs/try --set stage.0.max_updates=50 --profile
  tutornet train p.toml --out runs/other --set 'data.train=[\"corpora/a\", \"corpora/b\"]'
  tutornet train p.toml --out runs/bucket --set 'data.train=[\"s3://speech/corpora/a\"]'

RUNDIR then holds pipeline.toml (resolved: runs again to the same result), metrics.jsonl, checkpoints/
and student/, a model directory for eval, transcribe, or cache: a student may teach the next.";

/// Train a student: stages of RKD, CTC and CTC+SKD from corpora and teachers' caches
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The experiment, a TOML file
    #[arg(required_unless_present = "help_pipeline", value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    /// Directory of the run
    #[arg(long, required_unless_present = "help_pipeline", value_name = "RUNDIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in RUNDIR (from the start when there is none)
    #[arg(long)]
    resume: bool,
    /// Override one key of the pipeline; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// auto, cpu, wgpu[:i] or cuda[:i]
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Print where the time went (data wait, forward, loss, backward, optimizer ...) and write RUNDIR/trace.json,
    /// which chrome://tracing and ui.perfetto.dev open
    #[arg(long)]
    profile: bool,
    /// Print every key of a pipeline with its default, and exit
    #[arg(long)]
    help_pipeline: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// See [`run::run`].
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let (Some(path), Some(out), false) = (&args.pipeline, &args.out, args.help_pipeline) else {
        return print(parse::REFERENCE);
    };
    let pipeline = parse::read(path, &args.overrides)?;
    let options =
        run::Options { out: out.clone(), resume: args.resume, device: args.device, profile: args.profile };
    let outcome = run::run(&pipeline, &options, &context.stop)?;
    if outcome.already_done {
        tracing::info!("{}: finished before after {} updates", out.display(), outcome.updates);
    }
    let best = outcome
        .best
        .map(|b| {
            format!(
                "\tdev WER {:.2}\tdev CER {:.2}\tupdate {} of {}",
                b.wer, b.cer, b.update, outcome.updates
            )
        })
        .unwrap_or_default();
    print(&format!("{}{best}", outcome.student.display()))
}
