//! Codecs at work on streams: their side data, scratch memory, and which tokens stay exact.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, CodecSpec, Quantizer, Side, TileCodec, Workspace, WorkspaceSize};
use tersa_core::format::HeadStats;
use tersa_core::num::{DType, convert};
use tersa_core::view::KvShape;

use crate::args::kind_letter;
use crate::dump::DumpStream;
use crate::exit::Fault;
use crate::select::Part;
use crate::zstd_coder::ZstdCoder;

/// Seed of the rotations' signs and of training. One for all files: equal input gives equal output.
const SEED: u64 = 0x7465_7273_6120_3031;
/// Rows for each centroid that a codebook is trained on; past this the centroids move by less than the codes' error.
const TRAINING_ROWS: usize = 64;

/// Bytes of a tile's length in a chunk's table.
const LEN_BYTES: usize = 4;

/// A thread's memory for coding, grown to the largest need and used again.
pub struct Scratch {
    floats: Vec<f32>,
    bytes: Vec<u8>,
    coder: ZstdCoder,
}

impl Scratch {
    /// Nothing yet.
    ///
    /// # Panics
    /// If there is no memory for a coder.
    #[must_use]
    pub fn new() -> Self {
        Self { floats: Vec::new(), bytes: Vec::new(), coder: ZstdCoder::new() }
    }

    /// Memory of at least `size`.
    pub fn lend(&mut self, size: WorkspaceSize) -> Workspace<'_> {
        if self.floats.len() < size.floats {
            self.floats.resize(size.floats, 0.0);
        }
        if self.bytes.len() < size.bytes {
            self.bytes.resize(size.bytes, 0);
        }
        Workspace { floats: &mut self.floats, bytes: &mut self.bytes, coder: Some(&mut self.coder) }
    }

    /// The general-purpose coder.
    pub fn coder(&mut self) -> &mut ZstdCoder {
        &mut self.coder
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Tokens that stay exact whatever the codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// Positions below this.
    pub sinks: usize,
    /// As many of the last positions of each sequence.
    pub recent: usize,
}

impl Keep {
    /// The rows of `stream` to keep, rising. Sinks and recency are matters of position, not of row, and each sequence of
    /// a cache has its own recent tokens.
    #[must_use]
    pub fn rows(self, stream: &DumpStream) -> Vec<u32> {
        let n = i64::try_from(stream.shape.n_tokens).unwrap_or(i64::MAX);
        match &stream.positions {
            Some(positions) => self.by_position(stream, positions.iter().map(i64::from)),
            None => self.by_position(stream, 0..n),
        }
    }

    fn by_position(self, stream: &DumpStream, positions: impl Iterator<Item = i64> + Clone) -> Vec<u32> {
        let behind: Vec<Option<i64>> = match &stream.sequences {
            _ if self.recent == 0 => Vec::new(),
            Some(sequences) => sequences.behind_last(positions.clone()),
            None => {
                let last = positions.clone().max().unwrap_or(0);
                positions.clone().map(|p| Some(last - p)).collect()
            }
        };
        let below = |n: i64, limit: usize| u64::try_from(n).is_ok_and(|n| n < limit as u64);
        let recent = behind
            .into_iter()
            .chain(std::iter::repeat(None))
            .map(|n| n.is_some_and(|n| below(n, self.recent)));
        let kept = positions.zip(recent).map(|(p, recent)| below(p, self.sinks) || recent);
        (0..).zip(kept).filter(|(_, kept)| *kept).map(|(row, _)| row).collect()
    }
}

/// A codec and what it needs beside its name.
#[derive(Clone)]
pub struct Ready {
    /// The codec.
    pub codec: Arc<dyn TileCodec>,
    /// What a decoder must be given.
    pub side: Arc<Side>,
}

/// Codecs that serve every head of a shape alike, made once.
#[derive(Default)]
pub struct Shelf {
    ready: HashMap<(CodecSpec, usize, DType), Ready>,
}

