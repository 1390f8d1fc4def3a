//! AVX2: masks by `movemask`, eight indices at a time out of a table.

use super::{
    BLOCK, Block, Cut, Found, Mass, collect_blocks, count_blocks, emit_blocks, emit_within_blocks, scalar,
};
use core::arch::x86_64::*;

struct Avx2;

/// The positions of the bits that are set in a byte, lowest first.
static POSITIONS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][n] = bit;
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

#[inline(always)]
fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
    let (mut len, mut at) = (0, first);
    for byte in mask.to_le_bytes() {
        let out: &mut [u32; 8] = out[len..].first_chunk_mut().expect("at most eight for each byte before");
        let positions = &POSITIONS[usize::from(byte)];
        // SAFETY: kernels run after detection saw AVX2; eight bytes are read and eight elements written.
        unsafe {
            let positions = _mm256_cvtepu8_epi32(_mm_loadl_epi64(positions.as_ptr().cast()));
            let base = _mm256_set1_epi32(at.cast_signed());
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_add_epi32(positions, base));
        }
        at = at.wrapping_add(8);
        len += byte.count_ones() as usize;
    }
}

/// All ones for each of sixteen words that equals `t`, or is at least `t`.
#[inline(always)]
fn compare<const AT_LEAST: bool>(x: &[u16; 16], t: __m256i) -> __m256i {
    // SAFETY: kernels run after detection saw AVX2; the array is one vector long.
    unsafe {
        let x = _mm256_loadu_si256(x.as_ptr().cast());
        _mm256_cmpeq_epi16(if AT_LEAST { _mm256_max_epu16(x, t) } else { t }, x)
    }
}

/// The mask of four vectors of comparisons.
#[inline(always)]
fn mask_u16<const AT_LEAST: bool>(x: &[u16; BLOCK], t: u16) -> u64 {
    let [a, b, c, d] = x.as_chunks::<16>().0 else { unreachable!("four times 16 are 64") };
    // SAFETY: kernels run after detection saw AVX2.
    unsafe {
        let t = _mm256_set1_epi16(t.cast_signed());
        let low = movemask(compare::<AT_LEAST>(a, t), compare::<AT_LEAST>(b, t));
        let high = movemask(compare::<AT_LEAST>(c, t), compare::<AT_LEAST>(d, t));
        u64::from(high) << 32 | u64::from(low)
    }
}

/// A bit for each word.
#[inline(always)]
fn movemask(low: __m256i, high: __m256i) -> u32 {
    // SAFETY: kernels run after detection saw AVX2.
    unsafe {
        // Packing interleaves the 128-bit halves; the permutation puts them back.
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
        _mm256_movemask_epi8(bytes).cast_unsigned()
    }
}

impl Block<u16> for Avx2 {
    #[inline(always)]
    fn above(x: &[u16; BLOCK], t: u16) -> u64 {
        if t == u16::MAX { 0 } else { mask_u16::<true>(x, t + 1) }
    }

    #[inline(always)]
    fn equal(x: &[u16; BLOCK], t: u16) -> u64 {
        mask_u16::<false>(x, t)
    }

    #[inline(always)]
    fn at_least(x: &[u16; BLOCK], t: u16) -> u64 {
        mask_u16::<true>(x, t)
    }

    #[inline(always)]
    fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        indices(mask, first, out);
    }
}

#[inline(always)]
fn mask_f32<const OP: i32>(x: &[f32; BLOCK], t: f32) -> u64 {
    let mut bytes = [0; 8];
    for (byte, x) in bytes.iter_mut().zip(x.as_chunks::<8>().0) {
        // SAFETY: kernels run after detection saw AVX2; the array is one vector long.
        let mask = unsafe {
            _mm256_movemask_ps(_mm256_cmp_ps::<OP>(_mm256_loadu_ps(x.as_ptr()), _mm256_set1_ps(t)))
        };
        *byte = mask.to_le_bytes()[0];
    }
    u64::from_le_bytes(bytes)
}

impl Block<f32> for Avx2 {
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
    fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        indices(mask, first, out);
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn count_above_u16(scores: &[u16], t: u16) -> usize {
    count_blocks::<u16, Avx2>(scores, t)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn count_above_f32(scores: &[f32], t: f32) -> usize {
    count_blocks::<f32, Avx2>(scores, t)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn collect_u16(scores: &[u16], range: [u16; 2], found: &mut Found, out: &mut [u16]) {
    collect_blocks::<u16, Avx2>(scores, range, found, out);
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn collect_f32(scores: &[f32], range: [f32; 2], found: &mut Found, out: &mut [f32]) {
    collect_blocks::<f32, Avx2>(scores, range, found, out);
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn emit_u16(scores: &[u16], cut: &mut Cut<u16>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<u16, Avx2>(scores, cut, first, out)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn emit_f32(scores: &[f32], cut: &mut Cut<f32>, first: u32, out: &mut [u32]) -> usize {
    emit_blocks::<f32, Avx2>(scores, cut, first, out)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn emit_within(scores: &[u16], range: [u16; 2], out: &mut [u32]) -> Option<usize> {
    emit_within_blocks::<Avx2>(scores, range, out)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn mass_above(weights: &[f32], t: f32, unit: f32) -> Mass {
    let (vectors, tail) = weights.as_chunks::<8>();
    let (least, units) = (_mm256_set1_ps(t), _mm256_set1_ps(unit));
    let low_half = _mm256_set1_epi64x(0xffff_ffff);
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let Mass { mut count, mut mass } = scalar::mass_above(tail, t, unit);
    for x in vectors {
        // SAFETY: the array is one vector long.
        let w = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        let above = _mm256_cmp_ps::<_CMP_GT_OQ>(w, least);
        let now = _mm256_cvttps_epi32(_mm256_and_ps(above, _mm256_mul_ps(w, units)));
        low = _mm256_add_epi64(low, _mm256_and_si256(now, low_half));
        high = _mm256_add_epi64(high, _mm256_srli_epi64::<32>(now));
        count += _mm256_movemask_ps(above).count_ones() as usize;
    }
    let mut sums = [0_u64; 4];
    // SAFETY: the array is one vector long.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi64(low, high)) };
    mass += sums.iter().sum::<u64>();
    Mass { count, mass }
}
