//! Asks until there is an answer, for as long as is worth while.

use std::future::Future;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::fault::Fault;
use super::traffic;

/// Pauses between two attempts, the first and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(4)];
/// How often a waiting request looks whether the process is to stop.
const LOOK: Duration = Duration::from_millis(200);
/// After so long without an answer to anybody the user is told.
const SILENT: Duration = Duration::from_secs(5);

/// Repeats a request whose failure may pass, with growing pauses. `attempt` calls [`Bucket::heard`] itself where an answer
/// comes before its end.
///
/// # Errors
/// What the server answered, or that it did not within the bucket's patience, or that the process is to stop.
pub async fn persist<T, F>(bucket: &Bucket, attempt: impl Fn() -> F) -> Result<T, Fault>
where
    F: Future<Output = object_store::Result<T>>,
{
    // When this request, or the server as a whole, fell silent: to wait for one's turn, or for a slow line, is neither.
    let mut silent: Option<Instant> = None;
    let mut pause = PAUSES[0];
    loop {
        let began = Instant::now();
        let fault = match watched(bucket, attempt()).await? {
            Ok(answer) => {
                bucket.heard();
                return Ok(answer);
            }
            Err(error) => bucket.fault(&error),
        };
        if !fault.passing {
            bucket.heard();
            return Err(fault);
        }
        let now = Instant::now();
        let since = now.checked_sub(bucket.quiet()).unwrap_or(began).max(began);
        let waited = now - *silent.get_or_insert(since);
        if waited >= bucket.patience() {
            let words = format!("{}; given up after {:.0} s", fault.words, waited.as_secs_f64());
            return Err(Fault { words, passing: false, ..fault });
        }
        bucket.missed(&fault);
        let until = Instant::now() + jittered(pause);
        while Instant::now() < until {
            if bucket.stop.requested() {
                return Err(Fault::interrupted());
            }
            tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
        pause = (2 * pause).min(PAUSES[1]);
    }
}

/// One attempt, in its turn; gives up when the process is to stop.
async fn watched<T>(
    bucket: &Bucket,
    attempt: impl Future<Output = object_store::Result<T>>,
) -> Result<object_store::Result<T>, Fault> {
    let _place = bucket.places.acquire().await.map_err(|_| Fault::interrupted())?;
    let mut attempt = std::pin::pin!(attempt);
    let began = Instant::now();
    traffic::asked();
    loop {
        if let Ok(outcome) = tokio::time::timeout(LOOK, &mut attempt).await {
            return Ok(outcome);
        }
        // With notice what is in hand is finished, unless nobody sends it.
        let silent = began.elapsed() >= SILENT && bucket.quiet() >= SILENT;
        if bucket.stop.at_once() || bucket.stop.noticed() && silent {
            return Err(Fault::interrupted());
        }
        if began.elapsed() >= SILENT {
            bucket.silent(SILENT);
        }
    }
}

/// Between three quarters of a pause and the whole: many readers do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let nanoseconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pause.mul_f64(0.75 + 0.25 * f64::from(nanoseconds.subsec_micros() % 1000) / 1000.0)
}
