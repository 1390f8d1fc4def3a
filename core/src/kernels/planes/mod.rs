//! Byte planes: all first bytes of an array's elements, then all second bytes, and so on; and what is typical of a
//! plane's columns. Moves and integers, so every level gives the same bytes.
//!
//! Limit: a load and a store for each vector, as copying. Splitting and merging add one permutation a vector
//! (`VPERMI2B`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Splits `src` into the `N` planes of its `N`-byte elements; plane 0 holds the lowest bytes.
///
/// # Panics
/// If a plane is not exactly `src.len() / N` long.
pub(crate) fn split<const N: usize>(level: Level, src: &[u8], planes: [&mut [u8]; N]) {
    assert!(planes.iter().all(|p| p.len() * N == src.len()));
    match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::split(src, planes) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::split(src, planes) },
        _ => scalar::split(src, planes),
    }
}

/// The reverse of [`split`].
///
/// # Panics
/// If a plane is not exactly `dst.len() / N` long.
pub(crate) fn merge<const N: usize>(level: Level, planes: [&[u8]; N], dst: &mut [u8]) {
    assert!(planes.iter().all(|p| p.len() * N == dst.len()));
    match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::merge(planes, dst) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::merge(planes, dst) },
        _ => scalar::merge(planes, dst),
    }
}

/// The typical byte of each column of `[n][bases.len()]` bytes: the sign bit that most rows have, over the mean of the
/// other seven bits.
///
/// # Panics
/// If `plane` is not whole rows.
pub(crate) fn column_bases(level: Level, plane: &[u8], bases: &mut [u8]) {
    assert!(plane.len().is_multiple_of(bases.len()));
    match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::column_bases(plane, bases) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::column_bases(plane, bases) },
        _ => scalar::column_bases(plane, bases),
    }
}

/// Subtracts from every byte of `[n][bases.len()]` its column's base, modulo 256. A plain loop: every compiler
/// vectorises it for the baseline, and it runs at the speed of the first-level cache.
pub(crate) fn subtract_columns(plane: &mut [u8], bases: &[u8]) {
    for row in plane.chunks_exact_mut(bases.len()) {
        row.iter_mut().zip(bases).for_each(|(b, base)| *b = b.wrapping_sub(*base));
    }
}

/// Undoes [`subtract_columns`].
pub(crate) fn add_columns(plane: &mut [u8], bases: &[u8]) {
    for row in plane.chunks_exact_mut(bases.len()) {
        row.iter_mut().zip(bases).for_each(|(b, base)| *b = b.wrapping_add(*base));
    }
}
