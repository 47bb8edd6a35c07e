//! Hooks the CPU batch norm into burn, the backward pass by hand.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};

use super::norm::NormOptions;
use super::norm_cpu;

/// Batch norm on a backend's own tensors.
#[backend_extension(Flex, Autodiff)]
pub trait NormBackend: Backend {
    /// Mean and biased variance of every channel, [2, channels], over the counted frames.
    fn tutor_channel_statistics(x: FloatTensor<Self>, counted: Option<Vec<usize>>) -> FloatTensor<Self>;
    /// y; see [`super::norm`].
    fn tutor_normalise(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        options: NormOptions,
    ) -> FloatTensor<Self>;
    /// (dx, [dgamma, dbeta] as [2, channels])
    fn tutor_normalise_gradients(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: NormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl NormBackend for Flex {
    fn tutor_channel_statistics(x: FloatTensor<Self>, counted: Option<Vec<usize>>) -> FloatTensor<Self> {
        norm_cpu::statistics(&x, counted.as_deref())
    }

    fn tutor_normalise(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        options: NormOptions,
    ) -> FloatTensor<Self> {
        norm_cpu::forward(&x, [&gamma, &beta, &statistics], &options)
    }

    fn tutor_normalise_gradients(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: NormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm_cpu::backward(&x, [&gamma, &beta, &statistics], &dy, &options)
    }
}

#[derive(Debug)]
struct NormBackward;

/// x from the checkpointer; gamma, beta and the statistics as they were.
type Saved<B> = (NodeId, [FloatTensor<B>; 3], NormOptions);

impl<B: Backend + NormBackend> Backward<B, 3> for NormBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, gamma_node, beta_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (x_state, [gamma, beta, statistics], options) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x_state);
        let (dx, parameters) = B::tutor_normalise_gradients(x, gamma, beta, statistics, dy, options);
        let channels = burn::backend::TensorMetadata::shape(&parameters)[1];
        let row = |i: usize| {
            let slices = [burn::tensor::Slice::from(i..i + 1), burn::tensor::Slice::from(0..channels)];
            B::float_reshape(
                B::float_slice(parameters.clone(), &slices),
                burn::tensor::Shape::new([channels]),
            )
        };
        if let Some(node) = gamma_node {
            grads.register::<B>(node.id, row(0));
        }
        if let Some(node) = beta_node {
            grads.register::<B>(node.id, row(1));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
    }
}

impl<B: Backend + NormBackend, C: CheckpointStrategy> NormBackend for Autodiff<B, C> {
    fn tutor_channel_statistics(x: FloatTensor<Self>, counted: Option<Vec<usize>>) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::tutor_channel_statistics(x.primitive().clone(), counted))
    }

    fn tutor_normalise(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        options: NormOptions,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let [g, b, s] = [&gamma, &beta, &statistics].map(|t| t.primitive().clone());
        match NormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let saved = (prepared.checkpoint(&x), [g.clone(), b.clone(), s.clone()], options.clone());
                let y = B::tutor_normalise(x.primitive().clone(), g, b, s, options);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::tutor_normalise(x.primitive().clone(), g, b, s, options))
            }
        }
    }

    // Gradients are computed on the inner backend: there is no second order.
    fn tutor_normalise_gradients(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: NormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, g, b, s, dy] = [&x, &gamma, &beta, &statistics, &dy].map(|t| t.primitive().clone());
        let (dx, parameters) = B::tutor_normalise_gradients(x, g, b, s, dy, options);
        (FloatTensor::<Self>::new(dx), FloatTensor::<Self>::new(parameters))
    }
}
