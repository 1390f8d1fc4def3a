//! `had+lm{2,3,4,5,6,8}`: rotation, one scale a row, a Lloyd–Max grid.
//!
//! A row `x` is rotated to `y = had(x)` (see [`rotate`](crate::rotate)), whose coordinates are close to normal with
//! variance `|x|^2 / d`. Divided by their root mean square they are quantized with the grid that is optimal for the unit
//! normal ([`lloyd_max`](crate::rotate::lloyd_max)), and the row keeps one factor `s`: `x` decodes as `s * had^-1(c)`, `c`
//! the levels of its codes. The relative squared error is the grid's distortion (0.1175, 0.0345, 0.0095, ... for 2, 3, 4
//! bits), whatever the row looks like. With `mean`, each channel's mean over the tile is subtracted first.
//!
//! | scale rule | `s` | property |
//! |---|---|---|
//! | [`Norm`](ScaleRule::Norm) | `\|y\| / sqrt(d)` | no second look at the codes |
//! | [`Unbiased`](ScaleRule::Unbiased) | `<y, y> / <y, c>` | `<x, decoded> = <x, x>`: scores have no systematic shrinkage |
//! | [`LeastSquares`](ScaleRule::LeastSquares) | `<y, c> / <c, c>` | the least squared error these codes allow |
//!
//! # The tile's bytes
//!
//! `n` rows of `d` elements at `B` bits; all numbers little-endian. No rows give no bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | with `mean`: `f32` `M`, the largest magnitude among the means, finite, not negative |
//! | `2 d` | with `mean`: `f16` ratios in -1..=1; the mean of channel `i` is `M * ratio[i]` |
//! | 4 | `f32` `S`, the largest row scale, finite, not negative |
//! | `2 n` | `f16` ratios in 0..=1; the scale of row `i` is `s[i] = S * ratio[i]` |
//! | `n * ceil(d * B / 8)` | rows of codes in rotated order: code `j` at bits `j*B..`, least significant bit first; the rest of the last byte is 0 |
//!
//! Ratios rather than plain `f16` scales make `f32` and `bf16` rows of any magnitude representable.
//!
//! A decoder computes, in `f32` or better, `z[j] = grid[code[j]]`, then the inverse rotation of `z` (windows in reverse
//! order, then signs), times `s[i]`, plus the mean, and rounds to the stream's type, saturating at its largest finite
//! value. Grid and signs are stored in the container.
//!
//! # Special rows
//!
//! A row of zeros (after the mean) has scale 0 and decodes to zeros (to the mean). Rows far from 1 (an exponent beyond
//! ±30) are multiplied by a power of two around the computation, so that denormal and huge `f32` rows keep their
//! precision. A NaN or an infinity, or an `f32` row that overflows when the mean is subtracted, is
//! [`CodecError::NonFinite`].
//!
//! Cost: encode and decode are one pass over the tile, `mean` adds one.

use super::buffers::{count_rows, lent};
use super::spec::ScaleRule;
use super::{CodecError, Side, TileCodec, Workspace, WorkspaceSize};
use crate::cpu::{self, Level};
use crate::kernels::lloyd_max::{self as kernel, Fit, Plain, Quantizer, Shape};
use crate::num::{DType, convert};
use crate::rotate::Rotation;

/// Rows converted at a time when the kernels cannot read the stream's type: 16 rows of 128 `f32` are 8 KiB.
const BATCH: usize = 16;
/// Registers are this wide; arrays that run along a row are padded to it.
const PAD: usize = 16;

/// The codec of one stream; see the module.
pub(super) struct LloydMax {
    head_dim: usize,
    dtype: DType,
    mean: bool,
    fit: Fit,
    rotation: Rotation,
    quantizer: Quantizer,
}

impl LloydMax {
    pub(super) fn new(
        bits: u8,
        rule: ScaleRule,
        mean: bool,
        head_dim: usize,
        dtype: DType,
        side: &Side,
    ) -> Result<Self, CodecError> {
        let rotation = Rotation::from_signs(head_dim, &side.signs)
            .map_err(|_| CodecError::Unsupported { why: "had serves head dimensions from 1 to 1024" })?;
        if side.signs.len() != head_dim.div_ceil(8) {
            return Err(CodecError::Unsupported { why: "had needs one sign bit for each element of a row" });
        }
        if dtype.bytes_for(head_dim).is_none() {
            return Err(CodecError::Unsupported { why: "rows do not fill whole blocks of their type" });
        }
        let quantizer = Quantizer::new(bits.into(), &side.grid)
            .ok_or(CodecError::Unsupported { why: "lm needs a grid for the unit normal of its own size" })?;
        let fit = match rule {
            ScaleRule::Norm => Fit::Norm,
            ScaleRule::Unbiased => Fit::Unbiased,
            ScaleRule::LeastSquares => Fit::LeastSquares,
        };
        Ok(Self { head_dim, dtype, mean, fit, rotation, quantizer })
    }

