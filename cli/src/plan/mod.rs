//! Which codec for which stream.

pub mod search;
