//! The Walsh–Hadamard transform, natural (Sylvester) order, not normalised: stages `h = 1, 2, 4, ...`, each
//! replacing `(x[i], x[i+h])` by `(x[i] + x[i+h], x[i] - x[i+h])`. The order of the stages fixes every rounding, so
//! all levels give the same bits.

mod scalar;

use crate::cpu::Level;

/// Transforms each consecutive block of `size` elements of `x` in place.
///
/// # Panics
/// If `size` is not a power of two or does not divide `x.len()`.
pub(crate) fn hadamard(level: Level, x: &mut [f32], size: usize) {
    assert!(size.is_power_of_two() && x.len().is_multiple_of(size));
    let _ = level;
    for block in x.chunks_exact_mut(size) {
        scalar::hadamard(block);
    }
}
