//! Which blocks of tokens stay in fast memory: the GPU block cache of PQCache (SIGMOD 2025, section 3.4), for any pair
//! of tiers.
//!
//! Keys and values live whole in a slow tier (the host's memory, a disk). A fast tier has room for some *blocks*: all
//! rows of [`BlockGeometry::block_tokens`] consecutive tokens. This module does the bookkeeping and copies nothing: each
//! decode step yields a [`FetchPlan`], and whoever owns the memory carries it out.
//!
//! One step of one layer:
//!
//! 1. [`BlockCache::begin`]; then [`BlockCache::look_up`] for each KV head, with the tokens that it selected. The plan says
//!    for each token whether its rows lie in the fast tier ([`Hit`]) or have to be fetched from the slow one ([`Miss`]).
//! 2. [`BlockCache::decide`] picks the blocks to bring in and the slots they go to ([`BlockCopy`]).
//! 3. The caller gathers hits and misses **first**, because a copy may overwrite a slot that a hit reads, then copies, at
//!    leisure and in any order, and reports each copy by [`BlockCache::complete`] (or [`BlockCache::cancel`]). Until then
//!    its slot is neither read nor given away.
//!
//! What the published code gets wrong and this does not (named tests hold each): a new cache, and one that was cleared,
//! has no hits; a block that is still being filled is never brought in, so that no row of it can be stale; the copies
//! are exactly the blocks that become resident, each of them once.
//!
//! Policies are behind [`Policy`]: [`Lfu`] and [`Lru`] are the paper's, [`Aged`] forgets old use and does not let a block
//! in that is used less than the one it would replace.
//!
//! Cost of a step: one pass over the selected tokens, a sort of the blocks they lie in, and a sort of the slots. Nothing
//! is allocated once the plan has grown to the step's size. Deterministic: equal calls give equal plans; among equals the
//! lower block, then the lower slot.
//!
//! ```
//! use tersa_core::kv::block_cache::{BlockCache, BlockGeometry, FetchPlan, Lru};
//!
//! let geometry = BlockGeometry { block_tokens: 4, block_bytes: 4096, max_tokens: 1024 };
//! let mut cache = BlockCache::new(geometry, 2 * 4096, 1, Lru::new())?;
//! let mut plan = FetchPlan::default();
//! for step in 0..2 {
//!     cache.begin(&mut plan);
//!     cache.look_up(0, &[8, 9, 11, 30], &mut plan)?;
//!     cache.decide(32, &mut plan);
//!     for copy in plan.copies() {
//!         cache.complete(copy)?;
//!     }
//!     assert_eq!(plan.hits().len(), if step == 0 { 0 } else { 3 });
//! }
//! assert_eq!(cache.counters().hits, 3);
//! # Ok::<(), tersa_core::kv::block_cache::BlockCacheError>(())
//! ```

mod plan;
mod policy;
#[cfg(test)]
mod tests;

pub use plan::{BlockCopy, FetchPlan, Hit, Miss};
pub use policy::{Aged, Lfu, Lru, Policy, Rank};

use alloc::vec;
use alloc::vec::Vec;

/// No slot: the block is not in the fast tier.
const NONE: u32 = u32::MAX;

/// How tokens are grouped into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Tokens of a block; a power of two. Block `b` holds the tokens `b * block_tokens..(b + 1) * block_tokens`.
    pub block_tokens: usize,
    /// Bytes of a block in the fast tier, keys and values of all heads that move together.
    pub block_bytes: usize,
    /// Tokens that a sequence may have; what the tables are sized by (4 to 20 bytes a block).
    pub max_tokens: usize,
}

/// What happened since the cache was made or cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps begun.
    pub steps: u64,
    /// Tokens looked up.
    pub lookups: u64,
    /// Tokens whose rows were in the fast tier.
    pub hits: u64,
    /// Blocks that were planned to be brought in.
    pub copies: u64,
    /// Blocks that left for another.
    pub evictions: u64,
}

