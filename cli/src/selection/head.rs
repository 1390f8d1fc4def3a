//! One kv head as selectors are measured on it: what they may look at, and what full attention gives.

use std::ops::Range;

use tersa_core::kv::Refresh;

/// Queries that are worked on side by side.
pub(crate) const LANES: usize = 16;

/// Which tokens are always attended, and how many of the others may be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// First tokens that every query attends.
    pub(crate) sinks: usize,
    /// Most recent tokens that every query attends, its own included.
    pub(crate) recent: usize,
    /// Tokens that a query sees at all, its own included.
    pub(crate) window: usize,
    /// Tokens chosen out of the others, one number for each budget, in the order they were asked for.
    pub(crate) ks: Vec<usize>,
    /// How the query heads of a group agree on one set.
    pub(crate) rule: GroupRule,
    /// Seed of whatever is random.
    pub(crate) seed: u64,
    /// Tokens that indexes are trained on before the others are appended; all before the first tested query, if not said.
    pub(crate) prefill: Option<usize>,
    /// When indexes are built anew, unless as they are configured.
    pub(crate) refresh: Option<Refresh>,
}

/// How scores of the query heads of a group become one score of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupRule {
    /// Sum of each head's softmax over the candidates (the paper's)
    SoftmaxSum,
    /// Largest of them
    Max,
    /// Sum of the scores themselves
    LogitSum,
}

impl GroupRule {
    /// The core's name for it.
    pub(crate) fn in_core(self) -> tersa_core::select::GroupRule {
        match self {
            Self::SoftmaxSum => tersa_core::select::GroupRule::SoftmaxSum,
            Self::Max => tersa_core::select::GroupRule::Max,
            Self::LogitSum => tersa_core::select::GroupRule::LogitSum,
        }
    }
}

/// One kv head with the queries of its group.
pub(crate) struct Head<'a> {
    /// `[n_tokens][head_dim]`.
    pub(crate) keys: &'a [f32],
    /// `[n_tokens][value_dim]`.
    pub(crate) values: &'a [f32],
    /// Tokens there are.
    pub(crate) n_tokens: usize,
    /// Numbers in a key and in a query.
    pub(crate) head_dim: usize,
    /// Query heads.
    pub(crate) group: usize,
    /// Queries of each head that are tested; query `j` belongs to token `n_tokens - n_queries + j`.
    pub(crate) n_queries: usize,
    /// `[group][n_queries][head_dim]`, not scaled.
    pub(crate) queries: &'a [f32],
    /// Captured queries of each head before the tested ones.
    pub(crate) n_before: usize,
    /// `[group][n_before][head_dim]`: the last ones belong to the tokens just before the tested ones.
    pub(crate) before: &'a [f32],
    /// What scores are multiplied by before the softmax.
    pub(crate) scale: f32,
    /// A number that no other head of the dump has.
    pub(crate) number: u64,
    /// Always attended, chosen from, and how.
    pub(crate) setting: &'a Setting,
}

impl Head<'_> {
    /// Tokens that are there before the first tested query: all that an index may be trained on.
    pub(crate) fn n_prompt(&self) -> usize {
        self.n_tokens - self.n_queries
    }

    /// Tokens that query `j` sees.
    pub(crate) fn seen(&self, j: usize) -> Range<usize> {
        self.seen_by(self.n_prompt() + j)
    }

    fn seen_by(&self, token: usize) -> Range<usize> {
        (token + 1).saturating_sub(self.setting.window)..token + 1
    }

    /// The tokens between sinks and recent ones, from which query `j` chooses.
    pub(crate) fn candidates(&self, j: usize) -> Range<usize> {
        self.candidates_of(self.n_prompt() + j)
    }

    /// The tokens from which the query of `token` chooses.
    pub(crate) fn candidates_of(&self, token: usize) -> Range<usize> {
        let seen = self.seen_by(token);
        let end = seen.end.saturating_sub(self.setting.recent).max(seen.start);
        self.setting.sinks.clamp(seen.start, end)..end
    }

    /// The tokens that query `j` attends whatever is chosen.
    pub(crate) fn always(&self, j: usize) -> impl Iterator<Item = usize> {
        let (seen, candidates) = (self.seen(j), self.candidates(j));
        (seen.start..candidates.start).chain(candidates.end..seen.end)
    }

    /// Scaled scores of rows of queries against all keys, `[rows][n_tokens]`.
    pub(crate) fn logits(&self, queries: &[f32]) -> Vec<f32> {
        products(queries, self.keys, self.head_dim, self.scale)
    }

    /// What full attention gives to the tested queries.
    pub(crate) fn truth(&self) -> Truth {
        let mut weights = self.logits(self.queries);
        let value_dim = self.values.len() / self.n_tokens;
        let logits = weights.clone();
        let mut outputs = vec![0.0; self.group * self.n_queries * value_dim];
        let rows = weights.chunks_exact_mut(self.n_tokens).zip(outputs.chunks_exact_mut(value_dim));
        for (row, (weights, output)) in rows.enumerate() {
            let seen = self.seen(row % self.n_queries);
            softmax(&mut weights[seen.clone()]);
            for (w, v) in weights[seen.clone()]
                .iter()
                .zip(self.values[seen.start * value_dim..].chunks_exact(value_dim))
            {
                add(output, *w, v);
            }
        }
        Truth { logits, weights, outputs, value_dim }
    }
}

