//! Inner loops of the depthwise convolution, of batch norm and of the optimisers, compiled once for each vector width and chosen at run time.

/// Outputs accumulated in registers at once.
const BLOCK: usize = 64;
/// Partial sums of a dot product; fixed, so that the result does not depend on the processor's width.
const LANES: usize = 32;

/// Calls `$body` compiled for AVX-512, AVX2 with FMA, or the baseline.
macro_rules! dispatch {
    ($body:ident($($argument:ident),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature was detected.
                return unsafe { wide::$body($($argument),*) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were detected.
                return unsafe { narrow::$body($($argument),*) };
            }
        }
        $body($($argument),*)
    }};
}

/// y[j] = sum over k of w[k] * x[j + k * dilation]; x has at least y.len() + (w.len() - 1) * dilation values.
pub(super) fn correlate(x: &[f32], w: &[f32], dilation: usize, y: &mut [f32]) {
    dispatch!(correlate_body(x, w, dilation, y));
}

/// dw[k] += sum over t of x[t + k * dilation] * dy[t].
pub(super) fn accumulate_dots(x: &[f32], dy: &[f32], dilation: usize, dw: &mut [f32]) {
    dispatch!(dots_body(x, dy, dilation, dw));
}

/// One channel of a batch norm: y = (x - mean) * scale + shift, scale = gamma * inverse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    pub mean: f32,
    /// 1 / deviation
    pub inverse: f32,
    pub scale: f32,
    pub shift: f32,
}

impl Affine {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        (x - self.mean) * self.scale + self.shift
    }
}

/// Sum of (x - offset), or of its square.
pub(super) fn add_sum(x: &[f32], offset: f32, square: bool) -> f64 {
    dispatch!(add_sum_body(x, offset, square))
}

/// y = (x - mean) * scale + shift, rectified or not.
pub(super) fn normalise_row(x: &[f32], affine: Affine, rectify: bool, y: &mut [f32]) {
    dispatch!(normalise_row_body(x, affine, rectify, y));
}

/// Sums of dy and of dy (x - mean) over the frames whose output passed the ReLU.
pub(super) fn add_weighted_sums(x: &[f32], dy: &[f32], affine: Affine, rectify: bool) -> (f64, f64) {
    dispatch!(weighted_sums_body(x, dy, affine, rectify))
}

/// dx = scale * dy where the output passed the ReLU, else 0.
pub(super) fn normalise_row_gradient(x: &[f32], dy: &[f32], affine: Affine, rectify: bool, dx: &mut [f32]) {
    dispatch!(row_gradient_body(x, dy, affine, rectify, dx));
}

/// Adam's step with everything that does not depend on the element worked out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    pub beta1: f32,
    /// 1 - beta1
    pub fresh1: f32,
    pub beta2: f32,
    /// 1 - beta2
    pub fresh2: f32,
    /// Learning rate over the first moment's bias.
    pub rate: f32,
    /// 1 / root of the second moment's bias.
    pub scale: f32,
    pub epsilon: f32,
    /// Decay that joins the gradient.
    pub coupled: f32,
    /// Share of the weight that decay leaves.
    pub kept: f32,
}

/// One step of Adam in place; all slices of one length.
pub(super) fn adam(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rule: Adam) {
    dispatch!(adam_body(w, g, m, v, rule));
}

/// NovoGrad's step likewise; `scale` is 1 / root of the squared norm.
#[derive(Debug, Clone, Copy)]
pub(super) struct NovoGrad {
    pub scale: f32,
    pub decay: f32,
    pub beta1: f32,
    pub rate: f32,
}

/// One step of NovoGrad in place; all slices of one length.
pub(super) fn novograd(w: &mut [f32], g: &[f32], m: &mut [f32], rule: NovoGrad) {
    dispatch!(novograd_body(w, g, m, rule));
}

#[inline(always)]
fn adam_body(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], r: Adam) {
    for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = g + r.coupled * *w;
        *m = r.beta1 * *m + r.fresh1 * g;
        *v = r.beta2 * *v + r.fresh2 * (g * g);
        *w = r.kept * *w - r.rate * *m / (v.sqrt() * r.scale + r.epsilon);
    }
}

#[inline(always)]
fn novograd_body(w: &mut [f32], g: &[f32], m: &mut [f32], r: NovoGrad) {
    for ((w, &g), m) in w.iter_mut().zip(g).zip(m) {
        *m = r.beta1 * *m + (g * r.scale + r.decay * *w);
        *w -= r.rate * *m;
    }
}

#[inline(always)]
fn correlate_body(x: &[f32], w: &[f32], dilation: usize, y: &mut [f32]) {
    let frames = y.len();
    let mut start = 0;
    while start + BLOCK <= frames {
        let mut sums = [0f32; BLOCK];
        for (k, &tap) in w.iter().enumerate() {
            let from = start + k * dilation;
            for (sum, value) in sums.iter_mut().zip(&x[from..from + BLOCK]) {
                *sum += tap * value;
            }
        }
        y[start..start + BLOCK].copy_from_slice(&sums);
        start += BLOCK;
    }
    for (j, out) in y.iter_mut().enumerate().skip(start) {
        *out = w.iter().enumerate().map(|(k, tap)| tap * x[j + k * dilation]).sum();
    }
}

