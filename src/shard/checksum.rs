//! The checksum of payloads: XXH3 of 128 bits, by the widest instructions that there are.
//!
//! The values are those of XXH3 whoever computes them, by its specification (`doc/xxhash_spec.md` of
//! <https://github.com/Cyan4973/xxHash>). The crate does it with 128 bits at a time, unless it is compiled for one processor
//! alone; what is long enough to matter is done here with 256 or 512. The products of a block of sixteen stripes do not depend on what
//! came before: they are added up by themselves, so that only the end of a block waits for the block before it.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes of a block: sixteen stripes of 64, each with the secret from 8 bytes further on.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 1024;

/// XXH3 of 128 bits of `bytes`.
pub fn xxh3_128(bytes: &[u8], seed: u64) -> u128 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() > BLOCK {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions were detected.
            return long(bytes, seed, |bytes, secret| unsafe { avx512(bytes, secret) });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the instructions were detected.
            return long(bytes, seed, |bytes, secret| unsafe { avx2(bytes, secret) });
        }
    }
    xxh3_128_with_seed(bytes, seed)
}

/// The specification's prime numbers of 32 and of 64 bits.
#[cfg(target_arch = "x86_64")]
const PRIMES: ([u32; 3], [u64; 5]) = (
    [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D],
    [
        0x9E37_79B1_85EB_CA87,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0x85EB_CA77_C2B2_AE63,
        0x27D4_EB2F_1656_67C5,
    ],
);

/// What every sum begins with.
#[cfg(target_arch = "x86_64")]
const FIRST: [u64; 8] = {
    let ([a, b, c], [d, e, f, g, h]) = PRIMES;
    [c as u64, d, e, f, g, b as u64, h, a as u64]
};

/// The specification's secret, words of eight bytes.
#[cfg(target_arch = "x86_64")]
const SECRET: [u64; 24] = [
    0xBE4B_A423_396C_FEB8,
    0x1CAD_21F7_2C81_017C,
    0xDB97_9083_E96D_D4DE,
    0x1F67_B3B7_A4A4_4072,
    0x78E5_C0CC_4EE6_79CB,
    0x2172_FFCC_7DD0_5A82,
    0x8E24_43F7_7446_08B8,
    0x4C26_3A81_E690_35E0,
    0xCB00_C391_BB52_283C,
    0xA32E_531B_8B65_D088,
    0x4EF9_0DA2_9748_6471,
    0xD8AC_DEA9_46EF_1938,
    0x3F34_9CE3_3F76_FAA8,
    0x1D4F_0BC7_C7BB_DCF9,
    0x3159_B4CD_4BE0_518A,
    0x6473_78D9_C97E_9FC8,
    0xC3EB_D334_83AC_C5EA,
    0xEB63_13FA_FFA0_81C5,
    0x49DA_F0B7_51DD_0D17,
    0x9E68_D429_2655_16D3,
    0xFCA1_477D_58BE_162B,
    0xCE31_D07A_D1B8_F88F,
    0x2804_1695_8F3A_CB45,
    0x7E40_4BBB_CAFB_D7AF,
];

#[cfg(target_arch = "x86_64")]
type Secret = [u8; 8 * SECRET.len()];

/// Of more than 240 bytes, whose sums by the secret are `sums`.
#[cfg(target_arch = "x86_64")]
fn long(bytes: &[u8], seed: u64, sums: impl FnOnce(&[u8], &Secret) -> [u64; 8]) -> u128 {
    let mut secret = [0; 8 * SECRET.len()];
    for (number, (to, from)) in secret.as_chunks_mut::<8>().0.iter_mut().zip(SECRET).enumerate() {
        *to = if number % 2 == 0 { from.wrapping_add(seed) } else { from.wrapping_sub(seed) }.to_le_bytes();
    }
    let sums = sums(bytes, &secret);
    let length = bytes.len() as u64;
    let low = merged(&sums, &secret[11..], length.wrapping_mul(PRIMES.1[0]));
    let high = merged(&sums, &secret[secret.len() - 64 - 11..], !length.wrapping_mul(PRIMES.1[1]));
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(target_arch = "x86_64")]
fn merged(sums: &[u64; 8], secret: &[u8], first: u64) -> u64 {
    let mut merged = first;
    for (sums, secret) in sums.as_chunks::<2>().0.iter().zip(secret.as_chunks::<16>().0) {
        let secret = u128::from_le_bytes(*secret);
        let [low, high] = halves(secret ^ (u128::from(sums[1]) << 64 | u128::from(sums[0])));
        let [low, high] = halves(u128::from(low) * u128::from(high));
        merged = merged.wrapping_add(low ^ high);
    }
    merged = (merged ^ (merged >> 37)).wrapping_mul(0x1656_6791_9E37_79F9);
    merged ^ (merged >> 32)
}

