//! Log lines on stderr: `warning: ...`, `debug: ...`, and plain text for the normal ones.

use std::fmt;
use std::io::Write;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::progress;

/// Environment variable that replaces the filter chosen by `-v` and `-q`.
const FILTER: &str = "TUTORNET_LOG";

/// Installs the log for the rest of the process. `verbosity` as in [`super::Context`].
pub fn log_to_stderr(verbosity: i8) {
    // Libraries (decoders, GPU drivers) speak only when asked: what matters of theirs becomes an error of ours.
    let filter = match verbosity {
        ..=-1 => "error",
        0 => "error,tutornet=info",
        1 => "warn,tutornet=debug",
        2.. => "debug,tutornet=trace",
    };
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(filter));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .event_format(Plain)
        .try_init();
    // A second call (library use, tests) keeps the first log.
    drop(subscriber);
}

/// Standard error, above whatever progress bars are there.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        progress::suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match *event.metadata().level() {
            Level::ERROR => write!(writer, "error: ")?,
            Level::WARN => write!(writer, "warning: ")?,
            Level::INFO => {}
            Level::DEBUG => write!(writer, "debug: ")?,
            Level::TRACE => write!(writer, "trace: ")?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
