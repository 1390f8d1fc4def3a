//! A linear map of keys, and its counterpart for queries, under which a product quantizer spends its bits where queries
//! look.
//!
//! What selection feels of a key's error `e` is `<q, e>`, on average `E[<q, e>^2] = e^T S e` with `S` the second moment of the
//! queries. Keys `k' = A k` and queries `q' = A^-T q` have the same products `<q', k'> = <q, k>`; with `A^T A = S` the
//! mean error in the new space is plainly `|e'|^2`, which is what k-means lessens. (ScaNN's anisotropic loss, Guo et
//! al., ICML 2020, with the true moments of the prompt's queries.) A rotation remains free. It turns to the eigenvectors of
//! the covariance of `S^(1/2) k` and deals them to the sub-spaces so that the sums of log variances are level, which lets all
//! sub-spaces err alike (parametric OPQ, Ge et al., CVPR 2013).
//!
//! 1. `S' = (1 - a) S + a diag(S) + 1e-4 tr(S)/d`, `a = max(shrink, d / (d + n))` for `n` query vectors: few vectors say more
//!    about the sizes of the coordinates than about their relations. The last term is for coordinates that are always zero, as
//!    some are in two of Gemma 3 270M's global layers: without it there would be no inverse.
//! 2. `S' = L L^T`; any root of `S'` will do, because of 3.
//! 3. `U^T`: the eigenvectors of `L^T cov(k) L` as rows, dealt out; the largest first, each to the sub-space with room whose
//!    log variances sum to least.
//! 4. `A = U^T L^T`, `A^-T = U^T L^-1`.
//!
//! **Guard.** A quarter of the query vectors is held out. To either form, plain and transformed, belongs a predicted mean
//! squared error of scores: in each sub-space the rate-distortion limit of normal keys at `nbits`, by directions, each
//! weighed by what the held-out queries see of it. (High-rate theory, which gives bits to every direction, misjudges 6 bits
//! for 16 columns, most of which hardly vary.) Unless the transformed form is predicted to err less for queries it has not
//! seen, the transform is the identity. So it is with no queries, whose rotation alone is not safe: at few tokens it selected
//! worse than the plain form on one of two real models.
//!
//! Measured on real keys (SmolLM2 135M, 8K tokens, 10 codes of 6 bits): the share of the gap between PQCache's 2 codes of 6 bits and
//! exact selection that the codes alone close, in the error of attention's output with a tenth of the tokens: plain 0.56,
//! rotated 0.64, transformed 0.82. Gemma 3 270M, 16K tokens, 16 codes: 0.43, 0.53, 0.90.

use super::{PqError, PqShape, whole_rows};
use crate::cpu::{self, Level};
use crate::kernels::assign;
use crate::kernels::linalg;
use alloc::{vec, vec::Vec};

/// Longest rows that are transformed; the eigenvectors of longer ones cost too much.
const MAX_DIM: usize = 1024;
/// What is added to the diagonal of the queries' second moment, whose mean is 1.
const LEAST_SEEN: f64 = 1e-4;
/// Query vectors are held out in runs of this many, one run in four.
const RUN: usize = 16;

/// How [`KeyTransform::train`] learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransformParams {
    /// The least share of the diagonal in the queries' second moment, 0 to 1. Default 0.1; 0.003 to 0.4 made no difference
    /// with thousands of vectors.
    pub shrink: f64,
    /// At most so many keys, evenly spread, give the covariance; at least `d + 1` do. `None`: 16 for each coordinate, but 2048.
    pub most_keys: Option<usize>,
    /// The last so many query vectors are used. `None`: 16 for each coordinate, but 2048. Recent ones are better than all: those
    /// that will be asked are like them.
    pub most_queries: Option<usize>,
}

impl Default for TransformParams {
    fn default() -> Self {
        Self { shrink: 0.1, most_keys: None, most_queries: None }
    }
}

/// A matrix for keys and its inverse transpose for queries, or the identity.
#[derive(Clone, PartialEq)]
pub struct KeyTransform {
    d: usize,
    maps: Option<Maps>,
}

