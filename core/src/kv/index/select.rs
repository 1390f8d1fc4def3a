//! From queries to positions: tables, scan, group rule, top-k, and a second look at the edge.

use super::band::Band;
use super::{IndexParams, PqIndex, Trained};
use crate::kv::{CodedScratch, KvError, coded_top_k};
use crate::pq::{QueryTables, scan};
use crate::select::{Softmax, TopKScratch, group_top_k_u16};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// Buffers of [`PqIndex::select`], made once for each thread.
#[derive(Clone, Debug)]
pub struct SelectScratch {
    /// `[group][d]`: transformed queries.
    q: Vec<f32>,
    pub(super) tables: QueryTables,
    /// `[group][n]`.
    pub(super) scores: Vec<u16>,
    /// `[group]`: the exponent's change for a step of a score.
    pub(super) scales: Vec<f32>,
    /// `[group]`, if the rule asks for them.
    pub(super) heads: Vec<Softmax>,
    /// `[n]`, unless there is one head.
    pub(super) weights: Vec<f32>,
    /// `[n]`, if there is a band: what the first level decides.
    pub(super) marks: Vec<u16>,
    pub(super) top_k: Box<TopKScratch>,
    pub(super) band: Option<Band>,
    /// Where there is no band and codes are pairs, no key is scored.
    pairs: Option<CodedScratch>,
}

impl SelectScratch {
    /// Buffers for `group` query heads and indexes of up to `max_tokens` keys of which up to `max_k` are selected; they
    /// grow if there are more.
    ///
    /// # Panics
    /// If `group` is 0.
    #[must_use]
    pub fn new(params: &IndexParams, group: usize, max_tokens: usize, max_k: usize) -> Self {
        let tables = QueryTables::new(params.shape, group);
        let pairs = params.rerank.is_none() && params.shape.m() == 2 && params.shape.nbits() == 6;
        let n = if pairs { 0 } else { max_tokens };
        Self {
            q: vec![0.0; group * params.shape.d()],
            scores: vec![0; group * n],
            scales: vec![0.0; group],
            heads: vec![Softmax::NONE; group],
            weights: vec![0.0; if group > 1 { n } else { 0 }],
            marks: vec![0; if params.rerank.is_some() { n } else { 0 }],
            top_k: Box::default(),
            band: params.rerank.map(|r| Band::new(params.shape.d(), group, r, max_tokens, max_k)),
            pairs: pairs.then(|| CodedScratch::new(&tables, max_tokens)),
            tables,
        }
    }

    /// Query heads.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.tables.group()
    }
}

impl PqIndex {
    /// The `out.len()` best positions for the group's queries `q` `[group][d]` (all, if there are no more), rising, into
    /// `out`; returns how many. `scale` is what attention multiplies scores by, usually `1 / sqrt(d)`.
    ///
    /// The paper's steps (section 3.3): products of each query's sub-vectors with the centroids; for each key the sum of
    /// its codes' products; softmax over the keys of the index, summed over the group; the `k` greatest. With a second
    /// level, the `k - 2b/5` best of them are kept as they are, `b` being the band's share of the keys or `4 k`; the next `b` are
    /// ranked again by what the second level adds to their scores, and the best of those fill the budget.
    ///
    /// Ties go to the lower position; the same positions at every level. Cost: `group * d * ksub` multiply-adds, `group * m`
    /// look-ups a key and the passes of [`group_top_k_u16`]; for each of the `b` keys of the band, a read of its
    /// record. Allocates nothing unless the index has outgrown the scratch.
    ///
    /// # Errors
    /// [`KvError::Untrained`]; [`KvError::Pq`] if `q` has another length than the scratch's group asks for, holds a NaN
    /// or an infinity, or the scratch is for another shape; [`KvError::Scale`] if `scale` is negative or not finite.
    pub fn select(
        &self,
        q: &[f32],
        scale: f32,
        out: &mut [u32],
        scratch: &mut SelectScratch,
    ) -> Result<usize, KvError> {
        let trained = self.trained.as_ref().ok_or(KvError::Untrained)?;
        if !(scale >= 0.0 && scale.is_finite()) {
            return Err(KvError::Scale { scale });
        }
        let n = self.len();
        let k = out.len().min(n);
        let out = &mut out[..k];
        if k == n {
            for (out, i) in out.iter_mut().zip(0u32..) {
                *out = i;
            }
            return Ok(n);
        }
        let mut mapped = core::mem::take(&mut scratch.q);
        let selected = self.select_mapped(trained, q, &mut mapped, scale, out, scratch);
        scratch.q = mapped;
        selected
    }

