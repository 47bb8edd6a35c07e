//! Hooks the 2-D convolution on the CPU into burn, the backward pass by hand.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bytes, Shape};
use burn_flex::{FlexTensor, Layout};

use super::conv2d::Conv2dOptions;
use super::dense::{self, Plane};
use super::dense_weight;

/// The convolution and its two gradients on a backend's own tensors.
#[backend_extension(Flex, Autodiff)]
pub trait Conv2dBackend: Backend {
    /// x [batch, in, height, width], weight [out, in, kernel height, kernel width] ->
    /// [batch, out, height_out, width_out].
    fn tutor_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self>;
    /// Gradient of x, [batch, in, height, width], from dy; `size` is [height, width].
    fn tutor_conv2d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        size: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self>;
    /// Gradient of the weight from x and dy; `kernel` is [kernel height, kernel width].
    fn tutor_conv2d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self>;
}

fn tensor(values: Vec<f32>, shape: [usize; 4]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::new(shape)), DType::F32)
}

fn dims(tensor: &FlexTensor) -> [usize; 4] {
    tensor.layout().shape().dims()
}

fn plane(
    [batch, inputs, outputs]: [usize; 3],
    size: [usize; 2],
    kernel: [usize; 2],
    options: &Conv2dOptions,
) -> Plane {
    let Conv2dOptions { stride, padding, dilation } = *options;
    Plane { batch, inputs, outputs, size, kernel, stride, dilation, padding }
}

impl Conv2dBackend for Flex {
    fn tutor_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let ([batch, inputs, height, width], [outputs, _, rows, columns]) = (dims(&x), dims(&weight));
        let plane = plane([batch, inputs, outputs], [height, width], [rows, columns], &options);
        let [height_out, width_out] = plane.size_out();
        let y = dense::forward(x.storage::<f32>(), weight.storage::<f32>(), &plane);
        tensor(y, [batch, outputs, height_out, width_out])
    }

    fn tutor_conv2d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        size: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let (weight, dy) = (weight.to_contiguous(), dy.to_contiguous());
        let ([outputs, inputs, rows, columns], batch) = (dims(&weight), dims(&dy)[0]);
        let plane = plane([batch, inputs, outputs], size, [rows, columns], &options);
        let dx = dense::input_gradient(weight.storage::<f32>(), dy.storage::<f32>(), &plane);
        tensor(dx, [batch, inputs, size[0], size[1]])
    }

    fn tutor_conv2d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let (x, dy) = (x.to_contiguous(), dy.to_contiguous());
        let ([batch, inputs, height, width], outputs) = (dims(&x), dims(&dy)[1]);
        let plane = plane([batch, inputs, outputs], [height, width], kernel, &options);
        let dw = dense_weight::weight_gradient(x.storage::<f32>(), dy.storage::<f32>(), &plane);
        tensor(dw, [outputs, inputs, kernel[0], kernel[1]])
    }
}

/// What the backward pass needs: both inputs (from the checkpointer) and the shape.
#[derive(Debug)]
struct Conv2dBackward;

impl<B: Backend + Conv2dBackend> Backward<B, 2> for Conv2dBackward {
    type State = (NodeId, NodeId, Conv2dOptions);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        let (x_state, weight_state, options) = ops.state;
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x_state);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight_state);
        let [_, _, rows, columns] = weight.shape().dims();
        let [_, _, height, width] = x.shape().dims();
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::tutor_conv2d_dw(x, dy.clone(), [rows, columns], options));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::tutor_conv2d_dx(weight, dy, [height, width], options));
        }
    }
}

impl<B: Backend + Conv2dBackend, C: CheckpointStrategy> Conv2dBackend for Autodiff<B, C> {
    fn tutor_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        match Conv2dBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), options);
                let y = B::tutor_conv2d(x.primitive().clone(), weight.primitive().clone(), options);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => {
                let y = B::tutor_conv2d(x.primitive().clone(), weight.primitive().clone(), options);
                prepared.finish(y)
            }
        }
    }

    // Gradients are computed on the inner backend: there is no second order.
    fn tutor_conv2d_dx(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        size: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let dx = B::tutor_conv2d_dx(weight.primitive().clone(), dy.primitive().clone(), size, options);
        FloatTensor::<Self>::new(dx)
    }

    fn tutor_conv2d_dw(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let dw = B::tutor_conv2d_dw(x.primitive().clone(), dy.primitive().clone(), kernel, options);
        FloatTensor::<Self>::new(dw)
    }
}
