//! The command line: one file per subcommand, arguments to library calls and nothing else.
//!
//! Results go to stdout (through [`print`]), everything else to stderr. Exit codes: 0 done,
//! 1 failed, 2 wrong usage, 75 to be run again after a SIGUSR1.

mod cache;
mod eval;
mod import;
mod inspect;
mod kind;
mod life;
mod lm;
mod log;
mod plan;
mod prep;
mod report;
mod search;
mod train;
mod transcribe;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

pub use log::log_to_stderr;

use crate::signal::Stop;
use crate::store;

const BUCKETS: &str = "\
Corpora and caches may lie in an S3-compatible bucket: s3://BUCKET/PREFIX, with credentials, region and endpoint in AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL (AWS_ALLOW_HTTP=true for http://). What was fetched is kept in
TUTORNET_REMOTE_CACHE [~/.cache/tutornet], TUTORNET_REMOTE_CACHE_MB [10000] at most; a server that does not answer any more is
waited for, TUTORNET_REMOTE_WAIT [300] seconds.";

/// Knowledge distillation for speech recognisers: a teacher runs once, its cache trains any number of students.
#[derive(Debug, Parser)]
#[command(name = "tutornet", version, propagate_version = true, subcommand_required = true, after_help = BUCKETS)]
pub struct Arguments {
    /// Say more (-v: decisions and timings, -vv: everything, libraries included)
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", display_order = 900)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// -1 with `--quiet`, else how often `-v` was given.
    pub fn verbosity(&self) -> i8 {
        if self.quiet { -1 } else { i8::try_from(self.verbose).unwrap_or(i8::MAX) }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a tree of audio and transcripts into a corpus of log-mel features
    Prep(prep::Args),
    /// Read a foreign checkpoint into a model directory
    Import(import::Args),
    /// Run a teacher once over a corpus and keep what distillation needs
    Cache(Box<cache::Args>),
    /// Train a student on corpora and teachers' caches, stage by stage
    Train(train::Args),
    /// Score a model on a corpus: word and character error rates
    Eval(eval::Args),
    /// Turn audio files into text
    Transcribe(transcribe::Args),
    /// Build n-gram language models for the beam search
    Lm(lm::Args),
    /// Put runs side by side: a table and plots
    Report(report::Args),
    /// Check that every byte of a corpus, model, cache or run is as it was written, and that an export is complete
    Verify(verify::Args),
    /// Say what a corpus, model, cache, export, run or preset is
    Inspect(inspect::Args),
    /// Say what a cache will cost before it is made: bytes, hours, and whether it pays
    Plan(plan::Args),
}

/// What every subcommand gets besides its arguments.
#[derive(Debug)]
pub struct Context {
    /// -1 quiet, 0 normal, 1 and more verbose.
    pub verbosity: i8,
    /// Becomes true on SIGINT, SIGTERM and SIGUSR1.
    pub stop: Stop,
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever made it fail; a [`clap::Error`] in the chain means wrong usage.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    crate::memory::keep_freed_buffers();
    let context = Context { verbosity: arguments.verbosity(), stop: Stop::on_signals()? };
    store::heed(&context.stop);
    let result = match arguments.command {
        Command::Prep(args) => prep::run(args, &context),
        Command::Import(args) => import::run(args, &context),
        Command::Cache(args) => cache::run(*args, &context),
        Command::Train(args) => train::run(args, &context),
        Command::Eval(args) => eval::run(args, &context),
        Command::Transcribe(args) => transcribe::run(args, &context),
        Command::Lm(args) => lm::run(args, &context),
        Command::Report(args) => report::run(args, &context),
        Command::Verify(args) => verify::run(args, &context),
        Command::Inspect(args) => inspect::run(args, &context),
        Command::Plan(args) => plan::run(args, &context),
    };
    if let Some(traffic) = store::traffic() {
        tracing::info!("{traffic}");
    }
    result.map_err(|error| {
        let interrupted = matches!(error.downcast_ref(), Some(crate::Error::Interrupted(_)));
        if interrupted && context.stop.noticed() { Again(error).into() } else { error }
    })
}

/// `EX_TEMPFAIL` of sysexits.h: try again.
const AGAIN: u8 = 75;

/// Stopped by notice: the same command is to be run again, which its exit code says.
#[derive(Debug)]
struct Again(anyhow::Error);

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Again {}

/// Prints a result on stdout, with a line end.
///
/// # Errors
/// When stdout does not take it; [`report_error`] treats a closed pipe as success.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()?;
    Ok(())
}

/// Wrong usage that clap cannot see by itself: exit code 2, with the usage line of `subcommand`.
pub fn usage_error(subcommand: &[&str], detail: String) -> anyhow::Error {
    let mut command = Arguments::command();
    command.build();
    for name in subcommand {
        let Some(found) = command.find_subcommand(name).cloned() else { break };
        command = found;
    }
    command.error(ErrorKind::MissingRequiredArgument, detail).into()
}

/// Prints the chain of causes on stderr and gives the exit code.
pub fn report_error(error: &anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // A closed stderr leaves nobody to tell.
        let _ = usage.print();
        return ExitCode::from(2);
    }
    // `tutornet inspect X | head -1` is no failure. Only a bare error of stdout counts: a broken pipe that
    // the library met carries a path.
    let direct = error.downcast_ref::<std::io::Error>();
    if direct.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Library errors already end in the words of their source.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    // What a damaged file holds is not for the terminal to obey.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    let _ = writeln!(std::io::stderr().lock(), "error: {text}");
    if error.is::<Again>() { ExitCode::from(AGAIN) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_names_the_subcommand() {
        let error = usage_error(&["prep", "librispeech"], "give a subset".to_owned());
        let error = error.downcast_ref::<clap::Error>().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("tutornet prep librispeech"), "{error}");
    }
}
