//! AVX2 and FMA kernels; the plan is that of the AVX-512 ones with tiles that fit sixteen registers.

use super::tiles::{self, Ahead, Steps, code_of};
use super::{Split, scalar};
use core::arch::x86_64::*;

const LANES: usize = 8;

/// Vectors of rows in a full tile.
const TALL: usize = 3;

/// Centroids of a tile: `TALL * WIDTH` sums, `TALL` vectors of rows and a coordinate fit the 16 registers.
const WIDTH: usize = 4;

/// Rows that are better taken one by one than as a vector that is mostly padding.
const FEW: usize = 1;

#[target_feature(enable = "avx2,fma")]
pub(super) fn nearest(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    if tiles::suit(split, rows, FEW) {
        return nearest_tiles(split, table, rows, codes);
    }
    tiles::row_by_row(split, rows, codes, |row, codes| nearest_row(split, table, row, codes))
}

/// Lanes across rows.
#[target_feature(enable = "avx2,fma")]
fn nearest_tiles(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    tiles::nearest::<Avx2, TALL, LANES, { TALL * LANES }>(split, table, rows, codes)
}

/// This level's steps.
struct Avx2;

impl Steps for Avx2 {
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
#[target_feature(enable = "avx2,fma")]
fn nearest_lanes<const R: usize, const N: usize, const KSUB: usize>(
    half_norms: &[f32],
    centroids: &[f32],
    columns: &[[f32; N]],
    ahead: &mut Ahead<'_>,
) -> [u8; N] {
    let mut best = [_mm256_set1_ps(f32::INFINITY); R];
    let mut index = [_mm256_setzero_ps(); R];
    for (b, half) in half_norms.as_chunks::<WIDTH>().0.iter().enumerate() {
        ahead.ask();
        let mut acc = half.map(|half| [_mm256_set1_ps(half); R]);
        let coordinates = centroids.as_chunks::<KSUB>().0.iter().map(|c| &c.as_chunks::<WIDTH>().0[b]);
        for (column, coordinates) in columns.iter().zip(coordinates) {
            let mut x = [_mm256_setzero_ps(); R];
            for (x, lanes) in x.iter_mut().zip(column.as_chunks::<LANES>().0) {
                *x = load(lanes);
            }
            for (acc, c) in acc.iter_mut().zip(coordinates) {
                let c = _mm256_set1_ps(*c);
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = _mm256_fnmadd_ps(x, c, *acc);
                }
            }
        }
        for (c, acc) in (b * WIDTH..).zip(&acc) {
            let c = _mm256_castsi256_ps(_mm256_set1_epi32(i32::from(code_of(c))));
            for r in 0..R {
                let less = _mm256_cmp_ps::<_CMP_LT_OQ>(acc[r], best[r]);
                best[r] = _mm256_blendv_ps(best[r], acc[r], less);
                index[r] = _mm256_blendv_ps(index[r], c, less);
            }
        }
    }
    let mut codes = [0; N];
    for (codes, index) in codes.as_chunks_mut::<LANES>().0.iter_mut().zip(index) {
        let index = _mm256_castps_si256(index);
        let words = _mm_packus_epi32(_mm256_castsi256_si128(index), _mm256_extracti128_si256::<1>(index));
        *codes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words)).to_le_bytes();
    }
    codes
}

/// Columns `first..first + columns.len()` of at most `N` rows `[..][d]`; lanes without a row become zeros.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose<const N: usize>(rows: &[f32], d: usize, first: usize, columns: &mut [[f32; N]]) {
    for (v, rows) in rows.chunks(LANES * d).enumerate() {
        for (b, columns) in columns.chunks_mut(LANES).enumerate() {
            let at = first + b * LANES;
            let mut block = [_mm256_setzero_ps(); LANES];
            for (out, row) in block.iter_mut().zip(rows.chunks_exact(d)) {
                let row = &row[at..at + columns.len()];
                *out = match row.first_chunk() {
                    Some(lanes) => load(lanes),
                    None => {
                        let mut lanes = [0.0; LANES];
                        lanes[..row.len()].copy_from_slice(row);
                        load(&lanes)
                    }
                };
            }
            let block = transpose8(block);
            for (column, x) in columns.iter_mut().zip(block) {
                let lanes = &mut column.as_chunks_mut::<LANES>().0[v];
                // SAFETY: `lanes` is one vector long.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), x) };
            }
        }
    }
}

