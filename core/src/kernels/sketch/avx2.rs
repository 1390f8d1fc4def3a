//! Eight slots at a time. Loads of eight words from a multiple of eight below `C`, or from `C` on, end within the bucket for every
//! number of slots there is (`C` = 5: words 5..13 of 16; 10: 18..26 of 32; 21: 37..45 of 64).

use super::body::{self, Probe, slot_bits};
use super::{Admission, BLOCK, Block, Line, Terms, words};
use core::arch::x86_64::*;

struct Avx2;

/// Lane numbers of eight slots from `start` on, all ones where there is no slot.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "at most 24 slots")]
const fn lanes(start: usize, slots: usize) -> [u32; 8] {
    let mut lanes = [u32::MAX; 8];
    let mut i = 0;
    while i < 8 {
        if start + i < slots {
            lanes[i] = (start + i) as u32;
        }
        i += 1;
    }
    lanes
}

impl<const C: usize> Probe<C> for Avx2 {
    #[inline(always)]
    unsafe fn hits(bucket: &[u32], key: u32) -> u32 {
        debug_assert!(bucket.len() == words(C) && C.next_multiple_of(8) <= words(C));
        let mut mask = 0;
        // SAFETY: the caller vouches for AVX2; the words are within the bucket.
        unsafe {
            let key = _mm256_set1_epi32(key.cast_signed());
            for start in (0..C).step_by(8) {
                let keys = _mm256_loadu_si256(bucket.as_ptr().add(start).cast());
                let equal = _mm256_castsi256_ps(_mm256_cmpeq_epi32(keys, key));
                mask |= _mm256_movemask_ps(equal).cast_unsigned() << start;
            }
        }
        mask & (u32::MAX >> (32 - C))
    }

    #[inline(always)]
    unsafe fn least(bucket: &[u32]) -> usize {
        debug_assert!(bucket.len() == words(C) && C + C.next_multiple_of(8) <= words(C));
        let low = (1_u32 << slot_bits(C)) - 1;
        // SAFETY: the caller vouches for AVX2; the words are within the bucket.
        unsafe {
            let high = _mm256_set1_epi32((!low).cast_signed());
            let mut least = _mm256_set1_epi32(-1);
            for start in (0..C).step_by(8) {
                let scores = _mm256_loadu_si256(bucket.as_ptr().add(C + start).cast());
                let lanes = _mm256_loadu_si256(lanes(start, C).as_ptr().cast());
                least = _mm256_min_epu32(least, _mm256_or_si256(_mm256_and_si256(scores, high), lanes));
            }
            let four = _mm_min_epu32(_mm256_castsi256_si128(least), _mm256_extracti128_si256::<1>(least));
            let two = _mm_min_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let one = _mm_min_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
            (_mm_cvtsi128_si32(one).cast_unsigned() & low) as usize
        }
    }
}

/// # Safety
/// AVX2 is there, and every bucket of the block exists.
#[target_feature(enable = "avx2,bmi1,bmi2,fma")]
pub(super) unsafe fn insert<P: Admission, const C: usize>(
    lines: &mut [Line],
    block: &Block,
    weights: &[f32],
    terms: Terms,
) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { body::insert::<Avx2, P, C>(lines, block, weights, terms) }
}

/// # Safety
/// As [`insert`].
#[target_feature(enable = "avx2,bmi1,bmi2,fma")]
pub(super) unsafe fn query<const C: usize>(lines: &[Line], block: &Block, out: &mut [u32]) {
    // SAFETY: the caller's promise.
    unsafe { body::query::<Avx2, C>(lines, block, out) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,fma")]
pub(super) fn place_block_u32(
    ids: &[u32],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u32(ids, seed, n, buckets, keys);
}

#[target_feature(enable = "avx2,bmi1,bmi2,fma")]
pub(super) fn place_block_u64(
    ids: &[u64],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u64(ids, seed, n, buckets, keys);
}
