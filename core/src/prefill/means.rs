//! Means of blocks of keys and values.

use super::BLOCK;
use crate::attention::Rows;
use crate::cpu::{self, Level};
use alloc::vec;
use alloc::vec::Vec;

/// The mean key and the mean value of each whole block of 32 tokens of one head.
///
/// A block that is skipped counts as 32 tokens at its means: `32 exp(scale <q, mean key>)` in the sum and as much of the mean
/// value (as FlashPrefill V2 corrects, arXiv 2608.19758).
#[derive(Clone, Debug)]
pub struct BlockMeans {
    /// `[blocks][dim]`, little-endian `f32`.
    keys: Vec<u8>,
    values: Vec<u8>,
    dim: usize,
    dim_v: usize,
}

impl BlockMeans {
    /// The means. Cost: a pass over the rows; `(dim + dim_v) / 8` bytes a token are kept.
    #[must_use]
    pub fn new(keys: &Rows<'_>, values: &Rows<'_>) -> Self {
        let level = cpu::level();
        Self { keys: means(level, keys), values: means(level, values), dim: keys.dim(), dim_v: values.dim() }
    }

    /// Blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len().checked_div(4 * self.dim).unwrap_or(0)
    }

    /// Whether there is no whole block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values as rows.
    pub(super) fn rows(&self) -> Result<[Rows<'_>; 2], crate::attention::AttentionError> {
        let rows = |bytes, dim| Rows::contiguous(bytes, crate::num::DType::F32, dim);
        Ok([rows(&self.keys, self.dim)?, rows(&self.values, self.dim_v)?])
    }
}

#[allow(clippy::cast_precision_loss, reason = "32")]
fn means(level: Level, rows: &Rows<'_>) -> Vec<u8> {
    let d = rows.dim();
    let mut wide = vec![0.0; BLOCK * d];
    let mut sums = vec![0.0_f32; d];
    let mut bytes = Vec::with_capacity(rows.n_tokens() / BLOCK * d * 4);
    for block in 0..rows.n_tokens() / BLOCK {
        rows.widen(level, block * BLOCK..(block + 1) * BLOCK, &mut wide, d);
        sums.fill(0.0);
        for row in wide.chunks_exact(d.max(1)) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
        bytes.extend(sums.iter().flat_map(|sum| (sum / BLOCK as f32).to_le_bytes()));
    }
    bytes
}
