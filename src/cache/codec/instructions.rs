//! Which instructions of this processor the codecs use.

/// A set of instructions that codecs are written for. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    /// 512 bits, with expansion of bytes (VBMI2) and sums of products of 16 bits (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256 bits, with conversion of halves (F16C).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of it.
    Plain,
}

impl Instructions {
    /// The best of this processor.
    pub(super) fn detect() -> Self {
        Self::all().next().unwrap_or(Self::Plain)
    }

    /// Every set that this processor has, best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = [(Self::Avx512, has_avx512()), (Self::Avx2, has_avx2())];
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [(Self, bool); 0] = [];
        wide.into_iter().filter_map(|(set, there)| there.then_some(set)).chain([Self::Plain])
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512vnni")
        && has_avx2()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

/// Defines `$name` as `$body`, which must be `#[inline(always)]`, compiled for the processor's instructions.
macro_rules! compiled {
    ($visible:vis $name:ident, $body:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?) => {
        $visible fn $name(
            instructions: $crate::cache::codec::instructions::Instructions,
            $($argument: $kind),*
        ) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
            fn avx512($($argument: $kind),*) $(-> $result)? {
                $body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $kind),*) $(-> $result)? {
                $body($($argument),*)
            }
            use $crate::cache::codec::instructions::Instructions;
            match instructions {
                // SAFETY: the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: the instructions were detected.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { avx2($($argument),*) },
                Instructions::Plain => $body($($argument),*),
            }
        }
    };
}
pub(super) use compiled;

/// For every mask of eight places, which of the values that follow each other belongs to each; 0x80 where none does.
#[cfg(target_arch = "x86_64")]
pub(super) const PLACES: [[u8; 8]; 256] = {
    let mut all = [[0x80; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut bit, mut next) = (0, 0);
        while bit < 8 {
            if mask >> bit & 1 == 1 {
                all[mask][bit] = next;
                next += 1;
            }
            bit += 1;
        }
        mask += 1;
    }
    all
};
