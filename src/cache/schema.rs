//! The columns of a cache shard and what becomes of one utterance in them (`schemas/cache.md`).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, FixedSizeBinaryArray, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use xxhash_rust::xxh3::xxh3_64;

use super::column::payloads;
use super::identity::Identity;
use super::rows::small;
use crate::error::{Error, Result};
use crate::shard::{self, Shard, ShardSummary, ShardWriter};

/// Small columns, read when a shard is opened.
pub const SMALL: [&str; 5] = ["utterance", "samples", "audio_hash", "frames", CHECKSUM];
/// One xxh3-128 a payload column.
pub const CHECKSUM: &str = "checksum";

/// Keys of the file's metadata.
pub mod key {
    /// What the file is a shard of.
    pub const KIND: &str = "tutornet.kind";
    /// [`super::super::identity::VERSION`].
    pub const VERSION: &str = "tutornet.version";
    /// BLAKE3 of the `cache.toml` that the shard belongs to.
    pub const CACHE: &str = "tutornet.cache";
    /// Codec of the hidden states.
    pub const CODEC: &str = "tutornet.codec";
    /// Channels of the hidden states.
    pub const WIDTH: &str = "tutornet.width";
    /// Feature frames per output frame.
    pub const STRIDE: &str = "tutornet.stride";
    /// The labels in logit order, as JSON; the blank is `null`.
    pub const LABELS: &str = "tutornet.labels";
    /// Temperature of the column `softmax`, where there is one.
    pub const TEMPERATURE: &str = "tutornet.temperature";
}
/// Value of [`key::KIND`].
pub const KIND: &str = "cache";

/// What names an utterance: part of every checksum of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Name in the corpus.
    pub utterance: String,
    /// Samples at 16 kHz.
    pub samples: u64,
    /// First 16 bytes of the BLAKE3 of its samples.
    pub audio_hash: [u8; 16],
    /// Output frames.
    pub frames: u32,
}

impl Key {
    /// Checksum of a payload of this row: xxh3-128 of its bytes, seeded with the xxh3-64 of the row's key,
    /// big-endian. A payload under another utterance's name therefore does not pass.
    pub fn checksum(&self, payload: &[u8]) -> [u8; 16] {
        shard::xxh3_128(payload, self.seed()).to_be_bytes()
    }

    /// xxh3-64 of `samples` (8 bytes), `frames` (4), `audio_hash` (16) and `utterance`, little-endian.
    fn seed(&self) -> u64 {
        let mut bytes = Vec::with_capacity(28 + self.utterance.len());
        bytes.extend_from_slice(&self.samples.to_le_bytes());
        bytes.extend_from_slice(&self.frames.to_le_bytes());
        bytes.extend_from_slice(&self.audio_hash);
        bytes.extend_from_slice(self.utterance.as_bytes());
        xxh3_64(&bytes)
    }
}

/// One utterance, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is of.
    pub key: Key,
    /// Payloads in the order of [`payloads`].
    pub payloads: Vec<Vec<u8>>,
    /// Their checksums, one after the other.
    pub checksum: Vec<u8>,
}

impl Row {
    /// A row and its checksums.
    pub fn new(key: Key, payloads: Vec<Vec<u8>>) -> Self {
        let checksum = payloads.iter().flat_map(|p| key.checksum(p)).collect();
        Self { key, payloads, checksum }
    }
}

/// The Arrow schema of a shard.
pub fn schema(identity: &Identity) -> Result<SchemaRef> {
    let payloads = payloads(identity);
    let hash_bytes = i32::try_from(16 * payloads.len()).map_err(|e| Error::invalid(e.to_string()))?;
    let mut fields = vec![
        Field::new("utterance", DataType::Utf8, false),
        Field::new("samples", DataType::UInt64, false),
        Field::new("audio_hash", DataType::FixedSizeBinary(16), false),
        Field::new("frames", DataType::UInt32, false),
    ];
    fields.extend(payloads.iter().map(|column| {
        // One key a column: the order of several would not be fixed.
        let metadata = HashMap::from([("layout".to_owned(), column.layout(identity))]);
        Field::new(column.to_string(), DataType::Binary, false).with_metadata(metadata)
    }));
    fields.push(Field::new(CHECKSUM, DataType::FixedSizeBinary(hash_bytes), false));
    Ok(Arc::new(Schema::new(fields)))
}

