//! Dense convolutions over a plane (height x width), forward and both gradients, on slices.
//!
//! y[b, o, h, w] = sum over i, m, n of weight[o, i, m, n]
//!                 * x[b, i, h * stride.0 + m * dilation.0 - top, w * stride.1 + n * dilation.1 - left]
//!
//! A convolution over time is one of height 1. Forward and dx are a [`Product`] with the padded
//! input and the padded dy: 2 * batch * out * in * kernel * size_out FLOP each, and no more bytes
//! than one padded copy. dx of a strided convolution falls into one product for each phase, so that no
//! tap multiplies a zero that the stride left. dw is `dense_weight`.

use rayon::prelude::*;

use super::conv2d::Conv2dOptions;
use super::product::{Product, Shared, Strip, filled};
use super::scratch::Scratch;

/// Shape of a dense convolution; pairs are (height, width).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plane {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Zeros before the first and after the last row, and column.
    pub padding: [(usize, usize); 2],
}

impl Plane {
    /// Rows and columns of the output.
    pub(super) fn size_out(&self) -> [usize; 2] {
        let Self { padding, stride, dilation, .. } = *self;
        Conv2dOptions { stride, padding, dilation }.output_size(self.size, self.kernel)
    }

    /// Rows and columns with the zeros around them.
    pub(super) fn padded(&self) -> [usize; 2] {
        [0, 1].map(|d| self.size[d] + self.padding[d].0 + self.padding[d].1)
    }

