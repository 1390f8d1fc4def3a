//! vLLM's example connector: a folder of `<layer name>.safetensors`, each with one tensor `kv_cache`, without metadata.
//!
//! | shape | meaning |
//! |---|---|
//! | `[T, H, 2D]` | a head's key, then its value |
//! | `[2, T, H*D]` | older: keys, then values, heads side by side |
//! | `[T, C]` | latent attention: one compressed row, taken for keys |

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use tersa_core::view::{KvShape, KvStrides};

use super::axes::{add_streams, plain_dtype};
use super::known::Known;
use super::tensor::Tensor;
use super::{Content, DumpStream, Kind, SourceFile};

/// Whether these tensors are one such file's.
pub(crate) fn sniff(tensors: &[Tensor]) -> bool {
    matches!(tensors, [t] if t.name == "kv_cache")
}

/// Adds the layers, one tensor each.
pub(crate) fn read(
    tensors: &[Tensor],
    files: &[SourceFile],
    known: &Known,
    content: &mut Content,
) -> Result<()> {
    let layers = layer_numbers(tensors, files)?;
    known.source.iter().for_each(|s| content.assume(s.clone()));
    for (t, layer) in tensors.iter().zip(layers) {
        let old = matches!(t.shape[..], [2, ..]) && !is_new_form(t, known);
        match t.rank() {
            2 => {
                content.assume("kv_cache of two axes read as latent attention's rows, taken for keys".into());
                let (n_tokens, width) = (t.shape[0], t.shape[1]);
                let shape = KvShape { dtype: plain_dtype(t)?, n_tokens, n_kv_heads: 1, head_dim: width };
                push(t, layer, Kind::K, shape, 0, KvStrides::token_major(&shape), content);
            }
            3 if old => {
                content.assume("kv_cache read as vLLM's older [keys and values, tokens, heads x dim]".into());
                add_streams(t, &"2t(hd)".parse()?, known, layer, Kind::K, content)?;
            }
            3 => interleaved(t, layer, known, content)?,
            _ => bail!("kv_cache has shape {:?}; vLLM writes [T, H, 2D], [2, T, H*D] or [T, C]", t.shape),
        }
    }
    Ok(())
}

/// `[2, H, 2D]`: two tokens of the newer form, which only known numbers can tell from the older one.
fn is_new_form(t: &Tensor, known: &Known) -> bool {
    let both = known.head_dim.and_then(|d| d.checked_mul(2));
    t.rank() == 3 && known.n_kv_heads == Some(t.shape[1]) && both == Some(t.shape[2])
}

fn interleaved(t: &Tensor, layer: u32, known: &Known, content: &mut Content) -> Result<()> {
    let dtype = plain_dtype(t)?;
    let (n_tokens, n_kv_heads, both) = (t.shape[0], t.shape[1], t.shape[2]);
    let k_dim = match known.head_dim {
        Some(d) => {
            ensure!(d < both, "kv_cache of shape {:?} has no room for values beside keys of {d}", t.shape);
            d
        }
        None => {
            ensure!(
                both.is_multiple_of(2),
                "kv_cache of shape {:?}: the last axis is not two halves; say --head-dim",
                t.shape
            );
            content.assume("kv_cache: keys and values have one head size, half of the last axis each".into());
            both / 2
        }
    };
    let strides = KvStrides { token: t.strides[0], head: t.strides[1], dim: t.strides[2] };
    for (kind, head_dim, skip) in [(Kind::K, k_dim, 0), (Kind::V, both - k_dim, k_dim)] {
        let shape = KvShape { dtype, n_tokens, n_kv_heads, head_dim };
        push(t, layer, kind, shape, skip * dtype.block_bytes(), strides, content);
    }
    Ok(())
}

fn push(
    t: &Tensor,
    layer: u32,
    kind: Kind,
    shape: KvShape,
    skip: usize,
    strides: KvStrides,
    content: &mut Content,
) {
    let offset = t.offset + skip;
    let (part, hadamard, positions, sequences) = (0, 0, None, None);
    content.streams.push(DumpStream {
        part,
        layer,
        kind,
        shape,
        file: t.file,
        offset,
        strides,
        hadamard,
        positions,
        sequences,
    });
}

/// The layer's number in each file's name, as in `model.layers.7.self_attn.attn`: the first number that tells all
/// files apart.
fn layer_numbers(tensors: &[Tensor], files: &[SourceFile]) -> Result<Vec<u32>> {
    if tensors.len() == 1 {
        let name = &files[tensors[0].file].name;
        return Ok(vec![numbers(name).first().copied().unwrap_or(0)]);
    }
    let all: Vec<Vec<u32>> = tensors.iter().map(|t| numbers(&files[t.file].name)).collect();
    let runs = all.iter().map(Vec::len).min().unwrap_or(0);
    (0..runs)
        .map(|run| all.iter().map(|n| n[run]).collect::<Vec<u32>>())
        .find(|column| column.iter().collect::<BTreeSet<_>>().len() == column.len())
        .context("the files' names do not number the layers")
}

/// The numbers in a file's own name.
fn numbers(name: &str) -> Vec<u32> {
    let own = name.rsplit('/').next().unwrap_or(name);
    own.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}