/// The file's key-value metadata; `cache` is the BLAKE3 of `cache.toml`.
pub fn metadata(identity: &Identity, cache: &str) -> Vec<(String, String)> {
    let labels: Vec<_> = (0..identity.labels.count()).map(|i| identity.labels.symbol(i)).collect();
    let mut pairs = vec![
        (key::KIND, KIND.to_owned()),
        (key::VERSION, identity.version.to_string()),
        (key::CACHE, cache.to_owned()),
        (key::CODEC, identity.codec.clone()),
        (key::WIDTH, identity.hidden_width.to_string()),
        (key::STRIDE, identity.stride.to_string()),
        (key::LABELS, serde_json::json!(labels).to_string()),
    ];
    pairs.extend(identity.temperature.map(|t| (key::TEMPERATURE, t.to_string())));
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// Writes one shard of `rows`, whole or not at all.
///
/// # Errors
/// When the disk is full or the system refuses.
pub fn write_shard(path: &Path, identity: &Identity, cache: &str, rows: &[Row]) -> Result<ShardSummary> {
    write_shard_unless(path, identity, cache, rows.iter(), |_| false)
}

/// Like [`write_shard`], but leaves what lies at `path` where `is_there` says that it is the same.
///
/// # Errors
/// As for [`write_shard`].
pub(super) fn write_shard_unless(
    path: &Path,
    identity: &Identity,
    cache: &str,
    rows: impl Iterator<Item = impl Borrow<Row>>,
    is_there: impl FnOnce(&ShardSummary) -> bool,
) -> Result<ShardSummary> {
    let schema = schema(identity)?;
    let columns: Vec<String> = payloads(identity).iter().map(ToString::to_string).collect();
    let mut writer = ShardWriter::create(path, schema.clone(), &columns, &metadata(identity, cache))?;
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        let row = row.borrow();
        writer.write(&batch(row, &schema).map_err(|e| Error::format(path, e.to_string()))?)?;
        add_row(&mut hasher, &row.key, &row.checksum);
    }
    let rows_blake3 = hasher.finalize().to_hex().to_string();
    Ok(ShardSummary { rows_blake3: Some(rows_blake3), ..writer.finish_unless(is_there)? })
}

/// BLAKE3 over the small columns of a shard's rows, in order: of each the length of `utterance` in bytes (8 bytes),
/// `utterance`, `samples` (8), `frames` (4), `audio_hash` (16) and `checksum`, numbers little-endian.
pub fn rows_blake3<'a>(rows: impl Iterator<Item = (&'a Key, &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, checksum) in rows {
        add_row(&mut hasher, key, checksum);
    }
    hasher.finalize().to_hex().to_string()
}

fn add_row(hasher: &mut blake3::Hasher, key: &Key, checksum: &[u8]) {
    hasher.update(&(key.utterance.len() as u64).to_le_bytes()).update(key.utterance.as_bytes());
    hasher.update(&key.samples.to_le_bytes()).update(&key.frames.to_le_bytes());
    hasher.update(&key.audio_hash).update(checksum);
}

/// Writes the shard `to` of the rows of the shard `from` under another identity, whole or not at all. The pages of
/// `from` are copied as they are, but for the columns that `fresh` gives for a range of rows. What lies at `to` is left where
/// `is_there` says so.
///
/// # Errors
/// See [`shard::copy_shard`].
pub fn copy_rows(
    from: &Path,
    to: &Path,
    identity: &Identity,
    cache: &str,
    fresh: &mut dyn FnMut(Range<usize>) -> Result<Vec<(String, ArrayRef)>>,
    is_there: impl Fn(&ShardSummary) -> bool,
) -> Result<ShardSummary> {
    let columns: Vec<String> = payloads(identity).iter().map(ToString::to_string).collect();
    let (schema, metadata) = (schema(identity)?, metadata(identity, cache));
    let summary = shard::copy_shard(from, to, &schema, &columns, &metadata, fresh, &is_there)?;
    if is_there(&summary) {
        return Ok(summary);
    }
    let (keys, checksums) = small(&Shard::open(to)?, columns.len())?;
    let rows_blake3 = rows_blake3(keys.iter().zip(checksums.chunks_exact(16 * columns.len())));
    Ok(ShardSummary { rows_blake3: Some(rows_blake3), ..summary })
}