/// In panels, as the kernel wants them.
#[derive(Clone, PartialEq)]
struct Maps {
    keys: Vec<f32>,
    queries: Vec<f32>,
}

impl core::fmt::Debug for KeyTransform {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyTransform")
            .field("d", &self.d)
            .field("is_identity", &self.is_identity())
            .finish_non_exhaustive()
    }
}

impl KeyTransform {
    /// Query vectors that can be learned from, at least.
    pub const LEAST_QUERIES: usize = 4 * RUN;

    /// Rows of `d` numbers stay as they are.
    #[must_use]
    pub const fn identity(d: usize) -> Self {
        Self { d, maps: None }
    }

    /// Learns from keys `[n][d]` and queries `[nq][d]` of all heads that share them, in the order of tokens, for codes of `shape`.
    /// It is the identity if the guard says so: without queries or with fewer than [`LEAST_QUERIES`](Self::LEAST_QUERIES) vectors, or with too few keys,
    /// for `d` = 1 or above 1024. Coordinates that queries or keys do not use are no hindrance. The same bits at every level.
    ///
    /// Cost: `d^2 / 2` products for each key and query vector, about `14 d^3` for the matrices; a
    /// few milliseconds at `d` = 128. Allocates seven matrices of `d * d` numbers for the time being.
    ///
    /// # Errors
    /// [`PqError::Length`] for rows that are not whole, [`PqError::NonFinite`] with the key (or, counted after all
    /// keys, the query) that holds a NaN or an infinity.
    pub fn train(
        keys: &[f32],
        queries: &[f32],
        shape: PqShape,
        params: &TransformParams,
    ) -> Result<Self, PqError> {
        Self::train_at(cpu::level(), keys, queries, shape, params)
    }

    fn train_at(
        level: Level,
        keys: &[f32],
        queries: &[f32],
        shape: PqShape,
        params: &TransformParams,
    ) -> Result<Self, PqError> {
        let d = shape.d();
        let (n, nq) = (whole_rows(keys.len(), d)?, whole_rows(queries.len(), d)?);
        if let Some(row) = assign::first_non_finite(level, keys, d) {
            return Err(PqError::NonFinite { row });
        }
        if let Some(row) = assign::first_non_finite(level, queries, d) {
            return Err(PqError::NonFinite { row: n + row });
        }
        let most = params.most_queries.unwrap_or_else(|| enough(d));
        let recent = &queries[nq.saturating_sub(most) * d..];
        let maps = if !(2..=MAX_DIM).contains(&d) || n <= d || recent.len() / d < Self::LEAST_QUERIES {
            None
        } else {
            learn(level, keys, recent, shape, params)
        };
        Ok(Self { d, maps })
    }

    /// Numbers in a row.
    #[must_use]
    pub const fn d(&self) -> usize {
        self.d
    }

    /// Whether rows stay as they are.
    #[must_use]
    pub const fn is_identity(&self) -> bool {
        self.maps.is_none()
    }

