//! Scores of scattered records of 2-, 3- or 4-bit codes against integer queries.
//!
//! A record holds the packed codes of one token (code `j` at bits `j * nbits..`, least significant bit first), then
//! its factor in two bytes ([`factor_of`]). A code stands for an integer level in -127..=127, the query's coordinates
//! are integers in -127..=127 as well, so the sum of products is exact and the same at every level:
//!
//! ```text
//! score[h][t] = (sum_j level[code_j(t)] * query[h][j]) as f32 * factor(t) * unit[h]
//! ```
//!
//! with the two products rounded in this order. Up to 1024 coordinates the sum stays below 2^24, so that its
//! conversion to `f32` is exact too.
//!
//! Sixteen records at a time are widened to bytes once ([`TILE`]); then each query head takes one multiply-add for each
//! vector of bytes, and the partial sums of the sixteen tokens are added in one tree of shuffles.
//!
//! **Limit.** AVX-512, one head, `d` = 128, 2 bits: 2 times (load, spread, look up, store), 2 times (load,
//! multiply-add), 3 operations of the tree, about 6 for address, factor and prefetch: 20 operations a token, at 2 a
//! cycle and 4 GHz 2.5 ns; measured 7 ns on a shared core. Candidates far apart cost a cache miss each, hidden by asking for records six tiles ahead.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use alloc::sync::Arc;

/// Tokens widened together.
pub(crate) const TILE: usize = 16;
/// Widened rows are a multiple of this many coordinates.
pub(crate) const PAD: usize = 64;
/// The most coordinates of a row.
pub(crate) const MAX_DIM: usize = 1024;
/// Bytes at the end of a block that belong to no record, so that vectors may be read across a record's end.
pub(crate) const SLACK: usize = 64;
/// Bytes of a record's factor.
pub(crate) const FACTOR_BYTES: usize = 2;
/// Records of a block.
pub(crate) const BLOCK: usize = 512;

/// Records of one head in blocks of [`BLOCK`], each block followed by [`SLACK`] bytes.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a> {
    pub(crate) blocks: &'a [Arc<[u8]>],
    /// Bytes of a record: its codes and its factor.
    pub(crate) stride: usize,
    /// Bits of a code: 2, 3 or 4.
    pub(crate) nbits: u32,
}

impl Records<'_> {
    /// The record and [`SLACK`] bytes after it.
    #[inline(always)]
    fn get(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let at = token % BLOCK * self.stride;
        &self.blocks[token / BLOCK][at..at + self.stride + SLACK]
    }

    #[inline(always)]
    fn factor(&self, record: &[u8]) -> f32 {
        let at = self.stride - FACTOR_BYTES;
        factor_of(u16::from_le_bytes([record[at], record[at + 1]]))
    }
}

/// The query heads that [`scores`] asks for.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    /// `[group][padded]`, zeros from the row's length on.
    pub(crate) queries: &'a [i8],
    /// A multiple of [`PAD`], at most [`MAX_DIM`].
    pub(crate) padded: usize,
    /// One for each head.
    pub(crate) units: &'a [f32],
    /// `128 * sum of the query`, one for each head: what unsigned levels count too much.
    pub(crate) excess: &'a [i32],
}

/// The number that stands for `factor >= 0` in a record: no sign, six bits of exponent, ten of mantissa, so a range of
/// 2^-32 to 2^32 (exclusive) and a relative error of at most 2^-11. Smaller numbers become 0, larger ones and NaN the largest.
pub(crate) fn pack_factor(factor: f32) -> u16 {
    const LOW: u32 = (127 - 32) << 10;
    // Round to ten bits of mantissa, ties upwards; a carry moves into the exponent as it should.
    let rounded = (factor.to_bits() + (1 << 12)) >> 13;
    match rounded.checked_sub(LOW) {
        Some(0) | None => 0,
        Some(x) => u16::try_from(x).unwrap_or(u16::MAX),
    }
}

/// What [`pack_factor`]'s number stands for.
#[inline(always)]
pub(crate) fn factor_of(packed: u16) -> f32 {
    let magnitude = f32::from_bits((u32::from(packed) << 13) + ((127 - 32) << 23));
    if packed == 0 { 0.0 } else { magnitude }
}

/// `out[h * tokens.len() + i]` = the score of `tokens[i]` for head `h`, as the module defines it.
///
/// # Panics
/// If a token has no record, or the lengths do not belong together.
pub(crate) fn scores(
    level: Level,
    records: Records<'_>,
    levels: &[i8; 16],
    heads: Heads<'_>,
    tokens: &[u32],
    out: &mut [f32],
) {
    let group = heads.units.len();
    assert!(heads.padded.is_multiple_of(PAD) && heads.padded <= MAX_DIM);
    assert!(heads.queries.len() == group * heads.padded && heads.excess.len() == group);
    assert_eq!(out.len(), group * tokens.len());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::scores(records, levels, heads, tokens, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::scores(records, levels, heads, tokens, out) },
        _ => scalar::scores(records, levels, heads, tokens, out),
    }
}