fn batch(row: &Row, schema: &SchemaRef) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let key = &row.key;
    let hash = |bytes: &[u8]| FixedSizeBinaryArray::try_from_iter(std::iter::once(bytes));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![key.utterance.as_str()])),
        Arc::new(UInt64Array::from(vec![key.samples])),
        Arc::new(hash(&key.audio_hash)?),
        Arc::new(UInt32Array::from(vec![key.frames])),
    ];
    for payload in &row.payloads {
        columns.push(Arc::new(BinaryArray::from(vec![payload.as_slice()])));
    }
    columns.push(Arc::new(hash(&row.checksum)?));
    RecordBatch::try_new(schema.clone(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::identity::InnerLayer;

    #[test]
    fn a_checksum_covers_the_payload_and_the_row_it_stands_in() {
        let key = Key { utterance: "a".into(), samples: 1, audio_hash: [2; 16], frames: 3 };
        let sum = key.checksum(b"payload");
        assert_eq!(sum, key.clone().checksum(b"payload"));
        assert_ne!(sum, key.checksum(b"payloae"));
        for other in [
            Key { utterance: "b".into(), ..key.clone() },
            Key { samples: 2, ..key.clone() },
            Key { audio_hash: [3; 16], ..key.clone() },
            Key { frames: 4, ..key.clone() },
        ] {
            assert_ne!(sum, other.checksum(b"payload"), "{other:?}");
        }
    }

    #[test]
    fn rows_make_the_same_bytes_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let identity = super::super::identity::tests::example(4);
        let rows: Vec<Row> = (0..3u8)
            .map(|i| {
                let key = Key { utterance: format!("u{i}"), samples: 5, audio_hash: [i; 16], frames: 1 };
                Row::new(key, vec![vec![i; 9], vec![0; 4], vec![1; 58]])
            })
            .collect();
        let bytes: Vec<_> = ["a", "b"]
            .map(|name| {
                let path = dir.path().join(name);
                assert_eq!(write_shard(&path, &identity, "ee", &rows).unwrap().rows, 3);
                std::fs::read(path).unwrap()
            })
            .into();
        assert_eq!(bytes[0], bytes[1]);
    }

    /// First cells of the rows of the table under `heading` of the schema's page.
    fn documented(heading: &str, cells: usize) -> Vec<Vec<String>> {
        let page = include_str!("../../schemas/cache.md");
        let section = page.split(&format!("## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter(|l| l.starts_with("| `"));
        let cell = |c: &str| c.trim().trim_matches('`').to_owned();
        rows.map(|line| line.split('|').skip(1).take(cells).map(cell).collect()).collect()
    }

    #[test]
    fn the_page_describes_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let search = crate::decode::SearchSettings {
            beam: 8,
            lm: None,
            lm_weight: 2.0,
            word_bonus: 0.0,
            lexicon: false,
        };
        let nbest = super::super::nbest::NbestIdentity { count: 5, search };
        let inner = [InnerLayer { layer: 3, width: 8 }, InnerLayer { layer: 5, width: 4 }];
        for (temperature, nbest, layers) in [
            (None, None, 0),
            (Some(2.0), None, 0),
            (None, Some(nbest.clone()), 2),
            (Some(2.0), Some(nbest), 1),
            (None, None, 2),
        ] {
            let mut identity = super::super::identity::tests::example(4);
            (identity.temperature, identity.nbest) = (temperature, nbest);
            identity.layers = inner[..layers].to_vec();
            let path = dir.path().join("shard");
            let key = Key { utterance: "u".into(), samples: 5, audio_hash: [1; 16], frames: 1 };
            let row = Row::new(key, vec![vec![0; 2]; payloads(&identity).len()]);
            write_shard(&path, &identity, "ee", &[row]).unwrap();

            // What is in the file, not what was meant to be.
            let file = std::fs::File::open(&path).unwrap();
            let reader =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            let written: Vec<Vec<String>> = reader
                .schema()
                .fields()
                .iter()
                .map(|f| vec![f.name().clone(), f.data_type().to_string()])
                .collect();
            let mut columns = documented("Columns", 2);
            columns.retain(|c| c[0] != "softmax" || temperature.is_some());
            columns.retain(|c| c[0] != "nbest" || identity.nbest.is_some());
            // `hidden_K` and `frame_weight_K` stand for those of every inner layer, one layer after the other.
            let at = columns.iter().position(|c| c[0] == "hidden_K").unwrap();
            let of_layer: Vec<_> = columns.splice(at..at + 2, []).collect();
            let named = |name: &str, k: u32| name.replace('K', &k.to_string());
            for (number, layer) in identity.layers.iter().enumerate() {
                let own = of_layer.iter().map(|c| vec![named(&c[0], layer.layer), c[1].clone()]);
                columns.splice(at + 2 * number..at + 2 * number, own);
            }
            columns.last_mut().unwrap()[1] = format!("FixedSizeBinary({})", 16 * payloads(&identity).len());
            assert_eq!(written, columns);
            assert!(reader.schema().fields().iter().all(|f| !f.is_nullable()));

            let keys = reader.metadata().file_metadata().key_value_metadata().unwrap();
            let keys: Vec<&str> =
                keys.iter().map(|k| k.key.as_str()).filter(|k| k.starts_with("tutornet.")).collect();
            let mut expected = documented("Metadata", 1);
            expected.retain(|k| temperature.is_some() || k[0] != key::TEMPERATURE);
            assert_eq!(keys, expected.iter().map(|k| k[0].as_str()).collect::<Vec<_>>());
        }
    }
}
