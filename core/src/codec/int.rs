//! `int{2,4,8}{c,t}{32,64,128}`: asymmetric integers with a minimum and a scale for each group, as KIVI (Liu et al.,
//! ICML 2024) stores keys (groups of consecutive tokens of one channel, `c`) and values (groups of consecutive
//! channels of one token, `t`).
//!
//! A group with minimum `lo` and maximum `hi` becomes codes `q = round((x - lo) / scale)` with
//! `scale = (hi - lo) / (2^bits - 1)`, and decodes to `lo + q * scale`.
//!
//! # Layout
//!
//! With `n` rows of `d` elements and `P` groups:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `e`, signed: the tile's factor is `2^e`, `-126 <= e <= 113` |
//! | `2 P` | `lo` of each group, f16 |
//! | `2 P` | `scale` of each group, f16 |
//! | `ceil(n d bits / 8)` | the codes of row 0, row 1, ..., one bit stream, least significant bit first |
//!
//! A tile of no elements has no bytes. Channel groups: rows `g * group ..` (the last may be fewer) form row group
//! `g`; group number `g * d + channel`; `P = ceil(n / group) * d`. Token groups: channels `g * group ..` of one row;
//! group number `row * ceil(d / group) + g`; `P = n * ceil(d / group)`. An element decodes to
//! `(lo + q * scale) * 2^e`, each operation rounded to f32, clamped to the largest finite f32, then narrowed to the
//! stream's type.
//!
//! # Range and error
//!
//! f16 parameters alone cannot hold bf16 and f32 sources, and bf16 parameters have so few bits that a channel with a
//! large mean would lose half a step of 8-bit codes to them. So the factor, a power of two and therefore exact, brings
//! the tile's largest magnitude into `[2^14, 2^15)`: `lo` and `scale` then fit f16 for every finite source and are
//! rounded to 11 bits. `lo` is rounded down and `scale` up, so that every element lies between the first and the last
//! level. The error is at most half a stored step and one rounding to the stream's type; nothing decodes to an
//! infinity.

use super::spec::GroupAxis;
use super::{CodecError, TileCodec, Workspace, WorkspaceSize};
use crate::cpu;
use crate::kernels::bits::{pack_bits, packed_len, unpack_bits};
use crate::kernels::int as kernel;
use crate::num::DType;
use crate::num::convert::{from_f32, to_f32};

#[cfg(test)]
mod tests;

/// Biased exponents, as in an f32's bits: of 2^14, which the largest magnitude is brought to, and of 1.
const TOP_EXPONENT: i32 = 14;
const BIAS: i32 = 127;
const MIN_FACTOR: i32 = -126;
const MAX_FACTOR: i32 = BIAS - TOP_EXPONENT;

/// Group-wise asymmetric integers, for rows of one length and type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int {
    bits: u8,
    axis: GroupAxis,
    group: usize,
    head_dim: usize,
    dtype: DType,
    row_bytes: usize,
}

/// The workspace of one tile.
struct Parts<'w> {
    n_rows: usize,
    /// The values.
    x: &'w mut [f32],
    /// The minimum of each group.
    lo: &'w mut [f32],
    /// The scale of each group; its maximum and the scale's reciprocal on the way there.
    scale: &'w mut [f32],
    /// A code a byte.
    codes: &'w mut [u8],
}

