//! A query group's products with the centroids, as integers that a scan adds up.

use super::{Codebook, PqError, PqShape};
use crate::cpu::{self, Level};
use crate::kernels::scan::{self, Line, Tables};
use alloc::vec;
use alloc::vec::Vec;

/// Less than any sum of rounded table entries can come out above its limit.
const BELOW: f64 = 1.0 - 1.0 / (1 << 18) as f64;

/// Tables of the query heads that share a KV head: for each head, sub-space and centroid the product of the query's
/// sub-vector with the centroid, and an integer that stands for it.
///
/// With `low_s` the least product of sub-space `s` and `step` the head's [`scale`](Self::scale), an entry is
/// `floor((product - low_s) / step)`, and a token's score the sum of its entries, which is at most 65535. Entries have
/// 16 bits (6- and 8-bit codes: `step` is the sum of the sub-spaces' ranges over 65535) or 8 bits (4-bit codes: the
/// greatest range over 255, or as above if that is more). An entry is at most one step low and at least none, so that
/// with half a step for each sub-space in the [`bias`](Self::bias)
///
/// `|<q, k'> - (bias + scale * score)| <= m * scale / 2`
///
/// for the decoded key `k'`, up to rounding, which [`error_bound`](Self::error_bound) adds.
///
/// Buffers are made once; [`fill`](Self::fill) allocates nothing.
#[derive(Clone, Debug)]
pub struct QueryTables {
    shape: PqShape,
    group: usize,
    /// The level that the integer tables are laid out for.
    level: Level,
    /// `[group][m][ksub]`.
    lut: Vec<f32>,
    /// `[group][..]`.
    tables: Vec<Line>,
    /// `[m]`, of one head at a time.
    extremes: Vec<(f32, f32)>,
    heads: Vec<Head>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    scale: f32,
    bias: f32,
    bound: f32,
}

impl QueryTables {
    /// Tables for `group` query heads, of zeros so far.
    ///
    /// # Panics
    /// If `group` is 0.
    #[must_use]
    pub fn new(shape: PqShape, group: usize) -> Self {
        assert!(group > 0, "a group has at least one head");
        let bytes = group * shape.layout().table_bytes();
        Self {
            shape,
            group,
            level: cpu::level(),
            lut: vec![0.0; group * shape.m * shape.ksub()],
            tables: vec![Line::ZERO; bytes / size_of::<Line>()],
            extremes: vec![(0.0, 0.0); shape.m],
            heads: vec![Head::default(); group],
        }
    }

    /// Shape of the quantizer.
    #[must_use]
    pub const fn shape(&self) -> PqShape {
        self.shape
    }

