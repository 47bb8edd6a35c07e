//! Runs side by side: a table in the shape of the paper's Table V and plots of the training.
//!
//! A report reads what runs left on disk (`pipeline.toml`, `metrics.jsonl`, `scores/NAME.json`)
//! and evaluates nothing itself: `tutornet eval --out RUNDIR/scores/NAME.json` does that.

mod axis;
mod markdown;
mod metrics;
mod plot;
mod run;
mod table;

use std::path::{Path, PathBuf};

pub use metrics::Metrics;
pub use run::{RunRecord, Scored};

use crate::error::{Error, Result};
use crate::files;

/// What [`write`] made.
#[derive(Debug)]
pub struct Report {
    /// The Markdown text, as it lies in `report.md`.
    pub markdown: String,
    /// Every file written.
    pub files: Vec<PathBuf>,
}

/// Reads `runs`, in the order given, and writes `report.md`, `losses.svg` and `dev-cer.svg` to
/// `out`; a plot without any point is not written.
///
/// # Errors
/// When a run cannot be read (the file is named) or `out` cannot be written.
pub fn write(runs: &[PathBuf], out: &Path, title: &str) -> Result<Report> {
    if runs.is_empty() {
        return Err(Error::invalid("expected at least one run directory, found none"));
    }
    let records = runs.iter().map(|dir| RunRecord::read(dir)).collect::<Result<Vec<_>>>()?;
    files::create_dir(out)?;
    let mut written = Vec::new();
    let mut save = |name: &str, text: &str| -> Result<()> {
        let path = out.join(name);
        files::write(&path, text.as_bytes())?;
        written.push(path);
        Ok(())
    };
    let mut markdown = table::render(&records, title)?;
    let plots = [
        ("losses.svg", "Losses", plot::losses(&records)?),
        ("dev-cer.svg", "Dev CER", plot::dev_cer(&records)?),
    ];
    for (name, alternative, svg) in plots {
        if let Some(svg) = svg {
            save(name, &svg)?;
            markdown.push_str(&format!("\n![{alternative}]({name})\n"));
        }
    }
    save("report.md", &markdown)?;
    Ok(Report { markdown, files: written })
}
