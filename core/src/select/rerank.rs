//! The second level of a two-stage selection: short codes of every token, read for the candidates only.
//!
//! A row `x` (a key, or what the first level's code leaves of it) is rotated and quantized with the Lloyd–Max grid of 2, 3
//! or 4 bits, and keeps the factor `f = <y, y> / <y, c>` of its rotated self `y` and the levels `c` of its codes
//! (RaBitQ's estimator, Gao and Long, SIGMOD 2024; `had+lm` among the codecs):
//!
//! ```text
//! <q, x> ~= f * <had(q), c>
//! ```
//!
//! The estimate of `<x, x>` is exact, so scores have no systematic shrinkage. Its error, for a query of no special direction, has
//! standard deviation `|q| |x| sqrt(D / d)` with `D` the grid's distortion: 0.1175, 0.0345, 0.0095 at 2, 3, 4 bits. No
//! statistics of the rows are needed, and the codes do not age. Rows far from the origin should be centred
//! ([`RerankCodes::with_mean`]); residuals of a trained first level are centred already, and two bits of a residual are worth four of
//! the key itself.
//!
//! The query is rounded to integers of a 127th of its largest rotated coordinate (a hundredth of the codes' own error) and the levels to
//! 127ths of the grid's outermost, so that a score is one exact integer sum and two rounded products: the same bits at every level.
//!
//! | memory | bytes |
//! |---|---|
//! | a token | `ceil(d * bits / 8) + 2`: 18, 34, 66 at 2 bits and `d` = 64, 128, 256 |
//! | a block of 512 tokens | 64 more; the last block is allocated whole |
//! | rotation, grid | 11 KiB once, shared by clones |
//!
//! ```
//! use tersa_core::select::{RerankCodes, RerankQuery};
//!
//! let rows: Vec<f32> = (0..64 * 100).map(|i| (i as f32 * 0.37).sin()).collect();
//! let mut codes = RerankCodes::new(64, 4, 7)?;
//! codes.extend(&rows)?;
//! let mut query = RerankQuery::new(64, 1);
//! codes.prepare(&rows[64 * 8..64 * 9], &mut query)?;
//! let mut scores = [0.0; 2];
//! codes.score(&query, &[8, 11], &mut scores);
//! let exact: f32 = rows[64 * 8..64 * 9].iter().map(|x| x * x).sum();
//! assert!((scores[0] - exact).abs() < 0.02 * exact);
//! # Ok::<(), tersa_core::select::RerankError>(())
//! ```

use crate::cpu;
use crate::kernels::lloyd_max::{self as coder, Fit, Plain, Quantizer, Shape};
use crate::kernels::rerank::{self as kernel, BLOCK, FACTOR_BYTES, Heads, PAD, Records, SLACK};
use crate::rotate::Rotation;
use crate::rotate::lloyd_max::Grid;
use alloc::sync::Arc;
use alloc::{vec, vec::Vec};
use core::ops::Range;

/// Rows encoded at a time.
const BATCH: usize = 32;
/// The largest magnitude of an integer level or query coordinate.
const PEAK: f32 = 127.0;

/// Why rows or queries cannot be coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RerankError {
    /// Rows have 1 to 1024 elements and codes 2, 3 or 4 bits.
    Shape {
        /// Elements of a row.
        head_dim: usize,
        /// Bits of a code.
        bits: u8,
    },
    /// A buffer's length does not fit.
    Length {
        /// The length it should have (the next multiple, where whole rows are asked for).
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A NaN or an infinity in this row, or one that overflows when the mean is subtracted.
    NonFinite {
        /// Index of the row or query head.
        row: usize,
    },
    /// The mean cannot change once rows are coded.
    NotEmpty {
        /// Rows coded.
        len: usize,
    },
}

