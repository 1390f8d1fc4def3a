use super::*;
use crate::num::rng::Xoshiro256pp;
use alloc::collections::BTreeSet;
use proptest::prelude::*;
use std::boxed::Box;

const BLOCK: usize = 8;

fn geometry() -> BlockGeometry {
    BlockGeometry { block_tokens: BLOCK, block_bytes: 100, max_tokens: 4096 }
}

fn cache<P: Policy>(slots: usize, max_copies: usize, policy: P) -> BlockCache<P> {
    BlockCache::new(geometry(), slots * 100 + 99, max_copies, policy).unwrap()
}

fn step<P: Policy>(cache: &mut BlockCache<P>, tokens: &[u32], settled: usize) -> FetchPlan {
    let mut plan = FetchPlan::default();
    cache.begin(&mut plan);
    cache.look_up(0, tokens, &mut plan).unwrap();
    cache.decide(settled, &mut plan);
    plan.copies().iter().for_each(|copy| cache.complete(copy).unwrap());
    plan
}

fn resident<P: Policy>(cache: &BlockCache<P>) -> BTreeSet<u32> {
    (0..512).filter(|&b| cache.slot_of(b).is_some()).collect()
}

#[test]
fn fresh_session_has_zero_hits() {
    // The reference keeps its residency table between prompts (and starts from an uninitialised one).
    let mut cache = cache(4, 4, Lfu::new());
    let tokens: Vec<u32> = (0..32).collect();
    assert!(step(&mut cache, &tokens, 4096).hits().is_empty(), "the first step of a new cache");
    assert_eq!(step(&mut cache, &tokens, 4096).hits().len(), 32);
    cache.clear();
    assert_eq!(cache.counters(), Counters::default());
    assert!(step(&mut cache, &tokens, 4096).hits().is_empty(), "the first step after another session");
}

#[test]
fn a_block_that_is_not_full_is_never_brought_in() {
    // The reference tests with <= where < is right: a block of which one token is still missing is cached and goes stale.
    let mut cache = cache(8, 8, Lru::new());
    for settled in 0..4 * BLOCK {
        cache.clear();
        let all: Vec<u32> = (0..u32::try_from(settled).unwrap()).collect();
        let plan = step(&mut cache, &all, settled);
        assert_eq!(plan.copies().len(), settled / BLOCK, "{settled} tokens");
        assert!(plan.copies().iter().all(|c| (c.block as usize + 1) * BLOCK <= settled));
    }
}

#[test]
fn copies_are_exactly_the_blocks_that_become_resident() {
    // The reference compares lists that are indexed differently, so it copies blocks that are there and misses others.
    let mut rng = Xoshiro256pp::new(7);
    let policies: [Box<dyn Fn() -> Box<dyn Policy>>; 3] = [
        Box::new(|| Box::new(Lfu::new())),
        Box::new(|| Box::new(Lru::new())),
        Box::new(|| Box::new(Aged::new(4))),
    ];
    for make in policies {
        let mut cache = cache(5, 3, make());
        for _ in 0..200 {
            let mut tokens: Vec<u32> = (0..24).map(|_| u32::try_from(rng.below(256)).unwrap()).collect();
            tokens.sort_unstable();
            tokens.dedup();
            let before = resident(&cache);
            let plan = step(&mut cache, &tokens, 200);
            let after = resident(&cache);
            let came: BTreeSet<u32> = after.difference(&before).copied().collect();
            let left: BTreeSet<u32> = before.difference(&after).copied().collect();
            assert_eq!(came, plan.copies().iter().map(|c| c.block).collect());
            assert_eq!(came.len(), plan.copies().len(), "each block once");
            assert_eq!(left, plan.copies().iter().filter_map(|c| c.evicted).collect());
            assert!(after.len() <= 5);
        }
    }
}

impl Policy for Box<dyn Policy> {
    fn observe(&mut self, block: u32, tokens: u32, step: u64) {
        (**self).observe(block, tokens, step);
    }
    fn promote(&mut self, block: u32, step: u64) {
        (**self).promote(block, step);
    }
    fn insert(&mut self, block: u32, step: u64) {
        (**self).insert(block, step);
    }
    fn evict(&mut self, block: u32) {
        (**self).evict(block);
    }
    fn rank(&self, block: u32, step: u64) -> Rank {
        (**self).rank(block, step)
    }
    fn admits(&self, candidate: Rank, victim: Rank) -> bool {
        (**self).admits(candidate, victim)
    }
    fn truncate(&mut self, n_blocks: u32) {
        (**self).truncate(n_blocks);
    }
    fn clear(&mut self) {
        (**self).clear();
    }
    fn heap_bytes(&self) -> usize {
        (**self).heap_bytes()
    }
}

