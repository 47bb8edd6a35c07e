//! `tutornet prep`: a tree of audio and transcripts becomes a corpus.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Subcommand, ValueEnum};

use super::Context;
use crate::corpus::{self, Options, Outcome, SHARD_UTTERANCES, SKIPPED, Speed};
use crate::features::{FrameRule, Frontend, NemoRule, Padding};

/// Arguments of `tutornet prep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Source {
    /// LibriSpeech: ROOT/SUBSET/speaker/chapter/*.flac with *.trans.txt beside them
    Librispeech(Librispeech),
}

const EXAMPLES: &str = "\
Examples:
  tutornet prep librispeech data/LibriSpeech --subset dev-clean --out corpora/dev-clean
  tutornet prep librispeech data/LibriSpeech --subset train-clean-100 --subset train-clean-360 \\
      --out corpora/clean-460 --shard-utterances 1000
  tutornet prep librispeech data/LibriSpeech --subset train-clean-100 --speed 0.9,1.1 --out corpora/clean-100-speed
  tutornet prep librispeech data/LibriSpeech --subset dev-clean --out corpora/dev-os2s --frontend openseq2seq

Run the same command again after an interruption: it goes on after the last complete shard.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Librispeech {
    /// The directory that holds the subsets (LibriSpeech/ after unpacking the archives)
    root: PathBuf,
    /// A subset to include; repeat for several in one corpus
    #[arg(long = "subset", value_name = "NAME")]
    subsets: Vec<String>,
    /// Also prepare a copy of every utterance at these speeds, as ID@speed0.9 and ID@speed1.1: 1.1 is 1.1 times
    /// faster, so shorter and higher (OpenSeq2Seq's factors are lengths: its 0.9,1.1 is 0.909,1.111 here).
    /// For training corpora only
    #[arg(long = "speed", value_name = "SPEEDS", value_delimiter = ',')]
    speeds: Vec<Speed>,
    /// The corpus directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Utterances per shard, the grain of everything that runs shard by shard
    #[arg(long, value_name = "N", default_value_t = SHARD_UTTERANCES, value_parser = at_least_one)]
    shard_utterances: usize,
    /// The feature chain; it must be the one of the models that will read the corpus
    #[arg(long, value_enum, default_value_t = FrontendName::Nemo)]
    frontend: FrontendName,
    /// Frames for N samples: ceil(N/160), floor(N/160) or floor(N/160)+1 (NeMo's versions differ) [default: ceil]
    #[arg(long, value_enum, value_name = "RULE")]
    nemo_frames: Option<FrameRule>,
    /// What the transform sees beyond the ends of the audio (NeMo's versions differ) [default: reflect]
    #[arg(long, value_enum, value_name = "PADDING")]
    nemo_padding: Option<Padding>,
    /// Fail at the first utterance that cannot be used, instead of skipping it
    #[arg(long)]
    strict: bool,
    /// Decoding threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    workers: Option<usize>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FrontendName {
    Nemo,
    #[value(name = "openseq2seq")]
    OpenSeq2Seq,
    #[value(name = "deeplearningexamples")]
    DeepLearningExamples,
}

/// A whole number of at least 1.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

/// Runs `tutornet prep`.
///
/// # Errors
/// See [`corpus::prep`].
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let Source::Librispeech(args) = args.source;
    let usage = |detail: String| super::usage_error(&["prep", "librispeech"], detail);
    if args.subsets.is_empty() {
        let there = corpus::subsets(&args.root).unwrap_or_default();
        return Err(usage(match there.as_slice() {
            [] => format!("--subset is missing, and {} holds no subset", args.root.display()),
            there => format!("--subset is missing; {} holds {}", args.root.display(), there.join(", ")),
        }));
    }
    let frontend = match args.frontend {
        FrontendName::Nemo => Frontend::Nemo(NemoRule {
            frames: args.nemo_frames.unwrap_or_default(),
            padding: args.nemo_padding.unwrap_or_default(),
        }),
        _ if args.nemo_frames.is_some() || args.nemo_padding.is_some() => {
            return Err(usage("--nemo-frames and --nemo-padding go with --frontend nemo only".to_owned()));
        }
        FrontendName::OpenSeq2Seq => Frontend::OpenSeq2Seq,
        FrontendName::DeepLearningExamples => Frontend::DeepLearningExamples,
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options {
        root: args.root,
        subsets: args.subsets,
        speeds: args.speeds,
        out: args.out,
        shard_utterances: args.shard_utterances,
        frontend,
        strict: args.strict,
        workers: args.workers.unwrap_or(cores),
    };
    let started = Instant::now();
    let outcome = corpus::prep(&options, &context.stop)?;
    let seconds = started.elapsed().as_secs_f64();
    if outcome.without_md5 > 0 {
        tracing::warn!(
            "{} FLAC files carry no MD5; only their number of samples was checked",
            outcome.without_md5
        );
    }
    super::print(&if args.json { json(&options, &outcome)? } else { summary(&options, &outcome, seconds) })
}

fn summary(options: &Options, outcome: &Outcome, seconds: f64) -> String {
    let manifest = &outcome.manifest;
    let out = options.out.display();
    let mut text = format!(
        "{out}: {:.2} hours, {}, {}, {}, {}",
        manifest.hours,
        counted(manifest.utterances, "utterance"),
        counted(manifest.speakers, "speaker"),
        counted(manifest.shards.len(), "shard"),
        manifest.frontend.prep_arguments()
    );
    if !manifest.speeds.is_empty() {
        let speeds: Vec<String> = manifest.speeds.iter().map(Speed::to_string).collect();
        text += &format!("\nwith copies of every utterance at speed {}", speeds.join(" and "));
    }
    if outcome.already_complete {
        text += "\nalready complete: nothing was done";
    } else {
        let speed = manifest.hours * 3600.0 / seconds.max(1e-3);
        let kept = outcome.kept_shards;
        text += &match kept {
            0 => format!("\nprepared in {seconds:.1} s, {speed:.0} times real time"),
            n => format!("\nprepared in {seconds:.1} s, {} kept from the run before", counted(n, "shard")),
        };
    }
    match manifest.skipped.utterances {
        0 => text += "\nskipped: none",
        n => {
            let list = options.out.join(SKIPPED);
            text += &format!("\nskipped: {n} ({}), listed in {}", outcome.reasons(), list.display());
        }
    }
    text
}

/// `1 shard`, `2 shards`.
fn counted<N: std::fmt::Display + PartialEq + From<u8>>(n: N, thing: &str) -> String {
    let plural = if n == N::from(1) { "" } else { "s" };
    format!("{n} {thing}{plural}")
}

fn json(options: &Options, outcome: &Outcome) -> anyhow::Result<String> {
    let manifest = &outcome.manifest;
    Ok(serde_json::to_string(&serde_json::json!({
        "corpus": options.out.to_string_lossy(),
        "already_complete": outcome.already_complete,
        "hours": manifest.hours,
        "utterances": manifest.utterances,
        "speakers": manifest.speakers,
        "speeds": manifest.speeds,
        "shards": manifest.shards.len(),
        "frontend": manifest.frontend,
        "skipped": manifest.skipped.utterances,
        "reasons": outcome.skipped,
    }))?)
}
