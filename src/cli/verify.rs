//! `tutornet verify`: is every byte as it was written?

use std::path::{Path, PathBuf};

use super::Context;
use super::kind::{Kind, STUDENT};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::shard::{FileReport, Problem, State};
use crate::train::directory;
use crate::{cache, corpus, files, models};

const EXIT: &str = "\
Exit code: 0 when every byte is as it was written, 1 when one is not or could not be read, 2 for wrong usage.

JSON: an object with `path`, `kind`, `ok`, `problems` (each with `path`, `detail` and, where they are known, `utterance` and
`column`), `notes` (what cannot be checked: a model.toml without a seal, the contents of an export) and, for a corpus or a cache, `files` (each with `file`, `bytes` and `state`: ok, damaged, missing or surplus).";

/// Arguments of `tutornet verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT)]
pub struct Args {
    /// A corpus, model, cache, export or run directory; corpora and caches also as s3://BUCKET/PREFIX
    path: PathBuf,
    /// Print one JSON object: the state of every file, and every problem
    #[arg(long)]
    json: bool,
}

/// Runs `tutornet verify`.
///
/// # Errors
/// When anything is not as it was written; every problem is printed first.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let kind = Kind::of(&args.path)?;
    let Found { files, problems, notes } = examine(kind, &args.path)?;
    let whole = |file: &&FileReport| matches!(file.state, State::Ok | State::Surplus);
    let only_surplus = files.as_ref().is_some_and(|files| files.iter().all(|file| whole(&file)));
    if args.json {
        let mut report = serde_json::json!({
            "path": args.path,
            "kind": format!("{kind:?}").to_lowercase(),
            "ok": problems.is_empty(),
            "problems": problems,
            "notes": notes,
        });
        if let Some(files) = files {
            report["files"] = serde_json::to_value(files)?;
        }
        super::print(&report.to_string())?;
    } else {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let notes: String = notes.iter().map(|note| format!(" ({note})")).collect();
        let text =
            if lines.is_empty() { format!("{}: ok{notes}", args.path.display()) } else { lines.join("\n") };
        super::print(&text)?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    let repair = match kind {
        _ if only_surplus => "all that belongs there is whole; remove the rest".to_owned(),
        Kind::Cache => cache::remedy::remedy(&args.path),
        Kind::Corpus => {
            "the `tutornet prep` command that made it writes what is bad again, and nothing else".to_owned()
        }
        Kind::Model => "import, train or copy the model again".to_owned(),
        Kind::Export => {
            "remove what the bad lines name, or for a changed export.toml all of it, and export again"
                .to_owned()
        }
        Kind::Run => "what is whole is still of use: see each line".to_owned(),
    };
    anyhow::bail!("{}: {} problem(s); {repair}", args.path.display(), problems.len())
}

/// What was found.
#[derive(Default)]
struct Found {
    /// Every file, where the kind has many.
    files: Option<Vec<FileReport>>,
    problems: Vec<Problem>,
    /// What could not be checked, and is no problem.
    notes: Vec<String>,
}

fn examine(kind: Kind, path: &Path) -> Result<Found> {
    let with_files = |files: Vec<FileReport>| {
        let problems = files.iter().flat_map(|file| file.problems.clone()).collect();
        Found { files: Some(files), problems, ..Found::default() }
    };
    match kind {
        Kind::Corpus => with_progress("verify", |progress| corpus::examine(path, progress)).map(with_files),
        Kind::Cache => with_progress("verify", |progress| cache::examine(path, progress)).map(with_files),
        Kind::Model => {
            let sealed = files::is_sealed(&path.join(models::MODEL_FILE))?;
            let note = "model.toml is not sealed, as one written by hand may be: its text cannot be checked, the weights were";
            let notes = if sealed { Vec::new() } else { vec![note.to_owned()] };
            Ok(Found { problems: model(path, sealed)?, notes, ..Found::default() })
        }
        Kind::Export => {
            let notes = vec!["every file is there; an export has no hashes of what they hold".to_owned()];
            Ok(Found { problems: cache::export::verify(path), notes, ..Found::default() })
        }
        Kind::Run => {
            let student = path.join(STUDENT);
            let mut problems = directory::verify(path)?;
            if student.exists() {
                problems.extend(model(&student, true)?);
            } else {
                let detail = "missing: the run has not ended; `tutornet train --resume` ends it";
                problems.push(Problem::file(student, detail));
            }
            Ok(Found { problems, ..Found::default() })
        }
    }
}

/// A model's weights against the BLAKE3 in its description, and the tensors against its architecture; the description
/// against its seal where it is to be `sealed`.
fn model(dir: &Path, sealed: bool) -> Result<Vec<Problem>> {
    let text = dir.join(models::MODEL_FILE);
    let read = if sealed { files::read_sealed(&text) } else { files::read_maybe_sealed(&text) };
    let loaded = read
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

/// Runs `work` under a bar of this name; `work` tells bytes done and in all.
pub(super) fn with_progress<T>(
    name: &str,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T>,
) -> Result<T> {
    let mut bar: Option<Progress> = None;
    let mut before = 0;
    let mebibytes = |bytes: u64| bytes >> 20;
    let result = work(&mut |done, total| {
        let bar = bar.get_or_insert_with(|| Progress::new(name, "MiB", mebibytes(total)));
        bar.add(mebibytes(done).saturating_sub(mebibytes(before)));
        before = done;
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    result
}
