//! Two 256-bit registers.

use super::coarse::CoarseHead;
use super::{Head, How, Powers, add_to, counted, greatest_of, sum_of};
use crate::kernels::lanes::LANES;
use crate::kernels::lanes::avx2::Avx2;
use core::arch::x86_64::*;

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw AVX2 (see
// `kernels::lanes`), and each pointer comes from an array of exactly the length accessed.
impl Powers for Avx2 {
    #[inline(always)]
    fn from_u16(x: &[u16; LANES]) -> Self {
        let (low, high) = x.split_at(8);
        // SAFETY: see above.
        unsafe { Self(widen(low.as_ptr()), widen(high.as_ptr())) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn raise(self, power: Self) -> Self {
        Self(raise(self.0, power.0), raise(self.1, power.1))
    }
}

/// Eight words.
///
/// # Safety
/// As for the implementation above; eight words can be read.
#[inline(always)]
unsafe fn widen(x: *const u16) -> __m256 {
    // SAFETY: see above.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()))) }
}

#[inline(always)]
fn raise(x: __m256, power: __m256) -> __m256 {
    // SAFETY: as for the implementation above.
    unsafe {
        let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(power));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), power))
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn greatest_u16(scores: &[u16]) -> f32 {
    greatest_of::<u16, Avx2>(scores)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn greatest_f32(scores: &[f32]) -> f32 {
    greatest_of::<f32, Avx2>(scores)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn sum_u16(scores: &[u16], head: Head) -> f64 {
    sum_of::<u16, Avx2>(scores, head)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn sum_f32(scores: &[f32], head: Head) -> f64 {
    sum_of::<f32, Avx2>(scores, head)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn add_u16(scores: &[u16], head: Head, how: How, out: &mut [f32]) {
    add_to::<u16, Avx2>(scores, head, how, out);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn add_f32(scores: &[f32], head: Head, how: How, out: &mut [f32]) {
    add_to::<f32, Avx2>(scores, head, how, out);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn sum_counted(powers: &[f32], counts: &[u32]) -> f64 {
    counted(powers, counts)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn coarse_sums(scores: &[u16], heads: &[CoarseHead], out: &mut [u16]) {
    super::coarse::sums(scores, heads, out);
}
