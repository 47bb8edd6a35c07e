//! Training objectives, one file each, with the equation of the TutorNet paper that they implement.
//!
//! Every objective is a sum over valid frames and a mean over the utterances of the batch; padding
//! never enters one.

mod guided;
mod kd;
mod rkd;
mod sequence;
mod skd;

pub use crate::kernels::ctc_loss;
pub use guided::{guide, guided_loss};
pub use kd::kd_loss;
pub use rkd::{Bridge, rkd_loss};
pub use sequence::{sequence_loss, weights};
pub use skd::skd_loss;