#[inline(always)]
fn dots_body(x: &[f32], dy: &[f32], dilation: usize, dw: &mut [f32]) {
    let frames = dy.len();
    let whole = frames - frames % LANES;
    for (k, out) in dw.iter_mut().enumerate() {
        let x = &x[k * dilation..k * dilation + frames];
        let mut sums = [0f32; LANES];
        for (a, b) in x[..whole].chunks_exact(LANES).zip(dy[..whole].chunks_exact(LANES)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        let tail: f32 = x[whole..].iter().zip(&dy[whole..]).map(|(a, b)| a * b).sum();
        *out += sums.iter().sum::<f32>() + tail;
    }
}

#[inline(always)]
fn add_sum_body(x: &[f32], offset: f32, square: bool) -> f64 {
    let mut sums = [0f32; LANES];
    let (whole, tail) = x.split_at(x.len() - x.len() % LANES);
    let term = |x: f32| if square { (x - offset) * (x - offset) } else { x - offset };
    for block in whole.chunks_exact(LANES) {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += term(x);
        }
    }
    sums.iter().chain(&tail.iter().map(|&x| term(x)).collect::<Vec<_>>()).map(|&s| f64::from(s)).sum()
}

#[inline(always)]
fn normalise_row_body(x: &[f32], affine: Affine, rectify: bool, y: &mut [f32]) {
    if rectify {
        // `max` would turn what is not a number into 0.
        y.iter_mut().zip(x).for_each(|(y, &x)| {
            let value = affine.at(x);
            *y = if value <= 0.0 { 0.0 } else { value };
        });
    } else {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = affine.at(x));
    }
}

#[inline(always)]
fn weighted_sums_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool) -> (f64, f64) {
    let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
    let passed = |x: f32, dy: f32| if !rectify || affine.at(x) > 0.0 { dy } else { 0.0 };
    let whole = x.len() - x.len() % LANES;
    for (x, dy) in x[..whole].chunks_exact(LANES).zip(dy[..whole].chunks_exact(LANES)) {
        for i in 0..LANES {
            let d = passed(x[i], dy[i]);
            first[i] += d;
            second[i] += d * (x[i] - affine.mean);
        }
    }
    let (mut s1, mut s2) = (0f64, 0f64);
    for i in 0..LANES {
        s1 += f64::from(first[i]);
        s2 += f64::from(second[i]);
    }
    for (&x, &dy) in x[whole..].iter().zip(&dy[whole..]) {
        let d = passed(x, dy);
        s1 += f64::from(d);
        s2 += f64::from(d * (x - affine.mean));
    }
    (s1, s2)
}

#[inline(always)]
fn row_gradient_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool, dx: &mut [f32]) {
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        *dx = if !rectify || affine.at(x) > 0.0 { affine.scale * dy } else { 0.0 };
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Adam, Affine, NovoGrad};

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn adam_body(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rule: Adam) {
        super::adam_body(w, g, m, v, rule);
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn novograd_body(w: &mut [f32], g: &[f32], m: &mut [f32], rule: NovoGrad) {
        super::novograd_body(w, g, m, rule);
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn add_sum_body(x: &[f32], offset: f32, square: bool) -> f64 {
        super::add_sum_body(x, offset, square)
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn normalise_row_body(x: &[f32], affine: Affine, rectify: bool, y: &mut [f32]) {
        super::normalise_row_body(x, affine, rectify, y);
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn weighted_sums_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool) -> (f64, f64) {
        super::weighted_sums_body(x, dy, affine, rectify)
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn row_gradient_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool, dx: &mut [f32]) {
        super::row_gradient_body(x, dy, affine, rectify, dx);
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn correlate_body(x: &[f32], w: &[f32], dilation: usize, y: &mut [f32]) {
        super::correlate_body(x, w, dilation, y);
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) fn dots_body(x: &[f32], dy: &[f32], dilation: usize, dw: &mut [f32]) {
        super::dots_body(x, dy, dilation, dw);
    }
}

#[cfg(target_arch = "x86_64")]
mod narrow {
    use super::{Adam, Affine, NovoGrad};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn adam_body(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rule: Adam) {
        super::adam_body(w, g, m, v, rule);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn novograd_body(w: &mut [f32], g: &[f32], m: &mut [f32], rule: NovoGrad) {
        super::novograd_body(w, g, m, rule);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn add_sum_body(x: &[f32], offset: f32, square: bool) -> f64 {
        super::add_sum_body(x, offset, square)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn normalise_row_body(x: &[f32], affine: Affine, rectify: bool, y: &mut [f32]) {
        super::normalise_row_body(x, affine, rectify, y);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn weighted_sums_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool) -> (f64, f64) {
        super::weighted_sums_body(x, dy, affine, rectify)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn row_gradient_body(x: &[f32], dy: &[f32], affine: Affine, rectify: bool, dx: &mut [f32]) {
        super::row_gradient_body(x, dy, affine, rectify, dx);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn correlate_body(x: &[f32], w: &[f32], dilation: usize, y: &mut [f32]) {
        super::correlate_body(x, w, dilation, y);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots_body(x: &[f32], dy: &[f32], dilation: usize, dw: &mut [f32]) {
        super::dots_body(x, dy, dilation, dw);
    }
}
