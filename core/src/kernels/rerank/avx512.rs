//! 64 codes a vector: spread over 64-bit lanes of eight, cut out by one multishift, looked up by one byte permute.

use super::{Heads, MAX_DIM, PAD, Records, SLACK, TILE};
use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256,
    _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi64, _mm512_cvtepu32_epi64, _mm512_dpbusd_epi32,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_mul_ps,
    _mm512_multishift_epi64_epi8, _mm512_permutexvar_epi8, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_store_si512, _mm512_sub_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_zextsi256_si512,
};

/// Tokens whose records are asked for before they are read, into the second-level cache: the first has fewer places for what is
/// on its way.
const AHEAD: usize = 6 * TILE;

/// Rows up to this long have a buffer of their own size.
const SHORT: usize = 256;

#[repr(align(64))]
struct Wide<const D: usize>([[u8; D]; TILE]);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scores_of<const NBITS: usize, const D: usize>(
    records: Records<'_>,
    levels: &[i8; 16],
    heads: Heads<'_>,
    tokens: &[u32],
    out: &mut [f32],
) {
    let mut wide = Wide([[0; D]; TILE]);
    let spread = Spread::<NBITS>::new(levels);
    let mut factors = [0.0f32; TILE];
    for (t, tile) in tokens.chunks(TILE).enumerate() {
        for (i, row) in wide.0.iter_mut().enumerate() {
            if let Some(&next) = tokens.get(t * TILE + i + AHEAD) {
                let record = records.get(next).as_ptr();
                _mm_prefetch::<_MM_HINT_T1>(record.cast());
                _mm_prefetch::<_MM_HINT_T1>(record.wrapping_add(records.stride - 1).cast());
            }
            // Past the last token: its bytes again, whose scores are not stored.
            let record = records.get(tile[i.min(tile.len() - 1)]);
            factors[i] = records.factor(record);
            for (block, wide) in row[..heads.padded].as_chunks_mut::<PAD>().0.iter_mut().enumerate() {
                // Blocks begin inside the codes: a record is as long as its row, and `PAD` divides only the padding.
                let codes = &record[block * PAD * NBITS / 8..];
                debug_assert!(codes.len() >= SLACK);
                // SAFETY: `wide` is 64 bytes in an aligned array, at a multiple of 64.
                unsafe { _mm512_store_si512(wide.as_mut_ptr().cast(), spread.widen(codes)) };
            }
        }
        // SAFETY: `factors` holds 16 numbers.
        let factors = unsafe { _mm512_loadu_ps(factors.as_ptr()) };
        for (h, query) in heads.queries.chunks_exact(heads.padded).enumerate() {
            let mut sums = [_mm512_setzero_si512(); TILE];
            for (block, query) in query.as_chunks::<PAD>().0.iter().enumerate() {
                // SAFETY: `query` is 64 bytes.
                let query = unsafe { _mm512_loadu_si512(query.as_ptr().cast()) };
                for (i, sum) in sums.iter_mut().enumerate() {
                    let row = &wide.0[i][block * PAD..][..PAD];
                    // SAFETY: `row` is 64 bytes in an aligned array, at a multiple of 64.
                    let row = unsafe { _mm512_load_si512(row.as_ptr().cast()) };
                    *sum = _mm512_dpbusd_epi32(*sum, row, query);
                }
            }
            let exact = _mm512_sub_epi32(add_up(sums), _mm512_set1_epi32(heads.excess[h]));
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), factors);
            let scores = _mm512_mul_ps(scaled, _mm512_set1_ps(heads.units[h]));
            let out = &mut out[h * tokens.len() + t * TILE..][..tile.len()];
            // SAFETY: the mask has a bit for each element of `out`.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask_of(out.len()), scores) };
        }
    }
}

/// The lowest `n` of 16 bits.
#[allow(clippy::cast_possible_truncation, reason = "at most 16 bits are set")]
fn mask_of(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// How 64 codes become 64 bytes of `level + 128`.
struct Spread<const NBITS: usize> {
    /// Three bytes for each 64-bit lane.
    triples: __m512i,
    shifts: __m512i,
    /// The levels, repeated, so that bits above the code do not matter.
    table: __m512i,
}

impl<const NBITS: usize> Spread<NBITS> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn new(levels: &[i8; 16]) -> Self {
        let (mut triples, mut table) = ([0u8; 64], [0u8; 64]);
        for (i, (triple, entry)) in (0u8..).zip(triples.iter_mut().zip(&mut table)) {
            *triple = i / 8 * 3 + i % 8;
            *entry = (levels[usize::from(i) % (1 << NBITS)] as u8) ^ 0x80;
        }
        let shifts = i64::from_le_bytes(core::array::from_fn(|i| (i * NBITS).to_le_bytes()[0]));
        // SAFETY: both arrays are 64 bytes.
        let (triples, table) = unsafe {
            (_mm512_loadu_si512(triples.as_ptr().cast()), _mm512_loadu_si512(table.as_ptr().cast()))
        };
        Self { triples, shifts: _mm512_set1_epi64(shifts), table }
    }

    /// The first 64 codes of `codes`, which has at least 32 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn widen(&self, codes: &[u8]) -> __m512i {
        let codes = &codes[..32];
        let lanes = if NBITS == 2 {
            // SAFETY: `codes` has 32 bytes.
            _mm512_cvtepu16_epi64(unsafe { _mm_loadu_si128(codes.as_ptr().cast::<__m128i>()) })
        } else {
            // SAFETY: `codes` has 32 bytes.
            let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast::<__m256i>()) };
            if NBITS == 3 {
                _mm512_permutexvar_epi8(self.triples, _mm512_zextsi256_si512(codes))
            } else {
                _mm512_cvtepu32_epi64(codes)
            }
        };
        _mm512_permutexvar_epi8(_mm512_multishift_epi64_epi8(self.shifts, lanes), self.table)
    }
}

/// Lane `i` of the result is the sum of the sixteen lanes of `sums[i]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn add_up(sums: [__m512i; TILE]) -> __m512i {
    let mut quarters = [_mm512_setzero_si512(); 4];
    for (quarter, s) in quarters.iter_mut().zip(sums.as_chunks::<4>().0) {
        *quarter = four(pair(s[0], s[1]), pair(s[2], s[3]));
    }
    let [q0, q1, q2, q3] = quarters;
    halves(halves(q0, q1), halves(q2, q3))
}

// Functions and not closures, which are not inlined where they are called from functions without the features.

/// In each 128-bit lane `[a0 + a2, b0 + b2, a1 + a3, b1 + b3]`.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}

/// In each 128-bit lane, of two pairs, a sum for each of the four.
#[inline]
#[target_feature(enable = "avx512f")]
fn four(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// Lanes of 128 bits: of `a` even and odd ones added, then of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(a: __m512i, b: __m512i) -> __m512i {
    let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
    _mm512_add_epi32(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
}
