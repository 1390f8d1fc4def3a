//! AVX-512 kernels; see [`super`] for the plan.

use super::tiles::{self, Ahead, Steps, code_of};
use super::{BLOCK, Split, scalar};
use core::arch::x86_64::*;

const LANES: usize = 16;

/// Vectors of rows in a full tile.
const TALL: usize = 3;

/// Centroids of a tile: `TALL * WIDTH` sums, `TALL` vectors of rows and a coordinate fit the 32 registers.
const WIDTH: usize = 8;

/// Rows that are better taken one by one than as a vector that is mostly padding.
const FEW: usize = 2;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
pub(super) fn nearest(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    if tiles::suit(split, rows, FEW) {
        return nearest_tiles(split, table, rows, codes);
    }
    tiles::row_by_row(split, rows, codes, |row, codes| nearest_row(split, table, row, codes))
}

/// Lanes across rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn nearest_tiles(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    tiles::nearest::<Avx512, TALL, LANES, { TALL * LANES }>(split, table, rows, codes)
}

/// This level's steps.
struct Avx512;

impl Steps for Avx512 {
    const LANES: usize = LANES;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn transpose<const N: usize>(rows: &[f32], d: usize, first: usize, columns: &mut [[f32; N]]) {
        // SAFETY: only `nearest_tiles` names this type, and it runs after detection saw the features.
        unsafe { transpose(rows, d, first, columns) }
    }

    #[inline(always)]
    fn nearest_lanes<const R: usize, const N: usize, const KSUB: usize>(
        half_norms: &[f32],
        centroids: &[f32],
        columns: &[[f32; N]],
        ahead: &mut Ahead<'_>,
    ) -> [u8; N] {
        // SAFETY: as above.
        unsafe { nearest_lanes::<R, N, KSUB>(half_norms, centroids, columns, ahead) }
    }
}

/// The nearest centroid of each of `R` vectors of rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn nearest_lanes<const R: usize, const N: usize, const KSUB: usize>(
    half_norms: &[f32],
    centroids: &[f32],
    columns: &[[f32; N]],
    ahead: &mut Ahead<'_>,
) -> [u8; N] {
    let local: [__m512i; WIDTH] = core::array::from_fn(|c| _mm512_set1_epi32(i32::from(code_of(c))));
    let mut best = [_mm512_set1_ps(f32::INFINITY); R];
    let mut index = [_mm512_setzero_si512(); R];
    for (b, half) in half_norms.as_chunks::<WIDTH>().0.iter().enumerate() {
        ahead.ask();
        let mut acc = half.map(|half| [_mm512_set1_ps(half); R]);
        let coordinates = centroids.as_chunks::<KSUB>().0.iter().map(|c| &c.as_chunks::<WIDTH>().0[b]);
        for (column, coordinates) in columns.iter().zip(coordinates) {
            let mut x = [_mm512_setzero_ps(); R];
            for (x, lanes) in x.iter_mut().zip(column.as_chunks::<LANES>().0) {
                *x = load(lanes);
            }
            for (acc, c) in acc.iter_mut().zip(coordinates) {
                let c = _mm512_set1_ps(*c);
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = _mm512_fnmadd_ps(x, c, *acc);
                }
            }
        }
        // A knock-out among the block's centroids, whose winner meets the best so far: short chains of comparisons,
        // which the next block's products overlap. A left side is never beaten by an equal, so ties stay low.
        let base = _mm512_set1_epi32(i32::from(code_of(b * WIDTH)));
        for r in 0..R {
            let mut score = acc.map(|acc| acc[r]);
            let mut at = local;
            let mut left = WIDTH;
            while left > 1 {
                left /= 2;
                for i in 0..left {
                    let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(score[2 * i + 1], score[2 * i]);
                    score[i] = _mm512_mask_mov_ps(score[2 * i], less, score[2 * i + 1]);
                    at[i] = _mm512_mask_mov_epi32(at[2 * i], less, at[2 * i + 1]);
                }
            }
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(score[0], best[r]);
            best[r] = _mm512_mask_mov_ps(best[r], less, score[0]);
            index[r] = _mm512_mask_add_epi32(index[r], less, at[0], base);
        }
    }
    let mut codes = [0; N];
    for (codes, index) in codes.as_chunks_mut::<LANES>().0.iter_mut().zip(index) {
        // SAFETY: `codes` has room for the 16 bytes.
        unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(index)) };
    }
    codes
}