#[cfg(target_arch = "x86_64")]
fn halves(value: u128) -> [u64; 2] {
    let bytes = value.to_le_bytes();
    let (words, _) = bytes.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

/// A function that sums up the stripes of more than 64 bytes with vectors of one type.
#[cfg(target_arch = "x86_64")]
macro_rules! sums {
    ($name:ident, $features:literal, $vector:ident, $load:ident, $store:ident, $all:ident, $xor:ident, $add:ident, $multiply:ident,
     $left:ident, $right:ident, $permute:ident) => {
        #[target_feature(enable = $features)]
        fn $name(bytes: &[u8], secret: &Secret) -> [u64; 8] {
            use std::arch::x86_64::*;

            const PARTS: usize = 64 / size_of::<$vector>();

            #[inline]
            #[target_feature(enable = $features)]
            fn load(bytes: &[u8; 64]) -> [$vector; PARTS] {
                let mut parts = [$all(0); PARTS];
                for (at, part) in parts.iter_mut().enumerate() {
                    // SAFETY: so many parts are 64 bytes.
                    *part = unsafe { $load(bytes.as_ptr().cast::<$vector>().add(at)) };
                }
                parts
            }

            /// Adds stripes, each with its part of the secret.
            #[inline]
            #[target_feature(enable = $features)]
            fn add(sums: &mut [$vector; PARTS], stripes: &[[u8; 64]], secret: &[u8]) {
                let (mut products, mut plain) = ([$all(0); PARTS], [$all(0); PARTS]);
                for (number, stripe) in stripes.iter().enumerate() {
                    let Some(secret) = secret.get(8 * number..).and_then(|rest| rest.first_chunk()) else {
                        return;
                    };
                    let (stripe, secret) = (load(stripe), load(secret));
                    for part in 0..PARTS {
                        let value = $xor(stripe[part], secret[part]);
                        products[part] = $add(products[part], $multiply(value, $right::<32>(value)));
                        plain[part] = $add(plain[part], stripe[part]);
                    }
                }
                for part in 0..PARTS {
                    // What was not multiplied goes to the neighbour.
                    let plain = $permute::<0b01_00_11_10>(plain[part]);
                    sums[part] = $add(sums[part], $add(products[part], plain));
                }
            }

            let mut first = [0; 64];
            first
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip(FIRST)
                .for_each(|(to, from)| *to = from.to_le_bytes());
            let mut sums = load(&first);
            let prime = $all(i64::from(PRIMES.0[0]));
            let (blocks, rest) = bytes.split_at((bytes.len().saturating_sub(1)) / BLOCK * BLOCK);
            let last = secret.last_chunk().map_or([$all(0); PARTS], |last| load(last));
            for block in blocks.as_chunks::<BLOCK>().0 {
                add(&mut sums, block.as_chunks().0, secret);
                for (sum, last) in sums.iter_mut().zip(last) {
                    let mixed = $xor($xor(*sum, $right::<47>(*sum)), last);
                    let high = $left::<32>($multiply($right::<32>(mixed), prime));
                    *sum = $add($multiply(mixed, prime), high);
                }
            }
            add(&mut sums, rest[..rest.len().saturating_sub(1)].as_chunks().0, secret);
            // The last 64 bytes, whichever of them were in a stripe.
            if let Some(stripe) = bytes.last_chunk() {
                add(&mut sums, std::slice::from_ref(stripe), &secret[secret.len() - 64 - 7..]);
            }
            let mut words = [0; 8];
            for (at, sum) in sums.into_iter().enumerate() {
                // SAFETY: so many parts are eight words.
                unsafe { $store(words.as_mut_ptr().cast::<$vector>().add(at), sum) };
            }
            words
        }
    };
}

#[cfg(target_arch = "x86_64")]
sums!(
    avx512,
    "avx512f",
    __m512i,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi64,
    _mm512_xor_si512,
    _mm512_add_epi64,
    _mm512_mul_epu32,
    _mm512_slli_epi64,
    _mm512_srli_epi64,
    _mm512_shuffle_epi32
);
#[cfg(target_arch = "x86_64")]
sums!(
    avx2,
    "avx2",
    __m256i,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi64x,
    _mm256_xor_si256,
    _mm256_add_epi64,
    _mm256_mul_epu32,
    _mm256_slli_epi64,
    _mm256_srli_epi64,
    _mm256_shuffle_epi32
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_processor_gives_the_crates_values() {
        let mut random = Random::new(1, "xxh3", &[]);
        let bytes: Vec<u8> = (0..70_000).map(|_| random.below(256) as u8).collect();
        let lengths =
            (0..260).chain(960..1100).chain([2047, 2048, 2049, 5_000, 65_535, 65_536, 65_537, 69_990]);
        for length in lengths {
            for (seed, start) in [(0, 0), (0x0123_4567_89AB_CDEF, 1), (u64::MAX, 4)] {
                let bytes = &bytes[start..][..length];
                let expected = xxh3_128_with_seed(bytes, seed);
                assert_eq!(xxh3_128(bytes, seed), expected, "{length}");
                #[cfg(target_arch = "x86_64")]
                if length > 240 {
                    if is_x86_feature_detected!("avx2") {
                        // SAFETY: the instructions were detected.
                        let found = long(bytes, seed, |bytes, secret| unsafe { avx2(bytes, secret) });
                        assert_eq!(found, expected, "AVX2, {length}");
                    }
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the instructions were detected.
                        let found = long(bytes, seed, |bytes, secret| unsafe { avx512(bytes, secret) });
                        assert_eq!(found, expected, "AVX-512, {length}");
                    }
                }
            }
        }
    }
}
