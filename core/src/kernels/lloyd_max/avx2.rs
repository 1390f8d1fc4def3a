//! Two 256-bit registers for sixteen lanes.
//!
//! There is no wide 16-bit table lookup, so grids up to 5 bits count thresholds (3 to 15 compares for sixteen
//! coordinates) on the magnitude, and finer ones look bins up one by one.

use super::{Coder, Fit, Plain, Quantizer, Shape, row};
use crate::kernels::lanes::LANES;
use crate::kernels::lanes::avx2::Avx2;
use core::arch::x86_64::*;

/// The low `nbits` of every byte.
#[inline(always)]
const fn field(nbits: u32) -> u64 {
    0x0101_0101_0101_0101 * ((1 << nbits) - 1)
}

// SAFETY of the blocks below: inlined into kernels that run only after detection saw AVX2, FMA, F16C and BMI2.
impl Coder for Avx2 {
    #[inline(always)]
    fn quantize(z: &[Self], k: f32, quantizer: &Quantizer, out: &mut [u8]) {
        let nbits = quantizer.nbits as usize;
        for (i, z) in z.iter().enumerate() {
            let q = fixed(z, k);
            let codes = if nbits <= 5 { count(q, quantizer) } else { look_up(q, quantizer) };
            // SAFETY: see above.
            let words = unsafe {
                let mask = field(quantizer.nbits);
                let low = _mm_cvtsi128_si64(codes).cast_unsigned();
                let high = _mm_extract_epi64::<1>(codes).cast_unsigned();
                [_pext_u64(low, mask), _pext_u64(high, mask)]
            };
            for (half, word) in words.into_iter().enumerate() {
                let at = (2 * i + half) * nbits;
                // The bytes beyond these eight codes are overwritten by the next ones.
                match out.get_mut(at..at + 8) {
                    Some(out) => out.copy_from_slice(&word.to_le_bytes()),
                    None => out[at..at + nbits].copy_from_slice(&word.to_le_bytes()[..nbits]),
                }
            }
        }
    }

    #[inline(always)]
    fn dequantize(packed: &[u8], quantizer: &Quantizer, z: &mut [Self]) {
        let nbits = quantizer.nbits as usize;
        for (i, z) in z.iter_mut().enumerate() {
            let eight = |at: usize| levels(word(packed, at * nbits, nbits), quantizer);
            *z = Self(eight(2 * i), eight(2 * i + 1));
        }
    }
}

/// Sixteen coordinates in fixed point, in order.
#[inline(always)]
fn fixed(z: &Avx2, k: f32) -> __m256i {
    // SAFETY: as for the implementation above.
    unsafe {
        let k = _mm256_set1_ps(k);
        let low = _mm256_cvtps_epi32(_mm256_mul_ps(z.0, k));
        let high = _mm256_cvtps_epi32(_mm256_mul_ps(z.1, k));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high))
    }
}

/// Codes by counting: with `m = q - 1` for positive `q` and `-q` for others, the code is `half + #{T <= m}` or
/// `half - 1 - #{T <= m}`, `T` running over the positive thresholds.
#[inline(always)]
fn count(q: __m256i, quantizer: &Quantizer) -> __m128i {
    // SAFETY: as for the implementation above.
    unsafe {
        let t = _mm256_subs_epi16(q, _mm256_set1_epi16(1));
        let sign = _mm256_srai_epi16::<15>(t);
        let m = _mm256_xor_si256(t, sign);
        let half = 1i16 << (quantizer.nbits - 1);
        let mut above = _mm256_setzero_si256();
        for t in &quantizer.positive[..usize::from(half.unsigned_abs()) - 1] {
            above = _mm256_add_epi16(above, _mm256_cmpgt_epi16(_mm256_set1_epi16(*t), m));
        }
        // `above` is minus the count of thresholds beyond `m`: half - 1 + above of them are not.
        let count = _mm256_add_epi16(above, _mm256_set1_epi16(half - 1));
        let mask = _mm256_set1_epi16(2 * half - 1);
        let code = _mm256_and_si256(_mm256_xor_si256(count, sign), mask);
        let code = _mm256_xor_si256(code, _mm256_set1_epi16(half));
        _mm_packus_epi16(_mm256_castsi256_si128(code), _mm256_extracti128_si256::<1>(code))
    }
}

#[inline(always)]
fn look_up(q: __m256i, quantizer: &Quantizer) -> __m128i {
    let mut numbers = [0i16; LANES];
    // SAFETY: as for the implementation above; the array has 32 bytes.
    unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), q) };
    let codes = numbers.map(|q| quantizer.code(q));
    // SAFETY: as above; the array has 16 bytes.
    unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }
}

/// `len` bytes from `at` in the low end of a word; above them, anything.
#[inline(always)]
fn word(packed: &[u8], at: usize, len: usize) -> u64 {
    match packed.get(at..at + 8) {
        Some(bytes) => u64::from_le_bytes(bytes.try_into().expect("the slice has eight bytes")),
        None => {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&packed[at..at + len]);
            u64::from_le_bytes(bytes)
        }
    }
}

/// The levels of the eight codes in `word`.
#[inline(always)]
fn levels(word: u64, quantizer: &Quantizer) -> __m256 {
    let table = quantizer.levels.as_ptr();
    // SAFETY: as for the implementation above; the table has 256 entries, and an index is one byte.
    unsafe {
        let bytes = _mm_cvtsi64_si128(_pdep_u64(word, field(quantizer.nbits)).cast_signed());
        let index = _mm256_cvtepu8_epi32(bytes);
        match quantizer.nbits {
            0..=3 => _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index),
            4 => {
                let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
                let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.add(8)), index);
                let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)); // bit 3 to the sign
                _mm256_blendv_ps(low, high, upper)
            }
            _ => _mm256_i32gather_ps::<4>(table, index),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn encode(
    shape: &Shape<'_>,
    plain: Plain,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    row::encode::<Avx2>(shape, plain, fit, src, scales, codes)
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn decode(shape: &Shape<'_>, plain: Plain, scales: &[f32], codes: &[u8], out: &mut [u8]) {
    row::decode::<Avx2>(shape, plain, scales, codes, out);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn add_rows(head_dim: usize, plain: Plain, rows: &[u8], share: f32, sums: &mut [f32]) {
    row::add_rows::<Avx2>(head_dim, plain, rows, share, sums);
}
