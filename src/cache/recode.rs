//! Another codec for a cache that is there, without its teacher.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::codec::{CodecModel, CodecName};
use super::column::{Column, payloads};
use super::identity::IDENTITY;
use super::learn::learn_from_cache;
use super::manifest::MANIFEST;
use super::remedy::{Command, MAKER, Maker};
use super::resume::{self, Begun, Place, Wanted};
use super::schema::{Key, Row};
use super::settle::{refuse_other, settle_codec};
use super::together::interrupted;
use super::{Cache, Entry};
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::models::HiddenLayer;
use crate::progress::Progress;
use crate::signal::Stop;

/// What to recode, where, and how.
#[derive(Debug, Clone)]
pub struct RecodeOptions {
    /// An exact cache.
    pub from: PathBuf,
    /// The cache directory to make or to complete.
    pub out: PathBuf,
    /// The codec.
    pub codec: CodecName,
    /// A cache whose learned codec is taken instead of learning one.
    pub codec_from: Option<PathBuf>,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recoded {
    /// Bytes a frame of the last layer's hidden states, before.
    pub before: f64,
    /// The same, after.
    pub after: f64,
    /// Shards of the cache, and how many of them were written by this run.
    pub shards: (usize, usize),
}

/// Writes a cache of the same teacher and corpus with another codec, or what is missing of it. All but the hidden states is
/// taken over as it is.
///
/// # Errors
/// When `from` is not exact, `out` holds something else, or a payload is damaged; what is finished stays.
pub fn recode(options: &RecodeOptions, stop: &Stop) -> Result<Recoded> {
    files::require_apart(&options.out, &options.from, "the cache to recode")?;
    let cache = Cache::open(&options.from)?;
    if cache.identity().codec_name() != Ok(CodecName::F16) || options.codec == CodecName::F16 {
        return Err(Error::mismatch(
            format!("recoding {} to {}", options.from.display(), options.codec),
            "from f16 to another codec: what is lost does not come back, and is not lost twice",
            format!("from {} to {}", cache.identity().codec, options.codec),
            "recode the exact cache, or make another with `tutornet cache --codec`",
        ));
    }
    let mut identity = cache.identity().clone();
    identity.writer = crate::shard::WRITER;
    identity.codec = options.codec.to_string();
    let out = options.out.as_path();
    refuse_other(&identity, out)?;
    files::create_dir(out)?;
    let _lock = DirectoryLock::acquire(out)?;
    files::sweep(out)?;
    let begun = out.join(IDENTITY).exists() || out.join(MANIFEST).exists();
    let from = options.codec_from.as_deref();
    let codecs = settle_codec(&mut identity, out, from, &mut || learn_from_cache(options.codec, &cache))?;
    // Of a cache that was there without it nobody knows who made it; and what was taken from another cache once stays that.
    let earlier = Maker::read(out);
    if !begun || out.join(MAKER).exists() {
        let codec_from = from.is_some() || earlier.is_some_and(|maker| maker.codec_from);
        let source = cache.manifest().identity.clone();
        Maker { command: Command::Recode, cache: source, codec_from }.save(out)?;
    }
    let codecs = Arc::new(codecs);
    let hash = files::blake3_file(&out.join(IDENTITY))?;
    let wanted = wanted(&cache);
    let Begun { mut finished, pending, expected } = resume::begin(out, &identity, &hash, &codecs, &wanted)?;
    let place = Place { dir: out, identity: &identity, cache: &hash, expected: &expected };
    let progress =
        Progress::new("recode", "utterances", pending.iter().map(|&s| wanted[s].keys.len() as u64).sum());
    for &shard in &pending {
        if stop.requested() {
            return Err(interrupted());
        }
        let Wanted { file, keys } = &wanted[shard];
        let first: usize = wanted[..shard].iter().map(|w| w.keys.len()).sum();
        let columns = payloads(&identity);
        let row = |(row, key): (usize, &Key)| -> Result<Row> {
            let payload = |&column: &Column| recoded(&cache, &codecs, column, first + row);
            let payloads = columns.iter().map(payload).collect::<Result<_>>()?;
            progress.add(1);
            Ok(Row::new(key.clone(), payloads))
        };
        let rows: Vec<Row> = keys.par_iter().enumerate().map(row).collect::<Result<_>>()?;
        let frames = keys.iter().map(|key| u64::from(key.frames)).sum();
        finished[shard] = Some(place.write(file, frames, &rows)?);
    }
    progress.finish();
    let manifest = resume::seal(out, finished.into_iter().flatten().collect())?;
    let before = cache.hidden_bytes_per_frame(HiddenLayer::Last)?;
    let after = Cache::open(out)?.hidden_bytes_per_frame(HiddenLayer::Last)?;
    Ok(Recoded { before, after, shards: (manifest.shards.len(), pending.len()) })
}

/// The rows of every shard of a cache.
pub(super) fn wanted(cache: &Cache) -> Vec<Wanted> {
    let key = |entry: &Entry| Key {
        utterance: entry.utterance.clone(),
        samples: entry.samples,
        audio_hash: entry.audio_hash,
        frames: entry.frames,
    };
    // Entries stand in the order of shards.
    let mut keys = vec![Vec::new(); cache.manifest().shards.len()];
    for entry in cache.entries() {
        keys[entry.shard as usize].push(key(entry));
    }
    let shards = cache.manifest().shards.iter().zip(keys);
    shards.map(|(entry, keys)| Wanted { file: entry.file.clone(), keys }).collect()
}

/// A payload of the new cache.
fn recoded(cache: &Cache, codecs: &CodecModel, column: Column, index: usize) -> Result<Vec<u8>> {
    let Column::Hidden(layer) = column else { return Ok(cache.raw(column, index)?.to_vec()) };
    let frames = cache.entries().get(index).map_or(0, |entry| entry.frames as usize);
    let width = cache.identity().width_of(layer).unwrap_or(0) as usize;
    let mut values = Vec::new();
    cache.hidden(layer, index, &mut values)?;
    let codec =
        codecs.of(layer).ok_or_else(|| Error::format(cache.dir(), format!("there is no layer {layer}")))?;
    Ok(codec.encode(&values, frames, width))
}
