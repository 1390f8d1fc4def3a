//! AVX2 with F16C. Only f16 needs instructions that the compiler does not find; the rest is the scalar loop with
//! eight lanes.

use super::scalar;
use core::arch::x86_64::*;

const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    let (src, src_tail) = src.as_chunks::<{ 2 * LANES }>();
    let (dst, dst_tail) = dst.as_chunks_mut::<LANES>();
    for (h, x) in src.iter().zip(dst) {
        // SAFETY: `h` has 16 bytes and `x` 32; both operations take any alignment.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(h.as_ptr().cast()))) };
    }
    scalar::f16_to_f32(src_tail, dst_tail);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f16_from_f32(src: &[f32], dst: &mut [u8]) {
    let (src, src_tail) = src.as_chunks::<LANES>();
    let (dst, dst_tail) = dst.as_chunks_mut::<{ 2 * LANES }>();
    let sign = _mm256_set1_ps(-0.0);
    let largest = _mm256_set1_ps(65504.0);
    let infinity = _mm256_set1_ps(f32::INFINITY);
    for (x, h) in src.iter().zip(dst) {
        // SAFETY: `x` has 32 bytes; any alignment.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        let abs = _mm256_andnot_ps(sign, x);
        // Infinities stay; the minimum's second operand passes a NaN through.
        let clamped = _mm256_min_ps(largest, abs);
        let clamped = _mm256_blendv_ps(clamped, abs, _mm256_cmp_ps::<_CMP_EQ_OQ>(abs, infinity));
        let clamped = _mm256_or_ps(clamped, _mm256_and_ps(sign, x));
        let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(clamped);
        // SAFETY: `h` has 16 bytes; any alignment.
        unsafe { _mm_storeu_si128(h.as_mut_ptr().cast(), narrow) };
    }
    scalar::f16_from_f32(src_tail, dst_tail);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn bf16_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::bf16_to_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn bf16_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::bf16_from_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f8_e4m3_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::f8_e4m3_to_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f8_e4m3_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::f8_e4m3_from_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f8_e5m2_to_f32(src: &[u8], dst: &mut [f32]) {
    scalar::f8_e5m2_to_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn f8_e5m2_from_f32(src: &[f32], dst: &mut [u8]) {
    scalar::f8_e5m2_from_f32(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn any_non_finite(x: &[f32]) -> bool {
    scalar::any_non_finite(x)
}
