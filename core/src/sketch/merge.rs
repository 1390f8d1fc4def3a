//! Two sketches of two streams to one of both.

use super::hot::{HotSketch, Threshold};
use super::{Admission, Event, Id, Randomised, SketchError, SpaceSaving};
use crate::kernels::sketch::{EPOCH_BITS, renew, words};
use crate::num::hash::mix64;
use alloc::vec::Vec;

/// A policy under which the scores of two buckets can be joined without losing what they promise.
///
/// [`SpaceSaving`]'s scores stay upper bounds with the error of both streams together (Agarwal et al., "Mergeable summaries"), and
/// [`Randomised`]'s stay unbiased (Ting, "Data sketches for disaggregated subset sum"). A policy that takes off
/// ([`Decaying`](super::Decaying)) promises lower bounds that depend on the order of a stream: two of its sketches cannot be
/// merged without counting newcomers of one stream twice against the other, so it is none.
pub trait Mergeable: Admission {
    /// Whether an id that a full bucket does not hold may have had as much as its least score there.
    const UPPER_BOUND: bool;

    /// Which of two cut entries stays with their joint score, or `None` if the smaller is dropped.
    fn keeps_larger(larger: f32, smaller: f32, uniform: f32) -> Option<bool>;
}

impl Mergeable for SpaceSaving {
    const UPPER_BOUND: bool = true;
    fn keeps_larger(_: f32, _: f32, _: f32) -> Option<bool> {
        None
    }
}

impl Mergeable for Randomised {
    const UPPER_BOUND: bool = false;
    fn keeps_larger(larger: f32, smaller: f32, uniform: f32) -> Option<bool> {
        Some(uniform * (larger + smaller) < larger)
    }
}

#[derive(Clone, Copy)]
struct Entry {
    key: u32,
    score: f32,
    row: u32,
}

impl<I: Id, P: Mergeable, const C: usize> HotSketch<I, P, C> {
    /// Takes in what `other` saw. Rows stay with their owners here; `other`'s rows mean nothing any more. An id that its bucket
    /// cannot hold any longer loses its row, and the automatic threshold becomes the sum of both until the hand has gone round.
    ///
    /// Cost: a pass over all buckets.
    ///
    /// # Errors
    /// [`SketchError::Unlike`] if seeds or numbers of buckets differ.
    pub fn merge(&mut self, other: &Self, mut events: impl FnMut(Event<I>)) -> Result<(), SketchError> {
        if self.params.seed != other.params.seed {
            return Err(SketchError::Unlike { what: "seed" });
        }
        if self.params.buckets != other.params.buckets {
            return Err(SketchError::Unlike { what: "number of buckets" });
        }
        let mut entries = Vec::with_capacity(2 * C);
        for bucket in 0..self.params.buckets {
            let epoch = self.epoch;
            let words = self.bucket_mut(bucket);
            renew::<C>(words, epoch);
            let theirs = other.bucket(bucket);
            let age = other.epoch.wrapping_sub(theirs[self::words(C) - 1]);
            let unit = libm::exp2f(-(age as f32) * EPOCH_BITS as f32) / other.scale * self.scale;
            let score = |words: &[u32], slot: usize| f32::from_bits(words[C + slot]);
            let least = |words: &[u32]| {
                let all = (0..C).map(|s| score(words, s));
                if P::UPPER_BOUND { all.fold(f32::INFINITY, f32::min) } else { 0.0 }
            };
            let words = self.bucket(bucket);
            let (our_least, their_least) = (least(words), least(theirs) * unit);
            entries.clear();
            for slot in (0..C).filter(|s| score(words, *s) > 0.0 || words[2 * C + s] != 0) {
                let score = score(words, slot) + their_least;
                entries.push(Entry { key: words[slot], score, row: words[2 * C + slot] });
            }
            for slot in (0..C).filter(|s| score(theirs, *s) > 0.0) {
                let (key, theirs) = (theirs[slot], score(theirs, slot) * unit);
                match entries.iter_mut().find(|e| e.key == key) {
                    Some(ours) => ours.score += theirs - their_least,
                    None => entries.push(Entry { key, score: theirs + our_least, row: 0 }),
                }
            }
            entries.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
            while entries.len() > C {
                let Some(mut gone) = entries.pop() else { break };
                let last = entries.len() - 1;
                let random = mix64(self.params.seed ^ (u64::from(bucket) << 8 | entries.len() as u64));
                #[allow(clippy::cast_precision_loss, reason = "24 bits are exact")]
                let uniform = (random >> 40) as f32 / (1_u32 << 24) as f32;
                if let Some(larger) = P::keeps_larger(entries[last].score, gone.score, uniform) {
                    let sum = entries[last].score + gone.score;
                    if !larger {
                        core::mem::swap(&mut entries[last], &mut gone);
                    }
                    entries[last].score = sum;
                    entries.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
                }
                if gone.row != 0 {
                    let row = gone.row - 1;
                    self.free.give(row);
                    events(Event::Cold { id: self.owner(row, gone.key), row });
                }
            }
            let words = self.bucket_mut(bucket);
            words[..3 * C].fill(0);
            for (slot, entry) in entries.iter().enumerate() {
                words[slot] = entry.key;
                words[C + slot] = entry.score.to_bits();
                words[2 * C + slot] = entry.row;
            }
        }
        self.seen = self.seen.wrapping_add(other.seen);
        if self.params.threshold == Threshold::Auto {
            self.threshold += other.threshold / other.scale * self.scale;
        }
        Ok(())
    }
}
