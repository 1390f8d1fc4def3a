//! The second look: keys around the budget's edge are ranked again by better scores.

use super::select::SelectScratch;
use crate::cpu;
use crate::kernels::softmax::{self, Head, How};
use crate::kv::KvError;
use crate::kv::config::{Extent, Rerank};
use crate::select::{GroupRule, RerankCodes, RerankQuery, top_k_f32, top_k_of};
use alloc::vec::Vec;
use core::f32::consts::LOG2_E;

/// Buffers of the second look.
#[derive(Clone, Debug)]
pub(super) struct Band {
    share: f64,
    query: RerankQuery,
    /// The first level's best, sure ones and band.
    wide: Vec<u32>,
    /// A rank for each of them.
    ranks: Vec<f32>,
    /// Where the sure ones are among them.
    sure: Vec<u32>,
    /// The band's positions in the index.
    ids: Vec<u32>,
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
            wide: Vec::new(),
            ranks: Vec::new(),
            sure: Vec::new(),
            ids: Vec::new(),
            logits: Vec::new(),
            weights: Vec::new(),
        };
        band.grow(group, band.edge(max_tokens, max_k.min(max_tokens)));
        band
    }

    /// Half of the band lies above the edge of a budget of `k` of `n` keys, and half below, if there is room.
    pub(super) fn edge(&self, n: usize, k: usize) -> Edge {
        let band = Extent::OfContext(self.share).tokens(n, n);
        let sure = k.saturating_sub(band / 2);
        Edge { sure, band: band.min(n - sure) }
    }

    fn grow(&mut self, group: usize, edge: Edge) {
        let Edge { sure, band } = edge;
        let grow = |v: &mut Vec<u32>, n: usize| v.resize(n.max(v.len()), 0);
        grow(&mut self.wide, sure + band);
        grow(&mut self.sure, sure);
        grow(&mut self.ids, band);
        let grow = |v: &mut Vec<f32>, n: usize| v.resize(n.max(v.len()), 0.0);
        grow(&mut self.ranks, sure + band);
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
        band.grow(group, edge);
        codes.prepare(q, &mut band.query)?;
        let wide = &mut band.wide[..edge.sure + edge.band];
        let found = self.select_once(rule, n, wide);
        let wide = &wide[..found];
        let ranks = &mut band.ranks[..found];
        for (rank, &at) in ranks.iter_mut().zip(wide) {
            let at = at as usize;
            *rank = if group > 1 { self.weights[at] } else { f32::from(self.scores[at]) };
        }
        let sure = &mut band.sure[..edge.sure];
        let n_sure = top_k_f32(ranks, edge.sure, sure, &mut self.top_k);
        for &at in &sure[..n_sure] {
            ranks[at as usize] = f32::INFINITY;
        }
        let ids = &mut band.ids[..found - n_sure];
        let unsure = wide.iter().zip(&*ranks).filter(|(_, rank)| **rank != f32::INFINITY);
        for (id, (&at, _)) in ids.iter_mut().zip(unsure) {
            *id = at;
        }
        let logits = &mut band.logits[..group * ids.len()];
        codes.score(&band.query, ids, logits);
        let weights = &mut band.weights[..ids.len()];
        self.refine(rule, ids, n, scale, logits, weights);
        let mut refined = weights.iter();
        for rank in ranks.iter_mut().filter(|rank| **rank != f32::INFINITY) {
            *rank = refined.next().copied().unwrap_or(0.0);
        }
        Ok(top_k_of(wide, ranks, out.len(), out, &mut self.top_k))
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
        for (h, logits) in logits.chunks_exact_mut(ids.len()).enumerate() {
            let scores = &self.scores[h * n..(h + 1) * n];
            let (bias, step) = (self.tables.bias(h), self.tables.scale(h));
            for (logit, &id) in logits.iter_mut().zip(ids) {
                *logit = (bias + step * f32::from(scores[id as usize]) + *logit) * scale;
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
                _ => self.head_of(h, n, scale, logits),
            };
            softmax::add(level, logits, head, how, weights);
        }
    }

    /// The softmax of head `h` over all keys by the first level, of logits whose greatest may lie above it.
    #[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
    fn head_of(&self, h: usize, n: usize, scale: f32, logits: &[f32]) -> Head {
        let level = cpu::level();
        let scores = &self.scores[h * n..(h + 1) * n];
        let top = softmax::greatest(level, scores);
        let first = Head { greatest: top, exponent: self.scales[h] * LOG2_E, weight: 1.0 };
        let sum = softmax::sum(level, scores, first);
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
        assert_eq!(band.edge(1000, 200), Edge { sure: 150, band: 100 });
        assert_eq!(band.edge(1000, 50), Edge { sure: 0, band: 100 });
        assert_eq!(band.edge(1000, 10), Edge { sure: 0, band: 100 });
        assert_eq!(band.edge(1000, 990), Edge { sure: 940, band: 60 });
        assert_eq!(band.edge(9, 3), Edge { sure: 3, band: 0 });
        assert_eq!(band.edge(0, 0), Edge { sure: 0, band: 0 });
    }
}
