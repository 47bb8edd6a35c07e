//! How hidden states are stored: exactly, as bytes, or in learned coordinates.

pub mod affine;
mod bits;
mod cosine;
pub mod f16;
mod instructions;
pub mod klt;
mod model;
mod name;
mod nearest;
mod pieces;
pub mod pq;
mod quantiser;
pub mod rans;
pub mod rans_decoder;
mod rans_encoder;
pub mod rotation;
mod spread;
mod turn;
mod turn_kernel;

pub use model::{CODEC_FILE, CodecModel};
pub use name::CodecName;
pub use pieces::Pieces;
use pieces::whole;

use klt::Klt;
use pq::Pq;
use rotation::Rotation;

/// Parts of a payload begin at multiples of this many bytes: the size of a zstd block.
pub const PART: usize = 128 * 1024;

fn align(bytes: usize) -> usize {
    bytes.div_ceil(PART) * PART
}

/// A codec of one layer, ready to work.
#[derive(Debug)]
pub enum Codec {
    /// See [`f16`].
    F16,
    /// See [`affine`].
    U8,
    /// See [`klt`].
    Klt(Box<Klt>),
    /// See [`pq`].
    Pq(Box<Pq>),
}

impl Codec {
    /// Learns a codec from utterances of a layer, each [frames, width]; those that learn nothing look at none.
    ///
    /// # Errors
    /// When there is nothing to learn from, or the layer is too narrow.
    pub fn learn(name: CodecName, utterances: &[Vec<f32>], width: usize) -> Result<Self, String> {
        Ok(match name {
            CodecName::F16 => Self::F16,
            CodecName::U8 => Self::U8,
            CodecName::Klt(error) => Self::Klt(Box::new(Klt::learn(utterances, width, error)?)),
            CodecName::Pq(bytes) => Self::Pq(Box::new(Pq::learn(utterances, width, bytes)?)),
        })
    }

    /// The coordinates that a learned codec stores, where it is one.
    pub fn rotation(&self) -> Option<&Rotation> {
        match self {
            Self::F16 | Self::U8 => None,
            Self::Klt(codec) => Some(codec.rotation()),
            Self::Pq(codec) => Some(codec.rotation()),
        }
    }

    /// Lays out finite hidden states, [frames, width], as a payload. Not of [`Codec::F16`], which takes halves.
    pub fn encode(&self, values: &[f32], frames: usize, width: usize) -> Vec<u8> {
        match self {
            Self::F16 => {
                let halves: Vec<u16> = values.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
                f16::encode(&halves, frames, width)
            }
            Self::U8 => affine::encode(values, frames, width),
            Self::Klt(codec) => codec.encode(values),
            Self::Pq(codec) => codec.encode(values),
        }
    }

    /// A payload to hidden states, [frames, width]; replaces `out`.
    ///
    /// # Errors
    /// As for [`Codec::coordinates`].
    pub fn decode(
        &self,
        payload: &[u8],
        frames: usize,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        whole(out, |pieces| self.decode_in_pieces(payload, frames, width, pieces))
    }

    /// A payload to hidden states, [frames, width], some frames at a time.
    ///
    /// # Errors
    /// As for [`Codec::coordinates`]; what has been handed on by then is no longer worth anything.
    pub fn decode_in_pieces(
        &self,
        payload: &[u8],
        frames: usize,
        width: usize,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), String> {
        match self {
            Self::F16 => f16::decode(payload, frames, width, pieces),
            Self::U8 => affine::decode(payload, frames, width, pieces),
            Self::Klt(codec) => codec.decode(payload, frames, pieces),
            Self::Pq(codec) => codec.decode(payload, frames, pieces),
        }
    }

    /// A payload of a learned codec to its coordinates, [frames, rank]; of another to hidden states.
    ///
    /// # Errors
    /// When the payload cannot be of so many frames.
    pub fn coordinates(
        &self,
        payload: &[u8],
        frames: usize,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        match self {
            Self::F16 | Self::U8 => self.decode(payload, frames, width, out),
            Self::Klt(codec) => codec.coordinates(payload, frames, out),
            Self::Pq(codec) => codec.coordinates(payload, frames, out),
        }
    }
}
