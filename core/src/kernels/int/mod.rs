//! Asymmetric integer quantization of groups: ranges, parameters, codes and back.
//!
//! A tile of finite `f32` rows is looked at in the scaled domain `x * inv_factor`, where `inv_factor` is a power of
//! two that brings every magnitude below 2^15. There a group's `lo` is its minimum rounded down to f16, its `scale` is
//! `(hi - lo) / max` rounded up to f16, and
//!
//! ```text
//! code    = min((x * inv_factor - lo) * (1 / scale), max), rounded to nearest, ties to even
//! decoded = clamp((lo + code * scale) * factor)
//! ```
//!
//! Rounding outwards keeps all values between the first and the last level, so that no error exceeds half a step.
//! Groups run down the columns of some rows (`*_columns`) or along a row (`*_groups`, the last one may be short).
//!
//! Each step is an exact, or one correctly rounded, operation without FMA, so results are the same bits everywhere.
//! Limit: quantizing is three operations, a conversion and a narrowing store for 16 elements, 5 cycles on two vector
//! ports, or 3 elements a cycle: about 20 GB/s of f16 at 3 GHz; the tile passes through L2 four times, which is less.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Calls the kernel of one name at `level`.
macro_rules! dispatch {
    ($level:expr, $name:ident($($arg:expr),*)) => {
        match $level {
            // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::$name($($arg),*) },
            // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::$name($($arg),*) },
            _ => scalar::$name($($arg),*),
        }
    };
}

/// The largest magnitude of `x` as the bits of an `f32`; `0x7f80_0000` or more if there is a NaN or an infinity.
pub(crate) fn max_abs_bits(level: Level, x: &[f32]) -> u32 {
    dispatch!(level, max_abs_bits(x))
}

/// Minimum and maximum of each column of `x`, whose rows are as long as `lo` and `hi`. Without rows: infinities.
pub(crate) fn range_columns(level: Level, x: &[f32], lo: &mut [f32], hi: &mut [f32]) {
    assert!(lo.len() == hi.len() && !lo.is_empty() && x.len().is_multiple_of(lo.len()));
    dispatch!(level, range_columns(x, lo, hi));
}

/// Minimum and maximum of each group of `group` neighbours in rows of `d`: `d.div_ceil(group)` groups a row.
pub(crate) fn range_groups(level: Level, x: &[f32], d: usize, group: usize, lo: &mut [f32], hi: &mut [f32]) {
    assert!(lo.len() == hi.len() && lo.len() == n_groups(x.len(), d, group));
    dispatch!(level, range_groups(x, d, group, lo, hi));
}

/// Turns ranges into parameters: `lo` becomes the stored minimum in the scaled domain, `hi` the reciprocal of the
/// stored scale (0 for a scale of 0). `lo_f16` and `scale_f16` receive both as little-endian f16.
pub(crate) fn params(
    level: Level,
    inv_factor: f32,
    max: f32,
    lo: &mut [f32],
    hi: &mut [f32],
    lo_f16: &mut [u8],
    scale_f16: &mut [u8],
) {
    assert!(lo.len() == hi.len() && lo_f16.len() == 2 * lo.len() && scale_f16.len() == 2 * lo.len());
    dispatch!(level, params(inv_factor, max, lo, hi, lo_f16, scale_f16));
}

/// Codes of rows with parameters for each column.
pub(crate) fn quantize_columns(
    level: Level,
    x: &[f32],
    inv_factor: f32,
    lo: &[f32],
    inv: &[f32],
    max: f32,
    codes: &mut [u8],
) {
    assert!(lo.len() == inv.len() && !lo.is_empty() && x.len().is_multiple_of(lo.len()));
    assert_eq!(x.len(), codes.len());
    dispatch!(level, quantize_columns(x, inv_factor, lo, inv, max, codes));
}

/// Codes of rows of `d` with parameters for each group of `group` neighbours.
pub(crate) fn quantize_groups(
    level: Level,
    x: &[f32],
    (d, group): (usize, usize),
    inv_factor: f32,
    (lo, inv): (&[f32], &[f32]),
    max: f32,
    codes: &mut [u8],
) {
    assert!(lo.len() == inv.len() && lo.len() == n_groups(x.len(), d, group) && x.len() == codes.len());
    dispatch!(level, quantize_groups(x, (d, group), inv_factor, (lo, inv), max, codes));
}

/// Values of codes with parameters for each column.
pub(crate) fn dequantize_columns(
    level: Level,
    codes: &[u8],
    factor: f32,
    lo: &[f32],
    scale: &[f32],
    out: &mut [f32],
) {
    assert!(lo.len() == scale.len() && !lo.is_empty() && codes.len().is_multiple_of(lo.len()));
    assert_eq!(codes.len(), out.len());
    dispatch!(level, dequantize_columns(codes, factor, lo, scale, out));
}

/// Values of codes of rows of `d` with parameters for each group of `group` neighbours.
pub(crate) fn dequantize_groups(
    level: Level,
    codes: &[u8],
    (d, group): (usize, usize),
    factor: f32,
    (lo, scale): (&[f32], &[f32]),
    out: &mut [f32],
) {
    assert!(lo.len() == scale.len() && lo.len() == n_groups(codes.len(), d, group));
    assert_eq!(codes.len(), out.len());
    dispatch!(level, dequantize_groups(codes, (d, group), factor, (lo, scale), out));
}

/// Groups in `n` elements of rows of `d`.
fn n_groups(n: usize, d: usize, group: usize) -> usize {
    assert!(d != 0 && group != 0 && n.is_multiple_of(d));
    n / d * d.div_ceil(group)
}
