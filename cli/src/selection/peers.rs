//! Selectors of others, for comparison only: plain `f32`, nothing but what decides which tokens they choose.

use anyhow::{Result, ensure};
use tersa_core::num::rng::Xoshiro256pp;

use super::Selector;
use super::choice::Choice;
use super::head::{Head, LANES, Truth, exp, lane_scores, products, transpose};

/// Score of a token that a selector never knew; below every other.
const UNKNOWN: f32 = -1e30;

/// The true scores: what no selector of so many tokens can beat in recall.
pub(crate) struct Exact;

impl Selector for Exact {
    fn bits(&self, head_dim: usize, value_bits: f64) -> f64 {
        head_dim as f64 * value_bits
    }

    fn choose(&self, head: &Head<'_>, truth: &Truth) -> Result<Choice> {
        Ok(Choice::by_scores(head, &truth.logits))
    }
}

/// True probability times the length of the value: what leaving a token out does to the output, but for directions.
pub(crate) struct ExactV;

impl Selector for ExactV {
    fn bits(&self, head_dim: usize, value_bits: f64) -> f64 {
        (head_dim as f64 + 1.0) * value_bits
    }

    fn choose(&self, head: &Head<'_>, truth: &Truth) -> Result<Choice> {
        let value_dim = head.values.len() / head.n_tokens;
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let log_length: Vec<f32> =
            head.values.chunks_exact(value_dim).map(|v| length(v).max(1e-30).ln()).collect();
        let rows = truth.logits.chunks_exact(head.n_tokens);
        let scores: Vec<f32> = rows.flat_map(|row| row.iter().zip(&log_length).map(|(s, l)| s + l)).collect();
        Ok(Choice::by_scores(head, &scores))
    }
}

/// Quest (Tang et al., ICML 2024): a page's score is the most that a key within its channels' bounds could reach. Pages
/// begin at position 0; the last one taken is cut at the budget.
pub(crate) struct Quest {
    /// Tokens of a page.
    pub(crate) page: usize,
}

impl Selector for Quest {
    fn bits(&self, head_dim: usize, value_bits: f64) -> f64 {
        2.0 * head_dim as f64 * value_bits / self.page as f64
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let d = head.head_dim;
        let n_pages = head.n_tokens.div_ceil(self.page);
        let mut bounds = vec![f32::NEG_INFINITY; n_pages * 2 * d];
        for (page, keys) in bounds.chunks_exact_mut(2 * d).zip(head.keys.chunks(self.page * d)) {
            let (highest, lowest) = page.split_at_mut(d);
            // Lowest values are kept negated, so that both are maxima.
            for key in keys.chunks_exact(d) {
                highest.iter_mut().zip(key).for_each(|(m, x)| *m = m.max(*x));
                lowest.iter_mut().zip(key).for_each(|(m, x)| *m = m.max(-x));
            }
        }
        // A positive element of a query meets the highest values, a negative one the lowest.
        let halves = |q: &[f32]| {
            let positive = q.iter().map(|x| x.max(0.0)).collect::<Vec<_>>();
            positive.into_iter().chain(q.iter().map(|x| (-x).max(0.0)).collect::<Vec<_>>())
        };
        let queries: Vec<f32> = head.queries.chunks_exact(d).flat_map(halves).collect();
        let pages = products(&queries, &bounds, 2 * d, head.scale);
        let scores: Vec<f32> = pages
            .chunks_exact(n_pages)
            .flat_map(|row| (0..head.n_tokens).map(|t| row[t / self.page]))
            .collect();
        Ok(Choice::by_scores(head, &scores))
    }
}

/// SparQ (Ribar et al., ICML 2024), step 1: products over the `r` channels where the query is largest. Without its
/// correction by the mean of values, which is not part of choosing.
pub(crate) struct SparQ {
    /// Channels read.
    pub(crate) r: usize,
}

impl Selector for SparQ {
    fn bits(&self, head_dim: usize, value_bits: f64) -> f64 {
        self.r.min(head_dim) as f64 * value_bits
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let mut queries = head.queries.to_vec();
        let mut channels: Vec<usize> = (0..head.head_dim).collect();
        for q in queries.chunks_exact_mut(head.head_dim) {
            channels.sort_by(|&a, &b| q[b].abs().total_cmp(&q[a].abs()).then(a.cmp(&b)));
            channels.iter().skip(self.r).for_each(|&c| q[c] = 0.0);
        }
        Ok(Choice::by_scores(head, &head.logits(&queries)))
    }
}

/// SnapKV (Li et al., NeurIPS 2024): attention of the last 64 prompt queries, mean over them and the group, then the
/// maximum over 7 neighbours. Chosen once.
pub(crate) struct SnapKv;

/// Prompt queries that SnapKV looks at.
const OBSERVED: usize = 64;
/// Neighbours over which it takes the maximum.
const POOL: usize = 7;

