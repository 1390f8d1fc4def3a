//! `lossless`: byte planes, each as it is or through the caller's [`ByteCoder`]; exact for every bit pattern.
//!
//! ```text
//! tile  = the planes, lowest byte first: 4 for 4-byte elements, 2 for 2-byte elements, else 1 (whole rows)
//! plane = u8 mode, u32 LE length, that many bytes
//! mode  = 0 the plane's own bytes | 1 coded | 2 transposed to [byte of row][row], then coded
//! ```
//!
//! A float's low mantissa bytes are noise, so a plane without structure is not offered to the coder at all; the
//! plane of signs and exponents carries the gain. Where a channel keeps its sign and scale over tokens (keys after
//! the first layers) the transposed plane codes better. Both choices look at a fixed sample with integer arithmetic,
//! so that equal rows give equal bytes everywhere.
//!
//! Limit: half of an f16 tile goes through the coder, whose entropy stage is the cost; splitting and merging run at
//! the speed of copying.

use super::buffers::{count_rows, lent};
use super::{ByteCoder, CodecError, TileCodec, Workspace, WorkspaceSize};
use crate::cpu;
use crate::kernels::planes;
use crate::num::DType;

const RAW: u8 = 0;
const CODED: u8 = 1;
const CODED_TRANSPOSED: u8 = 2;

/// Mode and length in front of a plane.
const HEAD: usize = 5;
const MAX_PLANES: usize = 4;

/// Byte planes of rows of one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lossless {
    row_bytes: usize,
    n_planes: usize,
}

impl Lossless {
    pub(super) fn new(head_dim: usize, dtype: DType) -> Result<Self, CodecError> {
        let row_bytes = dtype.bytes_for(head_dim).filter(|n| *n > 0);
        let row_bytes = row_bytes.ok_or(CodecError::Unsupported { why: "a row holds whole blocks" })?;
        let n_planes = match dtype.block_bytes() {
            n @ (2 | 4) if dtype.is_plain() => n,
            _ => 1,
        };
        Ok(Self { row_bytes, n_planes })
    }

    /// Bytes of a row in one plane.
    const fn width(&self) -> usize {
        self.row_bytes / self.n_planes
    }

    /// Scratch for all planes and one transposed plane.
    const fn scratch_len(&self, rows_len: usize) -> usize {
        if self.n_planes == 1 { rows_len } else { rows_len + rows_len / self.n_planes }
    }

    /// Writes one plane and its head to `out`; the bytes written.
    fn encode_plane(
        &self,
        plane: &[u8],
        transposed: &mut [u8],
        coder: &mut dyn ByteCoder,
        out: &mut [u8],
    ) -> Result<usize, CodecError> {
        let (head, body) = lent(out, HEAD + plane.len())?.split_at_mut(HEAD);
        let (mode, len) = if is_noise(plane) {
            (RAW, None)
        } else if prefers_transposed(plane, self.width()) {
            planes::transpose(cpu::level(), plane, self.width(), transposed);
            (CODED_TRANSPOSED, coder.compress(transposed, body))
        } else {
            (CODED, coder.compress(plane, body))
        };
        let (mode, len) = match len {
            Some(len) if len < plane.len() => (mode, len),
            _ => {
                body.copy_from_slice(plane);
                (RAW, plane.len())
            }
        };
        let too_long = CodecError::Unsupported { why: "a tile's plane is longer than 4 GiB" };
        head[0] = mode;
        head[1..].copy_from_slice(&u32::try_from(len).map_err(|_| too_long)?.to_le_bytes());
        Ok(HEAD + len)
    }
}

impl TileCodec for Lossless {
    fn bound(&self, n_rows: usize) -> usize {
        self.n_planes * HEAD + n_rows * self.row_bytes
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        WorkspaceSize { floats: 0, bytes: self.scratch_len(n_rows * self.row_bytes) }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        count_rows(rows.len(), self.row_bytes)?;
        let coder = ws.coder.as_deref_mut().ok_or(CodecError::NoByteCoder)?;
        let scratch = lent(ws.bytes, self.scratch_len(rows.len()))?;
        let plane_len = rows.len() / self.n_planes;
        let (transposed, split) = scratch.split_at_mut(plane_len);
        match self.n_planes {
            2 => planes::split(cpu::level(), rows, cut::<2>(split, plane_len)),
            4 => planes::split(cpu::level(), rows, cut::<4>(split, plane_len)),
            _ => {}
        }
        let all: &[u8] = if self.n_planes == 1 { rows } else { split };
        let mut written = 0;
        for p in 0..self.n_planes {
            let plane = &all[p * plane_len..(p + 1) * plane_len];
            written += self.encode_plane(plane, transposed, coder, &mut out[written..])?;
        }
        Ok(written)
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        count_rows(rows.len(), self.row_bytes)?;
        let coder = ws.coder.as_deref_mut().ok_or(CodecError::NoByteCoder)?;
        let scratch = lent(ws.bytes, self.scratch_len(rows.len()))?;
        let plane_len = rows.len() / self.n_planes;
        let (coded_order, split) = scratch.split_at_mut(plane_len);
        if self.n_planes == 1 {
            let (plane, rest) = take_plane(code, plane_len)?;
            restore(plane, self.width(), coder, coded_order, rows)?;
            return end(rest);
        }
        let mut split = split.chunks_exact_mut(plane_len.max(1));
        let mut restored: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
        let mut rest = code;
        for out in &mut restored[..self.n_planes] {
            let plane;
            (plane, rest) = take_plane(rest, plane_len)?;
            // A raw plane is merged from where it lies.
            *out = match (plane.mode, split.next()) {
                (RAW, _) | (_, None) => plane.body,
                (_, Some(place)) => {
                    restore(plane, self.width(), coder, coded_order, place)?;
                    place
                }
            };
        }
        end(rest)?;
        let [a, b, c, d] = restored;
        match self.n_planes {
            2 => planes::merge(cpu::level(), [a, b], rows),
            _ => planes::merge(cpu::level(), [a, b, c, d], rows),
        }
        Ok(())
    }
}