/// An 8 x 8 transpose: pairs, quads and then halves change places.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose8(x: [__m256; 8]) -> [__m256; 8] {
    let z = _mm256_setzero_ps();
    let mut a = [z; 8];
    for i in (0..8).step_by(2) {
        a[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    // b[4 * g + c] holds columns c and c + 4 of rows 4g..4g+4.
    let mut b = [z; 8];
    for g in [0, 4] {
        for h in 0..2 {
            b[g + 2 * h] = _mm256_shuffle_ps::<0b01_00_01_00>(a[g + h], a[g + h + 2]);
            b[g + 2 * h + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a[g + h], a[g + h + 2]);
        }
    }
    let mut out = [z; 8];
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(b[c], b[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(b[c], b[4 + c]);
    }
    out
}

/// One row, lanes across centroids.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn nearest_row(split: Split, table: &[f32], row: &[f32], codes: &mut [u8]) {
    for (s, code) in codes.iter_mut().enumerate() {
        let (half_norms, centroids) = split.table(s, table);
        let x = &row[split.start(s)..split.start(s + 1)];
        *code = match split.ksub {
            16 => nearest_of::<2>(half_norms, centroids, x),
            _ => nearest_of::<8>(half_norms, centroids, x),
        };
    }
}

/// The nearest centroid, `V` vectors of them at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn nearest_of<const V: usize>(half_norms: &[f32], centroids: &[f32], x: &[f32]) -> u8 {
    let ksub = half_norms.len();
    let (mut best, mut index) = (f32::INFINITY, 0);
    for at in (0..ksub).step_by(V * LANES) {
        let mut acc = [_mm256_setzero_ps(); V];
        for (acc, half) in acc.iter_mut().zip(half_norms[at..].as_chunks::<LANES>().0) {
            *acc = load(half);
        }
        for (x, column) in x.iter().zip(centroids.chunks_exact(ksub)) {
            let x = _mm256_set1_ps(*x);
            for (acc, c) in acc.iter_mut().zip(column[at..].as_chunks::<LANES>().0) {
                *acc = _mm256_fnmadd_ps(x, load(c), *acc);
            }
        }
        let least =
            least_lane(acc.iter().fold(_mm256_set1_ps(f32::INFINITY), |least, &a| _mm256_min_ps(least, a)));
        if least < best {
            let equal =
                |acc: &__m256| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(*acc, _mm256_set1_ps(least)));
            let masks = acc.iter().map(equal).enumerate();
            let first = masks.map(|(v, mask)| (v * LANES, mask)).find(|(_, mask)| *mask != 0);
            (best, index) = (least, first.map_or(0, |(v, mask)| at + v + mask.trailing_zeros() as usize));
        }
    }
    code_of(index)
}

/// The least of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn least_lane(x: __m256) -> f32 {
    let x = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_min_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_min_ss(x, _mm_movehdup_ps(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(lanes: &[f32; LANES]) -> __m256 {
    // SAFETY: `lanes` is one vector long.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

/// `sums += x`. Pieces of known length and plain stores: a later load of the same sums cannot take its value from a
/// masked store, and left to itself the compiler makes gathers of it.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add(sums: &mut [f64], x: &[f32]) {
    let (sums, sums_rest) = sums.as_chunks_mut::<4>();
    let (x, x_rest) = x.as_chunks::<4>();
    for (sum, x) in sums.iter_mut().zip(x) {
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

#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate(split: Split, rows: &[f32], codes: &[u8], sums: &mut [f64], counts: &mut [u32]) {
    scalar::accumulate_by(split, rows, codes, sums, counts, |sums, x| add(sums, x));
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn lower_distances(columns: &[f32], centroid: &[f32], best: &mut [f32], sums: &mut [f64]) {
    scalar::lower_distances(columns, centroid, best, sums);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn first_non_finite(rows: &[f32], d: usize) -> Option<usize> {
    scalar::first_non_finite(rows, d)
}
