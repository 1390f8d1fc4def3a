//! Single heads of a dump as `f32` rows, and the captured queries that belong to them.

use anyhow::{Context as _, Result, ensure};
use tersa_core::num::DType;
use tersa_core::num::convert::to_f32;
use tersa_core::rotate::hadamard_blocks;

use crate::dump::{Dump, Kind, Queries};

/// A layer that queries can be asked of: the indices of its two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) part: u32,
    pub(crate) layer: u32,
    pub(crate) k: usize,
    pub(crate) v: usize,
}

/// Every layer of which the dump has keys and values, in the dump's order.
pub(crate) fn layers(dump: &Dump) -> Vec<Layer> {
    let find = |part, layer, kind| {
        dump.streams.iter().position(|s| (s.part, s.layer, s.kind) == (part, layer, kind))
    };
    let keys = dump.streams.iter().enumerate().filter(|(_, s)| s.kind == Kind::K);
    keys.filter_map(|(k, s)| {
        let v = find(s.part, s.layer, Kind::V)?;
        Some(Layer { part: s.part, layer: s.layer, k, v })
    })
    .collect()
}

/// All rows of one head, without the rotation that llama.cpp gives quantized caches.
pub(crate) fn rows(dump: &Dump, stream: usize, head: usize) -> Result<Vec<f32>> {
    let view = dump.view(stream)?;
    let shape = view.shape();
    let mut bytes = vec![0; shape.n_tokens * shape.row_bytes()];
    view.copy_rows(head, 0..shape.n_tokens, &mut bytes);
    widen(shape.dtype, shape.head_dim, dump.streams[stream].hadamard, &bytes)
}

/// Stored rows as numbers, without llama.cpp's rotation of `hadamard` elements (0: there is none).
pub(crate) fn widen(dtype: DType, head_dim: usize, hadamard: u32, bytes: &[u8]) -> Result<Vec<f32>> {
    let row_bytes = dtype.bytes_for(head_dim).context("a row is not whole blocks")?;
    let mut rows = vec![0.0; bytes.len() / row_bytes.max(1) * head_dim];
    to_f32(dtype, bytes, &mut rows)?;
    if hadamard != 0 {
        let size = hadamard as usize;
        ensure!(
            size.is_power_of_two() && head_dim.is_multiple_of(size),
            "a rotation of {size} elements does not fit rows of {head_dim}"
        );
        hadamard_blocks(&mut rows, size);
    }
    Ok(rows)
}

/// The last queries of a layer, sorted by the kv head that they ask.
pub(crate) struct LayerQueries {
    /// For each kv head `[group][n_queries][head_dim]`.
    pub(crate) by_kv_head: Vec<Vec<f32>>,
    pub(crate) n_queries: usize,
}

/// The last `most` captured queries of every query head of a layer with such keys.
pub(crate) fn queries(dump: &Dump, queries: &Queries, keys: &Keys, most: usize) -> Result<LayerQueries> {
    let [n_heads, captured, head_dim] = queries.shape;
    let layer = queries.layer;
    ensure!(
        keys.n_kv_heads > 0 && n_heads > 0 && n_heads.is_multiple_of(keys.n_kv_heads),
        "layer {layer}: {n_heads} query heads cannot share {} key/value heads",
        keys.n_kv_heads
    );
    ensure!(
        head_dim == keys.head_dim,
        "layer {layer}: queries have {head_dim} elements, keys {}",
        keys.head_dim
    );
    ensure!(
        captured <= keys.n_tokens,
        "layer {layer}: {captured} queries, but only {} tokens; they must be those of the last tokens",
        keys.n_tokens
    );
    let n_queries = captured.min(most);
    ensure!(n_queries > 0, "layer {layer}: no queries");
    let row_bytes = queries.dtype.bytes_for(head_dim).context("a query is not whole blocks")?;
    let group = n_heads / keys.n_kv_heads;
    let bytes = &dump.files[queries.file].bytes;
    let by_kv_head = (0..keys.n_kv_heads).map(|kv_head| {
        let mut rows = Vec::new();
        for head in kv_head * group..(kv_head + 1) * group {
            let start = queries.offset + (head * captured + captured - n_queries) * row_bytes;
            let data = bytes.get(start..start + n_queries * row_bytes);
            let data = data.with_context(|| format!("layer {layer}: the queries lie outside their file"))?;
            rows.extend(widen(queries.dtype, head_dim, 0, data)?);
        }
        Ok(rows)
    });
    Ok(LayerQueries { by_kv_head: by_kv_head.collect::<Result<_>>()?, n_queries })
}

/// What queries must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) n_tokens: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// What scores are multiplied by: the dump's own `scale` if it says one, else `1/sqrt(head_dim)`.
pub(crate) fn scale(dump: &Dump, head_dim: usize) -> Result<f32> {
    let said = dump.meta.get("scale").map(|value| {
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        number.filter(|s| s.is_finite()).with_context(|| format!("the dump's scale is not a number: {value}"))
    });
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a scale is a short number"
    )]
    Ok(said.transpose()?.unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt()) as f32)
}
