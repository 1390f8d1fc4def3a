//! Which slot of a device's window buffer holds which token.
//!
//! The last `window` tokens of a sequence lie in a buffer of as many slots on the device, the older ones on the host. A
//! new token takes the slot of the oldest, whose rows have to be on the host **before** they are overwritten; the
//! published code takes a view of the row, overwrites it and copies the view. [`Ring::push`] therefore names both.
//!
//! Rows never move within the buffer: removing tokens from the middle of the window frees their slots. Each layer has its
//! own ring and advances it itself, so that no layer runs ahead of another.
//!
//! Everything costs constant time but [`Ring::remove`] and [`Ring::truncate`], which visit the window. The ring allocates
//! when it is made and never again.

use super::KvError;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

/// What [`Ring::push`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// The slot that the new token takes.
    pub slot: u32,
    /// Whether the oldest token was in it: its rows go to the host first. It is then the window's oldest no more.
    pub evicts: bool,
}

/// Slots of the window's tokens, oldest first. See the [module](self).
#[derive(Clone, Debug)]
pub struct Ring {
    window: usize,
    /// Slot of each token in the window, oldest first.
    slots: VecDeque<u32>,
    /// The free slots; the last is taken first.
    free: Vec<u32>,
}

impl Ring {
    /// An empty window of `window` slots.
    ///
    /// # Errors
    /// [`KvError::Window`] if it is zero or above 2^32 - 1.
    pub fn new(window: usize) -> Result<Self, KvError> {
        let count = u32::try_from(window).map_err(|_| KvError::Window { window })?;
        if count == 0 {
            return Err(KvError::Window { window });
        }
        Ok(Self { window, slots: VecDeque::with_capacity(window), free: (0..count).rev().collect() })
    }

    /// Slots.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// Tokens in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of the window's token number `i`, 0 being the oldest.
    #[must_use]
    pub fn slot(&self, i: usize) -> Option<u32> {
        self.slots.get(i).copied()
    }

    /// The slots of all tokens in the window, oldest first.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = u32> {
        self.slots.iter().copied()
    }

    /// A new token comes in; in a full window the oldest leaves.
    pub fn push(&mut self) -> Push {
        let (slot, evicts) = match self.free.pop() {
            Some(slot) => (slot, false),
            None => (self.slots.pop_front().expect("a window without free slots is full"), true),
        };
        self.slots.push_back(slot);
        Push { slot, evicts }
    }

    /// The token before the oldest comes back from the host, as after a cut; the slot that it takes, or `None` if the
    /// window is full.
    pub fn push_oldest(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.slots.push_front(slot);
        Some(slot)
    }

    /// Keeps the `len` oldest tokens of the window.
    pub fn truncate(&mut self, len: usize) {
        while self.slots.len() > len {
            self.free.extend(self.slots.pop_back());
        }
    }

    /// Takes the window's tokens of `range` (0 being the oldest) out.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the window.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        if range.start > range.end || range.end > self.slots.len() {
            return Err(KvError::Range { start: range.start, end: range.end, len: self.slots.len() });
        }
        self.free.extend(self.slots.drain(range));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn window_must_have_slots() {
        assert_eq!(Ring::new(0).err(), Some(KvError::Window { window: 0 }));
    }

    /// A layer in two tiers, rows being token names: the host's rows, and the device's slots.
    struct Tiers {
        host: Vec<u32>,
        device: Vec<Option<u32>>,
        ring: Ring,
    }

    impl Tiers {
        fn new(window: usize) -> Self {
            Self { host: vec![], device: vec![None; window], ring: Ring::new(window).unwrap() }
        }

        fn append(&mut self, token: u32) {
            let push = self.ring.push();
            let slot = &mut self.device[push.slot as usize];
            if push.evicts {
                self.host.push(slot.unwrap());
            }
            *slot = Some(token);
        }

        fn all(&self) -> Vec<u32> {
            let window = self.ring.slots().map(|s| self.device[s as usize].unwrap());
            self.host.iter().copied().chain(window).collect()
        }

        fn refill(&mut self) {
            while let Some(&token) = self.host.last() {
                let Some(slot) = self.ring.push_oldest() else { break };
                self.device[slot as usize] = Some(token);
                self.host.pop();
            }
        }
    }

    #[test]
    fn the_token_that_leaves_the_window_is_the_one_the_host_gets() {
        // The reference stores the new token in its place and loses the old one.
        let mut tiers = Tiers::new(4);
        (0..8).for_each(|t| tiers.append(t));
        assert_eq!(tiers.host, [0, 1, 2, 3]);
        assert_eq!(tiers.all(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn every_layer_has_the_same_tokens_in_the_same_order() {
        // The reference advances one ring index when the first layer runs, so the others write one row further.
        let mut layers = [const { 3 }; 4].map(Tiers::new);
        for token in 0..20 {
            for layer in &mut layers {
                layer.append(token);
                assert_eq!(layer.all(), (0..=token).collect::<Vec<_>>());
            }
        }
    }

    proptest! {
        #[test]
        fn host_and_ring_are_all_tokens_in_order(window in 1usize..7, seed in any::<u64>()) {
            let mut rng = crate::num::rng::Xoshiro256pp::new(seed);
            let mut below = move |n: usize| usize::try_from(rng.below(n as u64)).unwrap();
            let mut tiers = Tiers::new(window);
            let mut list: Vec<u32> = vec![];
            for token in 0..120 {
                match below(8) {
                    0 => {
                        let len = below(list.len() + 1);
                        let on_host = tiers.host.len().min(len);
                        tiers.host.truncate(on_host);
                        tiers.ring.truncate(len - on_host);
                        list.truncate(len);
                        tiers.refill();
                    }
                    1 => {
                        let start = below(list.len() + 1);
                        let range = start..start + below(list.len() - start + 1);
                        let n = tiers.host.len();
                        let window = range.start.max(n) - n..range.end.max(n) - n;
                        tiers.ring.remove(window).unwrap();
                        tiers.host.drain(range.start.min(n)..range.end.min(n));
                        list.drain(range);
                        tiers.refill();
                    }
                    _ => {
                        tiers.append(token);
                        list.push(token);
                    }
                }
                prop_assert_eq!(&tiers.all(), &list);
                prop_assert_eq!(tiers.ring.len(), list.len().min(window));
                let mut slots: Vec<u32> = tiers.ring.slots().collect();
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), tiers.ring.len());
            }
        }
    }
}
