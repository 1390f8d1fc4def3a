//! The live cache of one layer: exact rows and an index for each KV head.
//!
//! Every token is in exactly one of three parts, for all heads alike: the first [`sinks`](PqConfig::sinks) tokens; the
//! *middle*, whose keys have codes; and the tail, at least the window and the current token, whose keys have none yet. A
//! decode step ([`HeadCache::step`]) appends the current token, which pushes the oldest token of the window into the
//! middle, coded from its own key; selects among the middle; and attends to sinks, selected tokens and tail, with exact
//! rows throughout. Codes select and never enter the attention.
//!
//! A prompt of no more middle tokens than centroids has no codes: all of it is tail, and attention is dense. So is it
//! until the first training, and whenever the budget covers the middle.
//!
//! Heads are independent: [`PqCache::heads_mut`] lends them to as many threads as the caller has, each with a
//! [`HeadScratch`] of its own. The methods of [`PqCache`] walk over all heads in this thread; with the feature `rayon`,
//! `par_prefill` and `par_refresh` do so in the threads of the current pool, with the same result.
//!
//! Keys and queries change their look as positions grow. When [`HeadCache::is_refresh_due`], its index is to be built anew: at once by
//! [`HeadCache::refresh`], or by another thread from a snapshot ([`HeadCache::rebuild`], [`Rebuild::run`]) while steps go on
//! with the old one, until [`HeadCache::adopt`] puts the new one in its place.
//!
//! A clone of a cache is a fork of the sequence: rows, codes and codebooks are shared, and what either writes is copied
//! by blocks.

mod head;
#[cfg(feature = "rayon")]
mod parallel;
mod refresh;
#[cfg(test)]
mod tests;

pub use head::{HeadCache, HeadScratch};
pub use refresh::{Rebuild, Rebuilt};

use super::KvError;
use super::config::PqConfig;
use crate::num::DType;
use alloc::vec::Vec;
use core::ops::Range;

/// Heads, dimensions and types of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// KV heads.
    pub n_kv_heads: usize,
    /// Query heads for each KV head.
    pub group: usize,
    /// Elements of a value row. (A key row has as many as the quantizer's shape says.)
    pub dim_v: usize,
    /// Element type of keys.
    pub keys: DType,
    /// Element type of values.
    pub values: DType,
}

/// The cache of one layer. See the [module](self).
#[derive(Clone, Debug)]
pub struct PqCache {
    config: PqConfig,
    shape: LayerShape,
    heads: Vec<HeadCache>,
}

impl PqCache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`KvError::NoHeads`], [`KvError::Row`] for rows that cannot be stored, [`KvError::Share`] for a configuration out
    /// of range, [`KvError::Attention`] for a type that attention does not read.
    pub fn new(config: &PqConfig, shape: LayerShape) -> Result<Self, KvError> {
        if shape.n_kv_heads == 0 || shape.group == 0 {
            return Err(KvError::NoHeads);
        }
        let head = HeadCache::new(config, &shape)?;
        Ok(Self { config: config.clone(), shape, heads: alloc::vec![head; shape.n_kv_heads] })
    }

    /// How it is kept.
    #[must_use]
    pub const fn config(&self) -> &PqConfig {
        &self.config
    }

    /// Heads, dimensions and types.
    #[must_use]
    pub const fn shape(&self) -> &LayerShape {
        &self.shape
    }

    /// The KV heads.
    #[must_use]
    pub fn heads(&self) -> &[HeadCache] {
        &self.heads
    }

    /// The KV heads, to be worked on by different threads. All have to be given the same tokens.
    #[must_use]
    pub fn heads_mut(&mut self) -> &mut [HeadCache] {
        &mut self.heads
    }

    /// Tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heads[0].len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap, those shared with forks included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.heads.capacity() * size_of::<HeadCache>()
            + self.heads.iter().map(HeadCache::heap_bytes).sum::<usize>()
    }

    /// Buffers for one thread, for up to `max_tokens` tokens.
    ///
    /// # Errors
    /// None for a cache that could be made.
    pub fn scratch(&self, max_tokens: usize) -> Result<HeadScratch, KvError> {
        HeadScratch::new(&self.config, &self.shape, max_tokens)
    }

    /// Takes a prompt's rows, `[n_tokens][n_kv_heads][dim]` each, or a chunk of it, and the queries of some of its
    /// tokens, `[nq][n_kv_heads][group][d]`, or none; see [`HeadCache::prefill`].
    ///
    /// # Errors
    /// As [`HeadCache::prefill`], and [`KvError::Length`] if rows or queries are not whole tokens.
    pub fn prefill(
        &mut self,
        keys: &[u8],
        values: &[u8],
        queries: &[f32],
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        let prompt = Prompt::new(self, keys, values, queries)?;
        let mut buffers = Buffers::default();
        let mut heads = self.heads.iter_mut().enumerate();
        heads.try_for_each(|(h, head)| prompt.prefill(h, head, &mut buffers, scratch))
    }

    /// One decode step of all heads: `q` `[n_kv_heads][group][d]`, the current token's `key` and `value` rows
    /// `[n_kv_heads][dim]`, outputs `[n_kv_heads][group][dim_v]`, logarithms `[n_kv_heads][group]`. See
    /// [`HeadCache::step`].
    ///
    /// # Errors
    /// As [`HeadCache::step`]; heads before the one that failed have the token already.
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
        let LayerShape { n_kv_heads, group, dim_v, .. } = self.shape;
        let (d, key_bytes, value_bytes) =
            (self.config.shape.d(), self.heads[0].keys().row_bytes(), self.heads[0].values().row_bytes());
        expect(n_kv_heads * group * d, q.len())?;
        expect(n_kv_heads * key_bytes, key.len())?;
        expect(n_kv_heads * value_bytes, value.len())?;
        expect(n_kv_heads * group * dim_v, out.len())?;
        expect(n_kv_heads * group, lse.len())?;
        let rows = key.chunks_exact(key_bytes).zip(value.chunks_exact(value_bytes));
        let outputs = out.chunks_exact_mut(group * dim_v).zip(lse.chunks_exact_mut(group));
        let heads = self.heads.iter_mut().zip(q.chunks_exact(group * d));
        for (((head, q), (key, value)), (out, lse)) in heads.zip(rows).zip(outputs) {
            head.step(q, scale, key, value, out, lse, scratch)?;
        }
        Ok(())
    }

    /// Whether the index of some head is to be built anew. All heads have the same tokens, so that most become due at the same
    /// step.
    #[must_use]
    pub fn is_refresh_due(&self) -> bool {
        self.heads.iter().any(HeadCache::is_refresh_due)
    }

    /// Builds the indexes anew that are due, in this thread; see [`HeadCache::refresh`].
    ///
    /// # Errors
    /// As [`HeadCache::refresh`]; heads before the one that failed are done.
    pub fn refresh(&mut self, scratch: &mut HeadScratch) -> Result<(), KvError> {
        self.heads
            .iter_mut()
            .filter(|head| head.is_refresh_due())
            .try_for_each(|head| head.refresh(None, scratch))
    }

    /// Keeps the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.heads.iter_mut().for_each(|head| head.truncate(len));
    }

    /// Takes a range of tokens out; see [`HeadCache::remove`].
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; nothing is removed then.
    pub fn remove(&mut self, tokens: Range<usize>) -> Result<(), KvError> {
        self.heads.iter_mut().try_for_each(|head| head.remove(tokens.clone()))
    }
}

