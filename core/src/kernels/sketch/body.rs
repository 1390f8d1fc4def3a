//! The loops that all levels share; [`Probe`] is what differs.

use core::hint::select_unpredictable as select;

use super::{Admission, BLOCK, Block, Line, Terms, mix32, place_u32, place_u64, renew, words};

/// How a level looks at a bucket.
pub(super) trait Probe<const C: usize> {
    /// Bit `s` is set if slot `s` has the key.
    ///
    /// # Safety
    /// The processor has the level's features.
    unsafe fn hits(bucket: &[u32], key: u32) -> u32;

    /// The slot with the least score, as `insert` defines it.
    ///
    /// # Safety
    /// As [`hits`](Self::hits).
    unsafe fn least(bucket: &[u32]) -> usize;
}

/// Lowest bits of a score that give way to its slot when the least is looked for.
pub(super) const fn slot_bits(slots: usize) -> u32 {
    if slots <= 8 { 3 } else { 5 }
}

/// # Safety
/// Every bucket of the block exists, and the processor has the level's features.
#[inline(always)]
pub(super) unsafe fn insert<Q: Probe<C>, P: Admission, const C: usize>(
    lines: &mut [Line],
    block: &Block,
    weights: &[f32],
    terms: Terms,
) -> u64 {
    let base = lines.as_mut_ptr().cast::<u32>();
    let threshold = terms.threshold.to_bits(); // numbers that are not negative compare as their bits do
    let mut uniforms = [0.0; BLOCK];
    for (i, u) in (0..).zip(&mut uniforms) {
        let random = mix32(terms.random.wrapping_add(i));
        // 24 bits, which are exact, as a signed number, which every level converts in one instruction.
        *u = (random >> 8).cast_signed() as f32 * (1.0 / (1_u32 << 24) as f32);
    }
    let mut waiting = 0;
    let n = weights.len().min(BLOCK);
    let weights = &weights[..n];
    for i in 0..n {
        let (place, key) = (block.buckets[i], block.keys[i]);
        debug_assert!((place as usize + 1) * words(C) <= lines.len() * 16);
        // SAFETY: the caller says that the bucket exists.
        let bucket =
            unsafe { core::slice::from_raw_parts_mut(base.add(place as usize * words(C)), words(C)) };
        if bucket[words(C) - 1] != terms.epoch {
            renew::<C>(bucket, terms.epoch);
        }
        let weight = weights[i] * terms.scale;
        // SAFETY: the caller vouches for the features.
        let (hits, least) = unsafe { (Q::hits(bucket, key), Q::least(bucket)) };
        let hit = hits != 0;
        let slot = select(hit, hits.trailing_zeros() as usize, least);
        debug_assert!(slot < C);
        // SAFETY: both ways of finding a slot give one below C, and a bucket has 3 C words and one more.
        unsafe {
            let (old, score) = (*bucket.get_unchecked(slot), *bucket.get_unchecked(C + slot));
            let cold = *bucket.get_unchecked(2 * C + slot) == 0;
            let (left, takes) = P::admit(f32::from_bits(score), weight, uniforms[i]);
            // Chosen as words: choices between numbers become branches, which nobody can predict here.
            let left = select(cold, left.to_bits(), score);
            let new = select(hit, (f32::from_bits(score) + weight).to_bits(), left);
            *bucket.get_unchecked_mut(C + slot) = new;
            *bucket.get_unchecked_mut(slot) = select(takes & cold & !hit, key, old);
            waiting |= u64::from(hit & cold & (new >= threshold)) << i;
        }
    }
    waiting
}

/// # Safety
/// As [`insert`].
#[inline(always)]
pub(super) unsafe fn query<Q: Probe<C>, const C: usize>(lines: &[Line], block: &Block, out: &mut [u32]) {
    let base = lines.as_ptr().cast::<u32>();
    for ((&place, &key), out) in block.buckets.iter().zip(&block.keys).zip(out) {
        // SAFETY: the caller says that the bucket exists.
        let bucket = unsafe { core::slice::from_raw_parts(base.add(place as usize * words(C)), words(C)) };
        // SAFETY: the caller vouches for the features.
        let hits = unsafe { Q::hits(bucket, key) };
        // At 2 C + C there is a word, too: no branch is needed.
        let row = bucket[2 * C + (hits | 1 << C).trailing_zeros() as usize];
        *out = select(hits == 0, u32::MAX, row.wrapping_sub(1));
    }
}

#[inline(always)]
pub(super) fn place_block_u32(
    ids: &[u32],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    for ((id, bucket), key) in ids.iter().zip(buckets).zip(keys) {
        (*bucket, *key) = place_u32(*id, seed, n);
    }
}

#[inline(always)]
pub(super) fn place_block_u64(
    ids: &[u64],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    for ((id, bucket), key) in ids.iter().zip(buckets).zip(keys) {
        (*bucket, *key) = place_u64(*id, seed, n);
    }
}
