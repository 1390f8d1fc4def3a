//! Cache and attention of one layer, both Tersa's: exact rows in f16, and with a preset the indexes that select among them.
//!
//! Rows come and go as `[tokens][heads][head_dim]`, as the projections make them. A prompt is attended to densely, by
//! blocks of queries; only then decode steps select.

use anyhow::Result;
use rayon::prelude::*;
use tersa_core::attention::{Decode, Tokens};
use tersa_core::kv::store::{BLOCK_TOKENS, RowStore};
use tersa_core::kv::{HeadScratch, KvError, LayerShape, PqCache, PqConfig};
use tersa_core::num::{DType, convert};

/// Element type of the rows that are kept, llama.cpp's default.
const DTYPE: DType = DType::F16;
/// Tokens whose queries read a prompt's keys together.
const QUERY_BLOCK: usize = 32;
/// Queries that teach an index what is asked of it: those of the prompt's last tokens.
const TAUGHT: usize = 1024;

/// Which tokens decode steps attend to.
#[derive(Clone, Debug)]
pub enum Select {
    /// All of them.
    Dense,
    /// Sinks, window, and what the index selects.
    Preset(PqConfig),
}

/// Keys, values and indexes of a layer.
#[derive(Debug)]
pub struct LayerCache {
    shape: LayerShape,
    head_dim: usize,
    scale: f32,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Dense(Vec<DenseHead>),
    Selected { cache: PqCache, scratch: Vec<HeadScratch> },
}

#[derive(Debug)]
struct DenseHead {
    keys: RowStore,
    values: RowStore,
    decode: Decode,
}

impl LayerCache {
    /// An empty cache; `capacity` is how many tokens it holds without allocating in a step.
    ///
    /// # Errors
    /// If the heads have a shape that Tersa does not serve.
    pub fn new(
        select: &Select,
        n_kv_heads: usize,
        group: usize,
        head_dim: usize,
        capacity: usize,
    ) -> Result<Self> {
        let shape = LayerShape { n_kv_heads, group, dim_v: head_dim, keys: DTYPE, values: DTYPE };
        let rows = match select {
            Select::Dense => {
                let head = || -> Result<DenseHead, KvError> {
                    let store = RowStore::new(DTYPE, head_dim, BLOCK_TOKENS)?;
                    Ok(DenseHead {
                        keys: store.clone(),
                        values: store,
                        decode: Decode::new(group, head_dim)?,
                    })
                };
                Rows::Dense((0..n_kv_heads).map(|_| head()).collect::<Result<_, _>>()?)
            }
            Select::Preset(config) => {
                let cache = PqCache::new(config, shape)?;
                let scratch = (0..n_kv_heads).map(|_| cache.scratch(capacity)).collect::<Result<_, _>>()?;
                Rows::Selected { cache, scratch }
            }
        };
        #[allow(clippy::cast_precision_loss, reason = "a dimension")]
        let scale = 1.0 / (head_dim as f32).sqrt();
        Ok(Self { shape, head_dim, scale, rows })
    }

    /// Tokens in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Dense(heads) => heads[0].keys.len(),
            Rows::Selected { cache, .. } => cache.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the keys and values of the next tokens and attends with their queries: outputs `[tokens][query heads][head_dim]`.
    ///
    /// # Errors
    /// If the rows do not fit the heads, or a key is not finite.
    pub fn attend(&mut self, q: &[f32], k: &[f32], v: &[f32]) -> Result<Vec<f32>> {
        let (keys, values) = (to_f16(k)?, to_f16(v)?);
        if k.len() == self.shape.n_kv_heads * self.head_dim {
            self.step(q, &keys, &values)
        } else {
            self.prompt(q, &keys, &values)
        }
    }

    /// One decode step. Heads are independent, so that each is a thread's.
    fn step(&mut self, q: &[f32], keys: &[u8], values: &[u8]) -> Result<Vec<f32>> {
        let (scale, width) = (self.scale, self.shape.group * self.head_dim);
        let row = keys.len() / self.shape.n_kv_heads;
        let mut out = vec![0.0; q.len()];
        let mut lse = vec![0.0; self.shape.n_kv_heads * self.shape.group];
        let io = q
            .par_chunks_exact(width)
            .zip(keys.par_chunks_exact(row).zip(values.par_chunks_exact(row)))
            .zip(out.par_chunks_exact_mut(width).zip(lse.par_chunks_exact_mut(self.shape.group)));
        match &mut self.rows {
            Rows::Dense(heads) => {
                heads.par_iter_mut().zip(io).try_for_each(|(head, ((q, (key, value)), (out, lse)))| {
                    let DenseHead { keys, values, decode } = head;
                    keys.extend(key)?;
                    values.extend(value)?;
                    decode.reset();
                    keys.with_rows(|k| {
                        values
                            .with_rows(|v| Ok(decode.add(q, scale, k, v, Tokens::Range(0..k.n_tokens()))?))
                    })?;
                    Ok::<(), KvError>(decode.finish(out, lse)?)
                })?;
            }
            Rows::Selected { cache, scratch } => {
                let heads = cache.heads_mut().par_iter_mut().zip(scratch);
                heads.zip(io).try_for_each(|((head, scratch), ((q, (key, value)), (out, lse)))| {
                    head.step(q, scale, key, value, out, lse, scratch)
                })?;
            }
        }
        Ok(out)
    }