/// Why a cache cannot be made or asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockCacheError {
    /// `block_tokens` is not a power of two, `block_bytes` is zero, or there are more than 2^32 - 2 blocks or slots.
    Geometry {
        /// The geometry asked for.
        geometry: BlockGeometry,
    },
    /// A token beyond [`BlockGeometry::max_tokens`].
    Token {
        /// The token.
        token: u32,
        /// Tokens there may be.
        max_tokens: usize,
    },
    /// A copy that is not under way: reported twice, or planned before the block was invalidated.
    Stale {
        /// Its block.
        block: u32,
        /// Its slot.
        slot: u32,
    },
}

impl core::fmt::Display for BlockCacheError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Geometry { geometry: g } => write!(
                f,
                "no cache has blocks of {} tokens and {} bytes for {} tokens",
                g.block_tokens, g.block_bytes, g.max_tokens
            ),
            Self::Token { token, max_tokens } => write!(f, "token {token} of at most {max_tokens}"),
            Self::Stale { block, slot } => write!(f, "no copy of block {block} to slot {slot} is under way"),
        }
    }
}

impl core::error::Error for BlockCacheError {}

/// What a slot of the fast tier holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Planned in this step, not yet complete.
    Loading {
        block: u32,
        step: u64,
    },
    Resident {
        block: u32,
    },
}

/// Bookkeeping of the fast tier's slots for one layer (or whatever moves together). See the [module](self).
#[derive(Clone, Debug)]
pub struct BlockCache<P> {
    geometry: BlockGeometry,
    shift: u32,
    max_copies: usize,
    slots: Vec<Slot>,
    /// Slot of each block that is resident; [`NONE`] otherwise, also while it loads.
    slot_of: Vec<u32>,
    /// Tokens of each block that were selected in this step.
    counts: Vec<u32>,
    /// Blocks with a count, each once.
    used: Vec<u32>,
    /// Resident slots by rank, scratch of [`decide`](Self::decide).
    victims: Vec<(Rank, u32)>,
    policy: P,
    step: u64,
    counters: Counters,
}

impl<P: Policy> BlockCache<P> {
    /// An empty cache of `capacity_bytes / block_bytes` slots that brings in at most `max_copies` blocks a step (the
    /// reference implementation: all slots, which lets one step replace everything).
    ///
    /// # Errors
    /// [`BlockCacheError::Geometry`]; see there.
    pub fn new(
        geometry: BlockGeometry,
        capacity_bytes: usize,
        max_copies: usize,
        policy: P,
    ) -> Result<Self, BlockCacheError> {
        let refused = BlockCacheError::Geometry { geometry };
        if !geometry.block_tokens.is_power_of_two() {
            return Err(refused);
        }
        let slots = capacity_bytes.checked_div(geometry.block_bytes).ok_or(refused)?;
        let blocks = geometry.max_tokens.div_ceil(geometry.block_tokens);
        // Slots beyond one for each block would stay empty.
        let slots = slots.min(blocks);
        if u32::try_from(blocks).map_or(true, |n| n == NONE) {
            return Err(refused);
        }
        let mut policy = policy;
        policy.clear();
        Ok(Self {
            geometry,
            shift: geometry.block_tokens.trailing_zeros(),
            max_copies,
            slots: vec![Slot::Free; slots],
            slot_of: vec![NONE; blocks],
            counts: vec![0; blocks],
            used: Vec::with_capacity(blocks),
            victims: Vec::with_capacity(slots),
            policy,
            step: 0,
            counters: Counters::default(),
        })
    }

    /// How tokens are grouped.
    #[must_use]
    pub const fn geometry(&self) -> BlockGeometry {
        self.geometry
    }

