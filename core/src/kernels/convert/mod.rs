//! Elements to `f32` and back: exact widening; narrowing to nearest even with saturation. NaN and infinities are
//! treated as `num::convert` documents, the same at every level.
//!
//! Limit: stores. Widening writes one 64-byte vector a cycle at AVX-512, four bytes an element.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// One function of each name for every conversion: checks the lengths, then enters the level's twin.
macro_rules! dispatch {
    ($($(#[$doc:meta])* $name:ident($src:ty, $dst:ty): $src_bytes:literal to $dst_bytes:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// If the two sides differ in elements.
        pub(crate) fn $name(level: Level, src: $src, dst: $dst) {
            assert_eq!(size_of_val(&*src) * $dst_bytes, size_of_val(&*dst) * $src_bytes);
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
    /// Widens f16.
    f16_to_f32(&[u8], &mut [f32]): 2 to 4;
    /// Narrows to f16.
    f16_from_f32(&[f32], &mut [u8]): 4 to 2;
    /// Widens bf16.
    bf16_to_f32(&[u8], &mut [f32]): 2 to 4;
    /// Narrows to bf16.
    bf16_from_f32(&[f32], &mut [u8]): 4 to 2;
    /// Widens e4m3.
    f8_e4m3_to_f32(&[u8], &mut [f32]): 1 to 4;
    /// Narrows to e4m3.
    f8_e4m3_from_f32(&[f32], &mut [u8]): 4 to 1;
    /// Widens e5m2.
    f8_e5m2_to_f32(&[u8], &mut [f32]): 1 to 4;
    /// Narrows to e5m2.
    f8_e5m2_from_f32(&[f32], &mut [u8]): 4 to 1;
}

/// The first NaN or infinity.
pub(crate) fn first_non_finite(level: Level, x: &[f32]) -> Option<usize> {
    // Blocks without an early exit inside keep the search at the speed of loading.
    const BLOCK: usize = 256;
    let spoiled = x.chunks(BLOCK).position(|block| match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::any_non_finite(block) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::any_non_finite(block) },
        _ => scalar::any_non_finite(block),
    })?;
    let start = spoiled * BLOCK;
    x[start..].iter().position(|v| !v.is_finite()).map(|i| start + i)
}
