//! A text generator that embeds `tersa-core`: candle multiplies the quantized weights of a Llama model, Tersa keeps its
//! keys and values and serves its attention.
//!
//! | module | what it holds |
//! |---|---|
//! | [`attention`] | cache and attention of a layer: dense, or to selected tokens. What an engine takes over |
//! | [`session`] | the caches of all layers, saved to and resumed from a `.tersa` file |
//! | [`model`] | the Llama blocks |
//! | [`ops`] | norms, rotary positions, activations |
//! | [`tokenizer`] | the tokenizer in a GGUF file |

pub mod attention;
pub mod model;
pub mod ops;
pub mod session;
pub mod tokenizer;
