//! A complete cache as stage two sees it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::codec::CodecModel;
use super::column::Column;
use super::identity::Identity;
use super::manifest::Manifest;
use super::nbest::NbestText;
use super::remedy::remedy;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::models::HiddenLayer;
use crate::store::Ahead;

/// A sealed, complete cache, on disk or in a bucket. Shards on disk are memory-mapped; nothing of a payload stays in memory.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    identity: Identity,
    manifest: Manifest,
    shards: Vec<Rows>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

/// One utterance of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the corpus.
    pub utterance: String,
    /// Samples at 16 kHz.
    pub samples: u64,
    /// First 16 bytes of the BLAKE3 of its 16 kHz mono samples (f32, little-endian).
    pub audio_hash: [u8; 16],
    /// Output frames.
    pub frames: u32,
    /// Which shard.
    pub shard: u32,
    /// Which row of the shard.
    pub row: u32,
}

impl Cache {
    /// Opens a complete cache: seals, sizes, and the small columns of every shard are checked here,
    /// payloads when they are read.
    ///
    /// # Errors
    /// When the cache is not complete, was changed since it was sealed, is of another format version,
    /// or names an utterance twice.
    pub fn open(dir: &Path) -> Result<Self> {
        let identity = Identity::load(dir)?;
        let manifest = Manifest::load(dir)?;
        let codecs = Arc::new(CodecModel::open(dir, &identity)?);
        let mut shards = Vec::with_capacity(manifest.shards.len());
        let mut entries = Vec::new();
        let mut by_name = HashMap::new();
        for (number, entry) in manifest.shards.iter().enumerate() {
            let path = dir.join(&entry.file);
            if let Some(difference) = entry.size_difference(dir)? {
                return Err(Error::format(&path, format!("{difference}; {}", remedy(dir))));
            }
            let rows = Rows::open(&path, &identity, &manifest.identity, &codecs)?;
            rows.require(entry)?;
            let shard = number_of(number, &path)?;
            for (row, key) in rows.keys().iter().enumerate() {
                if by_name.insert(key.utterance.clone(), entries.len()).is_some() {
                    let detail = format!("utterance {} twice; {}", key.utterance, remedy(dir));
                    return Err(Error::format(&path, detail));
                }
                entries.push(Entry {
                    utterance: key.utterance.clone(),
                    samples: key.samples,
                    audio_hash: key.audio_hash,
                    frames: key.frames,
                    shard,
                    row: number_of(row, &path)?,
                });
            }
            shards.push(rows);
        }
        Ok(Self { dir: dir.to_path_buf(), identity, manifest, shards, entries, by_name })
    }

    /// Where the cache lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the cache is of.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the cache consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All utterances, shard by shard.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Index of an utterance among [`Cache::entries`].
    pub fn find(&self, utterance: &str) -> Option<usize> {
        self.by_name.get(utterance).copied()
    }

    /// Hidden states of entry `index` at a layer: `[frames, width]`; replaces `out`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with shard, utterance and column when the bytes are not the ones written; and when the
    /// cache does not have the layer.
    pub fn hidden(&self, layer: HiddenLayer, index: usize, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        self.hidden_in_pieces(layer, index, |first, piece| {
            // What came out of a bucket damaged is read from the start again.
            if first == 0 {
                out.clear();
            }
            out.extend_from_slice(piece);
        })
    }

    /// [`Cache::hidden`] in order and some frames at a time: `take` gets the number of the first, and `[frames, width]`
    /// values that are still in the processor's cache. Faster wherever they are only copied to another place.
    ///
    /// # Errors
    /// As for [`Cache::hidden`]; what has been handed on by then is no longer worth anything.
    pub fn hidden_in_pieces(
        &self,
        layer: HiddenLayer,
        index: usize,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let (rows, row) = self.locate(index)?;
        rows.hidden_in_pieces(layer, row, &mut take)
    }

    /// What a learned codec stores of entry `index` at a layer: coordinates along its rotation's components,
    /// `[frames, rank]`; of another codec the hidden states. Replaces `out`.
    ///
    /// # Errors
    /// As for [`Cache::hidden`].
    pub fn coordinates(&self, layer: HiddenLayer, index: usize, out: &mut Vec<f32>) -> Result<()> {
        let (rows, row) = self.locate(index)?;
        rows.coordinates(layer, row, out)
    }

