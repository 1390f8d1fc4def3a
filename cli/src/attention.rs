//! Attention over a cache, and what compressed keys and values do to its output.
//!
//! One [`Reference`] holds one kv head: the queries of its group of query heads, its original keys and values, and
//! their scores. [`Reference::compare`] then replaces the keys, the values, or both, and measures each query's
//! output: `|o' - o| / |o|` (Euclidean norms over the head's elements), where `o = softmax(q k^T * scale) v` over the
//! tokens at or before the query's own, the last `window` of them for a sliding-window layer.
//!
//! Cost of a comparison: `3 * rows * n_tokens * head_dim` multiply-adds for outputs and one third of that for scores,
//! in f32 with 16 queries side by side, which the compiler turns into vector code. The original scores stay in memory:
//! `4 * rows * n_tokens` bytes.

/// Queries that are worked on side by side.
const LANES: usize = 16;

/// Queries of one kv head: those of all query heads of its group, one row each.
#[derive(Clone, Copy, Debug)]
pub struct GroupQueries<'a> {
    /// `[group][n_queries][head_dim]`, after RoPE.
    pub rows: &'a [f32],
    /// Queries of each head; query `j` belongs to token `n_tokens - n_queries + j`.
    pub n_queries: usize,
    /// Elements of a query and of a key; values may have another number.
    pub head_dim: usize,
    /// Tokens that a query sees, its own included.
    pub window: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
}

/// One kv head with its original keys and values.
pub struct Reference<'a> {
    queries: GroupQueries<'a>,
    n_tokens: usize,
    v: &'a [f32],
    value_dim: usize,
    /// `[row block][head_dim]`: transposed queries, scaled.
    q_lanes: Vec<[f32; LANES]>,
    /// `[row block][n_tokens]`: scores with the original keys, minus infinity where the query does not look.
    scores: Vec<[f32; LANES]>,
    /// `[row block][LANES][value_dim]`: outputs with the original keys and values.
    out: Vec<f32>,
}

/// What a compressed head does to the output: one relative error for each query of each head of the group.
#[derive(Clone, Debug, Default)]
pub struct OutputErrors {
    /// Compressed keys, original values.
    pub k: Vec<f64>,
    /// Original keys, compressed values.
    pub v: Vec<f64>,
    /// Both compressed.
    pub both: Vec<f64>,
    /// Largest difference of a (scaled) score.
    pub max_logit: f64,
}

impl OutputErrors {
    /// Takes in the errors of another head.
    pub fn merge(&mut self, other: &Self) {
        self.k.extend(&other.k);
        self.v.extend(&other.v);
        self.both.extend(&other.both);
        self.max_logit = self.max_logit.max(other.max_logit);
    }
}

/// Mean and 95th percentile (nearest rank) of a set of errors; NaN if it is empty.
#[must_use]
pub fn mean_and_p95(errors: &[f64]) -> (f64, f64) {
    if errors.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut sorted = errors.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    let rank = (sorted.len() * 95).div_ceil(100);
    (mean, sorted[rank - 1])
}

impl<'a> Reference<'a> {
    /// Scores and outputs of the original head; `k` is `[n_tokens][head_dim]`, `v` `[n_tokens][value_dim]`.
    ///
    /// # Panics
    /// If the slices' lengths do not fit together, or there are more queries than tokens.
    #[must_use]
    pub fn new(queries: GroupQueries<'a>, k: &[f32], v: &'a [f32]) -> Self {
        let d = queries.head_dim;
        let n_tokens = k.len() / d;
        assert!(queries.n_queries <= n_tokens && queries.n_queries > 0 && queries.window > 0);
        assert!(
            k.len() == n_tokens * d
                && queries.rows.len().is_multiple_of(d)
                && v.len().is_multiple_of(n_tokens)
        );
        let value_dim = v.len() / n_tokens;
        let n_rows = queries.rows.len() / d;
        let n_blocks = n_rows.div_ceil(LANES);
        let mut q_lanes = vec![[0.0; LANES]; n_blocks * d];
        for (row, values) in queries.rows.chunks_exact(d).enumerate() {
            for (lanes, value) in q_lanes[row / LANES * d..].iter_mut().zip(values) {
                lanes[row % LANES] = value * queries.scale;
            }
        }
        let mut scores = vec![[0.0; LANES]; n_blocks * n_tokens];
        let mut out = vec![0.0; n_blocks * LANES * value_dim];
        let mut weights = vec![[0.0; LANES]; n_tokens];
        for block in 0..n_blocks {
            let s = &mut scores[block * n_tokens..][..n_tokens];
            score(&q_lanes[block * d..][..d], k, s);
            mask(&queries, n_tokens, block, s);
            softmax(s, &mut weights);
            let block = block * LANES * value_dim;
            weighted_sum(&weights, v, value_dim, &mut out[block..][..LANES * value_dim]);
        }
        Self { queries, n_tokens, v, value_dim, q_lanes, scores, out }
    }

