//! Another shard of the same rows: pages copied as they are, without decompressing them, and columns added.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::arrow_writer::compute_leaves;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use super::reader::check_extents;
use super::writer::{self, ShardSummary, shard_error};
use crate::error::{Error, Result};
use crate::store;

/// Writes the shard `to`, whole or not at all: `schema`, `payload` and `metadata` as for [`super::ShardWriter::create`]. Columns
/// that `fresh` gives for a range of rows (by name, one value a row) are written anew, all others are the pages of `from`
/// byte for byte; `from` may have columns more. The result has the bytes that a [`super::ShardWriter`] makes of the same
/// rows, if one made `from`.
///
/// Nothing is decompressed and no checksum compared: that `from` is as it was written is for the caller to see to. What lies at
/// `to` is left where `is_there` says so of what would have been written.
///
/// # Errors
/// When `from` lacks a column or has it in another type, or the disk is full; those of `fresh`.
pub fn copy_shard(
    from: &Path,
    to: &Path,
    schema: &SchemaRef,
    payload: &[impl AsRef<str>],
    metadata: &[(String, String)],
    fresh: &mut dyn FnMut(Range<usize>) -> Result<Vec<(String, ArrayRef)>>,
    is_there: impl FnOnce(&ShardSummary) -> bool,
) -> Result<ShardSummary> {
    store::require_local(from)?;
    let file = File::open(from).map_err(|e| Error::io("open", from, e))?;
    // SAFETY: as for every file that is read, see `store/mapped.rs`.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", from, e))?;
    let bytes = Bytes::from_owner(map);
    // What the footer says of encodings shall be copied, not summed up.
    let options = ArrowReaderOptions::new()
        .with_offset_index_policy(PageIndexPolicy::Required)
        .with_encoding_stats_as_mask(false);
    let source = ArrowReaderMetadata::load(&bytes, options).map_err(|e| shard_error(from, &e))?;
    let source = source.metadata();
    check_extents(from, source, bytes.len() as u64)?;

    let failed = |e: ParquetError| shard_error(to, &e);
    let writer = writer::open(to, schema.clone(), payload, metadata)?;
    let (mut writer, factory) = writer.into_serialized_writer().map_err(failed)?;
    let mut first = 0;
    for group in 0..source.num_row_groups() {
        let rows = usize::try_from(source.row_group(group).num_rows())
            .map_err(|_| Error::format(from, "a row group with a negative number of rows"))?;
        let fresh = fresh(first..first + rows)?;
        let mut columns = factory.create_column_writers(group).map_err(failed)?.into_iter();
        let mut out = writer.next_row_group().map_err(failed)?;
        for field in schema.fields() {
            let column = columns.next().ok_or_else(|| Error::format(to, "a column of several leaves"))?;
            let Some((name, values)) = fresh.iter().find(|(name, _)| name == field.name()) else {
                let close = closed(source, group, field.name())
                    .map_err(|e| Error::format(from, format!("column {}: {e}", field.name())))?;
                out.append_column(&bytes, close).map_err(|e| shard_error(from, &e))?;
                continue;
            };
            if values.len() != rows {
                let detail = format!("column {name}: {} values for {rows} rows", values.len());
                return Err(Error::format(to, detail));
            }
            let mut column = column;
            for row in 0..rows {
                for leaf in compute_leaves(field, &values.slice(row, 1)).map_err(failed)? {
                    column.write(&leaf).map_err(failed)?;
                }
            }
            column.close().and_then(|chunk| chunk.append_to_row_group(&mut out)).map_err(failed)?;
        }
        out.close().map_err(failed)?;
        first += rows;
    }
    writer.into_inner().map_err(failed)?.commit_unless(first as u64, is_there)
}

