//! Portable.

use super::{PANEL, body};

/// Sums held at once.
const WIDTH: usize = 16;

pub(super) fn gram(x: &[f32], d: usize, sums: &mut [f64]) {
    body::gram::<4, 8>(x, d, sums, |wide, stride, i, j, sums| {
        for row in wide.chunks_exact(stride) {
            for (sums, x) in sums.iter_mut().zip(&row[i..]) {
                sums.iter_mut().zip(&row[j..]).for_each(|(s, y)| *s += x * y);
            }
        }
    });
}

pub(super) fn cholesky(a: &mut [f64], d: usize) -> bool {
    body::cholesky(a, d)
}

pub(super) fn solve(l: &[f64], u: &mut [f64], d: usize) {
    body::solve(l, u, d);
}

pub(super) fn product(a: &[f64], b: &[f64], out: &mut [f64], d: usize) {
    body::product(a, b, out, d);
}

pub(super) fn eigen(a: &mut [f64], values: &mut [f64], vectors: &mut [f64]) -> bool {
    body::eigen(a, values, vectors)
}

pub(super) fn times(panels: &[f32], x: &[f32], out: &mut [f32], d: usize) {
    let tile = |panel: &[f32], x: &[f32], out: &mut [f32], n: usize| {
        let mut sums = [0.0f32; WIDTH];
        for (line, &x) in panel.chunks(PANEL).zip(x) {
            for (sum, a) in sums.iter_mut().zip(line) {
                *sum = libm::fmaf(*a, x, *sum);
            }
        }
        out[..n].copy_from_slice(&sums[..n]);
    };
    body::times::<WIDTH, 1>(panels, x, out, d, tile, tile);
}