impl Selector for SnapKv {
    fn bits(&self, _: usize, _: f64) -> f64 {
        0.0
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let mass = accumulated(head, OBSERVED)?;
        let pooled = |t: usize| {
            let around = t.saturating_sub(POOL / 2)..(t + POOL / 2 + 1).min(mass.len());
            mass[around].iter().copied().fold(0.0, f32::max)
        };
        Ok(Choice::by_scores(head, &constant(head, (0..mass.len()).map(pooled))))
    }
}

/// H2O (Zhang et al., NeurIPS 2023): attention accumulated over all captured prompt queries and the group. Chosen once,
/// with nothing evicted on the way.
pub(crate) struct H2o;

impl Selector for H2o {
    fn bits(&self, _: usize, _: f64) -> f64 {
        0.0
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let mass = accumulated(head, usize::MAX)?;
        Ok(Choice::by_scores(head, &constant(head, mass.into_iter())))
    }
}

/// The most recent tokens (`StreamingLLM` with a longer window).
pub(crate) struct Recent;

impl Selector for Recent {
    fn bits(&self, _: usize, _: f64) -> f64 {
        0.0
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let one: Vec<f32> = (0..head.n_tokens).map(|t| t as f32 / head.n_tokens as f32).collect();
        Ok(Choice::by_scores(head, &one.repeat(head.group * head.n_queries)))
    }
}

/// Any tokens.
pub(crate) struct Random;

impl Selector for Random {
    fn bits(&self, _: usize, _: f64) -> f64 {
        0.0
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let mut rng = Xoshiro256pp::new(head.setting.seed ^ head.number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let n = head.group * head.n_queries * head.n_tokens;
        #[allow(clippy::cast_possible_truncation, reason = "any number will do")]
        let scores: Vec<f32> = (0..n).map(|_| rng.f64() as f32).collect();
        Ok(Choice::by_scores(head, &scores))
    }
}

/// Scores of one choice for all, from a weight of each prompt token: its logarithm, so that a softmax of it is the
/// weight again.
fn constant(head: &Head<'_>, weights: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut one: Vec<f32> = weights.map(|w| w.max(1e-30).ln()).collect();
    one.resize(head.n_tokens, UNKNOWN);
    one.repeat(head.group * head.n_queries)
}

/// Attention that each prompt token got from the last `most` captured queries before the tested ones, summed over these
/// and the group. Causal; a query sees the window that tested ones see.
fn accumulated(head: &Head<'_>, most: usize) -> Result<Vec<f32>> {
    ensure!(head.n_before > 0, "it needs queries captured before the tested ones: lower --last-queries");
    let (d, n, used) = (head.head_dim, head.n_prompt(), head.n_before.min(most));
    let mut mass = vec![0.0f32; n];
    let mut lanes = vec![[0.0f32; LANES]; d];
    let mut scores = vec![[0.0f32; LANES]; n];
    for heads_queries in head.before.chunks_exact(head.n_before * d) {
        let queries = &heads_queries[(head.n_before - used) * d..];
        for (block, rows) in queries.chunks(LANES * d).enumerate() {
            let n_rows = rows.len() / d;
            let end_of_first = n - used + block * LANES + 1;
            let ends: [usize; LANES] = std::array::from_fn(|lane| end_of_first + lane.min(n_rows - 1));
            let start = end_of_first.saturating_sub(head.setting.window);
            let seen = start..ends[n_rows - 1];
            transpose(rows, d, head.scale, &mut lanes);
            lane_scores(&lanes, &head.keys[seen.start * d..seen.end * d], &mut scores[seen.clone()]);
            // Lanes without a query of their own hold an old one; their weight is 0.
            for (lane, end) in ends.iter().enumerate().take(n_rows) {
                let hidden_before = end.saturating_sub(head.setting.window).saturating_sub(start);
                let (visible, after) = scores[seen.clone()].split_at_mut(end - start);
                visible[..hidden_before].iter_mut().chain(after).for_each(|s| s[lane] = f32::NEG_INFINITY);
            }
            let mut max = [f32::NEG_INFINITY; LANES];
            for s in &scores[seen.clone()] {
                for i in 0..LANES {
                    max[i] = max[i].max(s[i]);
                }
            }
            let mut sum = [0.0f32; LANES];
            for s in &mut scores[seen.clone()] {
                for i in 0..LANES {
                    s[i] = exp(s[i] - max[i]);
                    sum[i] += s[i];
                }
            }
            let weight: [f32; LANES] = std::array::from_fn(|i| if i < n_rows { 1.0 / sum[i] } else { 0.0 });
            for (mass, s) in mass[seen.clone()].iter_mut().zip(&scores[seen]) {
                let mut all = 0.0;
                for i in 0..LANES {
                    all += weight[i] * s[i];
                }
                *mass += all;
            }
        }
    }
    Ok(mass)
}
