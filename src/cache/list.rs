//! The caches below a directory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::identity::{IDENTITY, Identity, short};
use super::manifest::Manifest;
use crate::error::{Error, Result};
use crate::store;

/// Directories below a given one that are looked into.
const DEPTH: usize = 6;

/// One cache, complete or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// Where it lies.
    pub cache: PathBuf,
    /// Name of the teacher.
    pub teacher: String,
    /// First digits of the BLAKE3 of what the teacher computes.
    pub teacher_hash: String,
    /// First digits of the identity of the corpus.
    pub corpus: String,
    /// Codec of the hidden states.
    pub codec: String,
    /// `last`, and the inner layers.
    pub layers: String,
    /// Utterances; of a complete cache.
    pub utterances: Option<u64>,
    /// Output frames; of a complete cache.
    pub frames: Option<u64>,
    /// Size of its files.
    pub bytes: u64,
    /// `complete`, `incomplete`, or what is wrong with it.
    pub state: String,
}

/// Every cache in `root` and below it, by path. Payloads are not looked at.
///
/// # Errors
/// When a directory cannot be listed.
pub fn list(root: &Path) -> Result<Vec<Listed>> {
    store::require_local(root)?;
    let mut found = Vec::new();
    walk(root, DEPTH, &mut found)?;
    found.sort_by(|a, b| a.cache.cmp(&b.cache));
    Ok(found)
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<Listed>) -> Result<()> {
    if dir.join(IDENTITY).is_file() {
        found.push(describe(dir)?);
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let failed = |e| Error::io("list", dir, e);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Links are not followed: they may lead round in a circle.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

fn describe(dir: &Path) -> Result<Listed> {
    let failed = |e| Error::io("list", dir, e);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
    }
    let manifest = Manifest::load(dir);
    let state = match &manifest {
        Ok(_) => "complete".to_owned(),
        Err(_) if !dir.join(super::manifest::MANIFEST).exists() => "incomplete".to_owned(),
        Err(error) => error.to_string(),
    };
    let manifest = manifest.ok();
    let mut listed = Listed {
        cache: dir.to_path_buf(),
        teacher: String::new(),
        teacher_hash: String::new(),
        corpus: String::new(),
        codec: String::new(),
        layers: String::new(),
        utterances: manifest.as_ref().map(|m| m.utterances),
        frames: manifest.as_ref().map(|m| m.frames),
        bytes,
        state,
    };
    match Identity::load(dir) {
        Ok(identity) => {
            let layers = identity.hidden_layers();
            listed.layers = layers.iter().map(|(layer, _)| layer.to_string()).collect::<Vec<_>>().join(",");
            short(&identity.teacher.hash).clone_into(&mut listed.teacher_hash);
            short(&identity.corpus.hash).clone_into(&mut listed.corpus);
            (listed.teacher, listed.codec) = (identity.teacher.name, identity.codec);
        }
        Err(error) => listed.state = error.to_string(),
    }
    Ok(listed)
}
