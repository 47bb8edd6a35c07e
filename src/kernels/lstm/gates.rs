//! What an LSTM cell does to one frame of one utterance, value by value, and the gradient of it.
//!
//! Gates lie in PyTorch's order: input i, forget f, candidate g, output o, [4, hidden].
//! c' = f c + i g, h = o tanh(c'), with i, f, o the sigmoid and g the tanh of the sums.

#[cfg(target_arch = "x86_64")]
use crate::kernels::lanes::{Avx2, Avx512};
use crate::kernels::lanes::{Lanes, Portable, Width, sigmoid, tanh};

/// One frame forward.
pub(super) struct Forward<'a> {
    /// The projected input, replaced by the gates; [4, hidden].
    pub gates: &'a mut [f32],
    /// The projected previous output; none at the start; [4, hidden].
    pub recurrent: Option<&'a [f32]>,
    /// Added to the sums; [4, hidden].
    pub bias: &'a [f32],
    /// The cell c, replaced by c'; [hidden].
    pub carried: &'a mut [f32],
    /// The cell c'; [hidden].
    pub cell: &'a mut [f32],
    /// The output h; [hidden].
    pub output: &'a mut [f32],
    /// The output again, for the next step; [hidden].
    pub next: &'a mut [f32],
}

/// One frame backward.
pub(super) struct Backward<'a> {
    /// As the forward pass left them; [4, hidden].
    pub gates: &'a [f32],
    /// The cell c'; [hidden].
    pub cell: &'a [f32],
    /// The cell c; none at the start; [hidden].
    pub previous: Option<&'a [f32]>,
    /// The gradient of h from above; [hidden].
    pub above: &'a [f32],
    /// The gradient of h from the next step; [hidden].
    pub recurrent: &'a [f32],
    /// The gradient of c' from the next step, replaced by that of c; [hidden].
    pub carried: &'a mut [f32],
    /// The gradient of the sums; [4, hidden].
    pub sums: &'a mut [f32],
    /// The same again, for the recurrent product; [4, hidden].
    pub next: &'a mut [f32],
    /// The same, added; [4, hidden].
    pub bias: &'a mut [f32],
}

impl Forward<'_> {
    /// Computes the frame.
    pub(super) fn run(&mut self, width: Width) {
        match width {
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { forward_wide(self) },
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => unsafe { forward_narrow(self) },
            Width::Portable => self.whole::<Portable>(),
        }
    }

    #[inline(always)]
    fn whole<V: Lanes>(&mut self) {
        let hidden = self.output.len();
        let tail = hidden - hidden % V::WIDTH;
        assert!(self.gates.len() == 4 * hidden && self.bias.len() == 4 * hidden);
        assert!(self.recurrent.is_none_or(|r| r.len() == 4 * hidden));
        assert!([&self.carried, &self.cell, &self.next].iter().all(|s| s.len() == hidden));
        for j in (0..tail).step_by(V::WIDTH) {
            // SAFETY: the lengths were asserted, and j + WIDTH <= hidden.
            unsafe { self.at::<V>(j, hidden) }
        }
        for j in tail..hidden {
            // SAFETY: the lengths were asserted.
            unsafe { self.at::<f32>(j, hidden) }
        }
    }

    /// # Safety
    /// All slices have their documented lengths, and j + WIDTH <= hidden.
    #[inline(always)]
    unsafe fn at<V: Lanes>(&mut self, j: usize, hidden: usize) {
        // SAFETY: the caller's.
        unsafe {
            let sum = |gate: usize| {
                let at = gate * hidden + j;
                let sum = V::load(self.gates.as_ptr().add(at)).add(V::load(self.bias.as_ptr().add(at)));
                self.recurrent.map_or(sum, |r| sum.add(V::load(r.as_ptr().add(at))))
            };
            let (i, f, g, o) = (sigmoid(sum(0)), sigmoid(sum(1)), tanh(sum(2)), sigmoid(sum(3)));
            let carried = self.carried.as_mut_ptr().add(j);
            let c = f.multiply_add(V::load(carried), i.multiply(g));
            let h = o.multiply(tanh(c));
            for (gate, value) in [i, f, g, o].into_iter().enumerate() {
                value.store(self.gates.as_mut_ptr().add(gate * hidden + j));
            }
            c.store(carried);
            c.store(self.cell.as_mut_ptr().add(j));
            h.store(self.output.as_mut_ptr().add(j));
            h.store(self.next.as_mut_ptr().add(j));
        }
    }
}

