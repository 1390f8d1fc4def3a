//! AVX-512: compares into mask registers, compresses within registers.

use super::{BLOCK, Block, Cut, Found, Mass, collect_blocks, count_blocks, emit_blocks, emit_within_blocks};
use core::arch::x86_64::*;

struct Avx512;

/// 0, 1, ... 63
static IOTA: [u8; BLOCK] = {
    let mut iota = [0; BLOCK];
    let mut i: u8 = 0;
    while (i as usize) < BLOCK {
        iota[i as usize] = i;
        i += 1;
    }
    iota
};

/// One compress of 64 bytes, then as many vectors of 16 indices as usually hold them all.
#[inline(always)]
pub(in crate::kernels) fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
    // SAFETY: kernels run after detection saw AVX-512; each store writes 16 of the 64 elements.
    unsafe {
        let at = _mm512_maskz_compress_epi8(mask, _mm512_loadu_si512(IOTA.as_ptr().cast()));
        let first = _mm512_set1_epi32(first.cast_signed());
        let p: *mut u32 = out.as_mut_ptr();
        _mm512_storeu_si512(p.cast(), widen(_mm512_castsi512_si128(at), first));
        _mm512_storeu_si512(p.add(16).cast(), widen(_mm512_extracti32x4_epi32::<1>(at), first));
        if mask.count_ones() > 32 {
            _mm512_storeu_si512(p.add(32).cast(), widen(_mm512_extracti32x4_epi32::<2>(at), first));
            _mm512_storeu_si512(p.add(48).cast(), widen(_mm512_extracti32x4_epi32::<3>(at), first));
        }
    }
}

#[inline(always)]
fn widen(at: __m128i, first: __m512i) -> __m512i {
    // SAFETY: kernels run after detection saw AVX-512.
    unsafe { _mm512_add_epi32(_mm512_cvtepu8_epi32(at), first) }
}

/// The mask of two comparisons of 32 words.
#[inline(always)]
fn mask_u16<const OP: i32>(x: &[u16; BLOCK], t: u16) -> u64 {
    let (low, high) = x.split_at(32);
    // SAFETY: kernels run after detection saw AVX-512; each half is one vector long.
    unsafe {
        let t = _mm512_set1_epi16(t.cast_signed());
        let low = _mm512_cmp_epu16_mask::<OP>(_mm512_loadu_si512(low.as_ptr().cast()), t);
        let high = _mm512_cmp_epu16_mask::<OP>(_mm512_loadu_si512(high.as_ptr().cast()), t);
        u64::from(high) << 32 | u64::from(low)
    }
}

impl Block<u16> for Avx512 {
    #[inline(always)]
    fn above(x: &[u16; BLOCK], t: u16) -> u64 {
        mask_u16::<_MM_CMPINT_NLE>(x, t)
    }

    #[inline(always)]
    fn equal(x: &[u16; BLOCK], t: u16) -> u64 {
        mask_u16::<_MM_CMPINT_EQ>(x, t)
    }

    #[inline(always)]
    fn at_least(x: &[u16; BLOCK], t: u16) -> u64 {
        mask_u16::<_MM_CMPINT_NLT>(x, t)
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the mask is taken apart")]
    fn pack(x: &[u16; BLOCK], mask: u64, out: &mut [u16; BLOCK]) {
        let (low, high) = x.split_at(32);
        let (low_mask, high_mask) = (mask as u32, (mask >> 32) as u32);
        // SAFETY: kernels run after detection saw AVX-512; at most 32 elements lie before the second store of 32.
        unsafe {
            let low = _mm512_maskz_compress_epi16(low_mask, _mm512_loadu_si512(low.as_ptr().cast()));
            let high = _mm512_maskz_compress_epi16(high_mask, _mm512_loadu_si512(high.as_ptr().cast()));
            let p = out.as_mut_ptr();
            _mm512_storeu_si512(p.cast(), low);
            _mm512_storeu_si512(p.add(low_mask.count_ones() as usize).cast(), high);
        }
    }

    #[inline(always)]
    fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        indices(mask, first, out);
    }
}

