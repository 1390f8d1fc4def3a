//! AVX2: masks by `movemask`, eight indices at a time out of a table.

use super::{BLOCK, Block, Cut, Found, Mass, collect_blocks, count_blocks, emit_blocks, scalar};
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

/// The mask of four vectors of comparisons, each word all ones or zero.
#[inline(always)]
fn mask_u16(x: &[u16; BLOCK], compare: impl Fn(__m256i) -> __m256i) -> u64 {
    let mut halves = [0; 2];
    for (half, x) in halves.iter_mut().zip(x.as_chunks::<32>().0) {
        // SAFETY: kernels run after detection saw AVX2; the array holds two vectors.
        unsafe {
            let low = compare(_mm256_loadu_si256(x[..16].as_ptr().cast()));
            let high = compare(_mm256_loadu_si256(x[16..].as_ptr().cast()));
            // Packing interleaves the 128-bit halves; the permutation puts them back.
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
            *half = _mm256_movemask_epi8(bytes).cast_unsigned();
        }
    }
    u64::from(halves[1]) << 32 | u64::from(halves[0])
}

impl Block<u16> for Avx2 {
    #[inline(always)]
    fn above(x: &[u16; BLOCK], t: u16) -> u64 {
        !Self::at_most(x, t)
    }

    #[inline(always)]
    fn equal(x: &[u16; BLOCK], t: u16) -> u64 {
        // SAFETY: kernels run after detection saw AVX2.
        unsafe {
            let t = _mm256_set1_epi16(t.cast_signed());
            mask_u16(x, |x| _mm256_cmpeq_epi16(x, t))
        }
    }

    #[inline(always)]
    fn at_least(x: &[u16; BLOCK], t: u16) -> u64 {
        // SAFETY: kernels run after detection saw AVX2.
        unsafe {
            let t = _mm256_set1_epi16(t.cast_signed());
            mask_u16(x, |x| _mm256_cmpeq_epi16(_mm256_max_epu16(x, t), x))
        }
    }

    #[inline(always)]
    fn indices(mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        indices(mask, first, out);
    }
}

impl Avx2 {
    #[inline(always)]
    fn at_most(x: &[u16; BLOCK], t: u16) -> u64 {
        // SAFETY: kernels run after detection saw AVX2.
        unsafe {
            let t = _mm256_set1_epi16(t.cast_signed());
            mask_u16(x, |x| _mm256_cmpeq_epi16(_mm256_min_epu16(x, t), x))
        }
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
pub(super) fn mass_above(weights: &[f32], t: f32, unit: f32) -> Mass {
    scalar::mass_above(weights, t, unit)
}
