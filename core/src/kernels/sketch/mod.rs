//! Buckets of the hot-id sketch: where an id belongs, insertion and lookup of a block of ids.
//!
//! A bucket of `C` slots is one, two or four cache lines of words: `C` keys, `C` scores (bits of non-negative `f32`), `C` rows
//! (row + 1, 0 for none), and in its last word the epoch its scores are in. An empty slot has score 0, which makes it the least of
//! its bucket, and any newcomer is let in over a score of 0: nothing treats it specially.
//!
//! All levels give the same buckets: keys are compared, scores are compared as integers, and all arithmetic is scalar.
//!
//! **Limit.** One line a bucket from the second-level cache (5 slots, 16 thousand rows) and about 30 operations an id. What
//! costs is branches that cannot be predicted, so hit and miss take the same way: both slots are found, one is chosen.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod body;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use crate::num::hash::mix64;

/// Ids that one call of a kernel takes at most.
pub(crate) const BLOCK: usize = 64;

/// How many halvings of a score one epoch stands for.
pub(crate) const EPOCH_BITS: u32 = 16;

/// Words of a cache line.
const WORDS: usize = 16;

/// What decides whether an id that no slot of its bucket holds may take the slot with the least score.
///
/// It is asked only about slots of ids without rows: a hot id is never displaced, it loses its row to the threshold first.
///
/// [`SpaceSaving`](crate::sketch::SpaceSaving), [`Randomised`](crate::sketch::Randomised) and
/// [`Decaying`](crate::sketch::Decaying) are such policies.
pub trait Admission {
    /// The score that the slot has afterwards, and whether the newcomer takes it.
    ///
    /// `least` is the slot's score (0 if it is empty), `weight` the newcomer's weight, both in the same unit; `uniform` is a
    /// random number in `[0, 1)`. The result must not be negative or NaN.
    fn admit(least: f32, weight: f32, uniform: f32) -> (f32, bool);
}

/// A cache line of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line([u32; WORDS]);

// SAFETY: sixteen words are 64 bytes, the alignment: there is no padding, and every bit pattern is one.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

impl Line {
    pub(crate) const EMPTY: Self = Self([0; WORDS]);
}

/// Lines of a bucket of `slots` slots.
pub(crate) const fn lines(slots: usize) -> usize {
    (3 * slots + 1).div_ceil(WORDS)
}

/// Words of a bucket of `slots` slots.
pub(crate) const fn words(slots: usize) -> usize {
    lines(slots) * WORDS
}

/// Ids as the kernels take them.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) n: usize,
    pub(crate) buckets: [u32; BLOCK],
    pub(crate) keys: [u32; BLOCK],
}

impl Block {
    pub(crate) const fn new() -> Self {
        Self { n: 0, buckets: [0; BLOCK], keys: [0; BLOCK] }
    }
}

/// What is the same for all ids of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// What a weight of 1 is worth now.
    pub(crate) scale: f32,
    /// Score from which an id waits for a row.
    pub(crate) threshold: f32,
    pub(crate) epoch: u32,
    /// Place of the block's first id in the stream, mixed with the seed: its random number.
    pub(crate) random: u32,
}

/// Places of the bits that are set, rising.
pub(crate) fn ones(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let place = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        place
    })
}

/// A bijection of 32-bit integers that moves every bit (Wellons' `lowbias32`).
const fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// The bucket below `n` of 32 hashed bits.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a product of n and a number below 2^32, shifted by 32, is below n"
)]
const fn reduce(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

/// The bucket and the key of an id: of 32 bits, itself.
#[allow(clippy::cast_possible_truncation, reason = "half of the seed does")]
pub(crate) const fn place_u32(id: u32, seed: u64, n: u32) -> (u32, u32) {
    (reduce(mix32(id ^ seed as u32), n), id)
}

/// The bucket and the key of an id: two halves of its 64 mixed bits.
#[allow(clippy::cast_possible_truncation, reason = "halves are meant")]
pub(crate) const fn place_u64(id: u64, seed: u64, n: u32) -> (u32, u32) {
    let hash = mix64(id ^ seed);
    (reduce((hash >> 32) as u32, n), hash as u32)
}

/// Places up to [`BLOCK`] ids among `n` buckets.
pub(crate) fn place_block_u32(
    level: Level,
    ids: &[u32],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    assert!(ids.len() <= BLOCK);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::place_block_u32(ids, seed, n, buckets, keys) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::place_block_u32(ids, seed, n, buckets, keys) },
        _ => scalar::place_block_u32(ids, seed, n, buckets, keys),
    }
}

