//! Codebooks by k-means: seeding, Lloyd's iterations, empty clusters.

use super::budget::{Clock, IterBudget};
use super::{Codebook, PqError, PqShape, whole_rows};
use crate::cpu::{self, Level};
use crate::kernels::assign;
use crate::num::rng::Xoshiro256pp;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;

/// Rows that k-means++ draws from, for each centroid: distances to every seed in turn are the costly part, and a
/// sample of this size moves the final inertia by less than another seed does.
const SEEDING_ROWS: usize = 32;

/// Rows that are assigned and then summed while they are still in the second-level cache.
const BLOCK_ROWS: usize = 480;

/// Sums in a cache line.
const LINE: usize = 8;

/// How [`train`] works.
#[derive(Clone, Copy, Debug)]
pub struct TrainParams<'a> {
    /// Where the centroids start.
    pub init: Init<'a>,
    /// Seed of every random choice.
    pub seed: u64,
    /// When to stop, converged or not.
    pub budget: IterBudget<'a>,
    /// A sub-space has converged once the squared shifts of its centroids add up to at most `tol` times the mean
    /// variance of its columns (scikit-learn's rule). 0 waits until nothing moves.
    pub tol: f64,
    /// Train on at most `sample * ksub` rows, drawn without replacement and kept in order. `None` uses all.
    pub sample: Option<usize>,
}

impl Default for TrainParams<'_> {
    /// k-means++, ten iterations, tolerance 1e-4, all rows.
    fn default() -> Self {
        Self { init: Init::KMeansPlusPlus, seed: 0, budget: IterBudget::Fixed(10), tol: 1e-4, sample: None }
    }
}

/// Where centroids start.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Init<'a> {
    /// Each seed is drawn with a probability proportional to its squared distance from the seeds before it (Arthur
    /// and Vassilvitskii, SODA 2007), among at most 32 rows for each centroid. Once every row coincides with a
    /// seed, or where squared distances overflow `f32`, the draw is uniform.
    KMeansPlusPlus,
    /// `ksub` different rows, the same for every sub-space (PQCache's choice). With fewer rows than centroids,
    /// centroid `c` starts at row `c % n`.
    RandomRows,
    /// These centroids, of the same shape: the next chunk of a prompt, or keys that have drifted. Fewer iterations do.
    From(&'a Codebook),
}

/// What [`train`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainReport {
    /// Iterations run: assignments followed by an update of the centroids.
    pub iterations: u32,
    /// For each sub-space, the squared distances of the training rows to the centroids of their last assignment,
    /// summed: an upper bound of what [`Codebook::encode`] leaves on these rows.
    pub inertia: Vec<f64>,
    /// Whether every sub-space came within the tolerance.
    pub converged: bool,
    /// Rows trained on.
    pub rows: usize,
    /// Empty clusters that were given a new centroid, over all iterations.
    pub reseeded: usize,
}

/// Trains a codebook on rows `[n][d]` by Lloyd's k-means in each sub-space.
///
/// A centroid that no row is nearest to is reseeded, in order of index: it moves to the row with the greatest
/// distance to its own centroid (the lower row on a tie), which leaves its cluster; distances then count the new
/// centroid too. Where no row has a distance left, there are no more different sub-vectors than centroids, and the
/// surplus centroids stay where they are, unused or equal to others.
///
/// Sums run in `f64` in row order, so that equal rows, shape and parameters give equal bits at every SIMD level.
/// Allocates the codes of the rows, the sums, and a copy of the rows if they are sampled.
///
/// # Errors
/// [`PqError::Length`] if `rows` are not whole, [`PqError::NoRows`] if there are none, [`PqError::NonFinite`] with
/// the first row that holds a NaN or an infinity, [`PqError::OtherShape`] if it should start from a codebook of another
/// shape.
pub fn train(
    rows: &[f32],
    shape: PqShape,
    params: &TrainParams<'_>,
) -> Result<(Codebook, TrainReport), PqError> {
    train_at(cpu::level(), rows, shape, params)
}

