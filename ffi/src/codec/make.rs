//! Making a codec: rotations and grids, or codebooks trained on a sample.

use std::sync::Arc;

use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, CodecSpec, KvSpec, Quantizer, Side, TileCodec};
use tersa_core::num::convert;

use super::{Codec, KindCodec, saved, shared_by_heads, tersa_codec_params};
use crate::status::{Failure, fail};
use crate::tensor::{Places, Rows, tersa_kv};

/// Rows for each centroid that a codebook is trained on, as the command line does.
const TRAINING_ROWS: usize = 64;

/// # Safety
/// The samples are NULL or live structs whose elements can be read.
pub(super) unsafe fn codec(
    spec: KvSpec,
    params: &tersa_codec_params,
    sample_k: *const tersa_kv,
    sample_v: *const tersa_kv,
) -> Result<Codec, Failure> {
    let n_layers = params.n_layers as usize;
    if !(1..=1 << 16).contains(&n_layers) || !(1..=1 << 20).contains(&params.chunk_tokens) {
        return fail!(
            TERSA_ERR_ARGUMENT,
            "{n_layers} layers in chunks of {} tokens: 1 to 65536 layers, 1 to 2^20 tokens",
            params.chunk_tokens
        );
    }
    let rows_k = Rows::new(params.dtype_k, params.n_kv_heads, params.head_dim_k)?;
    // SAFETY: the caller's promise.
    let mut kinds = vec![unsafe { kind(spec.k, rows_k, n_layers, params.seed, sample_k, "sample_k")? }];
    if params.head_dim_v != 0 {
        let rows_v = Rows::new(params.dtype_v, params.n_kv_heads, params.head_dim_v)?;
        // SAFETY: the caller's promise.
        kinds.push(unsafe { kind(spec.v, rows_v, n_layers, params.seed, sample_v, "sample_v")? });
    }
    finish(spec, n_layers, params.chunk_tokens as usize, kinds)
}

/// Puts the parts together and works out the fingerprint.
pub(super) fn finish(
    spec: KvSpec,
    n_layers: usize,
    chunk_tokens: usize,
    kinds: Vec<KindCodec>,
) -> Result<Codec, Failure> {
    for kind in &kinds {
        let bytes = (kind.rows.row_bytes() * kind.rows.n_kv_heads).saturating_mul(chunk_tokens);
        if bytes > 1 << 30 {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "a chunk of {chunk_tokens} tokens has {bytes} bytes, at most 2^30 are allowed"
            );
        }
    }
    let mut codec = Codec { spec, n_layers, chunk_tokens, kinds, fingerprint: 0 };
    codec.fingerprint = saved::fingerprint(&codec)?;
    Ok(codec)
}

/// # Safety
/// `sample` is NULL or a live struct whose elements can be read.
unsafe fn kind(
    spec: CodecSpec,
    rows: Rows,
    n_layers: usize,
    seed: u64,
    sample: *const tersa_kv,
    what: &str,
) -> Result<KindCodec, Failure> {
    let Quantizer::Pq { nbits, .. } = spec.quantizer else {
        let (side, tile) = ready(spec, rows, seed, None)?;
        let streams = vec![shared_by_heads(rows, &tile)?];
        return Ok(KindCodec { rows, streams, sides: vec![vec![side]] });
    };
    if sample.is_null() {
        return fail!(TERSA_ERR_NULL, "{spec} learns from a sample, and {what} is NULL");
    }
    // SAFETY: the caller's promise.
    let places = unsafe { Places::new(sample, rows, n_layers, what)? };
    if places.n_tokens() == 0 {
        return fail!(TERSA_ERR_ARGUMENT, "{what} has no tokens to learn from");
    }
    let n = places.n_tokens().min(TRAINING_ROWS << nbits);
    let mut row = vec![0; rows.row_bytes()];
    let mut floats = vec![0.0; n * rows.head_dim];
    let (mut streams, mut sides) = (Vec::new(), Vec::new());
    for layer in 0..n_layers {
        let (mut tiles, mut of_heads): (Vec<Arc<dyn TileCodec>>, _) = (Vec::new(), Vec::new());
        for head in 0..rows.n_kv_heads {
            for (i, out) in floats.chunks_exact_mut(rows.head_dim).enumerate() {
                let token = i * places.n_tokens() / n;
                // SAFETY: the caller's promise.
                unsafe { places.gather(layer, head, token..token + 1, &mut row) };
                if let Err(e) = convert::to_f32(rows.dtype, &row, out) {
                    return fail!(TERSA_ERR_UNSUPPORTED, "{what}: {e}");
                }
            }
            let (side, tile) = ready(spec, rows, seed, Some(&floats))?;
            tiles.push(tile);
            of_heads.push(side);
        }
        streams.push(StreamCodec::new(rows.dtype, rows.head_dim, tiles, Vec::new())?);
        sides.push(of_heads);
    }
    Ok(KindCodec { rows, streams, sides })
}

/// The codec of `spec` for one head.
pub(crate) fn ready(
    spec: CodecSpec,
    rows: Rows,
    seed: u64,
    training: Option<&[f32]>,
) -> Result<(Arc<Side>, Arc<dyn TileCodec>), Failure> {
    let side = Side::make(spec, rows.head_dim, seed, training)?;
    let tile = codec::prepare(spec, rows.head_dim, rows.dtype, &side)?;
    Ok((Arc::new(side), tile.into()))
}