impl core::fmt::Display for RerankError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Shape { head_dim, bits } => {
                write!(f, "no second-level code has {bits} bits for rows of {head_dim} elements")
            }
            Self::Length { expected, got } => write!(f, "a buffer holds {got} elements where {expected} fit"),
            Self::NonFinite { row } => write!(f, "row {row} holds a NaN or an infinity"),
            Self::NotEmpty { len } => write!(f, "the mean cannot change under {len} coded rows"),
        }
    }
}

impl core::error::Error for RerankError {}

/// What all clones share.
struct Coder {
    rotation: Rotation,
    quantizer: Quantizer,
    /// The grid in 127ths of its outermost level.
    levels: [i8; 16],
    /// What one 127th is.
    step: f32,
    /// Padded with zeros to whole vectors, as the encoder wants it.
    mean: Option<Vec<f32>>,
}

/// Second-level codes of the tokens of one KV head. A clone shares all memory until one of the two is changed; then the
/// changed block of 512 tokens is copied.
#[derive(Clone)]
pub struct RerankCodes {
    head_dim: usize,
    bits: u8,
    coder: Arc<Coder>,
    blocks: Vec<Arc<[u8]>>,
    len: usize,
}

impl RerankCodes {
    /// No tokens. `seed` fixes the rotation; all heads may share one. Cost: some ten microseconds; a clone of empty codes is cheaper
    /// and shares the rotation.
    ///
    /// # Errors
    /// [`RerankError::Shape`] unless `head_dim` is 1 to 1024 and `bits` 2, 3 or 4.
    pub fn new(head_dim: usize, bits: u8, seed: u64) -> Result<Self, RerankError> {
        let shape = RerankError::Shape { head_dim, bits };
        let rotation = Rotation::new(head_dim, seed).map_err(|_| shape)?;
        if !matches!(bits, 2..=4) {
            return Err(shape);
        }
        let grid = Grid::unit_normal(bits).ok_or(shape)?;
        let (levels, step) = integer_levels(&grid);
        let mut rounded = [0.0; 16];
        rounded.iter_mut().zip(levels).for_each(|(r, l)| *r = f32::from(l) * step);
        let quantizer = Quantizer::new(bits.into(), &rounded[..1 << bits]).ok_or(shape)?;
        let coder = Arc::new(Coder { rotation, quantizer, levels, step, mean: None });
        Ok(Self { head_dim, bits, coder, blocks: Vec::new(), len: 0 })
    }

    /// The same with `mean` subtracted from every row that will be coded; scores include `<q, mean>`.
    ///
    /// # Errors
    /// [`RerankError::NotEmpty`] if there are rows, [`RerankError::Length`] unless `mean` is a row,
    /// [`RerankError::NonFinite`] if it holds a NaN or an infinity.
    pub fn with_mean(self, mean: &[f32]) -> Result<Self, RerankError> {
        if !self.is_empty() {
            return Err(RerankError::NotEmpty { len: self.len });
        }
        check(self.head_dim, mean.len())?;
        if !mean.iter().all(|x| x.is_finite()) {
            return Err(RerankError::NonFinite { row: 0 });
        }
        let mut padded = mean.to_vec();
        padded.resize(self.head_dim.next_multiple_of(16), 0.0);
        let Coder { rotation, quantizer, levels, step, .. } = &*self.coder;
        let (rotation, quantizer) = (rotation.clone(), quantizer.clone());
        let coder = Arc::new(Coder { rotation, quantizer, levels: *levels, step: *step, mean: Some(padded) });
        Ok(Self { coder, ..self })
    }

    /// Elements of a row.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bits of a code.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Tokens coded.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is coded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a token's record: its codes and two bytes of factor.
    #[must_use]
    pub const fn record_bytes(&self) -> usize {
        (self.head_dim * self.bits as usize).div_ceil(8) + FACTOR_BYTES
    }

    /// Bytes on the heap that grow with the tokens, counting what is shared with clones.
    #[must_use]
    pub const fn heap_bytes(&self) -> usize {
        self.blocks.len() * self.block_bytes() + self.blocks.capacity() * size_of::<Arc<[u8]>>()
    }

    const fn block_bytes(&self) -> usize {
        BLOCK * self.record_bytes() + SLACK
    }

