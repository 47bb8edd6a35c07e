//! One bucket: how it is reached, and whether it answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientConfigKey, RetryConfig};
use tokio::sync::Semaphore;

use super::fault::Fault;
use crate::error::{Error, Result};
use crate::signal::Stop;
use crate::store::SCHEME;
use crate::store::settings::Settings;

/// A server that never answered is waited for so long at most: the address may be wrong.
const FIRST_WAIT: Duration = Duration::from_secs(20);
/// A connection that brings nothing for so long is given up; slow ones are not (a limit for a whole request, which
/// is the library's default, would end them).
const SILENCE: &str = "15 seconds";
/// Between two lines that say that a server is still gone.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// A bucket.
#[derive(Debug)]
pub struct Bucket {
    pub store: AmazonS3,
    pub name: String,
    pub endpoint: String,
    pub stop: Stop,
    /// Requests at a time, over all buckets.
    pub places: Arc<Semaphore>,
    /// Whether credentials can only come from a role of the machine.
    role: bool,
    wait: Duration,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    /// Whether there ever was an answer.
    answered: bool,
    /// The last answer, or the beginning.
    last: Instant,
    /// When the server went, and when that was last said.
    gone: Option<(Instant, Instant)>,
}

impl Bucket {
    /// A bucket with credentials, endpoint and region from the environment, as the AWS tools read it.
    ///
    /// # Errors
    /// When the environment is not enough, or contradicts itself.
    pub fn open(name: &str, settings: &Settings, places: &Arc<Semaphore>) -> Result<Self> {
        let wrong = |detail: String| Error::invalid(format!("{SCHEME}{name}: {detail}"));
        let key = |key| AmazonS3ConfigKey::Client(key);
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
        let given = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).filter(|v| !v.is_empty());
        let endpoint = given(&builder, AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| given(&builder, AmazonS3ConfigKey::Endpoint));
        let allowed = given(&builder, key(ClientConfigKey::AllowHttp)).is_some_and(|v| v != "false");
        if endpoint.as_ref().is_some_and(|e| e.starts_with("http://")) && !allowed {
            let detail = "AWS_ENDPOINT_URL is an http:// address, over which nothing is encrypted; set AWS_ALLOW_HTTP=true \
                          to use it";
            return Err(wrong(detail.to_owned()));
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        if set("AWS_ACCESS_KEY_ID") != set("AWS_SECRET_ACCESS_KEY") {
            return Err(wrong(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together; one is not set".to_owned(),
            ));
        }
        let sources = [
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_SKIP_SIGNATURE",
        ];
        let role = !sources.into_iter().any(set);
        if !set("AWS_READ_TIMEOUT") {
            builder = builder.with_config(key(ClientConfigKey::ReadTimeout), SILENCE);
        }
        if !set("AWS_TIMEOUT") {
            // As good as none: what counts is silence.
            builder = builder.with_config(key(ClientConfigKey::Timeout), "1 hour");
        }
        // Requests are repeated here, signed anew.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store = builder.with_retry(retry).build().map_err(|e| wrong(e.to_string()))?;
        let health = Health { answered: false, last: Instant::now(), gone: None };
        Ok(Self {
            store,
            name: name.to_owned(),
            endpoint: endpoint.unwrap_or_else(|| "AWS S3".to_owned()),
            stop: settings.stop.clone(),
            places: Arc::clone(places),
            role,
            wait: settings.wait,
            health: Mutex::new(health),
        })
    }

    /// What an error of the library means here.
    pub fn fault(&self, error: &object_store::Error) -> Fault {
        let answered = self.health.lock().unwrap_or_else(PoisonError::into_inner).answered;
        Fault::of(error, &self.name, &self.endpoint, self.role && !answered)
    }

    /// How long a request that gets no answer is repeated.
    pub fn patience(&self) -> Duration {
        let answered = self.health.lock().unwrap_or_else(PoisonError::into_inner).answered;
        if answered { self.wait } else { self.wait.min(FIRST_WAIT) }
    }

    /// The server answered.
    pub fn heard(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        (health.answered, health.last) = (true, Instant::now());
        if let Some((since, _)) = health.gone.take() {
            let seconds = since.elapsed().as_secs_f64();
            tracing::warn!("{SCHEME}{}: answers again after {seconds:.0} s", self.name);
        }
    }

    /// How long nothing has been answered.
    pub fn quiet(&self) -> Duration {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).last.elapsed()
    }

    /// The server did not answer, as `fault` says.
    pub fn missed(&self, fault: &Fault) {
        self.complain(&fault.words, false);
    }

    /// A request has waited for `waited`; if nobody else was answered either, the user is told.
    pub fn silent(&self, waited: Duration) {
        if self.quiet() >= waited {
            self.complain(
                &format!("{} has not answered for {:.0} s", self.endpoint, waited.as_secs_f64()),
                true,
            );
        }
    }

    fn complain(&self, words: &str, hanging: bool) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = match health.gone {
            Some((_, said)) if now.duration_since(said) < SAY_AGAIN => return,
            Some((since, _)) => since,
            None if hanging => health.last,
            None => now,
        };
        let wait = if health.answered { self.wait } else { self.wait.min(FIRST_WAIT) };
        health.gone = Some((since, now));
        drop(health);
        tracing::warn!(
            "{SCHEME}{}: {words}; waiting for it, {:.0} s at most",
            self.name,
            wait.saturating_sub(now.duration_since(since)).as_secs_f64()
        );
    }
}