/// Full attention of the tested queries.
pub(crate) struct Truth {
    /// `[group][n_queries][n_tokens]`: scaled scores, of tokens that are not seen too.
    pub(crate) logits: Vec<f32>,
    /// `[group][n_queries][n_tokens]`: probabilities, meaningless where a token is not seen.
    pub(crate) weights: Vec<f32>,
    /// `[group][n_queries][value_dim]`.
    outputs: Vec<f32>,
    value_dim: usize,
}

/// What attention to a part of the tokens keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Share of the probability that lies on the attended tokens.
    pub(crate) mass: f64,
    /// `|o' - o| / |o|` of the output.
    pub(crate) error: f64,
}

/// Output over the always attended tokens, to which chosen ones are added.
pub(crate) struct Partial {
    mass: f64,
    sum: Vec<f32>,
}

impl Truth {
    /// The part that every choice shares: row `h * n_queries + j` over [`Head::always`].
    pub(crate) fn always(&self, head: &Head<'_>, row: usize) -> Partial {
        let mut partial = Partial { mass: 0.0, sum: vec![0.0; self.value_dim] };
        self.extend(head, row, &mut partial, head.always(row % head.n_queries));
        partial
    }

    /// What is kept if `chosen` tokens are attended besides those of `always`.
    pub(crate) fn kept(&self, head: &Head<'_>, row: usize, always: &Partial, chosen: &[u32]) -> Kept {
        let mut all = Partial { mass: always.mass, sum: always.sum.clone() };
        self.extend(head, row, &mut all, chosen.iter().map(|&t| t as usize));
        let output = &self.outputs[row * self.value_dim..][..self.value_dim];
        let square = |x: f64| x * x;
        let norm: f64 = output.iter().map(|x| square(f64::from(*x))).sum();
        let off = |(sum, out): (&f32, &f32)| square(f64::from(*sum) / all.mass - f64::from(*out));
        let difference: f64 = all.sum.iter().zip(output).map(off).sum();
        let error = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        Kept { mass: all.mass, error }
    }

    fn extend(
        &self,
        head: &Head<'_>,
        row: usize,
        partial: &mut Partial,
        tokens: impl Iterator<Item = usize>,
    ) {
        let weights = &self.weights[row * head.n_tokens..][..head.n_tokens];
        for token in tokens {
            partial.mass += f64::from(weights[token]);
            add(&mut partial.sum, weights[token], &head.values[token * self.value_dim..][..self.value_dim]);
        }
    }
}

/// `scale * a b^T` of rows of `d` numbers, `[a rows][b rows]`.
pub(crate) fn products(a: &[f32], b: &[f32], d: usize, scale: f32) -> Vec<f32> {
    let (n_a, n_b) = (a.len() / d, b.len() / d);
    let mut out = vec![0.0; n_a * n_b];
    let mut lanes = vec![[0.0; LANES]; d];
    for (rows, out) in a.chunks(LANES * d).zip(out.chunks_mut(LANES * n_b)) {
        transpose(rows, d, scale, &mut lanes);
        for (i, pair) in b.chunks(2 * d).enumerate() {
            let (x, y) = pair.split_at(d);
            let (x, y) = lane_products(&lanes, x, y);
            for (lane, out) in out.chunks_exact_mut(n_b).enumerate() {
                out[2 * i] = x[lane];
                if let Some(out) = out.get_mut(2 * i + 1) {
                    *out = y[lane];
                }
            }
        }
    }
    out
}

