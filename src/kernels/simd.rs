//! Inner loops of the depthwise convolution, compiled once for each vector width and chosen at run time.

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

#[cfg(target_arch = "x86_64")]
mod wide {
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
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn correlate_body(x: &[f32], w: &[f32], dilation: usize, y: &mut [f32]) {
        super::correlate_body(x, w, dilation, y);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots_body(x: &[f32], dy: &[f32], dilation: usize, dw: &mut [f32]) {
        super::dots_body(x, dy, dilation, dw);
    }
}
