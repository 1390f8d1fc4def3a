//! Sixteen lanes; 32 registers hold the sums of up to 24 vectors beside the rows.

use super::HEADS;
use super::blocked::blocked;
use super::body::{WIDEST, level};
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Zmm(__m512);

level! {
    Zmm,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    {
        1 => 1, 4, [16, 8, 4, 1];
        2 => 2, 4, [8, 4, 1];
        3 => 4, 4, [8, 4, 1];
        4 => 4, 4, [4, 1];
        5 => 8, 2, [4, 1];
        6 => 8, 2, [4, 1];
        7 => 8, 2, [2, 1];
        8 => 8, 2, [2, 1];
    }
}

blocked! {
    Zmm,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    8, 8
}

/// The lowest `n` lanes.
#[inline(always)]
const fn lowest(n: usize) -> __mmask16 {
    (1 << n) - 1
}

// SAFETY of every block below: these functions are inlined into kernels that run only after detection saw the AVX-512
// level (see `Vector`); what pointers reach is the caller's promise, and any alignment will do.
impl Vector for Zmm {
    const N: usize = 16;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_set1_ps(x)) }
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
    fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above. MAXPS gives the second operand if one is a NaN.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    fn exp2(self) -> Self {
        let [c6, c5, c4, c3, c2, c1, c0] = super::scalar::EXP2;
        // SAFETY: see above. MAXPS gives the second operand if one is a NaN, so NaN stays.
        unsafe {
            let x = _mm512_max_ps(_mm512_set1_ps(-200.0), self.0);
            let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let r = _mm512_sub_ps(x, n);
            let mut p = _mm512_set1_ps(c6);
            for c in [c5, c4, c3, c2, c1, c0] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
            }
            let tiny = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, _mm512_set1_ps(-126.0));
            Self(_mm512_maskz_scalef_ps(!tiny, p, n))
        }
    }

    #[inline(always)]
    fn finite_or_zero(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let other = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, _mm512_set1_ps(f32::NEG_INFINITY));
            Self(_mm512_maskz_mov_ps(other, self.0))
        }
    }

    #[inline(always)]
    fn sums(r: &[Self; WIDEST]) -> Self {
        // SAFETY: see above.
        unsafe {
            // Two rows into one, halving the lanes of each: neighbours, then pairs, then quarters.
            let mut four = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                let [a, b, c, d] = [r[4 * i].0, r[4 * i + 1].0, r[4 * i + 2].0, r[4 * i + 3].0];
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                four[i] = _mm512_add_ps(
                    _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
                );
            }
            let [a, b, c, d] = four;
            let ab = halve(a, b);
            let cd = halve(c, d);
            Self(halve(ab, cd))
        }
    }

    #[inline(always)]
    fn swap(self, distance: usize) -> Self {
        let x = self.0;
        // SAFETY: see above.
        unsafe {
            Self(match distance {
                1 => _mm512_permute_ps::<0b10_11_00_01>(x),
                2 => _mm512_permute_ps::<0b01_00_11_10>(x),
                4 => _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x),
                _ => _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x),
            })
        }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most 7")]
    fn spread(x: &[f32; HEADS], width: usize) -> Self {
        // SAFETY: see above; `x` has 32 bytes.
        unsafe {
            let x = _mm512_castps256_ps512(_mm256_loadu_ps(x.as_ptr()));
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let index = _mm512_and_si512(lane, _mm512_set1_epi32(width as i32 - 1));
            Self(_mm512_permutexvar_ps(index, x))
        }
    }

    #[inline(always)]
    fn first(self) -> [f32; HEADS] {
        let mut x = [0.0; HEADS];
        // SAFETY: see above; `x` has 32 bytes.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), _mm512_castps512_ps256(self.0)) };
        x
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, self.0) };
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        // SAFETY: see above; masked lanes are not read.
        unsafe { Self(_mm512_maskz_loadu_ps(lowest(n), p)) }
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
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn f16_part(p: *const u8, n: usize) -> Self {
        // SAFETY: see above; masked lanes are not read.
        unsafe { Self(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lowest(n), p.cast()))) }
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(bf16(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn bf16_part(p: *const u8, n: usize) -> Self {
        // SAFETY: see above; masked lanes are not read.
        unsafe { Self(bf16(_mm256_maskz_loadu_epi16(lowest(n), p.cast()))) }
    }

    #[inline(always)]
    unsafe fn i8(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn f16_splat(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_set1_epi16(p.cast::<i16>().read_unaligned()))) }
    }
}

/// The quarters of `a` and `b`, each pair of neighbours added: two of `a`, two of `b`.
#[inline(always)]
fn halve(a: __m512, b: __m512) -> __m512 {
    // SAFETY: as for the vector.
    unsafe {
        let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
        _mm512_add_ps(even, odd)
    }
}

#[inline(always)]
fn bf16(x: __m256i) -> __m512 {
    // SAFETY: as for the vector.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))) }
}
