//! The index of one KV head's sequence whose rows lie elsewhere: in an engine's own cache, or in a
//! [`HeadCache`](super::HeadCache).
//!
//! A [`PqIndex`] knows positions; a [`HeadIndex`] knows tokens. It keeps which are sinks, which have codes (the *middle*) and
//! which are the tail, as the [cache](super::cache) describes, and asks for keys ([`KeyRows`]) when they are to be coded. Keys
//! are always those of the whole sequence, token 0 first; only those that are needed are read.

use super::KvError;
use super::config::{Extent, PqConfig};
use super::index::{EncodeScratch, IndexParams, IndexPlace, PqIndex, SelectScratch};
use super::store::RowStore;
use crate::attention::{AttentionError, Decode, Rows, Tokens};
use crate::pq::IterBudget;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Keys converted at a time.
const BATCH: usize = 256;

/// The keys of one head, token by token, wherever they lie.
pub trait KeyRows {
    /// Tokens.
    fn n_tokens(&self) -> usize;

    /// Elements of a key.
    fn dim(&self) -> usize;

    /// Converts the keys of `tokens` to `out`, `[tokens][dim]`.
    ///
    /// # Errors
    /// An error if there are no such tokens or `out` has another length.
    fn to_f32(&self, tokens: Range<usize>, out: &mut [f32]) -> Result<(), KvError>;
}

impl KeyRows for RowStore {
    fn n_tokens(&self) -> usize {
        self.len()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn to_f32(&self, tokens: Range<usize>, out: &mut [f32]) -> Result<(), KvError> {
        self.to_f32(tokens, out)
    }
}

impl KeyRows for Rows<'_> {
    fn n_tokens(&self) -> usize {
        self.n_tokens()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn to_f32(&self, tokens: Range<usize>, out: &mut [f32]) -> Result<(), KvError> {
        Ok(self.to_f32(tokens, out)?)
    }
}

/// Index and bookkeeping of one KV head. See the [module](self).
#[derive(Clone, Debug)]
pub struct HeadIndex {
    config: PqConfig,
    /// Codes of the middle: its key `i` is token `sinks + i`.
    index: PqIndex,
    /// Tokens.
    len: usize,
    /// Tokens of the prompt so far.
    prompt: usize,
}

/// Buffers of one thread, made once.
#[derive(Clone, Debug)]
pub struct IndexScratch {
    select: SelectScratch,
    encode: EncodeScratch,
    rows: Vec<f32>,
    selected: Vec<u32>,
    /// How many of `selected` are the last selection.
    n_selected: usize,
}

impl IndexScratch {
    /// Buffers for `group` query heads and up to `max_tokens` tokens; they grow if there are more.
    ///
    /// # Panics
    /// If `group` is 0.
    #[must_use]
    pub fn new(config: &PqConfig, group: usize, max_tokens: usize) -> Self {
        let past_sinks = max_tokens.saturating_sub(config.sinks);
        let k = config.budget.tokens(past_sinks, past_sinks);
        Self {
            select: SelectScratch::new(&IndexParams::from(config), group, past_sinks, k),
            encode: EncodeScratch::new(config.shape),
            rows: vec![0.0; BATCH * config.shape.d()],
            selected: vec![0; k],
            n_selected: 0,
        }
    }

    /// The tokens that were last selected with this scratch, rising.
    #[must_use]
    pub fn selected(&self) -> &[u32] {
        &self.selected[..self.n_selected]
    }
}

impl HeadIndex {
    /// The index of an empty sequence.
    ///
    /// # Errors
    /// [`KvError::Share`] or [`KvError::Rerank`] for a configuration out of range.
    pub fn new(config: &PqConfig) -> Result<Self, KvError> {
        config.check()?;
        let index = PqIndex::new(IndexParams::from(config))?;
        Ok(Self { config: config.clone(), index, len: 0, prompt: 0 })
    }

    /// How it is kept.
    #[must_use]
    pub const fn config(&self) -> &PqConfig {
        &self.config
    }

    /// The codes of the middle.
    #[must_use]
    pub const fn index(&self) -> &PqIndex {
        &self.index
    }

    /// Tokens that it has been told of.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens of the prompt.
    #[must_use]
    pub const fn prompt(&self) -> usize {
        self.prompt
    }

    /// Bytes on the heap, those shared with forks included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.index.heap_bytes()
    }

    /// The first tokens, which are always attended to.
    #[must_use]
    pub fn sinks(&self) -> Range<usize> {
        0..self.config.sinks.min(self.len)
    }

    /// The tokens with codes, among which is selected.
    #[must_use]
    pub fn middle(&self) -> Range<usize> {
        let start = self.sinks().end;
        start..start + self.index.len()
    }

