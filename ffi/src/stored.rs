//! Codecs out of a container's tables.

use std::sync::Arc;

use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, CodecSpec, Side, TileCodec};
use tersa_core::format::{Head, ReadAt, Reader};

use crate::status::{Failure, fail};
use crate::tensor::Rows;

/// A stream's codecs as they were stored.
pub(crate) struct StoredStream {
    /// For each head, its specification.
    pub(crate) specs: Vec<CodecSpec>,
    /// For each head.
    pub(crate) sides: Vec<Arc<Side>>,
    pub(crate) codec: StreamCodec,
}

/// Heads with equal records share this.
type Made = (CodecSpec, Arc<Side>, Arc<dyn TileCodec>);

/// Reads the codecs of stream number `stream`.
pub(crate) fn open<R: ReadAt>(reader: &Reader<R>, stream: usize) -> Result<StoredStream, Failure>
where
    R::Error: Into<Failure>,
{
    let shape = reader.streams()[stream].shape;
    let mut made: Vec<(Head, Made)> = Vec::new();
    let (mut specs, mut sides, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
    for head in reader.heads(stream)? {
        let known = made.iter().position(|m| m.0 == head);
        let at = match known {
            Some(at) => at,
            None => {
                let name = &reader.codecs()[head.codec as usize];
                let Ok(spec) = name.parse::<CodecSpec>() else {
                    return fail!(
                        TERSA_ERR_VERSION,
                        "stream {stream} is coded by `{name}`, which is not known here"
                    );
                };
                let side = Side::from_stored(reader.side(&head)?, spec, shape.head_dim)?;
                let tile = match codec::prepare(spec, shape.head_dim, shape.dtype, &side) {
                    Ok(tile) => tile.into(),
                    Err(e) => return fail!(TERSA_ERR_CORRUPT, "stream {stream}, codec `{name}`: {e}"),
                };
                made.push((head, (spec, Arc::new(side), tile)));
                made.len() - 1
            }
        };
        let (spec, side, tile) = &made[at].1;
        specs.push(*spec);
        sides.push(side.clone());
        tiles.push(tile.clone());
    }
    let codec = StreamCodec::new(shape.dtype, shape.head_dim, tiles, reader.exact(stream)?)?;
    Ok(StoredStream { specs, sides, codec })
}

/// The rows of a stream.
pub(crate) fn rows<R: ReadAt>(reader: &Reader<R>, stream: usize) -> Rows {
    let shape = reader.streams()[stream].shape;
    Rows { dtype: shape.dtype, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim }
}
