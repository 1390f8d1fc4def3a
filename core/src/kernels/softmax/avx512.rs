//! One 512-bit register.

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