    /// Blocks that fit the fast tier.
    #[must_use]
    pub const fn n_slots(&self) -> usize {
        self.slots.len()
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The slot that holds `block`, if it is resident.
    #[must_use]
    pub fn slot_of(&self, block: u32) -> Option<u32> {
        self.slot_of.get(block as usize).copied().filter(|&slot| slot != NONE)
    }

    /// Starts a step: empties `plan` and the step's counts.
    pub fn begin(&mut self, plan: &mut FetchPlan) {
        self.reset_counts();
        self.step += 1;
        self.counters.steps += 1;
        plan.clear();
    }

    /// Says where the rows of the `tokens` that `head` selected come from, and counts their blocks. Cost: one pass.
    ///
    /// # Errors
    /// [`BlockCacheError::Token`] for the first token beyond the geometry's; nothing is looked up then.
    pub fn look_up(
        &mut self,
        head: u32,
        tokens: &[u32],
        plan: &mut FetchPlan,
    ) -> Result<(), BlockCacheError> {
        let max_tokens = self.geometry.max_tokens;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= max_tokens) {
            return Err(BlockCacheError::Token { token, max_tokens });
        }
        let hits = plan.hits.len();
        for (rank, &token) in (0u32..).zip(tokens) {
            let block = token >> self.shift;
            let count = &mut self.counts[block as usize];
            if *count == 0 {
                self.used.push(block);
            }
            *count += 1;
            match self.slot_of[block as usize] {
                NONE => plan.misses.push(Miss { head, rank, token }),
                slot => plan.hits.push(Hit { head, rank, slot, row: token - (block << self.shift) }),
            }
        }
        self.counters.lookups += tokens.len() as u64;
        self.counters.hits += (plan.hits.len() - hits) as u64;
        Ok(())
    }

    /// Ends a step: plans which blocks to bring in, at most `max_copies`, those with the most selected tokens first.
    /// `settled` is how many of the sequence's first tokens lie in the slow tier for good; a block that reaches beyond is
    /// not full and stays out. A resident block that is among the step's most used is not replaced.
    ///
    /// Evicted blocks are gone at once for the next step, but their rows may be read until the caller carries out the
    /// copies.
    pub fn decide(&mut self, settled: usize, plan: &mut FetchPlan) {
        let full = settled.min(self.geometry.max_tokens) >> self.shift;
        for &block in &self.used {
            self.policy.observe(block, self.counts[block as usize], self.step);
        }
        let counts = &self.counts;
        let full_block = |block: &u32| (*block as usize) < full;
        self.used.retain(full_block);
        self.used.sort_unstable_by_key(|&block| (core::cmp::Reverse(counts[block as usize]), block));
        // Counts of all the blocks were read; the rest of the list is not needed but to reset them.
        let wanted = self.used.len().min(self.max_copies);
        for &block in &self.used[..wanted] {
            self.policy.promote(block, self.step);
        }
        self.rank_victims(wanted);
        let mut next_victim = 0;
        let mut free = 0;
        for i in 0..wanted {
            let block = self.used[i];
            if self.is_held(block) {
                continue;
            }
            while free < self.slots.len() && self.slots[free] != Slot::Free {
                free += 1;
            }
            let (slot, evicted) = if free < self.slots.len() {
                (free, None)
            } else if let Some(&(rank, slot)) = self.victims.get(next_victim) {
                if !self.policy.admits(self.policy.rank(block, self.step), rank) {
                    continue;
                }
                next_victim += 1;
                (slot as usize, self.vacate(slot as usize))
            } else {
                break;
            };
            self.counters.evictions += u64::from(evicted.is_some());
            self.counters.copies += 1;
            self.slots[slot] = Slot::Loading { block, step: self.step };
            self.policy.insert(block, self.step);
            let slot = u32::try_from(slot).expect("no more slots than blocks, which u32 counts");
            plan.copies.push(BlockCopy { block, slot, evicted, step: self.step });
        }
        self.reset_counts();
    }