impl Shelf {
    /// The codec of `spec` for the rows of `head` of `part`; trained on these rows if it is one that learns.
    ///
    /// # Errors
    /// If the codec cannot serve rows of that size and type.
    pub fn make(&mut self, spec: CodecSpec, part: &Part<'_>, head: usize) -> Result<Ready> {
        let KvShape { head_dim, dtype, .. } = part.stream.shape;
        if learns(spec) {
            return train(spec, part, head);
        }
        if let Some(ready) = self.ready.get(&(spec, head_dim, dtype)) {
            return Ok(ready.clone());
        }
        let ready = ready(spec, &part.stream, None)?;
        self.ready.insert((spec, head_dim, dtype), ready.clone());
        Ok(ready)
    }
}

/// Whether the codec has a codebook that depends on the data.
#[must_use]
pub fn learns(spec: CodecSpec) -> bool {
    matches!(spec.quantizer, Quantizer::Pq { .. })
}

/// The codec of `spec` for one head, its codebook trained on rows spread evenly over the stream.
///
/// # Errors
/// If the codec cannot serve rows of that size and type.
pub fn train(spec: CodecSpec, part: &Part<'_>, head: usize) -> Result<Ready> {
    let Quantizer::Pq { nbits, .. } = spec.quantizer else { return ready(spec, &part.stream, None) };
    let KvShape { head_dim, dtype, n_tokens, .. } = part.stream.shape;
    let n = n_tokens.min(TRAINING_ROWS << nbits);
    let mut row = vec![0; part.stream.shape.row_bytes()];
    let mut rows = vec![0.0; n * head_dim];
    for (i, out) in rows.chunks_exact_mut(head_dim).enumerate() {
        let token = i * n_tokens / n;
        part.copy_rows(head, token..token + 1, &mut row);
        convert::to_f32(dtype, &row, out)?;
    }
    ready(spec, &part.stream, Some(&rows))
}

fn ready(spec: CodecSpec, stream: &DumpStream, training: Option<&[f32]>) -> Result<Ready> {
    let KvShape { head_dim, dtype, .. } = stream.shape;
    let refused = |why: &dyn std::fmt::Display| {
        Fault::usage(format!(
            "layer {} {}: {spec} cannot code rows of {head_dim} x {dtype}: {why}",
            stream.layer,
            kind_letter(stream.kind)
        ))
    };
    let side = Side::make(spec, head_dim, SEED, training).map_err(|e| refused(&e))?;
    let codec = codec::prepare(spec, head_dim, dtype, &side).map_err(|e| refused(&e))?;
    Ok(Ready { codec: codec.into(), side: Arc::new(side) })
}

/// The codecs of a stream's views, see [`Part::views`]: together they encode its chunks.
pub struct PartCodec {
    codecs: Vec<StreamCodec>,
}

impl PartCodec {
    /// One codec for each head of `part`, and the rows that stay exact.
    ///
    /// # Errors
    /// If the rows are not whole blocks of their type.
    pub fn new(part: &Part<'_>, heads: &[Ready], exact: Vec<u32>) -> Result<Self> {
        let KvShape { head_dim, dtype, .. } = part.stream.shape;
        let make = |heads: &[Ready], exact: Vec<u32>| {
            StreamCodec::new(dtype, head_dim, heads.iter().map(|r| r.codec.clone()).collect(), exact)
        };
        let codecs = match part.views() {
            [_] => vec![make(heads, exact)?],
            _ => heads.chunks(1).map(|one| make(one, exact.clone())).collect::<Result<_, _>>()?,
        };
        Ok(Self { codecs })
    }

    /// Rows that stay exact.
    #[must_use]
    pub fn exact_tokens(&self) -> &[u32] {
        self.codecs.first().map_or(&[], StreamCodec::exact_tokens)
    }

    /// Most bytes that the chunk of `tokens` encodes to.
    #[must_use]
    pub fn bound(&self, tokens: Range<usize>) -> usize {
        self.codecs.iter().map(|c| c.bound(tokens.clone())).sum()
    }

