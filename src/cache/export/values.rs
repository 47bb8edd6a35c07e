//! A column of one utterance, decoded.

use half::f16;

use super::super::Entry;
use super::super::column::Column;
use super::{Dtype, Job};
use crate::error::{Error, Result};

/// Largest number of half precision.
const MOST: f32 = 65504.0;

/// Decoded values.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `[frames, columns]` of `dtype`.
    Matrix {
        /// Numbers, row by row.
        values: Vec<f32>,
        /// In a row.
        columns: usize,
        /// As what they are written.
        dtype: Dtype,
    },
    /// `[frames]` in single precision.
    Vector(Vec<f32>),
    /// JSON.
    Text(String),
}

impl Values {
    /// Decodes a column of entry `index`.
    ///
    /// # Errors
    /// As for [`super::super::Cache::hidden`].
    pub fn read(job: &Job, column: Column, index: usize) -> Result<Self> {
        let identity = job.cache.identity();
        let mut values = Vec::new();
        let columns = match column {
            Column::Hidden(layer) => {
                job.cache.hidden(layer, index, &mut values)?;
                identity.width_of(layer).unwrap_or(0) as usize
            }
            Column::FrameWeight(layer) => {
                job.cache.frame_weight(layer, index, &mut values)?;
                return Ok(Self::Vector(values));
            }
            Column::Posterior => {
                job.cache.log_posterior(index, &mut values)?;
                identity.labels.count()
            }
            Column::Softmax => {
                job.cache.softmax(index, &mut values)?;
                identity.labels.count()
            }
            Column::Nbest => {
                let text = String::from_utf8(job.cache.raw(column, index)?.to_vec());
                return text.map(Self::Text).map_err(|e| Error::format(job.cache.dir(), e.to_string()));
            }
        };
        Ok(Self::Matrix { values, columns, dtype: job.dtype })
    }

    /// The numbers, little-endian; of a text its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Matrix { values, dtype: Dtype::F16, .. } => {
                values.iter().flat_map(|&v| half(v).to_le_bytes()).collect()
            }
            Self::Matrix { values, .. } | Self::Vector(values) => {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            Self::Text(text) => text.clone().into_bytes(),
        }
    }

    /// Kind and shape of the numbers; `None` for a text.
    pub fn shape(&self) -> Option<(Dtype, Vec<usize>)> {
        match self {
            Self::Matrix { values, columns, dtype } => {
                Some((*dtype, vec![values.len() / (*columns).max(1), *columns]))
            }
            Self::Vector(values) => Some((Dtype::F32, vec![values.len()])),
            Self::Text(_) => None,
        }
    }
}

/// The nearest number of half precision; what a lossy codec has pushed beyond the last becomes the last.
pub fn half(value: f32) -> f16 {
    f16::from_f32(value.clamp(-MOST, MOST))
}

/// What names an utterance.
pub fn about(entry: &Entry) -> serde_json::Value {
    let hash: String = entry.audio_hash.iter().map(|b| format!("{b:02x}")).collect();
    serde_json::json!({
        "utterance": entry.utterance,
        "frames": entry.frames,
        "samples": entry.samples,
        "audio_hash": hash,
    })
}