    /// Bytes of a row in the stream's own type.
    fn stored(&self) -> usize {
        self.dtype.bytes_for(self.head_dim).expect("`new` checked that rows are whole blocks")
    }

    /// The type the kernels read and write themselves, or `None`: through `f32`.
    fn plain(&self) -> Option<Plain> {
        match self.dtype {
            DType::F32 if cfg!(target_endian = "little") => Some(Plain::F32),
            DType::F16 => Some(Plain::F16),
            DType::Bf16 => Some(Plain::Bf16),
            _ => None,
        }
    }

    fn mean_bytes(&self) -> usize {
        if self.mean { 4 + 2 * self.head_dim } else { 0 }
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(PAD)
    }

    fn shape<'a>(&'a self, mean: &'a [f32]) -> Shape<'a> {
        Shape {
            head_dim: self.head_dim,
            signs: self.rotation.sign_masks(),
            mean: self.mean.then_some(mean),
            quantizer: &self.quantizer,
        }
    }

    /// Lends the parts of the workspace: row scales, the padded mean, a batch of `f32` rows.
    fn split<'w>(&self, n_rows: usize, ws: &'w mut Workspace<'_>) -> Result<[&'w mut [f32]; 3], CodecError> {
        let floats = lent(ws.floats, self.workspace(n_rows).floats)?;
        let (scales, rest) = floats.split_at_mut(n_rows);
        let (mean, batch) = rest.split_at_mut(if self.mean { self.padded() } else { 0 });
        Ok([scales, mean, batch])
    }

    /// Calls `each` with the tile's rows in a type the kernels read, and the rows' range.
    fn for_batches(
        &self,
        rows: &[u8],
        batch: &mut [f32],
        mut each: impl FnMut(core::ops::Range<usize>, Plain, &[u8]) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let row = self.stored();
        if let Some(plain) = self.plain() {
            return each(0..rows.len() / row, plain, rows);
        }
        for (i, rows) in rows.chunks(BATCH * row).enumerate() {
            let n = rows.len() / row;
            let floats = &mut batch[..n * self.head_dim];
            convert::to_f32(self.dtype, rows, floats).map_err(|_| CodecError::Corrupt { what: WHOLE })?;
            each(i * BATCH..i * BATCH + n, Plain::F32, bytemuck::cast_slice(floats))?;
        }
        Ok(())
    }

    /// The mean of each channel as the tile stores it: `f32` sums over the rows in order of `x / n`, which
    /// cannot overflow, then rounded to the ratios.
    #[allow(clippy::cast_precision_loss, reason = "a tile has far fewer than 2^24 rows")]
    fn measure_mean(
        &self,
        level: Level,
        rows: &[u8],
        n_rows: usize,
        mean: &mut [f32],
        batch: &mut [f32],
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        mean.fill(0.0);
        let share = 1.0 / n_rows as f32;
        self.for_batches(rows, batch, |_, plain, rows| {
            kernel::add_rows(level, self.head_dim, plain, rows, share, mean);
            Ok(())
        })?;
        // A NaN or an infinity: the row kernel will name the row. Until then any finite mean will do.
        mean.iter_mut().for_each(|m| *m = if m.is_finite() { *m } else { 0.0 });
        let mean = &mut mean[..self.head_dim];
        let peak = mean.iter().fold(0.0f32, |peak, m| peak.max(m.abs()));
        store_ratios(mean, peak, out)?;
        load_ratios(out, mean, -1.0).map(|_| ())
    }
}

const WHOLE: &str = "rows are not whole blocks";

/// Writes `peak` and `x / peak` as `f16`; `x` keeps the quotients.
fn store_ratios(x: &mut [f32], peak: f32, out: &mut [u8]) -> Result<(), CodecError> {
    let (head, ratios) = out.split_at_mut(4);
    head.copy_from_slice(&peak.to_le_bytes());
    if peak > 0.0 {
        x.iter_mut().for_each(|x| *x /= peak);
    }
    convert::from_f32(DType::F16, x, ratios).map_err(|_| CodecError::Corrupt { what: WHOLE })
}

