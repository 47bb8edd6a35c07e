//! The columns of a corpus shard; `schemas/corpus.md` documents them and a test compares the two.

use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, BinaryArray, FixedSizeBinaryBuilder, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Utterance;
use crate::error::{Error, Result};
use crate::features::{BINS, Frontend};
use crate::shard::xxh3_128;

/// Version of the schema, in every shard's metadata and in `corpus.toml`.
pub const VERSION: u32 = 1;
/// Names of the small columns.
pub(super) const SMALL: [&str; 7] =
    ["utterance", "speaker", "text", "samples", "audio_hash", "frames", "checksum"];
/// Name of the payload column.
pub(super) const FEATURES: &str = "features";

/// The columns in file order.
pub(super) fn schema() -> SchemaRef {
    static SCHEMA: OnceLock<SchemaRef> = OnceLock::new();
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let build = || {
        Arc::new(Schema::new(vec![
            field("utterance", DataType::Utf8),
            field("speaker", DataType::Utf8),
            field("text", DataType::Utf8),
            field("samples", DataType::UInt64),
            field("audio_hash", DataType::FixedSizeBinary(16)),
            field("frames", DataType::UInt32),
            field(FEATURES, DataType::Binary),
            field("checksum", DataType::FixedSizeBinary(16)),
        ]))
    };
    Arc::clone(SCHEMA.get_or_init(build))
}

/// Key-value metadata of a shard.
pub(super) fn metadata(frontend: &Frontend) -> Vec<(String, String)> {
    [
        ("tutornet.kind", "corpus".to_owned()),
        ("tutornet.version", VERSION.to_string()),
        ("tutornet.frontend", frontend.prep_arguments()),
        ("tutornet.features", format!("f32 little-endian [frames, {BINS}]")),
        ("tutornet.checksum", "xxh3-128 of features, big-endian".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Checksum of a payload as it is stored.
pub(super) fn checksum(payload: &[u8]) -> [u8; 16] {
    xxh3_128(payload, 0).to_be_bytes()
}

/// One utterance as a row.
pub(super) fn row(utterance: &Utterance, payload: &[u8]) -> Result<RecordBatch> {
    let hash = |bytes: [u8; 16]| -> Result<ArrayRef> {
        let mut column = FixedSizeBinaryBuilder::with_capacity(1, 16);
        column.append_value(bytes).map_err(|e| Error::invalid(e.to_string()))?;
        Ok(Arc::new(column.finish()))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![utterance.id.as_str()])),
        Arc::new(StringArray::from(vec![utterance.speaker.as_str()])),
        Arc::new(StringArray::from(vec![utterance.text.as_str()])),
        Arc::new(UInt64Array::from(vec![utterance.samples])),
        hash(utterance.audio_hash)?,
        Arc::new(UInt32Array::from(vec![utterance.frames])),
        Arc::new(BinaryArray::from(vec![payload])),
        hash(checksum(payload))?,
    ];
    RecordBatch::try_new(schema(), columns).map_err(|e| Error::invalid(format!("corpus row: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the table under the heading "Columns" of the schema's page: name, Arrow type.
    fn documented() -> Vec<(String, String)> {
        let page = include_str!("../../schemas/corpus.md");
        let table = page.split("## Columns").nth(1).unwrap().split("##").next().unwrap();
        let rows = table.lines().filter(|l| l.starts_with("| `"));
        rows.map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].trim_matches('`').to_owned())
        })
        .collect()
    }

    #[test]
    fn the_page_and_the_writer_agree() {
        let written: Vec<(String, String)> =
            schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
        assert_eq!(written, documented());
        let page = include_str!("../../schemas/corpus.md");
        for (key, _) in metadata(&Frontend::default()) {
            assert!(page.contains(&format!("| `{key}` |")), "{key} is not documented");
        }
        assert!(page.contains(&format!("Version {VERSION}")));
    }
}
