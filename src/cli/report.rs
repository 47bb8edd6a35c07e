//! `tutornet report`: runs side by side.

use std::path::PathBuf;

use super::Context;
use crate::report::{self, Heading, Source};

/// Arguments of `tutornet report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tutornet eval --model runs/ctc/student --corpus data/dev-clean --out runs/ctc/scores/dev-clean.json
  tutornet report runs/ctc runs/rkd-skd --out report --title \"QuartzNet to Jasper Mini\"
  tutornet report --table pipelines/tables/table-v.toml --runs runs/tables/demo --out report

A report has a row for each run and a group of columns for each NAME in RUNDIR/scores/NAME.json. The first run that
trained on CTC alone is the baseline of relative reductions, or else the first run. With --table, a file says what
stands in which row, what it is compared with and what the paper has there; RUN.seed2, RUN.seed3 .. count as further
seeds of RUN, and what was not run is an empty cell.")]
pub struct Args {
    /// Run directories, as `train` makes them
    #[arg(required_unless_present = "tables", value_name = "RUNDIR")]
    runs: Vec<PathBuf>,
    /// A run that is shown beside the others but neither compared with them nor drawn (a teacher); may be repeated
    #[arg(long = "reference", value_name = "RUNDIR")]
    references: Vec<PathBuf>,
    /// A table in the shape that FILE describes; may be repeated, all go on one page
    #[arg(long = "table", value_name = "FILE", requires = "run_root", conflicts_with_all = ["runs", "references"])]
    tables: Vec<PathBuf>,
    /// The directory that holds the runs that tables name
    #[arg(long = "runs", value_name = "DIR", id = "run_root", requires = "tables")]
    root: Option<PathBuf>,
    /// Directory for report.md, report.html, losses.svg and dev-cer.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Heading of the report [default: the table's own, or "Distillation runs"]
    #[arg(long, value_name = "T")]
    title: Option<String>,
    /// A paragraph below the heading
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// Runs `tutornet report`.
///
/// # Errors
/// See [`report::write`].
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let source = match args.root {
        Some(runs) => Source::Tables { tables: args.tables, runs },
        None => Source::Runs { runs: args.runs, references: args.references },
    };
    let report = report::write(&source, &Heading { title: args.title, note: args.note }, &args.out)?;
    super::print(&report.markdown)?;
    for file in &report.files {
        tracing::info!("wrote {}", file.display());
    }
    Ok(())
}
