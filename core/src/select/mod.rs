//! Which tokens attention reads: exact top-k, rules that combine the query heads of a group, top-p, budgets of heads, blocks.
//!
//! Nothing here knows where scores come from. Selected indices, counts and combined scores are bit-identical at every level.
//! Ties go to the lower index everywhere. Nothing allocates: buffers are the caller's, and [`TopKScratch`] is made once for
//! each thread. Lengths that do not fit one another are the caller's broken promise and panic.
//!
//! | call | what it gives | cost |
//! |---|---|---|
//! | [`top_k_u16`], [`top_k_f32`], [`top_k_of`] | the k best, indices rising | 2 passes over the scores |
//! | [`kth_u16`], [`kth_f32`], [`select_u16`], [`select_f32`] | the same in two steps | 1 pass each |
//! | [`at_least_u16`], [`at_least_f32`] | all above a threshold | 1 pass |
//! | [`combine`], [`combine_f32`] | one score a token from the scores of the heads of a group | 2 powers a score |
//! | [`group_top_k_u16`], [`group_top_k_f32`] | both | no powers for one head; of words, 1 power a score and a coarse one |
//! | [`top_p`], [`nucleus`] | the fewest tokens with a share `p` of the weight | up to 32 passes |
//! | [`head_budgets`], [`share_out`] | how many tokens each head of a layer gets | as top-k of all heads |
//! | [`RerankCodes`] | short codes of every token, scored for the candidates of a first level | 6 to 9 ns a candidate |
//! | [`block_scores`] | scores of blocks of tokens, for [`top_k_f32`] | 1 pass |
//!
//! The k-th score is found without sorting and without a histogram: a sample gives a range in which it lies most likely; one
//! pass counts what is above the range and keeps what is in it (5 % at k = n/5); what is kept is halved by counting. If
//! the sample misled, the counts say on which side to go on.
//!
//! ```
//! use tersa_core::select::{GroupRule, TopKScratch, group_top_k_u16};
//!
//! // Two query heads, four tokens; a step of 1 in a score is a step of 0.01 in the exponent.
//! let scores = [900, 100, 0, 600, /* second head */ 0, 1000, 100, 950];
//! let mut scratch = TopKScratch::new();
//! let (mut weights, mut out) = ([0.0; 4], [0; 2]);
//! let n = group_top_k_u16(GroupRule::SoftmaxSum, &scores, &[0.01, 0.01], 2, &mut weights, &mut out, &mut scratch);
//! assert_eq!(out[..n], [0, 1]);
//! ```
#![forbid(unsafe_code)]

mod block;
mod budget;
mod cut;
mod group;
#[cfg(feature = "alloc")]
mod marks;
mod nucleus;
#[cfg(feature = "alloc")]
mod rerank;
#[cfg(test)]
mod tests;
mod topk;

#[cfg(feature = "alloc")]
pub(crate) use group::{Softmax, combine_counted, is_monotone, softmaxes};
#[cfg(feature = "alloc")]
pub(crate) use marks::Cuts;

pub use block::{BlockRule, block_scores};
pub use budget::{head_budgets, share_out};
pub use group::{GroupRule, combine, combine_f32, group_top_k_f32, group_top_k_u16};
pub use nucleus::{nucleus, top_p};
#[cfg(feature = "alloc")]
pub use rerank::{RerankCodes, RerankError, RerankQuery};
pub use topk::{
    Threshold, TopKScratch, at_least_f32, at_least_u16, count_at_least_f32, count_at_least_u16, kth_f32,
    kth_u16, select_f32, select_u16, top_k_f32, top_k_of, top_k_u16,
};
