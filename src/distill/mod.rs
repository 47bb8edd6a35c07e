//! Training objectives, one file each, with the equation of the TutorNet paper that they implement.
//!
//! Every objective is a sum over valid frames and a mean over the utterances of the batch; padding
//! never enters one.

mod rkd;
mod skd;

pub use crate::kernels::ctc_loss;
pub use rkd::{Bridge, rkd_loss};
pub use skd::skd_loss;
