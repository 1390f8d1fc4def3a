//! Which codec for which stream.

pub mod policy;
pub mod search;