/// Columns `first..first + columns.len()` of at most `N` rows `[..][d]`; lanes without a row keep finite numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn transpose<const N: usize>(rows: &[f32], d: usize, first: usize, columns: &mut [[f32; N]]) {
    for (v, rows) in rows.chunks(LANES * d).enumerate() {
        for (b, columns) in columns.chunks_mut(LANES).enumerate() {
            let at = first + b * LANES;
            let mask = mask16(columns.len());
            let mut block = [_mm512_setzero_ps(); LANES];
            for (out, row) in block.iter_mut().zip(rows.chunks_exact(d)) {
                let row = &row[at..at + columns.len()];
                // SAFETY: the mask covers exactly the elements of `row`; masked-out lanes are not read.
                *out = unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr()) };
            }
            let block = transpose16(block);
            for (column, x) in columns.iter_mut().zip(block) {
                let lanes = &mut column.as_chunks_mut::<LANES>().0[v];
                // SAFETY: `lanes` is one vector long.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), x) };
            }
        }
    }
}

/// A 16 x 16 transpose: pairs, quads and then 128-bit quarters change places.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose16(x: [__m512; 16]) -> [__m512; 16] {
    let z = _mm512_setzero_ps();
    let mut a = [z; 16];
    for i in (0..16).step_by(2) {
        a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    // b[4 * g + c] holds column c (mod 4) of rows 4g..4g+4, one quarter for each four columns.
    let mut b = [z; 16];
    for g in (0..16).step_by(4) {
        for h in 0..2 {
            let (lo, hi) = (_mm512_castps_pd(a[g + h]), _mm512_castps_pd(a[g + h + 2]));
            b[g + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
            b[g + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
        }
    }
    let mut out = [z; 16];
    for c in 0..4 {
        let even_low = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[c], b[4 + c]);
        let odd_low = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[c], b[4 + c]);
        let even_high = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[8 + c], b[12 + c]);
        let odd_high = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[8 + c], b[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_low, even_high);
        out[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_low, even_high);
        out[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_low, odd_high);
        out[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_low, odd_high);
    }
    out
}

/// One row, lanes across centroids.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn nearest_row(split: Split, table: &[f32], row: &[f32], codes: &mut [u8]) {
    for (s, code) in codes.iter_mut().enumerate() {
        let (half_norms, centroids) = split.table(s, table);
        let x = &row[split.start(s)..split.start(s + 1)];
        *code = match split.ksub {
            16 => nearest_of::<1>(half_norms, centroids, x),
            64 => nearest_of::<4>(half_norms, centroids, x),
            _ => nearest_of::<16>(half_norms, centroids, x),
        };
    }
}

