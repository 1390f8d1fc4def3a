//! 32 codes a vector; products by magnitudes and moved signs, whose pairs fit 16 bits.

use super::{Heads, MAX_DIM, PAD, Records, SLACK, TILE, scalar};
use core::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_loadl_epi64, _mm_loadu_si128, _mm_storeu_si128, _mm256_abs_epi8,
    _mm256_add_epi32, _mm256_and_si256, _mm256_blend_epi16, _mm256_broadcastsi128_si256,
    _mm256_castsi256_si128, _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_hadd_epi32,
    _mm256_load_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_or_si256,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setr_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_sign_epi8, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi16,
    _mm256_srlv_epi32, _mm256_store_si256,
};

const LANES: usize = 32;

/// Rows up to this long have a buffer of their own size.
const SHORT: usize = 256;

#[repr(align(64))]
struct Wide<const D: usize>([[i8; D]; TILE]);

#[target_feature(enable = "avx2")]
pub(super) fn scores(
    records: Records<'_>,
    levels: &[i8; 16],
    heads: Heads<'_>,
    tokens: &[u32],
    out: &mut [f32],
) {
    // Common rows take a small buffer, which is cheap to clear.
    match (records.nbits, heads.padded <= SHORT) {
        (2, true) => scores_of::<2, SHORT>(records, levels, heads, tokens, out),
        (3, true) => scores_of::<3, SHORT>(records, levels, heads, tokens, out),
        (_, true) => scores_of::<4, SHORT>(records, levels, heads, tokens, out),
        (2, false) => scores_of::<2, MAX_DIM>(records, levels, heads, tokens, out),
        (3, false) => scores_of::<3, MAX_DIM>(records, levels, heads, tokens, out),
        (_, false) => scores_of::<4, MAX_DIM>(records, levels, heads, tokens, out),
    }
}

#[target_feature(enable = "avx2")]
fn scores_of<const NBITS: usize, const D: usize>(
    records: Records<'_>,
    levels: &[i8; 16],
    heads: Heads<'_>,
    tokens: &[u32],
    out: &mut [f32],
) {
    let mut wide = Wide([[0; D]; TILE]);
    let table = table::<NBITS>(levels);
    let mut factors = [0.0f32; TILE];
    for (t, tile) in tokens.chunks(TILE).enumerate() {
        for (i, row) in wide.0.iter_mut().enumerate() {
            // Past the last token: its bytes again, whose scores are not stored.
            let record = records.get(tile[i.min(tile.len() - 1)]);
            factors[i] = records.factor(record);
            for (block, wide) in row[..heads.padded].as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let codes = &record[block * LANES * NBITS / 8..];
                debug_assert!(codes.len() >= SLACK / 2);
                // SAFETY: `wide` is 32 bytes in an aligned array, at a multiple of 32.
                unsafe { _mm256_store_si256(wide.as_mut_ptr().cast(), widen::<NBITS>(table, codes)) };
            }
        }
        for (h, query) in heads.queries.chunks_exact(heads.padded).enumerate() {
            debug_assert_eq!(query.len() % PAD, 0);
            for quarter in 0..TILE / 4 {
                let mut sums = [_mm256_setzero_si256(); 4];
                for (block, query) in query.as_chunks::<LANES>().0.iter().enumerate() {
                    // SAFETY: `query` is 32 bytes.
                    let query = unsafe { _mm256_loadu_si256(query.as_ptr().cast()) };
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let row = &wide.0[quarter * 4 + i][block * LANES..][..LANES];
                        // SAFETY: `row` is 32 bytes in an aligned array, at a multiple of 32.
                        let row = unsafe { _mm256_load_si256(row.as_ptr().cast()) };
                        // Two products of at most 127 * 127 fit 16 bits.
                        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(query, row));
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    }
                }
                let mut exact = [0i32; 4];
                // SAFETY: `exact` is 16 bytes.
                unsafe { _mm_storeu_si128(exact.as_mut_ptr().cast(), add_up(sums)) };
                for (i, sum) in exact.into_iter().enumerate() {
                    let i = quarter * 4 + i;
                    if i < tile.len() {
                        let score = scalar::finish(sum, factors[i], heads.units[h]);
                        out[h * tokens.len() + t * TILE + i] = score;
                    }
                }
            }
        }
    }
}

/// The levels for [`widen`]'s shuffle, once in each half. Every second code of two bits arrives times four.
#[target_feature(enable = "avx2")]
fn table<const NBITS: usize>(levels: &[i8; 16]) -> __m256i {
    let table: [i8; 16] = core::array::from_fn(|i| match NBITS {
        2 => levels[if i < 4 { i } else { i / 4 }],
        _ => levels[i % (1 << NBITS)],
    });
    // SAFETY: `table` is 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// The levels of the first 32 codes of `codes`, which has at least 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const NBITS: usize>(table: __m256i, codes: &[u8]) -> __m256i {
    let codes = &codes[..16];
    let indices = match NBITS {
        2 => {
            // Each byte four times; the upper pair of codes moves down by four bits; `c` or `4 c` remains.
            // SAFETY: `codes` has 16 bytes.
            let eight = unsafe { _mm_loadl_epi64(codes.as_ptr().cast::<__m128i>()) };
            let repeat = _mm256_setr_epi8(
                0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7,
                7,
            );
            let bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(eight), repeat);
            let nibbles = _mm256_blend_epi16::<0b1010_1010>(bytes, _mm256_srli_epi16::<4>(bytes));
            _mm256_and_si256(nibbles, _mm256_set1_epi32(0x0c03_0c03))
        }
        3 => {
            // Four codes in the low twelve bits of each 32-bit lane, then each in its byte.
            // SAFETY: `codes` has 16 bytes.
            let twelve = unsafe { _mm_loadu_si128(codes.as_ptr().cast::<__m128i>()) };
            let triples = _mm256_setr_epi8(
                0, 1, -1, -1, 1, 2, -1, -1, 3, 4, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 7, 8, -1, -1, 9, 10,
                -1, -1, 10, 11, -1, -1,
            );
            let lanes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(twelve), triples);
            let x = _mm256_srlv_epi32(lanes, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
            let x0 = _mm256_and_si256(x, _mm256_set1_epi32(0x7));
            let x1 = _mm256_and_si256(_mm256_slli_epi32::<5>(x), _mm256_set1_epi32(0x700));
            let x2 = _mm256_and_si256(_mm256_slli_epi32::<10>(x), _mm256_set1_epi32(0x7_0000));
            let x3 = _mm256_and_si256(_mm256_slli_epi32::<15>(x), _mm256_set1_epi32(0x700_0000));
            _mm256_or_si256(_mm256_or_si256(x0, x1), _mm256_or_si256(x2, x3))
        }
        _ => {
            // SAFETY: `codes` has 16 bytes.
            let bytes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(codes.as_ptr().cast::<__m128i>()) });
            let both = _mm256_or_si256(bytes, _mm256_slli_epi16::<4>(bytes));
            _mm256_and_si256(both, _mm256_set1_epi16(0x0f0f))
        }
    };
    _mm256_shuffle_epi8(table, indices)
}

/// Lane `i` of the result is the sum of the eight lanes of `sums[i]`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_up(sums: [__m256i; 4]) -> __m128i {
    let pair = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    _mm_add_epi32(_mm256_castsi256_si128(pair), _mm256_extracti128_si256::<1>(pair))
}