#[inline(always)]
fn mask_f32<const OP: i32>(x: &[f32; BLOCK], t: f32) -> u64 {
    let mut mask = 0;
    for (i, x) in x.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: kernels run after detection saw AVX-512; the array is one vector long.
        let part = unsafe { _mm512_cmp_ps_mask::<OP>(_mm512_loadu_ps(x.as_ptr()), _mm512_set1_ps(t)) };
        mask |= u64::from(part) << (16 * i);
    }
    mask
}

impl Block<f32> for Avx512 {
    #[inline(always)]
    fn above(x: &[f32; BLOCK], t: f32) -> u64 {
        mask_f32::<_CMP_GT_OQ>(x, t)
    }

    #[inline(always)]
    fn equal(x: &[f32; BLOCK], t: f32) -> u64 {
        mask_f32::<_CMP_EQ_OQ>(x, t)
    }

    #[inline(always)]
    fn at_least(x: &[f32; BLOCK], t: f32) -> u64 {
        mask_f32::<_CMP_GE_OQ>(x, t)
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the mask is taken apart")]
    fn pack(x: &[f32; BLOCK], mask: u64, out: &mut [f32; BLOCK]) {
        let mut len = 0;
        for (i, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let part = (mask >> (16 * i)) as u16;
            // SAFETY: kernels run after detection saw AVX-512; at most `16 * i` elements lie before this store of 16.
            unsafe {
                let x = _mm512_maskz_compress_ps(part, _mm512_loadu_ps(x.as_ptr()));
                _mm512_storeu_ps(out.as_mut_ptr().add(len), x);
            }
            len += part.count_ones() as usize;
        }
    }

    #[inline(always)]
    fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        indices(mask, first, out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn count_above_u16(scores: &[u16], t: u16) -> usize {
    count_blocks::<u16, Avx512>(scores, t)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn count_above_f32(scores: &[f32], t: f32) -> usize {
    count_blocks::<f32, Avx512>(scores, t)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn collect_u16(scores: &[u16], range: [u16; 2], found: &mut Found, out: &mut [u16]) {
    collect_blocks::<u16, Avx512>(scores, range, found, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn collect_f32(scores: &[f32], range: [f32; 2], found: &mut Found, out: &mut [f32]) {
    collect_blocks::<f32, Avx512>(scores, range, found, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn emit_u16(scores: &[u16], cut: &mut Cut<u16>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<u16, Avx512>(scores, cut, first, out)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn emit_f32(scores: &[f32], cut: &mut Cut<f32>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<f32, Avx512>(scores, cut, first, out)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn emit_within(scores: &[u16], range: [u16; 2], out: &mut [u32]) -> Option<usize> {
    emit_within_blocks::<Avx512>(scores, range, out)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt")]
pub(super) fn mass_above(weights: &[f32], t: f32, unit: f32) -> Mass {
    let (t, unit) = (_mm512_set1_ps(t), _mm512_set1_ps(unit));
    let low_half = _mm512_set1_epi64(0xffff_ffff);
    let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut count = 0;
    for weights in weights.chunks(16) {
        let real = !0 >> (16 - weights.len());
        // SAFETY: lanes past the slice's end are masked and so not read.
        let w = unsafe { _mm512_maskz_loadu_ps(real, weights.as_ptr()) };
        let above = _mm512_mask_cmp_ps_mask::<_CMP_GT_OQ>(real, w, t);
        let units = _mm512_maskz_cvttps_epi32(above, _mm512_mul_ps(w, unit));
        low = _mm512_add_epi64(low, _mm512_and_si512(units, low_half));
        high = _mm512_add_epi64(high, _mm512_srli_epi64::<32>(units));
        count += above.count_ones() as usize;
    }
    let mass = _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)).cast_unsigned();
    Mass { count, mass }
}