    /// Bytes on the heap: two matrices of `f32` whose rows are filled up to a multiple of 64, or nothing.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.maps.as_ref().map_or(0, |m| 4 * (m.keys.capacity() + m.queries.capacity()))
    }

    /// Maps keys `[n][d]` to `out`. Cost: `n * d * d` fused multiply-adds. The same bits at every level.
    ///
    /// # Errors
    /// [`PqError::Length`] unless `rows` is whole and `out` as long.
    pub fn keys(&self, rows: &[f32], out: &mut [f32]) -> Result<(), PqError> {
        self.apply(self.maps.as_ref().map(|m| &*m.keys), rows, out)
    }

    /// Maps queries `[n][d]` to `out`, so that products with mapped keys are those of the rows themselves, up to
    /// rounding. Cost and errors as [`keys`](Self::keys).
    ///
    /// # Errors
    /// [`PqError::Length`] unless `rows` is whole and `out` as long.
    pub fn queries(&self, rows: &[f32], out: &mut [f32]) -> Result<(), PqError> {
        self.apply(self.maps.as_ref().map(|m| &*m.queries), rows, out)
    }

    fn apply(&self, panels: Option<&[f32]>, rows: &[f32], out: &mut [f32]) -> Result<(), PqError> {
        whole_rows(rows.len(), self.d)?;
        if rows.len() != out.len() {
            return Err(PqError::Length { expected: rows.len(), got: out.len() });
        }
        match panels {
            Some(panels) => linalg::times(cpu::level(), panels, rows, out, self.d),
            None => out.copy_from_slice(rows),
        }
        Ok(())
    }

    /// Bytes that [`to_bytes`](Self::to_bytes) writes: none for the identity, else 8 for each number of a `d` by `d` matrix.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        if self.maps.is_none() { 0 } else { 8 * self.d * self.d }
    }

    /// Writes the matrices for keys and for queries, each `[d][d]` little-endian `f32`; nothing for the identity.
    ///
    /// # Errors
    /// [`PqError::Length`] unless `out` has [`len_bytes`](Self::len_bytes) bytes.
    pub fn to_bytes(&self, out: &mut [u8]) -> Result<(), PqError> {
        if out.len() != self.len_bytes() {
            return Err(PqError::Length { expected: self.len_bytes(), got: out.len() });
        }
        let Some(Maps { keys, queries }) = &self.maps else { return Ok(()) };
        let d = self.d;
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let panels = if i < d * d { keys } else { queries };
            *out = panels[place(i % (d * d), d)].to_le_bytes();
        }
        Ok(())
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for rows of `d` numbers.
    ///
    /// # Errors
    /// [`PqError::Length`] unless there are no bytes or two matrices, [`PqError::NonFinite`] with the row (rows of the second matrix
    /// count from `d`) that holds a NaN or an infinity.
    pub fn from_bytes(d: usize, bytes: &[u8]) -> Result<Self, PqError> {
        if bytes.is_empty() {
            return Ok(Self::identity(d));
        }
        let expected = if d > MAX_DIM { 0 } else { 8 * d * d };
        if bytes.len() != expected {
            return Err(PqError::Length { expected, got: bytes.len() });
        }
        let mut maps =
            Maps { keys: vec![0.0; linalg::panels_len(d)], queries: vec![0.0; linalg::panels_len(d)] };
        for (i, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let x = f32::from_le_bytes(*bytes);
            if !x.is_finite() {
                return Err(PqError::NonFinite { row: i / d });
            }
            let panels = if i < d * d { &mut maps.keys } else { &mut maps.queries };
            panels[place(i % (d * d), d)] = x;
        }
        Ok(Self { d, maps: Some(maps) })
    }
}

/// Where element `i` of a `[d][d]` matrix lies in its panels.
const fn place(i: usize, d: usize) -> usize {
    let (row, column) = (i / d, i % d);
    (row / linalg::PANEL * d + column) * linalg::PANEL + row % linalg::PANEL
}

