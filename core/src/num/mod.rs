//! Numbers: element types and conversions, seeded random numbers, hashes.

pub mod convert;
pub mod dtype;
pub mod ggml;
pub mod hash;
pub mod rng;

pub use dtype::DType;
