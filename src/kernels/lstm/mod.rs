//! One LSTM layer over a padded batch, in one direction or in both side by side.
//!
//! With sigmoid s and for every utterance alone, from h = c = 0 before its first frame:
//!
//! i, f, g, o = s, s, tanh, s of (x_t W_ih^T + h W_hh^T + b);  c' = f c + i g;  h' = o tanh(c')
//!
//! Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000), without peepholes: what PyTorch's
//! `nn.LSTM` and TensorFlow's `BasicLSTMCell` compute. Gates lie in PyTorch's order i, f, g, o along the first
//! dimension of the weights. There is one bias: the sum of PyTorch's `bias_ih` and `bias_hh`. A TensorFlow kernel
//! [in + hidden, 4 hidden] has the order i, j (= g), f, o, and its `forget_bias` (1 by default) is added to f's
//! part of the bias when it is imported, since TensorFlow adds it at run time.
//!
//! The reverse direction starts at each utterance's own end. Frames beyond an utterance's end are neither read nor
//! computed; the output is zero there.
//!
//! Cost of a direction over N valid frames: 8 N hidden (in + hidden) FLOP forward and twice that backward. Kept for
//! the backward pass: 24 N hidden bytes (gates, cells, outputs). The step's product reads 16 hidden^2 bytes of
//! weights for each step, the same ones every time.

mod backend;
mod composed;
mod cpu;
mod gates;

#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::device::is_cpu;
use backend::LstmBackend;

/// The weights of one direction.
#[derive(Debug, Clone)]
pub struct LstmWeights {
    /// W_ih, [4 hidden, in].
    pub input: Tensor<2>,
    /// W_hh, [4 hidden, hidden].
    pub recurrent: Tensor<2>,
    /// b, [4 hidden].
    pub bias: Tensor<1>,
}

/// How two directions share a layer's input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Together {
    /// Each direction reads its own half of every frame, the forward one the first; otherwise both read all of it.
    pub apart: bool,
    /// The outputs are added; otherwise the reverse direction's follows the forward one's.
    pub summed: bool,
}

/// What a pass must know besides its tensors.
#[derive(Debug, Clone)]
pub struct LstmOptions {
    frames: Vec<usize>,
    /// Of a single direction.
    reverse: bool,
    /// Of two directions.
    together: Together,
}

/// Runs one direction over `x` [batch, frames, in]; the result is [batch, frames, hidden]. Differentiable once in
/// `x` and the weights.
///
/// # Panics
/// When `frames` does not have one entry an utterance, or one beyond the tensor's end.
pub fn lstm(x: Tensor<3>, weights: LstmWeights, frames: &[usize], reverse: bool) -> Tensor<3> {
    check(&x, frames);
    if !is_cpu(&x.device()) {
        return composed::direction(x, &weights, frames, reverse);
    }
    let options = LstmOptions { frames: frames.to_vec(), reverse, together: Together::default() };
    let (y, _) = <Dispatch as LstmBackend>::tutor_lstm(
        x.into_dispatch(),
        weights.input.into_dispatch(),
        weights.recurrent.into_dispatch(),
        weights.bias.into_dispatch(),
        options,
        false,
    );
    Tensor::from_dispatch(y)
}

/// Runs both directions over `x` [batch, frames, in] (with `apart` [batch, frames, 2 in]); the result is
/// [batch, frames, 2 hidden], or [batch, frames, hidden] with `summed`. Differentiable once in `x` and the weights.
///
/// # Panics
/// When `frames` does not have one entry an utterance, or one beyond the tensor's end.
pub fn bi_lstm(
    x: Tensor<3>,
    forward: LstmWeights,
    reverse: LstmWeights,
    frames: &[usize],
    together: Together,
) -> Tensor<3> {
    check(&x, frames);
    if !is_cpu(&x.device()) {
        return composed::both(x, [&forward, &reverse], frames, together);
    }
    let (y, _) = <Dispatch as LstmBackend>::tutor_bi_lstm(
        x.into_dispatch(),
        forward.input.into_dispatch(),
        forward.recurrent.into_dispatch(),
        forward.bias.into_dispatch(),
        reverse.input.into_dispatch(),
        reverse.recurrent.into_dispatch(),
        reverse.bias.into_dispatch(),
        LstmOptions { frames: frames.to_vec(), reverse: false, together },
        false,
    );
    Tensor::from_dispatch(y)
}

fn check(x: &Tensor<3>, frames: &[usize]) {
    let [batch, width, _] = x.dims();
    assert!(frames.len() == batch, "{} lengths for a batch of {batch}", frames.len());
    assert!(frames.iter().all(|&f| f <= width), "lengths {frames:?} do not fit a batch of {width} frames");
}
