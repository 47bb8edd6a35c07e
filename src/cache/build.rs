//! Stage one: a model runs once over a corpus, and what it computed becomes a cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use super::codec::{CODEC_FILE, CodecModel, CodecName};
use super::forward::Teacher;
use super::identity::{CorpusIdentity, IDENTITY, Identity, InnerLayer, Teacher as TeacherIdentity};
use super::learn::{self, Sampled};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::nbest::{NbestIdentity, NbestSearch};
use super::resume::{self, Wanted};
use super::rows::belongs;
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
    /// How hidden states are stored.
    pub codec: CodecName,
    /// A cache whose learned codec is taken instead of learning one.
    pub codec_from: Option<PathBuf>,
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
    let mut source = Source::open(options)?;
    // A device that is not there leaves no cache behind that is of nothing yet.
    let begun = options.out.join(IDENTITY).exists();
    let mut teacher = if begun { None } else { Some(source.teacher(options)?) };
    files::create_dir(&options.out)?;
    let _lock = DirectoryLock::acquire(&options.out)?;
    files::sweep(&options.out)?;
    let Settled { codecs, sampled, learning } = source.settle(options, &mut teacher, stop)?;
    let identity = &source.identity;
    let cache = files::blake3_file(&options.out.join(IDENTITY))?;
    let mut finished = resume::survey(&options.out, identity, &cache, &codecs, &source.wanted)?;
    let pending: Vec<usize> = (0..finished.len()).filter(|&shard| finished[shard].is_none()).collect();
    let done = if pending.is_empty() {
        Done::default()
    } else {
        if pending.len() < finished.len() {
            let (ready, all) = (finished.len() - pending.len(), finished.len());
            tracing::info!("{}: {ready} of {all} shards are there already", options.out.display());
        }
        resume::reopen(&options.out, &finished)?;
        let teacher = teacher.map_or_else(|| source.teacher(options), Ok)?;
        source.run(options, &pending, (&cache, &codecs, &sampled), &teacher, stop, false)?
    };
    let done = learning.before(done);
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
    let teacher = source.teacher(options)?;
    let pending: Vec<usize> = (0..source.wanted.len()).collect();
    let codecs = CodecModel::fixed(CodecName::F16, []);
    Ok(summary(&source.run(options, &pending, ("", &codecs, &[]), &teacher, stop, true)?))
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
        identity.codec = options.codec.to_string();
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

    /// Opens the device and loads the weights.
    fn teacher(&self, options: &Options) -> Result<Teacher> {
        let device = options.device.open_with(options.precision)?;
        let model = Model::load(&options.model, &device)?;
        let layers = self.identity.layers.iter().map(|inner| HiddenLayer::Inner(inner.layer)).collect();
        Ok(Teacher::new(model, device, options.device.to_string(), layers))
    }

    /// Makes the directory a cache of this identity, its codec included: opens the codec, takes it from another cache, or
    /// learns it. `cache.toml` comes first, as it names the codec's file; without that, learning gives the same again.
    fn settle(&mut self, options: &Options, teacher: &mut Option<Teacher>, stop: &Stop) -> Result<Settled> {
        let out = &options.out;
        if !options.codec.is_learned() {
            settle(&self.identity, out)?;
            return Ok(Settled::of(CodecModel::open(out, &self.identity)?));
        }
        let found = Identity::load(out).ok();
        if let Some(other) = &options.codec_from {
            let bytes = self.borrow(other)?;
            settle(&self.identity, out)?;
            files::write(&out.join(CODEC_FILE), &bytes)?;
            return Ok(Settled::of(CodecModel::open(out, &self.identity)?));
        }
        if let Some(found) = &found {
            self.identity.codec_model.clone_from(&found.codec_model);
            settle(&self.identity, out)?;
            match CodecModel::open(out, &self.identity) {
                Ok(codecs) => return Ok(Settled::of(codecs)),
                Err(error) => tracing::warn!("{error}; learning it again"),
            }
        }
        let teacher = match teacher {
            Some(teacher) => teacher,
            None => teacher.insert(self.teacher(options)?),
        };
        let started = std::time::Instant::now();
        let budget = budget(options, teacher);
        let source = learn::Source { corpus: &self.corpus, wanted: &self.wanted, budget, stop };
        let (sampled, mut learning) = source.sample(teacher)?;
        let codecs = learn::learn(options.codec, &self.identity, &sampled)?;
        let bytes = codecs.to_bytes()?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        if let Some(expected) = found.and_then(|found| found.codec_model).filter(|expected| *expected != hash)
        {
            return Err(Error::mismatch(
                format!("codec learned again for {}", out.display()),
                expected,
                hash,
                "another machine or device learned the first; start again into another --out",
            ));
        }
        self.identity.codec_model = Some(hash);
        settle(&self.identity, out)?;
        files::write(&out.join(CODEC_FILE), &bytes)?;
        learning.wall = started.elapsed();
        Ok(Settled { codecs: Arc::new(codecs), sampled, learning })
    }

    /// The learned codec of another cache of this teacher.
    fn borrow(&mut self, other: &Path) -> Result<Vec<u8>> {
        let found = Identity::load(other)?;
        let named = |identity: &Identity| {
            let layers: Vec<String> =
                identity.hidden_layers().iter().map(|(layer, width)| format!("{layer}:{width}")).collect();
            format!("{}, layers {}, of {}", identity.codec, layers.join(" "), identity.teacher.hash)
        };
        if named(&self.identity) != named(&found) {
            return Err(Error::mismatch(
                format!("codec of {}", other.display()),
                named(&self.identity),
                named(&found),
                "--codec-from takes a cache of the same teacher, layers and --codec",
            ));
        }
        CodecModel::open(other, &found)?;
        self.identity.codec_model = found.codec_model;
        files::read(&other.join(CODEC_FILE))
    }

    fn run(
        &self,
        options: &Options,
        pending: &[usize],
        (cache, codecs, sampled): (&str, &CodecModel, &[Sampled]),
        teacher: &Teacher,
        stop: &Stop,
        bare: bool,
    ) -> Result<Done> {
        let utterances =
            pending.iter().flat_map(|&shard| &self.corpus.utterances()[self.corpus.shard(shard)]);
        let frames: u64 = utterances.map(|u| u64::from(u.frames)).sum();
        let progress = Progress::new("cache", "s of audio", frames / 100);
        let job = Job {
            corpus: &self.corpus,
            dir: &options.out,
            identity: &self.identity,
            cache,
            wanted: &self.wanted,
            pending,
            budget: budget(options, teacher),
            workers: options.workers.clamp(1, 256),
            codecs,
            sampled,
            nbest: self.nbest.as_ref(),
            progress: &progress,
            stop,
        };
        let done = stage::run(&job, teacher, bare);
        progress.finish();
        done
    }
}

/// Padded feature frames of a batch.
fn budget(options: &Options, teacher: &Teacher) -> usize {
    frames_of(options.batch_seconds.unwrap_or(if teacher.is_cpu() { CPU_BATCH } else { GPU_BATCH }))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and saturating")]
fn frames_of(seconds: f64) -> usize {
    (seconds * 100.0) as usize
}

/// What [`Source::settle`] leaves for the run.
struct Settled {
    codecs: Arc<CodecModel>,
    /// What was computed for a codec to learn from.
    sampled: Vec<Sampled>,
    /// What that cost.
    learning: Done,
}

impl Settled {
    fn of(codecs: CodecModel) -> Self {
        Self { codecs: Arc::new(codecs), sampled: Vec::new(), learning: Done::default() }
    }
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
    Ok(Some(shards.iter().any(|path| belongs(path, identity, &hash))))
}
