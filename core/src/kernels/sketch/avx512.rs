//! Sixteen slots at a time with masked loads; up to eight slots in half a register.

use super::body::{self, Probe, slot_bits};
use super::{Admission, BLOCK, Block, Line, Terms, words};
use core::arch::x86_64::*;

struct Avx512;

/// Mask of the slots from `start` on.
#[inline(always)]
const fn slots(start: usize, slots: usize) -> u16 {
    if slots - start >= 16 { u16::MAX } else { (1 << (slots - start)) - 1 }
}

impl<const C: usize> Probe<C> for Avx512 {
    #[inline(always)]
    unsafe fn hits(bucket: &[u32], key: u32) -> u32 {
        debug_assert_eq!(bucket.len(), words(C));
        // SAFETY: the caller vouches for AVX-512; masked loads stay within the `C` keys.
        unsafe {
            if C <= 8 {
                let keys = _mm256_loadu_si256(bucket.as_ptr().cast());
                let key = _mm256_set1_epi32(key.cast_signed());
                return u32::from(_mm256_cmpeq_epi32_mask(keys, key)) & u32::from(slots(0, C));
            }
            let key = _mm512_set1_epi32(key.cast_signed());
            let mut mask = 0;
            for start in (0..C).step_by(16) {
                let some = slots(start, C);
                let keys = _mm512_maskz_loadu_epi32(some, bucket.as_ptr().add(start).cast());
                mask |= u32::from(_mm512_mask_cmpeq_epi32_mask(some, keys, key)) << start;
            }
            mask
        }
    }

    #[inline(always)]
    unsafe fn least(bucket: &[u32]) -> usize {
        debug_assert_eq!(bucket.len(), words(C));
        let low = (1_u32 << slot_bits(C)) - 1;
        // SAFETY: the caller vouches for AVX-512; masked loads stay within the `C` scores.
        unsafe {
            if C <= 8 {
                // Halves of registers: a whole one costs twice as much here and holds nothing more.
                let scores = _mm256_loadu_si256(bucket.as_ptr().add(C).cast());
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let high = _mm256_set1_epi32((!low).cast_signed());
                // (scores & high) | lanes
                let keyed = _mm256_ternarylogic_epi32::<0xF8>(lanes, scores, high);
                let some = u8::MAX >> 8_usize.saturating_sub(C);
                return least_of_eight(_mm256_mask_mov_epi32(_mm256_set1_epi32(-1), some, keyed))
                    & low as usize;
            }
            let ones = _mm512_set1_epi32(-1);
            let high = _mm512_set1_epi32((!low).cast_signed());
            let order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let mut least = ones;
            for start in (0..C).step_by(16) {
                let some = slots(start, C);
                let scores = _mm512_maskz_loadu_epi32(some, bucket.as_ptr().add(C + start).cast());
                let lanes = _mm512_add_epi32(order, _mm512_set1_epi32(if start == 0 { 0 } else { 16 }));
                // (scores & high) | lanes
                let keyed = _mm512_ternarylogic_epi32::<0xF8>(lanes, scores, high);
                least = _mm512_mask_min_epu32(least, some, least, keyed);
            }
            let upper = _mm512_extracti64x4_epi64::<1>(least);
            least_of_eight(_mm256_min_epu32(_mm512_castsi512_si256(least), upper)) & low as usize
        }
    }
}

/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn least_of_eight(x: __m256i) -> usize {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let four = _mm_min_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let two = _mm_min_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm_min_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
        _mm_cvtsi128_si32(one).cast_unsigned() as usize
    }
}

/// # Safety
/// AVX-512 is there, and every bucket of the block exists.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,fma")]
pub(super) unsafe fn insert<P: Admission, const C: usize>(
    lines: &mut [Line],
    block: &Block,
    weights: &[f32],
    terms: Terms,
) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { body::insert::<Avx512, P, C>(lines, block, weights, terms) }
}

/// # Safety
/// As [`insert`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,fma")]
pub(super) unsafe fn query<const C: usize>(lines: &[Line], block: &Block, out: &mut [u32]) {
    // SAFETY: the caller's promise.
    unsafe { body::query::<Avx512, C>(lines, block, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,fma")]
pub(super) fn place_block_u32(
    ids: &[u32],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u32(ids, seed, n, buckets, keys);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,fma")]
pub(super) fn place_block_u64(
    ids: &[u64],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u64(ids, seed, n, buckets, keys);
}
