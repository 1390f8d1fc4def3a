//! Chunks: the tiles of all heads of a token range, one after another.
//!
//! ```text
//! chunk = u32 LE tile_len[n_kv_heads], then the tiles
//! tile  = the chunk's exact rows as in the source, in token order, then the coded part of the other rows
//! ```
//!
//! The low 31 bits of `tile_len` are the tile's bytes. Bit 31 says that the coded part is the rows' own bytes: the
//! codec refused them (NaN, infinities) or would have needed more.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::{CodecError, TileCodec, Workspace, WorkspaceSize};
use crate::cpu;
use crate::format::HeadStats;
use crate::kernels;
use crate::num::DType;
use crate::view::KvView;

#[cfg(test)]
mod tests;

/// Bit 31 of a tile's length: the coded part is raw.
const RAW_TILE: u32 = 1 << 31;
const LEN_BYTES: usize = 4;

/// Adds to `stats` rows that decode to `decoded`.
fn add_lossy(stats: &mut HeadStats, level: cpu::Level, dtype: DType, rows: &[u8], decoded: &[u8]) {
    let sums = kernels::stats::error_sums(level, dtype, rows, decoded);
    stats.sum_sq_error += sums.sum_sq_error;
    stats.sum_sq += sums.sum_sq;
    stats.max_abs_error = stats.max_abs_error.max(sums.max_abs_error);
}

/// Adds to `stats` rows that come back as they are.
fn add_exact(stats: &mut HeadStats, level: cpu::Level, dtype: DType, rows: &[u8]) {
    let sum_sq = kernels::stats::square_sum(level, dtype, rows);
    stats.sum_sq += if sum_sq.is_finite() { sum_sq } else { 0.0 };
}

/// The codecs of one stream's heads and the tokens that stay exact.
#[derive(Clone)]
pub struct StreamCodec {
    dtype: DType,
    head_dim: usize,
    row_bytes: usize,
    codecs: Vec<Arc<dyn TileCodec>>,
    exact: Vec<u32>,
}

/// Tokens of a chunk by treatment: the stream's exact tokens within it, and how many are coded.
struct Split<'a> {
    exact: &'a [u32],
    coded: usize,
}

impl StreamCodec {
    /// A stream with one codec for each head, in order of heads; heads may share codecs. `exact` are the indexes of
    /// tokens that are stored as they are, in any order.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] if rows of `head_dim` are not whole blocks of `dtype`.
    pub fn new(
        dtype: DType,
        head_dim: usize,
        codecs: Vec<Arc<dyn TileCodec>>,
        mut exact: Vec<u32>,
    ) -> Result<Self, CodecError> {
        let row_bytes = dtype.bytes_for(head_dim).ok_or(CodecError::Unsupported {
            why: "head_dim does not fill whole blocks of the element type",
        })?;
        exact.sort_unstable();
        exact.dedup();
        Ok(Self { dtype, head_dim, row_bytes, codecs, exact })
    }

    /// Heads of the stream.
    #[must_use]
    pub fn n_kv_heads(&self) -> usize {
        self.codecs.len()
    }

    /// Bytes of one head's row.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Indexes of the tokens that stay exact, rising.
    #[must_use]
    pub fn exact_tokens(&self) -> &[u32] {
        &self.exact
    }

    /// Most bytes that the chunk of `tokens` encodes to.
    #[must_use]
    pub fn bound(&self, tokens: Range<usize>) -> usize {
        let split = self.split(&tokens);
        let exact = split.exact.len() * self.row_bytes;
        let tile = |codec: &Arc<dyn TileCodec>| {
            exact + codec.bound(split.coded).max(split.coded * self.row_bytes) + LEN_BYTES
        };
        self.codecs.iter().map(tile).sum()
    }

    /// Scratch memory that encoding or decoding chunks of up to `n_tokens` tokens needs.
    #[must_use]
    pub fn workspace(&self, n_tokens: usize) -> WorkspaceSize {
        let most =
            self.codecs.iter().map(|c| c.workspace(n_tokens)).fold(WorkspaceSize::default(), |a, b| {
                WorkspaceSize { floats: a.floats.max(b.floats), bytes: a.bytes.max(b.bytes) }
            });
        // Rows gathered from a strided view, and rows decoded again to measure the error.
        WorkspaceSize { floats: most.floats, bytes: most.bytes + 2 * n_tokens * self.row_bytes }
    }