    /// Codes rows `[n][head_dim]` of the next `n` tokens. Cost: a rotation and a quantization each,
    /// measured 55, 105, 160 ns at 64, 128, 256 elements; allocates once in 512 tokens.
    ///
    /// # Errors
    /// [`RerankError::Length`] or [`RerankError::NonFinite`]; nothing has been added then.
    pub fn extend(&mut self, rows: &[f32]) -> Result<(), RerankError> {
        let n = self.whole_rows(rows.len())?;
        let before = self.len;
        self.grow(before + n);
        for (i, batch) in rows.chunks(BATCH * self.head_dim).enumerate() {
            if let Err(row) = self.encode(before + i * BATCH, batch) {
                self.truncate(before);
                return Err(RerankError::NonFinite { row: i * BATCH + row });
            }
        }
        Ok(())
    }

    /// Codes a token anew.
    ///
    /// # Errors
    /// [`RerankError::Length`] or [`RerankError::NonFinite`]; nothing has changed then.
    ///
    /// # Panics
    /// If `token` is not below [`len`](Self::len).
    pub fn set(&mut self, token: usize, row: &[f32]) -> Result<(), RerankError> {
        assert!(token < self.len, "token {token} of {}", self.len);
        check(self.head_dim, row.len())?;
        self.encode(token, row).map_err(|row| RerankError::NonFinite { row })
    }

