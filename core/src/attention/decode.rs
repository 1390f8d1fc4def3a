//! The accumulator of one KV head's query heads.

use super::AttentionError;
use super::rows::{Rows, Tokens};
use crate::cpu::{self, Level};
use crate::kernels::attend::{self as kernel, Ahead, BLOCK, COLUMNS, HEADS, Queries, RowBlock, Tile};
use alloc::vec;
use alloc::vec::Vec;
use core::f32::consts::LOG2_E;
use core::f64::consts::LN_2;

/// Attention of the `group` query heads that share a KV head, gathered part by part.
///
/// Holds `group * dim_v` sums and 12 KiB for each 8 heads; see the [module](super) for formula, error and what
/// happens to numbers that are not finite.
#[derive(Clone, Debug)]
pub struct Decode {
    group: usize,
    dim_v: usize,
    /// `[group][stride]`, relative to the heads' maxima.
    acc: Vec<f32>,
    stride: usize,
    tiles: Vec<Tile>,
    queries: Vec<Queries>,
}

impl Decode {
    /// An accumulator that has seen nothing, for rows of `dim_v` values. The only call that allocates.
    ///
    /// # Errors
    /// [`AttentionError::NoHeads`] if `group` is 0.
    pub fn new(group: usize, dim_v: usize) -> Result<Self, AttentionError> {
        if group == 0 {
            return Err(AttentionError::NoHeads);
        }
        let stride = dim_v.next_multiple_of(COLUMNS);
        let tiles: Vec<Tile> = tile_sizes(group).map(Tile::new).collect();
        let queries = vec![Queries::new(); tiles.len()];
        Ok(Self { group, dim_v, acc: vec![0.0; group * stride], stride, tiles, queries })
    }

