//! Causal attention of many query rows: a prompt, or a chunk of one.

use super::AttentionError;
use super::decode::expect_len;
use super::rows::{Rows, Tokens};
use crate::cpu::{self, Level};
use crate::kernels::attend::blocked::{self as kernel, PART, ROWS, Stage, Tile};
use crate::kernels::attend::{BLOCK, RowBlock};
use alloc::vec::Vec;
use core::f32::consts::LOG2_E;
use core::f64::consts::LN_2;
use core::ops::Range;

#[cfg(test)]
mod tests;

/// Query rows of a tile.
pub(crate) const TILE: usize = ROWS;

/// Rows that stand for many tokens each.
pub(crate) struct Summary<'a> {
    pub(crate) keys: &'a Rows<'a>,
    pub(crate) values: &'a Rows<'a>,
    /// Which of them.
    pub(crate) rows: &'a [u32],
    /// How many tokens each stands for.
    pub(crate) weight: f32,
}

/// Tiles that one block of keys is staged for, at least.
const TILES: usize = 4;

/// Queries, keys and values of one KV head.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Query rows of each head that shares the KV head; all the same number of rows.
    pub queries: &'a [Rows<'a>],
    /// Key rows.
    pub keys: Rows<'a>,
    /// Value rows, as many as there are keys.
    pub values: Rows<'a>,
    /// Usually `1 / sqrt(dim)`.
    pub scale: f32,
}

/// Where the greatest scores go.
#[derive(Debug)]
pub struct Maxima<'a> {
    /// Keys of a block: 16, 32, 64 or 128.
    pub block: usize,
    /// `[group][rows][keys.n_tokens().div_ceil(block)]`: the natural logarithm of the greatest weight that the row gives to
    /// a key of the block, `max_j scale <q, k_j> - lse`; `-inf` where the row sees none.
    pub out: &'a mut [f32],
}

/// Exact causal attention of the query heads that share a KV head, from tiles of 64 rows.
///
/// The last query row belongs to the last key (right-aligned): of `n_q` query rows and `n` keys, row `i` sees keys
/// `0..=n - n_q + i`. Rows before the first key see nothing.
///
/// Holds `64 (dim + dim_v + 140)` numbers for each tile, of which there are at least four, and a block of 128 keys and
/// values. One for each thread; threads share the work by rows or by KV heads.
///
/// **Error.** With the letters of the [module](super), where a score sums `d` products in order: `e = (d + 8) u s` and
/// the same bounds on `lse` and `out`.
///
/// **Not finite.** As in the [module](super), but a value row that is not finite makes its column not finite in all
/// rows of a tile that reaches its position.
///
/// ```
/// use tersa_core::attention::{Causal, Prompt, Rows};
/// use tersa_core::num::DType;
///
/// let (d, n) = (64, 100);
/// let bytes = |f: fn(f32) -> f32| -> Vec<u8> { (0..n * d).flat_map(|i| f(i as f32).to_le_bytes()).collect() };
/// let (q, k, v) = (bytes(f32::cos), bytes(f32::sin), bytes(f32::cos));
/// let rows = |bytes| Rows::contiguous(bytes, DType::F32, d);
/// let prompt = Prompt { queries: &[rows(&q)?], keys: rows(&k)?, values: rows(&v)?, scale: 0.125 };
///
/// let (mut out, mut lse) = (vec![0.0; n * d], vec![0.0; n]);
/// Causal::new(1, d, d)?.attend(&prompt, 0..n, &mut out, &mut lse, None)?;
/// assert_eq!(out[..3], [1.0, f32::cos(1.0), f32::cos(2.0)]); // the first row sees itself only
/// # Ok::<(), tersa_core::attention::AttentionError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Causal {
    group: usize,
    dim: usize,
    dim_v: usize,
    /// `[group][tiles of a head]`.
    tiles: Vec<Tile>,
    stage: Stage,
}

impl Causal {
    /// Room for `group` query heads. The only call that allocates.
    ///
    /// # Errors
    /// [`AttentionError::NoHeads`] if `group` is 0.
    pub fn new(group: usize, dim: usize, dim_v: usize) -> Result<Self, AttentionError> {
        if group == 0 {
            return Err(AttentionError::NoHeads);
        }
        let tiles = group * (TILES / group).max(1);
        let tiles = (0..tiles).map(|_| Tile::new(dim, dim_v)).collect();
        Ok(Self { group, dim, dim_v, tiles, stage: Stage::new(dim, dim_v) })
    }

