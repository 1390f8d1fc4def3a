//! Lloyd–Max grids: the scalar quantizers of least mean squared error for the unit normal density.
//!
//! A grid of `N = 2^bits` levels `x_1 < ... < x_N` with thresholds `t_i` between them has least
//! `D = E[(X - q(X))^2]` only if (Lloyd 1957, Max 1960)
//!
//! - each threshold is midway between its levels, `t_i = (x_i + x_{i+1}) / 2`, and
//! - each level is the mean of its cell, `x_i = C(t_{i-1}, t_i)` with `C(a, b) = (phi(a) - phi(b)) / (Phi(b) - Phi(a))`,
//!
//! and since the normal density is log-concave this stationary point is the only one (Trushkin 1982). The grid is
//! symmetric, so the unknowns are the `n = N/2` positive levels, with `t_0 = 0` and `t_n` infinite, and
//! `F_i(x) = x_i - C(t_{i-1}, t_i) = 0`. With `P = Phi(b) - Phi(a)`,
//!
//! ```text
//! dC/da = phi(a) (C - a) / P,   dC/db = phi(b) (b - C) / P,
//! dF_i/dx_{i-1} = -1/2 dC/da,   dF_i/dx_{i+1} = -1/2 dC/db,   dF_i/dx_i = 1 - 1/2 (dC/da + dC/db)
//! ```
//!
//! (no `da` term for the first cell, whose lower end is fixed, no `db` term for the last). That is a tridiagonal
//! system, so a Newton step costs `O(n)`. The start is the asymptotically optimal companding: level density
//! proportional to `phi^(1/3)` (Panter and Dite 1951), which for the normal is a normal of variance 3, so
//! `x_i = sqrt(3) * Phi^-1((i - 1/2 + n) / N)`. From there a handful of steps reach rounding level for every size.

/// Largest number of bits of a grid.
pub const MAX_BITS: u8 = 8;
const MAX_LEVELS: usize = 1 << MAX_BITS;
const HALF: usize = MAX_LEVELS / 2;

/// The optimal grid of `2^bits` levels for the unit normal. Code `c` stands for `levels()[c]`; a value belongs to
/// the code that counts the thresholds below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    bits: u8,
    levels: [f64; MAX_LEVELS],
    thresholds: [f64; MAX_LEVELS - 1],
}

impl Grid {
    /// Computes the grid in `f64` with software transcendentals, so that all machines agree on every bit.
    /// Cost: under a tenth of a millisecond at 8 bits. `None` unless `bits` is 1 to 8.
    #[must_use]
    pub fn unit_normal(bits: u8) -> Option<Self> {
        if bits == 0 || bits > MAX_BITS {
            return None;
        }
        let n = 1usize << (bits - 1);
        let mut half = [0.0; HALF];
        solve(&mut half[..n]);
        let mut levels = [0.0; MAX_LEVELS];
        for (i, &x) in half[..n].iter().enumerate() {
            levels[n + i] = x;
            levels[n - 1 - i] = -x;
        }
        let mut thresholds = [0.0; MAX_LEVELS - 1];
        for (t, pair) in thresholds.iter_mut().zip(levels[..2 * n].windows(2)) {
            *t = 0.5 * (pair[0] + pair[1]);
        }
        Some(Self { bits, levels, thresholds })
    }

    /// Bits of a code.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// The `2^bits` levels, rising, symmetric about 0.
    #[must_use]
    pub fn levels(&self) -> &[f64] {
        &self.levels[..1 << self.bits]
    }

    /// The `2^bits - 1` thresholds between the levels, rising, symmetric about 0.
    #[must_use]
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds[..(1 << self.bits) - 1]
    }

    /// The mean squared error of a unit normal value quantized with this grid: `1 - E[q(X)^2]`, because each
    /// level is its cell's mean.
    #[must_use]
    pub fn distortion(&self) -> f64 {
        let n = 1 << (self.bits - 1);
        let half = &self.levels[n..2 * n];
        let power: f64 = (0..n).map(|i| mass(lower(half, i), upper(half, i)) * half[i] * half[i]).sum();
        1.0 - 2.0 * power
    }
}

/// Ends of cell `i` of the positive half.
fn lower(x: &[f64], i: usize) -> f64 {
    if i == 0 { 0.0 } else { 0.5 * (x[i - 1] + x[i]) }
}

fn upper(x: &[f64], i: usize) -> f64 {
    if i + 1 == x.len() { f64::INFINITY } else { 0.5 * (x[i] + x[i + 1]) }
}

/// The density of the unit normal.
fn phi(x: f64) -> f64 {
    const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
    INV_SQRT_TAU * libm::exp(-0.5 * x * x)
}

/// The probability of `a..b`, for `0 <= a < b`.
fn mass(a: f64, b: f64) -> f64 {
    let tail = |x: f64| 0.5 * libm::erfc(x * core::f64::consts::FRAC_1_SQRT_2);
    tail(a) - tail(b)
}

/// The inverse of the normal distribution function for `1/2 <= p < 1`: Newton on the tail, whose logarithm is
/// concave, from a start below the root.
fn quantile(p: f64) -> f64 {
    let mut x = 0.0;
    for _ in 0..64 {
        let tail = 0.5 * libm::erfc(x * core::f64::consts::FRAC_1_SQRT_2);
        let step = (tail - (1.0 - p)) / phi(x);
        x += step;
        if step.abs() < 1e-14 {
            break;
        }
    }
    x
}