    /// Query heads.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.group
    }

    /// Fills the tables for queries `[group][d]`: `group * d * ksub` multiplications and additions, and a pass over
    /// the tables. Equal at every level.
    ///
    /// # Errors
    /// [`PqError::OtherShape`] for a codebook of another shape, [`PqError::Length`] unless there are `group * d`
    /// numbers, [`PqError::NonFinite`] with the first head that holds a NaN or an infinity or whose products overflow.
    /// The tables then mean nothing.
    pub fn fill(&mut self, codebook: &Codebook, q: &[f32]) -> Result<(), PqError> {
        self.fill_at(cpu::level(), codebook, q)
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "counts below 2^17; the roundings to f32 are meant and bounded"
    )]
    pub(crate) fn fill_at(&mut self, level: Level, codebook: &Codebook, q: &[f32]) -> Result<(), PqError> {
        let shape = self.shape;
        if codebook.shape() != shape {
            return Err(PqError::OtherShape { expected: shape, got: codebook.shape() });
        }
        if q.len() != self.group * shape.d {
            return Err(PqError::Length { expected: self.group * shape.d, got: q.len() });
        }
        self.level = level;
        scan::products(level, shape.split(), codebook.table(), q, &mut self.lut);
        let bytes = bytemuck::cast_slice_mut::<Line, u8>(&mut self.tables);
        let heads = self.heads.iter_mut().zip(q.chunks_exact(shape.d)).enumerate();
        for (h, (head, q)) in heads {
            let lut = &self.lut[h * shape.m * shape.ksub()..][..shape.m * shape.ksub()];
            scan::extremes(level, shape.ksub(), lut, &mut self.extremes);
            let (mut base, mut sum, mut widest) = (0.0, 0.0, 0.0_f64);
            for &(low, high) in &self.extremes {
                let range = f64::from(high) - f64::from(low);
                base += f64::from(low);
                sum += range;
                widest = widest.max(range);
            }
            if !(base.is_finite() && sum < f64::from(f32::MAX) && q.iter().all(|x| x.is_finite())) {
                return Err(PqError::NonFinite { row: h });
            }
            let step = if shape.nbits == 4 { (widest / 255.0).max(sum / 65535.0) } else { sum / 65535.0 };
            // A step that f32 cannot divide by is nothing beside its own rounding: one value for all.
            let steps = (BELOW / step) as f32;
            let steps = if steps < 1e37 { steps } else { 0.0 };
            let scale = if steps > 0.0 { 1.0 / f64::from(steps) } else { 0.0 };
            let size = shape.layout().table_bytes();
            scan::quantize(level, shape.layout(), lut, &self.extremes, steps, &mut bytes[h * size..][..size]);
            let half = shape.m as f64 * scale / 2.0;
            head.scale = scale as f32;
            head.bias = (base + half) as f32;
            // Each product of a sub-space is dsub rounded multiplications and additions of terms whose absolute sum is
            // at most |q_s| |c|; then come the subtraction of the least, the multiplication by the reciprocal step, and
            // in the caller's arithmetic the scale, the bias and their sum.
            let epsilon = f64::from(f32::EPSILON) / 2.0;
            let products: f64 = (0..shape.m)
                .map(|s| {
                    let q_s = &q[shape.start(s)..shape.start(s + 1)];
                    let norm = q_s.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
                    (shape.dsub(s) + 2) as f64 * libm::sqrt(norm) * codebook.radius(s)
                })
                .sum();
            let rest = 4.0 * (libm::fabs(base) + sum + half);
            let flat = f64::from(f32::MIN_POSITIVE) + if steps > 0.0 { 0.0 } else { sum };
            head.bound = ((half + flat + epsilon * (1.01 * products + rest)) * (1.0 + 4.0 * epsilon)) as f32;
        }
        Ok(())
    }

    /// The product that one unit of head `head`'s score stands for.
    ///
    /// # Panics
    /// If there is no such head.
    #[must_use]
    pub fn scale(&self, head: usize) -> f32 {
        self.heads[head].scale
    }

    /// The product that a score of 0 stands for: `bias + scale * score` is within [`error_bound`](Self::error_bound) of
    /// the query's product with the decoded key.
    ///
    /// # Panics
    /// If there is no such head.
    #[must_use]
    pub fn bias(&self, head: usize) -> f32 {
        self.heads[head].bias
    }

    /// The greatest difference between `bias + scale * score`, computed in `f32`, and the exact product of the query
    /// with the decoded key.
    ///
    /// # Panics
    /// If there is no such head.
    #[must_use]
    pub fn error_bound(&self, head: usize) -> f32 {
        self.heads[head].bound
    }

    /// The products of head `head` with the centroids, `[m][ksub]`.
    ///
    /// # Panics
    /// If there is no such head.
    #[must_use]
    pub fn lut(&self, head: usize) -> &[f32] {
        assert!(head < self.group, "head {head} of {}", self.group);
        let len = self.shape.m * self.shape.ksub();
        &self.lut[head * len..][..len]
    }

    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn tables(&self) -> Tables<'_> {
        Tables { layout: self.shape.layout(), bytes: bytemuck::cast_slice(&self.tables) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng::Xoshiro256pp;
    use crate::pq::{Codes, scan};

    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    fn noise(rng: &mut Xoshiro256pp, n: usize, size: f64) -> Vec<f32> {
        (0..n).map(|_| ((rng.f64() * 2.0 - 1.0) * size) as f32).collect()
    }

    /// Scores of random tokens at every level: equal, and as near to the products in `f64` as promised.
    fn check(d: usize, m: usize, nbits: u8, group: usize, centroid: f64, query: f64) {
        let shape = PqShape::new(d, m, nbits).unwrap();
        let mut rng = Xoshiro256pp::new(7);
        let codebook = Codebook::new(shape, noise(&mut rng, shape.codebook_len(), centroid)).unwrap();
        let n = 300;
        let all: Vec<u8> = (0..n * m).map(|_| u8::try_from(rng.below(1 << nbits)).unwrap()).collect();
        let mut codes = Codes::new(shape);
        codes.extend(&all).unwrap();
        let mut keys = vec![0.0; n * d];
        codebook.decode(&all, &mut keys).unwrap();
        let q = noise(&mut rng, group * d, query);
        let mut first: Option<Vec<u16>> = None;
        for level in cpu::levels() {
            let mut tables = QueryTables::new(shape, group);
            tables.fill_at(level, &codebook, &q).unwrap();
            let mut scores = vec![0; group * n];
            scan(&tables, &codes, 0..n, &mut scores).unwrap();
            for (i, &score) in scores.iter().enumerate() {
                let (h, i) = (i / n, i % n);
                let product: f64 = keys[i * d..][..d]
                    .iter()
                    .zip(&q[h * d..])
                    .map(|(&k, &q)| f64::from(k) * f64::from(q))
                    .sum();
                let got = tables.bias(h) + tables.scale(h) * f32::from(score);
                let error = (f64::from(got) - product).abs();
                let bound = f64::from(tables.error_bound(h));
                assert!(error <= bound, "{shape:?} head {h} token {i}: {error:e} over {bound:e}");
            }
            assert!(*first.get_or_insert_with(|| scores.clone()) == scores, "{shape:?} {level}");
        }
    }

    #[test]
    fn scores_stand_for_products_within_the_bound_at_every_level() {
        for (d, m) in [(1, 1), (9, 2), (64, 16), (128, 2), (128, 32), (130, 7), (300, 300)] {
            for nbits in [4, 6, 8] {
                check(d, m, nbits, 3, 1.0, 2.0);
                check(d, m, nbits, 1, 1e-20, 1e-19);
                check(d, m, nbits, 1, 1e10, 1e20);
                check(d, m, nbits, 1, 1.0, 0.0);
            }
        }
    }

    #[test]
    fn the_bound_is_half_a_step_for_each_sub_space_and_little_more() {
        let shape = PqShape::new(128, 16, 8).unwrap();
        let mut rng = Xoshiro256pp::new(3);
        let codebook = Codebook::new(shape, noise(&mut rng, shape.codebook_len(), 1.0)).unwrap();
        let mut tables = QueryTables::new(shape, 1);
        tables.fill(&codebook, &noise(&mut rng, 128, 1.0)).unwrap();
        let half = 8.0 * tables.scale(0);
        assert!((half..1.2 * half).contains(&tables.error_bound(0)), "{} {half}", tables.error_bound(0));
        assert_eq!(tables.lut(0).len(), 16 * 256);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let shape = PqShape::new(8, 2, 4).unwrap();
        let other = PqShape::new(8, 2, 6).unwrap();
        let codebook = Codebook::new(shape, vec![1.0; 8 * 16]).unwrap();
        let mut tables = QueryTables::new(other, 2);
        let mismatch = PqError::OtherShape { expected: other, got: shape };
        assert_eq!(tables.fill(&codebook, &[0.0; 16]), Err(mismatch));
        let mut tables = QueryTables::new(shape, 2);
        assert_eq!(tables.fill(&codebook, &[0.0; 8]), Err(PqError::Length { expected: 16, got: 8 }));
        let mut q = [1.0; 16];
        q[9] = f32::NAN;
        assert_eq!(tables.fill(&codebook, &q), Err(PqError::NonFinite { row: 1 }));
        q = [f32::MAX; 16];
        assert_eq!(tables.fill(&codebook, &q), Err(PqError::NonFinite { row: 0 }));
        let mismatch = PqError::OtherShape { expected: shape, got: other };
        assert_eq!(scan(&tables, &Codes::new(other), 0..0, &mut []), Err(mismatch));
        let mut codes = Codes::new(shape);
        codes.extend(&[0; 6]).unwrap();
        assert_eq!(scan(&tables, &codes, 1..4, &mut [0; 6]), Err(PqError::Tokens { end: 4, len: 3 }));
        assert_eq!(scan(&tables, &codes, 1..3, &mut [0; 5]), Err(PqError::Length { expected: 4, got: 5 }));
        assert_eq!(scan(&tables, &codes, 2..2, &mut []), Ok(()));
    }
}
