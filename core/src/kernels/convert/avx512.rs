//! AVX-512, sixteen lanes. Only f16 needs instructions that the compiler does not find; its tails are masked.

use super::scalar;
use core::arch::x86_64::*;

const LANES: usize = 16;

/// The mask of the first `n` lanes, all for `n >= 16`.
const fn first(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    let (whole, tail) = src.as_chunks::<{ 2 * LANES }>();
    let (x, x_tail) = dst.as_chunks_mut::<LANES>();
    for (h, x) in whole.iter().zip(x) {
        // SAFETY: both arrays have sixteen elements; any alignment.
        unsafe {
            let h = _mm256_loadu_si256(h.as_ptr().cast());
            _mm512_storeu_ps(x.as_mut_ptr(), _mm512_cvtph_ps(h));
        }
    }
    let mask = first(x_tail.len());
    // SAFETY: the mask covers the elements that both slices have.
    unsafe {
        let h = _mm256_maskz_loadu_epi16(mask, tail.as_ptr().cast());
        _mm512_mask_storeu_ps(x_tail.as_mut_ptr(), mask, _mm512_cvtph_ps(h));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f16_from_f32(src: &[f32], dst: &mut [u8]) {
    let (whole, tail) = src.as_chunks::<LANES>();
    let (h, h_tail) = dst.as_chunks_mut::<{ 2 * LANES }>();
    for (x, h) in whole.iter().zip(h) {
        // SAFETY: both arrays have sixteen elements; any alignment.
        unsafe { _mm256_storeu_si256(h.as_mut_ptr().cast(), narrow(_mm512_loadu_ps(x.as_ptr()))) };
    }
    let mask = first(tail.len());
    // SAFETY: the mask covers the elements that both slices have.
    unsafe {
        let x = _mm512_maskz_loadu_ps(mask, tail.as_ptr());
        _mm256_mask_storeu_epi16(h_tail.as_mut_ptr().cast(), mask, narrow(x));
    }
}

/// Nearest even, finite values saturating.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn narrow(x: __m512) -> __m256i {
    let sign = _mm512_set1_epi32(i32::MIN);
    let x = _mm512_castps_si512(x);
    let abs = _mm512_andnot_si512(sign, x);
    let finite = _mm512_cmplt_epi32_mask(abs, _mm512_set1_epi32(0x7F80_0000));
    let clamped = _mm512_mask_min_epi32(abs, finite, abs, _mm512_set1_epi32(0x477F_E000)); // 65504
    let clamped = _mm512_castsi512_ps(_mm512_or_si512(clamped, _mm512_and_si512(sign, x)));
    _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn bf16_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::bf16_to_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn bf16_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::bf16_from_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f8_e4m3_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::f8_e4m3_to_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f8_e4m3_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::f8_e4m3_from_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f8_e5m2_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::f8_e5m2_to_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f8_e5m2_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::f8_e5m2_from_f32(src, dst);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn any_non_finite(x: &[f32]) -> bool {
    scalar::any_non_finite(x)
}
