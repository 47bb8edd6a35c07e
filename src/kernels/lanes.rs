//! Vectors of f32 as one trait, so that a loop is written once and compiled for each width.
//!
//! Every method is inlined into a function that enables the instructions.

/// Instructions that the inner loops use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 512 bits
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256 bits, with FMA
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of arrays.
    Portable,
}

impl Width {
    /// The widest that this processor has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Values in a vector.
    pub(super) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::WIDTH,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::WIDTH,
            Self::Portable => Portable::WIDTH,
        }
    }

    /// Rows of a product that are computed at once.
    pub(super) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::ROWS,
            Self::Portable => Portable::ROWS,
        }
    }
}

/// A vector of f32. The methods of a type may run only where the processor has its instructions.
pub(super) trait Lanes: Copy {
    /// Values in a vector.
    const WIDTH: usize;
    /// Rows of a product that are kept in registers, two vectors each.
    const ROWS: usize;
    fn splat(value: f32) -> Self;
    /// # Safety
    /// `WIDTH` values can be read.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `WIDTH` values can be written.
    unsafe fn store(self, to: *mut f32);
    /// self * factor + term
    fn multiply_add(self, factor: Self, term: Self) -> Self;
    fn add(self, other: Self) -> Self;
    fn subtract(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    fn divide(self, other: Self) -> Self;
    /// Into [-limit, limit]; what is no number stays so.
    fn clamp(self, limit: f32) -> Self;
    /// self * 2^power; `power` is a whole number between -126 and 127.
    fn scale(self, power: Self) -> Self;
}

/// Adding and subtracting 1.5 * 2^23 rounds to a whole number, whose bits are then the low ones.
const ROUND: f32 = 12_582_912.0;

/// e^x for |x| <= 87 to 2 units in the last place.
#[inline(always)]
pub(super) fn exponential<V: Lanes>(x: V) -> V {
    let x = x.clamp(87.0);
    let n = x.multiply_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).subtract(V::splat(ROUND));
    // ln 2 in two parts, the first with few bits: n times it is exact.
    let r = n.multiply_add(V::splat(-0.693_359_4), x);
    let r = n.multiply_add(V::splat(2.121_944_4e-4), r);
    // Taylor to the seventh power; |r| <= ln(2) / 2 leaves 5e-9.
    let mut sum = V::splat(1.0 / 5040.0);
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum.multiply_add(r, V::splat(factor));
    }
    sum.scale(n)
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(super) fn sigmoid<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    one.divide(one.add(exponential(V::splat(0.0).subtract(x))))
}

/// (1 - e^-2x) / (1 + e^-2x)
#[inline(always)]
pub(super) fn tanh<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    let e = exponential(x.multiply(V::splat(-2.0)).clamp(40.0));
    one.subtract(e).divide(one.add(e))
}

impl Lanes for f32 {
    const WIDTH: usize = 1;
    const ROWS: usize = 4;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { *to = self }
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, term: Self) -> Self {
        self * factor + term
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn subtract(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn divide(self, other: Self) -> Self {
        self / other
    }
    #[inline(always)]
    fn clamp(self, limit: f32) -> Self {
        if self > limit {
            limit
        } else if self < -limit {
            -limit
        } else {
            self
        }
    }
    #[inline(always)]
    fn scale(self, power: Self) -> Self {
        let bits = (power + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
        f32::from_bits(self.to_bits().wrapping_add(bits << 23))
    }
}

/// Eight values without special instructions.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    const WIDTH: usize = 8;
    const ROWS: usize = 2;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's; an array of f32 has no greater alignment.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, term: Self) -> Self {
        self.multiply(factor).add(term)
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
    #[inline(always)]
    fn subtract(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }
    #[inline(always)]
    fn divide(self, other: Self) -> Self {
        self.each(other, |a, b| a / b)
    }
    #[inline(always)]
    fn clamp(self, limit: f32) -> Self {
        self.each(self, |a, _| a.clamp(-limit, limit))
    }
    #[inline(always)]
    fn scale(self, power: Self) -> Self {
        self.each(power, |a, p| a.scale(p))
    }
}

/// The vector types of one x86 extension, from its intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_lanes {
    ($name:ident, $vector:ident, $integer:ident, $width:literal, $rows:literal, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $min:ident, $max:ident, $bits:ident, $shift:ident, $add_bits:ident, $floats:ident) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name(arch::$vector);

        // SAFETY of all: the type is used only where the instructions were detected; memory is
        // the caller's.
        impl Lanes for $name {
            const WIDTH: usize = $width;
            const ROWS: usize = $rows;
            #[inline(always)]
            fn splat(value: f32) -> Self {
                Self(unsafe { arch::$splat(value) })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                Self(unsafe { arch::$load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { arch::$store(to, self.0) }
            }
            #[inline(always)]
            fn multiply_add(self, factor: Self, term: Self) -> Self {
                Self(unsafe { arch::$fma(self.0, factor.0, term.0) })
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Self(unsafe { arch::$add(self.0, other.0) })
            }
            #[inline(always)]
            fn subtract(self, other: Self) -> Self {
                Self(unsafe { arch::$sub(self.0, other.0) })
            }
            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                Self(unsafe { arch::$mul(self.0, other.0) })
            }
            #[inline(always)]
            fn divide(self, other: Self) -> Self {
                Self(unsafe { arch::$div(self.0, other.0) })
            }
            #[inline(always)]
            fn clamp(self, limit: f32) -> Self {
                // The second operand is what min and max give where one is no number.
                unsafe {
                    let below = arch::$min(arch::$splat(limit), self.0);
                    Self(arch::$max(arch::$splat(-limit), below))
                }
            }
            #[inline(always)]
            fn scale(self, power: Self) -> Self {
                unsafe {
                    let bits = arch::$bits(power.add(Self::splat(ROUND)).0);
                    Self(arch::$floats(arch::$add_bits(arch::$bits(self.0), arch::$shift::<23>(bits))))
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as arch;
#[cfg(target_arch = "x86_64")]
x86_lanes!(
    Avx512,
    __m512,
    __m512i,
    16,
    8,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_min_ps,
    _mm512_max_ps,
    _mm512_castps_si512,
    _mm512_slli_epi32,
    _mm512_add_epi32,
    _mm512_castsi512_ps
);
#[cfg(target_arch = "x86_64")]
x86_lanes!(
    Avx2,
    __m256,
    __m256i,
    8,
    6,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_min_ps,
    _mm256_max_ps,
    _mm256_castps_si256,
    _mm256_slli_epi32,
    _mm256_add_epi32,
    _mm256_castsi256_ps
);

/// Every width that this processor has.
#[cfg(test)]
pub(super) fn widths() -> Vec<Width> {
    let mut all = vec![Width::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Width::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(Width::Avx512);
        }
    }
    all
}