    /// Encodes the chunk of `tokens` and returns the count of bytes written. `stats`, if given, has one entry for each
    /// head and is added to; measuring decodes each tile once more unless its codec is exact.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] if `view` is of another shape or type than the stream or ends before `tokens`;
    /// [`CodecError::ShortBuffer`] if `out`, `ws` or `stats` is shorter than [`bound`](Self::bound),
    /// [`workspace`](Self::workspace) or the count of heads; what a codec reports other than `NonFinite`.
    pub fn encode(
        &self,
        view: &KvView<'_>,
        tokens: Range<usize>,
        out: &mut [u8],
        ws: &mut Workspace<'_>,
        mut stats: Option<&mut [HeadStats]>,
    ) -> Result<usize, CodecError> {
        let shape = view.shape();
        if (shape.dtype, shape.head_dim, shape.n_kv_heads) != (self.dtype, self.head_dim, self.n_kv_heads()) {
            return Err(CodecError::Unsupported {
                why: "the tensor has another shape or type than its stream",
            });
        }
        if tokens.start > tokens.end || tokens.end > shape.n_tokens {
            return Err(CodecError::Unsupported { why: "the chunk reaches past the tensor's last token" });
        }
        need(self.bound(tokens.clone()), out.len())?;
        if let Some(stats) = &stats {
            need(self.n_kv_heads(), stats.len())?;
        }
        let split = self.split(&tokens);
        let coded_bytes = split.coded * self.row_bytes;
        need(2 * coded_bytes, ws.bytes.len())?;
        let (gathered, rest) = ws.bytes.split_at_mut(coded_bytes);
        let (decoded, bytes) = rest.split_at_mut(coded_bytes);
        let mut ws = Workspace { floats: &mut *ws.floats, bytes, coder: reborrow(&mut ws.coder) };

        let (lens, mut tiles) = out.split_at_mut(self.n_kv_heads() * LEN_BYTES);
        let (lens, _) = lens.as_chunks_mut::<LEN_BYTES>();
        let mut written = lens.len() * LEN_BYTES;
        for (head, (codec, len)) in self.codecs.iter().zip(lens).enumerate() {
            let (exact, coded) = tiles.split_at_mut(split.exact.len() * self.row_bytes);
            self.copy_exact(view, head, split.exact, exact);
            let rows = self.coded_rows(view, head, &tokens, split.exact, gathered);
            let code_len = match codec.encode(rows, coded, &mut ws) {
                Ok(n) if n <= rows.len() => Some(n),
                Ok(_) | Err(CodecError::NonFinite { .. }) => None,
                Err(e) => return Err(e),
            };
            let n = code_len.unwrap_or(rows.len());
            if code_len.is_none() {
                coded[..n].copy_from_slice(rows);
            }
            if let Some(stats) = stats.as_deref_mut() {
                let stats = &mut stats[head];
                let level = cpu::level();
                stats.n_values += (tokens.len() * self.head_dim) as u64;
                stats.raw_tiles += u64::from(code_len.is_none());
                add_exact(stats, level, self.dtype, exact);
                if code_len.is_some() && !codec.is_exact() {
                    codec.decode(&coded[..n], decoded, &mut ws)?;
                    add_lossy(stats, level, self.dtype, rows, decoded);
                } else {
                    add_exact(stats, level, self.dtype, rows);
                }
            }
            let tile_len = exact.len() + n;
            let flag = if code_len.is_none() { RAW_TILE } else { 0 };
            *len = tile_len_field(tile_len, flag)?.to_le_bytes();
            written += tile_len;
            tiles = &mut tiles[tile_len..];
        }
        Ok(written)
    }

    /// Decodes the rows of `head` in the chunk of `tokens` into `rows`, in token order, exact ones included. Looks at
    /// the table of lengths and that head's tile only.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] if `chunk` is not what [`encode`](Self::encode) gives for `tokens`;
    /// [`CodecError::ShortBuffer`] if `rows` is not exactly `tokens.len()` rows or `ws` is too small.
    ///
    /// # Panics
    /// If `head` is out of range.
    pub fn decode_head(
        &self,
        chunk: &[u8],
        tokens: Range<usize>,
        head: usize,
        rows: &mut [u8],
        ws: &mut Workspace<'_>,
    ) -> Result<(), CodecError> {
        let codec = &self.codecs[head];
        let n_bytes = tokens.len() * self.row_bytes;
        if rows.len() != n_bytes {
            return Err(CodecError::ShortBuffer { needed: n_bytes, got: rows.len() });
        }
        let (tile, raw) = self.tile(chunk, head)?;
        let split = self.split(&tokens);
        let (exact, code) = tile
            .split_at_checked(split.exact.len() * self.row_bytes)
            .ok_or(CodecError::Corrupt { what: "a tile ends within its exact rows" })?;
        // The coded rows go to the end first. Moving them up to their places, first row first, overwrites none that
        // is still to move, since a row's place is never behind where it lies.
        let coded = &mut rows[exact.len()..];
        if !raw {
            codec.decode(code, coded, ws)?;
        } else if code.len() == coded.len() {
            coded.copy_from_slice(code);
        } else {
            return Err(CodecError::Corrupt { what: "a raw tile is not as long as its rows" });
        }
        let row = self.row_bytes;
        let mut from = exact.len();
        for_runs(&tokens, split.exact, |run| {
            let to = (run.start - tokens.start) * row;
            let len = run.len() * row;
            if from != to {
                rows.copy_within(from..from + len, to);
            }
            from += len;
        });
        for (i, token) in split.exact.iter().enumerate() {
            let to = (*token as usize - tokens.start) * row;
            rows[to..to + row].copy_from_slice(&exact[i * row..(i + 1) * row]);
        }
        Ok(())
    }

