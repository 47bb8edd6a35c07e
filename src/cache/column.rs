//! The payload columns of a cache.

use std::fmt;

use super::identity::Identity;
use crate::models::HiddenLayer;

/// A payload column; its name in the file is what it prints as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// `hidden`, or `hidden_K` for an inner layer: hidden states `[frames, width]` in the identity's codec.
    Hidden(HiddenLayer),
    /// `frame_weight`, or `frame_weight_K`: f32, little-endian, `[frames]`, sigmoid of the mean over the channels.
    FrameWeight(HiddenLayer),
    /// `posterior`: f16, little-endian, `[frames, labels]`, natural logarithms of the softmax at temperature 1.
    Posterior,
    /// `softmax`: f16, little-endian, `[frames, labels]`, softmax at the identity's temperature.
    Softmax,
    /// `nbest`: JSON, the N best texts (see [`super::nbest`]).
    Nbest,
}

/// The hidden states that every cache has.
pub const HIDDEN: Column = Column::Hidden(HiddenLayer::Last);

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden(HiddenLayer::Last) => f.write_str("hidden"),
            Self::Hidden(HiddenLayer::Inner(number)) => write!(f, "hidden_{number}"),
            Self::FrameWeight(HiddenLayer::Last) => f.write_str("frame_weight"),
            Self::FrameWeight(HiddenLayer::Inner(number)) => write!(f, "frame_weight_{number}"),
            Self::Posterior => f.write_str("posterior"),
            Self::Softmax => f.write_str("softmax"),
            Self::Nbest => f.write_str("nbest"),
        }
    }
}

impl Column {
    /// What the column's values are, for the Arrow schema.
    pub fn layout(self, identity: &Identity) -> String {
        let labels = identity.labels.count();
        match self {
            Self::Hidden(layer) => {
                format!("codec {}, [frames, {}]", identity.codec, identity.width_of(layer).unwrap_or(0))
            }
            Self::FrameWeight(_) => "f32 little-endian, [frames]".to_owned(),
            Self::Posterior => format!("f16 little-endian, [frames, {labels}], natural logarithms"),
            Self::Softmax => format!("f16 little-endian, [frames, {labels}], probabilities"),
            Self::Nbest => "JSON, UTF-8: texts with log_p and score, best first".to_owned(),
        }
    }
}

/// Payload columns of a cache in the order of its checksums.
pub fn payloads(identity: &Identity) -> Vec<Column> {
    let mut columns = vec![HIDDEN, Column::FrameWeight(HiddenLayer::Last), Column::Posterior];
    columns.extend(identity.temperature.map(|_| Column::Softmax));
    columns.extend(identity.nbest.as_ref().map(|_| Column::Nbest));
    for inner in &identity.layers {
        let layer = HiddenLayer::Inner(inner.layer);
        columns.extend([Column::Hidden(layer), Column::FrameWeight(layer)]);
    }
    columns
}
