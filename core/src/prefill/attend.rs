//! Exact attention to the blocks that are kept.

use super::{BLOCK, BlockMask, BlockMeans, TILE};
use crate::attention::{AttentionError, Causal, Prompt, Summary};
use crate::cpu::{self, Level};
use alloc::vec::Vec;
use core::ops::Range;

/// Attention of the query rows of tiles `tiles` to the blocks that `masks` keeps, one mask for all query heads or one for
/// each. With `means`, a block that is skipped counts as its means. `out` is `[group][rows of the tiles][dim_v]`, `lse`
/// `[group][rows of the tiles]`.
///
/// Limit: as [`Causal::attend`], times the share that is kept. Allocates a list of at most `n_keys` tokens.
///
/// # Errors
/// As [`Causal::attend`]; [`AttentionError::Length`] too if a mask is for other numbers of rows, [`AttentionError::Token`]
/// if there are not such tiles.
pub fn attend(
    causal: &mut Causal,
    prompt: &Prompt<'_>,
    masks: &[BlockMask],
    means: Option<&BlockMeans>,
    tiles: Range<usize>,
    out: &mut [f32],
    lse: &mut [f32],
) -> Result<(), AttentionError> {
    attend_at(cpu::level(), causal, prompt, masks, means, tiles, out, lse)
}

#[allow(clippy::too_many_arguments, reason = "and the level")]
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "tokens and blocks")]
pub(super) fn attend_at(
    level: Level,
    causal: &mut Causal,
    prompt: &Prompt<'_>,
    masks: &[BlockMask],
    means: Option<&BlockMeans>,
    tiles: Range<usize>,
    out: &mut [f32],
    lse: &mut [f32],
) -> Result<(), AttentionError> {
    let (group, n_keys) = (prompt.queries.len(), prompt.keys.n_tokens());
    let length = |expected, got| {
        if expected == got { Ok(()) } else { Err(AttentionError::Length { expected, got }) }
    };
    let Some(queries) = prompt.queries.first() else { return Err(AttentionError::NoHeads) };
    if masks.len() != 1 {
        length(group, masks.len())?;
    }
    for mask in masks {
        length(n_keys, mask.n_keys())?;
        length(queries.n_tokens(), mask.n_queries())?;
        if tiles.end > mask.n_tiles() || tiles.start > tiles.end {
            return Err(AttentionError::Token { token: tiles.end * TILE, n_tokens: mask.n_queries() });
        }
    }
    let dim_v = prompt.values.dim();
    let rows = tiles.start * TILE..queries.n_tokens().min(tiles.end * TILE).max(tiles.start * TILE);
    length(group * rows.len() * dim_v, out.len())?;
    length(group * rows.len(), lse.len())?;
    let means = match means {
        Some(means) => {
            length(n_keys / BLOCK, means.len())?;
            Some(means.rows()?)
        }
        None => None,
    };
    let (mut tokens, mut skipped) = (Vec::new(), Vec::new());
    for head in 0..group {
        let mask = &masks[head % masks.len()];
        for tile in tiles.clone() {
            tokens.clear();
            tokens
                .extend(mask.kept(tile).flat_map(|b| (b * BLOCK) as u32..n_keys.min((b + 1) * BLOCK) as u32));
            let summary = means.as_ref().map(|[keys, values]| {
                skipped.clear();
                // A block that only some rows see in full has no means that hold for all of them.
                let whole = (n_keys + tile * TILE + 1).saturating_sub(queries.n_tokens()) / BLOCK;
                skipped.extend(mask.skipped(tile).take_while(|&b| b < whole).map(|b| b as u32));
                Summary { keys, values, rows: &skipped, weight: BLOCK as f32 }
            });
            let tile_rows = tile * TILE..rows.end.min((tile + 1) * TILE);
            let first = head * rows.len() + tile_rows.start - rows.start;
            let some = first..first + tile_rows.len();
            let out = &mut out[some.start * dim_v..some.end * dim_v];
            causal.attend_tile(level, prompt, head, tile_rows, &tokens, summary, out, &mut lse[some])?;
        }
    }
    Ok(())
}
