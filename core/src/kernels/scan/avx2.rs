//! AVX2 kernels; see [`super`] for the plan.

use super::{BLOCK, Layout, Piece, Split, Tables, scalar};
use core::arch::x86_64::*;

/// Tokens of a vector of bytes.
const LANES: usize = 32;

#[target_feature(enable = "avx2")]
pub(super) fn products(split: Split, table: &[f32], q: &[f32], lut: &mut [f32]) {
    const V: usize = 2;
    let (ksub, width) = (split.ksub, split.m * split.ksub);
    for (q, lut) in q.chunks_exact(split.d).zip(lut.chunks_exact_mut(width)) {
        for (s, lut) in lut.chunks_exact_mut(ksub).enumerate() {
            let (_, columns) = split.table(s, table);
            let q = &q[split.start(s)..split.start(s + 1)];
            for (b, out) in lut.chunks_exact_mut(V * 8).enumerate() {
                let mut acc = [_mm256_setzero_ps(); V];
                for (&q, column) in q.iter().zip(columns.chunks_exact(ksub)) {
                    let x = _mm256_set1_ps(q);
                    let column = column[b * V * 8..][..V * 8].as_chunks::<8>().0;
                    for (acc, lanes) in acc.iter_mut().zip(column) {
                        // SAFETY: `lanes` is one vector long.
                        let c = unsafe { _mm256_loadu_ps(lanes.as_ptr()) };
                        *acc = _mm256_add_ps(*acc, _mm256_mul_ps(x, c));
                    }
                }
                for (lanes, acc) in out.as_chunks_mut::<8>().0.iter_mut().zip(acc) {
                    // SAFETY: `lanes` is one vector long.
                    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
                }
            }
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn extremes(ksub: usize, lut: &[f32], extremes: &mut [(f32, f32)]) {
    scalar::extremes(ksub, lut, extremes);
}

#[target_feature(enable = "avx2")]
pub(super) fn quantize(layout: Layout, lut: &[f32], extremes: &[(f32, f32)], steps: f32, out: &mut [u8]) {
    scalar::quantize(layout, layout.nbits == 6, lut, extremes, steps, out);
}

#[target_feature(enable = "avx2")]
pub(super) fn scan<'a>(
    tables: Tables<'_>,
    n: usize,
    pieces: impl Iterator<Item = Piece<'a>>,
    scores: &mut [u16],
) {
    if tables.layout.nbits == 8 {
        return scalar::scan(tables, n, pieces, scores);
    }
    let mut at = 0;
    for piece in pieces {
        let (len, start) = (piece.tokens.len(), piece.tokens.start);
        for (table, scores) in tables.heads().zip(scores.chunks_exact_mut(n)) {
            for (tile, scores) in scores[at..at + len].chunks_mut(LANES).enumerate() {
                // The rest of a piece is scored as a whole vector: what lies behind it in the block, or, at the
                // block's end, before it.
                let token = (start + tile * LANES).min(BLOCK - LANES);
                let skip = start + tile * LANES - token;
                let sums = match tables.layout.nbits {
                    4 => sums4(tables.layout, table, piece.block, token),
                    _ => sums6(table, piece.block, token),
                };
                if scores.len() == LANES {
                    // SAFETY: there is room for two vectors.
                    unsafe {
                        _mm256_storeu_si256(scores.as_mut_ptr().cast(), sums[0]);
                        _mm256_storeu_si256(scores.as_mut_ptr().add(16).cast(), sums[1]);
                    }
                } else {
                    let mut all = [0_u16; LANES];
                    // SAFETY: `all` is two vectors long.
                    unsafe {
                        _mm256_storeu_si256(all.as_mut_ptr().cast(), sums[0]);
                        _mm256_storeu_si256(all.as_mut_ptr().add(16).cast(), sums[1]);
                    }
                    scores.copy_from_slice(&all[skip..skip + scores.len()]);
                }
            }
        }
        at += len;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..LANES];
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Sixteen bytes, twice.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..16];
    // SAFETY: 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Sums of 32 tokens. A table of 64 entries is four of 16, each but the first less (by exclusive or) the one before: a
/// shuffle gives zero where its index, the code less 16, 32 or 48, is negative, so that the differences add up to the
/// entry.
#[inline]
#[target_feature(enable = "avx2")]
fn sums6(table: &[u8], block: &[u8], at: usize) -> [__m256i; 2] {
    let (mut a, mut b) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (table, stream) in table.chunks_exact(128).zip(block.chunks_exact(BLOCK)) {
        let x = load(&stream[at..]);
        let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let (mut low_before, mut high_before) = (low, high);
        for (k, less) in [0, 16, 32, 48].into_iter().enumerate() {
            let index = _mm256_sub_epi8(x, _mm256_set1_epi8(less));
            let (low_table, high_table) = (twice(&table[16 * k..]), twice(&table[64 + 16 * k..]));
            low = _mm256_xor_si256(low, _mm256_shuffle_epi8(_mm256_xor_si256(low_table, low_before), index));
            high =
                _mm256_xor_si256(high, _mm256_shuffle_epi8(_mm256_xor_si256(high_table, high_before), index));
            (low_before, high_before) = (low_table, high_table);
        }
        a = _mm256_add_epi16(a, _mm256_unpacklo_epi8(low, high));
        b = _mm256_add_epi16(b, _mm256_unpackhi_epi8(low, high));
    }
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// Sums of 32 tokens: four vectors of words become four vectors of the words' first, second, .. bytes, and each half of a
/// byte looks up its own 16 entries.
#[inline]
#[target_feature(enable = "avx2")]
fn sums4(layout: Layout, table: &[u8], block: &[u8], at: usize) -> [__m256i; 2] {
    let code = _mm256_set1_epi8(15);
    #[rustfmt::skip]
    let by_place = _mm256_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    );
    let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for w in 0..layout.streams() {
        let words = &block[w * 4 * BLOCK..][..4 * BLOCK][4 * at..];
        let (table, _) = table[w * 128..].split_at(128);
        let mut x = [_mm256_setzero_si256(); 4];
        for (v, x) in x.iter_mut().enumerate() {
            *x = _mm256_shuffle_epi8(load(&words[v * LANES..]), by_place);
        }
        // A lane holds four tokens' bytes of place 0, then 1, 2, 3: a transpose of 32-bit numbers within lanes.
        let (a, b) = (_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[0], x[1]));
        let (c, d) = (_mm256_unpacklo_epi32(x[2], x[3]), _mm256_unpackhi_epi32(x[2], x[3]));
        let places = [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ];
        for (p, x) in places.into_iter().enumerate() {
            let low = _mm256_shuffle_epi8(twice(&table[16 * p..]), _mm256_and_si256(x, code));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(x), code);
            let high = _mm256_shuffle_epi8(twice(&table[64 + 16 * p..]), high);
            // Whole 16-bit sums hold 256 times the odd tokens' too, which come off at the end.
            even = _mm256_add_epi16(even, _mm256_add_epi16(low, high));
            odd = _mm256_add_epi16(
                odd,
                _mm256_add_epi16(_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high)),
            );
        }
    }
    even = _mm256_sub_epi16(even, _mm256_slli_epi16::<8>(odd));
    // Lane l, pair i of the vectors' tokens: vector v holds tokens 8v..8v + 8, four to a lane.
    let (a, b) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
    // a: lane 0 has vectors 0, 1's first four tokens, lane 1 their last four; b likewise of vectors 2, 3.
    let order = |x| _mm256_permute4x64_epi64::<0b11_01_10_00>(x);
    [order(a), order(b)]
}

#[target_feature(enable = "avx2")]
pub(super) fn cell_scores(entries: &[u16; 128], counts: &[u32], out: &mut [u16]) {
    scalar::cell_scores(entries, counts, out);
}

#[target_feature(enable = "avx2")]
pub(super) fn count_above(keys: &[u32], counts: &[u32], t: u32) -> u32 {
    scalar::count_above(keys, counts, t)
}
