//! Arrow IPC files: one row an utterance, `[frames, width]` as lists of lists of fixed size.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, ListArray,
    RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use rayon::prelude::*;

use super::super::column::Column;
use super::values::{Values, half};
use super::{Dtype, Job};
use crate::error::{Error, Result};
use crate::files;

/// Decoded values in a record batch at most, but for the last utterance.
const VALUES: usize = 1 << 23;

/// Writes the file `path` with a row for each of these utterances.
///
/// # Errors
/// When a payload is damaged or the disk is full; the file then does not exist.
pub fn write(job: &Job, rows: &[usize], path: &Path) -> Result<()> {
    let wrong = |e: ArrowError| Error::format(path, e.to_string());
    let schema = Arc::new(schema(job));
    let (pending, ()) = files::prepare_with(path, |out| {
        let mut writer = FileWriter::try_new(out, &schema).map_err(wrong)?;
        for rows in batches(job, rows) {
            let columns = columns(job, rows)?;
            let batch = RecordBatch::try_new(schema.clone(), columns).map_err(wrong)?;
            writer.write(&batch).map_err(wrong)?;
            job.progress.add(rows.len() as u64);
        }
        writer.finish().map_err(wrong)
    })?;
    pending.commit()
}

/// The rows in groups of about [`VALUES`] numbers.
fn batches<'a>(job: &Job, rows: &'a [usize]) -> Vec<&'a [usize]> {
    let identity = job.cache.identity();
    let widths = job.columns.iter().map(|column| match column {
        Column::Hidden(layer) => identity.width_of(*layer).unwrap_or(0) as usize,
        _ => identity.labels.count(),
    });
    let width: usize = widths.sum();
    let (mut groups, mut start, mut size) = (Vec::new(), 0, 0);
    for (at, &index) in rows.iter().enumerate() {
        size += job.cache.entries()[index].frames as usize * width;
        if size >= VALUES || at + 1 == rows.len() {
            groups.push(&rows[start..=at]);
            (start, size) = (at + 1, 0);
        }
    }
    groups
}

fn schema(job: &Job) -> Schema {
    let identity = job.cache.identity();
    let mut fields = vec![
        Field::new("utterance", DataType::Utf8, false),
        Field::new("samples", DataType::UInt64, false),
        Field::new("audio_hash", DataType::FixedSizeBinary(16), false),
        Field::new("frames", DataType::UInt32, false),
    ];
    fields.extend(job.columns.iter().map(|&column| {
        let kind = match column {
            Column::Nbest => DataType::Utf8,
            Column::FrameWeight(_) => DataType::List(item(DataType::Float32)),
            Column::Hidden(layer) => frames(job.dtype, identity.width_of(layer).unwrap_or(0)),
            Column::Posterior | Column::Softmax => {
                frames(job.dtype, u32::try_from(identity.labels.count()).unwrap_or(0))
            }
        };
        Field::new(column.to_string(), kind, false)
    }));
    let about = serde_json::json!({
        "cache": job.cache.manifest().identity,
        "teacher": identity.teacher.name,
        "codec": identity.codec,
        "stride": identity.stride,
        "labels": (0..identity.labels.count()).map(|i| identity.labels.symbol(i)).collect::<Vec<_>>(),
    });
    // One key: the order of several would not be fixed.
    Schema::new_with_metadata(fields, HashMap::from([("tutornet".to_owned(), about.to_string())]))
}

fn item(kind: DataType) -> FieldRef {
    Arc::new(Field::new("item", kind, false))
}

/// Lists of frames, each of `width` numbers.
fn frames(dtype: Dtype, width: u32) -> DataType {
    let number = if dtype == Dtype::F16 { DataType::Float16 } else { DataType::Float32 };
    DataType::List(item(DataType::FixedSizeList(item(number), i32::try_from(width).unwrap_or(0))))
}

fn columns(job: &Job, rows: &[usize]) -> Result<Vec<ArrayRef>> {
    let wrong = |e: ArrowError| Error::format(job.cache.dir(), e.to_string());
    let entries: Vec<_> = rows.iter().map(|&index| &job.cache.entries()[index]).collect();
    let hashes = FixedSizeBinaryArray::try_from_iter(entries.iter().map(|entry| entry.audio_hash));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(entries.iter().map(|entry| &entry.utterance))),
        Arc::new(UInt64Array::from_iter_values(entries.iter().map(|entry| entry.samples))),
        Arc::new(hashes.map_err(wrong)?),
        Arc::new(UInt32Array::from_iter_values(entries.iter().map(|entry| entry.frames))),
    ];
    for &column in job.columns {
        let values: Vec<Values> =
            rows.par_iter().map(|&index| Values::read(job, column, index)).collect::<Result<_>>()?;
        columns.push(array(&values).map_err(wrong)?);
    }
    Ok(columns)
}

/// One value a row.
fn array(values: &[Values]) -> std::result::Result<ArrayRef, ArrowError> {
    let lengths = values.iter().map(|values| values.shape().map_or(0, |(_, shape)| shape[0]));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let number = |values: &Values| match values {
        Values::Matrix { values, .. } | Values::Vector(values) => values.clone(),
        Values::Text(_) => Vec::new(),
    };
    let all = || values.iter().flat_map(number);
    match values.first() {
        Some(Values::Matrix { columns, dtype, .. }) => {
            let (kind, numbers): (DataType, ArrayRef) = match dtype {
                Dtype::F16 => (DataType::Float16, Arc::new(Float16Array::from_iter_values(all().map(half)))),
                Dtype::F32 => (DataType::Float32, Arc::new(Float32Array::from_iter_values(all()))),
            };
            let width =
                i32::try_from(*columns).map_err(|e| ArrowError::InvalidArgumentError(e.to_string()))?;
            let frames = Arc::new(FixedSizeListArray::try_new(item(kind), width, numbers, None)?);
            let list = item(frames.data_type().clone());
            Ok(Arc::new(ListArray::try_new(list, offsets, frames, None)?))
        }
        Some(Values::Text(_)) => {
            let text = |values: &Values| String::from_utf8(values.bytes()).unwrap_or_default();
            Ok(Arc::new(StringArray::from_iter_values(values.iter().map(text))))
        }
        _ => {
            let numbers = Arc::new(Float32Array::from_iter_values(all()));
            Ok(Arc::new(ListArray::try_new(item(DataType::Float32), offsets, numbers, None)?))
        }
    }
}
