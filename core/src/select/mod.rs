//! Which tokens attention reads: second-level codes that re-rank candidates.
#![cfg(feature = "alloc")]

mod rerank;

pub use rerank::{RerankCodes, RerankError, RerankQuery};
