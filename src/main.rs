//! The `tutornet` program: parse, log to stderr, run, print the error chain.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = tutornet::cli::Arguments::parse();
    tutornet::cli::log_to_stderr(arguments.verbosity());
    match tutornet::cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tutornet::cli::report_error(&error),
    }
}
