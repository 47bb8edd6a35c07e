//! Makes a directory the cache of one identity: what `cache.toml` says, and what the codec learned.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::build::{Options, Source, budget};
use super::codec::{CODEC_FILE, CodecModel, CodecName};
use super::forward::Teacher;
use super::identity::{IDENTITY, Identity};
use super::learn::{FRAMES, learn_from_sample};
use super::manifest::{MANIFEST, Manifest};
use super::rows::belongs;
use super::sample::{self, Sampled};
use super::stage::Done;
use super::tasks::claim::Claims;
use super::together::not_learned;
use crate::error::{Error, Result};
use crate::files;
use crate::signal::Stop;
use crate::store;

/// What [`Source::settle`] leaves for the run.
pub(super) struct Settled {
    pub(super) codecs: Arc<CodecModel>,
    /// What was computed for a codec to learn from.
    pub(super) sampled: Vec<Sampled>,
    /// What that cost.
    pub(super) learning: Done,
}

impl Source {
    /// Makes the directory a cache of this identity; where a codec is learned, the teacher runs over the sample. Of several
    /// processes with claims, one learns and the others wait for it.
    pub(super) fn settle(
        &mut self,
        options: &Options,
        teacher: &mut Option<Teacher>,
        claims: Option<&Claims>,
        stop: &Stop,
    ) -> Result<Settled> {
        let mut identity = self.identity.clone();
        let claims = claims.filter(|_| options.codec.is_learned() && options.codec_from.is_none());
        if let Some(claims) = claims {
            self.wait_or_claim(&options.out, claims, stop)?;
        }
        let alone = claims.is_none() && !options.out.join(IDENTITY).exists();
        let (mut sampled, mut learning) = (Vec::new(), Done::default());
        let codecs = settle_codec(&mut identity, &options.out, options.codec_from.as_deref(), &mut || {
            let started = Instant::now();
            let teacher = match teacher {
                Some(teacher) => teacher,
                None => teacher.insert(self.teacher(options)?),
            };
            let budget = budget(options, teacher);
            let source = sample::Source {
                corpus: &self.corpus,
                wanted: &self.wanted,
                frames: FRAMES,
                budget,
                all: alone,
                stop,
            };
            let learn = |sampled: &[Sampled]| learn_from_sample(options.codec, &self.identity, sampled);
            let (codecs, of_sample, of_learning) = source.learn(teacher, learn)?;
            (sampled, learning) = (of_sample, of_learning);
            learning.wall = started.elapsed();
            Ok(codecs)
        })?;
        if let Some(claims) = claims {
            claims.release(CODEC_FILE);
        }
        self.identity = identity;
        Ok(Settled { codecs: Arc::new(codecs), sampled, learning })
    }

