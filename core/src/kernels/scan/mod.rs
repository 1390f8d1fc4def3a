//! Scores of product-quantized tokens: tables of the queries' products with the centroids, and sums of table entries
//! over codes.
//!
//! **Layout.** Codes lie in blocks of [`BLOCK`] tokens, structure of arrays, see [`Layout`]. 6- and 8-bit codes: a
//! byte a code, `[m][BLOCK]`. 4-bit codes: 32-bit words of eight sub-spaces, `[m / 8][BLOCK]`; byte `p` of word `w` has
//! sub-space `8w + p` in its low and `8w + 4 + p` in its high half.
//!
//! **Tables** hold unsigned integers whose sums over the sub-spaces fit 16 bits, so that sums wrap nowhere and are the
//! same in any order: scores are equal at every level. A vector permute is the look-up: 64 bytes are one register, which
//! VPERMB reads at 64 indices; 256 bytes are two permutes of two registers and a blend. Tables of 6 and 8 bits are 16
//! bits wide (at AVX-512 in two planes of bytes); those of 4 bits are 8 bits wide and four sub-spaces to a register: an index is a
//! code and its byte's place, and one dot product with ones adds four sub-spaces to each token's 32-bit sum.
//!
//! **Limit** (AVX-512, vector operations for 64 codes of one head): 6 bits 2 permutes, 2 unpacks, 2 additions; 8 bits 4
//! permutes, 2 blends, 2 unpacks, 2 additions; 4 bits 1 permute, 1 dot product and 1.5 to make the indices, which all
//! heads of a group share, as they share the loads of codes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cells;
mod scalar;
#[cfg(test)]
mod tests;

use super::assign::Split;
use crate::cpu::Level;
use core::ops::Range;

/// Tokens of a block of codes.
pub(crate) const BLOCK: usize = 2048;

/// Codes and tables lie on cache lines, so that no vector load straddles two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

// SAFETY: 64 bytes, every pattern of which is valid; size and alignment are equal, so there is no padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// How the codes of `m` sub-spaces lie in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) m: usize,
    /// 4, 6 or 8.
    pub(crate) nbits: u8,
}

impl Layout {
    /// Arrays of a block.
    pub(crate) const fn streams(self) -> usize {
        if self.nbits == 4 { self.m.div_ceil(8) } else { self.m }
    }

    /// Bytes of a token in one array.
    pub(crate) const fn stride(self) -> usize {
        if self.nbits == 4 { 4 } else { 1 }
    }

    /// Bytes of a token.
    pub(crate) const fn token_bytes(self) -> usize {
        self.streams() * self.stride()
    }

    /// Bytes of one head's integer tables.
    pub(crate) const fn table_bytes(self) -> usize {
        match self.nbits {
            4 => self.streams() * 128,
            _ => self.m * (2 << self.nbits),
        }
    }
}

/// Tokens of one block.
#[derive(Clone)]
pub(crate) struct Piece<'a> {
    /// The whole block, `[streams][BLOCK][stride]`.
    pub(crate) block: &'a [u8],
    /// Which of its tokens.
    pub(crate) tokens: Range<usize>,
}

impl<'a> Piece<'a> {
    /// The bytes of this piece's tokens in array `s`.
    #[inline(always)]
    fn stream(&self, s: usize, stride: usize) -> &'a [u8] {
        &self.block[s * BLOCK * stride..][..BLOCK * stride]
            [self.tokens.start * stride..self.tokens.end * stride]
    }
}

/// Integer tables of a group of heads, as [`quantize`] wrote them.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) layout: Layout,
    /// `[group][..]`, [`Layout::table_bytes`] each, on a cache line's start.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Tables<'a> {
    fn heads(self) -> core::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.layout.table_bytes())
    }
}

/// Products of the queries `[group][d]` with the centroids: `lut[group][m][ksub]`. `table` is [`Split::fill_table`]'s.
/// A product is a sum over the columns in order, every multiplication and addition rounded by itself, at every level.
pub(crate) fn products(level: Level, split: Split, table: &[f32], q: &[f32], lut: &mut [f32]) {
    assert_eq!(table.len(), split.table_len());
    assert!(q.len().is_multiple_of(split.d));
    assert_eq!(lut.len(), q.len() / split.d * split.m * split.ksub);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::products(split, table, q, lut) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::products(split, table, q, lut) },
        _ => scalar::products(split, table, q, lut),
    }
}

/// The least and the greatest product of each sub-space of one head: `lut[m][ksub]` to `(low, high)[m]`.
pub(crate) fn extremes(level: Level, ksub: usize, lut: &[f32], extremes: &mut [(f32, f32)]) {
    assert_eq!(lut.len(), ksub * extremes.len());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::extremes(ksub, lut, extremes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::extremes(ksub, lut, extremes) },
        _ => scalar::extremes(ksub, lut, extremes),
    }
}

/// Integer tables of one head: each product less its sub-space's least one, times `steps` (the reciprocal of the
/// tables' unit), rounded down. The caller sees to it that entries fit their width and their sums 16 bits.
pub(crate) fn quantize(
    level: Level,
    layout: Layout,
    lut: &[f32],
    extremes: &[(f32, f32)],
    steps: f32,
    out: &mut [u8],
) {
    assert_eq!((lut.len(), extremes.len()), (layout.m << layout.nbits, layout.m));
    assert_eq!(out.len(), layout.table_bytes());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::quantize(layout, lut, extremes, steps, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::quantize(layout, lut, extremes, steps, out) },
        _ => scalar::quantize(layout, false, lut, extremes, steps, out),
    }
}

/// Scores `[group][n]` of the tokens of the pieces in order, `n` in all: for each head the sum of its tables' entries
/// at a token's codes. `level` is the one that the tables were written at.
pub(crate) fn scan<'a>(
    level: Level,
    tables: Tables<'_>,
    n: usize,
    pieces: impl Iterator<Item = Piece<'a>>,
    scores: &mut [u16],
) {
    assert_eq!(scores.len() * tables.layout.table_bytes(), n * tables.bytes.len());
    if n == 0 {
        return;
    }
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::scan(tables, n, pieces, scores) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::scan(tables, n, pieces, scores) },
        _ => scalar::scan(tables, n, pieces, scores),
    }
}
