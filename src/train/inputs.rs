//! What a run was started on: the identity of every corpus, cache and model that its pipeline names.
//!
//! A pipeline holds paths, and what lies there may be made anew between a stop and a `--resume`. The
//! run would then be neither the earlier one nor a new one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pipeline::Pipeline;
use super::prepare::Prepared;
use crate::cache::manifest;
use crate::error::{Error, Result};
use crate::files;
use crate::models;

/// Name of the file in a run's directory.
pub const INPUTS_FILE: &str = "inputs.toml";

/// Identities (BLAKE3, 64 hexadecimal digits) by the paths that the pipeline gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The model whose weights the student begins with; `None` for a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<String>,
    /// Training and dev corpora: the body of `corpus.toml`.
    pub corpora: BTreeMap<String, String>,
    /// Caches of all stages: `manifest.toml`.
    #[serde(default)]
    pub caches: BTreeMap<String, String>,
}

impl Inputs {
    /// Of a pipeline whose inputs are open.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub fn of(pipeline: &Pipeline, prepared: &Prepared) -> Result<Self> {
        let name = |path: &Path| path.display().to_string();
        let corpora = prepared.train.iter().chain(&prepared.dev);
        let corpora = corpora.map(|corpus| (name(corpus.dir()), corpus.identity())).collect();
        let mut caches = BTreeMap::new();
        let caches_of =
            |stage| super::pipeline::Stage::teachers(stage).into_iter().flat_map(|(dirs, _)| dirs);
        for dir in pipeline.stage.iter().flat_map(caches_of) {
            if let Entry::Vacant(place) = caches.entry(name(dir)) {
                place.insert(files::blake3_file(&dir.join(manifest::MANIFEST))?);
            }
        }
        let student = Path::new(&pipeline.student.preset);
        let student = if student.is_dir() { Some(models::identity(student)?) } else { None };
        Ok(Self { student, corpora, caches })
    }

    /// Pipeline and inputs with the places of the run that began in `run` with `earlier`, wherever the same contents lie
    /// at another place now: a run that began on a disk goes on from a bucket.
    ///
    /// # Errors
    /// When the inputs of that run cannot be read.
    pub fn as_before(&self, pipeline: &Pipeline, earlier: &Pipeline, run: &Path) -> Result<(Pipeline, Self)> {
        let mut pipeline = pipeline.clone();
        if !run.join(INPUTS_FILE).exists() {
            return Ok((pipeline, self.clone()));
        }
        let before = Self::read(run)?;
        let mut inputs = Self { student: self.student.clone(), ..Self::default() };
        let corpora = (&self.corpora, &before.corpora, &mut inputs.corpora);
        put_back(&mut pipeline.data.train, &earlier.data.train, corpora);
        let corpora = (&self.corpora, &before.corpora, &mut inputs.corpora);
        put_back(&mut pipeline.data.dev, &earlier.data.dev, corpora);
        for (number, stage) in pipeline.stage.iter_mut().enumerate() {
            let then = earlier.stage.get(number);
            let caches = (&self.caches, &before.caches, &mut inputs.caches);
            put_back(&mut stage.teacher, then.map_or(&[], |stage| &stage.teacher), caches);
            for (number, fused) in stage.fuse.iter_mut().enumerate() {
                let then = then.and_then(|stage| stage.fuse.get(number));
                let caches = (&self.caches, &before.caches, &mut inputs.caches);
                put_back(&mut fused.teacher, then.map_or(&[], |fused| &fused.teacher), caches);
            }
        }
        Ok((pipeline, inputs))
    }

    fn read(run: &Path) -> Result<Self> {
        let path = run.join(INPUTS_FILE);
        toml::from_str(&files::read_sealed(&path)?).map_err(|e| Error::format(&path, e.to_string()))
    }

    /// Writes the inputs of a new run, or compares them with those that it was started on.
    ///
    /// # Errors
    /// When one of them is another now; it is named with both identities.
    pub fn settle(&self, run: &Path) -> Result<()> {
        let path = run.join(INPUTS_FILE);
        if !path.exists() {
            let text = toml::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
            return files::write_sealed(&path, &text);
        }
        let earlier = Self::read(run)?;
        let changed = |kind: &str, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>| {
            let other = now.iter().find(|(name, hash)| before.get(*name) != Some(hash))?;
            let before = before.get(other.0).map_or("none", String::as_str).to_owned();
            Some((format!("{kind} {}", other.0), before, other.1.clone()))
        };
        let student = |inputs: &Self| -> BTreeMap<String, String> {
            inputs.student.iter().map(|hash| ("of the pipeline".to_owned(), hash.clone())).collect()
        };
        let difference = changed("corpus", &earlier.corpora, &self.corpora)
            .or_else(|| changed("cache", &earlier.caches, &self.caches))
            .or_else(|| changed("student", &student(&earlier), &student(self)));
        difference.map_or(Ok(()), |(what, before, now)| {
            Err(Error::mismatch(
                format!("{what}, which the run in {} was started on", run.display()),
                format!("BLAKE3 {before}"),
                format!("{now}: it was made anew"),
                "put the earlier one back, or start again into another --out",
            ))
        })
    }
}

type Names = BTreeMap<String, String>;

/// Replaces places by those of an earlier run where the contents, by the names of `now` and `before`, are the same; `kept`
/// gets the names that they have then.
fn put_back(places: &mut [PathBuf], earlier: &[PathBuf], (now, before, kept): (&Names, &Names, &mut Names)) {
    let name = |path: &Path| path.display().to_string();
    for (number, place) in places.iter_mut().enumerate() {
        let Some(hash) = now.get(&name(place)) else { continue };
        let same = earlier.get(number).filter(|then| before.get(&name(then)) == Some(hash));
        if let Some(then) = same {
            place.clone_from(then);
        }
        kept.insert(name(place), hash.clone());
    }
}
