//! A sum whose order does not depend on threads.

use burn::tensor::Tensor;

/// Values summed in one piece. burn's CPU backend sums 4 Mi values and more in an order that the
/// thread scheduler decides.
const PIECE: usize = 1 << 20;

/// Sum of all values, [1]; the same bits from run to run. Differentiable.
pub fn sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let shape = x.dims();
    let count: usize = shape.iter().product();
    // Row by row first: the backward pass of that is one broadcast, that of pieces one copy a piece.
    let rows = count / shape[D - 1].max(1);
    let (flat, count): (Tensor<1>, usize) =
        if D > 1 { (x.sum_dim(D - 1).reshape([rows]), rows) } else { (x.reshape([count]), count) };
    if count <= PIECE {
        return flat.sum();
    }
    let pieces =
        (0..count).step_by(PIECE).map(|from| flat.clone().narrow(0, from, PIECE.min(count - from)).sum());
    Tensor::cat(pieces.collect(), 0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn pieces_add_up_and_pass_gradients() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::ones([PIECE + 5, 3], &device).require_grad();
        let total = sum(x.clone());
        assert_eq!(total.clone().into_scalar::<f32>(), (3 * PIECE + 15) as f32);
        let gradients = total.backward();
        let gradient = x.grad(&gradients).unwrap();
        assert_eq!(gradient.min().into_scalar::<f32>(), 1.0);
    }
}
