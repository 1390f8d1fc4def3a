//! From a container to files: workers decode chunks and write rows where the layout wants them.

use std::fs::File;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use tersa_core::format::{ReadAt, VERBATIM_BLOCK};
use tersa_core::num::{DType, convert};
use tersa_core::rotate::hadamard_blocks;
use tersa_core::view::{KvShape, KvStrides};

use crate::archive::{Archive, Gaps, OpenStream, Pick};
use crate::coding::Scratch;
use crate::dump::layout::{Layout, Placement};
use crate::exit::Fault;
use crate::files::{Writeback, write_all_at};
use crate::pipeline::ordered;
use crate::progress::Progress;

/// Streams are opened in groups of this many, so that their tables and codebooks fit into memory.
const GROUP: usize = 64;
/// Bytes of rows that a thread decodes at a time: large pieces are written at less cost than small ones.
const RUN_BYTES: usize = 1 << 20;

/// A thread's buffers.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    payload: Vec<u8>,
    rows: Vec<u8>,
    values: Vec<f32>,
    converted: Vec<u8>,
    woven: Vec<u8>,
}

/// Decodes `picks` into `files` as `layout` says, whose skeleton had the streams in the order of `picks`.
/// Every chunk's checksum is verified on the way.
///
/// # Errors
/// If a chunk is damaged or a file cannot be written.
pub fn write_streams<R>(
    archive: &Archive<R>,
    picks: &[Pick],
    layout: &Layout,
    files: &[&File],
    writeback: &mut Writeback<'_>,
    jobs: usize,
    progress: &mut Progress,
) -> Result<()>
where
    R: ReadAt + Sync,
    R::Error: std::error::Error + Send + Sync + 'static,
{
    for group in layout.placements.chunks(GROUP) {
        let streams: Vec<OpenStream> =
            group.iter().map(|p| archive.open_stream(picks[p.stream].clone())).collect::<Result<_>>()?;
        let items: Vec<(usize, Range<usize>)> = streams
            .iter()
            .enumerate()
            .flat_map(|(s, stream)| runs(stream, jobs).map(move |chunks| (s, chunks)))
            .collect();
        let decode = |buffers: &mut Buffers, item: usize, bytes: &mut u64| {
            let (s, chunks) = &items[item];
            let (stream, place) = (&streams[*s], &group[*s]);
            *bytes = chunks_to_file(archive, stream, chunks.clone(), place, files[place.file], buffers)?;
            Ok(())
        };
        ordered(jobs, items.len(), 4 * jobs, Buffers::default, decode, |_, bytes| {
            progress.add(*bytes);
            Ok(writeback.wrote(*bytes)?)
        })?;
    }
    Ok(())
}

/// The chunks that hold the tokens asked for, in runs of about [`RUN_BYTES`], at least one for each thread where
/// there are as many.
fn runs(stream: &OpenStream, jobs: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let chunks = stream.index.covering(stream.pick.tokens.clone());
    let tokens = chunks.clone().next().map_or(0, |first| stream.index.tokens(first).len());
    let bytes = tokens * stream.shape.row_bytes() * stream.pick.heads.len();
    let run = (RUN_BYTES / bytes.max(1)).clamp(1, chunks.len().div_ceil(jobs).max(1));
    chunks.clone().step_by(run).map(move |first| first..chunks.end.min(first + run))
}

/// Decodes consecutive chunks and writes the rows asked for; returns their bytes.
fn chunks_to_file<R>(
    archive: &Archive<R>,
    stream: &OpenStream,
    chunks: Range<usize>,
    place: &Placement,
    file: &File,
    buffers: &mut Buffers,
) -> Result<u64>
where
    R: ReadAt,
    R::Error: std::error::Error + Send + Sync + 'static,
{
    let Buffers { scratch, payload, rows, values, converted, woven } = buffers;
    let held = archive.decode_chunks(stream, chunks, payload, rows, scratch)?;
    let wanted = held.start.max(stream.pick.tokens.start)..held.end.min(stream.pick.tokens.end);
    let shape = stream.shape;
    let rows: &[u8] = if place.dtype == shape.dtype && place.unrotate == 0 {
        rows
    } else {
        convert_rows(&shape, place, rows, values, converted).with_context(|| archive.name().to_owned())?;
        converted
    };
    let block = Block {
        dtype: place.dtype,
        n_heads: stream.pick.heads.len(),
        head_dim: shape.head_dim,
        held: held.len(),
        skip: wanted.start - held.start,
        n: wanted.len(),
    };
    let first = wanted.start - stream.pick.tokens.start;
    block.write(rows, first, place.offset, &place.strides, file, woven)?;
    Ok((block.n * block.n_heads * block.row_bytes()) as u64)
}

