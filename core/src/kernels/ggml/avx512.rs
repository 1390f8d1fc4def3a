//! A block is two vectors of sixteen.

use super::{BLOCK, Q4_0, Q8_0, f16_narrow, f16_widen, reciprocal};
use core::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load(x: &[f32; BLOCK]) -> [__m512; 2] {
    // SAFETY: `x` has 128 bytes; any alignment.
    unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] }
}

/// Bits of the magnitudes, which order like the magnitudes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn magnitude(x: __m512) -> __m512i {
    _mm512_andnot_si512(_mm512_set1_epi32(i32::MIN), _mm512_castps_si512(x))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_q8_0(src: &[f32], dst: &mut [u8]) {
    let sign = _mm512_set1_epi32(i32::MIN);
    let below_half = _mm512_castps_si512(_mm512_set1_ps(0.5_f32.next_down()));
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<Q8_0>().0) {
        let x = load(x);
        let max = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude(x[0]), magnitude(x[1])));
        let d = f32::from_bits(max.cast_unsigned()) / 127.0;
        let id = _mm512_set1_ps(reciprocal(d));
        let (scale, codes) = block.split_at_mut(2);
        scale.copy_from_slice(&f16_narrow(d).to_le_bytes());
        for (x, codes) in x.into_iter().zip(codes.as_chunks_mut::<16>().0) {
            let v = _mm512_mul_ps(x, id);
            let toward = _mm512_or_si512(_mm512_and_si512(sign, _mm512_castps_si512(v)), below_half);
            let q = _mm512_cvttps_epi32(_mm512_add_ps(v, _mm512_castsi512_ps(toward)));
            // SAFETY: `codes` has 16 bytes; any alignment.
            unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(q)) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn dequantize_q8_0(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<Q8_0>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = _mm512_set1_ps(f16_widen(u16::from_le_bytes([block[0], block[1]])));
        for (codes, x) in block[2..].as_chunks::<16>().0.iter().zip(x.as_chunks_mut::<16>().0) {
            // SAFETY: `codes` has 16 bytes and `x` 64; any alignment.
            unsafe {
                let q = _mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                _mm512_storeu_ps(x.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(q), d));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_q4_0(src: &[f32], dst: &mut [u8]) {
    let (bias, top) = (_mm512_set1_ps(8.5), _mm512_set1_epi32(15));
    for (values, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<Q4_0>().0) {
        let x = load(values);
        let magnitudes = [magnitude(x[0]), magnitude(x[1])];
        let largest =
            _mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_max_epi32(magnitudes[0], magnitudes[1])));
        let [low, high] = magnitudes.map(|m| u32::from(_mm512_cmpeq_epi32_mask(m, largest)));
        // The first of several decides the sign. At least one bit is set; the mask of 31 spares the bounds check.
        let first = (low | high << 16).trailing_zeros() as usize & (BLOCK - 1);
        let d = values[first] / -8.0;
        let id = _mm512_set1_ps(reciprocal(d));
        let [low, high] = x.map(|x| {
            let q = _mm512_cvttps_epi32(_mm512_add_ps(_mm512_mul_ps(x, id), bias));
            _mm512_min_epi32(q, top)
        });
        let pairs = _mm512_cvtepi32_epi8(_mm512_or_si512(low, _mm512_slli_epi32::<4>(high)));
        let (scale, codes) = block.split_at_mut(2);
        scale.copy_from_slice(&f16_narrow(d).to_le_bytes());
        // SAFETY: a block has 16 bytes after its scale; any alignment.
        unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), pairs) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn dequantize_q4_0(src: &[u8], dst: &mut [f32]) {
    let (nibble, bias) = (_mm512_set1_epi32(15), _mm512_set1_epi32(8));
    for (block, x) in src.as_chunks::<Q4_0>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = _mm512_set1_ps(f16_widen(u16::from_le_bytes([block[0], block[1]])));
        // SAFETY: a block has 16 bytes after its scale; any alignment.
        let pairs = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(block[2..].as_ptr().cast())) };
        let halves = [_mm512_and_si512(pairs, nibble), _mm512_srli_epi32::<4>(pairs)];
        for (q, x) in halves.into_iter().zip(x.as_chunks_mut::<16>().0) {
            let value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(q, bias)), d);
            // SAFETY: `x` has 64 bytes; any alignment.
            unsafe { _mm512_storeu_ps(x.as_mut_ptr(), value) };
        }
    }
}