pub(crate) fn train_at(
    level: Level,
    rows: &[f32],
    shape: PqShape,
    params: &TrainParams<'_>,
) -> Result<(Codebook, TrainReport), PqError> {
    if whole_rows(rows.len(), shape.d)? == 0 {
        return Err(PqError::NoRows);
    }
    if let Some(row) = assign::first_non_finite(level, rows, shape.d) {
        return Err(PqError::NonFinite { row });
    }
    let clock = Clock::start(params.budget, rows.len() / shape.d);
    let mut rng = Xoshiro256pp::new(params.seed);
    let most = params.sample.map_or(usize::MAX, |s| s.max(1).saturating_mul(shape.ksub()));
    let rows = draw_rows(rows, shape.d, most, &mut rng);
    let centroids = match params.init {
        Init::KMeansPlusPlus => plus_plus(level, &rows, shape, &mut rng),
        Init::RandomRows => random_rows(&rows, shape, &mut rng),
        Init::From(codebook) if codebook.shape() == shape => codebook.centroids.clone(),
        Init::From(codebook) => {
            return Err(PqError::OtherShape { expected: shape, got: codebook.shape() });
        }
    };
    let mut lloyd = Lloyd::new(&rows, Codebook::new(shape, centroids)?);
    let (mut iterations, mut converged) = (0, false);
    while iterations == 0 || (!converged && !clock.is_over(iterations)) {
        converged = lloyd.iterate(level, params.tol);
        iterations += 1;
    }
    let report = TrainReport {
        iterations,
        inertia: lloyd.inertia,
        converged,
        rows: rows.len() / shape.d,
        reseeded: lloyd.reseeded,
    };
    Ok((lloyd.codebook, report))
}

/// At most `most` rows without replacement, in their order (Knuth, TAOCP 3.4.2, algorithm S).
fn draw_rows<'a>(rows: &'a [f32], d: usize, most: usize, rng: &mut Xoshiro256pp) -> Cow<'a, [f32]> {
    let n = rows.len() / d;
    if n <= most {
        return Cow::Borrowed(rows);
    }
    let mut drawn = Vec::with_capacity(most * d);
    for (i, row) in rows.chunks_exact(d).enumerate() {
        if below(rng, n - i) < most - drawn.len() / d {
            drawn.extend_from_slice(row);
        }
    }
    Cow::Owned(drawn)
}

fn below(rng: &mut Xoshiro256pp, n: usize) -> usize {
    usize::try_from(rng.below(n as u64)).expect("below n, which is a usize")
}

/// Centroids `[m][ksub][dsub]` that start at rows.
fn random_rows(rows: &[f32], shape: PqShape, rng: &mut Xoshiro256pp) -> Vec<f32> {
    let drawn = draw_rows(rows, shape.d, shape.ksub(), rng);
    let mut centroids = Vec::with_capacity(shape.codebook_len());
    for s in 0..shape.m {
        for row in drawn.chunks_exact(shape.d).cycle().take(shape.ksub()) {
            centroids.extend_from_slice(&row[shape.start(s)..shape.start(s + 1)]);
        }
    }
    centroids
}

/// Centroids `[m][ksub][dsub]` by k-means++ in each sub-space.
fn plus_plus(level: Level, rows: &[f32], shape: PqShape, rng: &mut Xoshiro256pp) -> Vec<f32> {
    let rows = draw_rows(rows, shape.d, SEEDING_ROWS * shape.ksub(), rng);
    let n = rows.len() / shape.d;
    let mut centroids = Vec::with_capacity(shape.codebook_len());
    let mut columns = vec![0.0; n * shape.dsub(0)];
    let mut distances = vec![0.0; n];
    let mut sums = vec![0.0; n.div_ceil(assign::BLOCK)];
    for s in 0..shape.m {
        let span = shape.start(s)..shape.start(s + 1);
        let columns = &mut columns[..n * span.len()];
        // By blocks of rows that stay in the cache while each column is written in one piece.
        for (b, rows) in rows.chunks(assign::BLOCK * shape.d).enumerate() {
            for (j, column) in columns.chunks_exact_mut(n).enumerate() {
                for (x, row) in column[b * assign::BLOCK..].iter_mut().zip(rows.chunks_exact(shape.d)) {
                    *x = row[span.start + j];
                }
            }
        }
        distances.fill(f32::INFINITY);
        for c in 0..shape.ksub() {
            let row = if c == 0 { None } else { draw_by_distance(&distances, &sums, rng) };
            let row = row.unwrap_or_else(|| below(rng, n));
            let seed = &rows[row * shape.d..][span.clone()];
            assign::lower_distances(level, columns, seed, &mut distances, &mut sums);
            centroids.extend_from_slice(seed);
        }
    }
    centroids
}