/// The tokens `8 b` for the blocks `b`, so that every block has one selected token.
fn of_blocks(blocks: &[u32]) -> Vec<u32> {
    blocks.iter().map(|b| b * 8).collect()
}

#[test]
fn lfu_evicts_the_least_promoted_then_the_longest_unpromoted() {
    let mut cache = cache(3, 2, Lfu::new());
    step(&mut cache, &of_blocks(&[1, 2]), 4096);
    step(&mut cache, &of_blocks(&[1, 3]), 4096);
    // 1 was promoted twice, 2 and 3 once, 2 before 3.
    assert_eq!(step(&mut cache, &of_blocks(&[4]), 4096).copies()[0].evicted, Some(2));
    assert_eq!(step(&mut cache, &of_blocks(&[5]), 4096).copies()[0].evicted, Some(3));
    assert_eq!(resident(&cache), BTreeSet::from([1, 4, 5]));
}

#[test]
fn lru_evicts_the_longest_unpromoted() {
    let mut cache = cache(3, 2, Lru::new());
    step(&mut cache, &of_blocks(&[1, 2]), 4096);
    step(&mut cache, &of_blocks(&[1, 3]), 4096);
    step(&mut cache, &of_blocks(&[2]), 4096);
    assert_eq!(step(&mut cache, &of_blocks(&[4]), 4096).copies()[0].evicted, Some(1));
}

#[test]
fn aged_frequency_keeps_the_frequent_against_passers_by_and_forgets_old_use() {
    let mut cache = cache(1, 2, Aged::new(4));
    for _ in 0..8 {
        step(&mut cache, &of_blocks(&[1]), 4096);
    }
    assert!(step(&mut cache, &of_blocks(&[2]), 4096).copies().is_empty(), "one use does not replace eight");
    let replaced = (0..20).position(|_| !step(&mut cache, &of_blocks(&[3]), 4096).copies().is_empty());
    assert!((1..8).contains(&replaced.unwrap()), "{replaced:?}");
}

#[test]
fn a_block_used_most_in_this_step_is_not_replaced() {
    let mut cache = cache(1, 1, Lru::new());
    step(&mut cache, &[0, 1, 2], 4096);
    let plan = step(&mut cache, &[0, 1, 2, 8], 4096);
    assert!(plan.copies().is_empty());
    assert_eq!(resident(&cache), BTreeSet::from([0]));
}

#[test]
fn a_block_under_way_is_neither_hit_nor_given_away() {
    let mut cache = cache(1, 4, Lru::new());
    let mut plan = FetchPlan::default();
    cache.begin(&mut plan);
    cache.look_up(0, &[0], &mut plan).unwrap();
    cache.decide(4096, &mut plan);
    let late = plan.copies()[0];
    for token in [0, 8] {
        cache.begin(&mut plan);
        cache.look_up(0, &[token], &mut plan).unwrap();
        assert!(plan.hits().is_empty());
        cache.decide(4096, &mut plan);
        assert!(plan.copies().is_empty());
    }
    cache.complete(&late).unwrap();
    assert_eq!(cache.complete(&late), Err(BlockCacheError::Stale { block: 0, slot: 0 }), "reported twice");
    assert_eq!(step(&mut cache, &[0], 4096).hits().len(), 1);
}

#[test]
fn a_copy_of_an_older_session_is_refused() {
    let mut cache = cache(1, 1, Lru::new());
    let mut plan = FetchPlan::default();
    let mut begin = |cache: &mut BlockCache<Lru>| {
        cache.begin(&mut plan);
        cache.look_up(0, &[0], &mut plan).unwrap();
        cache.decide(4096, &mut plan);
        plan.copies()[0]
    };
    let old = begin(&mut cache);
    cache.clear();
    let new = begin(&mut cache);
    assert!(cache.complete(&old).is_err());
    cache.complete(&new).unwrap();
}

#[test]
fn a_cancelled_copy_frees_its_slot() {
    let mut cache = cache(1, 1, Lfu::new());
    let mut plan = FetchPlan::default();
    cache.begin(&mut plan);
    cache.look_up(0, &[0], &mut plan).unwrap();
    cache.decide(4096, &mut plan);
    cache.cancel(&plan.copies()[0]).unwrap();
    assert!(resident(&cache).is_empty());
    assert_eq!(step(&mut cache, &[8], 4096).copies()[0].evicted, None);
}

