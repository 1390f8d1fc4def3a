//! The body with 512-bit vectors.

use super::{PANEL, body};
use core::arch::x86_64::{
    __m512, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps, _mm512_set1_pd,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_pd, _mm512_storeu_ps,
};

/// Rows whose products are added in one pass over the sums.
const TOGETHER: usize = 8;
const DOUBLES: usize = 8;
const LANES: usize = 16;
/// 24 sums, a line of the panel and a coordinate fit the registers.
const ROWS: usize = 6;
const VECTORS: usize = 4;
const WIDTH: usize = VECTORS * LANES;

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn gram(x: &[f32], d: usize, sums: &mut [f64]) {
    body::gram::<TOGETHER>(x, d, sums, |wide, i, first, second| pass(wide, d, i, first, second));
}

/// Columns from `i + 1` on of the sums of rows `i` and `i + 1`, which share the loads.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
fn pass(wide: &[f64], d: usize, i: usize, first: &mut [f64], second: &mut [f64]) {
    let from = i + 1;
    let rows: [&[f64]; TOGETHER] = core::array::from_fn(|r| &wide[r * d..][..d]);
    let (a, b) = (rows.map(|r| _mm512_set1_pd(r[i])), rows.map(|r| _mm512_set1_pd(r[i + 1])));
    let whole = from + (d - from) / DOUBLES * DOUBLES;
    for j in (from..whole).step_by(DOUBLES) {
        let (low, high) = (&mut first[j..j + DOUBLES], &mut second[j..j + DOUBLES]);
        // SAFETY: both slices are a vector long.
        let (mut s, mut t) = unsafe { (_mm512_loadu_pd(low.as_ptr()), _mm512_loadu_pd(high.as_ptr())) };
        for ((row, a), b) in rows.iter().zip(a).zip(b) {
            // SAFETY: the slice is a vector long.
            let x = unsafe { _mm512_loadu_pd(row[j..j + DOUBLES].as_ptr()) };
            s = _mm512_fmadd_pd(a, x, s);
            t = _mm512_fmadd_pd(b, x, t);
        }
        // SAFETY: both slices are a vector long.
        unsafe {
            _mm512_storeu_pd(low.as_mut_ptr(), s);
            _mm512_storeu_pd(high.as_mut_ptr(), t);
        }
    }
    body::add_products(wide, d, i, whole, first);
    body::add_products(wide, d, i + 1, whole, second);
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn cholesky(a: &mut [f64], d: usize) -> bool {
    body::cholesky(a, d)
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn solve(l: &[f64], u: &mut [f64], d: usize) {
    body::solve(l, u, d);
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn product(a: &[f64], b: &[f64], out: &mut [f64], d: usize) {
    body::product(a, b, out, d);
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn eigen(a: &mut [f64], values: &mut [f64], vectors: &mut [f64]) -> bool {
    body::eigen(a, values, vectors)
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn times(panels: &[f32], x: &[f32], out: &mut [f32], d: usize) {
    body::times::<WIDTH, ROWS>(
        panels,
        x,
        out,
        d,
        |panel, x, out, n| tile::<ROWS>(panel, x, out, n, d),
        |panel, x, out, n| tile::<1>(panel, x, out, n, d),
    );
}

/// `R` rows by [`WIDTH`] columns, of which the first `n` are wanted.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
fn tile<const R: usize>(panel: &[f32], x: &[f32], out: &mut [f32], n: usize, d: usize) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    let rows: [&[f32]; R] = core::array::from_fn(|r| &x[r * d..][..d]);
    for (j, line) in panel.chunks(PANEL).take(d).enumerate() {
        let line = &line[..WIDTH];
        let line: [__m512; VECTORS] = core::array::from_fn(|v| {
            // SAFETY: `line` is `VECTORS` whole vectors.
            unsafe { _mm512_loadu_ps(line.as_ptr().add(v * LANES)) }
        });
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = _mm512_set1_ps(row[j]);
            for (sum, a) in sums.iter_mut().zip(line) {
                *sum = _mm512_fmadd_ps(a, x, *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let mut all = [0.0f32; WIDTH];
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: `all` is `VECTORS` whole vectors.
            unsafe { _mm512_storeu_ps(all.as_mut_ptr().add(v * LANES), sum) };
        }
        out[r * d..][..n].copy_from_slice(&all[..n]);
    }
}