/// `None` if the guard keeps the plain form.
fn learn(
    level: Level,
    keys: &[f32],
    queries: &[f32],
    shape: PqShape,
    params: &TransformParams,
) -> Option<Maps> {
    let d = shape.d();
    let cov = covariance(level, keys, d, params.most_keys.unwrap_or_else(|| enough(d)));
    let (mut moment, held) = moments(level, queries, d);
    let n = count(queries.len() / d) * 0.75;
    let a = params.shrink.max(count(d) / (count(d) + n)).min(1.0);
    for i in 0..d {
        for j in 0..d {
            moment[i * d + j] *= if i == j { 1.0 } else { 1.0 - a };
        }
        // A coordinate that no query has looked at yet must keep an inverse. (The mean of the diagonal is 1.)
        moment[i * d + i] += LEAST_SEEN;
    }
    // L, then L^T cov L.
    let mut l = moment;
    if !linalg::cholesky(level, &mut l, d) {
        return None;
    }
    let upper = transposed(&l, d);
    let (mut half, mut white) = (vec![0.0; d * d], vec![0.0; d * d]);
    linalg::product(level, &upper, &cov, &mut half, d);
    linalg::product(level, &half, &l, &mut white, d);
    let (mut values, mut vectors) = (vec![0.0; d], vec![0.0; d * d]);
    if !linalg::eigen(level, &mut white, &mut values, &mut vectors) {
        return None;
    }
    let order = deal(&values, shape);
    let mut turned = white;
    for (row, &i) in turned.chunks_exact_mut(d).zip(&order) {
        row.copy_from_slice(&vectors[i * d..][..d]);
    }
    let mut for_keys = half;
    linalg::product(level, &turned, &upper, &mut for_keys, d);
    linalg::solve(level, &l, &mut turned, d);
    let for_queries = turned;

    // The guard.
    let plain: Option<f64> = (0..shape.m())
        .map(|s| plain_error(level, &cov, &held, shape.start(s)..shape.start(s + 1), d, shape.nbits()))
        .sum();
    linalg::product(level, &for_queries, &held, &mut vectors, d);
    let seen = |i: usize| -> f64 {
        vectors[i * d..][..d].iter().zip(&for_queries[i * d..][..d]).map(|(x, y)| x * y).sum()
    };
    let transformed: f64 = (0..shape.m())
        .map(|s| {
            let columns = shape.start(s)..shape.start(s + 1);
            let mut parts: Vec<(f64, f64)> = columns.map(|i| (values[order[i]], seen(i))).collect();
            least_error(&mut parts, shape.nbits())
        })
        .sum();
    // Not so for NaN.
    let better = plain.is_some_and(|plain| transformed < plain);
    if !better {
        return None;
    }
    let mut maps = Maps { keys: vec![0.0; linalg::panels_len(d)], queries: vec![0.0; linalg::panels_len(d)] };
    linalg::panels(&for_keys, d, &mut maps.keys);
    linalg::panels(&for_queries, d, &mut maps.queries);
    let finite = maps.keys.iter().chain(&maps.queries).all(|x| x.is_finite());
    finite.then_some(maps)
}

/// Rows that tell second moments of `d` coordinates well enough.
fn enough(d: usize) -> usize {
    (16 * d).max(2048)
}

/// Of at most `most` rows, evenly spread.
fn covariance(level: Level, keys: &[f32], d: usize, most: usize) -> Vec<f64> {
    let n = keys.len() / d;
    let used = n.min(most.max(d + 1));
    let mut sums = vec![0.0; d * d];
    let mut means = vec![0.0; d];
    let mut batch = Vec::with_capacity(64 * d);
    for i in 0..used {
        let row = &keys[i * n / used * d..][..d];
        batch.extend_from_slice(row);
        means.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x));
        if batch.len() == 64 * d || i + 1 == used {
            linalg::gram(level, &batch, d, &mut sums);
            batch.clear();
        }
    }
    for i in 0..d {
        for j in i..d {
            let x = (sums[i * d + j] - means[i] * means[j] / count(used)) / count(used);
            sums[i * d + j] = x;
            sums[j * d + i] = x;
        }
    }
    sums
}

/// Second moments of three runs in four, scaled to a mean diagonal of 1, and of the fourth, scaled alike.
fn moments(level: Level, queries: &[f32], d: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut moment, mut held) = (vec![0.0; d * d], vec![0.0; d * d]);
    let (mut most, mut others) = (Vec::with_capacity(queries.len()), Vec::new());
    for (i, run) in queries.chunks(RUN * d).enumerate() {
        if i % 4 == 1 { others.extend_from_slice(run) } else { most.extend_from_slice(run) }
    }
    linalg::gram(level, &most, d, &mut moment);
    linalg::gram(level, &others, d, &mut held);
    let (n, n_held) = (most.len() / d, others.len() / d);
    let trace: f64 = (0..d).map(|i| moment[i * d + i]).sum();
    let unit = count(d) / trace.max(f64::MIN_POSITIVE);
    for i in 0..d {
        for j in i..d {
            let x = moment[i * d + j] * unit;
            let y = held[i * d + j] * unit * count(n) / count(n_held).max(1.0);
            (moment[i * d + j], moment[j * d + i]) = (x, x);
            (held[i * d + j], held[j * d + i]) = (y, y);
        }
    }
    (moment, held)
}

