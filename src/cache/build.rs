//! Stage one: a model runs once over a corpus, and what it computed becomes a cache.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::Cache;
use super::codec::{CodecModel, CodecName};
use super::forward::Teacher;
use super::identity::{CorpusIdentity, IDENTITY, Identity, InnerLayer, Teacher as TeacherIdentity};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::nbest::{NbestIdentity, NbestSearch};
use super::resume::{self, Wanted};
use super::sample::Sampled;
use super::schema::Key;
use super::settle::{Settled, refuse_other};
use super::stage::{self, Done, Job};
use super::tasks::claim::{self, Claims, PATIENCE};
use super::tasks::plan::{PLAN, Plan};
use super::tasks::{self, Task};
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
    /// Write shards whose bytes are not those that the manifest of a complete cache names; without, such a shard is an error
    /// and what lies there stays.
    pub other_bytes: bool,
    /// Which of several tasks this process is, where they share the work; without, it writes all and seals the cache.
    pub task: Option<Task>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Utterances of the complete cache, or of a task's share; 0 for a bare run.
    pub utterances: u64,
    /// Output frames of the same.
    pub frames: u64,
    /// Compressed bytes of the hidden column over output frames of the complete cache; `None` for a task.
    pub bytes_per_frame: Option<f64>,
    /// The same of all inner layers together.
    pub inner_bytes_per_frame: Option<f64>,
    /// Shards of the cache or of the task's share, and how many of them were written by this run.
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

