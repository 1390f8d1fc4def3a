//! `VPDPBUSD`: sixteen lanes of four products each.

use super::{LANES, QUAD};
use core::arch::x86_64::*;

/// Keys at work at once: as many independent sums as the instruction's latency asks for.
const KEYS: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn greatest(queries: &[i8], keys: &[u8], limits: &[u32; LANES]) -> [i32; LANES] {
    let d = queries.len() / LANES;
    // SAFETY: `limits` is a vector long.
    let limits = unsafe { _mm512_loadu_si512(limits.as_ptr().cast()) };
    let mut most = _mm512_set1_epi32(i32::MIN);
    let mut j = 0;
    let whole = keys.chunks_exact(KEYS * d);
    let rest = whole.remainder();
    for keys in whole {
        for sums in sums::<KEYS>(queries, keys, d) {
            most = greater(most, sums, j, limits);
            j += 1;
        }
    }
    for key in rest.chunks_exact(d) {
        let [sums] = sums::<1>(queries, key, d);
        most = greater(most, sums, j, limits);
        j += 1;
    }
    let mut out = [0; LANES];
    // SAFETY: `out` is a vector long.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), most) };
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn greater(most: __m512i, sums: __m512i, j: i32, limits: __m512i) -> __m512i {
    let seen = _mm512_cmplt_epu32_mask(_mm512_set1_epi32(j), limits);
    _mm512_mask_max_epi32(most, seen, most, sums)
}

/// The sums of `K` keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums<const K: usize>(queries: &[i8], keys: &[u8], d: usize) -> [__m512i; K] {
    assert!(keys.len() == K * d && queries.len() == LANES * d);
    let mut sums = [_mm512_setzero_si512(); K];
    for c in 0..d / QUAD {
        // SAFETY: `c` is below the quads of the queries, and of each key.
        unsafe {
            let q = _mm512_loadu_si512(queries.as_ptr().add(c * LANES * QUAD).cast());
            for (i, sum) in sums.iter_mut().enumerate() {
                let quad = keys.as_ptr().add(i * d + c * QUAD).cast::<i32>().read_unaligned();
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(quad), q);
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize(x: &[f32], mean: &[f32], codes: &mut [i8]) -> f32 {
    super::quantize_rows(x, mean, codes)
}