    /// The tokens behind the middle, which are always attended to: the window and the current token; everything past
    /// the sinks while there are no codes.
    #[must_use]
    pub fn tail(&self) -> Range<usize> {
        self.middle().end..self.len
    }

    /// Tokens of the window (W).
    #[must_use]
    pub fn window(&self) -> usize {
        self.config.window.tokens(self.prompt_past_sinks(), self.past_sinks())
    }

    /// Tokens that a step selects (k), if there are so many.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.config.budget.tokens(self.prompt_past_sinks(), self.past_sinks())
    }

    /// Gives this head a budget of its own, as when a layer's budget is shared out by what its heads need.
    ///
    /// # Errors
    /// [`KvError::Share`] for a share outside 0..=1; nothing is changed then.
    pub fn set_budget(&mut self, budget: Extent) -> Result<(), KvError> {
        budget.check()?;
        self.config.budget = budget;
        Ok(())
    }

    /// The sequence has the tokens of `keys` now, those that are new being a prompt or the next chunk of one: all but the
    /// sinks and the window are indexed. Trains as soon as there are more middle tokens than centroids, and again when a later
    /// chunk makes them twice as many; other chunks are coded with the centroids there are.
    ///
    /// `queries` `[nq][d]` are queries of the group's heads, in the order of tokens, from which the
    /// transform is learned, if the configuration asks for one; there may be none, and the last 2048 are enough up to 128 elements.
    ///
    /// Cost: training on at most `sample * ksub` keys; `d * ksub` multiply-adds a key.
    ///
    /// # Errors
    /// [`KvError::Length`] if keys have another dimension, [`KvError::Range`] if they are fewer than before, and nothing is
    /// changed; [`KvError::Pq`] if a key holds a NaN or an infinity: what has no codes is attended to densely then.
    pub fn prefill(
        &mut self,
        keys: &impl KeyRows,
        queries: &[f32],
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        self.grow(keys)?;
        self.prompt = self.len;
        // The next token is the current one, and comes behind a full window.
        let middle = self.uncoded_middle();
        if self.index.codebook().is_none() || middle >= 2 * self.trained_for() {
            self.refresh_to(middle, keys, queries, None, scratch)?;
        }
        self.settle(middle, keys, false, scratch)
    }

    /// The sequence has the tokens of `keys` now, the last being the current one. Tokens that leave the window get their
    /// codes, each from its own key. `d * ksub` multiply-adds each.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn append(&mut self, keys: &impl KeyRows, scratch: &mut IndexScratch) -> Result<(), KvError> {
        self.grow(keys)?;
        // The current token is not one of the window's.
        let past_sinks = self.len.saturating_sub(1).saturating_sub(self.config.sinks);
        self.settle(past_sinks.saturating_sub(self.window()), keys, true, scratch)
    }

    /// Selects [`budget`](Self::budget) tokens of the middle for the group's queries `q` `[group][d]`, rising; also in
    /// [`IndexScratch::selected`]. See [`PqIndex::select`].
    ///
    /// # Errors
    /// As [`PqIndex::select`].
    pub fn select<'s>(
        &self,
        q: &[f32],
        scale: f32,
        scratch: &'s mut IndexScratch,
    ) -> Result<&'s [u32], KvError> {
        scratch.n_selected = 0;
        let k = self.budget().min(self.index.len());
        if scratch.selected.len() < k {
            scratch.selected.resize(k, 0);
        }
        let selected = &mut scratch.selected[..k];
        if k > 0 {
            scratch.n_selected = self.index.select(q, scale, selected, &mut scratch.select)?;
        }
        let first = u32::try_from(self.middle().start).unwrap_or(u32::MAX);
        selected.iter_mut().for_each(|token| *token += first);
        Ok(&scratch.selected[..scratch.n_selected])
    }

    /// Adds to `decode` the attention of the group's queries `q` `[group][d]` over the sinks, the tokens it selects and
    /// the tail, all by exact rows, of the tokens of `keys`: if they are more than the index was told of, those are tail
    /// too; if fewer, there may be no tokens with codes beyond. Allocates nothing unless the sequence has outgrown
    /// the scratch.
    ///
    /// # Errors
    /// [`KvError::Range`] if tokens of the middle are missing; those of [`PqIndex::select`] and [`Decode::add`].
    pub fn attend(
        &self,
        q: &[f32],
        scale: f32,
        keys: &Rows<'_>,
        values: &Rows<'_>,
        decode: &mut Decode,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        let (n, middle) = (keys.n_tokens(), self.middle());
        // Without codes there may be fewer tokens than sinks.
        let (sinks, tail) = if middle.is_empty() { (0..0, 0..n) } else { (0..middle.start, middle.end..n) };
        if tail.start > n {
            return Err(KvError::Range { start: middle.start, end: middle.end, len: n });
        }
        let selected = self.select(q, scale, scratch)?;
        decode.add(q, scale, keys, values, Tokens::Range(sinks))?;
        decode.add(q, scale, keys, values, Tokens::List(selected))?;
        Ok(decode.add(q, scale, keys, values, Tokens::Range(tail))?)
    }

    /// Whether the index is to be built anew, as the configuration says ([`Refresh`](super::Refresh)), or for the first time: there
    /// are more middle tokens than centroids, and no codes. Constant cost.
    #[must_use]
    pub fn is_refresh_due(&self) -> bool {
        match self.index.codebook() {
            Some(_) => self.index.is_refresh_due(),
            None => self.uncoded_middle() > self.config.shape.ksub(),
        }
    }

    /// Builds the index anew, transform, centroids and codes. Not for the hot path: it
    /// allocates, and costs what [`prefill`](Self::prefill) of all tokens does. `budget` overrides the configured iterations; `queries` are
    /// the last ones, as for [`prefill`](Self::prefill); with few of them the transform stays as it is.
    ///
    /// # Errors
    /// [`KvError::Range`] if `keys` are fewer than before, [`KvError::Pq`] if a key holds a NaN or an infinity; nothing is
    /// changed then.
    pub fn refresh(
        &mut self,
        keys: &impl KeyRows,
        queries: &[f32],
        budget: Option<IterBudget<'_>>,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        self.check_keys(keys)?;
        let middle = if self.index.codebook().is_some() { self.index.len() } else { self.uncoded_middle() };
        self.refresh_to(middle, keys, queries, budget, scratch)
    }

    /// Takes over what `other` was trained to, an index of the first of these tokens, after coding the others under it.
    pub(super) fn adopt(
        &mut self,
        other: Self,
        keys: &impl KeyRows,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        let mut index = other.index;
        if index.codebook().is_some() {
            code_up_to(&self.config, keys, &mut index, self.index.len(), true, scratch)?;
            self.index = index;
        }
        Ok(())
    }

    /// Keeps the first `len` tokens. The last ones of the middle lose their codes where they are in the window now.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.prompt = self.prompt.min(self.len);
        self.clip();
    }

    /// The tokens of `range` were taken out; later ones moved down, and took the places of sinks that are gone. If their keys
    /// were rotated to their new positions, go on with [`recode`](Self::recode). Cost: one copy of the later codes.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; nothing is removed then.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        if range.start > range.end || range.end > self.len {
            return Err(KvError::Range { start: range.start, end: range.end, len: self.len });
        }
        let (sinks, middle) = (self.sinks(), self.middle());
        let part = |of: &Range<usize>| range.start.clamp(of.start, of.end)..range.end.clamp(of.start, of.end);
        let coded = part(&middle);
        self.index.remove(coded.start - middle.start..coded.end - middle.start)?;
        // The first tokens of the middle are sinks now.
        let gone = part(&sinks).len().min(self.index.len());
        self.index.remove(0..gone)?;
        self.len -= range.len();
        self.prompt -= range.end.min(self.prompt) - range.start.min(self.prompt);
        self.clip();
        Ok(())
    }

    /// The keys of `tokens` are others now, as when an engine rotates them to other positions: those of the middle get
    /// new codes. `d * ksub` multiply-adds a key.
    ///
    /// # Errors
    /// [`KvError::Range`] or [`KvError::Length`], and nothing is changed; [`KvError::Pq`] if a key holds a NaN or an
    /// infinity: the middle has lost its codes then, and is attended to densely.
    pub fn recode(
        &mut self,
        tokens: Range<usize>,
        keys: &impl KeyRows,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        if tokens.start > tokens.end || tokens.end > self.len {
            return Err(KvError::Range { start: tokens.start, end: tokens.end, len: self.len });
        }
        self.check_keys(keys)?;
        let middle = self.middle();
        let end = tokens.end.min(middle.end);
        let mut at = tokens.start.max(middle.start);
        let d = self.config.shape.d();
        while at < end {
            let n = BATCH.min(end - at);
            let rows = &mut scratch.rows[..n * d];
            let replaced = keys
                .to_f32(at..at + n, rows)
                .and_then(|()| self.index.replace(at - middle.start, rows, &mut scratch.encode));
            if let Err(error) = replaced {
                self.index.truncate(0);
                return Err(error);
            }
            at += n;
        }
        Ok(())
    }

    /// The index as bytes, for the index section of a container. See [`PqIndex::to_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let place = IndexPlace { first: self.middle().start as u64, prompt: self.prompt as u64 };
        self.index.to_bytes(place)
    }

    /// The index of a sequence of `n_tokens` tokens as it was when [`to_bytes`](Self::to_bytes) wrote it.
    ///
    /// # Errors
    /// Those of [`HeadIndex::new`] and [`PqIndex::from_bytes`]; [`KvError::Corrupt`] if the index is of other tokens.
    pub fn from_bytes(config: &PqConfig, n_tokens: usize, bytes: &[u8]) -> Result<Self, KvError> {
        config.check()?;
        let (index, place) = PqIndex::from_bytes(IndexParams::from(config), bytes)?;
        let prompt = usize::try_from(place.prompt).unwrap_or(usize::MAX);
        let restored = Self { config: config.clone(), index, len: n_tokens, prompt };
        let fits = restored.index.len() <= restored.uncoded_middle();
        if place.first != restored.sinks().end as u64 || prompt > n_tokens || !fits {
            return Err(KvError::Corrupt { what: "it is of other tokens" });
        }
        Ok(restored)
    }

    fn past_sinks(&self) -> usize {
        self.len.saturating_sub(self.config.sinks)
    }

    fn prompt_past_sinks(&self) -> usize {
        self.prompt.saturating_sub(self.config.sinks)
    }

    /// Middle tokens there would be with a codebook.
    fn uncoded_middle(&self) -> usize {
        self.past_sinks().saturating_sub(self.window())
    }

    /// Middle tokens that the codebook was trained for, 0 without one.
    fn trained_for(&self) -> usize {
        self.index.trained_for().unwrap_or(0)
    }

    fn check_keys(&self, keys: &impl KeyRows) -> Result<(), KvError> {
        let d = self.config.shape.d();
        if keys.dim() != d {
            return Err(AttentionError::Dim { expected: d, got: keys.dim() }.into());
        }
        if keys.n_tokens() < self.len {
            return Err(KvError::Range { start: 0, end: self.len, len: keys.n_tokens() });
        }
        Ok(())
    }

    fn grow(&mut self, keys: &impl KeyRows) -> Result<(), KvError> {
        self.check_keys(keys)?;
        self.len = keys.n_tokens();
        Ok(())
    }

    /// Takes codes from tokens that have to be in the tail.
    fn clip(&mut self) {
        self.index.truncate(self.uncoded_middle());
    }

    /// Codes middle tokens until there are `middle`, if there is a codebook; `new` ones are seen by the drift monitor.
    fn settle(
        &mut self,
        middle: usize,
        keys: &impl KeyRows,
        new: bool,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        if self.index.codebook().is_none() {
            return Ok(());
        }
        code_up_to(&self.config, keys, &mut self.index, middle, new, scratch)
    }

    /// Trains on the first `middle` tokens of the middle and codes them, if they are more than the centroids.
    fn refresh_to(
        &mut self,
        middle: usize,
        keys: &impl KeyRows,
        queries: &[f32],
        budget: Option<IterBudget<'_>>,
        scratch: &mut IndexScratch,
    ) -> Result<(), KvError> {
        let shape = self.config.shape;
        if middle <= shape.ksub() {
            return Ok(());
        }
        let (d, sinks) = (shape.d(), self.config.sinks);
        let n = middle.min(self.config.training.sample.saturating_mul(shape.ksub()));
        let mut sample = vec![0.0; n * d];
        if n == middle {
            keys.to_f32(sinks..sinks + middle, &mut sample)?;
        } else {
            // Evenly, so that every part of the prompt has its say.
            for (i, row) in sample.chunks_exact_mut(d).enumerate() {
                let token = sinks + usize::try_from(i as u128 * middle as u128 / n as u128).unwrap_or(0);
                keys.to_f32(token..token + 1, row)?;
            }
        }
        let mut index = if self.index.codebook().is_some() {
            self.index.rebuilt(&sample, queries, middle, budget)?
        } else {
            let mut index = self.index.clone();
            index.train(&sample, queries, middle, budget)?;
            index
        };
        drop(sample);
        code_up_to(&self.config, keys, &mut index, middle, false, scratch)?;
        self.index = index;
        Ok(())
    }
}

/// Appends codes of the tokens behind `index` until it has `middle`.
fn code_up_to(
    config: &PqConfig,
    keys: &impl KeyRows,
    index: &mut PqIndex,
    middle: usize,
    new: bool,
    scratch: &mut IndexScratch,
) -> Result<(), KvError> {
    let d = config.shape.d();
    while index.len() < middle {
        let at = config.sinks + index.len();
        let n = if new { 1 } else { BATCH.min(middle - index.len()) };
        let rows = &mut scratch.rows[..n * d];
        keys.to_f32(at..at + n, rows)?;
        if new {
            index.append(rows, &mut scratch.encode)?;
        } else {
            index.extend(rows, &mut scratch.encode)?;
        }
    }
    Ok(())
}