/// Rows in another element type, unrotated if the layout says so.
fn convert_rows(
    shape: &KvShape,
    place: &Placement,
    rows: &[u8],
    values: &mut Vec<f32>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let n = rows.len() / shape.row_bytes() * shape.head_dim;
    let Some(out_len) = place.dtype.bytes_for(n) else {
        bail!("rows of {} values cannot be written as {}", shape.head_dim, place.dtype)
    };
    values.resize(n, 0.0);
    out.resize(out_len, 0);
    convert::to_f32(shape.dtype, rows, values)?;
    if place.unrotate != 0 {
        let size = place.unrotate as usize;
        if !size.is_power_of_two() || !shape.head_dim.is_multiple_of(size) {
            return Err(Fault::damage(format!(
                "rows of {} values cannot have been rotated by blocks of {size}",
                shape.head_dim
            )));
        }
        hadamard_blocks(values, size);
    }
    convert::from_f32(place.dtype, values, out)?;
    Ok(())
}

/// Rows of chunks in memory: `[n_heads][held][row]`, of which `n` tokens from `skip` on are wanted.
struct Block {
    dtype: DType,
    n_heads: usize,
    head_dim: usize,
    held: usize,
    skip: usize,
    n: usize,
}

impl Block {
    fn row_bytes(&self) -> usize {
        self.head_dim / self.dtype.block_len() * self.dtype.block_bytes()
    }

