//! The blocks that a tile keeps, by estimates of sampled rows.

use super::codes::width;
use super::{BLOCK, BlockMask, KeyCodes, TILE};
use crate::attention::{AttentionError, Rows};
use crate::cpu::{self, Level};
use crate::kernels::estimate::{self as kernel, LANES, QUAD};
use crate::kernels::softmax::{self, Head, How};
use alloc::vec::Vec;
use core::f32::consts::LOG2_E;

/// How blocks are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// A block is kept if the mean weight of its greatest key, over the sampled rows, is at least this. 0 keeps all.
    pub threshold: f32,
    /// One query row in so many is looked at: 1, 2, 4, ..., 64.
    pub stride: usize,
    /// Blocks at the start that are always kept.
    pub sinks: usize,
    /// Keys before the tile's first row that are always kept, with the rest of their blocks.
    pub near: usize,
}

impl Default for Estimate {
    /// One row in 4, a block of sinks, 128 keys. The threshold, 0.004, is only a start: heads differ.
    fn default() -> Self {
        Self { threshold: 0.004, stride: 4, sinks: 1, near: 128 }
    }
}

/// Buffers of [`Estimate::select`], one for each thread; they grow to the longest prompt.
#[derive(Clone, Debug, Default)]
pub struct EstimateScratch {
    /// Rows of the tile `[TILE][width]`.
    wide: Vec<f32>,
    codes: Vec<i8>,
    /// What queries are taken around.
    zeros: Vec<f32>,
    /// `[width / 4][LANES][4]`
    lanes: Vec<i8>,
    /// `[LANES][blocks]`
    greatest: Vec<f32>,
    scores: Vec<f32>,
}

impl EstimateScratch {
    /// No buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The scores of the blocks that the last tile sees, in `[0, 1]`.
    #[must_use]
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }
}

impl Estimate {
    /// Marks in `mask` the blocks that tile `tile` of one head's query rows keeps, and unmarks the others. Scores are
    /// `scale`, which is positive, times the products, as in attention.
    ///
    /// Cost: `64 / stride` rows times all keys they see, in products of bytes, and a power for each row and block.
    ///
    /// # Errors
    /// [`AttentionError::Dim`] if queries and keys have other dimensions, [`AttentionError::Length`] if mask, queries and keys
    /// are not for the same numbers of rows or the stride is not a power of two up to 64, [`AttentionError::Token`] if
    /// there is no such tile.
    pub fn select(
        &self,
        queries: &Rows<'_>,
        keys: &KeyCodes,
        scale: f32,
        tile: usize,
        mask: &mut BlockMask,
        scratch: &mut EstimateScratch,
    ) -> Result<(), AttentionError> {
        self.select_at(cpu::level(), queries, keys, scale, tile, mask, scratch)
    }

    #[allow(clippy::too_many_arguments, reason = "and the level")]
    pub(super) fn select_at(
        &self,
        level: Level,
        queries: &Rows<'_>,
        keys: &KeyCodes,
        scale: f32,
        tile: usize,
        mask: &mut BlockMask,
        scratch: &mut EstimateScratch,
    ) -> Result<(), AttentionError> {
        if queries.dim() != keys.dim() {
            return Err(AttentionError::Dim { expected: keys.dim(), got: queries.dim() });
        }
        for (expected, got) in [(keys.n_tokens(), mask.n_keys()), (queries.n_tokens(), mask.n_queries())] {
            if expected != got {
                return Err(AttentionError::Length { expected, got });
            }
        }
        if !self.stride.is_power_of_two() || self.stride > TILE {
            return Err(AttentionError::Length { expected: 4, got: self.stride });
        }
        if tile >= mask.n_tiles() {
            return Err(AttentionError::Token { token: tile * TILE, n_tokens: queries.n_tokens() });
        }
        let seen = mask.seen_blocks(tile);
        scratch.score(level, self.stride, queries, keys, scale, tile, seen);
        mask.clear(tile);
        let first = (keys.n_tokens() + tile * TILE).saturating_sub(queries.n_tokens());
        let near = first.saturating_sub(self.near) / BLOCK;
        for (block, score) in scratch.scores.iter().enumerate() {
            // A score that is no number keeps its block.
            let few = *score < self.threshold;
            if block < self.sinks || block >= near || !few {
                mask.keep(tile, block);
            }
        }
        Ok(())
    }
}

