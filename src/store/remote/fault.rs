//! What an answer of a server, or none, means to the user.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::Error;

/// Why something could not be read from a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// As the operating system would call it.
    pub kind: ErrorKind,
    /// What happened, and what to do.
    pub words: String,
    /// Whether the same request may be answered later.
    pub passing: bool,
}

impl Fault {
    fn lasting(kind: ErrorKind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), passing: false }
    }

    /// A stop was requested.
    pub fn interrupted() -> Self {
        Self::lasting(ErrorKind::Interrupted, "stopped while waiting for the server")
    }

    /// Something that this program did not foresee.
    pub fn other(words: impl Into<String>) -> Self {
        Self::lasting(ErrorKind::Other, words)
    }

    /// Of the library's error about a bucket at an endpoint; `role` says that there are no credentials but those of a
    /// role that the machine may have, and that it never gave any.
    pub fn of(error: &object_store::Error, bucket: &str, endpoint: &str, role: bool) -> Self {
        let text = error.to_string();
        let code = element(&text, "Code").unwrap_or_default();
        let message = element(&text, "Message").unwrap_or_default();
        // An answer with a code comes from the bucket, which was asked after credentials had been found.
        if role && code.is_empty() {
            return Self::lasting(
                ErrorKind::PermissionDenied,
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`aws configure export-credentials \
                 --format env` prints those of a profile), or AWS_SKIP_SIGNATURE=true for a public bucket; this \
                 machine has no role of its own either",
            );
        }
        match (error, code) {
            (_, "NoSuchBucket") => Self::lasting(
                ErrorKind::InvalidInput,
                format!("there is no bucket {bucket} at {endpoint}; check the address and AWS_ENDPOINT_URL"),
            ),
            (object_store::Error::NotFound { .. }, _) => {
                Self::lasting(ErrorKind::NotFound, "there is no such object: is the upload complete?")
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken") => {
                Self::lasting(
                    ErrorKind::PermissionDenied,
                    format!(
                        "{endpoint} does not accept the credentials ({code}): check AWS_ACCESS_KEY_ID, \
                         AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
                    ),
                )
            }
            (_, "RequestTimeTooSkewed") => Self::lasting(
                ErrorKind::PermissionDenied,
                "the clock of this machine is off: the server refuses the time that the request carries",
            ),
            (
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
                _,
            ) => Self::lasting(
                ErrorKind::PermissionDenied,
                format!(
                    "denied by {endpoint}{}: the credentials need s3:GetObject and s3:ListBucket on bucket {bucket} \
                     (without the latter a missing object looks denied as well)",
                    if code.is_empty() { String::new() } else { format!(" ({code})") }
                ),
            ),
            (object_store::Error::Precondition { .. }, _) => Self::lasting(
                ErrorKind::InvalidData,
                "the object was replaced while it was read; begin again with what lies there now",
            ),
            _ => Self::unforeseen(error, &text, (code, message), endpoint),
        }
    }

    fn unforeseen(
        error: &object_store::Error,
        text: &str,
        (code, message): (&str, &str),
        endpoint: &str,
    ) -> Self {
        if let Some(http) = http(error) {
            let words = format!("{endpoint} does not answer: {}", innermost(http));
            return Self { kind: ErrorKind::TimedOut, words, passing: http.kind() != HttpErrorKind::Decode };
        }
        match status(text) {
            Some(status) if status >= 500 || status == 429 || status == 408 => Self {
                kind: ErrorKind::TimedOut,
                words: format!("{endpoint} answers with status {status} {code}").trim_end().to_owned(),
                passing: true,
            },
            Some(status) if (300..400).contains(&status) || code.contains("AuthorizationHeader") => {
                Self::other(format!(
                    "{endpoint} sends to another place (status {status} {code}): the bucket lies in another region; \
                     set AWS_REGION"
                ))
            }
            // No such range: the object is empty.
            Some(416) => Self::lasting(ErrorKind::UnexpectedEof, "the object is shorter than expected"),
            Some(status) => Self::other(format!("{endpoint} answers with status {status} {code}: {message}")),
            None if text.contains("non-partial response") => Self::lasting(
                ErrorKind::Unsupported,
                format!(
                    "{endpoint} does not answer requests for a part of an object; check AWS_ENDPOINT_URL"
                ),
            ),
            None if text.contains("LOCATION") => {
                Self::other(format!("{endpoint}: the bucket lies in another region; set AWS_REGION"))
            }
            None => Self::other(format!(
                "{endpoint} does not answer as S3 does; check AWS_ENDPOINT_URL: {}",
                innermost(error)
            )),
        }
    }

    /// The error of an operation on a place.
    pub fn error(self, action: &'static str, path: &Path) -> Error {
        if self.kind == ErrorKind::Interrupted {
            return Error::Interrupted(format!("{}: {}", path.display(), self.words));
        }
        Error::io(action, path, io::Error::new(self.kind, self.words))
    }
}

