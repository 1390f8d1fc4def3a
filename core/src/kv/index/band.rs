//! The second look: keys around the budget's edge are ranked again by better scores.

use super::select::SelectScratch;
use crate::cpu;
use crate::kernels::softmax::{self, Head, How};
use crate::kernels::topk::emit_within;
use crate::kv::KvError;
use crate::kv::config::{Extent, Rerank};
use crate::select::{Cuts, GroupRule, RerankCodes, RerankQuery, Softmax, at_least_u16, softmaxes, top_k_f32};
use alloc::vec::Vec;
use core::f32::consts::LOG2_E;

/// Keys whose scores are fetched at once.
const BATCH: usize = 1024;

/// Spare room for the band's positions, which are written by the vector.
const SLACK: usize = 64;

/// Buffers of the second look.
#[derive(Clone, Debug)]
pub(super) struct Band {
    share: f64,
    query: RerankQuery,
    /// The band's positions in the index, and room.
    ids: Vec<u32>,
    /// Which of them are taken.
    taken: Vec<u32>,
    /// `[group][band]`: logits.
    logits: Vec<f32>,
    /// `[band]`.
    weights: Vec<f32>,
}

/// Where the budget's edge lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// Keys kept by the first level alone.
    pub(super) sure: usize,
    /// Keys looked at again.
    pub(super) band: usize,
}

impl Band {
    pub(super) fn new(d: usize, group: usize, rerank: Rerank, max_tokens: usize, max_k: usize) -> Self {
        let mut band = Self {
            share: rerank.band,
            query: RerankQuery::new(d, group),
            ids: Vec::new(),
            taken: Vec::new(),
            logits: Vec::new(),
            weights: Vec::new(),
        };
        band.grow(group, band.widest(max_tokens, max_k));
        band
    }

    /// Two fifths of the band lie above the edge of a budget of `k` of `n` keys, and the rest below, if there is room. More than
    /// `4 k` keys are not looked at.
    pub(super) fn edge(&self, n: usize, k: usize) -> Edge {
        let band = self.widest(n, k);
        let sure = k.saturating_sub(band * 2 / 5);
        Edge { sure, band: band.min(n - sure) }
    }

    fn widest(&self, n: usize, k: usize) -> usize {
        Extent::OfContext(self.share).tokens(n, n).min(k.saturating_mul(4))
    }

    fn grow(&mut self, group: usize, band: usize) {
        let grow = |v: &mut Vec<u32>, n: usize| v.resize(n.max(v.len()), 0);
        grow(&mut self.ids, band + SLACK);
        grow(&mut self.taken, band + SLACK);
        let grow = |v: &mut Vec<f32>, n: usize| v.resize(n.max(v.len()), 0.0);
        grow(&mut self.logits, group * band);
        grow(&mut self.weights, band);
    }
}