    /// Encodes the chunk of `tokens` to the start of `out`, which must have room for [`bound`](Self::bound), and returns
    /// its length; adds to `stats`, one entry for each head.
    ///
    /// # Errors
    /// If a codec cannot represent the rows; lossy ones store such tiles exactly, so this is for other failures.
    pub fn encode(
        &self,
        part: &Part<'_>,
        tokens: Range<usize>,
        out: &mut [u8],
        scratch: &mut Scratch,
        stats: &mut [HeadStats],
    ) -> Result<usize> {
        let failed = |e| anyhow!("layer {} {}: {e}", part.stream.layer, kind_letter(part.stream.kind));
        if let ([view], [codec]) = (part.views(), &self.codecs[..]) {
            let mut ws = scratch.lend(codec.workspace(tokens.len()));
            return codec.encode(view, tokens, out, &mut ws, Some(stats)).map_err(failed);
        }
        // One chunk of one head after another: a length and a tile each, to be sorted into a table and the tiles.
        let (table, tiles) = out.split_at_mut(self.codecs.len() * LEN_BYTES);
        let mut one = Vec::new();
        let mut at = 0;
        for (i, (view, codec)) in part.views().iter().zip(&self.codecs).enumerate() {
            one.resize(codec.bound(tokens.clone()), 0);
            let mut ws = scratch.lend(codec.workspace(tokens.len()));
            let stats = std::slice::from_mut(&mut stats[i]);
            let n = codec.encode(view, tokens.clone(), &mut one, &mut ws, Some(stats)).map_err(failed)?;
            let (len, tile) = one[..n].split_at(LEN_BYTES);
            table[i * LEN_BYTES..(i + 1) * LEN_BYTES].copy_from_slice(len);
            tiles[at..at + tile.len()].copy_from_slice(tile);
            at += tile.len();
        }
        Ok(table.len() + at)
    }

    /// Decodes one head of a chunk into `rows`.
    ///
    /// # Errors
    /// If `chunk` is not what [`encode`](Self::encode) gave for `tokens`.
    pub fn decode_head(
        &self,
        chunk: &[u8],
        tokens: Range<usize>,
        head: usize,
        rows: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let [codec] = &self.codecs[..] else {
            return Err(anyhow!("heads at uneven distances are decoded from a file, not from memory"));
        };
        let mut ws = scratch.lend(codec.workspace(tokens.len()));
        Ok(codec.decode_head(chunk, tokens, head, rows, &mut ws)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::{Kind, Sequences};
    use tersa_core::view::KvStrides;

    fn stream(n_tokens: usize, positions: Option<&[i32]>) -> DumpStream {
        let shape = KvShape { dtype: DType::F16, n_tokens, n_kv_heads: 1, head_dim: 8 };
        DumpStream {
            part: 0,
            layer: 0,
            kind: Kind::K,
            shape,
            file: 0,
            offset: 0,
            strides: KvStrides::token_major(&shape),
            hadamard: 0,
            positions: positions.map(|p| p.iter().copied().collect()),
            sequences: None,
        }
    }

    #[test]
    fn sinks_and_recent_tokens_go_by_position() {
        let keep = Keep { sinks: 2, recent: 1 };
        assert_eq!(keep.rows(&stream(5, None)), [0, 1, 4]);
        assert_eq!(keep.rows(&stream(2, None)), [0, 1]);
        assert_eq!(keep.rows(&stream(0, None)), [0u32; 0]);
        // A ring buffer: row 2 holds position 0, row 1 the newest.
        assert_eq!(keep.rows(&stream(4, Some(&[8, 9, 0, 1]))), [1, 2, 3]);
        assert_eq!(Keep { sinks: 4, recent: 0 }.rows(&stream(3, Some(&[100, 101, 102]))), [0u32; 0]);
        assert_eq!(Keep { sinks: 9, recent: 9 }.rows(&stream(3, None)), [0, 1, 2]);
        // Rows 0 to 2 are a long sequence, rows 3 and 4 a short one.
        let two = DumpStream {
            sequences: Sequences::new(vec![1, 2, 3, 4, 5], vec![0, 0, 0, 1, 1]),
            ..stream(5, Some(&[7, 8, 9, 0, 1]))
        };
        assert_eq!(Keep { sinks: 0, recent: 1 }.rows(&two), [2, 4]);
        assert_eq!(Keep { sinks: 1, recent: 2 }.rows(&two), [1, 2, 3, 4]);
    }
}
