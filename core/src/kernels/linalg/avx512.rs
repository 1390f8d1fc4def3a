//! The body with 512-bit vectors.

use super::{PANEL, body};
use core::arch::x86_64::{
    __m512, __m512d, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps, _mm512_set1_pd,
    _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd, _mm512_storeu_ps,
};

/// 24 sums of products, a vector of columns and a coordinate fit the registers.
const GRAM_ROWS: usize = 8;
const GRAM_VECTORS: usize = 3;
const DOUBLES: usize = 8;
const LANES: usize = 16;
/// 24 sums, a line of the panel and a coordinate fit the registers.
const ROWS: usize = 6;
const VECTORS: usize = 4;
const WIDTH: usize = VECTORS * LANES;

#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
pub(super) fn gram(x: &[f32], d: usize, sums: &mut [f64]) {
    body::gram::<GRAM_ROWS, { GRAM_VECTORS * DOUBLES }>(x, d, sums, |wide, stride, i, j, sums| {
        products(wide, stride, i, j, sums);
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
fn products(
    wide: &[f64],
    stride: usize,
    i: usize,
    j: usize,
    sums: &mut [[f64; GRAM_VECTORS * DOUBLES]; GRAM_ROWS],
) {
    let mut held = [[_mm512_setzero_pd(); GRAM_VECTORS]; GRAM_ROWS];
    for (held, sums) in held.iter_mut().zip(&*sums) {
        for (v, held) in held.iter_mut().enumerate() {
            // SAFETY: `sums` is `GRAM_VECTORS` whole vectors.
            *held = unsafe { _mm512_loadu_pd(sums.as_ptr().add(v * DOUBLES)) };
        }
    }
    for row in wide.chunks_exact(stride) {
        let (left, right) = (&row[i..i + GRAM_ROWS], &row[j..j + GRAM_VECTORS * DOUBLES]);
        let right: [__m512d; GRAM_VECTORS] = core::array::from_fn(|v| {
            // SAFETY: `right` is `GRAM_VECTORS` whole vectors.
            unsafe { _mm512_loadu_pd(right.as_ptr().add(v * DOUBLES)) }
        });
        for (held, x) in held.iter_mut().zip(left) {
            let x = _mm512_set1_pd(*x);
            for (held, y) in held.iter_mut().zip(right) {
                *held = _mm512_fmadd_pd(x, y, *held);
            }
        }
    }
    for (held, sums) in held.into_iter().zip(sums) {
        for (v, held) in held.into_iter().enumerate() {
            // SAFETY: `sums` is `GRAM_VECTORS` whole vectors.
            unsafe { _mm512_storeu_pd(sums.as_mut_ptr().add(v * DOUBLES), held) };
        }
    }
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
