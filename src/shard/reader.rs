//! Reads one shard, mapped or in a bucket: small columns at once, payloads one utterance at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, UInt32Type, UInt64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::guard::guarded;
use super::page;
use super::writer::shard_error;
use crate::error::{Error, Result};
use crate::store::{self, Ahead, Source};

/// An open shard. Cheap to clone; all clones share one source of bytes.
#[derive(Debug, Clone)]
pub struct Shard {
    path: Arc<PathBuf>,
    source: Source,
    metadata: ArrowReaderMetadata,
    /// Names of the columns, as they stand in a row group.
    columns: Arc<Vec<String>>,
    /// First row of every row group, and the number of rows at the end.
    first_rows: Arc<Vec<usize>>,
}

impl Shard {
    /// Maps the file, or finds the object, and reads its footer.
    ///
    /// # Errors
    /// When the file is missing, truncated, or no Parquet file with an offset index.
    pub fn open(path: &Path) -> Result<Self> {
        let source = store::open(path)?;
        let metadata = guarded(path, || footer(&source, path))?;
        source.settle();
        check_extents(path, metadata.metadata(), source.size())?;
        let mut first_rows = vec![0];
        for group in metadata.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows())
                .map_err(|_| Error::format(path, "a row group with a negative number of rows"))?;
            let all =
                rows.checked_add(first_rows[first_rows.len() - 1]).filter(|&all| all as u64 <= source.size());
            // Every row takes a byte at least, and is made room for.
            let all = all.ok_or_else(|| Error::format(path, "more rows than the file has bytes"))?;
            first_rows.push(all);
        }
        let descriptor = metadata.metadata().file_metadata().schema_descr();
        let columns = Arc::new(descriptor.columns().iter().map(|c| c.path().string()).collect());
        let (path, first_rows) = (Arc::new(path.to_path_buf()), Arc::new(first_rows));
        Ok(Self { path, source, metadata, columns, first_rows })
    }

    /// Where the shard lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of utterances.
    pub fn rows(&self) -> usize {
        self.first_rows[self.first_rows.len() - 1]
    }

    /// Value of a key of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let pairs = self.parquet().file_metadata().key_value_metadata()?;
        pairs.iter().find(|p| p.key == key)?.value.as_deref()
    }

    /// Compressed size of a column in bytes, summed over the file.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn compressed_bytes(&self, column: &str) -> Result<u64> {
        let leaf = self.leaf(column)?;
        let sizes = self.parquet().row_groups().iter().map(|g| g.column(leaf).compressed_size());
        u64::try_from(sizes.sum::<i64>())
            .map_err(|_| Error::format(self.path(), format!("column {column} has a negative size")))
    }

    /// Reads the named small columns of all rows.
    ///
    /// # Errors
    /// When a column is missing or its pages cannot be decoded.
    pub fn columns(&self, names: &[&str]) -> Result<RecordBatch> {
        let leaves = names.iter().map(|name| self.leaf(name)).collect::<Result<Vec<_>>>()?;
        let chunks = self.parquet().row_groups().iter().flat_map(|group| {
            leaves.iter().map(|&leaf| {
                let (start, length) = group.column(leaf).byte_range();
                start..start + length
            })
        });
        let view = self.source.view(&chunks.collect::<Vec<_>>())?;
        let schema = self.parquet().file_metadata().schema_descr();
        let mask = ProjectionMask::columns(schema, names.iter().copied());
        let bad = |e: &dyn std::fmt::Display| Error::format(self.path(), e.to_string());
        let (schema, batches) = guarded(self.path(), || {
            let metadata = self.metadata.clone();
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(view, metadata)
                .with_projection(mask)
                .with_batch_size(self.rows().max(1))
                .build()
                .map_err(|e| shard_error(self.path(), &e))?;
            let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
            let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().map_err(|e| bad(&e))?;
            Ok((schema, batches))
        })?;
        let batch =
            concat_batches(&schema, &batches).map_err(|e| Error::format(self.path(), e.to_string()))?;
        if batch.num_rows() != self.rows() {
            let detail = format!("expected {} rows, found {}", self.rows(), batch.num_rows());
            return Err(Error::format(self.path(), detail));
        }
        Ok(batch)
    }

    /// Says that payloads will be wanted soon: of a mapped file the system may start to read them, those of a shard in a
    /// bucket are fetched, all at once.
    ///
    /// # Errors
    /// When a page cannot be found.
    pub fn ahead(&self, payloads: impl Iterator<Item = (impl AsRef<str>, usize)>) -> Result<Ahead> {
        let range = |(column, row): (_, usize)| self.span(AsRef::as_ref(&column), row);
        let ranges = payloads.map(range).collect::<Result<Vec<_>>>()?;
        Ok(self.source.ahead(ranges.into_iter()))
    }

    /// Forgets a payload that turned out to be damaged; whether reading it once more may help, since it came from a
    /// bucket or from the local copy of one.
    pub fn forget(&self, column: &str, row: usize) -> bool {
        self.span(column, row).is_ok_and(|span| self.source.forget(&span))
    }

    /// The binary value of one row of a payload column; touches the pages of that value only.
    ///
    /// # Errors
    /// When the page cannot be found, decompressed, or is not one plain binary value.
    pub fn payload(&self, column: &str, row: usize) -> Result<Bytes> {
        self.with_payload(column, row, Bytes::copy_from_slice)
    }

    /// Hands that value to `of`, decompressed into a buffer that the thread keeps; nothing is allocated.
    ///
    /// # Errors
    /// As for [`Shard::payload`].
    pub fn with_payload<T>(&self, column: &str, row: usize, of: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let bad = |detail: String| self.bad(column, row, &detail);
        let (chunk, span) = self.find(column, row)?;
        self.source.with(&span, |page| page::with_value(page, chunk.compression(), of))?.map_err(bad)
    }

    /// Where in the file the value of one row of a payload column lies, header and all: nothing else of the file is read
    /// for it.
    ///
    /// # Errors
    /// When there is no such column or row, or the file's index is damaged.
    pub fn span(&self, column: &str, row: usize) -> Result<Range<u64>> {
        self.find(column, row).map(|(_, span)| span)
    }

    fn find(&self, column: &str, row: usize) -> Result<(&ColumnChunkMetaData, Range<u64>)> {
        let bad = |detail: &str| self.bad(column, row, detail);
        let leaf = self.leaf(column)?;
        let group = self.first_rows.partition_point(|&first| first <= row).saturating_sub(1);
        let Some(chunk) = self.parquet().row_groups().get(group) else {
            return Err(bad(&format!("the shard has {} rows", self.rows())));
        };
        let index = self.parquet().page_index_for_row_group(group);
        let pages = index.page_locations(leaf).ok_or_else(|| bad("no offset index"))?;
        let rows = self.first_rows[group + 1] - self.first_rows[group];
        if pages.len() != rows {
            return Err(bad(&format!(
                "expected one page a row, found {} pages for {rows} rows",
                pages.len()
            )));
        }
        let page = &pages[row - self.first_rows[group]];
        let start = u64::try_from(page.offset).ok();
        let span = start.zip(u64::try_from(page.compressed_page_size).ok());
        let span = span.and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let span = span.filter(|span| span.end <= self.source.size()).ok_or_else(|| bad(OUTSIDE))?;
        Ok((chunk.column(leaf), span))
    }

    fn bad(&self, column: &str, row: usize, detail: &str) -> Error {
        Error::format(self.path(), format!("column {column}, row {row}: {detail}"))
    }

    fn parquet(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    fn leaf(&self, column: &str) -> Result<usize> {
        self.columns.iter().position(|name| name == column).ok_or_else(|| {
            let names = self.columns.join(", ");
            Error::format(self.path(), format!("expected a column {column}, found {names}"))
        })
    }
}