impl EstimateScratch {
    #[allow(clippy::too_many_arguments, reason = "what a tile is scored from")]
    #[allow(clippy::cast_precision_loss, reason = "sums below 2^24, small counts")]
    fn score(
        &mut self,
        level: Level,
        stride: usize,
        queries: &Rows<'_>,
        keys: &KeyCodes,
        scale: f32,
        tile: usize,
        seen: usize,
    ) {
        let (n_queries, n_keys) = (queries.n_tokens(), keys.n_tokens());
        let (width, rows) = (width(queries.dim()), tile * TILE..n_queries.min((tile + 1) * TILE));
        self.wide.resize(TILE * width, 0.0);
        self.codes.resize(width, 0);
        self.zeros.resize(width, 0.0);
        self.lanes.resize(LANES * width, 0);
        self.greatest.resize(LANES * seen, 0.0);
        self.scores.clear();
        self.scores.resize(seen, 0.0);
        queries.widen(level, rows.clone(), &mut self.wide, width);
        // The middle of each stretch; of a short tile, its last row.
        let n_sampled = rows.len().saturating_sub(stride / 2).div_ceil(stride).max(1);
        let sampled = |i: usize| (i * stride + stride / 2).min(rows.len() - 1);
        let weight = 1.0 / n_sampled as f32;
        for from in (0..n_sampled).step_by(LANES) {
            let n = LANES.min(n_sampled - from);
            let mut steps = [0.0; LANES];
            let mut bias = [0; LANES];
            let mut visible = [0; LANES];
            self.lanes.fill(0);
            for lane in 0..n {
                let row = sampled(from + lane);
                let x = &self.wide[row * width..][..width];
                steps[lane] = kernel::quantize(level, x, &self.zeros, &mut self.codes);
                for (c, code) in self.codes.iter().enumerate() {
                    self.lanes[(c / QUAD * LANES + lane) * QUAD + c % QUAD] = *code;
                }
                bias[lane] = self.codes.iter().map(|c| i32::from(*c)).sum::<i32>() * i32::from(kernel::BIAS);
                visible[lane] = (n_keys + rows.start + row + 1).saturating_sub(n_queries);
            }
            for block in 0..seen {
                let (codes, step) = keys.block(block);
                #[allow(clippy::cast_possible_truncation, reason = "at most a block")]
                let limits = visible.map(|v| v.saturating_sub(block * BLOCK).min(BLOCK) as u32);
                let greatest = kernel::greatest(level, &self.lanes, codes, &limits);
                for lane in 0..n {
                    self.greatest[lane * seen + block] = if limits[lane] == 0 {
                        f32::NEG_INFINITY
                    } else {
                        (greatest[lane] - bias[lane]) as f32 * (steps[lane] * step)
                    };
                }
            }
            let exponent = scale * LOG2_E;
            for greatest in self.greatest.chunks_exact(seen.max(1)).take(n) {
                let most = softmax::greatest(level, greatest);
                if most == f32::NEG_INFINITY {
                    continue; // a row that sees nothing
                }
                let head = Head { greatest: most, exponent, weight: 1.0 };
                #[allow(clippy::cast_possible_truncation, reason = "a weight")]
                let total = softmax::sum(level, greatest, head) as f32;
                let head = Head { weight: weight / total, ..head };
                softmax::add(level, greatest, head, How::Add, &mut self.scores);
            }
        }
    }
}
