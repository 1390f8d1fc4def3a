//! Tersa's algorithms: packing the memory that large models live in.
//!
//! The crate is `no_std` (codecs, product quantization and containers need `alloc`), starts no threads, does no I/O and
//! keeps no state but the detected instruction set: every call works on the caller's buffers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`num`] | element types and their conversions, seeded random numbers, hashes |
//! | [`view`] | borrowed strided tensors `[n_tokens][n_kv_heads][head_dim]` |
//! | [`rotate`] | Walsh–Hadamard rotations and Lloyd–Max grids |
//! | [`pq`] | product quantization: training, encoding, decoding |
//! | [`attention`] | exact decode attention over chosen rows, partial results and their merging |
//! | [`select`] | exact top-k, group rules, top-p, budgets |
//! | [`sketch`] | HotSketch: the heaviest ids of a stream, and who of them owns a row |
//! | [`codec`] | K/V codecs behind one interface |
//! | [`format`] | the `.tersa` container's bytes |
//! | [`prefill`] | block-sparse causal attention of a prompt |
//! | [`kv`] | the live cache of a layer (PQCache): rows, indexes, window, drift, block cache of a fast memory tier |
#![no_std]
#![deny(missing_docs, unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

#[cfg(feature = "alloc")]
pub mod attention;
pub mod codec;
pub mod cpu;
#[cfg(feature = "alloc")]
pub mod format;
mod kernels;
pub mod kv;
pub mod num;
pub mod pq;
pub mod prefill;
pub mod rotate;
pub mod select;
#[cfg(feature = "alloc")]
pub mod sketch;
pub mod view;