    /// Query heads.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.group
    }

    /// Values of an output row.
    #[must_use]
    pub const fn dim_v(&self) -> usize {
        self.dim_v
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.acc.fill(0.0);
        for tile in &mut self.tiles {
            tile.max = [f32::NEG_INFINITY; HEADS];
            tile.sum = [0.0; HEADS];
        }
    }

    /// Attends to `tokens` with the queries `q`, `[group][keys.dim()]`. `scale` is usually `1 / sqrt(dim)`.
    ///
    /// Limit: the bandwidth of reading the rows for a few heads, multiply-adds for many.
    ///
    /// # Errors
    /// [`AttentionError::Length`] if `q` has another length, [`AttentionError::Dim`] if the values have not `dim_v`
    /// elements, [`AttentionError::Token`] or [`AttentionError::Range`] if not all tokens have a key and a value.
    /// Nothing was added then.
    pub fn add(
        &mut self,
        q: &[f32],
        scale: f32,
        keys: &Rows<'_>,
        values: &Rows<'_>,
        tokens: Tokens<'_>,
    ) -> Result<(), AttentionError> {
        self.add_at(cpu::level(), q, scale, keys, values, &tokens)
    }

    pub(super) fn add_at(
        &mut self,
        level: Level,
        q: &[f32],
        scale: f32,
        keys: &Rows<'_>,
        values: &Rows<'_>,
        tokens: &Tokens<'_>,
    ) -> Result<(), AttentionError> {
        let d = keys.dim();
        expect_len(self.group * d, q.len())?;
        if values.dim() != self.dim_v {
            return Err(AttentionError::Dim { expected: self.dim_v, got: values.dim() });
        }
        tokens.check(keys.n_tokens().min(values.n_tokens()))?;
        let mut heads = q;
        for (tile, queries) in self.tiles.iter().zip(&mut self.queries) {
            let tile_q;
            (tile_q, heads) = heads.split_at(tile.group() * d);
            queries.stage(tile_q);
        }
        let none = RowBlock::new(0);
        let mut value_rows = RowBlock::new(values.row_bytes());
        let mut key_rows = [RowBlock::new(keys.row_bytes()), RowBlock::new(keys.row_bytes())];
        let [now, next] = &mut key_rows;
        let (mut now, mut next) = (now, next);
        keys.block(tokens, 0, now);
        let mut at = 0;
        while now.len() > 0 {
            values.block(tokens, at, &mut value_rows);
            at += BLOCK;
            keys.block(tokens, at, next);
            let mut ahead = [Ahead::new(now, &value_rows), Ahead::new(&value_rows, next)];
            let (mut heads, mut acc) = (q, &mut self.acc[..]);
            for (tile, queries) in self.tiles.iter_mut().zip(&self.queries) {
                let (tile_q, tile_acc);
                (tile_q, heads) = heads.split_at(tile.group() * d);
                (tile_acc, acc) = acc.split_at_mut(tile.group() * self.stride);
                let tile_q = queries.staged(tile_q);
                kernel::scores(level, keys.format(), tile, tile_q, scale * LOG2_E, now, ahead[0]);
                kernel::soften(level, tile, now.len());
                kernel::weigh(level, values.format(), tile, tile_acc, self.dim_v, &value_rows, ahead[1]);
                // The other tiles find everything in the cache.
                ahead = [Ahead::new(&none, &none); 2];
            }
            (now, next) = (next, now);
        }
        Ok(())
    }

    /// Joins what `other` has seen to what this one has. Nothing seen changes nothing.
    ///
    /// # Errors
    /// [`AttentionError::Dim`] or [`AttentionError::Length`] if dimensions or groups differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), AttentionError> {
        expect_len(self.group, other.group)?;
        if other.dim_v != self.dim_v {
            return Err(AttentionError::Dim { expected: self.dim_v, got: other.dim_v });
        }
        for (g, row) in other.acc.chunks_exact(other.stride.max(1)).enumerate() {
            let (max, sum) = other.state(g);
            self.join(g, max, sum, &row[..self.dim_v]);
        }
        Ok(())
    }

    /// Joins a partial result: outputs `[group][dim_v]` and the natural logarithm of each head's sum, as
    /// [`Decode::finish`] gives them. It may come from another device, or estimate tokens that are not read. `-inf`
    /// means nothing was seen, whatever the head's output.
    ///
    /// # Errors
    /// [`AttentionError::Length`] if a buffer does not fit.
    pub fn merge_partial(&mut self, out: &[f32], lse: &[f32]) -> Result<(), AttentionError> {
        expect_len(self.group * self.dim_v, out.len())?;
        expect_len(self.group, lse.len())?;
        for (g, lse) in lse.iter().enumerate() {
            self.join(g, lse * LOG2_E, 1.0, &out[g * self.dim_v..][..self.dim_v]);
        }
        Ok(())
    }

    /// Writes the outputs `[group][dim_v]` and the natural logarithms of the sums, `[group]`. A head that has seen
    /// nothing gets zeros and `-inf`. More may be added afterwards.
    ///
    /// # Errors
    /// [`AttentionError::Length`] if a buffer does not fit.
    #[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
    pub fn finish(&self, out: &mut [f32], lse: &mut [f32]) -> Result<(), AttentionError> {
        expect_len(self.group * self.dim_v, out.len())?;
        expect_len(self.group, lse.len())?;
        for (g, lse) in lse.iter_mut().enumerate() {
            let (max, sum) = self.state(g);
            let out = &mut out[g * self.dim_v..][..self.dim_v];
            if sum == 0.0 {
                *lse = f32::NEG_INFINITY;
                out.fill(0.0);
                continue;
            }
            *lse = ((f64::from(max) + libm::log2(f64::from(sum))) * LN_2) as f32;
            for (out, acc) in out.iter_mut().zip(&self.acc[g * self.stride..]) {
                *out = acc / sum;
            }
        }
        Ok(())
    }

    /// Maximum (base 2) and sum of head `g`.
    fn state(&self, g: usize) -> (f32, f32) {
        let (tile, g) = self.place(g);
        (self.tiles[tile].max[g], self.tiles[tile].sum[g])
    }

    /// Which tile holds head `g`, and where in it.
    fn place(&self, mut g: usize) -> (usize, usize) {
        let mut tile = 0;
        while g >= self.tiles[tile].group() {
            g -= self.tiles[tile].group();
            tile += 1;
        }
        (tile, g)
    }

    fn join(&mut self, head: usize, max: f32, sum: f32, row: &[f32]) {
        if max == f32::NEG_INFINITY || sum == 0.0 {
            return;
        }
        let (tile, g) = self.place(head);
        let tile = &mut self.tiles[tile];
        let old = tile.max[g];
        // Not `f32::max`, which would drop a NaN.
        let top = if old > max { old } else { max };
        let (mine, theirs) = (libm::exp2f(old - top), libm::exp2f(max - top));
        tile.max[g] = top;
        tile.sum[g] = tile.sum[g] * mine + sum * theirs;
        for (acc, x) in self.acc[head * self.stride..].iter_mut().zip(row) {
            *acc = *acc * mine + x * theirs;
        }
    }
}

