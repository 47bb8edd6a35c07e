//! `tutornet report`: runs side by side.

use std::path::PathBuf;

use super::Context;
use crate::report;

/// Arguments of `tutornet report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tutornet eval --model runs/ctc/student --corpus data/dev-clean --out runs/ctc/scores/dev-clean.json
  tutornet report runs/ctc runs/rkd-skd --out report --title \"QuartzNet to Jasper Mini\"

The table has a row for each run and a column for each NAME in RUNDIR/scores/NAME.json. The first run that
trained on CTC alone is the baseline of relative reductions, or else the first run.")]
pub struct Args {
    /// Run directories, as `train` makes them
    #[arg(required = true, value_name = "RUNDIR")]
    runs: Vec<PathBuf>,
    /// Directory for report.md, losses.svg and dev-cer.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Heading of the report
    #[arg(long, default_value = "Distillation runs", value_name = "T")]
    title: String,
}

/// Runs `tutornet report`.
///
/// # Errors
/// See [`report::write`].
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let report = report::write(&args.runs, &args.out, &args.title)?;
    super::print(&report.markdown)?;
    for file in &report.files {
        tracing::info!("wrote {}", file.display());
    }
    Ok(())
}
