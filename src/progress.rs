//! Progress bars with ETA on a terminal, plain lines every few seconds otherwise; always on stderr.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two plain lines where stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Every bar on the terminal, so that log lines can step aside for all of them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs `write` while no bar is on the terminal; what writes to stderr goes through here.
pub fn suspend<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Progress of one task over a known number of units.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Plain>,
    task: String,
    unit: String,
}

#[derive(Debug)]
struct Plain {
    started: Instant,
    last: std::sync::Mutex<Instant>,
}

impl Progress {
    /// A bar over `total` units, called `unit` in the output.
    pub fn new(task: &str, unit: &str, total: u64) -> Self {
        use std::io::IsTerminal;
        let terminal = std::io::stderr().is_terminal();
        let quiet = !tracing::enabled!(tracing::Level::INFO);
        let bar = if terminal && !quiet {
            BARS.add(ProgressBar::new(total))
        } else {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        };
        // The message brings its own distance, so that none leaves no gap.
        let template = format!(
            "{{prefix:>10.bold}} [{{bar:32}}] {{pos}}/{{len}} {unit}{{msg}}, {{elapsed}} elapsed, {{eta}} left"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(task.to_owned());
        let now = Instant::now();
        let plain = (!terminal && !quiet).then(|| Plain { started: now, last: std::sync::Mutex::new(now) });
        Self { bar, plain, task: task.to_owned(), unit: unit.to_owned() }
    }

    /// Advances by `units`.
    pub fn add(&self, units: u64) {
        self.bar.inc(units);
        let Some(plain) = &self.plain else { return };
        let Ok(mut last) = plain.last.lock() else { return };
        if last.elapsed() < PLAIN_INTERVAL {
            return;
        }
        *last = Instant::now();
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let elapsed = plain.started.elapsed().as_secs_f64();
        let left = if done > 0 { elapsed * (total.saturating_sub(done)) as f64 / done as f64 } else { 0.0 };
        let message = self.bar.message();
        tracing::info!(
            "{}: {done}/{total} {}{message}, {elapsed:.0} s elapsed, {left:.0} s left",
            self.task,
            self.unit
        );
    }

    /// Shows a short message beside the bar.
    pub fn message(&self, message: String) {
        self.bar.set_message(if message.is_empty() { message } else { format!(", {message}") });
    }

    /// Prints a line above the bar.
    pub fn line(&self, line: &str) {
        tracing::info!("{line}");
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
