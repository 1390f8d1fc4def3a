//! Product quantization: the index of the core, kept as a cache keeps it. Trained on the prompt, extended by the key that
//! leaves the recent ones at every step.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, ensure};
use tersa_core::kv::config::{Rerank, Training};
use tersa_core::kv::index::{EncodeScratch, IndexParams, SelectScratch};
use tersa_core::kv::queries::RecentQueries;
use tersa_core::kv::{PqIndex, Preset};
use tersa_core::pq::PqShape;
use tersa_core::select::RerankCodes;

use super::Selector;
use super::choice::{Choice, Upkeep};
use super::head::{Head, Truth};

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pq {
    /// `m` codes of `nbits` bits, trained with patience on all keys.
    Plain {
        /// Sub-spaces.
        m: usize,
        /// Bits of a code.
        nbits: u8,
        /// Bits of a second level's codes, 0 without.
        rerank: u8,
    },
    /// As a preset of the cache says.
    Preset(Preset),
}

impl Pq {
    /// The index's parameters, but for what the command line decides.
    pub(crate) fn params(self, head_dim: usize, seed: u64) -> Result<IndexParams> {
        match self {
            Self::Plain { m, nbits, rerank } => {
                let mut params = IndexParams::from(&Preset::PaperLongBench.config(head_dim)?);
                params.shape = PqShape::new(head_dim, m, nbits)?;
                params.training = Training { iterations: 25, seed, ..params.training };
                params.rerank = (rerank > 0).then_some(Rerank { bits: rerank, band: 0.1, seed });
                Ok(params)
            }
            Self::Preset(preset) => Ok(IndexParams::from(&preset.config(head_dim)?)),
        }
    }
}

impl Selector for Pq {
    fn bits(&self, head_dim: usize, _: f64) -> f64 {
        let Ok(params) = self.params(head_dim, 0) else { return f64::NAN };
        let first = (params.shape.m() * usize::from(params.shape.nbits())) as f64;
        // The second level is read for a part of the keys.
        let second = params.rerank.and_then(|r| {
            let codes = RerankCodes::new(head_dim, r.bits, r.seed).ok()?;
            Some(r.band * 8.0 * codes.record_bytes() as f64)
        });
        first + second.unwrap_or(0.0)
    }

    fn choose(&self, head: &Head<'_>, _: &Truth) -> Result<Choice> {
        let setting = head.setting;
        let mut params = self.params(head.head_dim, setting.seed)?;
        params.rule = setting.rule.in_core();
        params.refresh = setting.refresh.unwrap_or(params.refresh);
        let mut choice = Choice::empty(head);
        let prefill = setting.prefill.unwrap_or(head.n_prompt());
        let Some(mut live) = Live::new(head, params.clone(), prefill)? else { return Ok(choice) };
        (prefill..head.n_prompt()).try_for_each(|token| live.step(token))?;

        let most = setting.ks.iter().copied().max().unwrap_or(0);
        let mut group = SelectScratch::new(&params, head.group, head.n_tokens, most);
        let mut single = SelectScratch::new(&params, 1, head.n_tokens, most);
        for j in 0..head.n_queries {
            live.advance(head.n_prompt() + j)?;
            let q = live.queries_of(head.n_prompt() + j);
            for (budget, &k) in setting.ks.iter().enumerate() {
                choice.shared[budget][j] = live.select(&q, k, &mut group)?;
                for (h, q) in q.chunks_exact(head.head_dim).enumerate() {
                    choice.single[budget][h * head.n_queries + j] = live.select(q, k, &mut single)?;
                }
            }
            live.refresh(head.n_prompt() + j)?;
        }
        choice.upkeep = live.upkeep;
        Ok(choice)
    }
}

/// An index as it lives: tokens come, the ones that leave the recent ones get codes, and now and then it is built anew.
struct Live<'a> {
    head: &'a Head<'a>,
    index: PqIndex,
    encode: EncodeScratch,
    /// The tokens with codes.
    held: Range<usize>,
    recent: RecentQueries,
    upkeep: Upkeep,
}

impl<'a> Live<'a> {
    /// Trained on the first `prefill` tokens; `None` if there is none to choose from.
    fn new(head: &'a Head<'a>, params: IndexParams, prefill: usize) -> Result<Option<Self>> {
        let mut held = head.candidates_of(prefill);
        held.end = held.end.min(prefill);
        if held.is_empty() {
            return Ok(None);
        }
        let mut live = Self {
            encode: EncodeScratch::new(params.shape),
            index: PqIndex::new(params)?,
            recent: RecentQueries::new(head.head_dim),
            upkeep: Upkeep { heads: 1, ..Upkeep::default() },
            held,
            head,
        };
        (head.n_prompt() - head.n_before..prefill)
            .for_each(|token| live.recent.push(&live.queries_of(token)));
        live.index.train(live.keys(), &live.recent.rows(), live.held.len(), None)?;
        live.index.extend(live.keys(), &mut live.encode)?;
        Ok(Some(live))
    }

    /// The keys with codes.
    fn keys(&self) -> &'a [f32] {
        &self.head.keys[self.held.start * self.head.head_dim..self.held.end * self.head.head_dim]
    }

    /// The captured queries of a token, `[group][head_dim]`, if there are any.
    fn queries_of(&self, token: usize) -> Vec<f32> {
        let Head { n_before, n_queries, head_dim: d, .. } = *self.head;
        let first = self.head.n_prompt() - n_before;
        let (rows, n, j) = match token.checked_sub(self.head.n_prompt()) {
            Some(j) => (self.head.queries, n_queries, j),
            None if token < first => return Vec::new(),
            None => (self.head.before, n_before, token - first),
        };
        rows.chunks_exact(n * d).flat_map(|head| &head[j * d..(j + 1) * d]).copied().collect()
    }

    /// The query of `token` is about to choose: codes of what it can choose from.
    fn advance(&mut self, token: usize) -> Result<()> {
        let (candidates, d) = (self.head.candidates_of(token), self.head.head_dim);
        for token in self.held.end..candidates.end {
            self.index.append(&self.head.keys[token * d..][..d], &mut self.encode)?;
        }
        // A sliding window leaves tokens behind.
        self.index.remove(0..candidates.start - self.held.start)?;
        self.held = candidates;
        ensure!(self.index.len() == self.held.len(), "the index holds other tokens than it should");
        Ok(())
    }

    /// The query of `token` has chosen: the index is built anew if that is due.
    fn refresh(&mut self, token: usize) -> Result<()> {
        self.recent.push(&self.queries_of(token));
        self.upkeep.appended += 1;
        if self.index.is_refresh_due() {
            let start = Instant::now();
            let mut index = self.index.rebuilt(self.keys(), &self.recent.rows(), self.held.len(), None)?;
            index.extend(self.keys(), &mut self.encode)?;
            self.index = index;
            self.upkeep.seconds += start.elapsed().as_secs_f64();
            self.upkeep.builds += 1;
        }
        Ok(())
    }

    fn step(&mut self, token: usize) -> Result<()> {
        self.advance(token)?;
        self.refresh(token)
    }

    /// The `k` tokens that the queries `q` choose.
    fn select(&self, q: &[f32], k: usize, scratch: &mut SelectScratch) -> Result<Vec<u32>> {
        let mut chosen = vec![0; k.min(self.held.len())];
        let n = self.index.select(q, self.head.scale, &mut chosen, scratch)?;
        chosen.truncate(n);
        let first = u32::try_from(self.held.start)?;
        chosen.iter_mut().for_each(|t| *t += first);
        Ok(chosen)
    }
}
