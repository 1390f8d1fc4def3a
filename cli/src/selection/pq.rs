//! Product quantization: the index of the core, kept as a cache keeps it. Trained on the prompt, extended by the key that
//! leaves the recent ones at every step.

use anyhow::{Result, ensure};
use tersa_core::kv::config::{Rerank, Training};
use tersa_core::kv::index::{EncodeScratch, IndexParams, SelectScratch};
use tersa_core::kv::{PqIndex, Preset};
use tersa_core::pq::PqShape;
use tersa_core::select::RerankCodes;

use super::Selector;
use super::choice::Choice;
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
        let mut choice = Choice::empty(head);
        let mut held = head.candidates(0);
        held.end = held.end.min(head.n_prompt());
        if held.is_empty() {
            return Ok(choice);
        }
        let d = head.head_dim;
        let keys = |tokens: std::ops::Range<usize>| &head.keys[tokens.start * d..tokens.end * d];
        let mut index = PqIndex::new(params.clone())?;
        let mut encode = EncodeScratch::new(params.shape);
        // Those of the group's heads by turns, in the order of tokens.
        let mut before = Vec::with_capacity(head.before.len());
        for j in 0..head.n_before {
            for h in 0..head.group {
                before.extend_from_slice(&head.before[(h * head.n_before + j) * d..][..d]);
            }
        }
        index.train(keys(held.clone()), &before, held.len(), None)?;
        index.extend(keys(held.clone()), &mut encode)?;

        let most = setting.ks.iter().copied().max().unwrap_or(0);
        let mut group = SelectScratch::new(&params, head.group, head.n_tokens, most);
        let mut single = SelectScratch::new(&params, 1, head.n_tokens, most);
        let mut q = Vec::new();
        for j in 0..head.n_queries {
            let candidates = head.candidates(j);
            for token in held.end..candidates.end {
                index.append(keys(token..token + 1), &mut encode)?;
            }
            // A sliding window leaves tokens behind.
            index.remove(0..candidates.start - held.start)?;
            held = candidates;
            ensure!(index.len() == held.len(), "the index holds other tokens than it should");
            let query = |h: usize| &head.queries[(h * head.n_queries + j) * d..][..d];
            q.clear();
            (0..head.group).for_each(|h| q.extend_from_slice(query(h)));
            for (budget, &k) in setting.ks.iter().enumerate() {
                let select = |q: &[f32], scratch: &mut SelectScratch| -> Result<Vec<u32>> {
                    let mut chosen = vec![0; k.min(held.len())];
                    let n = index.select(q, head.scale, &mut chosen, scratch)?;
                    chosen.truncate(n);
                    let first = u32::try_from(held.start)?;
                    chosen.iter_mut().for_each(|t| *t += first);
                    Ok(chosen)
                };
                choice.shared[budget][j] = select(&q, &mut group)?;
                for h in 0..head.group {
                    choice.single[budget][h * head.n_queries + j] = select(query(h), &mut single)?;
                }
            }
        }
        Ok(choice)
    }
}
