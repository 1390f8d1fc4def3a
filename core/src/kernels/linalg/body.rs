//! The algorithms, compiled once for each level.

use super::PANEL;

const LANES: usize = 8;

/// Numbers of widened rows: they stay in the second-level cache and mostly in the first.
const WIDE: usize = 8 * 1024;

/// Adds the rows' products to `I` rows by `J` columns of the sums at a time. `tile(widened rows, their stride, i, j, sums)` adds
/// `x_(i + r) x_(j + c)` of the rows, in order, to `sums[r][c]`; columns past the last are zeros. Products of widened `f32` are
/// exact, so that a fused addition gives the same.
#[inline(always)]
pub(super) fn gram<const I: usize, const J: usize>(
    x: &[f32],
    d: usize,
    sums: &mut [f64],
    tile: impl Fn(&[f64], usize, usize, usize, &mut [[f64; J]; I]),
) {
    // The last tile may begin at the last column. A stride that is no power of two spreads rows over the cache.
    let stride = d + J;
    let mut wide = [0.0f64; WIDE];
    for rows in x.chunks((WIDE / stride) * d) {
        for (wide, row) in wide.chunks_exact_mut(stride).zip(rows.chunks_exact(d)) {
            wide.iter_mut().zip(row).for_each(|(w, x)| *w = f64::from(*x));
        }
        let wide = &wide[..rows.len() / d * stride];
        for i in (0..d).step_by(I) {
            for j in (i..d).step_by(J) {
                let mut part = [[0.0; J]; I];
                let (height, width) = (I.min(d - i), J.min(d - j));
                for (r, part) in part[..height].iter_mut().enumerate() {
                    part[..width].copy_from_slice(&sums[(i + r) * d + j..][..width]);
                }
                tile(wide, stride, i, j, &mut part);
                for (r, part) in part[..height].iter().enumerate() {
                    // Only what is on the diagonal or right of it.
                    let from = (i + r).saturating_sub(j).min(width);
                    sums[(i + r) * d + j + from..][..width - from].copy_from_slice(&part[from..width]);
                }
            }
        }
    }
}

/// `y += a x`.
#[inline(always)]
fn add_multiple(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Eight lanes, added in halves.
#[inline(always)]
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let (ys, y_tail) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_tail.iter().zip(y_tail)) {
        *lane += x * y;
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn cholesky(a: &mut [f64], d: usize) -> bool {
    for i in 0..d {
        let (above, rest) = a.split_at_mut(i * d);
        let row = &mut rest[..d];
        for j in 0..i {
            let other = &above[j * d..][..d];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        // Also for NaN.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return false;
        }
        row[i] = libm::sqrt(pivot);
        row[i + 1..].fill(0.0);
    }
    true
}

#[inline(always)]
pub(super) fn solve(l: &[f64], u: &mut [f64], d: usize) {
    for x in u.chunks_exact_mut(d) {
        for j in (0..d).rev() {
            let (low, high) = x.split_at_mut(j);
            let line = &l[j * d..][..=j];
            high[0] /= line[j];
            add_multiple(low, -high[0], &line[..j]);
        }
    }
}

#[inline(always)]
pub(super) fn product(a: &[f64], b: &[f64], out: &mut [f64], d: usize) {
    out.fill(0.0);
    for (a, out) in a.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        for (a, b) in a.iter().zip(b.chunks_exact(d)) {
            // Half of a triangular factor.
            if *a != 0.0 {
                add_multiple(out, *a, b);
            }
        }
    }
}

#[inline(always)]
pub(super) fn eigen(a: &mut [f64], values: &mut [f64], vectors: &mut [f64]) -> bool {
    let d = values.len();
    let mut off = [0.0; 1024 + 1];
    let off = &mut off[..=d];
    tridiagonal(a, values, off, vectors);
    ql(values, off, vectors)
}

