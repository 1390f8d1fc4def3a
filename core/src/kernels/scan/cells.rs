//! Tokens with two codes of 6 bits: what is decided for each of the 4096 pairs (cells) is decided for every token.
//!
//! A cell is a row, the first code, and a column, the second. A decision for all cells is 64 words of 64 bits, or 512
//! bytes: the byte of a cell is `row * 8 + column / 8`, its bit `column % 8`.
//!
//! **Limit** (AVX-512) of looking 64 tokens up: three permutes of 64 bytes make the index and the bit, four of 128 read
//! the 512 bytes, three blends and a test leave the mask; a compress and two stores write the indices. No scores are
//! computed, and the cost does not depend on how many query heads decided.

use super::{BLOCK, Piece, Tables, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::Level;

/// Cells.
pub(crate) const CELLS: usize = 4096;

/// A bit for each cell.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct CellSet(pub(crate) [u64; 64]);

impl CellSet {
    pub(crate) const EMPTY: Self = Self([0; 64]);

    pub(super) fn bytes(&self) -> &[u8; 512] {
        bytemuck::cast_ref(&self.0)
    }

    #[inline(always)]
    pub(super) const fn has(&self, row: u8, column: u8) -> bool {
        self.0[row as usize & 63] >> (column & 63) & 1 == 1
    }
}

/// The scores of all cells for head `head`, 0 where a cell's count is 0. `level` is the tables' own.
pub(crate) fn scores(level: Level, tables: Tables<'_>, head: usize, counts: &[u32], out: &mut [u16]) {
    assert_eq!((tables.layout.m, tables.layout.nbits), (2, 6));
    assert_eq!((counts.len(), out.len()), (CELLS, CELLS));
    let table = &tables.bytes[head * 256..][..256];
    let mut entries = [0_u16; 128];
    for (s, entries) in entries.chunks_exact_mut(64).enumerate() {
        for (c, entry) in entries.iter_mut().enumerate() {
            *entry = match level {
                Level::Scalar => u16::from_ne_bytes([table[128 * s + 2 * c], table[128 * s + 2 * c + 1]]),
                _ => u16::from_le_bytes([table[128 * s + c], table[128 * s + 64 + c]]),
            };
        }
    }
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::cell_scores(&entries, counts, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::cell_scores(&entries, counts, out) },
        _ => scalar::cell_scores(&entries, counts, out),
    }
}

/// The sum of the counts of those keys that are above `t`; the sum of all counts fits 32 bits.
pub(crate) fn count_above(level: Level, keys: &[u32], counts: &[u32], t: u32) -> u32 {
    assert_eq!(keys.len(), counts.len());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::count_above(keys, counts, t) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::count_above(keys, counts, t) },
        _ => scalar::count_above(keys, counts, t),
    }
}

/// The keys from `low` to `high` and their counts, side by side in `out`, whose two halves are as long as the keys and 16
/// more; how many.
pub(crate) fn keep(
    level: Level,
    keys: &[u32],
    counts: &[u32],
    [low, high]: [u32; 2],
    out: [&mut [u32]; 2],
) -> usize {
    assert_eq!(keys.len(), counts.len());
    assert!(out.iter().all(|out| out.len() >= keys.len() + 16));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::keep(keys, counts, [low, high], out) },
        _ => scalar::keep(keys, counts, [low, high], out),
    }
}

/// The cells whose key is above `t`, and those whose key is `t` or above.
pub(crate) fn sets(level: Level, keys: &[u32], t: u32, above: &mut CellSet, at_least: &mut CellSet) {
    assert_eq!(keys.len(), CELLS);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::sets(keys, t, above, at_least) },
        _ => scalar::sets(keys, t, above, at_least),
    }
}

/// Writes the indices, counted from the first token of the pieces, of the tokens whose cell is in `above`, and of the first
/// `ties` of those whose cell is only in `at_least`; how many. `out` behind those may be overwritten with anything.
///
/// # Panics
/// If `out` is too short.
pub(crate) fn emit<'a>(
    level: Level,
    pieces: impl Iterator<Item = Piece<'a>>,
    above: &CellSet,
    at_least: &CellSet,
    ties: usize,
    out: &mut [u32],
) -> usize {
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::emit_cells(pieces, above, at_least, ties, out) },
        _ => scalar::emit_cells(pieces, above, at_least, ties, out),
    }
}

/// The two code streams of a piece.
#[inline(always)]
pub(super) fn streams<'a>(piece: &Piece<'a>) -> [&'a [u8]; 2] {
    let (rows, columns) = piece.block.split_at(BLOCK);
    [&rows[piece.tokens.clone()], &columns[piece.tokens.clone()]]
}