/// The nearest of `V` vectors of centroids, all of whose sums stay in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn nearest_of<const V: usize>(half_norms: &[f32], centroids: &[f32], x: &[f32]) -> u8 {
    let mut acc = [_mm512_setzero_ps(); V];
    for (acc, half) in acc.iter_mut().zip(half_norms.as_chunks::<LANES>().0) {
        *acc = load(half);
    }
    for (x, column) in x.iter().zip(centroids.chunks_exact(V * LANES)) {
        let x = _mm512_set1_ps(*x);
        for (acc, c) in acc.iter_mut().zip(column.as_chunks::<LANES>().0) {
            *acc = _mm512_fnmadd_ps(x, load(c), *acc);
        }
    }
    let least = acc.iter().fold(_mm512_set1_ps(f32::INFINITY), |least, &a| _mm512_min_ps(least, a));
    let least = _mm512_set1_ps(_mm512_reduce_min_ps(least));
    for (v, acc) in acc.iter().enumerate() {
        let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(*acc, least);
        if equal != 0 {
            return code_of(v * LANES + equal.trailing_zeros() as usize);
        }
    }
    0
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &[f32; LANES]) -> __m512 {
    // SAFETY: `lanes` is one vector long.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

/// The lowest `n` of 16 lanes, all of them from 16 on.
const fn mask16(n: usize) -> __mmask16 {
    if n >= LANES { u16::MAX } else { (1 << n) - 1 }
}

/// `sums += x`. Pieces of known length and plain stores: a later load of the same sums cannot take its value from a
/// masked store, and left to itself the compiler makes gathers of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
fn add(sums: &mut [f64], x: &[f32]) {
    let (sums, sums_rest) = sums.as_chunks_mut::<8>();
    let (x, x_rest) = x.as_chunks::<8>();
    for (sum, x) in sums.iter_mut().zip(x) {
        // SAFETY: all three are eight elements long.
        unsafe {
            let x = _mm512_cvtps_pd(_mm256_loadu_ps(x.as_ptr()));
            _mm512_storeu_pd(sum.as_mut_ptr(), _mm512_add_pd(_mm512_loadu_pd(sum.as_ptr()), x));
        }
    }
    let (sums, sums_rest) = sums_rest.as_chunks_mut::<4>();
    let (x, x_rest) = x_rest.as_chunks::<4>();
    if let (Some(sum), Some(x)) = (sums.first_mut(), x.first()) {
        // SAFETY: all three are four elements long.
        unsafe {
            let x = _mm256_cvtps_pd(_mm_loadu_ps(x.as_ptr()));
            _mm256_storeu_pd(sum.as_mut_ptr(), _mm256_add_pd(_mm256_loadu_pd(sum.as_ptr()), x));
        }
    }
    for (sum, &x) in sums_rest.iter_mut().zip(x_rest).take(3) {
        *sum += f64::from(x);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
pub(super) fn accumulate(split: Split, rows: &[f32], codes: &[u8], sums: &mut [f64], counts: &mut [u32]) {
    scalar::accumulate_by(split, rows, codes, sums, counts, |sums, x| add(sums, x));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
pub(super) fn lower_distances(columns: &[f32], centroid: &[f32], best: &mut [f32], sums: &mut [f64]) {
    const VECTORS: usize = 4;
    let n = best.len();
    for (b, (best, sum)) in best.chunks_mut(BLOCK).zip(sums).enumerate() {
        for (g, best) in best.chunks_mut(VECTORS * LANES).enumerate() {
            let at = b * BLOCK + g * VECTORS * LANES;
            let masks: [__mmask16; VECTORS] =
                core::array::from_fn(|v| mask16(best.len().saturating_sub(v * LANES)));
            let mut distance = [_mm512_setzero_ps(); VECTORS];
            for (column, &c) in columns.chunks_exact(n).zip(centroid) {
                let column = &column[at..at + best.len()];
                let c = _mm512_set1_ps(c);
                for (v, distance) in distance.iter_mut().enumerate() {
                    // SAFETY: the mask keeps to the elements of `column`.
                    let x =
                        unsafe { _mm512_maskz_loadu_ps(masks[v], column.as_ptr().wrapping_add(v * LANES)) };
                    let e = _mm512_sub_ps(x, c);
                    *distance = _mm512_add_ps(*distance, _mm512_mul_ps(e, e));
                }
            }
            for (v, &distance) in distance.iter().enumerate() {
                let at = best.as_mut_ptr().wrapping_add(v * LANES);
                // SAFETY: the mask keeps to the elements of `best`, for the load and for the store.
                unsafe {
                    let least = _mm512_min_ps(distance, _mm512_maskz_loadu_ps(masks[v], at));
                    _mm512_mask_storeu_ps(at, masks[v], least);
                }
            }
        }
        let mut lanes = _mm512_setzero_pd();
        let (eights, rest) = best.as_chunks::<8>();
        for eight in eights {
            // SAFETY: eight elements.
            let eight = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
            lanes = _mm512_add_pd(lanes, _mm512_cvtps_pd(eight));
        }
        let mut out = [0.0; 8];
        // SAFETY: `out` is one vector long.
        unsafe { _mm512_storeu_pd(out.as_mut_ptr(), lanes) };
        for (lane, &x) in out.iter_mut().zip(rest) {
            *lane += f64::from(x);
        }
        *sum = scalar::sum_of_lanes(out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma")]
pub(super) fn first_non_finite(rows: &[f32], d: usize) -> Option<usize> {
    scalar::first_non_finite(rows, d)
}
