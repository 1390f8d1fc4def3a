//! The Walsh–Hadamard transform, natural (Sylvester) order, not normalised: stages `h = 1, 2, 4, ...`, each
//! replacing `(x[i], x[i+h])` by `(x[i] + x[i+h], x[i] - x[i+h])`. The order of the stages fixes every rounding, so
//! all levels give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use crate::kernels::lanes::{self, LANES, Lanes};
use core::ops::Range;

/// The longest row that is rotated.
pub(crate) const MAX_DIM: usize = 1024;

/// The windows that a row is transformed in: `[0, p)` with `p` the largest power of two not above `head_dim`, and
/// `[d-p, d)` unless `d` is a power of two.
pub(crate) fn windows(head_dim: usize) -> (Range<usize>, Option<Range<usize>>) {
    let p = 1 << head_dim.ilog2();
    (0..p, (p < head_dim).then(|| head_dim - p..head_dim))
}

/// `1/sqrt(p)`, rounded once.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "p is a small power of two")]
pub(crate) fn inverse_root(p: usize) -> f32 {
    (1.0 / libm::sqrt(p as f64)) as f32
}

/// Transforms each consecutive block of `size` elements of `x` in place.
///
/// # Panics
/// If `size` is not a power of two or does not divide `x.len()`.
pub(crate) fn hadamard(level: Level, x: &mut [f32], size: usize) {
    assert!(size.is_power_of_two() && x.len().is_multiple_of(size));
    match level {
        // SAFETY: the level exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::hadamard(x, size) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::hadamard(x, size) },
        _ => scalar::hadamard(x, size),
    }
}

/// Rotates rows of `signs.len()` elements in place: signs, transform and scale in one pass through the registers for
/// rows of 16 to 256 elements. The signs (`0x8000_0000` or 0) come before the transform, or after it if `inverse`.
///
/// # Panics
/// If the length of `signs` is not a power of two or does not divide `x.len()`.
pub(crate) fn rotate(level: Level, x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    assert!(signs.len().is_power_of_two() && x.len().is_multiple_of(signs.len()));
    match level {
        // SAFETY: the level exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::rotate(x, signs, scale, inverse) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::rotate(x, signs, scale, inverse) },
        _ => scalar::rotate(x, signs, scale, inverse),
    }
}

#[inline(always)]
fn rotate_rows<V: Lanes>(x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    match signs.len() {
        16 => rotate_in_registers::<V, 1>(x, signs, scale, inverse),
        32 => rotate_in_registers::<V, 2>(x, signs, scale, inverse),
        64 => rotate_in_registers::<V, 4>(x, signs, scale, inverse),
        128 => rotate_in_registers::<V, 8>(x, signs, scale, inverse),
        256 => rotate_in_registers::<V, 16>(x, signs, scale, inverse),
        n => {
            let flip = |x: &mut f32, sign: &u32| *x = f32::from_bits(x.to_bits() ^ sign);
            for row in x.chunks_exact_mut(n) {
                if !inverse {
                    row.iter_mut().zip(signs).for_each(|(x, s)| flip(x, s));
                }
                block::<V>(row);
                row.iter_mut().for_each(|x| *x *= scale);
                if inverse {
                    row.iter_mut().zip(signs).for_each(|(x, s)| flip(x, s));
                }
            }
        }
    }
}

/// Rows of exactly `16 * N` elements.
#[inline(always)]
fn rotate_in_registers<V: Lanes, const N: usize>(x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    let (signs, scale) = (signs.as_chunks::<LANES>().0, V::splat(scale));
    for row in x.as_chunks_mut::<LANES>().0.chunks_exact_mut(N) {
        let mut z = [V::splat(0.0); N];
        for ((z, x), signs) in z.iter_mut().zip(&*row).zip(signs) {
            *z = V::load(x);
            if !inverse {
                *z = z.flip(signs);
            }
        }
        lanes::hadamard(&mut z);
        for ((z, x), signs) in z.iter().zip(row).zip(signs) {
            let z = z.mul(scale);
            if inverse { z.flip(signs) } else { z }.store(x);
        }
    }
}

/// One block of a power of two elements in memory: up to 256 of them go through registers at once, the later stages
/// through the first-level cache.
#[inline(always)]
pub(crate) fn block<V: Lanes>(x: &mut [f32]) {
    match x.len() {
        0..16 => short(x),
        16 => in_registers::<V, 1>(x),
        32 => in_registers::<V, 2>(x),
        64 => in_registers::<V, 4>(x),
        128 => in_registers::<V, 8>(x),
        _ => x.chunks_exact_mut(16 * LANES).for_each(in_registers::<V, 16>),
    }
    let mut h = 16 * LANES;
    while h < x.len() {
        for pair in x.chunks_exact_mut(2 * h) {
            let (low, high) = pair.split_at_mut(h);
            for (a, b) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                let (x, y) = (V::load(a), V::load(b));
                x.add(y).store(a);
                x.sub(y).store(b);
            }
        }
        h *= 2;
    }
}

/// Exactly `16 * N` elements.
#[inline(always)]
fn in_registers<V: Lanes, const N: usize>(x: &mut [f32]) {
    let mut z = [V::splat(0.0); N];
    let (chunks, _) = x.as_chunks_mut();
    for (z, x) in z.iter_mut().zip(chunks.iter()) {
        *z = V::load(x);
    }
    lanes::hadamard(&mut z);
    for (z, x) in z.iter().zip(chunks) {
        z.store(x);
    }
}

/// Fewer elements than a register has lanes.
fn short(x: &mut [f32]) {
    let mut h = 1;
    while h < x.len() {
        for pair in x.chunks_exact_mut(2 * h) {
            let (low, high) = pair.split_at_mut(h);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        h *= 2;
    }
}