/// Places up to [`BLOCK`] ids among `n` buckets.
pub(crate) fn place_block_u64(
    level: Level,
    ids: &[u64],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    assert!(ids.len() <= BLOCK);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::place_block_u64(ids, seed, n, buckets, keys) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::place_block_u64(ids, seed, n, buckets, keys) },
        _ => scalar::place_block_u64(ids, seed, n, buckets, keys),
    }
}

/// Asks for the buckets of a block ahead of their use.
pub(crate) fn prefetch<const C: usize>(lines: &[Line], block: &Block) {
    check::<C>(lines, block);
    #[cfg(target_arch = "x86_64")]
    for &bucket in &block.buckets[..block.n] {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = lines.as_ptr().wrapping_add(bucket as usize * self::lines(C));
        for line in 0..self::lines(C) {
            // SAFETY: a prefetch touches no memory, whatever the address (SSE is part of x86-64).
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line).cast()) };
        }
    }
}

/// Adds the weights of a block's ids to their slots, in order. Returned is a mask of the places of ids that were hit, have the
/// threshold's score, and no row.
///
/// A hit adds to its slot. Otherwise [`Admission`] decides about the slot with the least score (its bits but the lowest 3,
/// or 5 of more than eight slots; the first of equals), unless it is hot.
#[must_use]
pub(crate) fn insert<P: Admission, const C: usize>(
    level: Level,
    lines: &mut [Line],
    block: &Block,
    weights: &[f32],
    terms: Terms,
) -> u64 {
    check::<C>(lines, block);
    assert_eq!(weights.len(), block.n);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables; the buckets exist.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::insert::<P, C>(lines, block, weights, terms) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::insert::<P, C>(lines, block, weights, terms) },
        // SAFETY: the buckets exist.
        _ => unsafe { scalar::insert::<P, C>(lines, block, weights, terms) },
    }
}

/// The row of each id of a block, `u32::MAX` where it has none.
pub(crate) fn query<const C: usize>(level: Level, lines: &[Line], block: &Block, out: &mut [u32]) {
    check::<C>(lines, block);
    assert_eq!(out.len(), block.n);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables; the buckets exist.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::query::<C>(lines, block, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::query::<C>(lines, block, out) },
        // SAFETY: the buckets exist.
        _ => unsafe { scalar::query::<C>(lines, block, out) },
    }
}

/// What makes unchecked access sound: every bucket of the block exists.
fn check<const C: usize>(lines: &[Line], block: &Block) {
    const { assert!(C > 0 && C <= 24) };
    let n = lines.len() / self::lines(C);
    let (buckets, _) = block.buckets.split_at(block.n);
    assert!(buckets.iter().fold(true, |all, b| all & ((*b as usize) < n)), "no such bucket");
}

/// Brings the scores of a bucket into the present epoch.
pub(crate) fn renew<const C: usize>(words: &mut [u32], epoch: u32) {
    let age = epoch.wrapping_sub(words[words.len() - 1]);
    // 2^-160 makes 0 of every f32.
    let factor = (0..age.min(10)).fold(1.0_f32, |f, _| f * (1.0 / (1_u32 << EPOCH_BITS) as f32));
    for score in &mut words[C..2 * C] {
        *score = (f32::from_bits(*score) * factor).to_bits();
    }
    words[self::words(C) - 1] = epoch;
}
