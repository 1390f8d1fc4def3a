//! `lossless`: byte planes through the caller's [`ByteCoder`]; exact for every bit pattern, NaN payloads included.
//!
//! ```text
//! tile  = the planes, lowest byte first: 4 for 4-byte elements, 2 for 2-byte elements, else 1 (whole rows)
//! plane = u8 mode, u32 LE length, that many bytes
//! mode  = 0 the plane's own bytes | 1 coded | 2 a base byte for each channel, then coded: the plane less its bases
//! ```
//!
//! Nearly all redundancy of keys and values is in signs and exponents, the highest plane; mantissas are noise. A
//! channel's exponents stay close to each other from token to token while channels differ, so each channel's typical
//! byte is subtracted (modulo 256) from the highest plane before it is coded. On real f16 keys that takes the ratio from
//! 1.17 to 1.20, where transposing the plane gains next to nothing and sixfold more time in the coder 0.01. The low planes
//! are offered to the coder too, unless a sample of them looks like noise: it finds repeated rows (the values of a first
//! layer depend on the token alone, so repeated tokens repeat whole rows) and mantissas that a narrower type left zero.
//!
//! Limit: the coder's entropy stage on half the bytes of an f16 tile; splitting and merging run at the speed of copying.

use super::buffers::{count_rows, lent};
use super::{ByteCoder, CodecError, TileCodec, Workspace, WorkspaceSize};
use crate::cpu::{self, Level};
use crate::kernels::planes;
use crate::num::DType;

const RAW: u8 = 0;
const CODED: u8 = 1;
const CODED_LESS_BASES: u8 = 2;

/// Mode and length in front of a plane.
const HEAD: usize = 5;
const MAX_PLANES: usize = 4;

/// Fewer rows than this do not repay a base for each channel.
const MIN_ROWS_FOR_BASES: usize = 32;

/// Planes shorter than this are offered to the coder without a look.
const MIN_SAMPLED: usize = 4096;
const SAMPLE: usize = 1024;
/// Bytes of a sample that lie side by side.
const SAMPLE_PIECE: usize = 64;

/// Whether no coder can gain from a plane with rows of `row` bytes: its bytes are as evenly spread as a sample can
/// tell, and no two rows begin alike.
///
/// Of `SAMPLE` even bytes, the squares of the 256 counts add up to 5120 on average with a deviation of 90. A plane that
/// could be coded in 1.6 % less, the least that zstd makes of one, has about 5800.
fn is_noise(plane: &[u8], row: usize) -> bool {
    const HEAD: usize = 8;
    const SLOTS: usize = 1024;
    const EVEN: usize = SAMPLE + SAMPLE * SAMPLE / 256 + 4 * 90;
    if plane.len() < MIN_SAMPLED || row < HEAD {
        return false;
    }
    let mut counts = [0_u16; 256];
    let step = (plane.len() - SAMPLE_PIECE) / (SAMPLE / SAMPLE_PIECE - 1);
    for piece in 0..SAMPLE / SAMPLE_PIECE {
        plane[piece * step..][..SAMPLE_PIECE].iter().for_each(|b| counts[usize::from(*b)] += 1);
    }
    if counts.iter().map(|&n| usize::from(n) * usize::from(n)).sum::<usize>() > EVEN {
        return false;
    }
    // A later row takes the slot: repetitions are near each other or many. 0 is no row's head here.
    let mut slots = [0_u64; SLOTS];
    plane.chunks_exact(row).filter_map(|row| row.first_chunk::<HEAD>()).all(|head| {
        let head = u64::from_le_bytes(*head);
        let slot = &mut slots[(head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize];
        core::mem::replace(slot, head) != head
    })
}

/// Byte planes of rows of one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lossless {
    row_bytes: usize,
    n_planes: usize,
    /// Channels of the highest plane, or 0 for block types, whose bytes have none.
    channels: usize,
}

impl Lossless {
    pub(super) fn new(head_dim: usize, dtype: DType) -> Result<Self, CodecError> {
        let row_bytes = dtype.bytes_for(head_dim).filter(|n| *n > 0);
        let row_bytes = row_bytes.ok_or(CodecError::Unsupported { why: "a row holds whole blocks" })?;
        let (n_planes, channels) = if dtype.is_plain() { (dtype.block_bytes(), head_dim) } else { (1, 0) };
        Ok(Self { row_bytes, n_planes, channels })
    }

    /// Whether the highest plane of so many rows is coded less its channels' bases.
    const fn takes_bases(&self, n_rows: usize) -> bool {
        self.channels > 0 && n_rows >= MIN_ROWS_FOR_BASES
    }

    fn split(&self, level: Level, rows: &[u8], split: &mut [u8]) {
        let len = rows.len() / self.n_planes;
        match self.n_planes {
            2 => planes::split(level, rows, cut::<2>(split, len)),
            4 => planes::split(level, rows, cut::<4>(split, len)),
            _ => split.copy_from_slice(rows),
        }
    }
}

/// Writes one plane and its head to `out`, coded if that is shorter; the bytes written. With `channels` the plane is
/// coded less their bases, and is overwritten.
fn encode_plane(
    level: Level,
    plane: &mut [u8],
    channels: usize,
    coder: &mut dyn ByteCoder,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    let (head, body) = lent(out, HEAD + plane.len())?.split_at_mut(HEAD);
    let (bases, coded) = body.split_at_mut(channels);
    if channels > 0 {
        planes::column_bases(level, plane, bases);
        planes::subtract_columns(plane, bases);
    }
    let coded = coder.compress(plane, coded).filter(|n| channels + n < plane.len());
    let Some(n) = coded else {
        if channels > 0 {
            planes::add_columns(plane, bases);
        }
        return store_plane(plane, out);
    };
    put_head(head, if channels > 0 { CODED_LESS_BASES } else { CODED }, channels + n)?;
    Ok(HEAD + channels + n)
}

