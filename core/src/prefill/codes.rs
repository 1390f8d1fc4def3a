//! Eight-bit codes of keys.

use super::BLOCK;
use crate::attention::Rows;
use crate::cpu::{self, Level};
use crate::kernels::estimate as kernel;
use alloc::vec;
use alloc::vec::Vec;

/// Codes of one head's keys: eight bits a coordinate around the keys' mean, and a step for each block of 32 keys.
///
/// A mean taken away moves all scores of a row alike, which no softmax sees.
#[derive(Clone, Debug)]
pub struct KeyCodes {
    dim: usize,
    n_tokens: usize,
    /// `[blocks][BLOCK][width]`, biased.
    codes: Vec<u8>,
    steps: Vec<f32>,
}

impl KeyCodes {
    /// Codes of all the keys. Cost: two passes over them; `n (dim + 1/8)` bytes are kept.
    #[must_use]
    pub fn new(keys: &Rows<'_>) -> Self {
        Self::new_at(cpu::level(), keys)
    }

    pub(super) fn new_at(level: Level, keys: &Rows<'_>) -> Self {
        let (dim, n) = (keys.dim(), keys.n_tokens());
        let width = width(dim);
        let mut wide = vec![0.0; BLOCK * width];
        let mut sums = vec![0.0_f64; width];
        for from in (0..n).step_by(BLOCK) {
            let rows = BLOCK.min(n - from);
            keys.widen(level, from..from + rows, &mut wide, width);
            for row in wide[..rows * width].chunks_exact(width) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    // What is not finite is left out, as in the codes.
                    *sum += if x.abs() < f32::INFINITY { f64::from(*x) } else { 0.0 };
                }
            }
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a mean")]
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n.max(1) as f64) as f32).collect();
        let blocks = n.div_ceil(BLOCK);
        let mut codes = vec![0; blocks * BLOCK * width];
        let mut steps = vec![0.0; blocks];
        let mut signed = vec![0; BLOCK * width];
        for (block, (codes, step)) in codes.chunks_exact_mut(BLOCK * width).zip(&mut steps).enumerate() {
            let from = block * BLOCK;
            let rows = BLOCK.min(n - from);
            keys.widen(level, from..from + rows, &mut wide, width);
            signed.fill(0);
            *step = kernel::quantize(level, &wide[..rows * width], &mean, &mut signed[..rows * width]);
            for (code, signed) in codes.iter_mut().zip(&signed) {
                *code = signed.cast_unsigned() ^ kernel::BIAS;
            }
        }
        Self { dim, n_tokens: n, codes, steps }
    }

    /// Coordinates of a key.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.dim
    }

    /// Keys.
    #[must_use]
    pub const fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.codes.capacity() + self.steps.capacity() * size_of::<f32>()
    }

    /// Codes `[keys][width]` of a block, and what a step of them stands for.
    pub(super) fn block(&self, block: usize) -> (&[u8], f32) {
        let width = width(self.dim);
        let n = BLOCK.min(self.n_tokens - block * BLOCK);
        (&self.codes[block * BLOCK * width..][..n * width], self.steps[block])
    }
}

/// Codes of a row: whole lanes.
pub(super) const fn width(dim: usize) -> usize {
    dim.next_multiple_of(kernel::QUAD)
}
