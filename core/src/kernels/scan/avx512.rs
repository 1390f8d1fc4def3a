//! AVX-512 kernels; see [`super`] for the plan.

use super::cells::{CellSet, streams};
use super::{BLOCK, Layout, Piece, Split, Tables, scalar};
use crate::kernels::topk::{avx512_indices as indices, lowest};
use core::arch::x86_64::*;
use core::ops::Range;

/// Tokens of a vector of bytes.
const LANES: usize = 64;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn products(split: Split, table: &[f32], q: &[f32], lut: &mut [f32]) {
    let (d, width) = (split.d, split.m * split.ksub);
    let mut heads = q.len() / d;
    let (mut q, mut lut) = (q, lut);
    while heads > 0 {
        let step = if heads >= 4 { 4 } else { 1 };
        let (q_now, q_rest) = q.split_at(step * d);
        let (lut_now, lut_rest) = lut.split_at_mut(step * width);
        match (step, split.ksub) {
            (4, 16) => products_of::<4, 1>(split, table, q_now, lut_now),
            (4, _) => products_of::<4, 4>(split, table, q_now, lut_now),
            (_, 16) => products_of::<1, 1>(split, table, q_now, lut_now),
            (_, 64) => products_of::<1, 4>(split, table, q_now, lut_now),
            _ => products_of::<1, 8>(split, table, q_now, lut_now),
        }
        (q, lut, heads) = (q_rest, lut_rest, heads - step);
    }
}

/// `H` heads, `V` vectors of centroids at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn products_of<const H: usize, const V: usize>(split: Split, table: &[f32], q: &[f32], lut: &mut [f32]) {
    let (ksub, width) = (split.ksub, split.m * split.ksub);
    for s in 0..split.m {
        let (_, columns) = split.table(s, table);
        let (start, dsub) = (split.start(s), split.dsub(s));
        let q: [&[f32]; H] = core::array::from_fn(|h| &q[h * split.d + start..][..dsub]);
        for b in (0..ksub).step_by(V * 16) {
            let mut acc = [[_mm512_setzero_ps(); V]; H];
            for (j, column) in columns.chunks_exact(ksub).enumerate() {
                let column = &column[b..b + V * 16].as_chunks::<16>().0;
                let mut c = [_mm512_setzero_ps(); V];
                for (c, lanes) in c.iter_mut().zip(column.iter()) {
                    // SAFETY: `lanes` is one vector long.
                    *c = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
                }
                for (acc, q) in acc.iter_mut().zip(&q) {
                    let x = _mm512_set1_ps(q[j]);
                    for (acc, c) in acc.iter_mut().zip(c) {
                        *acc = _mm512_add_ps(*acc, _mm512_mul_ps(x, c));
                    }
                }
            }
            for (h, acc) in acc.iter().enumerate() {
                let out = &mut lut[h * width + s * ksub + b..][..V * 16];
                for (lanes, acc) in out.as_chunks_mut::<16>().0.iter_mut().zip(acc) {
                    // SAFETY: `lanes` is one vector long.
                    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), *acc) };
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn extremes(ksub: usize, lut: &[f32], extremes: &mut [(f32, f32)]) {
    scalar::extremes(ksub, lut, extremes);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn quantize(layout: Layout, lut: &[f32], extremes: &[(f32, f32)], steps: f32, out: &mut [u8]) {
    let ksub = 1 << layout.nbits;
    let steps = _mm512_set1_ps(steps);
    for (s, (lut, &(low, _))) in lut.chunks_exact(ksub).zip(extremes).enumerate() {
        let low = _mm512_set1_ps(low);
        let (first, planes) =
            if layout.nbits == 4 { (scalar::nibble_at(s, 0), false) } else { (s * 2 * ksub, true) };
        let (lows, highs) = out[first..].split_at_mut(ksub);
        for (v, lanes) in lut.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: `lanes` is one vector long.
            let x = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
            let x = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, low), steps));
            store16(&mut lows[v * 16..], _mm512_cvtepi32_epi8(x));
            if planes {
                store16(&mut highs[v * 16..], _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(x)));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store16(out: &mut [u8], x: __m128i) {
    let out = &mut out[..16];
    // SAFETY: `out` has room for the 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), x) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn scan<'a>(
    tables: Tables<'_>,
    n: usize,
    pieces: impl Iterator<Item = Piece<'a>>,
    scores: &mut [u16],
) {
    let size = tables.layout.table_bytes();
    let mut at = 0;
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let len = piece.tokens.len();
        // A block's arrays are half a page each, too short for what processors fetch by themselves.
        let mut ahead = pieces.peek().map_or(&[][..], |next| next.block);
        let (mut bytes, mut first) = (tables.bytes, at);
        while !bytes.is_empty() {
            let step = match bytes.len() / size {
                4.. => 4,
                2 | 3 => 2,
                _ => 1,
            };
            let (now, rest) = bytes.split_at(step * size);
            match (step, tables.layout.nbits) {
                (1, 4) => scan_piece::<4, 8, 1>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (2, 4) => scan_piece::<4, 2, 2>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (_, 4) => scan_piece::<4, 1, 4>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (1, 6) => scan_piece::<6, 4, 1>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (2, 6) => scan_piece::<6, 4, 2>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (_, 6) => scan_piece::<6, 2, 4>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (1, _) => scan_piece::<8, 8, 1>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                (2, _) => scan_piece::<8, 4, 2>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
                _ => scan_piece::<8, 2, 4>(tables.layout, now, &piece, ahead, n, &mut scores[first..]),
            }
            // The other heads find it on its way.
            (bytes, ahead) = (rest, &[]);
            first += step * n;
        }
        at += len;
    }
}

