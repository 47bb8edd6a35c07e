//! `s3://BUCKET/KEY`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::store::SCHEME;

/// Where an object lies.
#[derive(Debug, Clone)]
pub struct Address {
    /// As the user wrote it, without a slash at its end.
    pub url: String,
    /// The bucket.
    pub bucket: String,
    /// The object's name in the bucket; empty for the bucket itself.
    pub key: object_store::path::Path,
}

impl Address {
    /// Takes an address apart.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(path: &Path) -> Result<Self> {
        let url = path.to_string_lossy();
        let wrong = |detail: &str| {
            Error::invalid(format!("{}: expected s3://BUCKET/PREFIX, {detail}", path.display()))
        };
        let rest = url.strip_prefix(SCHEME).ok_or_else(|| wrong("found another address"))?;
        let rest = rest.trim_end_matches('/');
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("found no bucket"));
        }
        let key = object_store::path::Path::parse(key).map_err(|e| wrong(&e.to_string()))?;
        Ok(Self { url: format!("{SCHEME}{rest}"), bucket: bucket.to_owned(), key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_bucket_and_a_key() {
        let parse = |text: &str| {
            Address::parse(Path::new(text))
                .map(|a| (a.bucket, a.key.to_string()))
                .map_err(|error| error.to_string())
        };
        let two = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(parse("s3://bucket/a/b c.toml"), two("bucket", "a/b c.toml"));
        assert_eq!(parse("s3://bucket/a/"), two("bucket", "a"));
        assert_eq!(parse("s3://bucket"), two("bucket", ""));
        for (bad, word) in [
            ("s3://", "no bucket"),
            ("s3:///key", "no bucket"),
            ("s3:////", "no bucket"),
            ("s3://b/a//c", "expected s3://"),
        ] {
            assert!(parse(bad).unwrap_err().contains(word), "{bad}");
        }
    }
}
