//! Rows to codes of a rotated Lloyd–Max grid and back, fused: widen, subtract the mean, flip signs, transform,
//! measure, quantize and pack without leaving the registers (`d` = 64, 128, 256) or the first-level cache (others).
//!
//! [`row`] holds the algorithm, written once over [`Lanes`](crate::kernels::lanes::Lanes); a level supplies the two
//! steps that depend on its shuffles: [`Coder::quantize`] and [`Coder::dequantize`]. All levels give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod quantizer;
mod row;
mod scalar;
#[cfg(test)]
mod tests;

pub(crate) use quantizer::Quantizer;

use crate::cpu::Level;
use crate::kernels::hadamard::MAX_DIM;
use crate::kernels::lanes::Lanes;

/// Storage that the kernels read and write themselves; other types go through `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// The machine's own byte order.
    F32,
    F16,
    Bf16,
}

/// How the factor that a row is decoded with comes from the row. `y` is the rotated row, `c` the levels of its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// `|y| / sqrt(d)`: the grid's own unit.
    Norm,
    /// `<y, y> / <y, c>`.
    Unbiased,
    /// `<y, c> / <c, c>`.
    LeastSquares,
}

/// What all rows of a tile share.
pub(crate) struct Shape<'a> {
    /// Elements of a row, 1 to `MAX_DIM`.
    pub(crate) head_dim: usize,
    /// XORed into the elements; zeros from `head_dim` on.
    pub(crate) signs: &'a [u32; MAX_DIM],
    /// Subtracted before and added after; zeros from `head_dim` on, as long as `head_dim` rounded up to 16.
    pub(crate) mean: Option<&'a [f32]>,
    pub(crate) quantizer: &'a Quantizer,
}

/// The steps of a row that each level writes for itself.
pub(crate) trait Coder: Lanes {
    /// Packs the codes of `z * k` to the start of `out`, which holds at least the row's bytes; what follows them
    /// in `out` may be overwritten.
    fn quantize(z: &[Self], k: f32, quantizer: &Quantizer, out: &mut [u8]);
    /// The levels of the packed codes at the start of `packed`, which holds at least the row's bytes.
    fn dequantize(packed: &[u8], quantizer: &Quantizer, z: &mut [Self]);
}

/// Encodes `scales.len()` rows of `src` side by side into `codes`, and the factor of each into `scales`.
///
/// # Errors
/// The first row that holds a NaN or an infinity, or leaves `f32`'s range when the mean is subtracted.
///
/// # Panics
/// If the lengths of `src`, `codes`, `scales` do not belong together.
pub(crate) fn encode(
    level: Level,
    shape: &Shape<'_>,
    plain: Plain,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    match level {
        // SAFETY: the level exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::encode(shape, plain, fit, src, scales, codes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::encode(shape, plain, fit, src, scales, codes) },
        _ => scalar::encode(shape, plain, fit, src, scales, codes),
    }
}

/// Decodes `scales.len()` rows of `codes` into `out`. Values saturate at the type's largest finite one.
///
/// # Panics
/// If the lengths of `out`, `codes`, `scales` do not belong together.
pub(crate) fn decode(
    level: Level,
    shape: &Shape<'_>,
    plain: Plain,
    scales: &[f32],
    codes: &[u8],
    out: &mut [u8],
) {
    match level {
        // SAFETY: the level exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::decode(shape, plain, scales, codes, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::decode(shape, plain, scales, codes, out) },
        _ => scalar::decode(shape, plain, scales, codes, out),
    }
}

/// Adds `share` times each row of `rows` to `sums`, row after row; `sums` is as long as a row rounded up to 16.
///
/// # Panics
/// If `sums` is shorter.
pub(crate) fn add_rows(
    level: Level,
    head_dim: usize,
    plain: Plain,
    rows: &[u8],
    share: f32,
    sums: &mut [f32],
) {
    match level {
        // SAFETY: the level exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::add_rows(head_dim, plain, rows, share, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::add_rows(head_dim, plain, rows, share, sums) },
        _ => scalar::add_rows(head_dim, plain, rows, share, sums),
    }
}
