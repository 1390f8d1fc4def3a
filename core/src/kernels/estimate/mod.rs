//! Eight-bit estimates of scores: the greatest of each block of keys for sixteen query rows at once.
//!
//! The query rows lie in the lanes, four coordinates to a lane; four coordinates of a key are broadcast. Key codes are
//! biased to unsigned bytes, so that one instruction multiplies and adds four pairs where VNNI is there. Sums are exact
//! integers: every level gives the same.
//!
//! **Limit.** `d / 4` of these instructions a key for sixteen query rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Query rows.
pub(crate) const LANES: usize = 16;

/// Coordinates of a lane.
pub(crate) const QUAD: usize = 4;

/// What a key's codes are raised by.
pub(crate) const BIAS: u8 = 128;

/// For each lane the greatest `sum_c keys[j][c] * queries[c][lane]` over the keys `j < limits[lane]`; `i32::MIN` where there is
/// none. `keys` is `[n][d]`, `queries` `[d / 4][LANES][4]`, `d` a multiple of 4 up to 1024.
pub(crate) fn greatest(level: Level, queries: &[i8], keys: &[u8], limits: &[u32; LANES]) -> [i32; LANES] {
    let d = queries.len() / LANES;
    assert!(queries.len().is_multiple_of(LANES * QUAD) && d > 0 && d <= 1024 && keys.len().is_multiple_of(d));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::greatest(queries, keys, limits) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::greatest(queries, keys, limits) },
        _ => scalar::greatest(queries, keys, limits),
    }
}

/// Codes of `(x - mean) / step` in `codes`, where `step`, which is returned, is a 127th of the greatest magnitude; ties to
/// even. Numbers that are not finite count as zero. `x` and `codes` are `[n][mean.len()]`.
pub(crate) fn quantize(level: Level, x: &[f32], mean: &[f32], codes: &mut [i8]) -> f32 {
    assert!(x.len() == codes.len() && x.len().is_multiple_of(mean.len().max(1)));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::quantize(x, mean, codes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::quantize(x, mean, codes) },
        _ => scalar::quantize(x, mean, codes),
    }
}

/// Added to a number of magnitude below 2^22 and taken away again, it leaves the nearest integer, ties to even.
const MAGIC: f32 = 12_582_912.0;

/// The loops, which the compiler makes vectors of at each level.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "whole numbers from -127 to 127")]
fn quantize_rows(x: &[f32], mean: &[f32], codes: &mut [i8]) -> f32 {
    let d = mean.len();
    let centred = |x: f32, mean: f32| {
        let x = x - mean;
        if x.abs() < f32::INFINITY { x } else { 0.0 }
    };
    let mut most = [0.0_f32; LANES];
    for x in x.chunks_exact(d.max(1)) {
        for (x, mean) in x.chunks(LANES).zip(mean.chunks(LANES)) {
            for ((most, x), mean) in most.iter_mut().zip(x).zip(mean) {
                let size = centred(*x, *mean).abs();
                *most = if size > *most { size } else { *most };
            }
        }
    }
    let step = most.into_iter().fold(0.0, f32::max) / 127.0;
    // A step that cannot be divided by has no codes but zero.
    let inverse = if step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
    for (x, codes) in x.chunks_exact(d.max(1)).zip(codes.chunks_exact_mut(d.max(1))) {
        for ((x, mean), code) in x.iter().zip(mean).zip(codes) {
            *code = (centred(*x, *mean) * inverse + MAGIC - MAGIC) as i8;
        }
    }
    if inverse == 0.0 { 0.0 } else { step }
}