    /// Measures keys and values that should stand for the original ones.
    ///
    /// # Panics
    /// If `k` or `v` is not as long as the original.
    #[must_use]
    pub fn compare(&self, k: &[f32], v: &[f32]) -> OutputErrors {
        let (d, value_dim, n) = (self.queries.head_dim, self.value_dim, self.n_tokens);
        assert!(k.len() == n * d && v.len() == n * value_dim);
        let mut errors = OutputErrors::default();
        let n_rows = self.queries.rows.len() / d;
        let mut s = vec![[0.0; LANES]; n];
        let mut original = vec![[0.0; LANES]; n];
        let mut changed = vec![[0.0; LANES]; n];
        let mut out = vec![0.0; LANES * value_dim];
        for block in 0..n_rows.div_ceil(LANES) {
            let lanes = LANES.min(n_rows - block * LANES);
            let truth = &self.out[block * LANES * value_dim..][..LANES * value_dim];
            let s0 = &self.scores[block * n..][..n];
            score(&self.q_lanes[block * d..][..d], k, &mut s);
            mask(&self.queries, n, block, &mut s);
            errors.max_logit = errors.max_logit.max(largest_difference(s0, &s, lanes));
            softmax(s0, &mut original);
            softmax(&s, &mut changed);
            let mut measure = |weights: &[[f32; LANES]], v: &[f32], into: &mut Vec<f64>| {
                out.fill(0.0);
                weighted_sum(weights, v, value_dim, &mut out);
                let rows = out.chunks_exact(value_dim).zip(truth.chunks_exact(value_dim)).take(lanes);
                into.extend(rows.map(|(got, want)| relative_error(got, want)));
            };
            measure(&changed, self.v, &mut errors.k);
            measure(&original, v, &mut errors.v);
            measure(&changed, v, &mut errors.both);
        }
        errors
    }
}

/// `|got - want| / |want|`; where the true output is zero, 0 if it was met and infinity if not.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// Scores of 16 queries against every key.
fn score(q: &[[f32; LANES]], k: &[f32], out: &mut [[f32; LANES]]) {
    for (key, out) in k.chunks_exact(q.len()).zip(out) {
        let mut sum = [0.0; LANES];
        for (x, lanes) in key.iter().zip(q) {
            for (s, l) in sum.iter_mut().zip(lanes) {
                *s += x * l;
            }
        }
        *out = sum;
    }
}

/// Hides the tokens after a query's own and those before its window.
fn mask(queries: &GroupQueries<'_>, n_tokens: usize, block: usize, s: &mut [[f32; LANES]]) {
    for lane in 0..LANES {
        let j = (block * LANES + lane) % queries.n_queries;
        let end = n_tokens - queries.n_queries + j + 1;
        let start = end.saturating_sub(queries.window);
        let (seen_or_before, after) = s.split_at_mut(end);
        for lanes in seen_or_before[..start].iter_mut().chain(after) {
            lanes[lane] = f32::NEG_INFINITY;
        }
    }
}

fn softmax(s: &[[f32; LANES]], weights: &mut [[f32; LANES]]) {
    let mut max = [f32::NEG_INFINITY; LANES];
    for lanes in s {
        for (m, x) in max.iter_mut().zip(lanes) {
            *m = m.max(*x);
        }
    }
    let mut sum = [0.0; LANES];
    for (weights, lanes) in weights.iter_mut().zip(s) {
        for i in 0..LANES {
            weights[i] = (lanes[i] - max[i]).exp();
            sum[i] += weights[i];
        }
    }
    let inverse = sum.map(|s| 1.0 / s);
    for weights in weights {
        for (w, i) in weights.iter_mut().zip(inverse) {
            *w *= i;
        }
    }
}

/// Adds `weights^T v` to `out`, `[LANES][d]`. Four tokens at a time, so that a sum is loaded and stored once for four.
fn weighted_sum(weights: &[[f32; LANES]], v: &[f32], d: usize, out: &mut [f32]) {
    let (fours, rest) = weights.as_chunks::<4>();
    let (v_fours, v_rest) = v.split_at(fours.len() * 4 * d);
    for (w, v) in fours.iter().zip(v_fours.chunks_exact(4 * d)) {
        let (v01, v23) = v.split_at(2 * d);
        let ((v0, v1), (v2, v3)) = (v01.split_at(d), v23.split_at(d));
        for (lane, out) in out.chunks_exact_mut(d).enumerate() {
            let [a, b, c, e] = [w[0][lane], w[1][lane], w[2][lane], w[3][lane]];
            for i in 0..d {
                out[i] += (a * v0[i] + b * v1[i]) + (c * v2[i] + e * v3[i]);
            }
        }
    }
    for (w, v) in rest.iter().zip(v_rest.chunks_exact(d)) {
        for (lane, out) in out.chunks_exact_mut(d).enumerate() {
            for (out, x) in out.iter_mut().zip(v) {
                *out += w[lane] * x;
            }
        }
    }
}

