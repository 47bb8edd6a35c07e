//! Operations that are faster, or more exact, than composing the tensor library's own.
//!
//! On the CPU convolutions and batch norm are backend extensions with hand-written backward passes;
//! on other devices they are burn's own. The CTC loss is one host implementation for every device.

mod conv1d;
mod conv1d_cpu;
mod conv2d;
mod conv2d_backend;
#[expect(clippy::cast_possible_truncation, reason = "sums are f64, tensors f32")]
mod ctc;
#[expect(clippy::cast_possible_truncation, reason = "sums are f64, tensors f32")]
mod ctc_lattice;
mod dense;
mod dense_weight;
mod extension;
mod lanes;
mod lstm;
mod matrix;
mod norm;
mod norm_backend;
#[expect(clippy::cast_possible_truncation, reason = "sums are f64, tensors f32")]
mod norm_cpu;
mod packed;
mod product;
mod scratch;
mod simd;
mod step;
mod sum;
mod tile;

pub use conv1d::{Conv1dOptions, conv1d};
pub use conv2d::{Conv2dOptions, conv2d};
pub use ctc::{ctc_log_likelihood, ctc_loss, ctc_loss_of_several, ctc_possible};
pub use lstm::{LstmWeights, Together, bi_lstm, lstm};
pub use matrix::{Matrix, gram};
pub use norm::{NormOptions, Normalised, batch_norm};
pub use step::{AdamStep, NovoGradStep, adam, larc, novograd, squared_norm};
pub use sum::sum;
