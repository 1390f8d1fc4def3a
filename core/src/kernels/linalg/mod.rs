//! Small dense linear algebra for rotations that are learned from keys and queries: second moments, Cholesky factors,
//! symmetric eigenvectors in `f64`, and rows times a matrix in `f32`.
//!
//! Every operation has one order and one rounding at every level, so that what is learned is the same bits everywhere:
//! sums that run along a vector are kept in eight lanes and added in halves; products are rounded before they are
//! added, except where they are exact ([`gram`]) or fused at every level ([`times`]).
//!
//! **Limit.** For `d` = 128 the eigenvectors take about `9 d^3` multiplications and additions each, most of them
//! rotations of two rows that lie in the second-level cache: 12 operations for 16 loaded numbers.
//! [`times`] is `n * d * d` fused multiply-adds, 24 sums in registers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod body;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Columns of a panel of [`times`].
pub(crate) const PANEL: usize = 64;

/// `sums[i][j] += sum over rows of x_i * x_j` for `j >= i` (the upper triangle of `[d][d]`), the rows of `x` in order.
pub(crate) fn gram(level: Level, x: &[f32], d: usize, sums: &mut [f64]) {
    assert!(x.len().is_multiple_of(d) && sums.len() == d * d);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::gram(x, d, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::gram(x, d, sums) },
        _ => scalar::gram(x, d, sums),
    }
}

/// Replaces the symmetric matrix `a` `[d][d]` (the lower triangle is read) by the factor `L` with `L L^T = a`, zeros
/// above. `false` if `a` is not positive definite.
#[must_use]
pub(crate) fn cholesky(level: Level, a: &mut [f64], d: usize) -> bool {
    assert_eq!(a.len(), d * d);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::cholesky(a, d) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::cholesky(a, d) },
        _ => scalar::cholesky(a, d),
    }
}

/// Rows `u_i` of `[d][d]` become `u_i L^-1`, `L` lower triangular.
pub(crate) fn solve(level: Level, l: &[f64], u: &mut [f64], d: usize) {
    assert!(l.len() == d * d && u.len() == d * d);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::solve(l, u, d) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::solve(l, u, d) },
        _ => scalar::solve(l, u, d),
    }
}

/// `out = a b` for `[d][d]` matrices.
pub(crate) fn product(level: Level, a: &[f64], b: &[f64], out: &mut [f64], d: usize) {
    assert!(a.len() == d * d && b.len() == d * d && out.len() == d * d);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::product(a, b, out, d) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::product(a, b, out, d) },
        _ => scalar::product(a, b, out, d),
    }
}

/// Eigenvalues of the symmetric matrix `a` `[d][d]` in `values`, in no order, and the unit eigenvector of `values[i]`
/// in row `i` of `vectors`; `a` is used up. Householder's reduction to a tridiagonal matrix, then QL steps with implicit
/// shifts (Golub and Van Loan, chapter 8). `false` if some value takes more than 60 steps, as with NaN.
#[must_use]
pub(crate) fn eigen(level: Level, a: &mut [f64], values: &mut [f64], vectors: &mut [f64]) -> bool {
    let d = values.len();
    assert!(a.len() == d * d && vectors.len() == d * d);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::eigen(a, values, vectors) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::eigen(a, values, vectors) },
        _ => scalar::eigen(a, values, vectors),
    }
}

/// Numbers of the panels of a `[d][d]` matrix.
pub(crate) const fn panels_len(d: usize) -> usize {
    d.div_ceil(PANEL) * PANEL * d
}

/// Lays out `a` `[d][d]` for [`times`]: panel `p` holds for each column `j` the numbers `a[64 p ..][j]`, zeros past
/// the last row.
#[allow(clippy::cast_possible_truncation, reason = "the matrix is applied in f32")]
pub(crate) fn panels(a: &[f64], d: usize, out: &mut [f32]) {
    assert!(a.len() == d * d && out.len() == panels_len(d));
    for (p, panel) in out.chunks_exact_mut(PANEL * d).enumerate() {
        for (j, line) in panel.chunks_exact_mut(PANEL).enumerate() {
            for (i, x) in line.iter_mut().enumerate() {
                let row = p * PANEL + i;
                *x = if row < d { a[row * d + j] as f32 } else { 0.0 };
            }
        }
    }
}

/// `out_r = A x_r` for the rows of `x`, `A` as [`panels`] laid it out. An element starts at zero and adds
/// `A[i][j] * x[j]`, `j` rising, with one rounding each.
pub(crate) fn times(level: Level, panels: &[f32], x: &[f32], out: &mut [f32], d: usize) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(d) && panels.len() == panels_len(d));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::times(panels, x, out, d) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::times(panels, x, out, d) },
        _ => scalar::times(panels, x, out, d),
    }
}
