//! `tutornet verify`: is every byte as it was written?

use std::path::{Path, PathBuf};

use super::Context;
use super::kind::{Kind, STUDENT};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::shard::Problem;
use crate::train::directory;
use crate::{cache, corpus, files, models};

/// Arguments of `tutornet verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A corpus, model, cache or run directory; corpora and caches also as s3://BUCKET/PREFIX
    path: PathBuf,
    /// Print the problems as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `tutornet verify`.
///
/// # Errors
/// When anything is not as it was written; every problem is printed first.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let kind = Kind::of(&args.path)?;
    let problems = problems(kind, &args.path)?;
    if args.json {
        let report = serde_json::json!({
            "path": args.path,
            "kind": format!("{kind:?}").to_lowercase(),
            "ok": problems.is_empty(),
            "problems": problems,
        });
        super::print(&report.to_string())?;
    } else {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let text = if lines.is_empty() { format!("{}: ok", args.path.display()) } else { lines.join("\n") };
        super::print(&text)?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    let repair = match kind {
        Kind::Cache => "run the `tutornet cache` command that made it once more, it rewrites what is bad",
        Kind::Corpus => "the `tutornet prep` command that made it writes what is bad again, and nothing else",
        Kind::Model => "import, train or copy the model again",
        Kind::Run => "what is whole is still of use: see each line",
    };
    anyhow::bail!("{}: {} problem(s); {repair}", args.path.display(), problems.len())
}

fn problems(kind: Kind, path: &Path) -> Result<Vec<Problem>> {
    match kind {
        Kind::Corpus => with_progress(|progress| corpus::verify(path, progress)),
        Kind::Cache => with_progress(|progress| cache::verify(path, progress)),
        Kind::Model => model(path),
        Kind::Run => {
            let student = path.join(STUDENT);
            let mut problems = directory::verify(path)?;
            if student.exists() {
                problems.extend(model(&student)?);
            } else {
                let detail = "missing: the run has not ended; `tutornet train --resume` ends it";
                problems.push(Problem::file(student, detail));
            }
            Ok(problems)
        }
    }
}

/// A model's weights against the BLAKE3 in its description, and the tensors against its architecture.
fn model(dir: &Path) -> Result<Vec<Problem>> {
    let loaded = files::read_sealed(&dir.join(models::MODEL_FILE))
        .and_then(|_| models::identity(dir))
        .and_then(|_| models::Model::load(dir, &burn::tensor::Device::flex()));
    Ok(match loaded {
        Ok(_) => Vec::new(),
        Err(Error::Format { path, detail }) => vec![Problem::file(path, detail)],
        Err(Error::Io { action, path, source }) => {
            vec![Problem::file(path, format!("cannot {action}: {source}"))]
        }
        Err(other) => vec![Problem::file(dir, other.to_string())],
    })
}

fn with_progress(
    verify: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Vec<Problem>>,
) -> Result<Vec<Problem>> {
    let mut bar: Option<Progress> = None;
    let mut before = 0;
    let mebibytes = |bytes: u64| bytes >> 20;
    let result = verify(&mut |done, total| {
        let bar = bar.get_or_insert_with(|| Progress::new("verify", "MiB", mebibytes(total)));
        bar.add(mebibytes(done) - mebibytes(before));
        before = done;
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    result
}
