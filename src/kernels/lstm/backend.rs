//! Hooks the CPU layer into burn, the backward pass by hand.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Flex, backend_extension};
use burn::tensor::{Bytes, Shape};
use burn_flex::{FlexTensor, Layout};

use super::LstmOptions;
use super::cpu::{self, Sizes, Weights};
use crate::kernels::lanes::Width;

/// The layer on a backend's own tensors. The weights of a direction are W_ih, W_hh and b.
#[backend_extension(Flex, Autodiff)]
pub trait LstmBackend: Backend {
    /// y and, with `keep`, what the backward pass needs.
    fn tutor_lstm(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: LstmOptions,
        keep: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradients of x and the weights.
    fn tutor_lstm_gradients(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: LstmOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// y and, with `keep`, what the backward pass needs.
    #[allow(clippy::too_many_arguments)]
    fn tutor_bi_lstm(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reverse_input: FloatTensor<Self>,
        reverse_recurrent: FloatTensor<Self>,
        reverse_bias: FloatTensor<Self>,
        options: LstmOptions,
        keep: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradients of x and, by direction, of the weights.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn tutor_bi_lstm_gradients(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reverse_input: FloatTensor<Self>,
        reverse_recurrent: FloatTensor<Self>,
        reverse_bias: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: LstmOptions,
    ) -> (
        FloatTensor<Self>,
        (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>),
        (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>),
    );
}

/// W_ih, W_hh and b of one direction.
type Three<T> = (T, T, T);

/// A direction's tensors where slices can be had of them.
struct Contiguous([FlexTensor; 3]);

impl Contiguous {
    fn of([input, recurrent, bias]: [&FlexTensor; 3]) -> Self {
        Self([input.to_contiguous(), recurrent.to_contiguous(), bias.to_contiguous()])
    }

    fn weights(&self, reverse: bool) -> Weights<'_> {
        let [input, recurrent, bias] = &self.0;
        let (input, recurrent, bias) = (input.storage(), recurrent.storage(), bias.storage());
        Weights { input, recurrent, bias, reverse }
    }

    fn hidden(&self) -> usize {
        let [_, hidden] = self.0[1].layout().shape().dims();
        hidden
    }
}

fn sizes<'a>(x: &FlexTensor, weights: &[Contiguous], options: &'a LstmOptions) -> Sizes<'a> {
    let [_, frames, values] = x.layout().shape().dims();
    let apart = options.together.apart && weights.len() > 1;
    let inputs = if apart { values / weights.len() } else { values };
    let (hidden, summed) = (weights[0].hidden(), options.together.summed);
    let width = Width::detect();
    Sizes { lengths: &options.frames, frames, inputs, hidden, apart, summed, width }
}

fn directions<'a>(weights: &'a [Contiguous], options: &LstmOptions) -> Vec<Weights<'a>> {
    let reverse = |d: usize| if weights.len() > 1 { d > 0 } else { options.reverse };
    weights.iter().enumerate().map(|(d, weights)| weights.weights(reverse(d))).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

fn forward(
    x: &FlexTensor,
    weights: &[Contiguous],
    options: &LstmOptions,
    keep: bool,
) -> (FlexTensor, FlexTensor) {
    let x = x.to_contiguous();
    let sizes = sizes(&x, weights, options);
    let (y, kept) = cpu::forward(x.storage(), &directions(weights, options), &sizes);
    let width = if sizes.summed { sizes.hidden } else { weights.len() * sizes.hidden };
    let kept = if keep { kept } else { Vec::new() };
    let count = kept.len();
    (tensor(y, [sizes.lengths.len(), sizes.frames, width]), tensor(kept, [count]))
}

