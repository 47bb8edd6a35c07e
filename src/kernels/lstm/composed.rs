//! The layer in the tensor library's own operations, for devices without a kernel: right, and slow to train, since
//! every step is a few operations of its own.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{LstmWeights, Together};

/// See [`super::bi_lstm`].
pub(super) fn both(
    x: Tensor<3>,
    weights: [&LstmWeights; 2],
    frames: &[usize],
    Together { apart, summed }: Together,
) -> Tensor<3> {
    let [forward, reverse] = weights;
    let halves = if apart {
        let half = x.dims()[2] / 2;
        [x.clone().narrow(2, 0, half), x.narrow(2, half, half)]
    } else {
        [x.clone(), x]
    };
    let [x, reversed] = halves;
    let y = direction(x, forward, frames, false);
    let reversed = direction(reversed, reverse, frames, true);
    if summed { y + reversed } else { Tensor::cat(vec![y, reversed], 2) }
}

/// See [`super::lstm`].
pub(super) fn direction(x: Tensor<3>, weights: &LstmWeights, frames: &[usize], reverse: bool) -> Tensor<3> {
    let [batch, width, inputs] = x.dims();
    let hidden = weights.recurrent.dims()[1];
    let device = x.device();
    let kind = x.dtype();
    let [input, recurrent] = [&weights.input, &weights.recurrent].map(|w| w.clone().cast(kind).transpose());
    let bias = weights.bias.clone().cast(kind).reshape([1, 1, 4 * hidden]);
    let padding = padding(frames, width, &device);
    // Whatever lies in the padding, a product with zero must not bring it back.
    let x = x.mask_fill(padding.clone().expand([batch, width, inputs]), 0.0);
    let order = reverse.then(|| order(frames, width, &device));
    let turned = |values: Tensor<3>| match &order {
        None => values,
        Some(order) => {
            let [_, _, size] = values.dims();
            values.reshape([batch * width, size]).select(0, order.clone()).reshape([batch, width, size])
        }
    };
    let projected = turned(x).reshape([batch * width, inputs]).matmul(input);
    let projected = projected.reshape([batch, width, 4 * hidden]) + bias;
    let mut h = Tensor::<2>::zeros([batch, hidden], &device).cast(kind);
    let mut c = h.clone();
    let mut outputs = Vec::with_capacity(width);
    for t in 0..width {
        let sums = projected.clone().narrow(1, t, 1).reshape([batch, 4 * hidden]);
        let sums = sums + h.matmul(recurrent.clone());
        let gate = |index: usize| sums.clone().narrow(1, index * hidden, hidden);
        c = sigmoid(gate(1)) * c + sigmoid(gate(0)) * gate(2).tanh();
        h = sigmoid(gate(3)) * c.clone().tanh();
        outputs.push(h.clone().reshape([batch, 1, hidden]));
    }
    if outputs.is_empty() {
        return Tensor::<3>::zeros([batch, width, hidden], &device).cast(kind);
    }
    turned(Tensor::cat(outputs, 1)).mask_fill(padding.expand([batch, width, hidden]), 0.0)
}

/// Whether a frame is beyond its utterance's end, [batch, frames, 1].
fn padding(frames: &[usize], width: usize, device: &Device) -> Tensor<3, Bool> {
    let beyond = |&length: &usize| (0..width).map(move |t| t >= length);
    let values: Vec<bool> = frames.iter().flat_map(beyond).collect();
    Tensor::from_data(TensorData::new(values, [frames.len(), width, 1]), device)
}

/// The frames of a batch, every utterance from its end to its start; the padding stays where it is.
fn order(frames: &[usize], width: usize, device: &Device) -> Tensor<1, Int> {
    let place = |(b, &length): (usize, &usize)| {
        (0..width).map(move |t| b * width + if t < length { length - 1 - t } else { t })
    };
    let values: Vec<i32> =
        frames.iter().enumerate().flat_map(place).map(|i| i32::try_from(i).unwrap_or(i32::MAX)).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
