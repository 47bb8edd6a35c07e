//! Products of many rows with one matrix, outside of any network.

use super::lanes::Width;
use super::packed::{Out, Packed, transposed_product};

/// A matrix [inputs, outputs] laid out for products on the CPU, in one thread.
pub struct Matrix {
    packed: Packed,
    inputs: usize,
    outputs: usize,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix [{}, {}]", self.inputs, self.outputs)
    }
}

impl Matrix {
    /// Of `values` [inputs, outputs], row by row.
    pub fn new(values: &[f32], inputs: usize, outputs: usize) -> Self {
        let row = |i: usize| values.get(i * outputs..(i + 1) * outputs);
        Self { packed: Packed::from_rows(inputs, outputs, Width::detect(), row), inputs, outputs }
    }

    /// The transpose of `values` [outputs, inputs].
    pub fn transposed(values: &[f32], inputs: usize, outputs: usize) -> Self {
        Self { packed: Packed::transposed(values, inputs, outputs, Width::detect()), inputs, outputs }
    }

    /// `rows` [n, inputs] times the matrix: [n, outputs]. Every row is computed alike, however many there are.
    pub fn multiply(&self, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / self.inputs.max(1);
        let mut values = vec![0f32; count * self.outputs];
        let out = Out { values: &mut values, stride: self.outputs, accumulate: false };
        self.packed.multiply(count, rows, self.inputs, out);
        values
    }
}

/// The products of every two columns of `rows` [n, width]: rows^T rows, [width, width], on all threads. Every one is summed in
/// the order of [`Matrix::multiply`].
pub fn gram(rows: &[f32], width: usize) -> Vec<f32> {
    let row = |i: usize| rows.get(i * width..(i + 1) * width);
    transposed_product(rows, [rows.len() / width.max(1), width, width], Width::detect(), row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        for (count, inputs, outputs) in [(1, 1, 1), (7, 5, 9), (33, 600, 70), (0, 3, 3)] {
            let at = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 16.0;
            let (rows, values): (Vec<f32>, Vec<f32>) =
                ((0..count * inputs).map(at).collect(), (0..inputs * outputs).map(at).collect());
            let turned: Vec<f32> = (0..outputs)
                .flat_map(|o| (0..inputs).map(move |i| (i, o)))
                .map(|(i, o)| values[i * outputs + o])
                .collect();
            let straight = Matrix::new(&values, inputs, outputs).multiply(&rows);
            assert_eq!(straight, Matrix::transposed(&turned, inputs, outputs).multiply(&rows));
            for (at, found) in straight.iter().enumerate() {
                let (row, column) = (at / outputs, at % outputs);
                let sum: f64 = (0..inputs)
                    .map(|i| f64::from(rows[row * inputs + i]) * f64::from(values[i * outputs + column]))
                    .sum();
                assert!((f64::from(*found) - sum).abs() < 1e-3, "{found} {sum}");
            }
            let turned: Vec<f32> = (0..inputs)
                .flat_map(|i| (0..count).map(move |r| (r, i)))
                .map(|(r, i)| rows[r * inputs + i])
                .collect();
            if count > 0 {
                let product = Matrix::transposed(&turned, count, inputs).multiply(&turned);
                assert_eq!(gram(&rows, inputs), product);
            }
        }
    }
}
