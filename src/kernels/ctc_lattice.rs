//! The CTC recursions of one utterance, without logarithms.
//!
//! With states blank 0, label 0, blank 1, ..., blank L (Graves et al., 2006, section 4.1):
//!
//! blank'(i) = (blank(i) + label(i - 1)) p(blank)
//! label'(i) = (label(i) + blank(i) + [target i differs from target i - 1] label(i - 1)) p(target i)
//!
//! Probabilities are pairs value * 2^exponent, so that nothing underflows however unlikely: a sum is
//! scaled to the larger exponent, a product adds exponents, and every [`PERIOD`] frames the values are
//! brought back to [1, 2). That is exact to f64's rounding, and costs no exponential but the softmax.
//! T frames and L labels: about 2 T (2 L + 1) cells of a dozen operations, 24 T L bytes of forward
//! variables. Compiled for each vector width and chosen at run time.

/// Frames between two normalisations: a frame scales a value by 2^-6 to 2^4.
const PERIOD: usize = 64;
/// Exponent of nothing.
const LOW: i32 = -(1 << 28);
/// Partial sums, fixed so that the result does not depend on the processor's width.
const LANES: usize = 8;

/// Loss of one utterance, -ln p(target), whose target is possible; `logits` and `gradient` are
/// [frames, labels], and the gradient is softmax - occupation.
pub(super) fn utterance(
    logits: &[f32],
    labels: usize,
    target: &[u32],
    blank: usize,
    gradient: &mut [f32],
) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected.
            return unsafe { wide(logits, labels, target, blank, gradient) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected.
            return unsafe { narrow(logits, labels, target, blank, gradient) };
        }
    }
    body(logits, labels, target, blank, gradient)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn wide(logits: &[f32], labels: usize, target: &[u32], blank: usize, gradient: &mut [f32]) -> f64 {
    body(logits, labels, target, blank, gradient)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrow(logits: &[f32], labels: usize, target: &[u32], blank: usize, gradient: &mut [f32]) -> f64 {
    body(logits, labels, target, blank, gradient)
}

/// value * 2^exponent for each state of one kind.
#[derive(Debug, Clone)]
struct Numbers {
    value: Vec<f64>,
    exponent: Vec<i32>,
}

impl Numbers {
    fn zeros(count: usize) -> Self {
        Self { value: vec![0.0; count], exponent: vec![LOW; count] }
    }

    fn part(&self, from: usize, count: usize) -> Part<'_> {
        Part { value: &self.value[from..from + count], exponent: &self.exponent[from..from + count] }
    }

    fn set(&mut self, at: usize, (value, exponent): (f64, i32)) {
        self.value[at] = value;
        self.exponent[at] = exponent;
    }

    fn get(&self, at: usize) -> (f64, i32) {
        (self.value[at], self.exponent[at])
    }
}

#[derive(Clone, Copy)]
struct Part<'a> {
    value: &'a [f64],
    exponent: &'a [i32],
}

/// 2^k for k <= 1023; 0 below f64's normal range.
#[inline(always)]
fn power(k: i32) -> f64 {
    f64::from_bits(u64::from((k.max(-1023) + 1023).unsigned_abs()) << 52)
}

#[inline(always)]
fn add(a: (f64, i32), b: (f64, i32)) -> (f64, i32) {
    let exponent = a.1.max(b.1);
    (a.0 * power(a.1 - exponent) + b.0 * power(b.1 - exponent), exponent)
}

/// 1 / n! for n from 13 down to 0.
const INVERSE_FACTORIALS: [f64; 14] = {
    let mut out = [1.0; 14];
    let mut n = 1;
    let mut factorial = 1.0;
    while n < 14 {
        factorial *= n as f64;
        out[13 - n] = 1.0 / factorial;
        n += 1;
    }
    out
};

/// e^x for |x| <= ln 2 / 2: the series to x^13, 4e-17 off.
#[inline(always)]
fn small_exp(x: f64) -> f64 {
    INVERSE_FACTORIALS.iter().fold(0.0, |sum, factor| sum * x + factor)
}

/// Values back to [1, 2), their exponents to match.
#[inline(always)]
fn normalise(numbers: &mut Numbers) {
    for (value, exponent) in numbers.value.iter_mut().zip(&mut numbers.exponent) {
        let field = (value.to_bits() >> 52 & 0x7ff) as i32;
        let present = *value > 0.0;
        *exponent = if present { *exponent + field - 1023 } else { LOW };
        let mantissa = f64::from_bits(value.to_bits() & ((1 << 52) - 1) | 1023 << 52);
        // What is not a number stays that.
        *value = if present { mantissa } else { *value };
    }
}