/// A plane as it lies in a tile.
#[derive(Clone, Copy)]
struct Plane<'a> {
    mode: u8,
    body: &'a [u8],
}

/// The next plane of a tile and what follows it.
fn take_plane(code: &[u8], plane_len: usize) -> Result<(Plane<'_>, &[u8]), CodecError> {
    let corrupt = |what| CodecError::Corrupt { what };
    let (head, rest) = code.split_first_chunk::<HEAD>().ok_or(corrupt("a plane's head is cut off"))?;
    let [mode, len @ ..] = *head;
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(|_| corrupt("a plane is too long"))?;
    let (body, rest) = rest.split_at_checked(len).ok_or(corrupt("a plane is cut off"))?;
    let fits = match mode {
        RAW => len == plane_len,
        CODED | CODED_TRANSPOSED => len < plane_len,
        _ => return Err(corrupt("no such plane mode")),
    };
    if fits { Ok((Plane { mode, body }, rest)) } else { Err(corrupt("a plane's length does not fit")) }
}

/// Brings a plane back into `out`, through `coded_order` if it was transposed.
fn restore(
    plane: Plane<'_>,
    width: usize,
    coder: &mut dyn ByteCoder,
    coded_order: &mut [u8],
    out: &mut [u8],
) -> Result<(), CodecError> {
    let decoded = match plane.mode {
        RAW => {
            out.copy_from_slice(plane.body);
            true
        }
        CODED => coder.decompress(plane.body, out),
        _ => {
            let decoded = coder.decompress(plane.body, coded_order);
            planes::transpose(cpu::level(), coded_order, coded_order.len() / width, out);
            decoded
        }
    };
    if decoded { Ok(()) } else { Err(CodecError::Corrupt { what: "the byte coder refuses a plane" }) }
}

const fn end(rest: &[u8]) -> Result<(), CodecError> {
    if rest.is_empty() { Ok(()) } else { Err(CodecError::Corrupt { what: "bytes after the last plane" }) }
}

/// `N` planes side by side.
fn cut<const N: usize>(mut planes: &mut [u8], plane_len: usize) -> [&mut [u8]; N] {
    core::array::from_fn(|_| planes.split_off_mut(..plane_len).unwrap_or_default())
}

/// Bytes that `is_noise` counts, in runs spread over the plane.
const SAMPLE: usize = 4096;
const RUN: usize = 64;

/// Whether a sample of the plane looks like uniform random bytes, of which no coder gains anything.
///
/// Counts pairs of equal bytes: `sum c(c-1)` is `n(n-1)/256` on average for uniform bytes, with a standard deviation
/// of 0.6 % at 4096 bytes; every skew adds to it. A plane above 1.04 times that has at most 7.95 bits a byte by
/// collision entropy and is worth the coder.
fn is_noise(plane: &[u8]) -> bool {
    const TABLES: usize = 4;
    if plane.len() < SAMPLE / 4 {
        return false;
    }
    // Four tables, so that a run of equal bytes does not wait for one counter.
    let mut counts = [[0_u16; 256]; TABLES];
    let mut n: u64 = 0;
    let stride = (plane.len() / (SAMPLE / RUN)).max(RUN);
    for run in plane.chunks(stride) {
        let run = &run[..run.len().min(RUN)];
        for group in run.as_chunks::<TABLES>().0 {
            for (table, byte) in counts.iter_mut().zip(group) {
                table[usize::from(*byte)] += 1;
            }
        }
        n += (run.len() / TABLES * TABLES) as u64;
    }
    let pairs: u64 = (0..256)
        .map(|byte| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>())
        .map(|c| c * c.saturating_sub(1))
        .sum();
    pairs * 256 * 100 < n * (n - 1) * 104
}

/// Rows that `prefers_transposed` compares with their successors.
const COMPARED_ROWS: usize = 64;

/// Whether a byte resembles the same byte of the next row more often than its neighbour in the row.
fn prefers_transposed(plane: &[u8], width: usize) -> bool {
    let n_rows = plane.len() / width;
    if n_rows < 2 {
        return false;
    }
    let equal = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| u32::from(a == b)).sum::<u32>();
    let step = (n_rows - 1).div_ceil(COMPARED_ROWS);
    let (mut along_tokens, mut along_dims) = (0_u32, 0_u32);
    for pair in plane.windows(2 * width).step_by(step * width) {
        let (row, next) = pair.split_at(width);
        along_tokens += equal(row, next);
        along_dims += equal(row, &pair[1..]);
    }
    along_tokens > along_dims
}

#[cfg(test)]
mod tests;
