//! Hooks the CPU convolution into burn: one method a direction, the backward pass by hand.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

use super::conv1d::Conv1dOptions;
use super::conv1d_cpu;

/// The convolution and its two gradients on a backend's own tensors.
#[backend_extension(Flex, Autodiff)]
pub trait ConvBackend: Backend {
    /// x [batch, in, frames], weight [out, in / groups, kernel] -> [batch, out, frames_out].
    fn tutor_conv1d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv1dOptions,
    ) -> FloatTensor<Self>;
    /// Gradient of x, [batch, in, frames], from dy [batch, out, frames_out].
    fn tutor_conv1d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        frames: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self>;
    /// Gradient of the weight, [out, in / groups, kernel], from x and dy.
    fn tutor_conv1d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self>;
}

impl ConvBackend for Flex {
    fn tutor_conv1d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        conv1d_cpu::forward(&x, &weight, &options)
    }

    fn tutor_conv1d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        frames: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        conv1d_cpu::input_gradient(&weight, &dy, frames, &options)
    }

    fn tutor_conv1d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        conv1d_cpu::weight_gradient(&x, &dy, kernel, &options)
    }
}

/// What the backward pass needs: both inputs (from the checkpointer) and the shape.
#[derive(Debug)]
struct ConvBackward;

impl<B: Backend + ConvBackend> Backward<B, 2> for ConvBackward {
    type State = (NodeId, NodeId, Conv1dOptions);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (x_state, weight_state, options) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x_state);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight_state);
        let [_, _, kernel] = weight.shape().dims();
        let [_, _, frames] = x.shape().dims();
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::tutor_conv1d_dw(x, dy.clone(), kernel, options));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::tutor_conv1d_dx(weight, dy, frames, options));
        }
    }
}

impl<B: Backend + ConvBackend, C: CheckpointStrategy> ConvBackend for Autodiff<B, C> {
    fn tutor_conv1d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), options);
                let y = B::tutor_conv1d(x.primitive().clone(), weight.primitive().clone(), options);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => {
                let y = B::tutor_conv1d(x.primitive().clone(), weight.primitive().clone(), options);
                prepared.finish(y)
            }
        }
    }

    // Gradients are computed on the inner backend: there is no second order.
    fn tutor_conv1d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        frames: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        let dx = B::tutor_conv1d_dx(weight.primitive().clone(), dy.primitive().clone(), frames, options);
        FloatTensor::<Self>::new(dx)
    }

    fn tutor_conv1d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: usize,
        options: Conv1dOptions,
    ) -> FloatTensor<Self> {
        let dw = B::tutor_conv1d_dw(x.primitive().clone(), dy.primitive().clone(), kernel, options);
        FloatTensor::<Self>::new(dw)
    }
}
