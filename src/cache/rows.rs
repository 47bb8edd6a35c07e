//! One open cache shard: its rows, and payloads that are checked on every read.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use bytes::Bytes;

use super::codec::{Codec, CodecModel, Pieces};
use super::column::{Column, payloads};
use super::identity::{Identity, short};
use super::manifest::ShardEntry;
use super::nbest::{self, NbestText};
use super::remedy::remedy;
use super::schema::{CHECKSUM, KIND, Key, SMALL, key, rows_blake3};
use crate::error::{Error, Result};
use crate::files;
use crate::models::HiddenLayer;
use crate::shard::{self, Shard};
use crate::store::Ahead;

/// An open shard of a cache, all of its small columns read.
#[derive(Debug)]
pub struct Rows {
    shard: Shard,
    keys: Vec<Key>,
    /// `columns.len()` hashes of 16 bytes a row.
    checksums: Vec<u8>,
    columns: Vec<Column>,
    /// Of `columns`, in the file.
    names: Vec<String>,
    widths: Vec<(HiddenLayer, usize)>,
    codecs: Arc<CodecModel>,
    labels: usize,
}

impl Rows {
    /// Opens a shard of the cache `identity`, whose `cache.toml` has the BLAKE3 `cache`.
    ///
    /// # Errors
    /// When the file is truncated, is no cache shard, or belongs to another cache.
    pub fn open(path: &Path, identity: &Identity, cache: &str, codecs: &Arc<CodecModel>) -> Result<Self> {
        let shard = Shard::open(path)?;
        require_member(&shard, identity, cache)?;
        let columns = payloads(identity);
        let (keys, checksums) = small(&shard, columns.len())?;
        let names = columns.iter().map(ToString::to_string).collect();
        let (widths, codecs) = (identity.hidden_layers(), Arc::clone(codecs));
        Ok(Self { shard, keys, checksums, columns, names, widths, codecs, labels: identity.labels.count() })
    }

    /// The rows in order.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The checksums of a row, 16 bytes a payload column.
    pub fn checksums(&self, row: usize) -> &[u8] {
        let bytes = 16 * self.columns.len();
        self.checksums.get(row * bytes..(row + 1) * bytes).unwrap_or_default()
    }

    /// Refuses small columns other than those that the manifest's entry counts and has the BLAKE3 of.
    ///
    /// # Errors
    /// When they are others.
    pub fn require(&self, entry: &ShardEntry) -> Result<()> {
        let path = self.shard.path();
        let refuse = |detail: String| {
            let next = path.parent().map(remedy).unwrap_or_default();
            Err(Error::format(path, format!("{detail}; {next}")))
        };
        let found = (self.keys.len() as u64, self.keys.iter().map(|key| u64::from(key.frames)).sum::<u64>());
        if found.0 != entry.rows {
            return refuse(format!("expected {} rows, found {}", entry.rows, found.0));
        }
        if found.1 != entry.frames {
            return refuse(format!("expected {} frames, found {}", entry.frames, found.1));
        }
        let Some(expected) = &entry.rows_blake3 else { return Ok(()) };
        let found = rows_blake3(self.keys.iter().enumerate().map(|(row, key)| (key, self.checksums(row))));
        if found == *expected {
            return Ok(());
        }
        refuse(format!("expected rows of BLAKE3 {expected}, found {found}: the file was changed"))
    }