    /// Outputs of the query rows `rows`: `out` is `[group][rows.len()][dim_v]`, `lse`, the natural logarithms of the sums,
    /// `[group][rows.len()]`. A row that sees nothing gets zeros and `-inf`. `maxima` changes no bit of either.
    ///
    /// Limit: multiply-adds, `dim + dim_v` a pair of row and key, of which `rows` of a prompt's end have the most.
    ///
    /// # Errors
    /// [`AttentionError::Length`] if heads, buffers or rows do not fit each other or the maxima's block is none of the four,
    /// [`AttentionError::Dim`] if rows are of another dimension, [`AttentionError::Token`] or
    /// [`AttentionError::Range`] if there are not such query rows. Nothing was written then.
    pub fn attend(
        &mut self,
        prompt: &Prompt<'_>,
        rows: Range<usize>,
        out: &mut [f32],
        lse: &mut [f32],
        maxima: Option<Maxima<'_>>,
    ) -> Result<(), AttentionError> {
        self.attend_at(cpu::level(), prompt, rows, out, lse, maxima)
    }

    pub(crate) fn attend_at(
        &mut self,
        level: Level,
        prompt: &Prompt<'_>,
        rows: Range<usize>,
        out: &mut [f32],
        lse: &mut [f32],
        mut maxima: Option<Maxima<'_>>,
    ) -> Result<(), AttentionError> {
        self.check(prompt, &rows)?;
        let n = rows.len();
        expect_len(self.group * n * self.dim_v, out.len())?;
        expect_len(self.group * n, lse.len())?;
        let n_keys = prompt.keys.n_tokens();
        if let Some(maxima) = &mut maxima {
            if !matches!(maxima.block, 16 | 32 | 64 | 128) {
                return Err(AttentionError::Length { expected: 32, got: maxima.block });
            }
            expect_len(self.group * n * n_keys.div_ceil(maxima.block), maxima.out.len())?;
            maxima.out.fill(f32::NEG_INFINITY);
        }
        let stripe = ROWS * (self.tiles.len() / self.group);
        for start in rows.clone().step_by(stripe) {
            let stripe = start..rows.end.min(start + stripe);
            self.stripe(level, prompt, &rows, &stripe, maxima.as_mut());
            self.write(&rows, &stripe, out, lse, maxima.as_mut());
        }
        Ok(())
    }

