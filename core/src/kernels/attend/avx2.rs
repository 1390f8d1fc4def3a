//! Eight lanes; 16 registers hold the sums of up to 12 vectors beside the rows.

use super::HEADS;
use super::blocked::blocked;
use super::body::{WIDEST, level};
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Ymm(__m256);

level! {
    Ymm,
    #[target_feature(enable = "avx2,fma,f16c")]
    {
        1 => 1, 4, [8, 4, 1];
        2 => 2, 4, [4, 2, 1];
        3 => 4, 2, [2, 1];
        4 => 4, 2, [2, 1];
        5 => 8, 1, [2, 1];
        6 => 8, 1, [2, 1];
        7 => 8, 1, [1];
        8 => 8, 1, [1];
    }
}

blocked! {
    Ymm,
    #[target_feature(enable = "avx2,fma,f16c")]
    4, 4
}

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw AVX2, FMA and
// F16C (see `Vector`); what pointers reach is the caller's promise, and any alignment will do.
impl Vector for Ymm {
    const N: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above. MAXPS gives the second operand if one is a NaN.
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn exp2(self) -> Self {
        let [c6, c5, c4, c3, c2, c1, c0] = super::scalar::EXP2;
        // SAFETY: see above. MAXPS gives the second operand if one is a NaN, so NaN stays.
        unsafe {
            let x = _mm256_max_ps(_mm256_set1_ps(-126.0), self.0);
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let r = _mm256_sub_ps(x, n);
            let mut p = _mm256_set1_ps(c6);
            for c in [c5, c4, c3, c2, c1, c0] {
                p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
            }
            let exponent =
                _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            let y = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
            let tiny = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, _mm256_set1_ps(-126.0));
            Self(_mm256_andnot_ps(tiny, y))
        }
    }

    #[inline(always)]
    fn finite_or_zero(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let other = _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, _mm256_set1_ps(f32::NEG_INFINITY));
            Self(_mm256_and_ps(other, self.0))
        }
    }

    #[inline(always)]
    fn sums(r: &[Self; WIDEST]) -> Self {
        // SAFETY: see above.
        unsafe {
            let mut two = [_mm256_setzero_ps(); 2];
            for i in 0..2 {
                let [a, b, c, d] = [r[4 * i].0, r[4 * i + 1].0, r[4 * i + 2].0, r[4 * i + 3].0];
                two[i] = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            }
            let [a, b] = two;
            let low = _mm256_permute2f128_ps::<0x20>(a, b);
            let high = _mm256_permute2f128_ps::<0x31>(a, b);
            Self(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    fn swap(self, distance: usize) -> Self {
        let x = self.0;
        // SAFETY: see above.
        unsafe {
            Self(match distance {
                1 => _mm256_permute_ps::<0b10_11_00_01>(x),
                2 => _mm256_permute_ps::<0b01_00_11_10>(x),
                _ => _mm256_permute2f128_ps::<0x01>(x, x),
            })
        }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most 7")]
    fn spread(x: &[f32; HEADS], width: usize) -> Self {
        // SAFETY: see above; `x` has 32 bytes.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let index = _mm256_and_si256(lane, _mm256_set1_epi32(width as i32 - 1));
            Self(_mm256_permutevar8x32_ps(_mm256_loadu_ps(x.as_ptr()), index))
        }
    }

    #[inline(always)]
    fn first(self) -> [f32; HEADS] {
        let mut x = [0.0; HEADS];
        // SAFETY: see above; `x` has 32 bytes.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), self.0) };
        x
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, self.0) };
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        let mut x = [0.0_f32; 8];
        // SAFETY: the caller's promise; `n < 8`.
        unsafe {
            core::ptr::copy_nonoverlapping(p.cast::<u8>(), x.as_mut_ptr().cast(), 4 * n);
            Self::load(x.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn f32(p: *const u8) -> Self {
        // SAFETY: see above; x86 is little-endian.
        unsafe { Self::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn f32_part(p: *const u8, n: usize) -> Self {
        // SAFETY: see above; x86 is little-endian.
        unsafe { Self::load_part(p.cast(), n) }
    }

    #[inline(always)]
    unsafe fn f16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn f16_part(p: *const u8, n: usize) -> Self {
        let mut x = [0_u16; 8];
        // SAFETY: the caller's promise; `n < 8`.
        unsafe {
            core::ptr::copy_nonoverlapping(p, x.as_mut_ptr().cast(), 2 * n);
            Self::f16(x.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_part(p: *const u8, n: usize) -> Self {
        let mut x = [0_u16; 8];
        // SAFETY: the caller's promise; `n < 8`.
        unsafe {
            core::ptr::copy_nonoverlapping(p, x.as_mut_ptr().cast(), 2 * n);
            Self::bf16(x.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn i8(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn f16_splat(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned()))) }
    }
}