    /// Frame weights of entry `index` at a layer: `[frames]`; replaces `out`.
    ///
    /// # Errors
    /// As for [`Cache::hidden`].
    pub fn frame_weight(&self, layer: HiddenLayer, index: usize, out: &mut Vec<f32>) -> Result<()> {
        let (rows, row) = self.locate(index)?;
        rows.frame_weight(layer, row, out)
    }

    /// Natural logarithms of the posterior of entry `index` at temperature 1: `[frames, labels]`;
    /// replaces `out`.
    ///
    /// # Errors
    /// As for [`Cache::hidden`].
    pub fn log_posterior(&self, index: usize, out: &mut Vec<f32>) -> Result<()> {
        let (rows, row) = self.locate(index)?;
        rows.log_posterior(row, out)
    }

    /// The softmax of entry `index` at the identity's temperature: `[frames, labels]`; replaces `out`.
    ///
    /// # Errors
    /// As for [`Cache::hidden`]; and when the cache has none.
    pub fn softmax(&self, index: usize, out: &mut Vec<f32>) -> Result<()> {
        let (rows, row) = self.locate(index)?;
        rows.softmax(row, out)
    }

    /// The teacher's best texts of entry `index`, best first.
    ///
    /// # Errors
    /// As for [`Cache::hidden`]; and when the cache has none.
    pub fn nbest(&self, index: usize) -> Result<Vec<NbestText>> {
        let (rows, row) = self.locate(index)?;
        rows.nbest(row)
    }

    /// The bytes of one payload of entry `index`, checked.
    ///
    /// # Errors
    /// As for [`Cache::hidden`].
    pub fn raw(&self, column: Column, index: usize) -> Result<Bytes> {
        let (rows, row) = self.locate(index)?;
        rows.raw(column, row)
    }

    /// Which bytes of its shard are read for one payload of entry `index`.
    ///
    /// # Errors
    /// When the cache does not have the column or the entry.
    pub fn span(&self, column: Column, index: usize) -> Result<Range<u64>> {
        let (rows, row) = self.locate(index)?;
        rows.span(column, row)
    }

    /// Says that payloads of entries will be wanted soon: the system may start to read them. Those of a cache in a bucket
    /// are fetched, all at once, and stay in memory until they are read or the result is dropped.
    ///
    /// # Errors
    /// When there is no such column or entry.
    pub fn ahead(&self, columns: &[Column], entries: impl Iterator<Item = usize>) -> Result<Ahead> {
        let mut ahead = Ahead::default();
        let mut rows = vec![Vec::new(); self.shards.len()];
        for entry in entries {
            let Entry { shard, row, .. } = self.entry(entry)?;
            rows[*shard as usize].push(*row as usize);
        }
        for (shard, rows) in self.shards.iter().zip(rows) {
            if !rows.is_empty() {
                ahead.join(shard.ahead(columns, rows.into_iter())?);
            }
        }
        Ok(ahead)
    }

    /// Compressed bytes of a column over all shards.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn compressed_bytes(&self, column: Column) -> Result<u64> {
        self.shards.iter().map(|s| s.compressed_bytes(column)).sum()
    }

    /// Compressed bytes of a layer's hidden column over valid output frames; 0 for a cache without frames.
    ///
    /// # Errors
    /// As for [`Cache::compressed_bytes`].
    pub fn hidden_bytes_per_frame(&self, layer: HiddenLayer) -> Result<f64> {
        Ok(self.compressed_bytes(Column::Hidden(layer))? as f64 / self.manifest.frames.max(1) as f64)
    }

    fn locate(&self, index: usize) -> Result<(&Rows, usize)> {
        let entry = self.entry(index)?;
        Ok((&self.shards[entry.shard as usize], entry.row as usize))
    }

    fn entry(&self, index: usize) -> Result<&Entry> {
        self.entries.get(index).ok_or_else(|| {
            Error::invalid(format!("entry {index} of a cache with {} utterances", self.entries.len()))
        })
    }
}

fn number_of(index: usize, path: &Path) -> Result<u32> {
    u32::try_from(index).map_err(|_| Error::format(path, "too many rows or shards"))
}