/// [`least_error`] of the plain form in the sub-space of the columns `range`, by the eigenvectors of its covariance.
fn plain_error(
    level: Level,
    cov: &[f64],
    held: &[f64],
    range: core::ops::Range<usize>,
    d: usize,
    nbits: u8,
) -> Option<f64> {
    let n = range.len();
    let block = |of: &[f64]| -> Vec<f64> {
        range.clone().flat_map(|i| of[i * d..][range.clone()].to_vec()).collect()
    };
    let (held, mut values, mut vectors) = (block(held), vec![0.0; n], vec![0.0; n * n]);
    if !linalg::eigen(level, &mut block(cov), &mut values, &mut vectors) {
        return None;
    }
    let seen = |v: &[f64]| -> f64 {
        let rows = held.chunks_exact(n).zip(v);
        rows.map(|(row, x)| x * row.iter().zip(v).map(|(h, y)| h * y).sum::<f64>()).sum()
    };
    let mut parts: Vec<(f64, f64)> =
        values.iter().zip(vectors.chunks_exact(n)).map(|(&value, v)| (value, seen(v))).collect();
    Some(least_error(&mut parts, nbits))
}

/// The mean squared error of scores that `nbits` leave in a sub-space with `(variance, what queries see)` along each
/// uncorrelated direction: the rate-distortion limit of normal numbers (Cover and Thomas, theorem 10.3.3), where directions
/// below the water level get no bits and err by all they vary.
fn least_error(parts: &mut [(f64, f64)], nbits: u8) -> f64 {
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let log = |variance: f64| libm::log(variance.max(f64::MIN_POSITIVE));
    let mut sum = -2.0 * core::f64::consts::LN_2 * f64::from(nbits);
    let mut level = 0.0;
    for (i, &(variance, _)) in parts.iter().enumerate() {
        // The level, should this direction be the last with bits.
        let next = libm::exp((sum + log(variance)) / count(i + 1));
        if next >= variance {
            break;
        }
        sum += log(variance);
        level = next;
    }
    parts.iter().map(|&(variance, seen)| variance.max(0.0).min(level) * seen).sum()
}

/// Which eigenvalue goes to which column: falling, each to the sub-space with room whose logarithms sum to least,
/// and among equals to the one with fewer columns, then the lower.
fn deal(values: &[f64], shape: PqShape) -> Vec<usize> {
    let d = values.len();
    let mut falling: Vec<usize> = (0..d).collect();
    falling.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    let peak = values[falling[0]].max(f64::MIN_POSITIVE);
    // Nine orders of magnitude below the largest nothing matters; above zero, so that every column counts.
    let weight = |i: usize| libm::log((values[i] / peak).max(1e-9)) - libm::log(1e-9) + 1e-3;
    let mut order = vec![0; d];
    let mut sums = vec![(0.0, 0); shape.m()];
    for i in falling {
        let open = (0..shape.m()).filter(|s| sums[*s].1 < shape.dsub(*s));
        let least = open.min_by(|a, b| {
            let ((x, n), (y, k)) = (sums[*a], sums[*b]);
            f64::total_cmp(&x, &y).then(usize::cmp(&n, &k))
        });
        let s = least.expect("there are as many columns as values");
        order[shape.start(s) + sums[s].1] = i;
        sums[s] = (sums[s].0 + weight(i), sums[s].1 + 1);
    }
    order
}

fn transposed(a: &[f64], d: usize) -> Vec<f64> {
    (0..d * d).map(|i| a[i % d * d + i / d]).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts of rows and columns")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