/// Softmax of every frame as numbers, [frames, labels].
#[inline(always)]
fn softmax(logits: &[f32], labels: usize) -> Numbers {
    let mut p = Numbers::zeros(logits.len());
    let rows = p.value.chunks_exact_mut(labels).zip(p.exponent.chunks_exact_mut(labels));
    for (row, (value, exponent)) in logits.chunks_exact(labels).zip(rows) {
        let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut sum = 0.0;
        for ((value, exponent), &z) in value.iter_mut().zip(exponent.iter_mut()).zip(row) {
            let x = (f64::from(z) - top).clamp(-1e6, 0.0);
            let whole = (x * std::f64::consts::LOG2_E).round();
            *value = small_exp(whole.mul_add(-std::f64::consts::LN_2, x));
            *exponent = whole as i32;
        }
        for (value, exponent) in value.iter().zip(exponent.iter()) {
            sum += value * power(*exponent);
        }
        value.iter_mut().for_each(|value| *value /= sum);
    }
    normalise(&mut p);
    p
}

/// One step of the blanks: now[i] = (blank[i] + label[i]) * p.
#[inline(always)]
fn step_blanks(blank: Part, label: Part, p: (f64, i32), value: &mut [f64], exponent: &mut [i32]) {
    let count = value.len();
    let (bv, be) = (&blank.value[..count], &blank.exponent[..count]);
    let (lv, le) = (&label.value[..count], &label.exponent[..count]);
    let exponent = &mut exponent[..count];
    for i in 0..count {
        let top = be[i].max(le[i]);
        value[i] = (bv[i] * power(be[i] - top) + lv[i] * power(le[i] - top)) * p.0;
        exponent[i] = (top + p.1).max(LOW);
    }
}

/// One step of the labels: now[i] = (stay[i] + blank[i] + skip[i] label[i]) * p[i]; `skip` is 0 or [`LOW`].
#[inline(always)]
fn step_labels([stay, blank, label, p]: [Part; 4], skip: &[i32], value: &mut [f64], exponent: &mut [i32]) {
    let count = value.len();
    let (sv, se) = (&stay.value[..count], &stay.exponent[..count]);
    let (bv, be) = (&blank.value[..count], &blank.exponent[..count]);
    let (lv, le) = (&label.value[..count], &label.exponent[..count]);
    let (pv, pe) = (&p.value[..count], &p.exponent[..count]);
    let (skip, exponent) = (&skip[..count], &mut exponent[..count]);
    for i in 0..count {
        // Where there is no skip, this falls so low that nothing of it is left.
        let skipped = le[i] + skip[i];
        let top = se[i].max(be[i]).max(skipped).max(LOW);
        let sum = sv[i] * power(se[i] - top) + bv[i] * power(be[i] - top) + lv[i] * power(skipped - top);
        value[i] = sum * pv[i];
        exponent[i] = (top + pe[i]).max(LOW);
    }
}

/// What forward and backward variables of the same states say of each, as shares of the total.
#[inline(always)]
fn shares(forward: Part, backward: Part, total: (f64, i32), out: &mut [f64]) {
    let count = forward.value.len();
    let values = [forward, backward].map(|part| &part.value[..count]);
    let exponents = [forward, backward].map(|part| &part.exponent[..count]);
    for (i, out) in out[..count].iter_mut().enumerate() {
        let power = power((exponents[0][i] + exponents[1][i] - total.1).min(1023));
        *out = values[0][i] * values[1][i] * power / total.0;
    }
}