/// Scores of one piece for `H` heads, the rows of which lie `n` apart. A few tokens first, up to a vector's start. Memory is asked
/// for the same tokens of the block `ahead`, if there is one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn scan_piece<const NBITS: u8, const T: usize, const H: usize>(
    layout: Layout,
    tables: &[u8],
    piece: &Piece<'_>,
    ahead: &[u8],
    n: usize,
    scores: &mut [u16],
) {
    let Range { start, end } = piece.tokens;
    let mut at = start;
    while at < end {
        let to = end.min((at + 1).next_multiple_of(LANES));
        if at.is_multiple_of(LANES) && end - at >= T * LANES {
            for stream in ahead.chunks_exact(BLOCK * layout.stride()) {
                for line in stream[at * layout.stride()..][..T * LANES * layout.stride()].chunks(LANES) {
                    _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
                }
            }
            tile::<NBITS, T, H>(layout, tables, piece.block, at, T * LANES, n, &mut scores[at - start..]);
            at += T * LANES;
        } else {
            tile::<NBITS, 1, H>(layout, tables, piece.block, at, to - at, n, &mut scores[at - start..]);
            at = to;
        }
    }
}

/// `T` vectors of 64 tokens, the last of which may be a part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn tile<const NBITS: u8, const T: usize, const H: usize>(
    layout: Layout,
    tables: &[u8],
    block: &[u8],
    at: usize,
    len: usize,
    n: usize,
    scores: &mut [u16],
) {
    let sums = match NBITS {
        4 => sums4::<T, H>(layout, tables, block, at, len),
        6 => sums6::<T, H>(layout, tables, block, at, len),
        _ => sums8::<T, H>(layout, tables, block, at, len),
    };
    for (h, sums) in sums.iter().enumerate() {
        let scores = &mut scores[h * n..][..len];
        for (t, [low, high]) in sums.iter().enumerate() {
            let at = &mut scores[t * LANES..];
            if at.len() >= LANES {
                // SAFETY: there is room for 64 scores.
                unsafe {
                    _mm512_storeu_si512(at.as_mut_ptr().cast(), *low);
                    _mm512_storeu_si512(at.as_mut_ptr().add(32).cast(), *high);
                }
            } else {
                let mask = mask64(at.len());
                #[allow(clippy::cast_possible_truncation, reason = "the low and the high half of the mask")]
                // SAFETY: the masks keep to the elements of `at`.
                unsafe {
                    _mm512_mask_storeu_epi16(at.as_mut_ptr().cast(), mask as u32, *low);
                    let high_at = at.as_mut_ptr().wrapping_add(32);
                    _mm512_mask_storeu_epi16(high_at.cast(), (mask >> 32) as u32, *high);
                }
            }
        }
    }
}

