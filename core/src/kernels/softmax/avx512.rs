//! One 512-bit register.

use super::coarse::{CoarseHead, LINEAR, SQUARE, TOP};
use super::{Head, How, Powers, add_to, counted, greatest_of, sum_of};
use crate::kernels::lanes::LANES;
use crate::kernels::lanes::avx512::Avx512;
use core::arch::x86_64::*;

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw AVX-512 (see
// `kernels::lanes`), and each pointer comes from an array of exactly the length accessed.
impl Powers for Avx512 {
    #[inline(always)]
    fn from_u16(x: &[u16; LANES]) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast())))) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn raise(self, power: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let p = _mm512_slli_epi32::<23>(_mm512_castps_si512(power.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), p)))
        }
    }

    /// In integers, of which this processor does more at once: multiples of 2^-14, and of 2^-30 within one.
    #[inline(always)]
    fn tally([high, low]: [Self; 2], power: Self) -> [Self; 2] {
        // SAFETY: see above. The conversion rounds to nearest, as sums of floats do; the lanes hold integers.
        unsafe {
            let x = _mm512_cvtps_epi32(_mm512_mul_ps(power.0, _mm512_set1_ps(1_073_741_824.0)));
            let high = _mm512_add_epi32(_mm512_castps_si512(high.0), _mm512_srli_epi32::<16>(x));
            let rest = _mm512_and_si512(x, _mm512_set1_epi32(0xffff));
            let low = _mm512_add_epi32(_mm512_castps_si512(low.0), rest);
            [Self(_mm512_castsi512_ps(high)), Self(_mm512_castsi512_ps(low))]
        }
    }

    #[inline(always)]
    fn tallied([high, low]: [Self; 2]) -> f64 {
        // SAFETY: see above. At most 64 times 2^14 and 2^16 in each of 16 lanes.
        unsafe {
            let high = _mm512_reduce_add_epi32(_mm512_castps_si512(high.0));
            let low = _mm512_reduce_add_epi32(_mm512_castps_si512(low.0));
            (f64::from(high) * 65536.0 + f64::from(low)) / 1_073_741_824.0
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn greatest_u16(scores: &[u16]) -> f32 {
    greatest_of::<u16, Avx512>(scores)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn greatest_f32(scores: &[f32]) -> f32 {
    greatest_of::<f32, Avx512>(scores)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn sum_u16(scores: &[u16], head: Head) -> f64 {
    sum_of::<u16, Avx512>(scores, head)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn sum_f32(scores: &[f32], head: Head) -> f64 {
    sum_of::<f32, Avx512>(scores, head)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn add_u16(scores: &[u16], head: Head, how: How, out: &mut [f32]) {
    add_to::<u16, Avx512>(scores, head, how, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn add_f32(scores: &[f32], head: Head, how: How, out: &mut [f32]) {
    add_to::<f32, Avx512>(scores, head, how, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn sum_counted(powers: &[f32], counts: &[u32]) -> f64 {
    counted(powers, counts)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn coarse_sums(scores: &[u16], heads: &[CoarseHead], out: &mut [u16]) {
    let n = out.len();
    let (tiles, _) = out.as_chunks_mut::<{ 2 * WORDS }>();
    for (tile, out) in tiles.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_si512(); 2];
        for (head, scores) in heads.iter().zip(scores.chunks_exact(n)) {
            let scores = &scores[tile * 2 * WORDS..][..2 * WORDS].as_chunks::<WORDS>().0;
            for (sum, x) in sums.iter_mut().zip(scores.iter()) {
                // SAFETY: `x` is one vector long.
                let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
                *sum = _mm512_adds_epu16(*sum, coarse_weight(*head, x));
            }
        }
        for (out, sum) in out.as_chunks_mut::<WORDS>().0.iter_mut().zip(sums) {
            // SAFETY: `out` is one vector long.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        }
    }
    super::coarse::sums_from(n - n % (2 * WORDS), scores, heads, out);
}

/// Words of a vector.
const WORDS: usize = 32;

/// [`CoarseHead::weight`] of 32 scores. (Compilers widen the products of what is written for one.)
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn coarse_weight(head: CoarseHead, scores: __m512i) -> __m512i {
    let all = |x: u16| _mm512_set1_epi16(x.cast_signed());
    let below = _mm512_min_epu16(_mm512_subs_epu16(all(head.greatest), scores), all(head.cap));
    let fall = _mm512_mulhi_epu16(below, all(head.slope));
    let fall = _mm512_sll_epi16(fall, _mm_cvtsi32_si128(head.shift.into()));
    let x = _mm512_min_epu16(_mm512_subs_epu16(all(head.start), fall), all(TOP));
    let f = _mm512_slli_epi16::<6>(x);
    let slope = _mm512_add_epi16(all(LINEAR), _mm512_mulhi_epu16(f, all(SQUARE)));
    let power = _mm512_or_si512(all(0x8000), _mm512_mulhi_epu16(f, slope));
    _mm512_srlv_epi16(power, _mm512_xor_si512(all(15), _mm512_srli_epi16::<10>(x)))
}
