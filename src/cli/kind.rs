//! What a path is: every directory between two stages has a file that no other kind has.

use std::path::Path;

use crate::error::{Error, Result};
use crate::{cache, corpus, models, store};

/// Kinds of directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Made by `prep`.
    Corpus,
    /// Made by `import` or `train`.
    Model,
    /// Made by `cache`.
    Cache,
    /// Made by `train`.
    Run,
    /// Made by `cache export`.
    Export,
}

/// The resolved pipeline of a run directory.
pub const PIPELINE: &str = "pipeline.toml";
/// The student's model directory in a run directory.
pub const STUDENT: &str = "student";

impl Kind {
    /// Looks at the names in the directory.
    ///
    /// # Errors
    /// When it is none of ours; the message says what each kind has.
    pub fn of(dir: &Path) -> Result<Self> {
        let has = |name: &str| store::exists(&dir.join(name));
        if has(cache::identity::IDENTITY)? || has(cache::manifest::MANIFEST)? {
            Ok(Self::Cache)
        } else if has(corpus::MANIFEST)? {
            Ok(Self::Corpus)
        } else if has(models::MODEL_FILE)? {
            Ok(Self::Model)
        } else if has(PIPELINE)? {
            Ok(Self::Run)
        } else if has(cache::export::EXPORT)? {
            Ok(Self::Export)
        } else {
            let detail = if store::is_remote(dir) {
                format!(
                    "expected a corpus ({}) or a cache ({}), found none of these objects below it: not completely uploaded, or \
                     another place",
                    corpus::MANIFEST,
                    cache::identity::IDENTITY
                )
            } else if dir.exists() {
                format!(
                    "expected a corpus (with {}), a model ({}), a cache ({}), a run ({PIPELINE}) or an export ({}), found none \
                     of these files: not complete, or another directory",
                    corpus::MANIFEST,
                    models::MODEL_FILE,
                    cache::identity::IDENTITY,
                    cache::export::EXPORT
                )
            } else {
                "there is no such directory".to_owned()
            };
            Err(Error::format(dir, detail))
        }
    }
}
