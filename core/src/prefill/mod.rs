//! Block-sparse causal attention of a prompt: eight-bit estimates pick the blocks of 32 keys that a tile of 64 query rows
//! reads, exact attention reads them, and the means of the others stand in for what was left out.
//!
//! The idea of a cheap inspection of every pair is SALE's (Ji et al., arXiv 2505.24179); the rule is ours. For a tile and
//! sampled rows `r` of it, one in [`Estimate::stride`]:
//!
//! ```text
//! M[r][b] = greatest estimate of scale <q_r, k_j> over the keys j that r sees in block b
//! L[r]    = ln sum_b exp(M[r][b])
//! score[b] = mean_r exp(M[r][b] - L[r])          keep b if score[b] >= threshold, is a sink or is near
//! ```
//!
//! | step | call | cost for `n` tokens |
//! |---|---|---|
//! | codes of the keys, means of blocks | [`KeyCodes::new`], [`BlockMeans::new`] | `n d` each |
//! | which blocks | [`Estimate::select`] | `n^2 / 2 / stride` products of bytes |
//! | attention | [`attend`] | [`BlockMask::density`] of dense attention, and 1/32 of it for the means |
//!
//! Masks are a bit a block ([`BlockMask`]), and turn into row lists ([`BlockMask::to_csr`]) or additive masks
//! ([`BlockMask::write_additive`]). Selection and masks are the same bits at every level; attention is within the
//! bound of [`Causal`](crate::attention::Causal) of exact attention to what is kept.
#![cfg(feature = "alloc")]
#![forbid(unsafe_code)]

mod attend;
mod codes;
mod estimate;
mod mask;
mod means;
#[cfg(test)]
mod tests;

pub use attend::attend;
pub use codes::KeyCodes;
pub use estimate::{Estimate, EstimateScratch};
pub use mask::BlockMask;
pub use means::BlockMeans;

/// Query rows of a tile.
pub const TILE: usize = crate::attention::TILE;

/// Keys of a block.
pub const BLOCK: usize = 32;
