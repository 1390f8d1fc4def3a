//! llama.cpp's state files.
//!
//! A row of keys or values is one token's: heads x head size elements, which the file does not split; the split comes
//! from options or a model's config. Quantized caches hold rows that were multiplied by an orthonormal Walsh–Hadamard
//! matrix; newer files say of which size, for older ones llama.cpp's rule is assumed.

pub(crate) mod parse;

use anyhow::{Result, ensure};
use tersa_core::view::{KvShape, KvStrides};

use self::parse::{Cache, Container, Pieces, Rows, State};
use super::known::Known;
use super::options::Rotation;
use super::{Content, DumpStream, Kind};

/// The container that `bytes` begin as.
pub(crate) fn sniff(bytes: &[u8]) -> Option<Container> {
    let magic = u32::from_le_bytes(*bytes.first_chunk()?);
    match magic {
        parse::MAGIC_SESSION => Some(Container::Session),
        parse::MAGIC_SEQUENCE => Some(Container::Sequence),
        _ => None,
    }
}

/// Adds the streams of one file.
pub(crate) fn read(
    bytes: &[u8],
    file: usize,
    known: &Known,
    rotation: Rotation,
    content: &mut Content,
) -> Result<()> {
    let state = parse::parse(&Pieces::whole(bytes))?;
    if let Some(source) = &known.source {
        content.assume(source.clone());
    }
    describe(&state, content);
    let mut layers = 0;
    for (part, cache) in (0..).zip(&state.caches) {
        for (kind, list) in [(Kind::K, &cache.k), (Kind::V, &cache.v)] {
            for (layer, rows) in (0..).zip(list) {
                let stream = stream(cache, rows, (part, layer, kind), file, known, rotation, content)?;
                content.streams.push(stream);
                layers += 1;
            }
        }
    }
    if layers == 0 {
        content.assume("the cache has no cells: nothing to compress".into());
    }
    if state.caches.iter().any(|c| c.section == 1) {
        content.assume(
            "two cache sections: full-context layers, then sliding-window layers, each numbered from 0 (the file has no \
             layer numbers)"
                .into(),
        );
    }
    Ok(())
}

fn describe(state: &State, content: &mut Content) {
    content.meta.insert("llama_version".into(), state.version.number.into());
    content.meta.insert("n_tokens_listed".into(), state.n_tokens.into());
    if let Some(arch) = &state.arch {
        content.meta.insert("arch".into(), arch.clone().into());
    }
}

fn stream(
    cache: &Cache,
    rows: &Rows,
    (part, layer, kind): (u32, u32, Kind),
    file: usize,
    known: &Known,
    rotation: Rotation,
    content: &mut Content,
) -> Result<DumpStream> {
    let (n_kv_heads, head_dim) = content.split_row(rows.width, known, kind)?;
    let n_tokens = cache.positions.len();
    let shape = KvShape { dtype: rows.dtype, n_tokens, n_kv_heads, head_dim };
    let strides = if rows.transposed {
        KvStrides { token: 1, head: head_dim.saturating_mul(n_tokens), dim: n_tokens }
    } else {
        KvStrides::token_major(&shape)
    };
    let hadamard = match cache.rotation {
        Some(sizes) => {
            let size = sizes[usize::from(kind == Kind::V)];
            ensure!(
                size == 0 || head_dim.is_multiple_of(size as usize),
                "rows of {head_dim} elements cannot be rotated by a matrix of {size}"
            );
            size
        }
        None if rows.dtype.is_plain() || rotation == Rotation::None => 0,
        None if !content.heads_known => {
            content.rotation_known = false;
            content.assume(
                "this version of llama.cpp's files does not say whether quantized rows are rotated, and without \
                 --head-dim the usual rotation is unknown too"
                    .into(),
            );
            0
        }
        None => {
            let size = default_rotation(kind, head_dim);
            if size != 0 {
                content.assume(
                    "quantized rows are taken to be rotated as llama.cpp does by default; this version of its files \
                     does not say"
                        .into(),
                );
            }
            size
        }
    };
    Ok(DumpStream {
        part,
        layer,
        kind,
        shape,
        file,
        offset: usize::try_from(rows.offset)?,
        strides,
        hadamard,
        positions: Some(cache.positions.clone()),
        sequences: cache.sequences.clone(),
    })
}

/// The rotation that llama.cpp applies to quantized caches: keys by the largest power of two that divides the head
/// size, values by 64, neither unless the head size is a multiple of 64.
pub(crate) fn default_rotation(kind: Kind, head_dim: usize) -> u32 {
    if head_dim == 0 || !head_dim.is_multiple_of(64) {
        0
    } else if kind == Kind::V {
        64
    } else {
        1u32.checked_shl(head_dim.trailing_zeros()).unwrap_or(0)
    }
}