/// A row drawn with a probability proportional to its distance; `None` if the distances' sum is zero or infinite.
/// `sums` are those of [`assign::lower_distances`].
fn draw_by_distance(distances: &[f32], sums: &[f64], rng: &mut Xoshiro256pp) -> Option<usize> {
    let total: f64 = sums.iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return None;
    }
    let mut left = rng.f64() * total;
    let mut last = None;
    for (b, (block, &sum)) in distances.chunks(assign::BLOCK).zip(sums).enumerate() {
        if sum <= left {
            left -= sum;
            continue;
        }
        for (i, &distance) in block.iter().enumerate().filter(|(_, d)| **d > 0.0) {
            last = Some(b * assign::BLOCK + i);
            left -= f64::from(distance);
            if left < 0.0 {
                return last;
            }
        }
    }
    // Rounding may leave a little over after the last row; it falls to the last row met.
    last.or_else(|| distances.iter().rposition(|d| *d > 0.0))
}

/// Lloyd's iterations of all sub-spaces.
struct Lloyd<'a> {
    rows: &'a [f32],
    codebook: Codebook,
    /// `[n][m]`.
    codes: Vec<u8>,
    /// `[m][ksub][dsub]`, behind `pad` elements that bring the first to a cache line's start: every sum is loaded and
    /// stored for every row, and half of the accesses would straddle two lines.
    sums: Vec<f64>,
    pad: usize,
    /// `[m][ksub]`.
    counts: Vec<u32>,
    /// Sum of each sub-space's squared values, for the inertia.
    squares: Vec<f64>,
    /// Mean variance of each sub-space's columns.
    variance: Vec<f64>,
    inertia: Vec<f64>,
    reseeded: usize,
}

impl<'a> Lloyd<'a> {
    #[allow(clippy::cast_precision_loss, reason = "counts of rows and columns are far below 2^53")]
    fn new(rows: &'a [f32], codebook: Codebook) -> Self {
        let shape = codebook.shape();
        let n = rows.len() / shape.d;
        let mut column_sums = vec![0.0; shape.d];
        let mut squares = vec![0.0; shape.d];
        for row in rows.chunks_exact(shape.d) {
            for ((sum, square), &x) in column_sums.iter_mut().zip(&mut squares).zip(row) {
                let x = f64::from(x);
                *sum += x;
                *square += x * x;
            }
        }
        let variance = (0..shape.m).map(|s| {
            let span = shape.start(s)..shape.start(s + 1);
            let spread: f64 =
                span.clone().map(|j| squares[j] - column_sums[j] * column_sums[j] / n as f64).sum();
            spread.max(0.0) / (n * span.len()) as f64
        });
        let sums = vec![0.0_f64; shape.codebook_len() + LINE - 1];
        Self {
            rows,
            codes: vec![0; n * shape.m],
            // The offset may not be known (under an interpreter); then nothing but speed is lost.
            pad: sums.as_ptr().align_offset(LINE * size_of::<f64>()).min(LINE - 1),
            sums,
            counts: vec![0; shape.m * shape.ksub()],
            variance: variance.collect(),
            squares: (0..shape.m).map(|s| squares[shape.start(s)..shape.start(s + 1)].iter().sum()).collect(),
            inertia: vec![0.0; shape.m],
            reseeded: 0,
            codebook,
        }
    }

    /// Assigns every row, moves every centroid to the mean of its rows, reseeds the empty ones; whether every
    /// sub-space is within the tolerance.
    fn iterate(&mut self, level: Level, tol: f64) -> bool {
        let shape = self.codebook.shape();
        self.sums.fill(0.0);
        self.counts.fill(0);
        let blocks = self.rows.chunks(BLOCK_ROWS * shape.d).zip(self.codes.chunks_mut(BLOCK_ROWS * shape.m));
        for (rows, codes) in blocks {
            let finite = self.codebook.nearest(level, rows, codes);
            debug_assert!(finite, "checked before training");
            assign::accumulate(
                level,
                shape.split(),
                rows,
                codes,
                &mut self.sums[self.pad..][..shape.codebook_len()],
                &mut self.counts,
            );
        }
        let mut converged = true;
        let mut codebook = core::mem::take(&mut self.codebook.centroids);
        for s in 0..shape.m {
            let at = shape.start(s) * shape.ksub()..shape.start(s + 1) * shape.ksub();
            let centroids = &mut codebook[at];
            let shift = self.update(s, centroids);
            let empty = self.reseed(s, centroids);
            converged &= shift <= tol * self.variance[s] && empty == 0;
            self.reseeded += empty;
        }
        self.codebook.set_centroids(codebook);
        converged
    }