/// Products of all lanes with every row of `keys`.
pub(crate) fn lane_scores(lanes: &[[f32; LANES]], keys: &[f32], out: &mut [[f32; LANES]]) {
    let d = lanes.len();
    for (pair, out) in keys.chunks(2 * d).zip(out.chunks_mut(2)) {
        let (x, y) = pair.split_at(d);
        let (x, y) = lane_products(lanes, x, y);
        out[0] = x;
        if let Some(out) = out.get_mut(1) {
            *out = y;
        }
    }
}

/// Up to [`LANES`] rows side by side; lanes without a row keep what they held.
pub(crate) fn transpose(rows: &[f32], d: usize, scale: f32, lanes: &mut [[f32; LANES]]) {
    for (lane, row) in rows.chunks_exact(d).enumerate() {
        for (to, x) in lanes.iter_mut().zip(row) {
            to[lane] = x * scale;
        }
    }
}

/// Products of all lanes with two rows (two, so that additions do not wait for one another); `y` may be empty.
fn lane_products(lanes: &[[f32; LANES]], x: &[f32], y: &[f32]) -> ([f32; LANES], [f32; LANES]) {
    let (mut sx, mut sy) = ([0.0; LANES], [0.0; LANES]);
    let y = if y.is_empty() { x } else { y };
    for ((lane, x), y) in lanes.iter().zip(x).zip(y) {
        for i in 0..LANES {
            sx[i] += x * lane[i];
            sy[i] += y * lane[i];
        }
    }
    (sx, sy)
}

/// `to += w * row`.
pub(crate) fn add(to: &mut [f32], w: f32, row: &[f32]) {
    for (to, x) in to.iter_mut().zip(row) {
        *to += w * x;
    }
}

/// Scores to probabilities, in place.
pub(crate) fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = exp(*s - max));
    let sum: f64 = scores.iter().map(|s| f64::from(*s)).sum();
    #[allow(clippy::cast_possible_truncation, reason = "a weight needs no more")]
    let inverse = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|s| *s *= inverse);
}

