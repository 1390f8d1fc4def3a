//! Scores of coded tokens for the query heads of a group.

use super::{Codes, PqError, QueryTables};
use crate::kernels::scan;
use core::ops::Range;

/// Scores `[group][n]` of `n` tokens, integers that stand for the products of the queries with the decoded keys, see
/// [`QueryTables`]. All heads in one pass over the codes, at the level the tables were filled at; equal at every level.
/// `group * m * n` look-ups; allocates nothing.
///
/// # Errors
/// [`PqError::OtherShape`] if tables and codes differ in shape, [`PqError::Tokens`] if there are not so many tokens,
/// [`PqError::Length`] unless there is room for `group * n` scores.
///
/// # Panics
/// If the range ends before it starts.
pub fn scan(
    tables: &QueryTables,
    codes: &Codes,
    tokens: Range<usize>,
    scores: &mut [u16],
) -> Result<(), PqError> {
    if codes.shape() != tables.shape() {
        return Err(PqError::OtherShape { expected: tables.shape(), got: codes.shape() });
    }
    codes.check_tokens(&tokens)?;
    let n = tokens.len();
    if scores.len() != tables.group() * n {
        return Err(PqError::Length { expected: tables.group() * n, got: scores.len() });
    }
    scan::scan(tables.level(), tables.tables(), n, codes.pieces(tokens), scores);
    Ok(())
}
