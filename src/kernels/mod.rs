//! Operations that are faster, or more exact, than composing the tensor library's own.
//!
//! On the CPU the convolution is a backend extension with a hand-written backward pass; on other
//! devices it is burn's own. The CTC loss is one host implementation for every device.

mod conv1d;
mod conv1d_cpu;
mod ctc;
mod extension;
mod simd;

pub use conv1d::{Conv1dOptions, conv1d};
pub use ctc::{ctc_loss, ctc_possible};
