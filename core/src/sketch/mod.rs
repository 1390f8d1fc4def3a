//! HotSketch: which ids of a stream weigh most, in bounded memory, and who of them owns which row of a table.
//!
//! After "CAFE: Towards Compact, Adaptive, and Fast Embedding for Large-scale Recommendation Models" (SIGMOD 2024), section 3.
//! An id hashes to one bucket of `C` slots (id, score, row), which fills whole cache lines. An insertion adds to the id's slot; if no
//! slot holds it, an [`Admission`] policy decides whether it may take the one with the least score. An id whose score reaches the
//! threshold gets a row, and events say so.
//!
//! What differs from the published sketch, whose behaviour [`SpaceSaving`] with [`Threshold::Fixed`] and
//! [`decay`](HotSketch::decay) is near to:
//!
//! - [`Randomised`] admission instead of SpaceSaving: a cold id no longer inherits what makes it look hot.
//! - The threshold finds itself ([`Threshold::Auto`]): a hand walks round the buckets, takes a histogram of the scores, and rows go
//!   from ids below the threshold to ids above it. A full pool never freezes the hot set.
//! - Ids are hashed well; the published `id mod buckets` fills few buckets when ids have structure.
//! - Decay without stops: later weights are worth more ([`SketchParams::half_life`]), and old buckets are brought up to date when touched.
//!   (In the published code only the threshold was inflated, so nothing decayed.)
//!
//! Twenty million ids, Zipf 1.05 over 33,762,577, 15,434 rows, 51 bytes a row: 0.97 of the true top ids own a row at the end
//! (SpaceSaving with a fixed threshold: 0.7); ten slots instead of five: 0.98. An id costs 9 ns to insert and 3 ns to look up on
//! one core (`cargo bench -p tersa-core --bench sketch`; docs/benchmarks.md).
//!
//! A sketch is one thread's. Several threads take several: split ids by field or by range, and nothing is shared.
//!
//! ```
//! use tersa_core::sketch::{COLD, Event, HotSketch, SketchParams, Threshold};
//!
//! let params = SketchParams { rows: 2, buckets: 8, threshold: Threshold::Auto, half_life: None, seed: 1 };
//! let mut sketch = HotSketch::<u32>::new(params)?;
//! let mut rows = Vec::new();
//! sketch.insert(&[7, 9, 7, 7, 9, 5], |event| match event {
//!     Event::Hot { id, row } => rows.push((id, row)),
//!     Event::Cold { .. } => unreachable!("there are rows for all"),
//! });
//! assert_eq!(rows, [(7, 0), (9, 1)]);
//! let mut out = [0; 3];
//! sketch.query(&[9, 5, 7], &mut out)?;
//! assert_eq!(out, [1, COLD, 0]);
//! # Ok::<(), tersa_core::sketch::SketchError>(())
//! ```
#![forbid(unsafe_code)]

mod admission;
mod bytes;
mod error;
mod hand;
mod hot;
mod id;
mod merge;
mod rows;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Decaying, Randomised, SpaceSaving};
pub use error::SketchError;
pub use hot::{HotSketch, SketchParams, Threshold};
pub use id::Id;
pub use merge::Mergeable;

/// What [`HotSketch::query`] says of an id without a row.
pub const COLD: u32 = u32::MAX;

/// A row changes its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<I> {
    /// The id owns the row from now on.
    Hot {
        /// Who.
        id: I,
        /// Which row.
        row: u32,
    },
    /// The id owned the row until now. Nothing has been done to the row yet.
    Cold {
        /// Who.
        id: I,
        /// Which row.
        row: u32,
    },
}