    /// Attention of the query rows `rows` of one head, at most a tile, to the tokens of a rising list that they see, and to
    /// the rows of a summary. `out` is `[rows.len()][dim_v]`.
    ///
    /// # Errors
    /// As [`Causal::attend`].
    #[allow(clippy::too_many_arguments, reason = "a tile and what it reads")]
    pub(crate) fn attend_tile(
        &mut self,
        level: Level,
        prompt: &Prompt<'_>,
        head: usize,
        rows: Range<usize>,
        tokens: &[u32],
        summary: Option<Summary<'_>>,
        out: &mut [f32],
        lse: &mut [f32],
    ) -> Result<(), AttentionError> {
        self.check(prompt, &rows)?;
        let Prompt { queries, keys, values, scale } = *prompt;
        let (n_queries, n_keys) = (queries[head].n_tokens(), keys.n_tokens());
        let list = Tokens::List(tokens);
        list.check(n_keys)?;
        expect_len(rows.len() * self.dim_v, out.len())?;
        expect_len(rows.len(), lse.len())?;
        let tile = &mut self.tiles[0];
        take_rows(level, &queries[head], rows.clone(), scale, tile, &mut self.stage);
        let seen = |i: usize| (n_keys + i + 1).saturating_sub(n_queries);
        let mut read = |keys: &Rows<'_>, values: &Rows<'_>, list: &Tokens<'_>, bias: f32, hide: bool| {
            for at in (0..list.len()).step_by(BLOCK) {
                let n = stage_block(level, keys, values, list, at, &mut self.stage);
                kernel::scores(level, tile, &self.stage, n);
                if bias != 0.0 {
                    tile.raise(n, bias);
                }
                for (key, &token) in tokens.iter().skip(at).take(if hide { n } else { 0 }).enumerate() {
                    let unseen = (token as usize + n_queries).saturating_sub(n_keys + rows.start);
                    tile.hide(key, 0..unseen.min(rows.len()));
                }
                kernel::soften(level, tile, n);
                kernel::weigh(level, tile, &self.stage, n);
            }
        };
        // Tokens beyond the last row's need not be read.
        let end = tokens.partition_point(|&t| (t as usize) < seen(rows.end.saturating_sub(1)));
        read(&keys, &values, &Tokens::List(&tokens[..end]), 0.0, true);
        if let Some(summary) = summary {
            let list = Tokens::List(summary.rows);
            list.check(summary.keys.n_tokens().min(summary.values.n_tokens()))?;
            read(summary.keys, summary.values, &list, libm::log2f(summary.weight), false);
        }
        write_tile(&self.tiles[0], self.dim_v, out, lse);
        Ok(())
    }

    fn check(&self, prompt: &Prompt<'_>, rows: &Range<usize>) -> Result<(), AttentionError> {
        expect_len(self.group, prompt.queries.len())?;
        let n_queries = prompt.queries[0].n_tokens();
        for queries in prompt.queries {
            expect_len(n_queries, queries.n_tokens())?;
        }
        expect_len(prompt.keys.n_tokens(), prompt.values.n_tokens())?;
        Tokens::Range(rows.clone()).check(n_queries)?;
        let dims = prompt.queries.iter().chain([&prompt.keys]).map(|rows| (self.dim, rows.dim()));
        for (expected, got) in dims.chain([(self.dim_v, prompt.values.dim())]) {
            if expected != got {
                return Err(AttentionError::Dim { expected, got });
            }
        }
        Ok(())
    }

    /// The tiles of a stripe of rows, each with its head and its rows.
    fn tiles<'a>(
        tiles: &'a mut [Tile],
        group: usize,
        stripe: &Range<usize>,
    ) -> impl Iterator<Item = (&'a mut Tile, usize, Range<usize>)> {
        let (each, stripe) = (tiles.len() / group, stripe.clone());
        tiles.iter_mut().enumerate().filter_map(move |(i, tile)| {
            let start = stripe.start + i % each * ROWS;
            let rows = start..stripe.end.min(start + ROWS);
            (!rows.is_empty()).then_some((tile, i / each, rows))
        })
    }

    /// Lets the rows `stripe` see all their keys.
    fn stripe(
        &mut self,
        level: Level,
        prompt: &Prompt<'_>,
        rows: &Range<usize>,
        stripe: &Range<usize>,
        mut maxima: Option<&mut Maxima<'_>>,
    ) {
        let Prompt { queries, keys, values, scale } = *prompt;
        let (n_queries, n_keys) = (queries[0].n_tokens(), keys.n_tokens());
        for (tile, head, rows) in Self::tiles(&mut self.tiles, self.group, stripe) {
            take_rows(level, &queries[head], rows, scale, tile, &mut self.stage);
        }
        // Keys that row `i` sees.
        let seen = |i: usize| (n_keys + i + 1).saturating_sub(n_queries);
        let tokens = Tokens::Range(0..seen(stripe.end - 1));
        for at in (0..tokens.len()).step_by(BLOCK) {
            stage_block(level, &keys, &values, &tokens, at, &mut self.stage);
            for (tile, head, tile_rows) in Self::tiles(&mut self.tiles, self.group, stripe) {
                let n = seen(tile_rows.end - 1).saturating_sub(at).min(BLOCK);
                if n == 0 {
                    continue;
                }
                kernel::scores(level, tile, &self.stage, n);
                for key in seen(tile_rows.start).saturating_sub(at)..n {
                    // The first row that sees the key.
                    let first = at + key + n_queries - n_keys;
                    tile.hide(key, 0..first - tile_rows.start);
                }
                kernel::soften(level, tile, n);
                kernel::weigh(level, tile, &self.stage, n);
                if let Some(maxima) = maxima.as_deref_mut() {
                    let first_row = head * rows.len() + tile_rows.start - rows.start;
                    keep_maxima(tile, maxima, first_row, n_keys, at..at + n);
                }
            }
        }
    }

    /// Writes what the rows `stripe` have gathered.
    #[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
    fn write(
        &mut self,
        rows: &Range<usize>,
        stripe: &Range<usize>,
        out: &mut [f32],
        lse: &mut [f32],
        mut maxima: Option<&mut Maxima<'_>>,
    ) {
        for (tile, head, tile_rows) in Self::tiles(&mut self.tiles, self.group, stripe) {
            let first_row = head * rows.len() + tile_rows.start - rows.start;
            let some = first_row..first_row + tile_rows.len();
            let out = &mut out[some.start * self.dim_v..some.end * self.dim_v];
            write_tile(tile, self.dim_v, out, &mut lse[some.clone()]);
            let Some(maxima) = maxima.as_deref_mut() else { continue };
            let n_blocks = maxima.out.len() / lse.len();
            let most = &mut maxima.out[some.start * n_blocks..some.end * n_blocks];
            for (r, most) in most.chunks_exact_mut(n_blocks.max(1)).enumerate() {
                let log2 = log2_sum(tile, r);
                for most in most.iter_mut().filter(|most| **most != f32::NEG_INFINITY) {
                    *most = ((f64::from(*most) - log2) * LN_2) as f32;
                }
            }
        }
    }
}

