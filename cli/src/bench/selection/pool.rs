//! Rows and queries of the heads that are measured: the dump's own, or drawn from them.

use anyhow::{Context as _, Result, ensure};
use tersa_core::attention::Rows;
use tersa_core::num::DType;
use tersa_core::num::rng::Xoshiro256pp;

use super::SelectBenchArgs;
use crate::bench::say;
use crate::dump::Dump;
use crate::heads::{self, Keys, Layer};
use crate::parallel;

/// Most bytes of keys and values that are worked on if tokens are drawn: many times what last-level caches hold.
const DRAWN_BYTES: usize = 1 << 30;

/// Rows of one kv head, side by side, and queries that are asked of them.
pub(super) struct Pool {
    pub(super) keys: Vec<u8>,
    pub(super) values: Vec<u8>,
    /// Keys as numbers, of which indexes are made.
    pub(super) numbers: Vec<f32>,
    /// `[n_queries][group][head_dim]`.
    pub(super) queries: Vec<f32>,
}

/// What all heads have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) keys: DType,
    pub(super) values: DType,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) group: usize,
    pub(super) n_tokens: usize,
    pub(super) scale: f32,
}

/// Rows and queries of the heads of these layers, the dump's own or drawn from them.
pub(super) fn pools(dump: &Dump, layers: &[Layer], args: &SelectBenchArgs) -> Result<(Vec<Pool>, Shape)> {
    let (first_k, first_v) = (dump.streams[layers[0].k].shape, dump.streams[layers[0].v].shape);
    let first_queries = dump.queries.iter().find(|q| q.layer == layers[0].layer);
    if first_queries.is_none() {
        say("note: the dump holds no queries; keys are asked of keys, and each kv head has one query head");
    }
    let mut shape = Shape {
        keys: first_k.dtype,
        values: first_v.dtype,
        head_dim: first_k.head_dim,
        value_dim: first_v.head_dim,
        group: first_queries.map_or(1, |q| q.shape[0] / first_k.n_kv_heads.max(1)),
        n_tokens: first_k.n_tokens,
        scale: heads::scale(dump, first_k.head_dim)?,
    };
    ensure!(shape.n_tokens > 0, "nothing to measure: the dump holds no tokens");
    let mut which: Vec<(Layer, usize)> =
        layers.iter().flat_map(|l| (0..dump.streams[l.k].shape.n_kv_heads).map(|h| (*l, h))).collect();
    if let Some(n) = args.synthetic {
        let head_bytes = n.get() * (first_k.row_bytes() + first_v.row_bytes());
        which.truncate((DRAWN_BYTES / head_bytes).max(2));
    }
    let one = |i: usize| -> Result<Pool> {
        let (layer, head) = which[i];
        let (k, v) = (dump.streams[layer.k].shape, dump.streams[layer.v].shape);
        ensure!(
            (k.n_tokens, k.head_dim, k.dtype) == (shape.n_tokens, shape.head_dim, shape.keys)
                && (v.n_tokens, v.head_dim, v.dtype) == (shape.n_tokens, shape.value_dim, shape.values),
            "layer {}: another shape than layer {}'s; choose layers of one shape with --layers",
            layer.layer,
            layers[0].layer
        );
        let copy = |stream: usize| -> Result<Vec<u8>> {
            let view = dump.view(stream)?;
            let mut bytes = vec![0; view.shape().n_tokens * view.shape().row_bytes()];
            view.copy_rows(head, 0..view.shape().n_tokens, &mut bytes);
            Ok(bytes)
        };
        let mut pool = Pool {
            keys: copy(layer.k)?,
            values: copy(layer.v)?,
            numbers: heads::rows(dump, layer.k, head)?,
            queries: Vec::new(),
        };
        let d = shape.head_dim;
        match dump.queries.iter().find(|q| q.layer == layer.layer) {
            Some(queries) => {
                let keys = Keys { n_tokens: k.n_tokens, n_kv_heads: k.n_kv_heads, head_dim: d };
                let all = heads::queries(dump, queries, &keys, 64)?;
                let (rows, n) = (&all.by_kv_head[head], all.n_queries);
                ensure!(
                    rows.len() == shape.group * n * d,
                    "layer {}: another number of query heads",
                    layer.layer
                );
                for j in 0..n {
                    (0..shape.group)
                        .for_each(|h| pool.queries.extend_from_slice(&rows[(h * n + j) * d..][..d]));
                }
            }
            None => {
                let last = pool.numbers.len() - (64 * d).min(pool.numbers.len());
                let rows = pool.numbers[last..].to_vec();
                (0..rows.len() / d).for_each(|j| pool.queries.extend(rows[j * d..][..d].repeat(shape.group)));
            }
        }
        match args.synthetic {
            Some(n) => draw(&pool, &shape, n.get(), args.seed ^ ((i as u64) << 32)),
            None => Ok(pool),
        }
    };
    let pools = parallel::map(which.len(), args.jobs.get(), one).into_iter().collect::<Result<Vec<_>>>()?;
    if let Some(n) = args.synthetic {
        shape.keys = DType::F16;
        shape.values = DType::F16;
        shape.n_tokens = n.get();
    }
    Ok((pools, shape))
}

/// `n` tokens drawn from a pool's, each number changed by up to a tenth: codes as skewed as real ones, at any length.
fn draw(pool: &Pool, shape: &Shape, n: usize, seed: u64) -> Result<Pool> {
    let (d, dv) = (shape.head_dim, shape.value_dim);
    let values = heads::widen(shape.values, dv, 0, &pool.values)?;
    let mut rng = Xoshiro256pp::new(seed);
    let mut drawn =
        Pool { keys: Vec::new(), values: Vec::new(), numbers: Vec::new(), queries: pool.queries.clone() };
    for _ in 0..n {
        let token = usize::try_from(rng.below(shape.n_tokens as u64))?;
        let mut bits = rng.next_u64();
        let mut bend = |x: &f32| {
            bits = bits.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            half::f16::from_f32(x * (1.0 + 0.2 * ((bits >> 40) as f32 / (1u32 << 24) as f32 - 0.5)))
        };
        for x in &pool.numbers[token * d..][..d] {
            let x = bend(x);
            drawn.numbers.push(x.to_f32());
            drawn.keys.extend(x.to_le_bytes());
        }
        values[token * dv..][..dv].iter().for_each(|x| drawn.values.extend(bend(x).to_le_bytes()));
    }
    Ok(drawn)
}

impl Pool {
    /// The first `n` tokens.
    pub(super) fn rows(&self, shape: &Shape, n: usize) -> Result<(Rows<'_>, Rows<'_>)> {
        let first = |data: &'_ [u8], dtype: DType, dim: usize| -> Result<usize> {
            let bytes = n * dtype.bytes_for(dim).context("a row is not whole blocks")?;
            ensure!(bytes <= data.len(), "fewer rows than tokens");
            Ok(bytes)
        };
        let keys = &self.keys[..first(&self.keys, shape.keys, shape.head_dim)?];
        let values = &self.values[..first(&self.values, shape.values, shape.value_dim)?];
        Ok((
            Rows::contiguous(keys, shape.keys, shape.head_dim)?,
            Rows::contiguous(values, shape.values, shape.value_dim)?,
        ))
    }

    /// The group's queries of one pass.
    pub(super) fn queries(&self, shape: &Shape, pass: usize) -> &[f32] {
        let len = shape.group * shape.head_dim;
        &self.queries[pass % (self.queries.len() / len) * len..][..len]
    }
}
