//! The cache of one KV head.

use super::refresh::Lineage;
use super::{LayerShape, expect, whole};
use crate::attention::Decode;
use crate::kv::KvError;
use crate::kv::config::{Extent, PqConfig};
use crate::kv::head_index::{HeadIndex, IndexScratch};
use crate::kv::index::PqIndex;
use crate::kv::queries::RecentQueries;
use crate::kv::store::{BLOCK_TOKENS, RowStore};
use alloc::vec::Vec;
use core::ops::Range;

/// Exact rows and the index of one KV head. See the [module](super).
#[derive(Clone, Debug)]
pub struct HeadCache {
    pub(super) keys: RowStore,
    values: RowStore,
    pub(super) index: HeadIndex,
    /// What transforms are learned from, if they are.
    pub(super) queries: RecentQueries,
    /// Changes whenever tokens do that an index may have been built of.
    pub(super) lineage: Lineage,
}

/// Buffers of one thread, made once.
#[derive(Clone, Debug)]
pub struct HeadScratch {
    pub(super) index: IndexScratch,
    decode: Decode,
}

impl HeadScratch {
    pub(super) fn new(config: &PqConfig, shape: &LayerShape, max_tokens: usize) -> Result<Self, KvError> {
        let decode = Decode::new(shape.group, shape.dim_v)?;
        Ok(Self { index: IndexScratch::new(config, shape.group, max_tokens), decode })
    }

    /// The tokens that the last step of this thread selected in the middle, rising.
    #[must_use]
    pub fn selected(&self) -> &[u32] {
        self.index.selected()
    }
}

impl HeadCache {
    pub(super) fn new(config: &PqConfig, shape: &LayerShape) -> Result<Self, KvError> {
        let index = HeadIndex::new(config)?;
        let keys = RowStore::new(shape.keys, config.shape.d(), BLOCK_TOKENS)?;
        let values = RowStore::new(shape.values, shape.dim_v, BLOCK_TOKENS)?;
        keys.with_rows(|_| Ok(()))?;
        values.with_rows(|_| Ok(()))?;
        let d = config.shape.d();
        let queries = if config.transform { RecentQueries::new(d) } else { RecentQueries::none(d) };
        Ok(Self { keys, values, index, queries, lineage: Lineage::default() })
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
        self.index.index()
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
        let rows = self.keys.heap_bytes() + self.values.heap_bytes();
        rows + self.index.heap_bytes() + self.queries.heap_bytes()
    }

    /// The first tokens, which are always attended to.
    #[must_use]
    pub fn sinks(&self) -> Range<usize> {
        self.index.sinks()
    }

    /// The tokens with codes, among which is selected.
    #[must_use]
    pub fn middle(&self) -> Range<usize> {
        self.index.middle()
    }

    /// The tokens behind the middle, which are always attended to: the window and the current token; everything past
    /// the sinks while there are no codes.
    #[must_use]
    pub fn tail(&self) -> Range<usize> {
        self.index.tail()
    }

    /// Tokens of the window (W).
    #[must_use]
    pub fn window(&self) -> usize {
        self.index.window()
    }

    /// Tokens that a step selects (k), if there are so many.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.index.budget()
    }

    /// Gives this head a budget of its own, as when a layer's budget is shared out by what its heads need.
    ///
    /// # Errors
    /// [`KvError::Share`] for a share outside 0..=1; nothing is changed then.
    pub fn set_budget(&mut self, budget: Extent) -> Result<(), KvError> {
        self.index.set_budget(budget)
    }

    /// Takes the rows of a prompt, or of the next chunk of it, and indexes all but the sinks and the window. Trains as
    /// soon as there are more middle tokens than centroids, and again when a later chunk
    /// makes them twice as many; other chunks are coded with the centroids there are.
    ///
    /// `queries` `[nq][d]` are queries of the group's heads, in the order of tokens, from which the
    /// transform is learned, if the configuration asks for one; there may be none, and the last 2048 are enough up to 128 elements.
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
        self.queries.push(queries);
        self.index.prefill(&self.keys, queries, &mut scratch.index)
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
        self.index.append(&self.keys, &mut scratch.index)
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
        self.index.select(q, scale, &mut scratch.index)
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
        let HeadScratch { index, decode } = scratch;
        decode.reset();
        self.keys.with_rows(|keys| {
            self.values.with_rows(|values| self.index.attend(q, scale, keys, values, decode, index))
        })?;
        Ok(decode.finish(out, lse)?)
    }

    /// One decode step: [`append`](Self::append) of the current token, then [`attend`](Self::attend). The queries are kept for the
    /// next transform.
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
        self.attend(q, scale, out, lse, scratch)?;
        self.queries.push(q);
        Ok(())
    }

    /// Takes in queries `[nq][d]` for the next transform, in the order of tokens, where [`attend`](Self::attend) is called in the place of
    /// [`step`](Self::step).
    pub fn push_queries(&mut self, queries: &[f32]) {
        self.queries.push(queries);
    }

    /// Keeps the first `len` tokens. The last ones of the middle lose their codes where they are in the window now.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        self.lineage = Lineage::default();
        self.keys.truncate(len);
        self.values.truncate(len);
        self.index.truncate(self.keys.len());
    }

    /// Takes the tokens of `range` out; later ones move down, and take the places of sinks that are gone. Their keys stay
    /// as they are; an engine that rotates them to their new positions goes on with [`replace_keys`](Self::replace_keys).
    /// Cost: one copy of the later rows and codes.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; nothing is removed then.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        self.keys.remove(range.clone())?;
        self.lineage = Lineage::default();
        self.values.remove(range.clone())?;
        self.index.remove(range)
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
        self.lineage = Lineage::default();
        let end = first + keys.len() / self.keys.row_bytes();
        self.index.recode(first..end, &self.keys, &mut scratch.index)
    }

    /// The index as bytes, for the index section of a container. See [`PqIndex::to_bytes`].
    #[must_use]
    pub fn index_bytes(&self) -> Vec<u8> {
        self.index.to_bytes()
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
        let index = HeadIndex::from_bytes(self.index.config(), n, index)?;
        let mut restored = Self { index, ..self.clone() };
        restored.queries.clear();
        restored.keys.truncate(0);
        restored.values.truncate(0);
        restored.keys.extend(keys)?;
        restored.values.extend(values)?;
        *self = restored;
        Ok(())
    }
}
