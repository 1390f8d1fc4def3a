//! Portable twins.

use super::body::{self, Probe, slot_bits};
use super::{Admission, BLOCK, Block, Line, Terms};

struct Scalar;

impl<const C: usize> Probe<C> for Scalar {
    #[inline(always)]
    unsafe fn hits(bucket: &[u32], key: u32) -> u32 {
        bucket[..C].iter().enumerate().fold(0, |mask, (s, k)| mask | u32::from(*k == key) << s)
    }

    #[inline(always)]
    unsafe fn least(bucket: &[u32]) -> usize {
        let low = (1_u32 << slot_bits(C)) - 1;
        let least = bucket[C..2 * C].iter().zip(0_u32..).fold(u32::MAX, |m, (b, s)| m.min(b & !low | s));
        (least & low) as usize
    }
}

pub(super) unsafe fn insert<P: Admission, const C: usize>(
    lines: &mut [Line],
    block: &Block,
    weights: &[f32],
    terms: Terms,
) -> u64 {
    // SAFETY: this level needs no features; the caller says that the buckets exist.
    unsafe { body::insert::<Scalar, P, C>(lines, block, weights, terms) }
}

pub(super) unsafe fn query<const C: usize>(lines: &[Line], block: &Block, out: &mut [u32]) {
    // SAFETY: as above.
    unsafe { body::query::<Scalar, C>(lines, block, out) }
}

pub(super) fn place_block_u32(
    ids: &[u32],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u32(ids, seed, n, buckets, keys);
}

pub(super) fn place_block_u64(
    ids: &[u64],
    seed: u64,
    n: u32,
    buckets: &mut [u32; BLOCK],
    keys: &mut [u32; BLOCK],
) {
    body::place_block_u64(ids, seed, n, buckets, keys);
}