    /// Keeps the first `len` tokens, if there are more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.blocks.truncate(self.len.div_ceil(BLOCK));
    }

    /// Removes tokens; those behind move down. Cost: a copy of all records behind.
    ///
    /// # Panics
    /// If the range reaches beyond [`len`](Self::len) or ends before it starts.
    pub fn remove(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} tokens", self.len);
        let stride = self.record_bytes();
        let mut to = range.start;
        let mut from = range.end;
        // Runs that stay within one block on both sides.
        while from < self.len && to < from {
            let run = (self.len - from).min(BLOCK - from % BLOCK).min(BLOCK - to % BLOCK);
            let target = to % BLOCK * stride;
            let source = from % BLOCK * stride..(from % BLOCK + run) * stride;
            if from / BLOCK == to / BLOCK {
                Arc::make_mut(&mut self.blocks[to / BLOCK]).copy_within(source, target);
            } else {
                let (low, high) = self.blocks.split_at_mut(from / BLOCK);
                let out = &mut Arc::make_mut(&mut low[to / BLOCK])[target..target + run * stride];
                out.copy_from_slice(&high[0][source]);
            }
            (from, to) = (from + run, to + run);
        }
        self.truncate(self.len - range.len());
    }

    /// Writes the records of a range of tokens side by side, [`record_bytes`](Self::record_bytes) each: codes, least significant bit
    /// first, then the factor (`u16`, little-endian; 0, or `2^(e - 32) * (1 + f / 1024)` with `e` its upper six and `f` its lower
    /// ten bits). With `head_dim`, `bits`, the seed and the mean they are all of this structure.
    ///
    /// # Panics
    /// If the range is not within the tokens, or `out` has another length.
    pub fn pack(&self, range: Range<usize>, out: &mut [u8]) {
        assert!(range.end <= self.len, "{range:?} of {} tokens", self.len);
        let stride = self.record_bytes();
        assert_eq!(out.len(), range.len() * stride);
        for (token, out) in range.zip(out.chunks_exact_mut(stride)) {
            out.copy_from_slice(&self.blocks[token / BLOCK][token % BLOCK * stride..][..stride]);
        }
    }

    /// Appends records that [`pack`](Self::pack) wrote. All bytes mean something, so nothing is checked but the length.
    ///
    /// # Errors
    /// [`RerankError::Length`] unless `records` is whole records.
    pub fn extend_packed(&mut self, records: &[u8]) -> Result<(), RerankError> {
        let stride = self.record_bytes();
        if !records.len().is_multiple_of(stride) {
            let expected = records.len().next_multiple_of(stride);
            return Err(RerankError::Length { expected, got: records.len() });
        }
        let before = self.len;
        self.grow(before + records.len() / stride);
        for (token, record) in (before..).zip(records.chunks_exact(stride)) {
            let block = Arc::make_mut(&mut self.blocks[token / BLOCK]);
            block[token % BLOCK * stride..][..stride].copy_from_slice(record);
        }
        Ok(())
    }

    /// Rotates and rounds the queries `[group][head_dim]` of the heads that share this KV head. Cost: a rotation a head.
    ///
    /// # Errors
    /// [`RerankError::Length`] unless `q` is the `group` rows that `out` was made for, [`RerankError::NonFinite`] with the
    /// head that holds a NaN or an infinity.
    pub fn prepare(&self, q: &[f32], out: &mut RerankQuery) -> Result<(), RerankError> {
        let d = self.head_dim;
        check(d, out.head_dim)?;
        check(d * out.units.len(), q.len())?;
        let padded = out.padded();
        for (h, q) in q.chunks_exact(d).enumerate() {
            out.row.copy_from_slice(q);
            self.coder.rotation.forward(&mut out.row);
            let finite = out.row.iter().all(|x| x.is_finite());
            let peak = out.row.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
            if !finite {
                return Err(RerankError::NonFinite { row: h });
            }
            // Below this the quotient overflows; such a query is zero for all purposes.
            let (unit, inverse) = if peak > 1e-30 { (peak / PEAK, PEAK / peak) } else { (0.0, 0.0) };
            let integers = &mut out.queries[h * padded..][..d];
            let mut sum = 0;
            for (i, x) in integers.iter_mut().zip(&out.row) {
                *i = round_i8(x * inverse);
                sum += i32::from(*i);
            }
            out.excess[h] = sum * 128;
            out.units[h] = unit * self.coder.step;
            out.biases[h] =
                self.coder.mean.as_ref().map_or(0.0, |m| m.iter().zip(q).map(|(m, q)| m * q).sum());
        }
        Ok(())
    }

    /// `out[h * tokens.len() + i]` = the estimate of `<q_h, row of tokens[i]>`. Rising tokens are fastest. The same bits at every
    /// level. Cost, measured on a shared Zen 4 core with
    /// AVX-512 at 2 bits, every tenth of 8192 tokens: 6, 7, 9 ns a token at 64, 128, 256 elements; 1 to 3 ns for every further head.
    ///
    /// # Panics
    /// If a token is not below [`len`](Self::len), the query was made for another `head_dim`, or `out` is not `group * tokens.len()` long.
    pub fn score(&self, query: &RerankQuery, tokens: &[u32], out: &mut [f32]) {
        assert_eq!(query.head_dim, self.head_dim, "the query's head_dim");
        let beyond = tokens.iter().fold(0, |most, t| most.max(*t));
        assert!(tokens.is_empty() || (beyond as usize) < self.len, "token {beyond} of {}", self.len);
        let records =
            Records { blocks: &self.blocks, stride: self.record_bytes(), nbits: u32::from(self.bits) };
        let heads = Heads {
            queries: &query.queries,
            padded: query.padded(),
            units: &query.units,
            excess: &query.excess,
        };
        kernel::scores(cpu::level(), records, &self.coder.levels, heads, tokens, out);
        if self.coder.mean.is_some() && !tokens.is_empty() {
            for (out, bias) in out.chunks_exact_mut(tokens.len()).zip(&query.biases) {
                out.iter_mut().for_each(|x| *x += bias);
            }
        }
    }

    fn whole_rows(&self, len: usize) -> Result<usize, RerankError> {
        if len.is_multiple_of(self.head_dim) {
            Ok(len / self.head_dim)
        } else {
            Err(RerankError::Length { expected: len.next_multiple_of(self.head_dim), got: len })
        }
    }

    fn grow(&mut self, len: usize) {
        let zeros = self.block_bytes();
        self.blocks.resize_with(len.div_ceil(BLOCK), || Arc::from(vec![0u8; zeros]));
        self.len = len;
    }

    /// Codes at most [`BATCH`] rows as the tokens from `first` on, which exist. On an error, which names the row, tokens before it may
    /// have changed.
    fn encode(&mut self, first: usize, rows: &[f32]) -> Result<(), usize> {
        let (coder, stride) = (Arc::clone(&self.coder), self.record_bytes());
        let shape = Shape {
            head_dim: self.head_dim,
            signs: coder.rotation.sign_masks(),
            mean: coder.mean.as_deref(),
            quantizer: &coder.quantizer,
        };
        // Two times the bytes of the longest row, because one row may be all there is room for.
        let mut codes = [0; kernel::MAX_DIM / 2 * 2];
        let row_bytes = stride - FACTOR_BYTES;
        let at_once = (codes.len() / row_bytes).min(BATCH);
        let mut scales = [0.0; BATCH];
        for (i, rows) in rows.chunks(at_once * self.head_dim).enumerate() {
            let n = rows.len() / self.head_dim;
            let (codes, scales) = (&mut codes[..n * row_bytes], &mut scales[..n]);
            let bytes = bytemuck::cast_slice(rows);
            coder::encode(cpu::level(), &shape, Plain::F32, Fit::Unbiased, bytes, scales, codes)
                .map_err(|row| i * at_once + row)?;
            for (j, (codes, scale)) in codes.chunks_exact(row_bytes).zip(scales).enumerate() {
                let token = first + i * at_once + j;
                let block = Arc::make_mut(&mut self.blocks[token / BLOCK]);
                let record = &mut block[token % BLOCK * stride..][..stride];
                record[..row_bytes].copy_from_slice(codes);
                record[row_bytes..].copy_from_slice(&kernel::pack_factor(*scale).to_le_bytes());
            }
        }
        Ok(())
    }
}