    /// Returns once the codec is there, or this process has claimed to learn it.
    fn wait_or_claim(&self, out: &Path, claims: &Claims, stop: &Stop) -> Result<()> {
        let mut told = false;
        loop {
            if learned(&self.identity, out).is_some() || claims.take(CODEC_FILE)? {
                return Ok(());
            }
            if stop.requested() {
                return Err(not_learned());
            }
            if !told {
                tracing::info!("{} learns the codec; waiting for it", claims.holder(CODEC_FILE));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What lies in `out` already for this identity, whose own codec need not be known yet: the file's hash, and the codec.
fn learned(identity: &Identity, out: &Path) -> Option<(Identity, CodecModel)> {
    let found = Identity::load(out).ok()?;
    let same = Identity { codec_model: found.codec_model.clone(), ..identity.clone() } == found;
    if same { CodecModel::open(out, &found).ok().map(|codecs| (found, codecs)) } else { None }
}

/// Makes `out` a cache of `identity`, its codec included: opens the codec, takes it from another cache, or learns it.
/// `cache.toml` comes first, as it names the codec's file; without that, learning gives the same again.
///
/// # Errors
/// When the directory holds something else, the codec cannot be learned, or what was learned earlier is damaged and what
/// is learned now is not the same.
pub(super) fn settle_codec(
    identity: &mut Identity,
    out: &Path,
    codec_from: Option<&Path>,
    learn: &mut dyn FnMut() -> Result<CodecModel>,
) -> Result<CodecModel> {
    if !identity.codec_name().is_ok_and(CodecName::is_learned) {
        settle(identity, out)?;
        return CodecModel::open(out, identity);
    }
    let found = Identity::load(out).ok();
    if let Some(other) = codec_from {
        let bytes = borrow(identity, other)?;
        settle(identity, out)?;
        if let Ok(codecs) = CodecModel::open(out, identity) {
            return Ok(codecs);
        }
        files::write(&out.join(CODEC_FILE), &bytes)?;
        return CodecModel::open(out, identity);
    }
    if let Some(found) = &found {
        identity.codec_model.clone_from(&found.codec_model);
        settle(identity, out)?;
        match CodecModel::open(out, identity) {
            Ok(codecs) => return Ok(codecs),
            Err(error) => tracing::warn!("{error}; learning it again"),
        }
    }
    let codecs = learn()?;
    if let Some((found, codecs)) = learned(identity, out) {
        // Another process was quicker; on another kind of machine it may have learned other bits.
        *identity = found;
        return Ok(codecs);
    }
    let bytes = codecs.to_bytes()?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    if let Some(expected) = found.and_then(|found| found.codec_model).filter(|expected| *expected != hash) {
        return Err(Error::mismatch(
            format!("codec learned again for {}", out.display()),
            expected,
            hash,
            "another machine, device or version of tutornet learned the first, or `tutornet cache recode`, which then learns the same \
             again, or it was taken from another cache: then give that with --codec-from; else put back a copy of the file, or \
             start again into another --out",
        ));
    }
    identity.codec_model = Some(hash);
    settle(identity, out)?;
    files::write(&out.join(CODEC_FILE), &bytes)?;
    Ok(codecs)
}

/// The learned codec of another cache of this teacher.
fn borrow(identity: &mut Identity, other: &Path) -> Result<Vec<u8>> {
    let found = Identity::load(other)?;
    let named = |identity: &Identity| {
        let layers: Vec<String> =
            identity.hidden_layers().iter().map(|(layer, width)| format!("{layer}:{width}")).collect();
        format!("{}, layers {}, of {}", identity.codec, layers.join(" "), identity.teacher.hash)
    };
    if named(identity) != named(&found) {
        return Err(Error::mismatch(
            format!("codec of {}", other.display()),
            named(identity),
            named(&found),
            "--codec-from takes a cache of the same teacher, layers and --codec",
        ));
    }
    CodecModel::open(other, &found)?;
    identity.codec_model = found.codec_model;
    files::read(&other.join(CODEC_FILE))
}

/// Refuses a directory that is of something else before anything is written to it, be it a lock. What the codec learns need
/// not be known yet, so [`settle_codec`] looks again, under the lock.
///
/// # Errors
/// When the directory holds something else, or lies in a bucket.
pub(super) fn refuse_other(identity: &Identity, out: &Path) -> Result<()> {
    store::require_local(out)?;
    if let Ok(name) = identity.codec_name() {
        for (layer, width) in identity.hidden_layers() {
            let fits = name.require(width);
            fits.map_err(|detail| Error::invalid(format!("hidden states of layer {layer}: {detail}")))?;
        }
    }
    let mut identity = identity.clone();
    let learned = identity.codec_name().is_ok_and(CodecName::is_learned);
    if let Ok(found) = Identity::load(out) {
        if learned {
            identity.codec_model.clone_from(&found.codec_model);
        }
        identity.require(&found, out)?;
    }
    if !learned {
        return require_own(&identity, out);
    }
    // Shards without a cache.toml may be those of a codec that is learned again.
    let there = store::names(out).unwrap_or_default();
    let shards = there.iter().map(String::as_str).filter(|name| name.ends_with(".parquet"));
    let own: Vec<&str> = [IDENTITY, MANIFEST].into_iter().chain(shards).collect();
    files::require_own(out, &own, "cache")
}

/// Refuses a directory that is no cache, unless its shards are of this one.
fn require_own(identity: &Identity, out: &Path) -> Result<()> {
    match files::require_own(out, &[IDENTITY, MANIFEST], "cache") {
        Err(foreign) if begins_as(identity, out)? != Some(true) => Err(foreign),
        _ => Ok(()),
    }
}

/// Makes `out` a cache of `identity`: writes `cache.toml`, or compares the one that is there.
fn settle(identity: &Identity, out: &Path) -> Result<()> {
    require_own(identity, out)?;
    if !out.join(IDENTITY).exists() && !out.join(MANIFEST).exists() && identity.save_new(out)? {
        return Ok(());
    }
    match Identity::load(out) {
        Ok(found) => identity.require(&found, out),
        Err(error) => {
            // Manifest and shards know what the damaged file was: if that is what this run would write, or
            // there is nothing yet, nothing is lost by writing it again.
            let whole = files::read_sealed(&out.join(IDENTITY)).is_ok();
            if whole || begins_as(identity, out)? == Some(false) {
                return Err(error);
            }
            tracing::warn!("{error}; writing it again");
            identity.save(out)
        }
    }
}

/// Whether what lies in `out` says that it is of exactly this identity: a whole manifest, or else the shards,
/// each of which holds the hash of its cache. `None` when there is neither.
fn begins_as(identity: &Identity, out: &Path) -> Result<Option<bool>> {
    let hash = identity.blake3()?;
    let manifest = files::read_sealed(&out.join(MANIFEST)).ok();
    if let Some(manifest) = manifest.and_then(|text| toml::from_str::<Manifest>(&text).ok()) {
        return Ok(Some(manifest.identity == hash));
    }
    let Ok(entries) = std::fs::read_dir(out) else { return Ok(None) };
    let mut shards: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    shards.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    if shards.is_empty() {
        return Ok(None);
    }
    Ok(Some(shards.iter().any(|path| belongs(path, identity, &hash))))
}