#[test]
fn cutting_or_shifting_the_sequence_drops_the_blocks_it_touches() {
    let mut cache = cache(8, 8, Lru::new());
    let all: Vec<u32> = (0..64).collect();
    step(&mut cache, &all, 64);
    cache.truncate(63);
    assert_eq!(resident(&cache), (0..7).collect());
    cache.remove_from(9);
    assert_eq!(resident(&cache), BTreeSet::from([0]));
    let plan = step(&mut cache, &all, 64);
    assert_eq!(plan.hits().len(), 8);
    assert_eq!(plan.misses().len(), 56);
}

#[test]
fn wrong_geometry_and_tokens_are_refused() {
    let bad = [
        BlockGeometry { block_tokens: 0, ..geometry() },
        BlockGeometry { block_tokens: 12, ..geometry() },
        BlockGeometry { block_bytes: 0, ..geometry() },
        BlockGeometry { max_tokens: usize::MAX, ..geometry() },
    ];
    for geometry in bad {
        let made = BlockCache::new(geometry, 1000, 1, Lru::new());
        assert_eq!(made.err(), Some(BlockCacheError::Geometry { geometry }));
    }
    let mut cache = cache(1, 1, Lru::new());
    let mut plan = FetchPlan::default();
    cache.begin(&mut plan);
    let error = cache.look_up(0, &[1, 4096], &mut plan);
    assert_eq!(error, Err(BlockCacheError::Token { token: 4096, max_tokens: 4096 }));
    assert!(plan.misses().is_empty());
}

#[test]
fn without_room_everything_misses() {
    let mut cache = BlockCache::new(geometry(), 99, 4, Lfu::new()).unwrap();
    for _ in 0..3 {
        let plan = step(&mut cache, &[0, 1, 2], 4096);
        assert!(plan.hits().is_empty() && plan.copies().is_empty());
    }
}

proptest! {
    #[test]
    fn plans_say_the_truth(
        seed in any::<u64>(),
        slots in 0usize..6,
        max_copies in 0usize..6,
        kind in 0u8..3,
    ) {
        let policy: Box<dyn Policy> = match kind {
            0 => Box::new(Lfu::new()),
            1 => Box::new(Lru::new()),
            _ => Box::new(Aged::new(3)),
        };
        let mut cache = cache(slots, max_copies, policy);
        // What each slot really holds: filled by carrying out the copies, some of them late, some never.
        let mut memory: Vec<Option<u32>> = vec![None; slots];
        let mut rng = Xoshiro256pp::new(seed);
        let mut plan = FetchPlan::default();
        let mut late: Vec<BlockCopy> = Vec::new();
        let mut n: usize = 60;
        for _ in 0..60 {
            match rng.below(12) {
                0 => { n = n / 2 + 1; cache.truncate(n) }
                1 => { cache.clear(); late.clear(); memory.fill(None) }
                _ => n += 3,
            }
            cache.begin(&mut plan);
            for head in 0..2u32 {
                let mut tokens: Vec<u32> = (0..u32::try_from(n).unwrap()).filter(|_| rng.below(4) == 0).collect();
                let before = (plan.hits().len(), plan.misses().len());
                cache.look_up(head, &tokens, &mut plan).unwrap();
                let mut found = Vec::new();
                for hit in &plan.hits()[before.0..] {
                    prop_assert_eq!(hit.head, head);
                    let block = memory[hit.slot as usize];
                    let token = block.unwrap() * 8 + hit.row;
                    prop_assert_eq!(tokens[hit.rank as usize], token);
                    found.push(token);
                }
                for miss in &plan.misses()[before.1..] {
                    prop_assert_eq!(tokens[miss.rank as usize], miss.token);
                    found.push(miss.token);
                }
                found.sort_unstable();
                tokens.sort_unstable();
                prop_assert_eq!(found, tokens);
            }
            cache.decide(n, &mut plan);
            prop_assert!(plan.copies().len() <= max_copies);
            late.extend_from_slice(plan.copies());
            let mut still = Vec::new();
            for copy in late.drain(..) {
                match rng.below(4) {
                    0 => still.push(copy),
                    1 => { let _ = cache.cancel(&copy); }
                    _ => if cache.complete(&copy).is_ok() {
                        memory[copy.slot as usize] = Some(copy.block);
                    },
                }
            }
            late = still;
            let held = resident(&cache);
            prop_assert!(held.len() <= slots);
            prop_assert!(held.iter().all(|&b| (b as usize + 1) * BLOCK <= n));
        }
    }
}
