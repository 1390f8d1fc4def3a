//! Attention of a few query heads over a block of key and value rows: scores, online softmax, weighted sum.
//!
//! A block is at most [`BLOCK`] rows, wherever they lie; a [`Tile`] is at most [`HEADS`] query heads that share them.
//! Cell `[t][g]` of a tile holds the score of token `t` for head `g`, then its weight; a row of cells is as wide as
//! the next power of two of the heads, so that a vector always holds whole rows of cells.
//!
//! 1. [`scores`]: a few rows at a time are widened once and multiplied with all heads; the partial sums of a vector's
//!    worth of cells are added up in one tree of shuffles.
//! 2. [`soften`]: the heads' new maxima, `2^(score - max)` of all cells, their sums, and how much what was summed
//!    before fades.
//! 3. [`weigh`]: `acc = acc * fade + sum of weight * value row`, with a register for each head and each of a few
//!    vectors of columns. A block is summed from zero, so that rounding grows with `BLOCK + n / BLOCK`, not with `n`.
//!
//! While a block's keys are multiplied its values are asked for, and while its values are summed the keys of the next.
//!
//! **Limit.** One head: the bandwidth of reading rows; 2 widenings and 2 multiply-adds for each vector of columns and
//! row. A tile of 8: multiply-adds, 16 for each vector of columns and row.
//!
//! The three levels run the same [`body`] with vectors of 8 (portable and AVX2) or 16 (AVX-512) lanes. Results are the
//! same bits for the same level and blocks; levels differ by rounding, within the bound that `attention` states.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod blocked;
mod body;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;

pub(crate) use rows::{Ahead, RowBlock};

use crate::cpu::Level;

/// Rows of a block.
pub(crate) const BLOCK: usize = 128;

/// Query heads of a tile.
pub(crate) const HEADS: usize = 8;

/// Columns of an accumulator's row are a multiple of this.
pub(crate) const COLUMNS: usize = 16;

/// A copy of a tile's queries `[group][d]` that starts a cache line: vectors of them would else straddle lines, and
/// each would cost two loads.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Queries([f32; 256 * HEADS]);

impl Queries {
    pub(crate) const fn new() -> Self {
        Self([0.0; 256 * HEADS])
    }

    /// A copy of `q`, or `q` where it is too long for one.
    pub(crate) fn stage<'a>(&'a mut self, q: &'a [f32]) -> &'a [f32] {
        match self.0.get_mut(..q.len()) {
            Some(copy) => {
                copy.copy_from_slice(q);
                copy
            }
            None => q,
        }
    }

    /// What `stage(q)` gave last.
    pub(crate) fn staged<'a>(&'a self, q: &'a [f32]) -> &'a [f32] {
        self.0.get(..q.len()).unwrap_or(q)
    }
}

/// How a row's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
    Q8_0,
}

/// The state of up to [`HEADS`] query heads. Scores and maxima are logarithms to base 2.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Tile {
    cells: [f32; BLOCK * HEADS],
    /// The greatest score so far; `-inf` before the first.
    pub(crate) max: [f32; HEADS],
    /// Sum of `2^(score - max)`.
    pub(crate) sum: [f32; HEADS],
    /// What the last [`soften`] multiplies earlier sums by.
    fade: [f32; HEADS],
    group: usize,
}

impl Tile {
    /// `group` heads that have seen nothing.
    pub(crate) const fn new(group: usize) -> Self {
        assert!(group >= 1 && group <= HEADS);
        Self {
            cells: [0.0; BLOCK * HEADS],
            max: [f32::NEG_INFINITY; HEADS],
            sum: [0.0; HEADS],
            fade: [1.0; HEADS],
            group,
        }
    }

    pub(crate) const fn group(&self) -> usize {
        self.group
    }

    /// Cells of a token.
    const fn width(&self) -> usize {
        self.group.next_power_of_two()
    }

    /// The cell of token `t` and head `g`.
    pub(crate) const fn cell(&self, t: usize, g: usize) -> f32 {
        self.cells[t * self.width() + g]
    }
}

/// Fills the tile's cells with `scale * <q, row>` for the heads `q`, `[group][d]`, and asks memory for `ahead`.
/// Cells beyond the rows, up to a whole vector, become `-inf`.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub(crate) fn scores(
    level: Level,
    format: Format,
    tile: &mut Tile,
    q: &[f32],
    scale: f32,
    rows: &RowBlock<'_>,
    ahead: Ahead<'_>,
) {
    assert!(q.len().is_multiple_of(tile.group));
    let d = q.len() / tile.group;
    assert!(row_bytes(format, d) <= rows.row_bytes());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::scores(format, tile, q, d, scale, rows, ahead) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::scores(format, tile, q, d, scale, rows, ahead) },
        _ => scalar::scores(format, tile, q, d, scale, rows, ahead),
    }
}

/// Turns the scores of the block's `n` tokens into weights and brings the tile's maxima and sums up to date.
pub(crate) fn soften(level: Level, tile: &mut Tile, n: usize) {
    assert!(n <= BLOCK);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::soften(tile, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::soften(tile, n) },
        _ => scalar::soften(tile, n),
    }
}

/// Adds the rows, weighted by the tile's cells, to the faded accumulators `[group][stride]`, of which `d` columns are
/// used, and asks memory for `ahead`. `stride` is `acc.len() / group`, at least `d` rounded up to [`COLUMNS`].
pub(crate) fn weigh(
    level: Level,
    format: Format,
    tile: &Tile,
    acc: &mut [f32],
    d: usize,
    rows: &RowBlock<'_>,
    ahead: Ahead<'_>,
) {
    assert!(acc.len().is_multiple_of(tile.group) && d.next_multiple_of(COLUMNS) <= acc.len() / tile.group);
    assert!(row_bytes(format, d) <= rows.row_bytes());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::weigh(format, tile, acc, d, rows, ahead) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::weigh(format, tile, acc, d, rows, ahead) },
        _ => scalar::weigh(format, tile, acc, d, rows, ahead),
    }
}

/// Bytes of a row; a block type's row is whole blocks.
const fn row_bytes(format: Format, d: usize) -> usize {
    match format {
        Format::F32 => 4 * d,
        Format::F16 | Format::Bf16 => 2 * d,
        Format::Q8_0 => {
            assert!(d.is_multiple_of(32), "rows of q8_0 are whole blocks");
            d / 32 * 34
        }
    }
}