/// `e^x` for `x <= 0`, off by at most `(4 + |x|) * 1e-7` of it; below e^-87 it is 0. Simple enough for the compiler to make vector
/// code of it, which `f32::exp` is not.
pub(crate) fn exp(x: f32) -> f32 {
    let t = x.max(-87.0) * std::f32::consts::LOG2_E;
    // Adding 1.5 * 2^23 rounds to a whole number, which then is in the low bits.
    let shifted = t + 12_582_912.0;
    let f = t - (shifted - 12_582_912.0);
    // Taylor series of 2^f = e^(f ln 2) for |f| <= 1/2.
    let p = 1.0
        + f * (std::f32::consts::LN_2
            + f * (0.240_226_5
                + f * (0.055_504_11 + f * (0.009_618_13 + f * (0.001_333_36 + f * 0.000_154_035)))));
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { p * two_to_n }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = tersa_core::num::rng::Xoshiro256pp::new(seed);
        (0..n).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect()
    }

    #[test]
    fn exp_is_as_good_as_it_says() {
        for i in 0..=200_000 {
            let x = -95.0 * f64::from(i) / 200_000.0;
            let (got, want) = (f64::from(exp(x as f32)), f64::from(x as f32).exp());
            let bound = if x < -87.0 { 2e-38 } else { (4.0 - x) * 1e-7 * want };
            assert!((got - want).abs() <= bound, "{x}: {got} {want}");
        }
    }

    #[test]
    fn products_are_those_of_every_pair() {
        for (n_a, n_b, d) in [(1, 1, 1), (17, 5, 8), (16, 4, 64), (33, 31, 3)] {
            let (a, b) = (noise(n_a * d, 1), noise(n_b * d, 2));
            let got = products(&a, &b, d, 0.5);
            for (i, x) in a.chunks_exact(d).enumerate() {
                for (j, y) in b.chunks_exact(d).enumerate() {
                    let want: f64 = x.iter().zip(y).map(|(x, y)| 0.5 * f64::from(*x) * f64::from(*y)).sum();
                    assert!((f64::from(got[i * n_b + j]) - want).abs() < 1e-5, "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn every_seen_token_is_a_candidate_or_always_attended() {
        let rows = noise(40 * 4, 1);
        for (sinks, recent, window) in
            [(4, 8, 40), (0, 0, 40), (4, 64, 40), (50, 3, 40), (4, 8, 13), (4, 20, 13), (4, 1, 1)]
        {
            let setting = Setting {
                sinks,
                recent,
                window,
                ks: vec![],
                rule: GroupRule::SoftmaxSum,
                seed: 0,
                prefill: None,
                refresh: None,
            };
            let head = Head {
                keys: &rows,
                values: &rows,
                n_tokens: 40,
                head_dim: 4,
                group: 1,
                n_queries: 5,
                queries: &rows[..20],
                n_before: 0,
                before: &[],
                scale: 1.0,
                number: 0,
                setting: &setting,
            };
            for j in 0..5 {
                let mut all: Vec<usize> = head.always(j).chain(head.candidates(j)).collect();
                all.sort_unstable();
                assert_eq!(all, head.seen(j).collect::<Vec<_>>(), "{sinks} {recent} {window} {j}");
                assert!(head.candidates(j).all(|t| t >= sinks && t + recent < head.seen(j).end));
            }
        }
    }

    #[test]
    fn attending_everything_is_exact_and_leaving_out_is_what_a_slow_sum_says() {
        let (n, d, dv) = (50, 8, 6);
        let (keys, values, queries) = (noise(n * d, 1), noise(n * dv, 2), noise(2 * 3 * d, 3));
        let setting = Setting {
            sinks: 2,
            recent: 4,
            window: n,
            ks: vec![],
            rule: GroupRule::SoftmaxSum,
            seed: 0,
            prefill: None,
            refresh: None,
        };
        let head = Head {
            keys: &keys,
            values: &values,
            n_tokens: n,
            head_dim: d,
            group: 2,
            n_queries: 3,
            queries: &queries,
            n_before: 0,
            before: &[],
            scale: 0.7,
            number: 0,
            setting: &setting,
        };
        let truth = head.truth();
        for row in 0..6 {
            let j = row % 3;
            let always = truth.always(&head, row);
            let everything: Vec<u32> = head.candidates(j).map(|t| t as u32).collect();
            let kept = truth.kept(&head, row, &always, &everything);
            assert!((kept.mass - 1.0).abs() < 1e-5 && kept.error < 1e-5, "{kept:?}");

            let some: Vec<u32> = everything.iter().copied().step_by(3).collect();
            let attention = |tokens: &[usize]| {
                let score = |t: &usize| -> f64 {
                    let q = &queries[row * d..][..d];
                    q.iter().zip(&keys[t * d..]).map(|(a, b)| 0.7 * f64::from(*a) * f64::from(*b)).sum()
                };
                let weights: Vec<f64> = tokens.iter().map(|t| score(t).exp()).collect();
                let total: f64 = weights.iter().sum();
                let out: Vec<f64> = (0..dv)
                    .map(|c| {
                        tokens
                            .iter()
                            .zip(&weights)
                            .map(|(t, w)| w * f64::from(values[t * dv + c]))
                            .sum::<f64>()
                            / total
                    })
                    .collect();
                (total, out)
            };
            let seen: Vec<usize> = head.seen(j).collect();
            let part: Vec<usize> = head.always(j).chain(some.iter().map(|&t| t as usize)).collect();
            let ((all, o), (less, p)) = (attention(&seen), attention(&part));
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let off: Vec<f64> = o.iter().zip(&p).map(|(a, b)| a - b).collect();
            let kept = truth.kept(&head, row, &always, &some);
            assert!((kept.mass - less / all).abs() < 1e-5);
            assert!((kept.error - norm(&off) / norm(&o)).abs() < 1e-5);
        }
    }
}
