//! Byte planes: all first bytes of an array's elements, then all second bytes, and so on; and the transpose of byte
//! matrices. Pure moves, so every level gives the same bytes.
//!
//! Limit: a load and a store for each vector, as copying. Splitting and merging add one permutation a vector
//! (`VPERMI2B`), the transpose four unpacking steps and a 16-byte store for each 16 bytes.

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

/// Turns the matrix `src` of `[src.len() / width][width]` bytes into `[width][src.len() / width]`.
///
/// # Panics
/// If `src` is not whole rows or `dst` has another length.
pub(crate) fn transpose(level: Level, src: &[u8], width: usize, dst: &mut [u8]) {
    assert!(src.len() == dst.len());
    if src.is_empty() {
        return;
    }
    assert!(src.len().is_multiple_of(width));
    match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::transpose(src, width, dst) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::transpose(src, width, dst) },
        _ => scalar::transpose(src, width, dst, 0..src.len() / width, 0..width),
    }
}
