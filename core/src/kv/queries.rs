//! The last queries of one KV head's group, from which a transform is learned anew.
//!
//! They are kept as `bf16`: what is learned are second moments of two thousand vectors, to which a rounding by 2^-9 is nothing,
//! and the range is that of `f32`.

use crate::num::{DType, convert};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Vectors that are kept: as many as a transform learns from up to 128 coordinates. Half of them cost 1 % of the recall at 1 % of the
/// tokens (SmolLM2, `docs/benchmarks.md`), a quarter 2 %.
const VECTORS: usize = 2048;

/// A ring of query vectors. A clone shares the memory until one of the two takes in another query.
#[derive(Clone, Debug)]
pub struct RecentQueries {
    d: usize,
    /// `[capacity][d]` `bf16`.
    ring: Arc<[[u8; 2]]>,
    /// Where the next vector goes.
    next: usize,
    /// Vectors that there are.
    len: usize,
}

impl RecentQueries {
    /// Room for 2048 vectors of `d` numbers: 4 KiB for each number.
    #[must_use]
    pub fn new(d: usize) -> Self {
        Self::with_capacity(d, VECTORS)
    }

    /// Room for `capacity` vectors.
    fn with_capacity(d: usize, capacity: usize) -> Self {
        Self { d, ring: vec![[0; 2]; capacity * d].into(), next: 0, len: 0 }
    }

    /// Room for none: they are not wanted.
    #[must_use]
    pub fn none(d: usize) -> Self {
        Self::with_capacity(d, 0)
    }

    /// Vectors that there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap, shared ones included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&self.ring[..])
    }

    /// Takes in vectors `[n][d]`, in the order of tokens, in the place of the oldest. A vector with a NaN or an infinity is left
    /// out, and what is behind the last whole one. Allocates nothing unless a clone shares the memory.
    pub fn push(&mut self, queries: &[f32]) {
        let capacity = self.ring.len() / self.d;
        let ring = match capacity {
            0 => return,
            _ => Arc::make_mut(&mut self.ring),
        };
        // Of more than there is room for, the last.
        let n = queries.len() / self.d;
        for query in queries.chunks_exact(self.d).skip(n.saturating_sub(capacity)) {
            // Not so for NaN. The largest numbers would round up to infinity.
            if !query.iter().all(|x| x.abs() < 3e38) {
                continue;
            }
            let place = &mut ring[self.next * self.d..][..self.d];
            convert::from_f32(DType::Bf16, query, place.as_flattened_mut()).expect("two bytes a number");
            self.next = (self.next + 1) % capacity;
            self.len = (self.len + 1).min(capacity);
        }
    }

    /// Forgets them.
    pub const fn clear(&mut self) {
        (self.next, self.len) = (0, 0);
    }

    /// The vectors, oldest first, `[len][d]`.
    #[must_use]
    pub fn rows(&self) -> Vec<f32> {
        let mut rows = vec![0.0; self.len * self.d];
        // Until the ring is full, the oldest is the first.
        let oldest = if self.len * self.d == self.ring.len() { self.next * self.d } else { 0 };
        let (late, early) = self.ring[..self.len * self.d].split_at(oldest);
        let (first, second) = rows.split_at_mut(early.len());
        for (part, rows) in [(early, first), (late, second)] {
            convert::to_f32(DType::Bf16, part.as_flattened(), rows).expect("two bytes a number");
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vector `i` is `(i, -i)`; both are `bf16` up to 256.
    fn vectors(range: core::ops::Range<u8>) -> Vec<f32> {
        range.flat_map(|i| [f32::from(i), -f32::from(i)]).collect()
    }

    #[test]
    fn the_last_are_kept_in_order() {
        let mut queries = RecentQueries::with_capacity(2, 5);
        assert!(queries.rows().is_empty());
        queries.push(&vectors(0..3));
        assert_eq!(queries.rows(), vectors(0..3));
        queries.push(&vectors(3..5));
        assert_eq!(queries.rows(), vectors(0..5));
        let fork = queries.clone();
        for (i, from) in (5..40).zip(1..) {
            queries.push(&vectors(i..i + 1));
            assert_eq!(queries.rows(), vectors(from..i + 1));
        }
        queries.push(&vectors(50..90));
        assert_eq!((queries.len(), queries.rows()), (5, vectors(85..90)));
        assert_eq!(fork.rows(), vectors(0..5));
    }

    #[test]
    fn odd_queries_are_left_out() {
        let mut queries = RecentQueries::with_capacity(2, 5);
        queries.push(&[1.0, 2.0, f32::NAN, 0.0, 3.0, 4.0, 0.0, f32::INFINITY, 5.0]);
        assert_eq!(queries.rows(), [1.0, 2.0, 3.0, 4.0]);
        let mut none = RecentQueries::none(2);
        none.push(&[1.0, 2.0]);
        assert!(none.is_empty() && none.rows().is_empty() && none.heap_bytes() == 0);
    }
}