/// Fills `x` with the positive levels of the grid of `2 * x.len()` levels.
#[allow(clippy::cast_precision_loss, reason = "at most 256 levels")]
fn solve(x: &mut [f64]) {
    let n = x.len();
    for (i, x) in x.iter_mut().enumerate() {
        *x = libm::sqrt(3.0) * quantile((i as f64 + 0.5 + n as f64) / (2.0 * n as f64));
    }
    // Quadratic convergence: 40 steps are several times what the worst size needs.
    for _ in 0..40 {
        if newton_step(x) < 1e-15 {
            break;
        }
    }
}

/// One Newton step on `F(x) = 0` by elimination of the tridiagonal Jacobian; the largest change.
fn newton_step(x: &mut [f64]) -> f64 {
    let n = x.len();
    let (mut above, mut rhs) = ([0.0; HALF], [0.0; HALF]);
    for i in 0..n {
        let (a, b) = (lower(x, i), upper(x, i));
        let (phi_b, p) = (phi(b), mass(a, b));
        let c = (phi(a) - phi_b) / p;
        let by_a = if i == 0 { 0.0 } else { 0.5 * phi(a) * (c - a) / p };
        let by_b = if i + 1 == n { 0.0 } else { 0.5 * phi_b * (b - c) / p };
        let (before_above, before_rhs) = if i == 0 { (0.0, 0.0) } else { (above[i - 1], rhs[i - 1]) };
        let pivot = 1.0 - by_a - by_b + by_a * before_above;
        above[i] = -by_b / pivot;
        rhs[i] = (c - x[i] + by_a * before_rhs) / pivot;
    }
    let (mut delta, mut largest) = (0.0, 0.0_f64);
    for i in (0..n).rev() {
        delta = rhs[i] - above[i] * delta;
        x[i] += delta;
        largest = largest.max(delta.abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_match_the_published_tables() {
        // J. Max, "Quantizing for minimum distortion", 1960, table I
        let table: [(u8, &[f64], f64); 4] = [
            (1, &[0.7980], 0.3634),
            (2, &[0.4528, 1.510], 0.1175),
            (3, &[0.2451, 0.7560, 1.344, 2.152], 0.034_54),
            (4, &[0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009_497),
        ];
        for (bits, positive, distortion) in table {
            let g = Grid::unit_normal(bits).unwrap();
            for (got, want) in g.levels()[positive.len()..].iter().zip(positive) {
                assert!((got / want - 1.0).abs() < 5e-4, "{bits} bits: {got} for {want}");
            }
            assert!((g.distortion() / distortion - 1.0).abs() < 5e-4, "{bits} bits: {}", g.distortion());
        }
    }

    #[test]
    fn every_grid_meets_the_optimality_conditions() {
        for bits in 1..=8 {
            let g = Grid::unit_normal(bits).unwrap();
            let (levels, thresholds) = (g.levels(), g.thresholds());
            assert_eq!((levels.len(), thresholds.len()), (1 << bits, (1 << bits) - 1));
            for (t, pair) in thresholds.iter().zip(levels.windows(2)) {
                assert!(pair[0] < *t && *t < pair[1]);
                assert!((t - 0.5 * (pair[0] + pair[1])).abs() < 1e-15);
            }
            for (i, x) in levels.iter().enumerate() {
                assert_eq!(*x, -levels[levels.len() - 1 - i]);
                // an independent centroid: Simpson's rule on the cell, the outer ones cut where phi < 1e-30
                let a = if i == 0 { -12.0 } else { thresholds[i - 1] };
                let b = thresholds.get(i).copied().unwrap_or(12.0);
                let steps = 20_000;
                let h = (b - a) / f64::from(steps);
                let (mut weight, mut moment) = (0.0, 0.0);
                for k in 0..=steps {
                    let u = a + f64::from(k) * h;
                    let w = if k == 0 || k == steps { 1.0 } else { f64::from(2 + 2 * (k % 2)) } * phi(u);
                    weight += w;
                    moment += w * (u - x); // relative to the level, so that nothing cancels
                }
                assert!((moment / weight).abs() < 1e-12, "{bits} bits, level {i}: {}", moment / weight);
            }
        }
    }

    #[test]
    fn distortion_falls_towards_six_decibels_a_bit() {
        let d: std::vec::Vec<f64> = (1..=8).map(|b| Grid::unit_normal(b).unwrap().distortion()).collect();
        assert!(d.windows(2).all(|p| p[1] < p[0] / 2.7 && p[1] > p[0] / 4.0), "{d:?}");
        // Panter and Dite: D -> sqrt(3) pi / 2 * N^-2
        let limit = 3f64.sqrt() * core::f64::consts::PI / 2.0 / 65536.0;
        assert!((d[7] / limit - 1.0).abs() < 0.02, "{} against {limit}", d[7]);
    }

    #[test]
    fn other_bit_counts_have_no_grid() {
        assert_eq!(Grid::unit_normal(0), None);
        assert_eq!(Grid::unit_normal(9), None);
    }
}
