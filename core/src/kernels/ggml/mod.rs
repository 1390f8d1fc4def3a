//! llama.cpp's `q8_0` and `q4_0` blocks, the two formats that caches are converted to and from in bulk.
//!
//! Limit: dequantizing is bound by its stores, 128 bytes a block. Quantizing needs the block's maximum before its
//! first code; about 25 instructions a block at AVX-512, so 10 cycles for 128 bytes read.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use super::convert::scalar::{f16_narrow, f16_widen};
use crate::cpu::Level;

/// Elements that share a scale.
pub(crate) const BLOCK: usize = 32;
const Q8_0: usize = 34;
const Q4_0: usize = 18;

/// Codes of a scale that vanishes are those of zeros: `1/d`, or 0 where that is infinite.
#[inline(always)]
pub(crate) fn reciprocal(d: f32) -> f32 {
    let id = 1.0 / d;
    if id.is_finite() { id } else { 0.0 }
}

/// A code that is known to lie in `0..256`, truncated.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "codes are small and positive")]
pub(crate) fn low_byte(x: f32) -> u8 {
    x as u8
}

macro_rules! dispatch {
    ($($(#[$doc:meta])* $name:ident($src:ty, $dst:ty): $src_len:expr => $dst_len:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// If the two sides are not the same count of whole blocks.
        pub(crate) fn $name(level: Level, src: $src, dst: $dst) {
            assert!(src.len().is_multiple_of($src_len) && src.len() / $src_len * $dst_len == dst.len());
            match level {
                // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { avx512::$name(src, dst) },
                // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2::$name(src, dst) },
                _ => scalar::$name(src, dst),
            }
        }
    )*};
}

dispatch! {
    /// `d = max|x| / 127`, codes round half away from zero. The source is finite.
    quantize_q8_0(&[f32], &mut [u8]): BLOCK => Q8_0;
    /// `q*d`.
    dequantize_q8_0(&[u8], &mut [f32]): Q8_0 => BLOCK;
    /// `d = m / -8` with `m` the value of largest magnitude, codes truncate `x/d + 8.5`. The source is finite.
    quantize_q4_0(&[f32], &mut [u8]): BLOCK => Q4_0;
    /// `(q-8)*d`.
    dequantize_q4_0(&[u8], &mut [f32]): Q4_0 => BLOCK;
}
