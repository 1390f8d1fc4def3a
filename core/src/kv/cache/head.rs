//! The cache of one KV head.

use super::{LayerShape, expect, whole};
use crate::attention::{Decode, Tokens};
use crate::kv::KvError;
use crate::kv::config::{Extent, PqConfig};
use crate::kv::index::{EncodeScratch, IndexParams, IndexPlace, PqIndex, SelectScratch};
use crate::kv::store::{BLOCK_TOKENS, RowStore};
use crate::pq::IterBudget;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Keys converted at a time.
const BATCH: usize = 256;

/// Exact rows, codes and bookkeeping of one KV head. See the [module](super).
#[derive(Clone, Debug)]
pub struct HeadCache {
    config: PqConfig,
    keys: RowStore,
    values: RowStore,
    /// Codes of the middle: its key `i` is token `sinks + i`.
    index: PqIndex,
    /// Tokens of the prompt so far.
    prompt: usize,
}

/// Buffers of one thread, made once.
#[derive(Clone, Debug)]
pub struct HeadScratch {
    select: SelectScratch,
    encode: EncodeScratch,
    decode: Decode,
    rows: Vec<f32>,
    selected: Vec<u32>,
    /// How many of `selected` are the last selection.
    n_selected: usize,
}

impl HeadScratch {
    pub(super) fn new(config: &PqConfig, shape: &LayerShape, max_tokens: usize) -> Result<Self, KvError> {
        let params = IndexParams::from(config);
        let past_sinks = max_tokens.saturating_sub(config.sinks);
        let k = config.budget.tokens(past_sinks, past_sinks);
        Ok(Self {
            select: SelectScratch::new(&params, shape.group, past_sinks, k),
            encode: EncodeScratch::new(config.shape),
            decode: Decode::new(shape.group, shape.dim_v)?,
            rows: vec![0.0; BATCH * config.shape.d()],
            selected: vec![0; k],
            n_selected: 0,
        })
    }

    /// The tokens that the last step of this thread selected in the middle, rising.
    #[must_use]
    pub fn selected(&self) -> &[u32] {
        &self.selected[..self.n_selected]
    }
}

impl HeadCache {
    pub(super) fn new(config: &PqConfig, shape: &LayerShape) -> Result<Self, KvError> {
        config.check()?;
        let keys = RowStore::new(shape.keys, config.shape.d(), BLOCK_TOKENS)?;
        let values = RowStore::new(shape.values, shape.dim_v, BLOCK_TOKENS)?;
        keys.with_rows(|_| Ok(()))?;
        values.with_rows(|_| Ok(()))?;
        let index = PqIndex::new(IndexParams::from(config))?;
        Ok(Self { config: config.clone(), keys, values, index, prompt: 0 })
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &RowStore {
        &self.keys
    }

    /// The values.
    #[must_use]
    pub const fn values(&self) -> &RowStore {
        &self.values
    }

    /// The index of the middle.
    #[must_use]
    pub const fn index(&self) -> &PqIndex {
        &self.index
    }

    /// Tokens.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Bytes on the heap, those shared with forks included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes() + self.values.heap_bytes() + self.index.heap_bytes()
    }

    /// The first tokens, which are always attended to.
    #[must_use]
    pub fn sinks(&self) -> Range<usize> {
        0..self.config.sinks.min(self.len())
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
        self.middle().end..self.len()
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

    /// Takes the rows of a prompt, or of the next chunk of it, and indexes all but the sinks and the window. Trains as
    /// soon as there are more middle tokens than centroids, and again when a later chunk
    /// makes them twice as many; other chunks are coded with the centroids there are.
    ///
    /// `queries` `[nq][d]` are queries of the group's heads, in the order of tokens, from which the first training learns
    /// the transform, if the configuration asks for one; there may be none. The last thousand tokens' are enough.
    ///
    /// Cost: one copy of the rows; training on at most `sample * ksub` keys; `d * ksub` multiply-adds a key.
    ///
    /// # Errors
    /// [`KvError::Length`] if rows are not whole or keys and values differ in number, and nothing is changed;
    /// [`KvError::Pq`] if a key holds a NaN or an infinity: the rows are there then, and what has no codes is attended
    /// to densely.
    pub fn prefill(
        &mut self,
        keys: &[u8],
        values: &[u8],
        queries: &[f32],
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        let n = whole(keys, self.keys.row_bytes())?;
        expect(n * self.values.row_bytes(), values.len())?;
        self.keys.extend(keys)?;
        self.values.extend(values)?;
        self.prompt = self.len();
        // The next token is the current one, and comes behind a full window.
        let middle = self.past_sinks().saturating_sub(self.window());
        if self.index.codebook().is_none() || middle >= 2 * self.trained_for() {
            self.refresh_to(middle, queries, None, scratch)?;
        }
        self.settle(middle, false, scratch)
    }

    /// Appends the current token's rows. The token that leaves the window gets its codes, from its own key. `d * ksub`
    /// multiply-adds.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn append(&mut self, key: &[u8], value: &[u8], scratch: &mut HeadScratch) -> Result<(), KvError> {
        expect(self.keys.row_bytes(), key.len())?;
        expect(self.values.row_bytes(), value.len())?;
        self.keys.extend(key)?;
        self.values.extend(value)?;
        // The current token is not one of the window's.
        let middle = (self.len() - 1).saturating_sub(self.config.sinks).saturating_sub(self.window());
        self.settle(middle, true, scratch)
    }

