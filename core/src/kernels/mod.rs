//! All SIMD. One folder for each family of kernels: `mod.rs` dispatches once per call and holds the tests,
//! `scalar.rs`, `avx2.rs` and `avx512.rs` hold one function of the same name each.
//!
//! The vector modules of some functions are the scalar loop compiled again with the wider instructions, where the compiler's
//! vectors are as good as ours. Every `level` comes from [`cpu`](crate::cpu), which saw the features it stands for.
#![allow(unsafe_code, reason = "the one room where vector loads, stores and feature-gated calls live")]

#[cfg(feature = "alloc")]
pub(crate) mod assign;
#[cfg(feature = "alloc")]
pub(crate) mod attend;
#[cfg(feature = "alloc")]
pub(crate) mod bits;
pub(crate) mod convert;
#[cfg(feature = "alloc")]
pub(crate) mod estimate;
pub(crate) mod ggml;
pub(crate) mod hadamard;
#[cfg(feature = "alloc")]
pub(crate) mod int;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "the codecs that use all of it need `alloc`"))]
pub(crate) mod lanes;
#[cfg(feature = "alloc")]
pub(crate) mod linalg;
#[cfg(feature = "alloc")]
pub(crate) mod lloyd_max;
#[cfg(feature = "alloc")]
pub(crate) mod planes;
#[cfg(feature = "alloc")]
pub(crate) mod rerank;
#[cfg(feature = "alloc")]
pub(crate) mod scan;
#[cfg(feature = "alloc")]
pub(crate) mod sketch;
#[cfg_attr(
    not(feature = "alloc"),
    allow(dead_code, reason = "counted scores are those of codes, which need `alloc`")
)]
pub(crate) mod softmax;
#[cfg(feature = "alloc")]
pub(crate) mod stats;
pub(crate) mod topk;