/// The gradient of x, and W_ih, W_hh and b of every direction.
fn backward(
    x: &FlexTensor,
    weights: &[Contiguous],
    [kept, dy]: [&FlexTensor; 2],
    options: &LstmOptions,
) -> (FlexTensor, Vec<Three<FlexTensor>>) {
    let (x, kept, dy) = (x.to_contiguous(), kept.to_contiguous(), dy.to_contiguous());
    let sizes = sizes(&x, weights, options);
    let (dx, gradients) =
        cpu::backward(x.storage(), &directions(weights, options), &sizes, kept.storage(), dy.storage());
    let (four, inputs, hidden) = (4 * sizes.hidden, sizes.inputs, sizes.hidden);
    let three = |g: cpu::Gradients| {
        let matrices = (tensor(g.input, [four, inputs]), tensor(g.recurrent, [four, hidden]));
        (matrices.0, matrices.1, tensor(g.bias, [four]))
    };
    (tensor(dx, x.layout().shape().dims::<3>()), gradients.into_iter().map(three).collect())
}

impl LstmBackend for Flex {
    fn tutor_lstm(
        x: FlexTensor,
        input: FlexTensor,
        recurrent: FlexTensor,
        bias: FlexTensor,
        options: LstmOptions,
        keep: bool,
    ) -> (FlexTensor, FlexTensor) {
        forward(&x, &[Contiguous::of([&input, &recurrent, &bias])], &options, keep)
    }

    fn tutor_lstm_gradients(
        x: FlexTensor,
        input: FlexTensor,
        recurrent: FlexTensor,
        bias: FlexTensor,
        kept: FlexTensor,
        dy: FlexTensor,
        options: LstmOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let weights = [Contiguous::of([&input, &recurrent, &bias])];
        let (dx, mut gradients) = backward(&x, &weights, [&kept, &dy], &options);
        let (input, recurrent, bias) = gradients.remove(0);
        (dx, input, recurrent, bias)
    }

    fn tutor_bi_lstm(
        x: FlexTensor,
        input: FlexTensor,
        recurrent: FlexTensor,
        bias: FlexTensor,
        reverse_input: FlexTensor,
        reverse_recurrent: FlexTensor,
        reverse_bias: FlexTensor,
        options: LstmOptions,
        keep: bool,
    ) -> (FlexTensor, FlexTensor) {
        let reverse = Contiguous::of([&reverse_input, &reverse_recurrent, &reverse_bias]);
        forward(&x, &[Contiguous::of([&input, &recurrent, &bias]), reverse], &options, keep)
    }

    fn tutor_bi_lstm_gradients(
        x: FlexTensor,
        input: FlexTensor,
        recurrent: FlexTensor,
        bias: FlexTensor,
        reverse_input: FlexTensor,
        reverse_recurrent: FlexTensor,
        reverse_bias: FlexTensor,
        kept: FlexTensor,
        dy: FlexTensor,
        options: LstmOptions,
    ) -> (FlexTensor, Three<FlexTensor>, Three<FlexTensor>) {
        let reverse = Contiguous::of([&reverse_input, &reverse_recurrent, &reverse_bias]);
        let weights = [Contiguous::of([&input, &recurrent, &bias]), reverse];
        let (dx, mut gradients) = backward(&x, &weights, [&kept, &dy], &options);
        let reverse = gradients.remove(1);
        (dx, gradients.remove(0), reverse)
    }
}

/// What the way back needs: x (from the checkpointer), N weights, and what the forward pass kept.
#[derive(Debug, Clone)]
struct Saved<T: Clone, const N: usize> {
    x: NodeId,
    weights: [T; N],
    kept: T,
    options: LstmOptions,
}

#[derive(Debug)]
struct LstmBackward;

fn register<B: Backend, const N: usize>(
    grads: &mut Gradients,
    nodes: [Option<NodeId>; N],
    values: [FloatTensor<B>; N],
) {
    for (node, value) in nodes.into_iter().zip(values) {
        if let Some(node) = node {
            grads.register::<B>(node, value);
        }
    }
}

impl<B: Backend + LstmBackend> Backward<B, 4> for LstmBackward {
    type State = Saved<FloatTensor<B>, 3>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let Saved { x, weights: [input, recurrent, bias], kept, options } = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let (dx, input, recurrent, bias) =
            B::tutor_lstm_gradients(x, input, recurrent, bias, kept, dy, options);
        register::<B, 4>(grads, parents, [dx, input, recurrent, bias]);
    }
}

