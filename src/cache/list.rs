//! The caches below a directory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::identity::{IDENTITY, Identity, short};
use super::manifest::{ADDING, Manifest, ShardEntry};
use super::resume;
use super::tasks::plan::Plan;
use crate::error::{Error, Result};
use crate::models::MODEL_FILE;
use crate::{corpus, files, models, store};

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
    /// How many corpora that is: more than one in a merged cache.
    pub corpora: usize,
    /// Codec of the hidden states.
    pub codec: String,
    /// `last`, and the inner layers.
    pub layers: String,
    /// N of the teacher's N best texts, where the cache has them.
    pub nbest: Option<u32>,
    /// Temperature of the column `softmax`, where the cache has one.
    pub temperature: Option<f64>,
    /// Utterances; of a complete cache.
    pub utterances: Option<u64>,
    /// Output frames; of a complete cache.
    pub frames: Option<u64>,
    /// Size of its files.
    pub bytes: u64,
    /// Shards that are finished and there, with the size that they were written with.
    pub shards: usize,
    /// Shards that the cache consists of, where that is known: of a cache that is complete, divided among tasks, or being
    /// added to.
    pub of: Option<usize>,
    /// `complete`, `incomplete`, or what is wrong with it; bytes are for `verify` to look at.
    pub state: String,
}

/// Which caches to list; all without a wish.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// How the teacher's name or its hash begins, or its model directory.
    pub teacher: Option<String>,
    /// First digits of the corpus' identity, or its directory; a merged cache is of each of its corpora.
    pub corpus: Option<String>,
}

impl Wish {
    /// The wish with hashes in place of directories.
    fn resolved(&self) -> Result<Self> {
        let teacher = self.teacher.clone().map(|text| match Path::new(&text).join(MODEL_FILE).is_file() {
            true => models::identity(Path::new(&text)),
            false => Ok(text),
        });
        let corpus =
            self.corpus.clone().map(|text| match Path::new(&text).join(corpus::MANIFEST).is_file() {
                true => Ok(corpus::Manifest::read(Path::new(&text))?.1),
                false => Ok(text),
            });
        Ok(Self { teacher: teacher.transpose()?, corpus: corpus.transpose()? })
    }

    fn grants(&self, identity: Option<&Identity>) -> bool {
        let Some(identity) = identity else { return self.teacher.is_none() && self.corpus.is_none() };
        let is = |teacher: &String| {
            identity.teacher.name.starts_with(teacher) || identity.teacher.hash.starts_with(teacher)
        };
        self.teacher.as_ref().is_none_or(is)
            && self.corpus.as_ref().is_none_or(|hash| identity.corpus.is(hash))
    }
}

/// Every cache in `root` and below it that the wish is for, by path. Payloads are not looked at.
///
/// # Errors
/// When a directory cannot be listed, or one that the wish names cannot be read.
pub fn list(root: &Path, wish: &Wish) -> Result<Vec<Listed>> {
    store::require_local(root)?;
    let mut found = Vec::new();
    walk(root, DEPTH, &wish.resolved()?, &mut found)?;
    found.sort_by(|a, b| a.cache.cmp(&b.cache));
    Ok(found)
}

fn walk(dir: &Path, depth: usize, wish: &Wish, found: &mut Vec<Listed>) -> Result<()> {
    if dir.join(IDENTITY).is_file() {
        if wish.grants(Identity::load(dir).ok().as_ref()) {
            found.push(listed(dir)?);
        }
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
            walk(&entry.path(), depth - 1, wish, found)?;
        }
    }
    Ok(())
}

/// One cache, complete or not.
///
/// # Errors
/// When its files cannot be listed.
pub fn listed(dir: &Path) -> Result<Listed> {
    let failed = |e| Error::io("list", dir, e);
    let (mut bytes, mut finished) = (0, 0);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        bytes += entry.metadata().map_err(failed)?.len();
        finished +=
            usize::from(entry.path().extension().is_some_and(|extension| extension == resume::RECORD));
    }
    let manifest = Manifest::load(dir);
    if let Ok(manifest) = &manifest {
        let whole = |entry: &ShardEntry| Ok(entry.size_difference(dir)?.is_none());
        finished = 0;
        for entry in &manifest.shards {
            finished += usize::from(whole(entry)?);
        }
    }
    let state = match &manifest {
        Ok(manifest) if finished < manifest.shards.len() => format!(
            "damaged: {} of {} shards are missing or of another size",
            manifest.shards.len() - finished,
            manifest.shards.len()
        ),
        Ok(_) => "complete".to_owned(),
        Err(_) if !dir.join(super::manifest::MANIFEST).exists() => "incomplete".to_owned(),
        Err(error) => error.to_string(),
    };
    let manifest = manifest.ok();
    let planned = || Some(Plan::load(dir).ok()??.shards.len());
    let adding =
        || Some(toml::from_str::<Manifest>(&files::read_sealed(&dir.join(ADDING)).ok()?).ok()?.shards.len());
    let of = manifest.as_ref().map(|m| m.shards.len()).or_else(planned).or_else(adding);
    let mut listed = Listed {
        cache: dir.to_path_buf(),
        teacher: String::new(),
        teacher_hash: String::new(),
        corpus: String::new(),
        corpora: 1,
        codec: String::new(),
        layers: String::new(),
        nbest: None,
        temperature: None,
        utterances: manifest.as_ref().map(|m| m.utterances),
        frames: manifest.as_ref().map(|m| m.frames),
        bytes,
        shards: finished,
        of,
        state,
    };
    match Identity::load(dir) {
        Ok(identity) => {
            let layers = identity.hidden_layers();
            listed.layers = layers.iter().map(|(layer, _)| layer.to_string()).collect::<Vec<_>>().join(",");
            listed.nbest = identity.nbest.as_ref().map(|nbest| nbest.count);
            listed.temperature = identity.temperature;
            short(&identity.teacher.hash).clone_into(&mut listed.teacher_hash);
            short(&identity.corpus.hash).clone_into(&mut listed.corpus);
            listed.corpora = identity.corpus.parts.len().max(1);
            (listed.teacher, listed.codec) = (identity.teacher.name, identity.codec);
        }
        Err(error) => listed.state = error.to_string(),
    }
    Ok(listed)
}
