//! Stage one: a model runs once over a corpus, and what it computed becomes a cache.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::Cache;
use super::codec::{CodecModel, CodecName};
use super::forward::Teacher;
use super::identity::{CorpusIdentity, IDENTITY, Identity, InnerLayer, Teacher as TeacherIdentity};
use super::learn::Sampled;
use super::manifest::ShardEntry;
use super::nbest::{NbestIdentity, NbestSearch};
use super::resume::{self, Wanted};
use super::schema::Key;
use super::settle::Settled;
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
    let manifest = resume::seal(&options.out, entries, &source.wanted)?;
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
pub(super) struct Source {
    pub(super) corpus: Corpus,
    pub(super) identity: Identity,
    pub(super) wanted: Vec<Wanted>,
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
            CorpusIdentity::new(corpus.identity()),
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
    pub(super) fn teacher(&self, options: &Options) -> Result<Teacher> {
        let device = options.device.open_with(options.precision)?;
        let model = Model::load(&options.model, &device)?;
        let layers = self.identity.layers.iter().map(|inner| HiddenLayer::Inner(inner.layer)).collect();
        Ok(Teacher::new(model, device, options.device.to_string(), layers))
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
pub(super) fn budget(options: &Options, teacher: &Teacher) -> usize {
    frames_of(options.batch_seconds.unwrap_or(if teacher.is_cpu() { CPU_BATCH } else { GPU_BATCH }))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and saturating")]
fn frames_of(seconds: f64) -> usize {
    (seconds * 100.0) as usize
}