/// Rows and queries of all heads, checked.
struct Prompt<'a> {
    keys: &'a [u8],
    values: &'a [u8],
    queries: &'a [f32],
    n_heads: usize,
    /// Bytes of a head's key row and value row, and numbers of its group's queries of a token.
    row: [usize; 3],
}

/// A head's own rows, side by side.
#[derive(Default)]
struct Buffers {
    keys: Vec<u8>,
    values: Vec<u8>,
    queries: Vec<f32>,
}

impl<'a> Prompt<'a> {
    fn new(cache: &PqCache, keys: &'a [u8], values: &'a [u8], queries: &'a [f32]) -> Result<Self, KvError> {
        let (head, n_heads) = (&cache.heads[0], cache.heads.len());
        let group = cache.shape.group * cache.config.shape.d();
        let row @ [key, value, _] = [head.keys().row_bytes(), head.values().row_bytes(), group];
        let n = whole(keys, key * n_heads)?;
        if whole(values, value * n_heads)? != n {
            return Err(KvError::Length { expected: n * value * n_heads, got: values.len() });
        }
        whole(bytemuck::cast_slice(queries), 4 * group * n_heads)?;
        Ok(Self { keys, values, queries, n_heads, row })
    }

    /// [`HeadCache::prefill`] of head `h`.
    fn prefill(
        &self,
        h: usize,
        head: &mut HeadCache,
        buffers: &mut Buffers,
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        let Buffers { keys, values, queries } = buffers;
        let [key, value, query] = self.row;
        gather(self.keys, h, self.n_heads, key, keys);
        gather(self.values, h, self.n_heads, value, values);
        gather(self.queries, h, self.n_heads, query, queries);
        head.prefill(keys, values, queries, scratch)
    }
}

/// Row `h` of each token of `all` `[n_tokens][n_heads][row]`.
fn gather<T: Copy>(all: &[T], h: usize, n_heads: usize, row: usize, out: &mut Vec<T>) {
    out.clear();
    for token in all.chunks_exact(n_heads * row) {
        out.extend_from_slice(&token[h * row..(h + 1) * row]);
    }
}

/// The count of rows of `row` bytes.
const fn whole(bytes: &[u8], row: usize) -> Result<usize, KvError> {
    if bytes.len().is_multiple_of(row) {
        Ok(bytes.len() / row)
    } else {
        Err(KvError::Length { expected: bytes.len().next_multiple_of(row), got: bytes.len() })
    }
}

const fn expect(expected: usize, got: usize) -> Result<(), KvError> {
    if expected == got { Ok(()) } else { Err(KvError::Length { expected, got }) }
}
