//! `tutornet eval`: word and character error rates of a model on a corpus.

use std::path::{Path, PathBuf};

use super::Context;
use super::search::SearchArgs;
use crate::corpus::Corpus;
use crate::device::DeviceChoice;
use crate::files;
use crate::models::{self, Model};
use crate::score::{EvaluateOptions, Scores, Subject, evaluate, write_utterance_scores};

/// Arguments of `tutornet eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tutornet eval --model models/quartznet15x5 --corpus data/dev-clean
  tutornet eval --model runs/ctc/student --corpus data/dev-clean --out runs/ctc/scores/dev-clean.json
  tutornet eval --model runs/ctc/student --corpus data/dev-clean --per-utterance - --align
  tutornet eval --model runs/ctc/student --corpus data/dev-clean --lm lm/train.arpa --lm-weight 2 --word-bonus 1.5

Decoding is greedy unless --beam or --lm is given. Rates are percentages; intervals are 95 % bootstrap
intervals over utterances.")]
pub struct Args {
    /// Model directory, as `import` and `train` make it
    #[arg(long, value_name = "MODELDIR")]
    model: PathBuf,
    /// Corpus directory or s3:// address, prepared for the model's frontend
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Where to compute: auto, cpu, wgpu[:i] or cuda[:i]
    #[arg(long, default_value_t, value_name = "D")]
    device: DeviceChoice,
    /// Print the scores as one JSON object
    #[arg(long)]
    json: bool,
    /// Write the same JSON to FILE, and the table of utterances beside it with the extension tsv;
    /// `report` reads RUNDIR/scores/NAME.json, NAME being the corpus
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write id, errors, words, reference and hypothesis of every utterance to FILE, tab-separated; - for stdout
    #[arg(long, value_name = "FILE")]
    per_utterance: Option<PathBuf>,
    /// In that table, let reference and hypothesis of every wrong utterance follow word under word
    #[arg(long, requires = "per_utterance")]
    align: bool,
    /// Padded audio in a batch, in seconds
    #[arg(long, default_value_t = 120.0, value_name = "SECONDS")]
    batch_seconds: f64,
    #[command(flatten)]
    search: SearchArgs,
}

/// Runs `tutornet eval`.
///
/// # Errors
/// See [`evaluate`]; a model, a corpus, a device or a file that cannot be opened.
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let table_to_stdout = args.per_utterance.as_deref() == Some(Path::new("-"));
    if args.json && table_to_stdout {
        let detail = "--json and --per-utterance - both write to stdout: give the table a file".to_owned();
        return Err(super::usage_error(&["eval"], detail));
    }
    let corpus = Corpus::open(&args.corpus)?;
    let device = args.device.open()?;
    let model = Model::load(&args.model, &device)?;
    let options = EvaluateOptions {
        decoder: args.search.open(false)?,
        batch_seconds: args.batch_seconds,
        progress: Some("eval".to_owned()),
        stop: context.stop.clone(),
    };
    let started = std::time::Instant::now();
    let mut evaluation = evaluate(&model, &corpus, &device, &options)?;
    let seconds = started.elapsed().as_secs_f64();
    let scores = &mut evaluation.scores;
    scores.model = Some(Subject { name: model.config.name.clone(), blake3: models::identity(&args.model)? });
    scores.corpus = Some(Subject { name: args.corpus.display().to_string(), blake3: corpus.identity() });
    tracing::debug!("{:.1} s of audio in {seconds:.1} s", scores.audio_seconds);
    if scores.all_blank && scores.search.is_none() {
        tracing::warn!("every frame's best label is the blank: the model has not learned to emit text");
    }
    if let Some(path) = &args.out {
        Scores::save(&evaluation, path)?;
    }
    let scores = &evaluation.scores;
    if let Some(path) = &args.per_utterance {
        let table = write_utterance_scores(&evaluation.per_utterance, args.align);
        if table_to_stdout {
            super::print(&table)?;
        } else {
            files::write(path, table.as_bytes())?;
        }
    }
    match (args.json, table_to_stdout) {
        (true, _) => super::print(&scores.to_json()?),
        (false, false) => super::print(&scores.to_string()),
        // The table has stdout to itself.
        (false, true) => {
            tracing::info!("{scores}");
            Ok(())
        }
    }
}