/// Householder's reduction. `diagonal[i]`, and `off[i]` between `i` and `i + 1`; row `i` of `vectors` is column `i` of the
/// orthogonal `Q` with `Q^T a Q` tridiagonal.
#[inline(always)]
fn tridiagonal(a: &mut [f64], diagonal: &mut [f64], off: &mut [f64], vectors: &mut [f64]) {
    let d = diagonal.len();
    let mut p = [0.0; 1024];
    let mut v = [0.0; 1024];
    // The reflector of step k is I - beta v v^T on k + 1..; v stays in row k of `a`, beta in `betas`.
    let mut betas = [0.0; 1024];
    for k in 0..d.saturating_sub(2) {
        let n = d - k - 1;
        let v = &mut v[..n];
        v.copy_from_slice(&a[k * d + k + 1..][..n]);
        let tail = dot(&v[1..], &v[1..]);
        let norm = libm::sqrt(tail + v[0] * v[0]);
        if tail == 0.0 || norm == 0.0 {
            // Already in shape.
            off[k] = v[0];
            betas[k] = 0.0;
            continue;
        }
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        v[0] -= alpha;
        let beta = 2.0 / (tail + v[0] * v[0]);
        let p = &mut p[..n];
        for (i, p) in p.iter_mut().enumerate() {
            *p = beta * dot(&a[(k + 1 + i) * d + k + 1..][..n], v);
        }
        let half = 0.5 * beta * dot(p, v);
        add_multiple(p, -half, v);
        for i in 0..n {
            let row = &mut a[(k + 1 + i) * d + k + 1..][..n];
            let (vi, pi) = (v[i], p[i]);
            for (x, (v, p)) in row.iter_mut().zip(v.iter().zip(p.iter())) {
                *x -= vi * p + pi * v;
            }
        }
        off[k] = alpha;
        betas[k] = beta;
        a[k * d + k + 1..][..n].copy_from_slice(v);
    }
    if d >= 2 {
        off[d - 2] = a[(d - 2) * d + d - 1];
    }
    off[d - 1] = 0.0;
    for (i, x) in diagonal.iter_mut().enumerate() {
        *x = a[i * d + i];
    }
    // Q^T = ... H_1 H_0; from the last reflector to the first only the part from k + 1 on is not the identity.
    vectors.fill(0.0);
    for i in 0..d {
        vectors[i * d + i] = 1.0;
    }
    for k in (0..d.saturating_sub(2)).rev() {
        let n = d - k - 1;
        let v = &a[k * d + k + 1..][..n];
        for row in vectors.chunks_exact_mut(d).skip(k + 1) {
            let row = &mut row[k + 1..];
            let scale = betas[k] * dot(row, v);
            add_multiple(row, -scale, v);
        }
    }
}

/// QL steps on the tridiagonal matrix until it is diagonal; `vectors` turn along.
#[inline(always)]
fn ql(diagonal: &mut [f64], off: &mut [f64], vectors: &mut [f64]) -> bool {
    const MOST_STEPS: usize = 60;
    let d = diagonal.len();
    for l in 0..d {
        let mut steps = 0;
        loop {
            // The first negligible element at or after l ends the block.
            let small = |i: &usize| {
                let near = diagonal[*i].abs() + diagonal[*i + 1].abs();
                off[*i].abs() <= f64::EPSILON * near
            };
            let end = (l..d - 1).find(small).unwrap_or(d - 1);
            if end == l {
                break;
            }
            if steps == MOST_STEPS {
                return false;
            }
            steps += 1;
            // Wilkinson's shift.
            let g = (diagonal[l + 1] - diagonal[l]) / (2.0 * off[l]);
            let r = libm::hypot(g, 1.0);
            let mut g = diagonal[end] - diagonal[l] + off[l] / (g + if g >= 0.0 { r } else { -r });
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..end).rev() {
                let f = s * off[i];
                let b = c * off[i];
                let r = libm::hypot(f, g);
                off[i + 1] = r;
                if r == 0.0 {
                    diagonal[i + 1] -= p;
                    off[end] = 0.0;
                    split = true;
                    break;
                }
                s = f / r;
                c = g / r;
                let h = diagonal[i + 1] - p;
                let t = (diagonal[i] - h) * s + 2.0 * c * b;
                p = s * t;
                diagonal[i + 1] = h + p;
                g = c * t - b;
                let (low, high) = vectors[i * d..].split_at_mut(d);
                for (x, y) in low.iter_mut().zip(&mut high[..d]) {
                    let (old, f) = (*x, *y);
                    *y = s * old + c * f;
                    *x = c * old - s * f;
                }
            }
            if split {
                continue;
            }
            diagonal[l] -= p;
            off[l] = g;
            off[end] = 0.0;
        }
    }
    true
}

/// Calls `tile(line panel from its first column on, x, out, columns)` for `R` rows at a time and `WIDTH` columns of a
/// panel, `single` for the last rows one by one. `out` starts at the first of the columns; its rows are `d` apart.
#[inline(always)]
pub(super) fn times<const WIDTH: usize, const R: usize>(
    panels: &[f32],
    x: &[f32],
    out: &mut [f32],
    d: usize,
    tile: impl Fn(&[f32], &[f32], &mut [f32], usize),
    single: impl Fn(&[f32], &[f32], &mut [f32], usize),
) {
    for (x, out) in x.chunks(R * d).zip(out.chunks_mut(R * d)) {
        for (p, panel) in panels.chunks_exact(PANEL * d).enumerate() {
            let columns = PANEL.min(d - p * PANEL);
            for from in (0..columns).step_by(WIDTH) {
                let n = WIDTH.min(columns - from);
                let at = p * PANEL + from;
                if x.len() == R * d {
                    tile(&panel[from..], x, &mut out[at..], n);
                } else {
                    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
                        single(&panel[from..], x, &mut out[at..], n);
                    }
                }
            }
        }
    }
}
