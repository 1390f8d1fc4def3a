//! Two 256-bit registers.

use super::{LANES, Lanes};
use core::arch::x86_64::*;

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) __m256, pub(crate) __m256);

/// The largest finite binary16.
const F16_MAX: f32 = 65504.0;

#[inline(always)]
fn halves<T>(x: &[T; LANES]) -> (*const T, *const T) {
    (x[..8].as_ptr(), x[8..].as_ptr())
}

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw AVX2,
// FMA and F16C (see the module above), and each pointer comes from an array of exactly the length accessed.
impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        let (low, high) = halves(x);
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(low), _mm256_loadu_ps(high)) }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        let (low, high) = out.split_at_mut(8);
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), self.0);
            _mm256_storeu_ps(high.as_mut_ptr(), self.1);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }

    #[inline(always)]
    fn flip(self, masks: &[u32; LANES]) -> Self {
        let (low, high) = halves(masks);
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_xor_ps(self.0, _mm256_loadu_ps(low.cast())),
                _mm256_xor_ps(self.1, _mm256_loadu_ps(high.cast())),
            )
        }
    }

    #[inline(always)]
    fn butterfly<const H: usize>(self) -> Self {
        if H == 8 {
            // SAFETY: see above.
            return unsafe { Self(_mm256_add_ps(self.0, self.1), _mm256_sub_ps(self.0, self.1)) };
        }
        Self(stage::<H>(self.0), stage::<H>(self.1))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm256_add_ps(self.0, self.1);
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        }
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Self {
        let (low, high) = bytes.split_at(16);
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_cvtph_ps(_mm_loadu_si128(low.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(high.as_ptr().cast())),
            )
        }
    }

    #[inline(always)]
    fn to_f16(self, bytes: &mut [u8; 2 * LANES]) {
        let x = self.clamp(F16_MAX);
        let (low, high) = bytes.split_at_mut(16);
        // SAFETY: see above.
        unsafe {
            _mm_storeu_si128(low.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.0));
            _mm_storeu_si128(high.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.1));
        }
    }

    #[inline(always)]
    fn clamp(self, max: f32) -> Self {
        // SAFETY: see above.
        unsafe {
            let (hi, lo) = (_mm256_set1_ps(max), _mm256_set1_ps(-max));
            let one = |x| _mm256_max_ps(_mm256_min_ps(x, hi), lo);
            Self(one(self.0), one(self.1))
        }
    }
}

/// Stage 1, 2 or 4 within a register. A product with 1 or -1 is exact, so the fused form rounds as a plain
/// addition or subtraction does.
#[inline(always)]
fn stage<const H: usize>(x: __m256) -> __m256 {
    // SAFETY: as for the implementation above; the array has eight elements.
    unsafe {
        let partner = match H {
            1 => _mm256_permute_ps::<0b10_11_00_01>(x),
            2 => _mm256_permute_ps::<0b01_00_11_10>(x),
            _ => _mm256_permute2f128_ps::<1>(x, x),
        };
        let sign: [f32; 8] = const {
            let mut sign = [1.0; 8];
            let mut i = 0;
            while i < 8 {
                if i & H != 0 {
                    sign[i] = -1.0;
                }
                i += 1;
            }
            sign
        };
        _mm256_fmadd_ps(x, _mm256_loadu_ps(sign.as_ptr()), partner)
    }
}
