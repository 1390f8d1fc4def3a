//! Portable kernels: masks bit by bit, and counts that the compiler vectorises.

use super::{
    BLOCK, Block, Cut, Found, Mass, Score, collect_blocks, count_blocks, emit_blocks, emit_within_blocks,
};

struct Scalar;

#[inline(always)]
fn mask<T: Copy>(x: &[T; BLOCK], is: impl Fn(T) -> bool) -> u64 {
    x.iter().rev().fold(0, |mask, &x| mask << 1 | u64::from(is(x)))
}

impl<T: Score> Block<T> for Scalar {
    #[inline(always)]
    fn above(x: &[T; BLOCK], t: T) -> u64 {
        mask(x, |x| x > t)
    }

    #[inline(always)]
    fn equal(x: &[T; BLOCK], t: T) -> u64 {
        mask(x, |x| x == t)
    }

    #[inline(always)]
    fn at_least(x: &[T; BLOCK], t: T) -> u64 {
        mask(x, |x| x >= t)
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
    fn count_above(x: &[T; BLOCK], t: T) -> usize {
        x.iter().fold(0_u16, |n, &x| n + u16::from(x > t)) as usize
    }
}

pub(super) fn count_above_u16(scores: &[u16], t: u16) -> usize {
    count_blocks::<u16, Scalar>(scores, t)
}

pub(super) fn count_above_f32(scores: &[f32], t: f32) -> usize {
    count_blocks::<f32, Scalar>(scores, t)
}

pub(super) fn collect_u16(scores: &[u16], range: [u16; 2], found: &mut Found, out: &mut [u16]) {
    collect_blocks::<u16, Scalar>(scores, range, found, out);
}

pub(super) fn collect_f32(scores: &[f32], range: [f32; 2], found: &mut Found, out: &mut [f32]) {
    collect_blocks::<f32, Scalar>(scores, range, found, out);
}

pub(super) fn emit_u16(scores: &[u16], cut: &mut Cut<u16>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<u16, Scalar>(scores, cut, first, out)
}

pub(super) fn emit_f32(scores: &[f32], cut: &mut Cut<f32>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<f32, Scalar>(scores, cut, first, out)
}

pub(super) fn emit_within(scores: &[u16], range: [u16; 2], out: &mut [u32]) -> Option<usize> {
    emit_within_blocks::<Scalar>(scores, range, out)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "products are between 0 and 2^30")]
pub(super) fn mass_above(weights: &[f32], t: f32, unit: f32) -> Mass {
    let (mut count, mut mass) = (0, 0);
    for &w in weights {
        count += usize::from(w > t);
        mass += u64::from(if w > t { (w * unit) as i32 as u32 } else { 0 });
    }
    Mass { count, mass }
}