    /// Moves the centroids of sub-space `s` to the means of their rows and notes the inertia; the sum of their
    /// squared shifts.
    #[allow(clippy::cast_possible_truncation, reason = "centroids are rounded to f32 on purpose")]
    fn update(&mut self, s: usize, centroids: &mut [f32]) -> f64 {
        let shape = self.codebook.shape();
        let dsub = shape.dsub(s);
        let sums = self.sums[self.pad + shape.start(s) * shape.ksub()..].chunks_exact(dsub);
        let counts = &self.counts[s * shape.ksub()..][..shape.ksub()];
        let (mut shift, mut explained) = (0.0, 0.0);
        for ((centroid, sum), &count) in centroids.chunks_exact_mut(dsub).zip(sums).zip(counts) {
            if count == 0 {
                continue;
            }
            for (x, &sum) in centroid.iter_mut().zip(sum) {
                let mean = (sum / f64::from(count)) as f32;
                let step = f64::from(mean) - f64::from(*x);
                shift += step * step;
                explained += sum * sum / f64::from(count);
                *x = mean;
            }
        }
        // sum |x - mean|^2 = sum |x|^2 - n |mean|^2 in each cluster.
        self.inertia[s] = (self.squares[s] - explained).max(0.0);
        shift
    }

    /// Gives each empty cluster of sub-space `s` a row, as [`train`] describes; how many.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "centroids are rounded to f32 on purpose, codes are below 256"
    )]
    fn reseed(&mut self, s: usize, centroids: &mut [f32]) -> usize {
        let shape = self.codebook.shape();
        let (ksub, dsub, span) = (shape.ksub(), shape.dsub(s), shape.start(s)..shape.start(s + 1));
        let counts = &mut self.counts[s * ksub..][..ksub];
        if !counts.contains(&0) {
            return 0;
        }
        let sums = &mut self.sums[self.pad..][span.start * ksub..span.end * ksub];
        let code_of = |codes: &[u8], i: usize| usize::from(codes[i * shape.m + s]);
        let n = self.rows.len() / shape.d;
        let row = |i: usize| &self.rows[i * shape.d..][span.clone()];
        let mut distances: Vec<f64> = (0..n)
            .map(|i| squared_distance(row(i), &centroids[code_of(&self.codes, i) * dsub..][..dsub]))
            .collect();
        let mut reseeded = 0;
        for c in 0..ksub {
            if counts[c] > 0 {
                continue;
            }
            let mut farthest = None;
            for (i, &distance) in distances.iter().enumerate() {
                if distance > farthest.map_or(0.0, |(_, d)| d) && counts[code_of(&self.codes, i)] > 1 {
                    farthest = Some((i, distance));
                }
            }
            let Some((i, _)) = farthest else { break };
            let from = code_of(&self.codes, i);
            counts[from] -= 1;
            counts[c] = 1;
            self.codes[i * shape.m + s] = c as u8;
            for (j, &x) in row(i).iter().enumerate() {
                sums[from * dsub + j] -= f64::from(x);
                centroids[from * dsub + j] = (sums[from * dsub + j] / f64::from(counts[from])) as f32;
                centroids[c * dsub + j] = x;
            }
            for (i, distance) in distances.iter_mut().enumerate() {
                *distance = distance.min(squared_distance(row(i), &centroids[c * dsub..][..dsub]));
            }
            reseeded += 1;
        }
        reseeded
    }
}

fn squared_distance(x: &[f32], c: &[f32]) -> f64 {
    let step = |(&x, &c): (&f32, &f32)| f64::from(x) - f64::from(c);
    x.iter().zip(c).map(step).map(|e| e * e).sum()
}