impl Backward<'_> {
    /// Computes the frame.
    pub(super) fn run(&mut self, width: Width) {
        match width {
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => unsafe { backward_wide(self) },
            // SAFETY: the features were detected.
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => unsafe { backward_narrow(self) },
            Width::Portable => self.whole::<Portable>(),
        }
    }

    #[inline(always)]
    fn whole<V: Lanes>(&mut self) {
        let hidden = self.cell.len();
        let tail = hidden - hidden % V::WIDTH;
        assert!([self.gates, self.sums, self.next, self.bias].iter().all(|s| s.len() == 4 * hidden));
        assert!([self.above, self.recurrent, self.carried].iter().all(|s| s.len() == hidden));
        assert!(self.previous.is_none_or(|p| p.len() == hidden));
        for j in (0..tail).step_by(V::WIDTH) {
            // SAFETY: the lengths were asserted, and j + WIDTH <= hidden.
            unsafe { self.at::<V>(j, hidden) }
        }
        for j in tail..hidden {
            // SAFETY: the lengths were asserted.
            unsafe { self.at::<f32>(j, hidden) }
        }
    }

    /// # Safety
    /// All slices have their documented lengths, and j + WIDTH <= hidden.
    #[inline(always)]
    unsafe fn at<V: Lanes>(&mut self, j: usize, hidden: usize) {
        let one = V::splat(1.0);
        // x (1 - x) and 1 - x^2: derivatives of sigmoid and tanh by their value.
        let of_sigmoid = |x: V| x.multiply(one.subtract(x));
        let of_tanh = |x: V| one.subtract(x.multiply(x));
        // SAFETY: the caller's.
        unsafe {
            let gate = |gate: usize| V::load(self.gates.as_ptr().add(gate * hidden + j));
            let (i, f, g, o) = (gate(0), gate(1), gate(2), gate(3));
            let carried = self.carried.as_mut_ptr().add(j);
            let squashed = tanh(V::load(self.cell.as_ptr().add(j)));
            let dh = V::load(self.above.as_ptr().add(j)).add(V::load(self.recurrent.as_ptr().add(j)));
            let dc = dh.multiply(o).multiply_add(of_tanh(squashed), V::load(carried));
            let previous = self.previous.map_or(V::splat(0.0), |p| V::load(p.as_ptr().add(j)));
            let sums = [
                dc.multiply(g).multiply(of_sigmoid(i)),
                dc.multiply(previous).multiply(of_sigmoid(f)),
                dc.multiply(i).multiply(of_tanh(g)),
                dh.multiply(squashed).multiply(of_sigmoid(o)),
            ];
            dc.multiply(f).store(carried);
            for (gate, value) in sums.into_iter().enumerate() {
                let at = gate * hidden + j;
                value.store(self.sums.as_mut_ptr().add(at));
                value.store(self.next.as_mut_ptr().add(at));
                let bias = self.bias.as_mut_ptr().add(at);
                V::load(bias).add(value).store(bias);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn forward_wide(frame: &mut Forward<'_>) {
    frame.whole::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn forward_narrow(frame: &mut Forward<'_>) {
    frame.whole::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn backward_wide(frame: &mut Backward<'_>) {
    frame.whole::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn backward_narrow(frame: &mut Backward<'_>) {
    frame.whole::<Avx2>();
}