    fn rows<'a>(&self, rows: &'a [u8], head: usize) -> &'a [u8] {
        let start = (head * self.held + self.skip) * self.row_bytes();
        &rows[start..start + self.n * self.row_bytes()]
    }

    /// Writes the wanted rows, the first of which is token `first` of a tensor at `offset`, in as few pieces as its
    /// strides allow.
    fn write(
        &self,
        rows: &[u8],
        first: usize,
        offset: u64,
        strides: &KvStrides,
        file: &File,
        woven: &mut Vec<u8>,
    ) -> Result<()> {
        let (row, bytes) = (self.row_bytes(), self.dtype.block_bytes());
        if self.n == 0 || row == 0 {
            return Ok(());
        }
        let at = |token: usize, head: usize, dim: usize| {
            let elements = (first + token) * strides.token + head * strides.head + dim * strides.dim;
            offset + (elements / self.dtype.block_len() * bytes) as u64
        };
        if strides.dim == 1 && strides.token == self.head_dim {
            for head in 0..self.n_heads {
                write_all_at(file, at(0, head, 0), self.rows(rows, head))?;
            }
        } else if strides.dim == 1 && strides.head == self.head_dim {
            // All heads of a token side by side, and often all tokens too.
            woven.resize(self.n * self.n_heads * row, 0);
            for head in 0..self.n_heads {
                let rows = self.rows(rows, head).chunks_exact(row);
                for (out, row_in) in woven.chunks_exact_mut(self.n_heads * row).zip(rows) {
                    out[head * row..(head + 1) * row].copy_from_slice(row_in);
                }
            }
            if strides.token == self.n_heads * self.head_dim {
                write_all_at(file, at(0, 0, 0), woven)?;
            } else {
                for (token, all_heads) in woven.chunks_exact(self.n_heads * row).enumerate() {
                    write_all_at(file, at(token, 0, 0), all_heads)?;
                }
            }
        } else if strides.dim == 1 {
            for head in 0..self.n_heads {
                for (token, row) in self.rows(rows, head).chunks_exact(row).enumerate() {
                    write_all_at(file, at(token, head, 0), row)?;
                }
            }
        } else {
            // Transposed: a channel's tokens are neighbours, or nothing is.
            woven.resize(self.n * bytes, 0);
            for head in 0..self.n_heads {
                let rows = self.rows(rows, head);
                for dim in 0..self.head_dim {
                    for (out, row) in woven.chunks_exact_mut(bytes).zip(rows.chunks_exact(row)) {
                        out.copy_from_slice(&row[dim * bytes..(dim + 1) * bytes]);
                    }
                    if strides.token == 1 {
                        write_all_at(file, at(0, head, dim), woven)?;
                        continue;
                    }
                    for (token, element) in woven.chunks_exact(bytes).enumerate() {
                        write_all_at(file, at(token, head, dim), element)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes the source's bytes outside its tensors back into `files`.
///
/// # Errors
/// If a block is damaged or a file cannot be written.
pub fn write_verbatim<R>(
    archive: &Archive<R>,
    files: &[&File],
    jobs: usize,
    progress: &mut Progress,
) -> Result<()>
where
    R: ReadAt + Sync,
    R::Error: std::error::Error + Send + Sync + 'static,
{
    let Some(source) = archive.reader.source().map_err(|e| archive.explain(e))? else { return Ok(()) };
    let blocks = archive.reader.verbatim().map_err(|e| archive.explain(e))?;
    let held: u64 = blocks.iter().map(|b| u64::from(b.raw_len)).sum();
    let full =
        |b: &[_]| b.iter().all(|b: &tersa_core::format::VerbatimBlock| b.raw_len as usize == VERBATIM_BLOCK);
    if held != source.verbatim_len() || !full(&blocks[..blocks.len().saturating_sub(1)]) {
        return Err(Fault::damage(format!(
            "{}: damaged: {held} bytes beside the tensors, {} expected",
            archive.name(),
            source.verbatim_len()
        )));
    }
    let gaps = Gaps::new(&source);
    let write = |scratch: &mut Scratch, block: usize, bytes: &mut u64| {
        let raw = archive.verbatim_block(&blocks, block, scratch)?;
        *bytes = raw.len() as u64;
        gaps.scatter((block * VERBATIM_BLOCK) as u64, &raw, |file, offset, piece| {
            Ok(write_all_at(files[file], offset, piece)?)
        })
    };
    ordered(jobs, blocks.len(), 4 * jobs, Scratch::new, write, |_, bytes| {
        progress.add(*bytes);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::read_exact_at;

    /// Element (token, head, dim) is a byte of its own.
    #[allow(clippy::cast_possible_truncation, reason = "below 64")]
    const fn element(token: usize, head: usize, dim: usize) -> u8 {
        (token * 6 + head * 3 + dim) as u8
    }

    #[test]
    fn every_layout_puts_every_element_in_its_place() {
        let (n_heads, head_dim, held) = (2, 3, 5);
        let rows: Vec<u8> = (0..n_heads)
            .flat_map(|h| (0..held).flat_map(move |t| (0..head_dim).map(move |d| element(t, h, d))))
            .collect();
        // Tokens 1..4 of the chunk become tokens 2..5 of a tensor of 6 tokens.
        let block = Block { dtype: DType::F8E4m3, n_heads, head_dim, held, skip: 1, n: 3 };
        let strides = |token, head, dim| KvStrides { token, head, dim };
        for s in [
            strides(6, 3, 1),   // token-major
            strides(3, 18, 1),  // head-major
            strides(12, 3, 1),  // heads side by side, tokens apart
            strides(12, 6, 1),  // keys and values alternate head by head
            strides(1, 18, 6),  // transposed
            strides(2, 40, 13), // nothing is next to anything
        ] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(256).unwrap();
            block.write(&rows, 2, 7, &s, &file, &mut Vec::new()).unwrap();
            let mut got = vec![0; 256];
            read_exact_at(&file, 0, &mut got).unwrap();
            let mut expected = vec![0; 256];
            for (t, h, d) in (0..3 * 6).map(|i| (i / 6, i / 3 % 2, i % 3)) {
                expected[7 + (2 + t) * s.token + h * s.head + d * s.dim] = element(1 + t, h, d);
            }
            assert_eq!(got, expected, "{s:?}");
        }
    }
}