    /// Selects [`budget`](Self::budget) tokens of the middle for the group's queries `q` `[group][d]`, rising; also in
    /// [`HeadScratch::selected`]. See [`PqIndex::select`].
    ///
    /// # Errors
    /// As [`PqIndex::select`].
    pub fn select<'s>(
        &self,
        q: &[f32],
        scale: f32,
        scratch: &'s mut HeadScratch,
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

    /// Attention of the group's queries over sinks, the selected tokens and the tail, all by exact rows: outputs
    /// `[group][dim_v]` and the natural logarithms of the sums of exponentials `[group]`. Allocates nothing unless the
    /// cache has outgrown the scratch.
    ///
    /// # Errors
    /// [`KvError::Length`], [`KvError::Scale`] or [`KvError::Pq`] if `q`, `scale` or a buffer does not fit.
    pub fn attend(
        &self,
        q: &[f32],
        scale: f32,
        out: &mut [f32],
        lse: &mut [f32],
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        self.select(q, scale, scratch)?;
        let HeadScratch { decode, selected, n_selected, .. } = scratch;
        let selected = &selected[..*n_selected];
        decode.reset();
        self.keys.with_rows(|keys| {
            self.values.with_rows(|values| {
                decode.add(q, scale, keys, values, Tokens::Range(self.sinks()))?;
                decode.add(q, scale, keys, values, Tokens::List(selected))?;
                Ok(decode.add(q, scale, keys, values, Tokens::Range(self.tail()))?)
            })
        })?;
        Ok(decode.finish(out, lse)?)
    }

    /// One decode step: [`append`](Self::append) of the current token, then [`attend`](Self::attend).
    ///
    /// # Errors
    /// As those.
    #[allow(clippy::too_many_arguments, reason = "each is a tensor of the step")]
    pub fn step(
        &mut self,
        q: &[f32],
        scale: f32,
        key: &[u8],
        value: &[u8],
        out: &mut [f32],
        lse: &mut [f32],
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        self.append(key, value, scratch)?;
        self.attend(q, scale, out, lse, scratch)
    }

    /// Whether [`refresh`](Self::refresh) is worth its cost: there are enough middle tokens for a first codebook, twice
    /// as many as there were at the last training, or new keys are coded much worse than those of the prompt.
    #[must_use]
    pub fn is_refresh_due(&self) -> bool {
        match self.index.codebook() {
            Some(_) => self.index.is_refresh_due(),
            None => self.uncoded_middle() > self.config.shape.ksub(),
        }
    }

    /// Trains the codebook (again) and codes the middle anew. Not for the hot path: it
    /// allocates, and costs what [`prefill`](Self::prefill) does. `budget` overrides the configured iterations; `queries` are those of
    /// [`prefill`](Self::prefill), for a first training.
    ///
    /// # Errors
    /// [`KvError::Pq`] if a key holds a NaN or an infinity; nothing is changed then.
    pub fn refresh(
        &mut self,
        queries: &[f32],
        budget: Option<IterBudget<'_>>,
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        let middle = if self.index.codebook().is_some() { self.index.len() } else { self.uncoded_middle() };
        self.refresh_to(middle, queries, budget, scratch)
    }

    /// Keeps the first `len` tokens. The last ones of the middle lose their codes where they are in the window now.
    pub fn truncate(&mut self, len: usize) {
        self.keys.truncate(len);
        self.values.truncate(len);
        self.prompt = self.prompt.min(self.len());
        self.clip();
    }