    /// [`select`](Self::select) of some keys, with a buffer for the transformed queries.
    fn select_mapped(
        &self,
        trained: &Trained,
        q: &[f32],
        mapped: &mut [f32],
        scale: f32,
        out: &mut [u32],
        scratch: &mut SelectScratch,
    ) -> Result<usize, KvError> {
        let (n, k) = (self.len(), out.len());
        let q = if trained.transform.is_identity() {
            q
        } else {
            trained.transform.queries(q, mapped)?;
            mapped
        };
        scratch.fill(trained.codebook(), q, scale)?;
        let edge = self.rerank.as_ref().zip(scratch.band.as_ref()).map(|(_, band)| band.edge(n, k));
        match (&self.rerank, edge) {
            (Some(codes), Some(edge)) if edge.band > 0 => {
                scratch.scan(self.codes())?;
                scratch.select_twice(self.params.rule, codes, q, scale, edge, out)
            }
            _ => scratch.select_codes(self.params.rule, self.codes(), out),
        }
    }
}

impl SelectScratch {
    /// Fills tables and scales.
    fn fill(&mut self, codebook: &crate::pq::Codebook, q: &[f32], scale: f32) -> Result<(), KvError> {
        self.tables.fill(codebook, q)?;
        for (head, to) in self.scales.iter_mut().enumerate() {
            *to = self.tables.scale(head) * scale;
            if !to.is_finite() {
                return Err(KvError::Scale { scale });
            }
        }
        Ok(())
    }

    /// Scores all keys.
    fn scan(&mut self, codes: &crate::pq::Codes) -> Result<(), KvError> {
        let (n, group) = (codes.len(), self.tables.group());
        if self.scores.len() < group * n {
            self.scores.resize(group * n, 0);
        }
        // One head whose scale is 0 is ranked by weights too: all equal.
        let weights = if group > 1 || self.scales[0] == 0.0 { n } else { 0 };
        if self.weights.len() < weights {
            self.weights.resize(weights, 0.0);
        }
        if self.band.is_some() && self.marks.len() < n {
            self.marks.resize(n, 0);
        }
        scan(&self.tables, codes, 0..n, &mut self.scores[..group * n])?;
        Ok(())
    }

    /// The `out.len()` best keys by the first level alone.
    fn select_codes(
        &mut self,
        rule: crate::select::GroupRule,
        codes: &crate::pq::Codes,
        out: &mut [u32],
    ) -> Result<usize, KvError> {
        if let Some(pairs) = &mut self.pairs {
            return Ok(coded_top_k(rule, &self.tables, &self.scales, codes, 0..codes.len(), out, pairs)?);
        }
        self.scan(codes)?;
        Ok(self.select_once(rule, codes.len(), out))
    }

    /// The `out.len()` best of `n` by the first level.
    fn select_once(&mut self, rule: crate::select::GroupRule, n: usize, out: &mut [u32]) -> usize {
        let group = self.tables.group();
        let weights = if group > 1 || self.scales[0] == 0.0 { &mut self.weights[..n] } else { &mut [] };
        let scores = &self.scores[..group * n];
        group_top_k_u16(rule, scores, &self.scales, out.len(), weights, out, &mut self.top_k)
    }
}
