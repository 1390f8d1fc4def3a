//! The `.tersa` container: parsing and building its bytes. `docs/format.md` is the authority.
//!
//! No file access here: a [`ReadAt`] supplies bytes, a [`Sink`] takes them.