    /// Whether row `m` of the kernel reads a row of the input, not a zero, for output row `h`.
    pub(super) fn meets(&self, h: usize, m: usize) -> bool {
        let row = h * self.stride[0] + m * self.dilation[0];
        (self.padding[0].0..self.padding[0].0 + self.size[0]).contains(&row)
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

fn index(value: usize) -> u32 {
    // An utterance's padded input has fewer than 2^32 values: `forward` and `input_gradient` assert it.
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Terms of those of `count` neighbouring groups of `size` terms that `meets` accepts; of all where it
/// accepts none, so that a zero is computed.
fn range(count: usize, meets: impl Fn(usize) -> bool, size: usize) -> (usize, usize) {
    let mut met = (0..count).filter(|&m| meets(m));
    let first = met.next();
    first.map_or((0, count * size), |first| (first * size, (met.last().unwrap_or(first) + 1) * size))
}

/// Planes with zeros around them, their columns parted by phase: column q * phases + p of a row lies
/// at p * columns / phases + q.
fn padded(
    x: &[f32],
    planes: usize,
    size: [usize; 2],
    before: [usize; 2],
    padded: [usize; 2],
    phases: usize,
) -> Scratch {
    let (row, length) = (padded[1] / phases, padded[0] * padded[1]);
    let mut out = Scratch::new(planes * length);
    if length == 0 || size[1] == 0 {
        out.fill(0.0);
        return out;
    }
    out.par_chunks_mut(length).enumerate().for_each(|(plane, out)| {
        for (at, out) in out.chunks_exact_mut(padded[1]).enumerate() {
            let Some(h) = at.checked_sub(before[0]).filter(|&h| h < size[0]) else {
                out.fill(0.0);
                continue;
            };
            let source = &x[(plane * size[0] + h) * size[1]..][..size[1]];
            if phases == 1 {
                let (left, rest) = out.split_at_mut(before[1]);
                let (middle, right) = rest.split_at_mut(size[1]);
                left.fill(0.0);
                middle.copy_from_slice(source);
                right.fill(0.0);
                continue;
            }
            out.fill(0.0);
            for (w, &value) in source.iter().enumerate() {
                let at = w + before[1];
                out[at % phases * row + at / phases] = value;
            }
        }
    });
    out
}

/// y [batch, out, height_out, width_out] of x [batch, in, height, width] and
/// weight [out, in, kernel height, kernel width].
pub(super) fn forward(x: &[f32], weight: &[f32], plane: &Plane) -> Vec<f32> {
    let [rows, columns] = plane.size_out();
    let phases = plane.stride[1];
    let [height, width] = plane.padded();
    let width = width.next_multiple_of(phases);
    let copy;
    let source = if phases == 1 && plane.padding == [(0, 0); 2] {
        x
    } else {
        let before = [plane.padding[0].0, plane.padding[1].0];
        copy = padded(x, plane.batch * plane.inputs, plane.size, before, [height, width], phases);
        &copy
    };
    let utterance = plane.inputs * height * width;
    assert!(u32::try_from(utterance.max(plane.inputs * plane.taps())).is_ok(), "2^32 values an utterance");
    // Rows of the kernel outermost: those that meet only zeros above or below are then left out by
    // a range of terms.
    let (mut terms, mut offsets) = (Vec::new(), Vec::new());
    for m in 0..plane.kernel[0] {
        for i in 0..plane.inputs {
            for n in 0..plane.kernel[1] {
                let at = n * plane.dilation[1];
                let column = at % phases * (width / phases) + at / phases;
                offsets.push(index((i * height + m * plane.dilation[0]) * width + column));
                terms.push(index((i * plane.kernel[0] + m) * plane.kernel[1] + n));
            }
        }
    }
    let of_row = plane.inputs * plane.kernel[1];
    let strip = |b: usize, h: usize| {
        let meets = |m: usize| plane.meets(h, m);
        Strip {
            from: b * utterance + h * plane.stride[0] * width,
            to: (b * plane.outputs * rows + h) * columns,
            columns,
            terms: range(plane.kernel[0], meets, of_row),
        }
    };
    let strips: Vec<Strip> = (0..plane.batch).flat_map(|b| (0..rows).map(move |h| strip(b, h))).collect();
    let product = Product {
        rows: plane.outputs,
        weights: weight,
        weight_row: terms.len(),
        terms: &terms,
        offsets: &offsets,
        strips: &strips,
        target_row: rows * columns,
        gather: plane.taps() == 1,
    };
    let count = plane.batch * plane.outputs * rows * columns;
    // SAFETY: the strips are the rows of every utterance's outputs, each once, and fill y.
    unsafe { filled(count, |y| product.run(source, y)) }
}

/// dx [batch, in, height, width] of weight and dy [batch, out, height_out, width_out].
pub(super) fn input_gradient(weight: &[f32], dy: &[f32], plane: &Plane) -> Vec<f32> {
    let size_out = plane.size_out();
    let [top, left] = [plane.padding[0].0, plane.padding[1].0];
    // Row u of the padded input reads dy at u / stride - shift, shift up to this:
    let before = [0, 1].map(|d| (plane.kernel[d] - 1) * plane.dilation[d] / plane.stride[d]);
    let last = [0, 1].map(|d| (plane.padding[d].0 + plane.size[d]).saturating_sub(1) / plane.stride[d]);
    let [height, width] = [0, 1].map(|d| before[d] + size_out[d].max(last[d] + 1));
    let copy;
    let source = if [height, width] == size_out {
        dy
    } else {
        copy = padded(dy, plane.batch * plane.outputs, size_out, before, [height, width], 1);
        &copy
    };
    let utterance = plane.outputs * height * width;
    assert!(
        u32::try_from(utterance.max(plane.outputs * plane.inputs * plane.taps())).is_ok(),
        "2^32 values an utterance"
    );
    let [rows, columns] = plane.size;
    let strided = plane.stride[1] > 1;
    let count = plane.batch * plane.inputs * rows * columns;
    // Where every phase has a tap, the strips fill dx; else some places keep their zero.
    let (kernel, dilation) = (plane.kernel[0], plane.dilation[0]);
    let tapped = |phase: usize| (0..kernel).any(|m| m * dilation % plane.stride[0] == phase);
    let whole = !strided && (0..plane.stride[0]).all(tapped);
    let mut dx = if whole { Vec::with_capacity(count) } else { vec![0f32; count] };
    for vertical in 0..plane.stride[0] {
        for horizontal in 0..plane.stride[1] {
            let of_phase = |d: usize, phase: usize| {
                let (dilation, stride) = (plane.dilation[d], plane.stride[d]);
                (0..plane.kernel[d])
                    .filter(move |k| k * dilation % stride == phase)
                    .map(move |k| (k, before[d] - k * dilation / stride))
            };
            let (mut terms, mut offsets) = (Vec::new(), Vec::new());
            let rows_of_phase: Vec<(usize, usize)> = of_phase(0, vertical).collect();
            for &(m, down) in &rows_of_phase {
                for o in 0..plane.outputs {
                    for (n, right) in of_phase(1, horizontal) {
                        let tap = m * plane.kernel[1] + n;
                        terms.push(index(o * plane.inputs * plane.taps() + tap));
                        offsets.push(index((o * height + down) * width + right));
                    }
                }
            }
            let of_row = plane.outputs * of_phase(1, horizontal).count();
            if terms.is_empty() {
                continue; // The stride steps over these inputs: their gradient is zero.
            }
            let in_phase = |d: usize, phase: usize| {
                (0..plane.size[d]).filter(move |u| (u + plane.padding[d].0) % plane.stride[d] == phase)
            };
            let phase_columns = in_phase(1, horizontal).count();
            let Some(first) = in_phase(1, horizontal).next() else { continue };
            let target_columns = if strided { phase_columns } else { columns };
            let mut strips = Vec::new();
            for b in 0..plane.batch {
                for h in in_phase(0, vertical) {
                    let (j, i) = ((h + top) / plane.stride[0], (first + left) / plane.stride[1]);
                    let meets =
                        |m: usize| (before[0]..before[0] + size_out[0]).contains(&(j + rows_of_phase[m].1));
                    strips.push(Strip {
                        from: b * utterance + j * width + i,
                        to: (b * plane.inputs * rows + h) * target_columns,
                        columns: phase_columns,
                        terms: range(rows_of_phase.len(), meets, of_row),
                    });
                }
            }
            let product = Product {
                rows: plane.inputs,
                weights: weight,
                weight_row: plane.taps(),
                terms: &terms,
                offsets: &offsets,
                strips: &strips,
                target_row: rows * target_columns,
                gather: plane.taps() == 1,
            };
            if !strided {
                // SAFETY: the strips are the rows of this phase, each once.
                unsafe { product.run(source, Shared(dx.as_mut_ptr())) };
                continue;
            }
            // Rows of other phases stay as they are and are not read.
            let mut phase = Scratch::new(plane.batch * plane.inputs * rows * phase_columns);
            // SAFETY: as above.
            unsafe { product.run(source, Shared(phase.as_mut_ptr())) };
            let pairs = dx.par_chunks_mut(columns).zip(phase.par_chunks(phase_columns));
            pairs.enumerate().for_each(|(row, (dx, phase))| {
                if (row % rows + top) % plane.stride[0] == vertical {
                    let dx = dx[first..].iter_mut().step_by(plane.stride[1]);
                    dx.zip(phase).for_each(|(dx, &value)| *dx = value);
                }
            });
        }
    }
    // SAFETY: the strips were all rows of dx, or its length is set already.
    unsafe { dx.set_len(count) };
    dx
}

/// x with its zeros, as [`forward`] reads it at stride 1; `None` where there are none to add.
pub(super) fn padded_input(x: &[f32], plane: &Plane) -> Option<Scratch> {
    let before = [plane.padding[0].0, plane.padding[1].0];
    let some = plane.padding != [(0, 0); 2];
    some.then(|| padded(x, plane.batch * plane.inputs, plane.size, before, plane.padded(), 1))
}