/// Lets a tile take query rows.
fn take_rows(
    level: Level,
    queries: &Rows<'_>,
    rows: Range<usize>,
    scale: f32,
    tile: &mut Tile,
    scratch: &mut Stage,
) {
    let mut block = RowBlock::new(queries.row_bytes());
    queries.block(&Tokens::Range(rows), 0, &mut block);
    kernel::take_queries(level, queries.format(), tile, &block, scale * LOG2_E, scratch);
}

/// Stages the keys and values of up to [`BLOCK`] tokens from the `at`th on; returns how many.
fn stage_block(
    level: Level,
    keys: &Rows<'_>,
    values: &Rows<'_>,
    tokens: &Tokens<'_>,
    at: usize,
    stage: &mut Stage,
) -> usize {
    let mut key_rows = RowBlock::new(keys.row_bytes());
    let mut value_rows = RowBlock::new(values.row_bytes());
    keys.block(tokens, at, &mut key_rows);
    values.block(tokens, at, &mut value_rows);
    kernel::stage(level, (keys.format(), &key_rows), (values.format(), &value_rows), stage);
    key_rows.len()
}

/// Keeps the greatest scores of the blocks of the keys `keys`, which the tile has just seen; `row` is its first row in `maxima`.
fn keep_maxima(tile: &Tile, maxima: &mut Maxima<'_>, row: usize, n_keys: usize, keys: Range<usize>) {
    let n_blocks = n_keys.div_ceil(maxima.block);
    let n_parts = keys.len().div_ceil(PART);
    for (i, parts) in (0..n_parts).step_by(maxima.block / PART).enumerate() {
        let mut most = [f32::NEG_INFINITY; ROWS];
        for part in parts..n_parts.min(parts + maxima.block / PART) {
            for (most, x) in most.iter_mut().zip(tile.part(part)) {
                *most = if *x > *most { *x } else { *most };
            }
        }
        let block = keys.start / maxima.block + i;
        for (r, most) in most[..tile.part(0).len()].iter().enumerate() {
            maxima.out[(row + r) * n_blocks + block] = *most;
        }
    }
}

/// The logarithm to base 2 of the sum of row `r`.
fn log2_sum(tile: &Tile, r: usize) -> f64 {
    let (max, sum) = tile.max_and_sum(r);
    f64::from(max) + libm::log2(f64::from(sum))
}

/// Outputs and logarithms of the sums of a tile's rows.
#[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
fn write_tile(tile: &Tile, dim_v: usize, out: &mut [f32], lse: &mut [f32]) {
    for (r, (out, lse)) in out.chunks_exact_mut(dim_v.max(1)).zip(lse).enumerate() {
        let (_, sum) = tile.max_and_sum(r);
        if sum == 0.0 {
            *lse = f32::NEG_INFINITY;
            out.fill(0.0);
            continue;
        }
        *lse = (log2_sum(tile, r) * LN_2) as f32;
        for (out, x) in out.iter_mut().zip(tile.sums(r)) {
            *out = x / sum;
        }
    }
}
