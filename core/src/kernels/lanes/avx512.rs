//! One 512-bit register.

use super::{LANES, Lanes};
use core::arch::x86_64::*;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512);

/// The largest finite binary16.
const F16_MAX: f32 = 65504.0;

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw the
// AVX-512 level (see the module above), and each pointer comes from an array of exactly the length accessed.
impl Lanes for Avx512 {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_loadu_ps(x.as_ptr())) }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_sqrt_ps(self.0)) }
    }

    #[inline(always)]
    fn flip(self, masks: &[u32; LANES]) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_xor_ps(self.0, _mm512_loadu_ps(masks.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn butterfly<const H: usize>(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let x = self.0;
            let partner = match H {
                1 => _mm512_permute_ps::<0b10_11_00_01>(x),
                2 => _mm512_permute_ps::<0b01_00_11_10>(x),
                4 => _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x),
                _ => _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x),
            };
            let sign: [f32; LANES] = const {
                let mut sign = [1.0; LANES];
                let mut i = 0;
                while i < LANES {
                    if i & H != 0 {
                        sign[i] = -1.0;
                    }
                    i += 1;
                }
                sign
            };
            // A product with 1 or -1 is exact, so this rounds as a plain addition or subtraction does.
            Self(_mm512_fmadd_ps(x, _mm512_loadu_ps(sign.as_ptr()), partner))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        }
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn to_f16(self, bytes: &mut [u8; 2 * LANES]) {
        // SAFETY: see above.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.clamp(F16_MAX).0);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), half);
        }
    }

    #[inline(always)]
    fn clamp(self, max: f32) -> Self {
        // SAFETY: see above. VRANGEPS with 0b0010: the smaller magnitude, the sign of the first operand.
        unsafe { Self(_mm512_range_ps::<0b0010>(self.0, _mm512_set1_ps(max))) }
    }
}
