//! `tutornet prep`: a tree of audio and transcripts becomes a corpus.

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;

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

#[derive(Debug, clap::Args)]
struct Librispeech {
    /// The directory that holds the subsets (LibriSpeech/ after unpacking the archives)
    root: PathBuf,
}

/// Runs `tutornet prep`.
///
/// # Errors
/// See [`crate::corpus`].
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    let Source::Librispeech(args) = args.source;
    anyhow::bail!("not there yet: {}", args.root.display())
}