impl Int {
    /// A codec with `bits` of 2, 4 or 8 for each element.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] for other `bits`, a group of 0, or rows that are not whole blocks of `dtype`.
    pub(super) fn new(
        bits: u8,
        axis: GroupAxis,
        group: u16,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Self, CodecError> {
        if !matches!(bits, 2 | 4 | 8) || group == 0 {
            return Err(CodecError::Unsupported {
                why: "int has 2, 4 or 8 bits and groups of 32, 64 or 128",
            });
        }
        let row_bytes = dtype.bytes_for(head_dim).ok_or(CodecError::Unsupported {
            why: "head_dim does not fill whole blocks of the element type",
        })?;
        Ok(Self { bits, axis, group: usize::from(group), head_dim, dtype, row_bytes })
    }

    /// Groups of a tile.
    fn n_groups(&self, n_rows: usize) -> usize {
        match self.axis {
            GroupAxis::Channel => n_rows.div_ceil(self.group) * self.head_dim,
            GroupAxis::Token => n_rows * self.head_dim.div_ceil(self.group),
        }
    }

    /// The largest code.
    fn max(&self) -> f32 {
        f32::from(u8::MAX >> (8 - self.bits))
    }

    /// Lays out the workspace for the rows in `bytes` bytes.
    fn parts<'w>(&self, bytes: usize, ws: &'w mut Workspace<'_>) -> Result<Parts<'w>, CodecError> {
        let n_rows = bytes.checked_div(self.row_bytes).unwrap_or(0);
        if n_rows * self.row_bytes != bytes {
            return Err(CodecError::Unsupported { why: "a tile must be whole rows" });
        }
        let (size, floats, bytes) = (self.workspace(n_rows), ws.floats.len(), ws.bytes.len());
        let short = |needed, got| CodecError::ShortBuffer { needed, got };
        let floats = ws.floats.get_mut(..size.floats).ok_or(short(size.floats, floats))?;
        let codes = ws.bytes.get_mut(..size.bytes).ok_or(short(size.bytes, bytes))?;
        let (x, params) = floats.split_at_mut(n_rows * self.head_dim);
        let (lo, scale) = params.split_at_mut(params.len() / 2);
        Ok(Parts { n_rows, x, lo, scale, codes })
    }

    /// Calls `f` with the elements of each stretch of rows that shares parameters, and the parameters' range.
    fn for_row_groups(
        &self,
        n_rows: usize,
        mut f: impl FnMut(core::ops::Range<usize>, core::ops::Range<usize>),
    ) {
        let d = self.head_dim;
        for (g, row) in (0..n_rows).step_by(self.group).enumerate() {
            f(row * d..(row + self.group).min(n_rows) * d, g * d..(g + 1) * d);
        }
    }
}

/// `2^e` for the exponents of normal numbers.
fn power_of_two(e: i32) -> f32 {
    debug_assert!((-126..=127).contains(&e));
    f32::from_bits((e + BIAS).cast_unsigned() << 23)
}

impl TileCodec for Int {
    fn bound(&self, n_rows: usize) -> usize {
        let n = n_rows * self.head_dim;
        if n == 0 { 0 } else { 1 + 4 * self.n_groups(n_rows) + packed_len(u32::from(self.bits), n) }
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        let n = n_rows * self.head_dim;
        WorkspaceSize { floats: n + 2 * self.n_groups(n_rows), bytes: n }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        let Parts { n_rows, x, lo, scale: hi, codes } = self.parts(rows.len(), ws)?;
        let needed = self.bound(n_rows);
        let got = out.len();
        let out = out.get_mut(..needed).ok_or(CodecError::ShortBuffer { needed, got })?;
        let Some((exponent, out)) = out.split_first_mut() else { return Ok(0) };
        let (lo_f16, out) = out.split_at_mut(2 * lo.len());
        let (scale_f16, packed) = out.split_at_mut(2 * lo.len());

        let (level, d) = (cpu::level(), self.head_dim);
        to_f32(self.dtype, rows, x)
            .map_err(|_| CodecError::Unsupported { why: "a tile must be whole rows" })?;
        let top = kernel::max_abs_bits(level, x);
        if top >= f32::INFINITY.to_bits() {
            let at = x.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(CodecError::NonFinite { row: at / d });
        }
        let e = ((top >> 23).cast_signed() - BIAS - TOP_EXPONENT).max(MIN_FACTOR);
        *exponent = e.to_le_bytes()[0];
        let (inv_factor, max) = (power_of_two(-e), self.max());
        match self.axis {
            GroupAxis::Channel => self.for_row_groups(n_rows, |x_at, at| {
                kernel::range_columns(level, &x[x_at], &mut lo[at.clone()], &mut hi[at]);
            }),
            GroupAxis::Token => kernel::range_groups(level, x, d, self.group, lo, hi),
        }
        kernel::params(level, inv_factor, max, lo, hi, lo_f16, scale_f16);
        let inv = &*hi;
        match self.axis {
            GroupAxis::Channel => self.for_row_groups(n_rows, |x_at, at| {
                let (lo, inv, codes) = (&lo[at.clone()], &inv[at], &mut codes[x_at.clone()]);
                kernel::quantize_columns(level, &x[x_at], inv_factor, lo, inv, max, codes);
            }),
            GroupAxis::Token => {
                kernel::quantize_groups(level, x, (d, self.group), inv_factor, (lo, inv), max, codes);
            }
        }
        pack_bits(level, u32::from(self.bits), codes, packed);
        Ok(needed)
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        let Parts { n_rows, x, lo, scale, codes } = self.parts(rows.len(), ws)?;
        if code.len() != self.bound(n_rows) {
            return Err(CodecError::Corrupt { what: "an int tile is not as long as its rows need" });
        }
        let Some((exponent, code)) = code.split_first() else { return Ok(()) };
        let e = i32::from(i8::from_le_bytes([*exponent]));
        if !(MIN_FACTOR..=MAX_FACTOR).contains(&e) {
            return Err(CodecError::Corrupt { what: "an int tile's factor is out of range" });
        }
        let factor = power_of_two(e);
        let (params, packed) = code.split_at(4 * lo.len());
        let infinite = |b: &[u8; 2]| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00;
        if params.as_chunks::<2>().0.iter().any(infinite) {
            return Err(CodecError::Corrupt { what: "a minimum or scale of an int tile is not finite" });
        }
        let (lo_f16, scale_f16) = params.split_at(2 * lo.len());
        let misfit = |_| CodecError::Corrupt { what: "an int tile is not as long as its rows need" };
        to_f32(DType::F16, lo_f16, lo).map_err(misfit)?;
        to_f32(DType::F16, scale_f16, scale).map_err(misfit)?;

        let (level, d) = (cpu::level(), self.head_dim);
        unpack_bits(level, u32::from(self.bits), packed, codes);
        match self.axis {
            GroupAxis::Channel => self.for_row_groups(n_rows, |x_at, at| {
                let (lo, scale, x) = (&lo[at.clone()], &scale[at], &mut x[x_at.clone()]);
                kernel::dequantize_columns(level, &codes[x_at], factor, lo, scale, x);
            }),
            GroupAxis::Token => {
                kernel::dequantize_groups(level, codes, (d, self.group), factor, (lo, scale), x);
            }
        }
        from_f32(self.dtype, x, rows)
            .map_err(|_| CodecError::Unsupported { why: "a tile must be whole rows" })
    }
}