/// The text of an element of an S3 error.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0)
}

/// The HTTP status that the library puts into words.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The transport's error among the causes.
fn http(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref() {
            return Some(http);
        }
        cause = error.source();
    }
    None
}

/// The last cause, which says most.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn http_error(kind: HttpErrorKind, words: &str) -> object_store::Error {
        let http = HttpError::new(kind, io::Error::other(words.to_owned()));
        object_store::Error::Generic { store: "S3", source: Box::new(http) }
    }

    fn of(error: &object_store::Error) -> Fault {
        Fault::of(error, "speech", "https://host", false)
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        let answer = |status: &str, code: &str| {
            generic(&format!(
                "Error performing GET in 1ms - Server returned non-2xx status code: {status}: <Error><Code>{code}</Code>\
                 <Message>so it is</Message></Error>"
            ))
        };
        for (error, words) in [
            (answer("503 Service Unavailable", "SlowDown"), "answers with status 503 SlowDown"),
            (answer("500 Internal Server Error", ""), "answers with status 500"),
            (answer("429 Too Many Requests", ""), "answers with status 429"),
            (http_error(HttpErrorKind::Connect, "Connection refused"), "does not answer: Connection refused"),
            (http_error(HttpErrorKind::Timeout, "timed out"), "does not answer: timed out"),
            (http_error(HttpErrorKind::Interrupted, "reset"), "does not answer: reset"),
        ] {
            let fault = of(&error);
            assert!(fault.passing && fault.words.contains(words), "{fault:?}");
        }
        for (error, words) in [
            (answer("400 Bad Request", "AuthorizationHeaderMalformed"), "AWS_REGION"),
            (answer("301 Moved", "PermanentRedirect"), "AWS_REGION"),
            (answer("400 Bad Request", "Other"), "status 400 Other: so it is"),
            (generic("Content-Range header not present"), "AWS_ENDPOINT_URL"),
        ] {
            let fault = of(&error);
            assert!(!fault.passing && fault.words.contains(words), "{fault:?}");
        }
        assert_eq!(of(&answer("416 Range Not Satisfiable", "InvalidRange")).kind, ErrorKind::UnexpectedEof);
        let role = http_error(HttpErrorKind::Connect, "no route");
        for error in [role, generic("Server returned non-2xx status code: 403 Forbidden: ")] {
            assert!(Fault::of(&error, "speech", "AWS S3", true).words.contains("no credentials"));
        }
    }

    #[test]
    fn what_is_missing_or_denied_is_named() {
        let missing = |code: &str| object_store::Error::NotFound {
            path: "a".to_owned(),
            source: format!("<Error><Code>{code}</Code></Error>").into(),
        };
        assert_eq!(of(&missing("NoSuchKey")).kind, ErrorKind::NotFound);
        let bucket = of(&missing("NoSuchBucket"));
        assert!(
            bucket.kind != ErrorKind::NotFound && bucket.words.contains("no bucket speech at https://host")
        );
        let denied = |code: &str| object_store::Error::PermissionDenied {
            path: "a".to_owned(),
            source: format!("<Error><Code>{code}</Code></Error>").into(),
        };
        assert!(of(&denied("SignatureDoesNotMatch")).words.contains("AWS_SECRET_ACCESS_KEY"));
        assert!(of(&denied("AccessDenied")).words.contains("s3:GetObject"));
        assert!(of(&denied("RequestTimeTooSkewed")).words.contains("clock"));
        let path = Path::new("s3://speech/a");
        assert!(matches!(Fault::interrupted().error("read", path), Error::Interrupted(_)));
        assert!(
            of(&missing("NoSuchKey"))
                .error("read", path)
                .to_string()
                .starts_with("cannot read s3://speech/a: ")
        );
    }
}