/// Reads what [`store_ratios`] wrote. `least` is 0 or -1.
fn load_ratios(code: &[u8], x: &mut [f32], least: f32) -> Result<(), CodecError> {
    let (head, ratios) = code.split_at(4);
    let peak = f32::from_le_bytes(head.try_into().expect("split at four bytes"));
    if !(0.0..=f32::MAX).contains(&peak) {
        return Err(CodecError::Corrupt { what: "a scale is negative or not finite" });
    }
    convert::to_f32(DType::F16, ratios, x).map_err(|_| CodecError::Corrupt { what: WHOLE })?;
    let mut fine = true;
    for x in x {
        fine &= (least..=1.0).contains(x);
        *x *= peak;
    }
    if fine { Ok(()) } else { Err(CodecError::Corrupt { what: "a scale ratio is outside its range" }) }
}

impl TileCodec for LloydMax {
    fn bound(&self, n_rows: usize) -> usize {
        if n_rows == 0 {
            return 0;
        }
        self.mean_bytes() + 4 + n_rows * (2 + self.quantizer.row_bytes(self.head_dim))
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        let mean = if self.mean { self.padded() } else { 0 };
        let batch = if self.plain().is_some() { 0 } else { BATCH.min(n_rows) * self.head_dim };
        WorkspaceSize { floats: n_rows + mean + batch, bytes: 0 }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        self.encode_at(cpu::level(), rows, out, ws)
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        self.decode_at(cpu::level(), code, rows, ws)
    }
}

impl LloydMax {
    fn encode_at(
        &self,
        level: Level,
        rows: &[u8],
        out: &mut [u8],
        ws: &mut Workspace<'_>,
    ) -> Result<usize, CodecError> {
        let n_rows = count_rows(rows.len(), self.stored())?;
        if n_rows == 0 {
            return Ok(0);
        }
        let needed = self.bound(n_rows);
        let out = lent(out, needed)?;
        let (mean_out, out) = out.split_at_mut(self.mean_bytes());
        let (scales_out, codes) = out.split_at_mut(4 + 2 * n_rows);
        let [scales, mean, batch] = self.split(n_rows, ws)?;
        if self.mean {
            self.measure_mean(level, rows, n_rows, mean, batch, mean_out)?;
        }
        let (shape, row_bytes) = (self.shape(mean), self.quantizer.row_bytes(self.head_dim));
        self.for_batches(rows, batch, |range, plain, rows| {
            let first = range.start;
            let codes = &mut codes[range.start * row_bytes..range.end * row_bytes];
            kernel::encode(level, &shape, plain, self.fit, rows, &mut scales[range], codes)
                .map_err(|row| CodecError::NonFinite { row: first + row })
        })?;
        let peak = scales.iter().fold(0.0f32, |peak, s| peak.max(*s));
        store_ratios(scales, peak, scales_out)?;
        Ok(needed)
    }

    fn decode_at(
        &self,
        level: Level,
        code: &[u8],
        rows: &mut [u8],
        ws: &mut Workspace<'_>,
    ) -> Result<(), CodecError> {
        let n_rows = count_rows(rows.len(), self.stored())?;
        if code.len() != self.bound(n_rows) {
            return Err(CodecError::Corrupt { what: "an lm tile's length does not fit its rows" });
        }
        if n_rows == 0 {
            return Ok(());
        }
        let (mean_code, code) = code.split_at(self.mean_bytes());
        let (scales_code, codes) = code.split_at(4 + 2 * n_rows);
        let [scales, mean, batch] = self.split(n_rows, ws)?;
        if self.mean {
            mean.fill(0.0);
            load_ratios(mean_code, &mut mean[..self.head_dim], -1.0)?;
        }
        load_ratios(scales_code, scales, 0.0)?;
        let shape = self.shape(mean);
        if let Some(plain) = self.plain() {
            kernel::decode(level, &shape, plain, scales, codes, rows);
            return Ok(());
        }
        let batches = rows.chunks_mut(BATCH * self.stored()).zip(scales.chunks(BATCH));
        for ((rows, scales), codes) in
            batches.zip(codes.chunks(BATCH * self.quantizer.row_bytes(self.head_dim)))
        {
            let floats = &mut batch[..scales.len() * self.head_dim];
            kernel::decode(level, &shape, Plain::F32, scales, codes, bytemuck::cast_slice_mut(floats));
            convert::from_f32(self.dtype, floats, rows).map_err(|_| CodecError::Corrupt { what: WHOLE })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