/// Builds a cache, or what is missing of it; as one of several tasks, what is missing of this one's share.
///
/// # Errors
/// When model and corpus do not fit, the directory holds another cache or is being written, the
/// teacher fails, or the disk does; everything finished stays and the same call goes on from there.
pub fn build(options: &Options, stop: &Stop) -> Result<Summary> {
    let out = options.out.as_path();
    let mut source = Source::open(options)?;
    refuse_other(&source.identity, out)?;
    let task = options.task.map(|task| task.settle(out)).transpose()?;
    // A device that is not there leaves no cache behind that is of nothing yet.
    let begun = out.join(IDENTITY).exists();
    let mut teacher = if begun { None } else { Some(source.teacher(options)?) };
    files::create_dir(out)?;
    let lock = match task {
        Some(_) => DirectoryLock::share(out),
        None => claim::alone(out, PATIENCE, stop),
    };
    // To say that a cache is complete, reading is enough.
    let (lock, unwritable) = match lock {
        Err(error) if error.is_refusal() && Manifest::load(out).is_ok() => (None, Some(error)),
        lock => (Some(lock?), None),
    };
    // Where locks do not reach, whoever finishes a divided cache alone keeps away tasks that are started meanwhile.
    let claims = (task.is_some() || out.join(PLAN).exists()).then(|| Claims::new(out, PATIENCE));
    let claims = claims.as_ref();
    let Settled { codecs, sampled, learning } = source.settle(options, &mut teacher, claims, stop)?;
    let cache = files::blake3_file(&out.join(IDENTITY))?;
    let manifest = Manifest::load(out).ok();
    let sealed = manifest.is_some();
    // What a manifest names is written as it names it, so that it stays true all the while.
    let expected =
        manifest.filter(|_| !options.other_bytes).map_or_else(Vec::new, |manifest| manifest.shards);
    let own: Vec<usize> = match task {
        None => (0..source.wanted.len()).collect(),
        Some((tasks, first, number)) => {
            let plan = Plan::new(&cache, tasks, first, &source.wanted);
            if sealed { plan } else { plan.settle(out)? }.own(number)
        }
    };
    let wanted: Cow<[Wanted]> = match task {
        None => Cow::Borrowed(&source.wanted),
        Some(_) => own.iter().map(|&shard| source.wanted[shard].clone()).collect(),
    };
    let found = resume::survey(out, &source.identity, &cache, &codecs, &wanted)?;
    let pending: Vec<usize> = (0..own.len()).filter(|&at| found[at].is_none()).collect();
    let (done, others) = if pending.is_empty() {
        (learning, Vec::new())
    } else {
        if let Some(error) = unwritable {
            return Err(error);
        }
        if pending.len() < own.len() {
            let (ready, all) = (own.len() - pending.len(), own.len());
            tracing::info!("{}: {ready} of {all} shards are there already", out.display());
        }
        if task.is_none() {
            if expected.is_empty() {
                resume::reopen(out, &found)?;
            }
        } else if sealed || out.join(MANIFEST).exists() {
            return Err(Error::format(
                out,
                format!(
                    "expected an unfinished cache, found a {MANIFEST} and {} damaged; run the command once without its \
                     task, which rewrites what is bad",
                    wanted[pending[0]].file
                ),
            ));
        }
        // A record that a damaged shard has kept would pass for another process' work.
        resume::remove_records(out, pending.iter().map(|&at| wanted[at].file.as_str()))?;
        let teacher = teacher.map_or_else(|| source.teacher(options), Ok)?;
        let pending: Vec<usize> = pending.into_iter().map(|at| own[at]).collect();
        let of = (cache.as_str(), &*codecs, sampled.as_slice());
        let with = With { options, teacher: &teacher, expected: &expected, claims, stop };
        let (done, others) = source.write_all(with, pending, of)?;
        (learning.before(done), others)
    };
    let written = done.shards.len();
    let now = done.shards.iter().cloned().chain(others);
    let before = own.iter().zip(found).filter_map(|(&shard, entry)| Some((shard, entry?)));
    let entries: BTreeMap<usize, ShardEntry> = before.chain(now).collect();
    let entries: Vec<ShardEntry> = entries.into_values().collect();
    if task.is_some() {
        let total = |of: fn(&ShardEntry) -> u64| entries.iter().map(of).sum();
        let (utterances, frames) = (total(|entry| entry.rows), total(|entry| entry.frames));
        return Ok(Summary { utterances, frames, shards: (own.len(), written), ..summary(&done) });
    }
    let manifest = resume::seal(out, entries)?;
    if lock.is_some() {
        tasks::clear(out)?;
    }
    let cache = Cache::open(out)?;
    let inner = cache.identity().layers.iter();
    let inner = inner.map(|inner| cache.hidden_bytes_per_frame(HiddenLayer::Inner(inner.layer)));
    Ok(Summary {
        utterances: manifest.utterances,
        frames: manifest.frames,
        bytes_per_frame: Some(cache.hidden_bytes_per_frame(HiddenLayer::Last)?),
        // The sum of nothing is -0.
        inner_bytes_per_frame: Some(inner.sum::<Result<f64>>()? + 0.0),
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
    let with = With { options, teacher: &teacher, expected: &[], claims: None, stop };
    Ok(summary(&source.run(with, &pending, ("", &codecs, &[]), true)?))
}

fn summary(done: &Done) -> Summary {
    Summary {
        utterances: 0,
        frames: 0,
        bytes_per_frame: None,
        inner_bytes_per_frame: None,
        shards: (0, 0),
        audio: done.valid as f64 / 100.0,
        padding: if done.padded == 0 { 0.0 } else { 1.0 - done.valid as f64 / done.padded as f64 },
        wall: done.wall,
        forward: done.forward,
    }
}

/// What a run has at hand.
#[derive(Clone, Copy)]
pub(super) struct With<'a> {
    pub(super) options: &'a Options,
    pub(super) teacher: &'a Teacher,
    /// What the manifest says of shards that are to be written.
    pub(super) expected: &'a [ShardEntry],
    pub(super) claims: Option<&'a Claims>,
    pub(super) stop: &'a Stop,
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

    /// Runs the teacher over the shards `pending`; those that another process has claimed are left out.
    pub(super) fn run(
        &self,
        With { options, teacher, expected, claims, stop }: With,
        pending: &[usize],
        (cache, codecs, sampled): (&str, &CodecModel, &[Sampled]),
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
            expected,
            budget: budget(options, teacher),
            workers: options.workers.clamp(1, 256),
            codecs,
            sampled,
            nbest: self.nbest.as_ref(),
            claims,
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