fn largest_difference(a: &[[f32; LANES]], b: &[[f32; LANES]], lanes: usize) -> f64 {
    let mut largest = 0.0f32;
    for (a, b) in a.iter().zip(b) {
        for (x, y) in a[..lanes].iter().zip(&b[..lanes]) {
            if *x > f32::NEG_INFINITY {
                largest = largest.max((x - y).abs());
            }
        }
    }
    f64::from(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    /// A deterministic stream of numbers in -1..1.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Attention of one query in f64, token by token.
    fn output(q: &[f32], k: &[f32], v: &[f32], seen: Range<usize>, scale: f64) -> (Vec<f64>, Vec<f64>) {
        let d = q.len();
        let value_dim = v.len() / (k.len() / d);
        let dot = |t: usize| {
            let key = &k[t * d..][..d];
            scale * q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        let scores: Vec<f64> = seen.clone().map(dot).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut out = vec![0.0; value_dim];
        for (t, s) in seen.zip(&scores) {
            let p = (s - max).exp() / total;
            out.iter_mut().zip(&v[t * value_dim..][..value_dim]).for_each(|(o, x)| *o += p * f64::from(*x));
        }
        (out, scores)
    }

    #[test]
    fn errors_agree_with_attention_in_f64() {
        let cases =
            [(32, 32, 50, 7, 3, 50), (64, 16, 33, 33, 1, 99), (8, 8, 1, 1, 1, 1), (48, 48, 130, 16, 2, 20)];
        for (d, value_dim, n_tokens, n_queries, group, window) in cases {
            let scale = 1.0 / (d as f32).sqrt() * 4.0;
            let q = noise(group * n_queries * d, 1);
            let (k, v) = (noise(n_tokens * d, 2), noise(n_tokens * value_dim, 3));
            let bend = |x: &[f32], seed| -> Vec<f32> {
                x.iter().zip(noise(x.len(), seed)).map(|(x, e)| x + 0.05 * e).collect()
            };
            let (k2, v2) = (bend(&k, 4), bend(&v, 5));
            let queries = GroupQueries { rows: &q, n_queries, head_dim: d, window, scale };
            let got = Reference::new(queries, &k, &v).compare(&k2, &v2);
            let mut max_logit = 0.0f64;
            for (row, q) in q.chunks_exact(d).enumerate() {
                let end = n_tokens - n_queries + row % n_queries + 1;
                let seen = end.saturating_sub(window)..end;
                let (want, s) = output(q, &k, &v, seen.clone(), f64::from(scale));
                let (with_k, s2) = output(q, &k2, &v, seen.clone(), f64::from(scale));
                s.iter().zip(&s2).for_each(|(a, b)| max_logit = max_logit.max((a - b).abs()));
                let (with_v, _) = output(q, &k, &v2, seen.clone(), f64::from(scale));
                let (with_both, _) = output(q, &k2, &v2, seen.clone(), f64::from(scale));
                let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
                for (name, out, got) in
                    [("k", with_k, got.k[row]), ("v", with_v, got.v[row]), ("both", with_both, got.both[row])]
                {
                    let difference: Vec<f64> = out.iter().zip(&want).map(|(a, b)| a - b).collect();
                    let expected = norm(&difference) / norm(&want);
                    assert!(
                        (got - expected).abs() <= 2e-5 * (1.0 + expected),
                        "{name} row {row}: {got} {expected}"
                    );
                }
            }
            assert!((got.max_logit - max_logit).abs() < 1e-5);
        }
    }

    #[test]
    fn equal_keys_and_values_have_no_error_at_all() {
        let (q, k, v) = (noise(64 * 5, 1), noise(64 * 20, 2), noise(64 * 20, 3));
        let queries = GroupQueries { rows: &q, n_queries: 5, head_dim: 64, window: 20, scale: 0.125 };
        let errors = Reference::new(queries, &k, &v).compare(&k, &v);
        assert!(errors.k.iter().chain(&errors.v).chain(&errors.both).all(|e| *e == 0.0));
        assert_eq!((errors.both.len(), errors.max_logit), (5, 0.0));
    }

    #[test]
    fn tokens_after_the_query_do_not_matter() {
        let (q, k, v) = (noise(16 * 4, 1), noise(16 * 10, 2), noise(16 * 10, 3));
        let queries = GroupQueries { rows: &q, n_queries: 4, head_dim: 16, window: 10, scale: 0.25 };
        let (mut k2, mut v2) = (k.clone(), v.clone());
        k2[16 * 7..].fill(9.0); // queries belong to tokens 6, 7, 8 and 9
        v2[16 * 7..].fill(9.0);
        let errors = Reference::new(queries, &k, &v).compare(&k2, &v2);
        assert_eq!(errors.both[0], 0.0);
        assert!(errors.both[1..].iter().all(|e| *e > 0.0));
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let errors: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(mean_and_p95(&errors), (50.5, 95.0));
        assert_eq!(mean_and_p95(&[3.0]), (3.0, 3.0));
    }
}