/// Writes one plane and its head to `out` as it is; the bytes written.
fn store_plane(plane: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
    let (head, body) = lent(out, HEAD + plane.len())?.split_at_mut(HEAD);
    body.copy_from_slice(plane);
    put_head(head, RAW, plane.len())?;
    Ok(HEAD + plane.len())
}

fn put_head(head: &mut [u8], mode: u8, len: usize) -> Result<(), CodecError> {
    let too_long = CodecError::Unsupported { why: "a tile's plane is longer than 4 GiB" };
    head[0] = mode;
    head[1..].copy_from_slice(&u32::try_from(len).map_err(|_| too_long)?.to_le_bytes());
    Ok(())
}

impl TileCodec for Lossless {
    fn bound(&self, n_rows: usize) -> usize {
        if n_rows == 0 { 0 } else { self.n_planes * HEAD + n_rows * self.row_bytes }
    }

    fn least(&self, n_rows: usize) -> usize {
        if n_rows == 0 { 0 } else { self.n_planes * HEAD }
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        WorkspaceSize { floats: 0, bytes: n_rows * self.row_bytes }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        self.encode_at(cpu::level(), rows, out, ws)
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        self.decode_at(cpu::level(), code, rows, ws)
    }
}

impl Lossless {
    fn encode_at(
        &self,
        level: Level,
        rows: &[u8],
        out: &mut [u8],
        ws: &mut Workspace<'_>,
    ) -> Result<usize, CodecError> {
        let n_rows = count_rows(rows.len(), self.row_bytes)?;
        let coder = ws.coder.as_deref_mut().ok_or(CodecError::NoByteCoder)?;
        if n_rows == 0 {
            return Ok(0);
        }
        let split = lent(ws.bytes, rows.len())?;
        self.split(level, rows, split);
        let mut written = 0;
        for p in 0..self.n_planes {
            let plane = &mut split[p * rows.len() / self.n_planes..(p + 1) * rows.len() / self.n_planes];
            let highest = p + 1 == self.n_planes;
            let channels = if highest && self.takes_bases(n_rows) { self.channels } else { 0 };
            if !highest && is_noise(plane, self.channels) {
                written += store_plane(plane, &mut out[written..])?;
                continue;
            }
            written += encode_plane(level, plane, channels, coder, &mut out[written..])?;
        }
        Ok(written)
    }

    fn decode_at(
        &self,
        level: Level,
        code: &[u8],
        rows: &mut [u8],
        ws: &mut Workspace<'_>,
    ) -> Result<(), CodecError> {
        let n_rows = count_rows(rows.len(), self.row_bytes)?;
        let coder = ws.coder.as_deref_mut().ok_or(CodecError::NoByteCoder)?;
        if n_rows == 0 && code.is_empty() {
            return Ok(());
        }
        let plane_len = rows.len() / self.n_planes;
        let mut split = lent(ws.bytes, rows.len())?.chunks_exact_mut(plane_len.max(1));
        let mut restored: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
        let mut rest = code;
        for (p, out) in restored[..self.n_planes].iter_mut().enumerate() {
            let channels = if p + 1 == self.n_planes && self.takes_bases(n_rows) { self.channels } else { 0 };
            let plane;
            (plane, rest) = take_plane(rest, plane_len, channels)?;
            // A raw plane is merged from where it lies.
            *out = match (plane.mode, split.next()) {
                (RAW, _) | (_, None) => plane.body,
                (_, Some(place)) => {
                    let (bases, coded) =
                        plane.body.split_at(if plane.mode == CODED_LESS_BASES { channels } else { 0 });
                    if !coder.decompress(coded, place) {
                        return Err(CodecError::Corrupt { what: "the byte coder refuses a plane" });
                    }
                    if !bases.is_empty() {
                        planes::add_columns(place, bases);
                    }
                    place
                }
            };
        }
        if !rest.is_empty() {
            return Err(CodecError::Corrupt { what: "bytes after the last plane" });
        }
        let [a, b, c, d] = restored;
        match self.n_planes {
            2 => planes::merge(level, [a, b], rows),
            4 => planes::merge(level, [a, b, c, d], rows),
            _ => rows.copy_from_slice(a),
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

/// The next plane of a tile and what follows it. Only a plane that may have bases for its `channels` has the mode.
fn take_plane(code: &[u8], plane_len: usize, channels: usize) -> Result<(Plane<'_>, &[u8]), CodecError> {
    let corrupt = |what| CodecError::Corrupt { what };
    let (head, rest) = code.split_first_chunk::<HEAD>().ok_or(corrupt("a plane's head is cut off"))?;
    let [mode, len @ ..] = *head;
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(|_| corrupt("a plane is too long"))?;
    let (body, rest) = rest.split_at_checked(len).ok_or(corrupt("a plane is cut off"))?;
    let fits = match mode {
        RAW => len == plane_len,
        CODED => len < plane_len,
        CODED_LESS_BASES => channels > 0 && (channels..plane_len).contains(&len),
        _ => return Err(corrupt("no such plane mode")),
    };
    if fits { Ok((Plane { mode, body }, rest)) } else { Err(corrupt("a plane's length does not fit")) }
}

/// `N` planes side by side.
fn cut<const N: usize>(mut planes: &mut [u8], plane_len: usize) -> [&mut [u8]; N] {
    core::array::from_fn(|_| planes.split_off_mut(..plane_len).unwrap_or_default())
}

#[cfg(test)]
mod tests;
