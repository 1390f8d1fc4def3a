//! The C ABI of Tersa. `include/tersa.h` is generated from this crate; `docs/abi.md` has the rules.
//!
//! | module | what it holds |
//! |---|---|
//! | `status` | status codes, `tersa_error`, and the door through which every call goes |
//! | `borrow` | from the caller's pointers to references: NULL, alignment, lengths, struct sizes |
//! | `tensor` | `tersa_kv`: strided, scattered and paged caches |
//! | `codec` | encoding a cache into bytes of the caller and back |
//! | `workspace` | scratch memory of one thread |
#![allow(non_camel_case_types, reason = "the names are C's")]

mod borrow;
pub mod codec;
pub mod status;
mod stored;
pub mod tensor;
pub mod version;
pub mod workspace;
mod zstd_coder;
