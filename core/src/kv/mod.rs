//! The live cache of one layer: PQCache (Zhang et al., SIGMOD 2025, arXiv 2407.12820), kept as the paper means it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | sinks, window, budget, codes: presets |
//! | [`index`] | codebook and codes of one head: train, append, select |
//! | [`head_index`] | the same for a sequence whose rows lie elsewhere: sinks, coded tokens, tail |
//! | [`cache`] | a layer: rows and indexes of all heads, decode steps |
//! | [`store`] | exact rows of a head, in blocks that forks share |
//! | [`ring`] | which slot of a device's window buffer holds which token |
//! | [`block_cache`] | which blocks of tokens stay in a fast memory tier |
//! | [`drift`] | when an index is built anew |
//! | [`queries`] | the last queries, from which it is |
#![cfg(feature = "alloc")]
#![forbid(unsafe_code)]

pub mod block_cache;
pub mod cache;
mod coded;
pub mod config;
pub mod drift;
mod error;
pub mod head_index;
pub mod index;
pub mod queries;
pub mod ring;
pub mod store;

pub use cache::{HeadCache, HeadScratch, LayerShape, PqCache, Rebuild, Rebuilt};
pub use coded::{CodedScratch, coded_top_k};
pub use config::{Extent, PqConfig, Preset};
pub use drift::Refresh;
pub use error::KvError;
pub use head_index::{HeadIndex, IndexScratch, KeyRows};
pub use index::PqIndex;