impl core::fmt::Debug for RerankCodes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { head_dim, bits, len, .. } = self;
        f.debug_struct("RerankCodes")
            .field("head_dim", head_dim)
            .field("bits", bits)
            .field("len", len)
            .finish_non_exhaustive()
    }
}

/// The rotated and rounded queries of a group of heads; buffers that are made once.
#[derive(Clone, Debug)]
pub struct RerankQuery {
    head_dim: usize,
    queries: Vec<i8>,
    units: Vec<f32>,
    excess: Vec<i32>,
    /// `<q, mean>`.
    biases: Vec<f32>,
    row: Vec<f32>,
}

impl RerankQuery {
    /// Room for `group` queries of `head_dim` elements, all zero.
    #[must_use]
    pub fn new(head_dim: usize, group: usize) -> Self {
        Self {
            head_dim,
            queries: vec![0; group * head_dim.next_multiple_of(PAD)],
            units: vec![0.0; group],
            excess: vec![0; group],
            biases: vec![0.0; group],
            row: vec![0.0; head_dim],
        }
    }

    /// Query heads.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.units.len()
    }

    const fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(PAD)
    }
}

const fn check(expected: usize, got: usize) -> Result<(), RerankError> {
    if expected == got { Ok(()) } else { Err(RerankError::Length { expected, got }) }
}

/// The levels in 127ths of the outermost, and that 127th.
#[allow(clippy::cast_possible_truncation, reason = "grids are kept as f32")]
fn integer_levels(grid: &Grid) -> ([i8; 16], f32) {
    let outermost = grid.levels().last().map_or(1.0, |x| *x as f32);
    let mut levels = [0; 16];
    for (i, x) in levels.iter_mut().zip(grid.levels()) {
        *i = round_i8(*x as f32 / outermost * PEAK);
    }
    (levels, outermost / PEAK)
}

/// To nearest, ties to even.
#[allow(clippy::cast_possible_truncation, reason = "within -127..=127; `as` saturates")]
fn round_i8(x: f32) -> i8 {
    libm::rintf(x) as i8
}

#[cfg(test)]
mod tests;