    /// Checks that `chunk` has as many bytes for `head` as the rows of `tokens` need, so that a reader may take memory for
    /// these rows. Cost: a look at the table of lengths.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] if no decoding of that tile can succeed.
    ///
    /// # Panics
    /// If `head` is out of range.
    pub fn check_head(&self, chunk: &[u8], tokens: Range<usize>, head: usize) -> Result<(), CodecError> {
        let codec = &self.codecs[head];
        let (tile, raw) = self.tile(chunk, head)?;
        let split = self.split(&tokens);
        let coded = tile.len().checked_sub(split.exact.len() * self.row_bytes);
        let fits = if raw {
            let len = split.coded * self.row_bytes;
            len..=len
        } else {
            codec.least(split.coded)..=codec.bound(split.coded)
        };
        match coded {
            Some(len) if fits.contains(&len) => Ok(()),
            _ => Err(CodecError::Corrupt { what: "a tile is not as long as its rows need" }),
        }
    }

    /// The bytes of a head's tile, and whether its coded part is raw.
    fn tile<'a>(&self, chunk: &'a [u8], head: usize) -> Result<(&'a [u8], bool), CodecError> {
        let (lens, tiles) = chunk
            .split_at_checked(self.n_kv_heads() * LEN_BYTES)
            .ok_or(CodecError::Corrupt { what: "a chunk ends within its table of lengths" })?;
        let (lens, _) = lens.as_chunks::<LEN_BYTES>();
        let len = |field: &[u8; LEN_BYTES]| u64::from(u32::from_le_bytes(*field) & !RAW_TILE);
        if lens.iter().map(len).sum::<u64>() != tiles.len() as u64 {
            return Err(CodecError::Corrupt { what: "the tiles' lengths do not add up to the chunk's" });
        }
        // Within `tiles` by the check above, so it fits a usize.
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let start = at(lens[..head].iter().map(len).sum());
        let tile = &tiles[start..start + at(len(&lens[head]))];
        Ok((tile, u32::from_le_bytes(lens[head]) & RAW_TILE != 0))
    }

    fn split(&self, tokens: &Range<usize>) -> Split<'_> {
        let from = self.exact.partition_point(|t| (*t as usize) < tokens.start);
        let to = self.exact.partition_point(|t| (*t as usize) < tokens.end);
        let exact = &self.exact[from..to.max(from)];
        Split { exact, coded: tokens.len() - exact.len() }
    }

    fn copy_exact(&self, view: &KvView<'_>, head: usize, exact: &[u32], out: &mut [u8]) {
        if self.row_bytes == 0 {
            return;
        }
        for (token, row) in exact.iter().zip(out.chunks_exact_mut(self.row_bytes)) {
            let token = *token as usize;
            view.copy_rows(head, token..token + 1, row);
        }
    }

    /// The rows that go through the codec: the view's own bytes where they lie side by side, else copied.
    fn coded_rows<'a>(
        &self,
        view: &KvView<'a>,
        head: usize,
        tokens: &Range<usize>,
        exact: &[u32],
        gathered: &'a mut [u8],
    ) -> &'a [u8] {
        let (mut n_runs, mut only) = (0, tokens.start..tokens.start);
        for_runs(tokens, exact, |run| (n_runs, only) = (n_runs + 1, run));
        if n_runs <= 1
            && let Some(rows) = view.contiguous_rows(head, only)
        {
            return rows;
        }
        let mut at = 0;
        for_runs(tokens, exact, |run| {
            let len = run.len() * self.row_bytes;
            view.copy_rows(head, run, &mut gathered[at..at + len]);
            at += len;
        });
        gathered
    }
}

/// The stretches of `tokens` between the exact ones, in order, empty ones left out.
fn for_runs(tokens: &Range<usize>, exact: &[u32], mut f: impl FnMut(Range<usize>)) {
    let mut start = tokens.start;
    for end in exact.iter().map(|t| *t as usize).chain([tokens.end]) {
        if start < end {
            f(start..end);
        }
        start = end + 1;
    }
}

fn need(needed: usize, got: usize) -> Result<(), CodecError> {
    if got < needed { Err(CodecError::ShortBuffer { needed, got }) } else { Ok(()) }
}

fn tile_len_field(len: usize, flag: u32) -> Result<u32, CodecError> {
    match u32::try_from(len) {
        Ok(n) if n < RAW_TILE => Ok(n | flag),
        _ => Err(CodecError::Unsupported {
            why: "a tile of 2 GiB or more does not fit a chunk: use fewer tokens",
        }),
    }
}

/// The same coder for a shorter time.
fn reborrow<'s>(coder: &'s mut Option<&mut dyn super::ByteCoder>) -> Option<&'s mut dyn super::ByteCoder> {
    match coder {
        Some(coder) => Some(&mut **coder),
        None => None,
    }
}
