//! Stage one: a model runs once over a corpus, and what it computed becomes a cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::Device;

use super::Cache;
use super::forward::Teacher;
use super::identity::{CorpusIdentity, IDENTITY, Identity, InnerLayer, Teacher as TeacherIdentity};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::nbest::{NbestIdentity, NbestSearch};
use super::resume::{self, Wanted};
use super::rows::Rows;
use super::schema::Key;
use super::stage::{self, Done, Job};
use crate::corpus::Corpus;
use crate::decode::Decoder;
use crate::device::{DeviceChoice, Precision};
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::models::{self, HiddenLayer, Model, ModelConfig};
use crate::progress::Progress;
use crate::signal::Stop;

/// Seconds of padded audio in a batch on the CPU: activations that stay near the cores, hardly any padding.
pub const CPU_BATCH: f64 = 16.0;
/// The same elsewhere: enough work for every launch.
pub const GPU_BATCH: f64 = 120.0;

/// What to cache, where, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The teacher's model directory.
    pub model: PathBuf,
    /// The corpus to run it over.
    pub corpus: PathBuf,
    /// The cache directory.
    pub out: PathBuf,
    /// Where the teacher runs.
    pub device: DeviceChoice,
    /// Arithmetic of the forward pass.
    pub precision: Precision,
    /// Threads that encode.
    pub workers: usize,
    /// Padded audio of one batch, seconds; [`CPU_BATCH`] or [`GPU_BATCH`] when not given.
    pub batch_seconds: Option<f64>,
    /// Temperature of an extra column with the softmax itself.
    pub temperature: Option<f64>,
    /// Inner layers whose outputs the cache shall have beside the last's.
    pub layers: Vec<HiddenLayer>,
    /// A search for an extra column with the teacher's best texts, and how many of them.
    pub nbest: Option<(Decoder, usize)>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Utterances of the complete cache; 0 for a bare run.
    pub utterances: u64,
    /// Output frames of the complete cache; 0 for a bare run.
    pub frames: u64,
    /// Compressed bytes of the hidden column over output frames of the complete cache.
    pub bytes_per_frame: f64,
    /// The same of all inner layers together.
    pub inner_bytes_per_frame: f64,
    /// Shards of the cache, and how many of them were written by this run.
    pub shards: (usize, usize),
    /// Seconds of audio that went through the teacher in this run.
    pub audio: f64,
    /// Padding among the frames that went through the teacher, 0 to 1.
    pub padding: f64,
    /// Time of this run from the first batch to the last shard.
    pub wall: Duration,
    /// Time of it in the forward pass.
    pub forward: Duration,
}

/// Builds a cache, or what is missing of it.
///
/// # Errors
/// When model and corpus do not fit, the directory holds another cache or is being written, the
/// teacher fails, or the disk does; everything finished stays and the same call goes on from there.
pub fn build(options: &Options, stop: &Stop) -> Result<Summary> {
    let source = Source::open(options)?;
    // A device that is not there leaves no cache behind that is of nothing yet.
    let begun = options.out.join(IDENTITY).exists();
    let device = if begun { None } else { Some(options.device.open_with(options.precision)?) };
    files::create_dir(&options.out)?;
    let _lock = DirectoryLock::acquire(&options.out)?;
    files::sweep(&options.out)?;
    let identity = &source.identity;
    settle(identity, &options.out)?;
    let cache = files::blake3_file(&options.out.join(IDENTITY))?;
    let mut finished = resume::survey(&options.out, identity, &cache, &source.wanted)?;
    let pending: Vec<usize> = (0..finished.len()).filter(|&shard| finished[shard].is_none()).collect();
    let done = if pending.is_empty() {
        Done::default()
    } else {
        if pending.len() < finished.len() {
            let (ready, all) = (finished.len() - pending.len(), finished.len());
            tracing::info!("{}: {ready} of {all} shards are there already", options.out.display());
        }
        resume::reopen(&options.out, &finished)?;
        let teacher = source.teacher(options, device)?;
        source.run(options, &pending, &cache, &teacher, stop, false)?
    };
    let written = done.shards.len();
    for (shard, entry) in &done.shards {
        finished[*shard] = Some(entry.clone());
    }
    let entries: Vec<ShardEntry> = finished.into_iter().flatten().collect();
    if entries.len() < source.wanted.len() {
        return Err(Error::invalid(format!(
            "only {} of {} shards were written",
            entries.len(),
            source.wanted.len()
        )));
    }
    let manifest = Manifest::new(&options.out, entries)?;
    if Manifest::load(&options.out).ok().as_ref() != Some(&manifest) {
        manifest.save(&options.out)?;
    }
    resume::remove_records(&options.out, &source.wanted)?;
    let cache = Cache::open(&options.out)?;
    let inner = cache.identity().layers.iter();
    let inner = inner.map(|inner| cache.hidden_bytes_per_frame(HiddenLayer::Inner(inner.layer)));
    Ok(Summary {
        utterances: manifest.utterances,
        frames: manifest.frames,
        bytes_per_frame: cache.hidden_bytes_per_frame(HiddenLayer::Last)?,
        inner_bytes_per_frame: inner.sum::<Result<f64>>()?,
        shards: (manifest.shards.len(), written),
        ..summary(&done)
    })
}

/// Runs the teacher over the batches that [`build`] would make of the whole corpus, and keeps nothing:
/// what stage one cannot be faster than.
///
/// # Errors
/// When model and corpus do not fit, or the teacher fails.
pub fn bare(options: &Options, stop: &Stop) -> Result<Summary> {
    let source = Source::open(options)?;
    let teacher = source.teacher(options, None)?;
    let pending: Vec<usize> = (0..source.wanted.len()).collect();
    Ok(summary(&source.run(options, &pending, "", &teacher, stop, true)?))
}

