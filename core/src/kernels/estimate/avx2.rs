//! Products of 16-bit halves: the eight-bit multiply-add of AVX2 saturates.

use super::{LANES, QUAD};
use core::arch::x86_64::*;

/// Keys at work at once.
const KEYS: usize = 4;

#[target_feature(enable = "avx2")]
pub(super) fn greatest(queries: &[i8], keys: &[u8], limits: &[u32; LANES]) -> [i32; LANES] {
    let d = queries.len() / LANES;
    let mut most = [i32::MIN; LANES];
    for (half, most) in most.chunks_exact_mut(LANES / 2).enumerate() {
        let first = half * LANES / 2;
        // SAFETY: a half of `limits` is a vector long.
        let limits = unsafe { _mm256_loadu_si256(limits[first..first + LANES / 2].as_ptr().cast()) };
        let mut greatest = _mm256_set1_epi32(i32::MIN);
        let mut j = 0;
        let whole = keys.chunks_exact(KEYS * d);
        let rest = whole.remainder();
        for keys in whole {
            for sums in sums::<KEYS>(queries, first, keys, d) {
                greatest = greater(greatest, sums, j, limits);
                j += 1;
            }
        }
        for key in rest.chunks_exact(d) {
            let [sums] = sums::<1>(queries, first, key, d);
            greatest = greater(greatest, sums, j, limits);
            j += 1;
        }
        // SAFETY: `most` is a vector long.
        unsafe { _mm256_storeu_si256(most.as_mut_ptr().cast(), greatest) };
    }
    most
}

/// `limits` are below 2^31 (a block's keys), so that signed comparison will do.
#[inline]
#[target_feature(enable = "avx2")]
fn greater(most: __m256i, sums: __m256i, j: i32, limits: __m256i) -> __m256i {
    let seen = _mm256_cmpgt_epi32(limits, _mm256_set1_epi32(j));
    _mm256_blendv_epi8(most, _mm256_max_epi32(most, sums), seen)
}

/// The sums of `K` keys for the eight query rows from lane `first` on.
#[inline]
#[target_feature(enable = "avx2")]
fn sums<const K: usize>(queries: &[i8], first: usize, keys: &[u8], d: usize) -> [__m256i; K] {
    assert!(keys.len() == K * d && queries.len() == LANES * d && first <= LANES / 2);
    let mut sums = [_mm256_setzero_si256(); K];
    for c in 0..d / QUAD {
        // SAFETY: `c` is below the quads of the queries, and of each key; eight lanes from `first` are there.
        unsafe {
            let q = _mm256_loadu_si256(queries.as_ptr().add((c * LANES + first) * QUAD).cast());
            let (even, odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(q)), _mm256_srai_epi16::<8>(q));
            for (i, sum) in sums.iter_mut().enumerate() {
                let quad = keys.as_ptr().add(i * d + c * QUAD).cast::<i32>().read_unaligned();
                let k = _mm256_set1_epi32(quad);
                let low = _mm256_and_si256(k, _mm256_set1_epi16(0xff));
                let high = _mm256_srli_epi16::<8>(k);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(low, even));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(high, odd));
            }
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
pub(super) fn quantize(x: &[f32], mean: &[f32], codes: &mut [i8]) -> f32 {
    super::quantize_rows(x, mean, codes)
}