/// The lowest `n` of 64 lanes.
const fn mask64(n: usize) -> __mmask64 {
    if n >= LANES { u64::MAX } else { (1 << n) - 1 }
}

/// 64 bytes of codes from token `at` on; only the first `len` are read, none if `at` lies beyond the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn codes(stream: &[u8], at: usize, len: usize) -> __m512i {
    if len >= LANES {
        let bytes = &stream[at..at + LANES];
        // SAFETY: 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    } else if len == 0 {
        _mm512_setzero_si512()
    } else {
        let bytes = &stream[at..at + len];
        // SAFETY: the mask keeps to the bytes.
        unsafe { _mm512_maskz_loadu_epi8(mask64(len), bytes.as_ptr().cast()) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; LANES]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Sums of 64 tokens as unpacking leaves them, put in the order of the tokens.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order([a, b]: [__m512i; 2]) -> [__m512i; 2] {
    let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    [_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b)]
}

/// 16-bit sums of `T` vectors of tokens for `H` heads, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn sums6<const T: usize, const H: usize>(
    layout: Layout,
    tables: &[u8],
    block: &[u8],
    at: usize,
    len: usize,
) -> [[[__m512i; 2]; T]; H] {
    let mut sums = [[[_mm512_setzero_si512(); 2]; T]; H];
    let mut heads: [&[[u8; LANES]]; H] = [&[]; H];
    for (head, table) in heads.iter_mut().zip(tables.chunks_exact(layout.m * 128)) {
        *head = table.as_chunks().0;
    }
    for (s, stream) in block.chunks_exact(BLOCK).enumerate() {
        let mut x = [_mm512_setzero_si512(); T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = codes(stream, at + t * LANES, len - t * LANES);
        }
        for (sums, table) in sums.iter_mut().zip(heads) {
            let (lows, highs) = (load(&table[2 * s]), load(&table[2 * s + 1]));
            for ([a, b], &x) in sums.iter_mut().zip(&x) {
                let (low, high) = (_mm512_permutexvar_epi8(x, lows), _mm512_permutexvar_epi8(x, highs));
                *a = _mm512_add_epi16(*a, _mm512_unpacklo_epi8(low, high));
                *b = _mm512_add_epi16(*b, _mm512_unpackhi_epi8(low, high));
            }
        }
    }
    for sums in &mut sums {
        for sums in sums {
            *sums = in_order(*sums);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn sums8<const T: usize, const H: usize>(
    layout: Layout,
    tables: &[u8],
    block: &[u8],
    at: usize,
    len: usize,
) -> [[[__m512i; 2]; T]; H] {
    let mut sums = [[[_mm512_setzero_si512(); 2]; T]; H];
    let tables: [&[[[u8; LANES]; 8]]; H] =
        core::array::from_fn(|h| tables[h * layout.m * 512..][..layout.m * 512].as_chunks().0.as_chunks().0);
    for (s, stream) in block.chunks_exact(BLOCK).enumerate() {
        for (sums, table) in sums.iter_mut().zip(tables) {
            let table: [__m512i; 8] = {
                let mut out = [_mm512_setzero_si512(); 8];
                for (out, bytes) in out.iter_mut().zip(&table[s]) {
                    *out = load(bytes);
                }
                out
            };
            for (t, [a, b]) in sums.iter_mut().enumerate() {
                let x = codes(stream, at + t * LANES, len - t * LANES);
                let upper = _mm512_movepi8_mask(x);
                let low = _mm512_mask_blend_epi8(
                    upper,
                    _mm512_permutex2var_epi8(table[0], x, table[1]),
                    _mm512_permutex2var_epi8(table[2], x, table[3]),
                );
                let high = _mm512_mask_blend_epi8(
                    upper,
                    _mm512_permutex2var_epi8(table[4], x, table[5]),
                    _mm512_permutex2var_epi8(table[6], x, table[7]),
                );
                *a = _mm512_add_epi16(*a, _mm512_unpacklo_epi8(low, high));
                *b = _mm512_add_epi16(*b, _mm512_unpackhi_epi8(low, high));
            }
        }
    }
    for sums in &mut sums {
        for sums in sums {
            *sums = in_order(*sums);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
fn sums4<const T: usize, const H: usize>(
    layout: Layout,
    tables: &[u8],
    block: &[u8],
    at: usize,
    len: usize,
) -> [[[__m512i; 2]; T]; H] {
    let size = layout.table_bytes();
    let tables: [&[[u8; LANES]]; H] = core::array::from_fn(|h| tables[h * size..][..size].as_chunks().0);
    let code = _mm512_set1_epi8(15);
    let place = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    let mut out = [[[_mm512_setzero_si512(); 2]; T]; H];
    for t in 0..T {
        let len = len - t * LANES;
        let mut sums = [[_mm512_setzero_si512(); 4]; H];
        for (w, stream) in block.chunks_exact(4 * BLOCK).enumerate() {
            let mut lows = [_mm512_setzero_si512(); 4];
            let mut highs = lows;
            for (v, (low, high)) in lows.iter_mut().zip(&mut highs).enumerate() {
                let x = codes(stream, 4 * (at + t * LANES) + v * LANES, (4 * len).saturating_sub(v * LANES));
                // (x & 15) | place
                *low = _mm512_ternarylogic_epi32::<0xf8>(place, x, code);
                *high = _mm512_ternarylogic_epi32::<0xf8>(place, _mm512_srli_epi32::<4>(x), code);
            }
            for (sums, table) in sums.iter_mut().zip(tables) {
                let (low_table, high_table) = (load(&table[2 * w]), load(&table[2 * w + 1]));
                for ((sum, low), high) in sums.iter_mut().zip(lows).zip(highs) {
                    *sum = _mm512_dpbusd_epi32(*sum, _mm512_permutexvar_epi8(low, low_table), ones);
                    *sum = _mm512_dpbusd_epi32(*sum, _mm512_permutexvar_epi8(high, high_table), ones);
                }
            }
        }
        for (out, [a, b, c, d]) in out.iter_mut().zip(sums) {
            // Narrowing goes by quarters: a's and b's take turns.
            let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            out[t] = [
                _mm512_permutexvar_epi64(order, _mm512_packus_epi32(a, b)),
                _mm512_permutexvar_epi64(order, _mm512_packus_epi32(c, d)),
            ];
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn cell_scores(entries: &[u16; 128], counts: &[u32], out: &mut [u16]) {
    scalar::cell_scores(entries, counts, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn count_above(keys: &[u32], counts: &[u32], t: u32) -> u32 {
    scalar::count_above(keys, counts, t)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_u32(x: &[u32; 16]) -> __m512i {
    // SAFETY: `x` is one vector long.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2,popcnt")]
pub(super) fn keep(keys: &[u32], counts: &[u32], [low, high]: [u32; 2], out: [&mut [u32]; 2]) -> usize {
    let bounds = [low, high].map(|x| _mm512_set1_epi32(x.cast_signed()));
    let (whole, keys_rest) = keys.as_chunks::<16>();
    let (whole_counts, counts_rest) = counts.as_chunks::<16>();
    let [keys_out, counts_out] = out;
    let mut n = 0;
    for (keys, counts) in whole.iter().zip(whole_counts) {
        let (keys, counts) = (load_u32(keys), load_u32(counts));
        let mask = _mm512_cmpge_epu32_mask(keys, bounds[0]) & _mm512_cmple_epu32_mask(keys, bounds[1]);
        let (keys_out, counts_out) = (&mut keys_out[n..n + 16], &mut counts_out[n..n + 16]);
        // SAFETY: 16 elements each.
        unsafe {
            _mm512_storeu_si512(keys_out.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, keys));
            _mm512_storeu_si512(counts_out.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, counts));
        }
        n += mask.count_ones() as usize;
    }
    n + scalar::keep(keys_rest, counts_rest, [low, high], [&mut keys_out[n..], &mut counts_out[n..]])
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2")]
pub(super) fn sets(keys: &[u32], t: u32, above: &mut CellSet, at_least: &mut CellSet) {
    let t = _mm512_set1_epi32(t.cast_signed());
    for (row, keys) in keys.as_chunks::<64>().0.iter().enumerate() {
        (above.0[row], at_least.0[row]) = (0, 0);
        for (part, keys) in keys.as_chunks::<16>().0.iter().enumerate() {
            let keys = load_u32(keys);
            above.0[row] |= u64::from(_mm512_cmpgt_epu32_mask(keys, t)) << (16 * part);
            at_least.0[row] |= u64::from(_mm512_cmpge_epu32_mask(keys, t)) << (16 * part);
        }
    }
}

/// Which of 64 tokens are in a set.
struct Members {
    set: [__m512i; 8],
}

/// What all look-ups in sets share: the place of a row's bytes within 128, a column's byte, and its bit.
struct Places {
    row: __m512i,
    byte: __m512i,
    bit: __m512i,
}

impl Places {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        let table = |f: fn(u8) -> u8| {
            let mut bytes = [0; LANES];
            for (c, byte) in (0..).zip(&mut bytes) {
                *byte = f(c);
            }
            load(&bytes)
        };
        Self { row: table(|c| (c & 15) << 3), byte: table(|c| c >> 3), bit: table(|c| 1 << (c & 7)) }
    }
}

impl Members {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(set: &CellSet) -> Self {
        let mut out = [_mm512_setzero_si512(); 8];
        for (out, bytes) in out.iter_mut().zip(set.bytes().as_chunks().0) {
            *out = load(bytes);
        }
        Self { set: out }
    }

    /// The mask of the tokens with these codes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn of(&self, places: &Places, rows: __m512i, columns: __m512i) -> u64 {
        let at = _mm512_or_si512(
            _mm512_permutexvar_epi8(rows, places.row),
            _mm512_permutexvar_epi8(columns, places.byte),
        );
        let quarters = [
            _mm512_permutex2var_epi8(self.set[0], at, self.set[1]),
            _mm512_permutex2var_epi8(self.set[2], at, self.set[3]),
            _mm512_permutex2var_epi8(self.set[4], at, self.set[5]),
            _mm512_permutex2var_epi8(self.set[6], at, self.set[7]),
        ];
        let odd = _mm512_test_epi8_mask(rows, _mm512_set1_epi8(16));
        let upper = _mm512_test_epi8_mask(rows, _mm512_set1_epi8(32));
        let low = _mm512_mask_blend_epi8(odd, quarters[0], quarters[1]);
        let high = _mm512_mask_blend_epi8(odd, quarters[2], quarters[3]);
        let bytes = _mm512_mask_blend_epi8(upper, low, high);
        _mm512_test_epi8_mask(bytes, _mm512_permutexvar_epi8(columns, places.bit))
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx2,bmi1,bmi2,popcnt"
)]
pub(super) fn emit_cells<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    above: &CellSet,
    at_least: &CellSet,
    mut ties: usize,
    out: &mut [u32],
) -> usize {
    let places = Places::new();
    let (above, at_least) = (Members::new(above), Members::new(at_least));
    let (mut n, mut first) = (0, 0_u32);
    for piece in pieces {
        let [rows, columns] = streams(&piece);
        let len = rows.len();
        for at in (0..len).step_by(LANES) {
            let left = len - at;
            let (rows, columns) = (codes(rows, at, left), codes(columns, at, left));
            let mut mask = above.of(&places, rows, columns);
            if ties > 0 {
                let equal = at_least.of(&places, rows, columns) & !mask & mask64(left);
                mask |= lowest(equal, &mut ties);
            }
            mask &= mask64(left);
            if mask != 0 {
                if let Some(out) = out.get_mut(n..).and_then(|out| out.first_chunk_mut()) {
                    indices(mask, first, out);
                    n += mask.count_ones() as usize;
                } else {
                    while mask != 0 {
                        out[n] = first + mask.trailing_zeros();
                        n += 1;
                        mask &= mask - 1;
                    }
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
            {
                first += left.min(LANES) as u32;
            }
        }
    }
    n
}