    /// Takes a prompt, or a further part of one: the index is trained, then all queries are answered from exact rows.
    fn prompt(&mut self, q: &[f32], keys: &[u8], values: &[u8]) -> Result<Vec<f32>> {
        let first = self.len();
        let n_heads = self.shape.n_kv_heads;
        match &mut self.rows {
            Rows::Dense(heads) => {
                for (h, head) in heads.iter_mut().enumerate() {
                    let row = head.keys.row_bytes();
                    head.keys.extend(&of_head(keys, h, n_heads, row))?;
                    head.values.extend(&of_head(values, h, n_heads, row))?;
                }
            }
            Rows::Selected { cache, scratch } => {
                let queries =
                    &q[q.len().saturating_sub(TAUGHT * n_heads * self.shape.group * self.head_dim)..];
                cache.prefill(keys, values, queries, &mut scratch[0])?;
            }
        }
        let width = self.shape.group * self.head_dim;
        let mut out = vec![0.0; q.len()];
        for (h, (keys, values)) in self.stores().into_iter().enumerate() {
            let q = of_head(q, h, n_heads, width);
            let attended = self.causal(&q, keys, values, first)?;
            for (to, from) in out.chunks_exact_mut(n_heads * width).zip(attended.chunks_exact(width)) {
                to[h * width..][..width].copy_from_slice(from);
            }
        }
        Ok(out)
    }

    /// Causal attention of a KV head's queries, `[tokens][group][head_dim]`, the first of which is token `first`. What
    /// lies before a block of them is read once for the whole block; then each token sees the block up to itself.
    fn causal(&self, q: &[f32], keys: &RowStore, values: &RowStore, first: usize) -> Result<Vec<f32>> {
        let (d, group, scale) = (self.head_dim, self.shape.group, self.scale);
        let width = group * d;
        let mut out = vec![0.0; q.len()];
        keys.with_rows(|k| {
            values.with_rows(|v| {
                let blocks = out.par_chunks_mut(QUERY_BLOCK * width).zip(q.par_chunks(QUERY_BLOCK * width));
                blocks.enumerate().try_for_each(|(b, (out, q))| {
                    let start = first + b * QUERY_BLOCK;
                    let n = q.len() / width;
                    let mut lse = vec![0.0; n * group];
                    let mut own = Decode::new(group, d)?;
                    let rows = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
                    for ((t, (q, out)), lse) in rows.enumerate().zip(lse.chunks_exact_mut(group)) {
                        own.reset();
                        own.add(q, scale, k, v, Tokens::Range(start..start + t + 1))?;
                        own.finish(out, lse)?;
                    }
                    let mut all = Decode::new(n * group, d)?;
                    all.add(q, scale, k, v, Tokens::Range(0..start))?;
                    all.merge_partial(out, &lse)?;
                    Ok(all.finish(out, &mut lse)?)
                })
            })
        })?;
        Ok(out)
    }

    /// Keys and values of each KV head.
    #[must_use]
    pub fn stores(&self) -> Vec<(&RowStore, &RowStore)> {
        match &self.rows {
            Rows::Dense(heads) => heads.iter().map(|h| (&h.keys, &h.values)).collect(),
            Rows::Selected { cache, .. } => cache.heads().iter().map(|h| (h.keys(), h.values())).collect(),
        }
    }

    /// The index of each KV head as bytes, if there are indexes.
    #[must_use]
    pub fn indexes(&self) -> Vec<Vec<u8>> {
        match &self.rows {
            Rows::Dense(_) => Vec::new(),
            Rows::Selected { cache, .. } => cache.heads().iter().map(|h| h.index_bytes()).collect(),
        }
    }

    /// Takes the rows `[tokens][head_dim]` of KV head `h` out of a saved session, and the index that was saved with them.
    /// Without one, or with one that was made in another way, the rows are indexed anew; whether they were is returned.
    ///
    /// # Errors
    /// If rows or index are not sound.
    pub fn restore(&mut self, h: usize, keys: &[u8], values: &[u8], index: Option<&[u8]>) -> Result<bool> {
        match &mut self.rows {
            Rows::Dense(heads) => {
                heads[h].keys.extend(keys)?;
                heads[h].values.extend(values)?;
                Ok(false)
            }
            Rows::Selected { cache, scratch } => {
                let head = &mut cache.heads_mut()[h];
                match index.map(|index| head.restore(keys, values, index)) {
                    Some(Err(KvError::OtherIndex { .. })) | None => {
                        head.prefill(keys, values, &[], &mut scratch[h])?;
                        Ok(true)
                    }
                    Some(restored) => Ok(restored.map(|()| false)?),
                }
            }
        }
    }
}

/// The rows of head `h` out of those of all heads, `width` elements each.
fn of_head<T: Copy>(rows: &[T], h: usize, n_heads: usize, width: usize) -> Vec<T> {
    rows.chunks_exact(n_heads * width).flat_map(|token| &token[h * width..][..width]).copied().collect()
}

fn to_f16(rows: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 2 * rows.len()];
    convert::from_f32(DTYPE, rows, &mut bytes)?;
    Ok(bytes)
}