    /// Compressed bytes of a column in the file.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn compressed_bytes(&self, column: Column) -> Result<u64> {
        self.shard.compressed_bytes(&column.to_string())
    }

    /// The payload columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Hidden states of a row at a layer, some frames at a time: see [`super::Cache::hidden_in_pieces`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not the ones that were written; and when the cache does not have the
    /// layer.
    pub fn hidden_in_pieces(
        &self,
        layer: HiddenLayer,
        row: usize,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let decode = |payload: &[u8]| {
            let (codec, width) = self.codec(layer)?;
            codec.decode_in_pieces(payload, self.frames(row), width, &mut Pieces::new(take))
        };
        self.payload(Column::Hidden(layer), row, decode)
    }

    /// What a learned codec stores of a row at a layer: coordinates along its rotation's components, `[frames, rank]`; of
    /// another codec the hidden states.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`].
    pub fn coordinates(&self, layer: HiddenLayer, row: usize, out: &mut Vec<f32>) -> Result<()> {
        let decode = |payload: &[u8]| {
            let (codec, width) = self.codec(layer)?;
            codec.coordinates(payload, self.frames(row), width, out)
        };
        self.payload(Column::Hidden(layer), row, decode)
    }

    fn codec(&self, layer: HiddenLayer) -> std::result::Result<(&Codec, usize), String> {
        let width = self.widths.iter().find(|(of, _)| *of == layer).map(|(_, width)| *width);
        self.codecs.of(layer).zip(width).ok_or_else(|| format!("there is no layer {layer}"))
    }

    /// Frame weights of a row at a layer: `[frames]`.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`].
    pub fn frame_weight(&self, layer: HiddenLayer, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.payload(Column::FrameWeight(layer), row, |payload| {
            self.require_length(row, payload, 4)?;
            out.clear();
            out.extend(files::f32s(payload));
            Ok(())
        })
    }

    /// Natural logarithms of the posterior of a row at temperature 1: `[frames, labels]`.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`].
    pub fn log_posterior(&self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.halves(Column::Posterior, row, out)
    }

    /// The softmax of a row at the identity's temperature: `[frames, labels]`.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`]; and when the cache has none.
    pub fn softmax(&self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.halves(Column::Softmax, row, out)
    }

    /// The teacher's best texts of a row, best first.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`]; and when the cache has none.
    pub fn nbest(&self, row: usize) -> Result<Vec<NbestText>> {
        self.payload(Column::Nbest, row, nbest::decode)
    }

    /// The bytes of a payload, checked.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`]; and when the cache does not have the column.
    pub fn raw(&self, column: Column, row: usize) -> Result<Bytes> {
        self.payload(column, row, |payload| Ok(Bytes::copy_from_slice(payload)))
    }

    /// Where in its shard a payload lies: all that is read for it.
    ///
    /// # Errors
    /// When the cache does not have the column or the row.
    pub fn span(&self, column: Column, row: usize) -> Result<Range<u64>> {
        self.shard.span(&column.to_string(), row)
    }

    /// Checks every payload of a row and that it decodes; `scratch` is overwritten.
    ///
    /// # Errors
    /// As for [`Rows::hidden_in_pieces`], for the first column that is bad.
    pub fn check(&self, column: Column, row: usize, scratch: &mut Vec<f32>) -> Result<()> {
        match column {
            // What is stored decodes; turning it back would say no more.
            Column::Hidden(layer) => self.coordinates(layer, row, scratch),
            Column::FrameWeight(layer) => self.frame_weight(layer, row, scratch),
            Column::Posterior | Column::Softmax => self.halves(column, row, scratch),
            Column::Nbest => self.nbest(row).map(|_| ()),
        }
    }

    fn halves(&self, column: Column, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.payload(column, row, |payload| {
            self.require_length(row, payload, 2 * self.labels)?;
            out.clear();
            out.extend(payload.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()));
            Ok(())
        })
    }

    fn frames(&self, row: usize) -> usize {
        self.keys.get(row).map_or(0, |k| k.frames as usize)
    }

    /// Says that payloads will be wanted soon: the system may start to read them, and those of a shard in a bucket are
    /// fetched.
    ///
    /// # Errors
    /// When the cache does not have one of the columns or rows.
    pub fn ahead(&self, columns: &[Column], rows: impl Iterator<Item = usize>) -> Result<Ahead> {
        let name = |column: &Column| -> Result<&str> {
            let at = self.columns.iter().position(|c| c == column).and_then(|at| self.names.get(at));
            at.map(String::as_str)
                .ok_or_else(|| Error::format(self.shard.path(), format!("there is no column {column}")))
        };
        let names = columns.iter().map(name).collect::<Result<Vec<_>>>()?;
        self.shard.ahead(rows.flat_map(|row| names.iter().map(move |name| (name, row))))
    }

    /// Reads a payload, compares it with its checksum and hands it to `of`; what came out of a bucket damaged is read once
    /// more.
    fn payload<T>(
        &self,
        column: Column,
        row: usize,
        mut of: impl FnMut(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let payload = self.read(column, row, &mut of);
        match &payload {
            Err(Error::Corrupt { .. }) if self.shard.forget(&column.to_string(), row) => {
                self.read(column, row, &mut of)
            }
            _ => payload,
        }
    }

    fn read<T>(
        &self,
        column: Column,
        row: usize,
        of: &mut impl FnMut(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let at = self.columns.iter().position(|c| *c == column);
        let at = at.and_then(|at| Some((at, self.names.get(at)?)));
        let (Some((at, name)), Some(key)) = (at, self.keys.get(row)) else {
            let detail = format!("no column {column} or no row {row} of {}", self.keys.len());
            return Err(Error::format(self.shard.path(), detail));
        };
        let expected = self.checksums(row).get(16 * at..16 * at + 16).unwrap_or_default();
        let checked = |payload: &[u8]| {
            let found = key.checksum(payload);
            if expected == found {
                return of(payload);
            }
            let (expected, found) = (hexadecimal(expected), hexadecimal(&found));
            Err(format!("expected checksum {expected}, the bytes give {found}"))
        };
        match self.shard.with_payload(name, row, checked) {
            Ok(result) => result.map_err(|detail| self.corrupt(column, row, detail)),
            Err(Error::Format { detail, .. }) => Err(self.corrupt(column, row, detail)),
            Err(other) => Err(other),
        }
    }

    fn require_length(
        &self,
        row: usize,
        payload: &[u8],
        bytes_per_frame: usize,
    ) -> std::result::Result<(), String> {
        let expected = self.frames(row) * bytes_per_frame;
        if payload.len() == expected {
            return Ok(());
        }
        Err(format!("expected {expected} bytes, found {}", payload.len()))
    }

    fn corrupt(&self, column: Column, row: usize, detail: String) -> Error {
        Error::Corrupt {
            path: self.shard.path().to_path_buf(),
            utterance: self.keys.get(row).map(|k| k.utterance.clone()).unwrap_or_default(),
            column: column.to_string(),
            detail,
        }
    }
}

/// The keys of a shard's rows, and their checksums of 16 bytes for each of `columns` payload columns.
pub(super) fn small(shard: &Shard, columns: usize) -> Result<(Vec<Key>, Vec<u8>)> {
    let path = shard.path();
    let batch = shard.columns(&SMALL)?;
    let checksums = batch.column_by_name(CHECKSUM).map(AsRef::as_ref).unwrap_or(batch.column(0).as_ref());
    let expected = DataType::FixedSizeBinary(i32::try_from(16 * columns).unwrap_or(0));
    if checksums.data_type() != &expected || checksums.null_count() > 0 {
        let detail = format!("column {CHECKSUM}: expected {expected}, found {}", checksums.data_type());
        return Err(Error::format(path, detail));
    }
    let checksums = checksums.as_fixed_size_binary().iter().flatten().flatten().copied().collect();
    let names = shard::strings(&batch, "utterance", path)?.into_iter();
    let samples = shard::u64s(&batch, "samples", path)?;
    let hashes = shard::hashes(&batch, "audio_hash", path)?;
    let frames = shard::u32s(&batch, "frames", path)?;
    let rows = names.zip(samples).zip(hashes).zip(frames);
    let key = |(((utterance, samples), audio_hash), frames)| Key { utterance, samples, audio_hash, frames };
    Ok((rows.map(key).collect(), checksums))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Refuses a shard that is not of the cache `identity`, whose `cache.toml` has the BLAKE3 `cache`.
fn require_member(shard: &Shard, identity: &Identity, cache: &str) -> Result<()> {
    for (name, expected) in [
        (key::KIND, KIND.to_owned()),
        (key::VERSION, identity.version.to_string()),
        (key::CACHE, cache.to_owned()),
    ] {
        let found = shard.metadata(name).unwrap_or("nothing");
        if found != expected {
            return Err(Error::mismatch(
                format!("{name} of {}", shard.path().display()),
                short(&expected),
                short(found),
                format!(
                    "the shard is of another cache; {}",
                    shard.path().parent().map(remedy).unwrap_or_default()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether the file is a shard of that cache.
pub fn belongs(path: &Path, identity: &Identity, cache: &str) -> bool {
    Shard::open(path).is_ok_and(|shard| require_member(&shard, identity, cache).is_ok())
}