#[inline(always)]
fn body(logits: &[f32], labels: usize, target: &[u32], blank: usize, gradient: &mut [f32]) -> f64 {
    let frames = logits.len() / labels;
    let length = target.len();
    let width = length + 1;
    let p = softmax(logits, labels);
    let blank_p = |t: usize| p.get(t * labels + blank);
    let target: Vec<usize> = target.iter().map(|&label| label as usize).collect();
    // Probability of every label of the target at one frame.
    let mut spelled = Numbers::zeros(length);
    let spell = |t: usize, spelled: &mut Numbers| {
        for (i, &label) in target.iter().enumerate() {
            spelled.set(i, p.get(t * labels + label));
        }
    };
    // skip[i]: from label i - 1 to label i without the blank between; none to the first or beyond the last.
    let mut skip = vec![LOW; width];
    for i in 1..length {
        if target[i] != target[i - 1] {
            skip[i] = 0;
        }
    }

    // Forward: row t of `blanks` holds blank i, of `named` label i at place i + 1 (place 0 is nothing).
    let (mut blanks, mut named) = (Numbers::zeros(frames * width), Numbers::zeros(frames * width));
    spell(0, &mut spelled);
    blanks.set(0, blank_p(0));
    if length > 0 {
        named.set(1, spelled.get(0));
    }
    let (mut next_blanks, mut next_named) = (Numbers::zeros(width), Numbers::zeros(width));
    for t in 1..frames {
        spell(t, &mut spelled);
        let before = (t - 1) * width;
        step_blanks(
            blanks.part(before, width),
            named.part(before, width),
            blank_p(t),
            &mut next_blanks.value,
            &mut next_blanks.exponent,
        );
        step_labels(
            [
                named.part(before + 1, length),
                blanks.part(before, length),
                named.part(before, length),
                spelled.part(0, length),
            ],
            &skip,
            &mut next_named.value[1..],
            &mut next_named.exponent[1..],
        );
        if t % PERIOD == 0 {
            normalise(&mut next_blanks);
            normalise(&mut next_named);
        }
        let now = t * width..(t + 1) * width;
        blanks.value[now.clone()].copy_from_slice(&next_blanks.value);
        blanks.exponent[now.clone()].copy_from_slice(&next_blanks.exponent);
        named.value[now.clone()].copy_from_slice(&next_named.value);
        named.exponent[now].copy_from_slice(&next_named.exponent);
    }
    let end = frames * width - 1;
    let last = if length > 0 { named.get(end) } else { (0.0, LOW) };
    let total = add(blanks.get(end), last);

    // Backward: suffixes that follow frame t, from blank i and from label i (place `length` is nothing).
    let (mut after_blanks, mut after_named) = (Numbers::zeros(width), Numbers::zeros(width));
    // The same times the probability at the frame itself.
    let (mut from_blanks, mut from_named) = (Numbers::zeros(width), Numbers::zeros(width));
    let ones = Numbers { value: vec![1.0; length], exponent: vec![0; length] };
    let (mut occupation, mut share) = (vec![0f64; labels], vec![0f64; width]);
    for t in (0..frames).rev() {
        if t + 1 == frames {
            after_blanks.set(length, (1.0, 0));
            if length > 0 {
                after_named.set(length - 1, (1.0, 0));
            }
        } else {
            let one = (1.0, 0);
            let (value, exponent) = (&mut after_blanks.value, &mut after_blanks.exponent);
            step_blanks(from_blanks.part(0, width), from_named.part(0, width), one, value, exponent);
            step_labels(
                [
                    from_named.part(0, length),
                    from_blanks.part(1, length),
                    from_named.part(1, length),
                    ones.part(0, length),
                ],
                &skip[1..],
                &mut after_named.value[..length],
                &mut after_named.exponent[..length],
            );
            if t % PERIOD == 0 {
                normalise(&mut after_blanks);
                normalise(&mut after_named);
            }
        }
        occupation.fill(0.0);
        let row = t * width;
        shares(blanks.part(row, width), after_blanks.part(0, width), total, &mut share);
        let mut sums = [0f64; LANES];
        for shares in share.chunks(LANES) {
            sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
        }
        occupation[blank] += sums.iter().sum::<f64>();
        shares(named.part(row + 1, length), after_named.part(0, length), total, &mut share);
        for (&label, share) in target.iter().zip(&share) {
            occupation[label] += share;
        }
        let row = t * labels..(t + 1) * labels;
        for ((gradient, at), occupied) in gradient[row.clone()].iter_mut().zip(row).zip(&occupation) {
            let (value, exponent) = p.get(at);
            *gradient = (value * power(exponent) - occupied) as f32;
        }
        spell(t, &mut spelled);
        let p = blank_p(t);
        for (value, after) in from_blanks.value.iter_mut().zip(&after_blanks.value) {
            *value = after * p.0;
        }
        for (exponent, after) in from_blanks.exponent.iter_mut().zip(&after_blanks.exponent) {
            *exponent = (after + p.1).max(LOW);
        }
        let values = after_named.value.iter().zip(&spelled.value);
        for (value, (after, p)) in from_named.value.iter_mut().zip(values) {
            *value = after * p;
        }
        let exponents = after_named.exponent.iter().zip(&spelled.exponent);
        for (exponent, (after, p)) in from_named.exponent.iter_mut().zip(exponents) {
            *exponent = (after + p).max(LOW);
        }
    }
    -(total.0.ln() + f64::from(total.1) * std::f64::consts::LN_2)
}
