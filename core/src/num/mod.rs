//! Numbers: element types and conversions, seeded random numbers, hashes.

pub mod convert;
pub mod dtype;
mod ggml;
pub mod hash;
pub mod rng;

pub use dtype::DType;
