//! Exact attention. [`Decode`]: the query heads of one KV head over any of its tokens, one step. [`Causal`]: the rows of a prompt,
//! or a chunk of one, each over the tokens up to its own. What follows is about both, with one exception that [`Causal`] names.
//!
//! For each head, `out = sum_t p_t v_t` with `p_t = exp(scale <q, k_t>) / sum_u exp(scale <q, k_u>)`, and
//! `lse = ln sum_t exp(scale <q, k_t>)`. The running maximum and rescaled sums are those of online softmax (Milakov and
//! Gimelshein, 2018, algorithm 3); partial results are merged by their `lse` (Dao et al., Flash-Decoding, 2023), so the
//! sinks, the window, the selected tokens and the current one may come one after the other, from different buffers, in
//! any order, and a part that another device computed or estimated joins in as `(out, lse)`.
//!
//! Keys and values are read once for a whole group of query heads, where they lie: strided, paged, by range or by list.
//! Their types and dimensions may differ. Nothing is allocated but by [`Decode::new`].
//!
//! **Error.** Keys and values widen exactly; everything else is rounded to `f32`. Let `u = 2^-24`, `n` the tokens and
//! `s = |scale| max_t sum_j |q_j k_tj|`. Against exact arithmetic each score is off by at most `e = (d/8 + 16) u s`,
//! so `lse` by at most `e + (128 + n/128 + 40) u (1 + |lse|)`, and each element of `out` by at most
//! `(2 e + 2 (128 + n/128 + 40) u) sum_t p_t |v_t|`, where a part added by one call counts `n/128` up. Weights below
//! `2^-126` of the greatest vanish. Results are the same bits for the same calls at the same SIMD level; between levels
//! they differ within twice the bound.
//!
//! **Not finite.** A token whose score is `-inf` has no weight. A score of NaN or `+inf` (also one that overflows) makes
//! the head's `out` and `lse` NaN. A NaN or an infinity in a value row that is attended makes its column not finite
//! in every head, whatever its weight. Other heads and columns stay as they are.
//!
//! **Cost.** One pass over the rows; `4 n d` floating-point operations a head and one exponential a score.
//!
//! ```
//! use tersa_core::attention::{Decode, Rows, Tokens};
//! use tersa_core::num::DType;
//!
//! let (d, n) = (64, 100);
//! let bytes = |f: fn(f32) -> f32| -> Vec<u8> { (0..n * d).flat_map(|i| f(i as f32).to_le_bytes()).collect() };
//! let (k, v) = (bytes(f32::sin), bytes(f32::cos));
//! let (keys, values) = (Rows::contiguous(&k, DType::F32, d)?, Rows::contiguous(&v, DType::F32, d)?);
//! let q = vec![0.5; 2 * d]; // two query heads
//!
//! let mut decode = Decode::new(2, d)?;
//! decode.add(&q, 0.125, &keys, &values, Tokens::Range(0..4))?; // sinks
//! decode.add(&q, 0.125, &keys, &values, Tokens::List(&[7, 50, 51]))?; // selected
//! decode.add(&q, 0.125, &keys, &values, Tokens::Range(90..100))?; // window
//! let (mut out, mut lse) = (vec![0.0; 2 * d], vec![0.0; 2]);
//! decode.finish(&mut out, &mut lse)?;
//! assert!(lse.iter().all(|x| x.is_finite()));
//! # Ok::<(), tersa_core::attention::AttentionError>(())
//! ```
#![cfg(feature = "alloc")]
#![forbid(unsafe_code)]

mod causal;
mod decode;
mod rows;
#[cfg(test)]
pub(crate) mod tests;

pub use causal::{Causal, Maxima, Prompt};
pub(crate) use causal::{Summary, TILE};
pub use decode::{Decode, scores};
pub use rows::{Blocks, Rows, Tokens};

use crate::num::DType;

/// Why rows cannot be attended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionError {
    /// Rows of this type are not read; f32, f16, bf16 and q8_0 are.
    Type {
        /// The type.
        dtype: DType,
    },
    /// A row's elements are apart, or there is no such head in the view.
    Head {
        /// The head.
        head: usize,
    },
    /// No accumulator has no query heads.
    NoHeads,
    /// A row of a block type that is not whole blocks.
    SplitBlock {
        /// The type.
        dtype: DType,
        /// Elements of the row.
        dim: usize,
    },
    /// A row lies outside its data.
    OutOfBounds {
        /// Bytes that the rows reach.
        needed: u128,
        /// Bytes there are.
        len: usize,
    },
    /// A token beyond the rows.
    Token {
        /// The token.
        token: usize,
        /// Tokens there are.
        n_tokens: usize,
    },
    /// A range that ends before it starts.
    Range {
        /// Its start.
        start: usize,
        /// Its end.
        end: usize,
    },
    /// A buffer's length does not fit the heads and rows.
    Length {
        /// The length it should have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// Accumulators or value rows of different dimension.
    Dim {
        /// Elements expected.
        expected: usize,
        /// Elements there are.
        got: usize,
    },
}

impl core::fmt::Display for AttentionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Type { dtype } => {
                write!(f, "rows of {dtype} cannot be attended to; f32, f16, bf16 and q8_0 can")
            }
            Self::Head { head } => write!(f, "head {head} does not exist or its rows are not contiguous"),
            Self::NoHeads => f.write_str("attention needs at least one query head"),
            Self::SplitBlock { dtype, dim } => {
                write!(f, "rows of {dim} elements are not whole blocks of {dtype}")
            }
            Self::OutOfBounds { needed, len } => {
                write!(f, "the rows need {needed} bytes, the data has {len}")
            }
            Self::Token { token, n_tokens } => write!(f, "token {token} is beyond the {n_tokens} there are"),
            Self::Range { start, end } => write!(f, "the range {start}..{end} ends before it starts"),
            Self::Length { expected, got } => write!(f, "a buffer holds {got} elements where {expected} fit"),
            Self::Dim { expected, got } => write!(f, "rows of {got} elements where {expected} are expected"),
        }
    }
}

impl core::error::Error for AttentionError {}
