//! Which blocks of keys each tile of query rows reads.

use super::{BLOCK, TILE};
use alloc::vec;
use alloc::vec::Vec;

/// In binary16.
const MINUS_INFINITY: u16 = 0xfc00;

/// One bit for each tile of 64 query rows and block of 32 keys. Query rows are right-aligned: the last belongs to the last
/// key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMask {
    n_queries: usize,
    n_keys: usize,
    /// `[tiles][words]`
    bits: Vec<u64>,
}

impl BlockMask {
    /// Nothing is kept yet. The only call that allocates: `n_queries / 64 * n_keys / 256` bytes.
    #[must_use]
    pub fn new(n_queries: usize, n_keys: usize) -> Self {
        let words = n_keys.div_ceil(BLOCK).div_ceil(64);
        Self { n_queries, n_keys, bits: vec![0; n_queries.div_ceil(TILE) * words] }
    }

    /// Everything that is seen is kept.
    #[must_use]
    pub fn dense(n_queries: usize, n_keys: usize) -> Self {
        let mut mask = Self::new(n_queries, n_keys);
        for tile in 0..mask.n_tiles() {
            for block in 0..mask.seen_blocks(tile) {
                mask.keep(tile, block);
            }
        }
        mask
    }

    /// Tiles of query rows.
    #[must_use]
    pub const fn n_tiles(&self) -> usize {
        self.n_queries.div_ceil(TILE)
    }

    /// Blocks of keys.
    #[must_use]
    pub const fn n_blocks(&self) -> usize {
        self.n_keys.div_ceil(BLOCK)
    }

    /// Query rows.
    #[must_use]
    pub const fn n_queries(&self) -> usize {
        self.n_queries
    }

    /// Keys.
    #[must_use]
    pub const fn n_keys(&self) -> usize {
        self.n_keys
    }

    /// Blocks that some row of a tile sees.
    #[must_use]
    pub fn seen_blocks(&self, tile: usize) -> usize {
        let rows = self.n_queries.min((tile + 1) * TILE);
        (self.n_keys + rows).saturating_sub(self.n_queries).div_ceil(BLOCK)
    }

    fn words(&self, tile: usize) -> core::ops::Range<usize> {
        let words = self.n_blocks().div_ceil(64);
        tile * words..(tile + 1) * words
    }

    /// Keeps a block.
    ///
    /// # Panics
    /// If there is no such tile or block.
    pub fn keep(&mut self, tile: usize, block: usize) {
        assert!(tile < self.n_tiles() && block < self.n_blocks(), "a tile and a block of the mask");
        let words = self.words(tile);
        self.bits[words][block / 64] |= 1 << (block % 64);
    }

    /// Forgets what a tile keeps.
    pub fn clear(&mut self, tile: usize) {
        let words = self.words(tile);
        self.bits[words].fill(0);
    }

    /// Whether a block is kept.
    #[must_use]
    pub fn is_kept(&self, tile: usize, block: usize) -> bool {
        self.bits[self.words(tile)][block / 64] >> (block % 64) & 1 == 1
    }

    /// The blocks a tile keeps, rising.
    pub fn kept(&self, tile: usize) -> impl Iterator<Item = usize> + '_ {
        self.bits[self.words(tile)].iter().enumerate().flat_map(|(w, &word)| {
            core::iter::successors((word != 0).then_some(word), |word| {
                let rest = word & (word - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |word| w * 64 + word.trailing_zeros() as usize)
        })
    }

    /// The blocks a tile sees and does not keep, rising.
    pub fn skipped(&self, tile: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.seen_blocks(tile)).filter(move |&block| !self.is_kept(tile, block))
    }

    /// The share of the blocks seen that is kept; 1 if none is seen.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn density(&self) -> f64 {
        let seen: usize = (0..self.n_tiles()).map(|tile| self.seen_blocks(tile)).sum();
        let kept: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        if seen == 0 { 1.0 } else { f64::from(kept) / seen as f64 }
    }

    /// Compressed rows: `starts[tile]..starts[tile + 1]` are the places of a tile's blocks in `blocks`. `starts` has a place
    /// more than there are tiles. Returns the number of blocks, which is all that is written if `blocks` is shorter.
    ///
    /// # Panics
    /// If `starts` has another length.
    #[allow(clippy::cast_possible_truncation, reason = "2^31 blocks are 64 G tokens")]
    pub fn to_csr(&self, starts: &mut [u32], blocks: &mut [u32]) -> usize {
        assert_eq!(starts.len(), self.n_tiles() + 1, "a start for each tile, and the end");
        let kept: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        if blocks.len() < kept as usize {
            return kept as usize;
        }
        let mut n = 0;
        for (tile, start) in starts.iter_mut().enumerate().take(self.n_tiles()) {
            *start = n as u32;
            for block in self.kept(tile) {
                blocks[n] = block as u32;
                n += 1;
            }
        }
        starts[self.n_tiles()] = n as u32;
        n
    }

    /// The mask that is added to scores, in binary16, as llama.cpp takes it: for each of the query rows `[n_queries]`, `stride` apart, 0
    /// where a key is seen and kept, minus infinity elsewhere, also beyond the keys.
    ///
    /// # Panics
    /// If a row does not fit.
    pub fn write_additive(&self, out: &mut [u16], stride: usize) {
        assert!(stride >= self.n_keys && out.len() >= self.n_queries * stride, "a row for each query");
        for (row, out) in out.chunks_exact_mut(stride.max(1)).take(self.n_queries).enumerate() {
            out.fill(MINUS_INFINITY);
            let seen = (self.n_keys + row + 1).saturating_sub(self.n_queries);
            for block in self.kept(row / TILE) {
                let end = seen.min((block + 1) * BLOCK);
                if block * BLOCK < end {
                    out[block * BLOCK..end].fill(0);
                }
            }
        }
    }
}
