//! `tutornet lm`: n-gram models for the beam search.

use std::path::PathBuf;

use super::Context;
use crate::lm::{BuildOptions, MAX_ORDER, build_file};

const EXAMPLES: &str = "\
Examples:
  tutornet lm build --text corpora/clean-100 --order 3 --out lm/clean-100.arpa
  tutornet lm build --text sentences.txt --counts words.txt --order 4 --out lm/mine.arpa
  tutornet lm build --text LibriSpeech/train-clean-100/*/*/*.trans.txt --ids --out lm/train.arpa

Interpolated modified Kneser-Ney smoothing, as KenLM's lmplz estimates it; where a small text gives no
discounts, those of lmplz --discount_fallback. Any ARPA file of up to 6 words can be searched with.";

/// Arguments of `tutornet lm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build a small model from text and word counts
    Build(BuildArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct BuildArgs {
    /// Text files, one sentence a line, or corpus directories, whose transcripts are taken
    #[arg(long, required = true, num_args = 1.., value_name = "FILE|DIR")]
    text: Vec<PathBuf>,
    /// The first word of every line is an utterance's id, as in LibriSpeech's *.trans.txt
    #[arg(long)]
    ids: bool,
    /// Word counts of a larger text, a word and a number a line: they replace the text's own counts of single
    /// words and widen the vocabulary
    #[arg(long, value_name = "FILE")]
    counts: Option<PathBuf>,
    /// Longest n-gram
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = order)]
    order: usize,
    /// The ARPA file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn order(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(order) if (1..=MAX_ORDER).contains(&order) => Ok(order),
        _ => Err(format!("expected 1 to {MAX_ORDER}")),
    }
}

/// Runs `tutornet lm`.
///
/// # Errors
/// See [`build_file`].
pub fn run(args: Args, _: &Context) -> anyhow::Result<()> {
    let Command::Build(args) = args.command;
    let BuildArgs { text, ids, counts, order, out } = args;
    let options = BuildOptions { text, ids, counts, order, out };
    let summary = build_file(&options)?;
    if let (count, Some(first)) = &summary.skipped {
        tracing::warn!("{count} lines were left out; the first: {first}");
    }
    for (index, (count, (discounts, fallback))) in summary.counts.iter().zip(&summary.discounts).enumerate() {
        let [one, two, more] = discounts;
        let source = if *fallback { ", the fallback: too few counts to estimate them" } else { "" };
        tracing::info!("order {}: {count} n-grams, discounts {one:.3} {two:.3} {more:.3}{source}", index + 1);
    }
    tracing::info!("{}: from {} sentences", options.out.display(), summary.sentences);
    Ok(())
}
