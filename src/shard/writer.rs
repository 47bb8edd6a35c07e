//! Writes one shard: into a temporary file, hashed as it is written, renamed when complete.

use std::io::{self, Write};
use std::path::Path;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use super::{ROWS_PER_GROUP, WRITER, ZSTD_LEVEL};
use crate::error::{Error, Result};
use crate::files::Pending;

/// What a finished shard is made of; goes into the directory's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSummary {
    /// Utterances.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file, 64 hexadecimal digits.
    pub blake3: String,
    /// BLAKE3 of what its small columns hold, where whoever wrote the rows has taken it.
    pub rows_blake3: Option<String>,
}

/// An open shard; nothing lies under its name before [`ShardWriter::finish`].
pub struct ShardWriter {
    writer: ArrowWriter<Hashing>,
    rows: u64,
    path: std::path::PathBuf,
}

/// The pending file, hashed on the way.
pub(super) struct Hashing {
    pending: Pending,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.pending.file().write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pending.file().flush()
    }
}

impl ShardWriter {
    /// Opens a shard at `path` with the columns of `schema`; `payload` names the binary columns
    /// that get one page a row, `metadata` becomes the file's key-value metadata.
    ///
    /// # Errors
    /// When the directory does not take a new file or the schema cannot be stored.
    pub fn create(
        path: &Path,
        schema: SchemaRef,
        payload: &[impl AsRef<str>],
        metadata: &[(String, String)],
    ) -> Result<Self> {
        let writer = open(path, schema, payload, metadata)?;
        Ok(Self { writer, rows: 0, path: path.to_path_buf() })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// When the rows do not fit the schema or the disk is full.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|e| shard_error(&self.path, &e))
    }

    /// Closes the file, syncs it and gives it its name.
    ///
    /// # Errors
    /// When the disk is full or the system refuses; the shard then does not exist.
    pub fn finish(self) -> Result<ShardSummary> {
        self.finish_unless(|_| false)
    }

    /// Like [`ShardWriter::finish`], but leaves what lies under the name where `is_there` says that it is the same.
    ///
    /// # Errors
    /// As for [`ShardWriter::finish`].
    pub fn finish_unless(self, is_there: impl FnOnce(&ShardSummary) -> bool) -> Result<ShardSummary> {
        let path = self.path;
        let sink = self.writer.into_inner().map_err(|e| shard_error(&path, &e))?;
        sink.commit_unless(self.rows, is_there)
    }
}

impl Hashing {
    /// Syncs the file and gives it its name, unless `is_there` says that the same lies there.
    pub(super) fn commit_unless(
        self,
        rows: u64,
        is_there: impl FnOnce(&ShardSummary) -> bool,
    ) -> Result<ShardSummary> {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let summary = ShardSummary { rows, bytes: self.bytes, blake3, rows_blake3: None };
        if !is_there(&summary) {
            self.pending.commit()?;
        }
        Ok(summary)
    }
}

/// A Parquet writer with the properties of every shard.
pub(super) fn open(
    path: &Path,
    schema: SchemaRef,
    payload: &[impl AsRef<str>],
    metadata: &[(String, String)],
) -> Result<ArrowWriter<Hashing>> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(|e| shard_error(path, &e))?;
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(format!("tutornet version {WRITER}"))
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(false)
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_write_batch_size(1)
        .set_key_value_metadata(Some(
            metadata.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect(),
        ));
    for column in payload {
        properties = properties.set_column_data_page_row_count_limit(ColumnPath::from(column.as_ref()), 1);
    }
    let sink = Hashing { pending: Pending::create(path)?, hasher: blake3::Hasher::new(), bytes: 0 };
    ArrowWriter::try_new(sink, schema, Some(properties.build())).map_err(|e| shard_error(path, &e))
}

pub(super) fn shard_error(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::format(path, error.to_string())
}