impl SelectScratch {
    /// The `out.len()` best, with a second look at the edge. Tables, scores and scales are those of the query.
    pub(super) fn select_twice(
        &mut self,
        rule: GroupRule,
        codes: &RerankCodes,
        q: &[f32],
        scale: f32,
        edge: Edge,
        out: &mut [u32],
    ) -> Result<usize, KvError> {
        let Some(mut band) = self.band.take() else { return Ok(0) };
        let result = self.look_again(&mut band, rule, codes, q, scale, edge, out);
        self.band = Some(band);
        result
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one step")]
    fn look_again(
        &mut self,
        band: &mut Band,
        rule: GroupRule,
        codes: &RerankCodes,
        q: &[f32],
        scale: f32,
        edge: Edge,
        out: &mut [u32],
    ) -> Result<usize, KvError> {
        let (n, group) = (codes.len(), self.tables.group());
        band.grow(group, edge.band);
        codes.prepare(q, &mut band.query)?;
        let ks = [edge.sure, edge.sure + edge.band];
        let cuts = Cuts { level: cpu::level(), scales: &self.scales, scores: &self.scores[..group * n], ks };
        let marks = &mut self.marks[..n];
        if group > 1 && rule != GroupRule::LogitSum {
            softmaxes(cuts.level, cuts.scores, cuts.scales, &mut self.heads);
        }
        let weights = &mut self.weights;
        let [sure, wide] = cuts.mark(rule, &self.heads, marks, weights, &mut band.taken, &mut self.top_k);
        let found = emit_within(cuts.level, marks, [wide.saturating_add(1), sure], &mut band.ids)
            .expect("the band is as many as the cuts differ by");
        let ids = &band.ids[..found];
        let logits = &mut band.logits[..group * found];
        codes.score(&band.query, ids, logits);
        let weights = &mut band.weights[..found];
        self.refine(rule, ids, n, scale, logits, weights);
        let taken = &mut band.taken[..out.len() - edge.sure];
        let n_taken = top_k_f32(weights, taken.len(), taken, &mut self.top_k);
        let marks = &mut self.marks[..n];
        ids.iter().for_each(|&id| marks[id as usize] = 0);
        taken[..n_taken].iter().for_each(|&at| marks[ids[at as usize] as usize] = u16::MAX);
        // Without sure keys only the band's have the greatest mark.
        Ok(at_least_u16(marks, sure.saturating_add(1), out))
    }

    /// Adds the first level's scores to the second's, `logits` `[group][ids]`, and combines them into `weights`.
    fn refine(
        &self,
        rule: GroupRule,
        ids: &[u32],
        n: usize,
        scale: f32,
        logits: &mut [f32],
        weights: &mut [f32],
    ) {
        if ids.is_empty() {
            return;
        }
        let level = cpu::level();
        let one = self.tables.group() == 1;
        let mut fetched = [0; BATCH];
        for (h, logits) in logits.chunks_exact_mut(ids.len()).enumerate() {
            let scores = &self.scores[h * n..(h + 1) * n];
            let (bias, step) = (self.tables.bias(h), self.tables.scale(h));
            for (logits, ids) in logits.chunks_mut(BATCH).zip(ids.chunks(BATCH)) {
                for (to, &id) in fetched.iter_mut().zip(ids) {
                    *to = scores[id as usize];
                }
                for (logit, &score) in logits.iter_mut().zip(&fetched) {
                    *logit = (bias + step * f32::from(score) + *logit) * scale;
                }
            }
            let how = match (rule, h) {
                (GroupRule::LogitSum, 0) => How::SetScore,
                (GroupRule::LogitSum, _) => How::AddScore,
                (_, 0) if one => How::SetScore,
                (_, 0) => How::Set,
                (GroupRule::Max, _) => How::Max,
                _ => How::Add,
            };
            let head = match how {
                How::SetScore | How::AddScore => Head { greatest: 0.0, exponent: 1.0, weight: 1.0 },
                _ => self.head_of(h, scale, logits),
            };
            softmax::add(level, logits, head, how, weights);
        }
    }

    /// The softmax of head `h` over all keys by the first level, of logits whose greatest may lie above it.
    #[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
    fn head_of(&self, h: usize, scale: f32, logits: &[f32]) -> Head {
        let level = cpu::level();
        let Softmax { head: Head { greatest: top, .. }, sum } = self.heads[h];
        let top = (self.tables.bias(h) + self.tables.scale(h) * top) * scale;
        let greatest = top.max(softmax::greatest(level, logits));
        // Bounded, so that what vanishes beside it is zero and not a NaN.
        let rise = f64::from(greatest - top).min(80.0);
        Head { greatest, exponent: LOG2_E, weight: (libm::exp(rise) / sum) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_lies_around_the_edge() {
        let rerank = Rerank { bits: 2, band: 0.1, seed: 0 };
        let band = Band::new(64, 1, rerank, 0, 0);
        assert_eq!(band.edge(1000, 200), Edge { sure: 160, band: 100 });
        assert_eq!(band.edge(1000, 50), Edge { sure: 10, band: 100 });
        assert_eq!(band.edge(1000, 10), Edge { sure: 0, band: 40 });
        assert_eq!(band.edge(1000, 990), Edge { sure: 950, band: 50 });
        assert_eq!(band.edge(9, 3), Edge { sure: 3, band: 0 });
        assert_eq!(band.edge(0, 0), Edge { sure: 0, band: 0 });
    }
}