/// What a writer would have said of the column when it closed it.
fn closed(source: &ParquetMetaData, group: usize, name: &str) -> ParquetResult<ColumnCloseResult> {
    let columns = source.file_metadata().schema_descr().columns();
    let leaf = columns.iter().position(|c| c.path().string() == name);
    let leaf = leaf.ok_or_else(|| ParquetError::General("expected such a column, found none".to_owned()))?;
    let metadata = source.row_group(group).column(leaf).clone();
    let number = |n: i64| u64::try_from(n).map_err(|e| ParquetError::General(e.to_string()));
    Ok(ColumnCloseResult {
        bytes_written: number(metadata.compressed_size())?,
        rows_written: number(source.row_group(group).num_rows())?,
        bloom_filter: None,
        column_index: None,
        offset_index: source.page_index_for_row_group(group).offset_index(leaf).cloned(),
        metadata,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryArray, RecordBatch, UInt32Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::super::{Shard, ShardWriter};
    use super::*;

    fn schema(names: &[&str]) -> SchemaRef {
        let kind = |name: &str| if name == "frames" { DataType::UInt32 } else { DataType::Binary };
        Arc::new(Schema::new(
            names.iter().map(|name| Field::new(*name, kind(name), false)).collect::<Vec<_>>(),
        ))
    }

    fn column(name: &str, rows: Range<usize>) -> ArrayRef {
        match name {
            "frames" => Arc::new(UInt32Array::from_iter_values(rows.map(|row| u32::try_from(row).unwrap()))),
            name => {
                let value = |row: usize| vec![u8::try_from(row % 251).unwrap(); row * 40 + name.len()];
                Arc::new(BinaryArray::from_iter_values(rows.map(value)))
            }
        }
    }

    fn write(path: &Path, names: &[&str], metadata: &str) -> ShardSummary {
        let pairs = [("key".to_owned(), metadata.to_owned())];
        let payload: Vec<&str> = names.iter().copied().filter(|name| *name != "frames").collect();
        let mut writer = ShardWriter::create(path, schema(names), &payload, &pairs).unwrap();
        for row in 0..150 {
            let values = names.iter().map(|name| column(name, row..row + 1)).collect();
            writer.write(&RecordBatch::try_new(schema(names), values).unwrap()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn a_copy_has_the_bytes_that_writing_its_rows_would_give() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("from"), &["frames", "hidden", "posterior"], "one");
        for names in [
            &["frames", "hidden", "posterior"][..],
            &["frames", "hidden", "nbest", "posterior"],
            &["frames", "hidden", "posterior", "z"],
            &["frames", "posterior"],
        ] {
            let expected = write(&at("expected"), names, "two");
            let pairs = [("key".to_owned(), "two".to_owned())];
            let mut fresh = |rows: Range<usize>| {
                Ok(["nbest", "z"].map(|name| (name.to_owned(), column(name, rows.clone()))).to_vec())
            };
            let payload = &names[1..];
            let found =
                copy_shard(&at("from"), &at("to"), &schema(names), payload, &pairs, &mut fresh, |_| false)
                    .unwrap();
            assert_eq!(found, expected, "{names:?}");
            assert!(std::fs::read(at("to")).unwrap() == std::fs::read(at("expected")).unwrap(), "{names:?}");
        }
        let shard = Shard::open(&at("to")).unwrap();
        assert_eq!((shard.rows(), shard.metadata("key")), (150, Some("two")));
    }

    #[test]
    fn what_is_not_there_cannot_be_copied() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("from"), &["frames", "hidden"], "one");
        let mut none = |_: Range<usize>| Ok(Vec::new());
        let copy =
            |names: &[&str], fresh: &mut dyn FnMut(Range<usize>) -> Result<Vec<(String, ArrayRef)>>| {
                copy_shard(&at("from"), &at("to"), &schema(names), &["hidden"], &[], fresh, |_| false)
                    .unwrap_err()
                    .to_string()
            };
        assert!(
            copy(&["frames", "nbest"], &mut none)
                .contains("column nbest: Parquet error: expected such a column")
        );
        let mut short =
            |rows: Range<usize>| Ok(vec![("nbest".to_owned(), column("nbest", rows.start..rows.end - 1))]);
        assert!(copy(&["nbest"], &mut short).contains("63 values for 64 rows"));
        assert!(!at("to").exists());
        let bytes = std::fs::read(at("from")).unwrap();
        std::fs::write(at("from"), &bytes[..bytes.len() - 1]).unwrap();
        copy(&["frames", "hidden"], &mut none);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left of a copy that failed"
        );
    }
}
