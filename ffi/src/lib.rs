//! The C ABI of Tersa. `include/tersa.h` is generated from this crate, and its first page has the rules.
//!
//! | module | what it holds |
//! |---|---|
//! | `status` | status codes, `tersa_error`, and the door through which every call goes |
//! | `borrow` | from the caller's pointers to references: NULL, alignment, lengths, struct sizes |
//! | `tensor` | `tersa_kv`: strided, scattered and paged caches |
//! | `view` | `tersa_view`: the rows of one head, strided or in a pool of blocks |
//! | `index` | which tokens of an engine's cache a query should attend to |
//! | `attention`, `select` | exact attention over rows, exact selection from scores, of the caller |
//! | `block_cache` | which blocks of tokens stay in a fast tier of memory |
//! | `codec` | encoding a cache into bytes of the caller and back |
//! | `reader`, `writer`, `files` | `.tersa` containers, in files, memory, or behind callbacks |
//! | `pool` | threads that encode and decode in the background |
//! | `workspace` | scratch memory of one thread |
#![allow(non_camel_case_types, reason = "the names are C's")]

pub mod attention;
pub mod block_cache;
mod borrow;
pub mod codec;
pub mod files;
pub mod index;
pub mod pool;
pub mod reader;
pub mod select;
pub mod status;
mod stored;
pub mod tensor;
pub mod version;
pub mod view;
pub mod workspace;
pub mod writer;
mod zstd_coder;