impl<B: Backend + LstmBackend> Backward<B, 7> for LstmBackward {
    type State = Saved<FloatTensor<B>, 6>;

    fn backward(self, ops: Ops<Self::State, 7>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let Saved { x, weights: [a, b, c, d, e, f], kept, options } = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let (dx, (a, b, c), (d, e, f)) = B::tutor_bi_lstm_gradients(x, a, b, c, d, e, f, kept, dy, options);
        register::<B, 7>(grads, parents, [dx, a, b, c, d, e, f]);
    }
}

impl<B: Backend + LstmBackend, C: CheckpointStrategy> LstmBackend for Autodiff<B, C> {
    fn tutor_lstm(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: LstmOptions,
        _keep: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), input.node(), recurrent.node(), bias.node()];
        let weights = [&input, &recurrent, &bias].map(|t| t.primitive().clone());
        let [a, b, c] = weights.clone();
        let run = |keep| B::tutor_lstm(x.primitive().clone(), a, b, c, options.clone(), keep);
        match LstmBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let (y, kept) = run(true);
                let saved = Saved { x: prepared.checkpoint(&x), weights, kept: kept.clone(), options };
                (prepared.finish(saved, y), FloatTensor::<Self>::new(kept))
            }
            OpsKind::UnTracked(prepared) => {
                let (y, kept) = run(false);
                (prepared.finish(y), FloatTensor::<Self>::new(kept))
            }
        }
    }

    fn tutor_bi_lstm(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reverse_input: FloatTensor<Self>,
        reverse_recurrent: FloatTensor<Self>,
        reverse_bias: FloatTensor<Self>,
        options: LstmOptions,
        _keep: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let weights = [&input, &recurrent, &bias, &reverse_input, &reverse_recurrent, &reverse_bias];
        let [a, b, c, d, e, f] = weights.map(|t| t.node());
        let nodes = [x.node(), a, b, c, d, e, f];
        let weights = weights.map(|t| t.primitive().clone());
        let [a, b, c, d, e, f] = weights.clone();
        let run = |keep| B::tutor_bi_lstm(x.primitive().clone(), a, b, c, d, e, f, options.clone(), keep);
        match LstmBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let (y, kept) = run(true);
                let saved = Saved { x: prepared.checkpoint(&x), weights, kept: kept.clone(), options };
                (prepared.finish(saved, y), FloatTensor::<Self>::new(kept))
            }
            OpsKind::UnTracked(prepared) => {
                let (y, kept) = run(false);
                (prepared.finish(y), FloatTensor::<Self>::new(kept))
            }
        }
    }

    // Gradients are computed on the inner backend: there is no second order.
    fn tutor_lstm_gradients(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: LstmOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let all = [&x, &input, &recurrent, &bias, &kept, &dy].map(|t| t.primitive().clone());
        let [x, input, recurrent, bias, kept, dy] = all;
        let (dx, a, b, c) = B::tutor_lstm_gradients(x, input, recurrent, bias, kept, dy, options);
        let new = FloatTensor::<Self>::new;
        (new(dx), new(a), new(b), new(c))
    }

    fn tutor_bi_lstm_gradients(
        x: FloatTensor<Self>,
        input: FloatTensor<Self>,
        recurrent: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        reverse_input: FloatTensor<Self>,
        reverse_recurrent: FloatTensor<Self>,
        reverse_bias: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: LstmOptions,
    ) -> (FloatTensor<Self>, Three<FloatTensor<Self>>, Three<FloatTensor<Self>>) {
        let forward = [&x, &input, &recurrent, &bias].map(|t| t.primitive().clone());
        let reverse = [&reverse_input, &reverse_recurrent, &reverse_bias].map(|t| t.primitive().clone());
        let ([x, a, b, c], [d, e, f]) = (forward, reverse);
        let [kept, dy] = [kept, dy].map(|t| t.primitive().clone());
        let (dx, (a, b, c), (d, e, f)) = B::tutor_bi_lstm_gradients(x, a, b, c, d, e, f, kept, dy, options);
        let new = FloatTensor::<Self>::new;
        (new(dx), (new(a), new(b), new(c)), (new(d), new(e), new(f)))
    }
}