/// Of a span that the offset index names.
const OUTSIDE: &str = "the offset index points outside the file";
/// Reads footer and offset index, of an object from as few of its last bytes as will do.
fn footer(source: &Source, path: &Path) -> Result<ArrowReaderMetadata> {
    let mut reader = ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Required);
    let mut tail = source.tail(0)?;
    let metadata = loop {
        match reader.try_parse_sized(&tail, source.size()) {
            Ok(()) => break reader.finish(),
            Err(ParquetError::NeedMoreData(needed)) if needed > tail.len() => {
                tail = source.tail(needed as u64)?;
            }
            Err(error) => break Err(error),
        }
    };
    metadata
        .and_then(|metadata| ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()))
        .map_err(|e| shard_error(path, &e))
}

/// What the Parquet crate takes for granted about a footer and panics without.
pub(super) fn check_extents(path: &Path, metadata: &ParquetMetaData, length: u64) -> Result<()> {
    let mut rows = 0i64;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(group.num_rows().max(0));
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
            let end = range.and_then(|(start, size)| start.checked_add(size));
            if column.data_page_offset() < start || end.is_none_or(|end| end > length) {
                let name = column.column_path().string();
                return Err(Error::format(path, format!("the footer puts column {name} outside the file")));
            }
        }
    }
    let expected = metadata.file_metadata().num_rows();
    if rows != expected {
        let detail = format!("the footer says {expected} rows, its row groups have {rows}");
        return Err(Error::format(path, detail));
    }
    Ok(())
}