    /// Takes the tokens of `range` out; later ones move down, and take the places of sinks that are gone. Their keys stay
    /// as they are; an engine that rotates them to their new positions goes on with [`replace_keys`](Self::replace_keys).
    /// Cost: one copy of the later rows and codes.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; nothing is removed then.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        let (sinks, middle) = (self.sinks(), self.middle());
        self.keys.remove(range.clone())?;
        self.values.remove(range.clone())?;
        let part = |of: &Range<usize>| range.start.clamp(of.start, of.end)..range.end.clamp(of.start, of.end);
        let coded = part(&middle);
        self.index.remove(coded.start - middle.start..coded.end - middle.start)?;
        // The first tokens of the middle are sinks now.
        let gone = part(&sinks).len().min(self.index.len());
        self.index.remove(0..gone)?;
        self.prompt -= range.end.min(self.prompt) - range.start.min(self.prompt);
        self.clip();
        Ok(())
    }

    /// Replaces the keys from token `first` on, as when an engine rotates them to other positions; those of the middle
    /// get new codes. `d * ksub` multiply-adds a key.
    ///
    /// # Errors
    /// [`KvError::Length`] or [`KvError::Range`], and nothing is changed; [`KvError::Pq`] if a key holds a NaN or an
    /// infinity: the middle has lost its codes then, and is attended to densely.
    pub fn replace_keys(
        &mut self,
        first: usize,
        keys: &[u8],
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        self.keys.replace(first, keys)?;
        let middle = self.middle();
        let end = (first + keys.len() / self.keys.row_bytes()).min(middle.end);
        let mut at = first.max(middle.start);
        let d = self.config.shape.d();
        while at < end {
            let n = BATCH.min(end - at);
            let rows = &mut scratch.rows[..n * d];
            let replaced = self
                .keys
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
    pub fn index_bytes(&self) -> Vec<u8> {
        let place = IndexPlace { first: self.middle().start as u64, prompt: self.prompt as u64 };
        self.index.to_bytes(place)
    }

    /// Takes the rows of a sequence and the index that [`index_bytes`](Self::index_bytes) gave for it: the cache is as it
    /// was, without training and without coding. What the cache held before is gone.
    ///
    /// # Errors
    /// [`KvError::Length`] if rows are not whole or keys and values differ in number; those of [`PqIndex::from_bytes`];
    /// [`KvError::Corrupt`] if the index is of other tokens. Nothing is changed then.
    pub fn restore(&mut self, keys: &[u8], values: &[u8], index: &[u8]) -> Result<(), KvError> {
        let n = whole(keys, self.keys.row_bytes())?;
        expect(n * self.values.row_bytes(), values.len())?;
        let (index, place) = PqIndex::from_bytes(IndexParams::from(&self.config), index)?;
        let first = self.config.sinks.min(n);
        let prompt = usize::try_from(place.prompt).unwrap_or(usize::MAX);
        let mut restored = Self { index, prompt, ..self.clone() };
        restored.keys.truncate(0);
        restored.values.truncate(0);
        restored.keys.extend(keys)?;
        restored.values.extend(values)?;
        let fits = restored.index.len() <= restored.uncoded_middle();
        if place.first != first as u64 || prompt > n || !fits {
            return Err(KvError::Corrupt { what: "it is of other tokens" });
        }
        *self = restored;
        Ok(())
    }

    fn past_sinks(&self) -> usize {
        self.len().saturating_sub(self.config.sinks)
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

    /// Takes codes from tokens that have to be in the tail.
    fn clip(&mut self) {
        self.index.truncate(self.uncoded_middle());
    }

    /// Codes middle tokens until there are `middle`, if there is a codebook; `new` ones are seen by the drift monitor.
    fn settle(&mut self, middle: usize, new: bool, scratch: &mut HeadScratch) -> Result<(), KvError> {
        if self.index.codebook().is_none() {
            return Ok(());
        }
        let Self { config, keys, index, .. } = self;
        code_up_to(config, keys, index, middle, new, scratch)
    }

    /// Trains on the first `middle` tokens of the middle and codes them, if they are more than the centroids.
    fn refresh_to(
        &mut self,
        middle: usize,
        queries: &[f32],
        budget: Option<IterBudget<'_>>,
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        let shape = self.config.shape;
        if middle <= shape.ksub() {
            return Ok(());
        }
        let (d, sinks) = (shape.d(), self.config.sinks);
        let n = middle.min(self.config.training.sample.saturating_mul(shape.ksub()));
        let mut sample = vec![0.0; n * d];
        if n == middle {
            self.keys.to_f32(sinks..sinks + middle, &mut sample)?;
        } else {
            // Evenly, so that every part of the prompt has its say.
            for (i, row) in sample.chunks_exact_mut(d).enumerate() {
                let token = sinks + usize::try_from(i as u128 * middle as u128 / n as u128).unwrap_or(0);
                self.keys.to_f32(token..token + 1, row)?;
            }
        }
        let mut index = if self.index.codebook().is_some() {
            self.index.retrained(&sample, middle, budget)?
        } else {
            let mut index = self.index.clone();
            index.train(&sample, queries, middle, budget)?;
            index
        };
        drop(sample);
        code_up_to(&self.config, &self.keys, &mut index, middle, false, scratch)?;
        self.index = index;
        Ok(())
    }
}

/// Appends codes of the tokens behind `index` until it has `middle`.
fn code_up_to(
    config: &PqConfig,
    keys: &RowStore,
    index: &mut PqIndex,
    middle: usize,
    new: bool,
    scratch: &mut HeadScratch,
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