fn summary(done: &Done) -> Summary {
    Summary {
        utterances: 0,
        frames: 0,
        bytes_per_frame: 0.0,
        inner_bytes_per_frame: 0.0,
        shards: (0, 0),
        audio: done.valid as f64 / 100.0,
        padding: 1.0 - done.valid as f64 / done.padded.max(1) as f64,
        wall: done.wall,
        forward: done.forward,
    }
}

/// Everything that a cache is made from.
struct Source {
    corpus: Corpus,
    identity: Identity,
    wanted: Vec<Wanted>,
    nbest: Option<NbestSearch>,
}

impl Source {
    /// Opens the corpus and reads the model's configuration, not yet its weights.
    fn open(options: &Options) -> Result<Self> {
        if let Some(temperature) = options.temperature
            && !(temperature.is_finite() && temperature > 0.0)
        {
            return Err(Error::invalid(format!("--temperature: expected more than 0, found {temperature}")));
        }
        if let Some(found) = options.batch_seconds
            && !(found.is_finite() && found > 0.0)
        {
            return Err(Error::invalid(format!("--batch-seconds: expected more than 0, found {found}")));
        }
        let corpus = Corpus::open(&options.corpus)?;
        let config = ModelConfig::read(&options.model)?;
        corpus.require_frontend(&config.frontend, &config.name)?;
        let teacher = TeacherIdentity { name: config.name.clone(), hash: models::identity(&options.model)? };
        let count = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(format!("{n} is too many")));
        let mut identity = Identity::new(
            teacher,
            CorpusIdentity { hash: corpus.identity() },
            config.frontend,
            config.labels.clone(),
            count(config.stride())?,
            count(config.hidden_width())?,
        );
        identity.temperature = options.temperature;
        let nbest = match &options.nbest {
            Some((Decoder::Beam(search, settings), texts)) => {
                search.require_words_of(&config.labels)?;
                identity.nbest = Some(NbestIdentity { count: count(*texts)?, search: settings.clone() });
                Some(NbestSearch { search: (**search).clone(), count: *texts })
            }
            Some((Decoder::Greedy, _)) => return Err(Error::invalid("--nbest needs a beam search")),
            None => None,
        };
        for layer in options.layers.iter().copied().collect::<BTreeSet<_>>() {
            if let HiddenLayer::Inner(number) = layer {
                let width = count(config.layer_width(layer)?)?;
                identity.layers.push(InnerLayer { layer: number, width });
            }
        }
        identity.precision = options.precision.to_string();
        let mut wanted = Vec::with_capacity(corpus.shard_count());
        for (shard, entry) in corpus.manifest().shards.iter().enumerate() {
            let utterances = &corpus.utterances()[corpus.shard(shard)];
            let key = |u: &crate::corpus::Utterance| -> Result<Key> {
                Ok(Key {
                    utterance: u.id.clone(),
                    samples: u.samples,
                    audio_hash: u.audio_hash,
                    frames: count(config.output_frames(u.frames as usize))?,
                })
            };
            let keys = utterances.iter().map(key).collect::<Result<_>>()?;
            wanted.push(Wanted { file: entry.file.clone(), keys });
        }
        Ok(Self { corpus, identity, wanted, nbest })
    }

    /// Opens the device, unless it is open, and loads the weights.
    fn teacher(&self, options: &Options, device: Option<Device>) -> Result<Teacher> {
        let device = match device {
            Some(device) => device,
            None => options.device.open_with(options.precision)?,
        };
        let model = Model::load(&options.model, &device)?;
        let layers = self.identity.layers.iter().map(|inner| HiddenLayer::Inner(inner.layer)).collect();
        Ok(Teacher::new(model, device, options.device.to_string(), layers))
    }

    fn run(
        &self,
        options: &Options,
        pending: &[usize],
        cache: &str,
        teacher: &Teacher,
        stop: &Stop,
        bare: bool,
    ) -> Result<Done> {
        let utterances =
            pending.iter().flat_map(|&shard| &self.corpus.utterances()[self.corpus.shard(shard)]);
        let frames: u64 = utterances.map(|u| u64::from(u.frames)).sum();
        let progress = Progress::new("cache", "s of audio", frames / 100);
        let default = if teacher.is_cpu() { CPU_BATCH } else { GPU_BATCH };
        let job = Job {
            corpus: &self.corpus,
            dir: &options.out,
            identity: &self.identity,
            cache,
            wanted: &self.wanted,
            pending,
            budget: frames_of(options.batch_seconds.unwrap_or(default)),
            workers: options.workers.clamp(1, 256),
            nbest: self.nbest.as_ref(),
            progress: &progress,
            stop,
        };
        let done = stage::run(&job, teacher, bare);
        progress.finish();
        done
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and saturating")]
fn frames_of(seconds: f64) -> usize {
    (seconds * 100.0) as usize
}

/// Makes `out` a cache of `identity`: writes `cache.toml`, or compares the one that is there.
fn settle(identity: &Identity, out: &Path) -> Result<()> {
    if let Err(foreign) = files::require_own(out, &[IDENTITY, MANIFEST], "cache")
        && begins_as(identity, out)? != Some(true)
    {
        return Err(foreign);
    }
    if !out.join(IDENTITY).exists() && !out.join(MANIFEST).exists() {
        return identity.save(out);
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
    Ok(Some(shards.iter().any(|path| Rows::open(path, identity, &hash).is_ok())))
}