/// Text column of a batch as strings.
///
/// # Errors
/// When the column is missing or of another type.
pub fn strings(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<String>> {
    let column = typed(batch, name, &DataType::Utf8, path)?;
    Ok(column.as_string::<i32>().iter().map(|s| s.unwrap_or_default().to_owned()).collect())
}

/// 32-bit count column of a batch.
///
/// # Errors
/// When the column is missing or of another type.
pub fn u32s(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<u32>> {
    let column = typed(batch, name, &DataType::UInt32, path)?;
    Ok(column.as_primitive::<UInt32Type>().values().to_vec())
}

/// 64-bit count column of a batch.
///
/// # Errors
/// When the column is missing or of another type.
pub fn u64s(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<u64>> {
    let column = typed(batch, name, &DataType::UInt64, path)?;
    Ok(column.as_primitive::<UInt64Type>().values().to_vec())
}

/// Column of fixed 16-byte hashes of a batch.
///
/// # Errors
/// When the column is missing or of another type.
pub fn hashes(batch: &RecordBatch, name: &str, path: &Path) -> Result<Vec<[u8; 16]>> {
    let column = typed(batch, name, &DataType::FixedSizeBinary(16), path)?;
    let column = column.as_fixed_size_binary();
    let hashes = column.iter().map(|h| h.and_then(|h| <[u8; 16]>::try_from(h).ok()).unwrap_or_default());
    Ok(hashes.collect())
}

fn typed<'a>(batch: &'a RecordBatch, name: &str, expected: &DataType, path: &Path) -> Result<&'a dyn Array> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| Error::format(path, format!("expected a column {name}, found none")))?;
    if column.data_type() != expected || column.null_count() > 0 {
        let detail = format!(
            "column {name}: expected {expected} without nulls, found {} with {} nulls",
            column.data_type(),
            column.null_count()
        );
        return Err(Error::format(path, detail));
    }
    Ok(column.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardWriter;
    use arrow::array::{BinaryArray, StringArray};
    use arrow::datatypes::{Field, Schema};

    fn write(path: &Path, rows: usize) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("utterance", DataType::Utf8, false),
            Field::new("hidden", DataType::Binary, false),
        ]));
        let metadata = [("version".to_owned(), "1".to_owned())];
        let mut writer = ShardWriter::create(path, schema.clone(), &["hidden"], &metadata).unwrap();
        for row in 0..rows {
            let value: Vec<u8> = (0..row * 1000).map(|i| (i * row % 251) as u8).collect();
            let batch = RecordBatch::try_new(
                schema.clone(),
                vec![
                    Arc::new(StringArray::from(vec![format!("utt{row}")])),
                    Arc::new(BinaryArray::from(vec![value.as_slice()])),
                ],
            );
            writer.write(&batch.unwrap()).unwrap();
        }
        let summary = writer.finish().unwrap();
        assert_eq!(summary.rows as usize, rows);
        assert_eq!(summary.blake3, crate::files::blake3_file(path).unwrap());
    }

    #[test]
    fn every_row_comes_back_alone_across_row_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard.parquet");
        write(&path, 150);
        let shard = Shard::open(&path).unwrap();
        assert_eq!((shard.rows(), shard.metadata("version")), (150, Some("1")));
        let names = strings(&shard.columns(&["utterance"]).unwrap(), "utterance", &path).unwrap();
        for row in [149, 0, 63, 64, 100, 1] {
            assert_eq!(names[row], format!("utt{row}"));
            let expected: Vec<u8> = (0..row * 1000).map(|i| (i * row % 251) as u8).collect();
            assert_eq!(shard.payload("hidden", row).unwrap(), expected);
        }
        assert!(shard.payload("hidden", 150).unwrap_err().to_string().contains("150 rows"));
        assert!(shard.columns(&["nothing"]).unwrap_err().to_string().contains("utterance, hidden"));
    }

    #[test]
    fn a_row_costs_its_own_pages_and_gives_them_back() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard.parquet");
        write(&path, 150);
        let shard = Shard::open(&path).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let spans: Vec<_> = (0..150).map(|row| shard.span("hidden", row).unwrap()).collect();
        assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start), "no two share a byte");
        // Whatever else stood in the file: a row that is read without its neighbours does not see it.
        let row = 100;
        let range = |span: &Range<u64>| span.start as usize..span.end as usize;
        let own = std::fs::read(&path).unwrap()[range(&spans[row])].to_vec();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0xA5; usize::try_from(length).unwrap()], 0).unwrap();
        file.write_all_at(&own, spans[row].start).unwrap();
        let expected: Vec<u8> = (0..row * 1000).map(|i| (i * row % 251) as u8).collect();
        assert_eq!(shard.payload("hidden", row).unwrap(), expected);
        assert!(shard.payload("hidden", row + 1).is_err());
        assert!(shard.payload("hidden", row - 1).is_err());
    }

    /// What the process has of a file in memory, all its maps together, KiB.
    #[cfg(target_os = "linux")]
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut own, mut sum) = (false, 0);
        for line in maps.lines() {
            if !line.split(' ').next().unwrap().ends_with(':') {
                own = line.ends_with(path.to_str().unwrap());
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| own) {
                sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_read_does_not_stay_resident() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard.parquet");
        let schema = Arc::new(Schema::new(vec![Field::new("hidden", DataType::Binary, false)]));
        let mut writer = ShardWriter::create(&path, schema.clone(), &["hidden"], &[]).unwrap();
        let mut random = crate::random::Random::new(1, "noise", &[]);
        let value: Vec<u8> = (0..200_000).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        for _ in 0..100 {
            let column = Arc::new(BinaryArray::from(vec![value.as_slice()]));
            writer.write(&RecordBatch::try_new(schema.clone(), vec![column]).unwrap()).unwrap();
        }
        assert!(writer.finish().unwrap().bytes > 20_000_000);
        // As long together as a large cache, 20 GB: each may keep half a MiB, and other tests' maps make it less.
        let shards: Vec<Shard> = (0..1024).map(|_| Shard::open(&path).unwrap()).collect();
        let mut most = 0;
        for row in 0..100 {
            let during = shards[0].with_payload("hidden", row, |found| {
                assert_eq!(found, value);
                resident(&path)
            });
            assert!(during.unwrap() >= 190, "the pages of the row are there while it is read");
            most = most.max(resident(&path));
        }
        assert!(most <= 1024, "{most} KiB of 20 MB stay");
    }

    #[test]
    fn rows_do_not_depend_on_how_they_were_batched() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, 70);
        write(&b, 70);
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn a_truncated_file_is_refused_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard.parquet");
        write(&path, 10);
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 1, 8, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(Shard::open(&path).is_err(), "{length} bytes were accepted");
        }
    }
}