/// Scores `<q, k>` (not scaled) of the query heads `q`, `[group][keys.dim()]`, for each of the tokens:
/// `out` is `[group][tokens.len()]`. Each is off by at most `(d/8 + 16) 2^-24 sum_j |q_j k_j|`.
///
/// Limit: the bandwidth of reading the keys for a few heads, multiply-adds for many. Allocates nothing.
///
/// # Errors
/// [`AttentionError::Length`] if `q` is not whole rows or `out` has another length, [`AttentionError::Token`] or
/// [`AttentionError::Range`] if a token has no key.
pub fn scores(q: &[f32], keys: &Rows<'_>, tokens: Tokens<'_>, out: &mut [f32]) -> Result<(), AttentionError> {
    scores_at(cpu::level(), q, keys, &tokens, out)
}

pub(super) fn scores_at(
    level: Level,
    q: &[f32],
    keys: &Rows<'_>,
    tokens: &Tokens<'_>,
    out: &mut [f32],
) -> Result<(), AttentionError> {
    let d = keys.dim();
    let group = q.len().checked_div(d).unwrap_or(0);
    expect_len(group * d, q.len())?;
    tokens.check(keys.n_tokens())?;
    let n = tokens.len();
    expect_len(group * n, out.len())?;
    if group == 0 {
        return Ok(());
    }
    let none = RowBlock::new(0);
    let mut key_rows = [RowBlock::new(keys.row_bytes()), RowBlock::new(keys.row_bytes())];
    let mut queries = Queries::new();
    // All tiles take a stretch before the next, so that memory is read once.
    for start in (0..n).step_by(STRETCH) {
        let end = n.min(start + STRETCH);
        let mut head = 0;
        for size in tile_sizes(group) {
            let mut tile = Tile::new(size);
            let q = queries.stage(&q[head * d..][..size * d]);
            let [now, next] = &mut key_rows;
            let (mut now, mut next) = (now, next);
            keys.block(tokens, start, now);
            let mut at = start;
            while at < end {
                keys.block(tokens, at + BLOCK, next);
                let ahead = if head == 0 { Ahead::new(now, next) } else { Ahead::new(&none, &none) };
                kernel::scores(level, keys.format(), &mut tile, q, 1.0, now, ahead);
                for g in 0..size {
                    for (t, out) in out[(head + g) * n + at..][..now.len()].iter_mut().enumerate() {
                        *out = tile.cell(t, g);
                    }
                }
                at += now.len();
                (now, next) = (next, now);
            }
            head += size;
        }
    }
    Ok(())
}

/// Tokens whose keys, a quarter of a MiB in f16 at 128 columns, stay in the second-level cache for all tiles.
const STRETCH: usize = 1024;

/// Heads of each tile: as even as can be, none above [`HEADS`].
fn tile_sizes(group: usize) -> impl Iterator<Item = usize> {
    let tiles = group.div_ceil(HEADS);
    (0..tiles).map(move |i| group / tiles + usize::from(i < group % tiles))
}

pub(super) const fn expect_len(expected: usize, got: usize) -> Result<(), AttentionError> {
    if expected == got { Ok(()) } else { Err(AttentionError::Length { expected, got }) }
}
