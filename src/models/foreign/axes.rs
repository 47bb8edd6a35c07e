//! Orders of axes.

/// `values` of this shape, last axis fastest, with the axes in another order: axis i of the result is axis `order[i]`.
pub(super) fn permuted(values: &[f32], shape: &[usize], order: &[usize]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // Lengths and strides of the result's axes; those of length 1 have no part in it.
    let axes = order.iter().map(|&axis| (shape[axis], strides[axis])).filter(|&(length, _)| length > 1);
    let axes: Vec<(usize, usize)> = axes.collect();
    let mut result = Vec::with_capacity(values.len());
    if !values.is_empty() {
        gather(values, &axes, &mut result);
    }
    result
}

fn gather(values: &[f32], axes: &[(usize, usize)], result: &mut Vec<f32>) {
    match axes {
        [] => result.extend(values.first()),
        [(length, stride)] => result.extend(values.iter().step_by(*stride).take(*length)),
        [(length, stride), rest @ ..] => {
            for index in 0..*length {
                gather(&values[index * stride..], rest, result);
            }
        }
    }
}

/// Whether `order` names each of so many axes once.
pub(super) fn is_order(order: &[usize], axes: usize) -> bool {
    order.len() == axes && (0..axes).all(|axis| order.contains(&axis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_go_where_the_order_says() {
        let values: Vec<f32> = (0u8..24).map(f32::from).collect();
        let shape = [2, 3, 4];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1]] {
            let found = permuted(&values, &shape, &order);
            assert_eq!(found.len(), 24);
            let lengths = order.map(|axis| shape[axis]);
            for (index, &value) in found.iter().enumerate() {
                let place =
                    [index / (lengths[1] * lengths[2]), index / lengths[2] % lengths[1], index % lengths[2]];
                let mut from = [0; 3];
                order.iter().zip(place).for_each(|(&axis, place)| from[axis] = place);
                assert_eq!(value, values[(from[0] * 3 + from[1]) * 4 + from[2]], "{order:?}");
            }
        }
        assert_eq!(permuted(&values, &[1, 24, 1], &[2, 0, 1]), values);
        assert_eq!(permuted(&[5.0], &[], &[]), [5.0]);
        assert!(permuted(&[], &[0, 3], &[1, 0]).is_empty());
        assert!(is_order(&[1, 0], 2) && !is_order(&[1, 1], 2) && !is_order(&[0], 2));
    }
}