    /// The copy is done: its block is resident from now on.
    ///
    /// # Errors
    /// [`BlockCacheError::Stale`] if it is not under way; its slot then belongs to another block or to none.
    pub fn complete(&mut self, copy: &BlockCopy) -> Result<(), BlockCacheError> {
        let slot = self.loading(copy)?;
        self.slots[slot] = Slot::Resident { block: copy.block };
        self.slot_of[copy.block as usize] = copy.slot;
        Ok(())
    }

    /// The copy will not be made: its slot is free again.
    ///
    /// # Errors
    /// [`BlockCacheError::Stale`] if it is not under way.
    pub fn cancel(&mut self, copy: &BlockCopy) -> Result<(), BlockCacheError> {
        let slot = self.loading(copy)?;
        self.vacate(slot);
        Ok(())
    }

    /// The sequence was cut to `n_tokens`: blocks that reach beyond are dropped, also those under way.
    pub fn truncate(&mut self, n_tokens: usize) {
        let keep = n_tokens >> self.shift;
        for slot in 0..self.slots.len() {
            let (Slot::Loading { block, .. } | Slot::Resident { block }) = self.slots[slot] else { continue };
            if block as usize >= keep {
                self.vacate(slot);
            }
        }
        self.policy.truncate(u32::try_from(keep).unwrap_or(NONE));
    }

    /// Tokens from `start` on were removed or moved, as by a context shift: same as cutting there, since every later
    /// block has other tokens now.
    pub fn remove_from(&mut self, start: usize) {
        self.truncate(start);
    }

    /// Forgets everything, for a new sequence: as new, counters included. Copies under way become stale.
    pub fn clear(&mut self) {
        self.reset_counts();
        self.slots.fill(Slot::Free);
        self.slot_of.fill(NONE);
        self.policy.clear();
        self.counters = Counters::default();
        // The step goes on counting, so that no copy of before can be taken for one of after.
    }

    /// Bytes on the heap, the policy's included.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.victims.capacity() * size_of::<(Rank, u32)>()
            + (self.slot_of.capacity() + self.counts.capacity() + self.used.capacity()) * 4
            + self.policy.heap_bytes()
    }

    /// Whether the block is resident or under way.
    fn is_held(&self, block: u32) -> bool {
        self.slot_of[block as usize] != NONE
            || self.slots.iter().any(|s| matches!(s, Slot::Loading { block: b, .. } if *b == block))
    }

    /// Resident slots whose block is not among the step's `wanted` ones, lowest rank first.
    fn rank_victims(&mut self, wanted: usize) {
        self.victims.clear();
        let wanted = &self.used[..wanted];
        for (at, slot) in (0u32..).zip(&self.slots) {
            let Slot::Resident { block } = *slot else { continue };
            // Both lists are short: tens of blocks.
            if !wanted.contains(&block) {
                self.victims.push((self.policy.rank(block, self.step), at));
            }
        }
        let slots = &self.slots;
        let block_of = |slot: u32| match slots[slot as usize] {
            Slot::Resident { block } | Slot::Loading { block, .. } => block,
            Slot::Free => NONE,
        };
        self.victims.sort_unstable_by_key(|&(rank, slot)| (rank, block_of(slot)));
    }

    /// Frees a slot; the block that left it.
    fn vacate(&mut self, slot: usize) -> Option<u32> {
        let was = core::mem::replace(&mut self.slots[slot], Slot::Free);
        let (Slot::Loading { block, .. } | Slot::Resident { block }) = was else { return None };
        self.slot_of[block as usize] = NONE;
        self.policy.evict(block);
        Some(block)
    }

    fn loading(&self, copy: &BlockCopy) -> Result<usize, BlockCacheError> {
        let slot = copy.slot as usize;
        match self.slots.get(slot) {
            Some(&Slot::Loading { block, step }) if block == copy.block && step == copy.step => Ok(slot),
            _ => Err(BlockCacheError::Stale { block: copy.block, slot: copy.slot }),
        }
    }

    fn reset_counts(&mut self) {
        self.counts.fill(0);
        self.used.clear();
    }
}
