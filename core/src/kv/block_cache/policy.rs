//! Who stays: least frequently used, least recently used, and aged frequency with admission.

use alloc::vec::Vec;

/// How much a block is worth keeping: the lowest leaves first, the lower block among equals.
pub type Rank = (u64, u64);

/// What a [`BlockCache`](super::BlockCache) asks about blocks. Steps count from 1 and only grow.
pub trait Policy {
    /// `tokens` of the block were selected in this step, whether it is resident or not.
    fn observe(&mut self, _block: u32, _tokens: u32, _step: u64) {}
    /// The block is among the step's most used ones, whether it is resident or not.
    fn promote(&mut self, block: u32, step: u64);
    /// The block comes in.
    fn insert(&mut self, block: u32, step: u64);
    /// The block leaves.
    fn evict(&mut self, block: u32);
    /// What the block is worth now.
    fn rank(&self, block: u32, step: u64) -> Rank;
    /// Whether a block of rank `candidate` may replace one of rank `victim`.
    fn admits(&self, _candidate: Rank, _victim: Rank) -> bool {
        true
    }
    /// Blocks from `n_blocks` on are no more.
    fn truncate(&mut self, n_blocks: u32);
    /// As new.
    fn clear(&mut self);
    /// Bytes on the heap.
    fn heap_bytes(&self) -> usize;
}

/// The paper's default: the block that was promoted in the fewest steps since it came in leaves, among those the one
/// promoted longest ago. Every candidate is admitted, and nothing ages.
#[derive(Clone, Debug, Default)]
pub struct Lfu {
    /// Steps promoted while resident, and the last of them.
    blocks: Vec<Rank>,
}

impl Lfu {
    /// No block is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl Policy for Lfu {
    fn promote(&mut self, block: u32, step: u64) {
        let known = entry(&mut self.blocks, block);
        // A block outside has no history: zero stays zero until it comes in.
        if known.0 > 0 {
            *known = (known.0 + 1, step);
        }
    }

    fn insert(&mut self, block: u32, step: u64) {
        *entry(&mut self.blocks, block) = (1, step);
    }

    fn evict(&mut self, block: u32) {
        *entry(&mut self.blocks, block) = (0, 0);
    }

    fn rank(&self, block: u32, _step: u64) -> Rank {
        self.blocks.get(block as usize).copied().unwrap_or_default()
    }

    fn truncate(&mut self, n_blocks: u32) {
        self.blocks.truncate(n_blocks as usize);
    }

    fn clear(&mut self) {
        self.blocks.clear();
    }

    fn heap_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Rank>()
    }
}

/// The paper's alternative: the block promoted longest ago leaves. Every candidate is admitted.
#[derive(Clone, Debug, Default)]
pub struct Lru {
    /// The last step promoted.
    blocks: Vec<u64>,
}

impl Lru {
    /// No block is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl Policy for Lru {
    fn promote(&mut self, block: u32, step: u64) {
        *entry(&mut self.blocks, block) = step;
    }

    fn insert(&mut self, block: u32, step: u64) {
        *entry(&mut self.blocks, block) = step;
    }

    fn evict(&mut self, _block: u32) {}

    fn rank(&self, block: u32, _step: u64) -> Rank {
        (self.blocks.get(block as usize).copied().unwrap_or_default(), 0)
    }

    fn truncate(&mut self, n_blocks: u32) {
        self.blocks.truncate(n_blocks as usize);
    }

    fn clear(&mut self) {
        self.blocks.clear();
    }

    fn heap_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<u64>()
    }
}

/// Aged frequency with admission, after TinyLFU (Einziger, Friedman and Manes, ACM ToS 2017): the tokens selected from
/// each block, resident or not, all counts halved every so many steps; a candidate has to have a higher count than the
/// block that it would replace. Counts are exact, since a context has few blocks (a sketch would save nothing).
#[derive(Clone, Debug)]
pub struct Aged {
    half_life: u64,
    /// Count, and the period (step over half-life) that it is of.
    blocks: Vec<(u64, u64)>,
}

impl Aged {
    /// Counts halve every `half_life` steps (0 counts as 1).
    #[must_use]
    pub const fn new(half_life: u64) -> Self {
        Self { half_life: if half_life == 0 { 1 } else { half_life }, blocks: Vec::new() }
    }

    /// The count of `block` as of `step`.
    fn count(&self, block: u32, step: u64) -> u64 {
        let (count, period) = self.blocks.get(block as usize).copied().unwrap_or_default();
        let age = (step / self.half_life).saturating_sub(period);
        u32::try_from(age).ok().and_then(|age| count.checked_shr(age)).unwrap_or(0)
    }
}

impl Policy for Aged {
    fn observe(&mut self, block: u32, tokens: u32, step: u64) {
        // Sixteen times the tokens, so that a halved count keeps its fraction.
        let count = self.count(block, step).saturating_add(u64::from(tokens) << 4);
        *entry(&mut self.blocks, block) = (count, step / self.half_life);
    }

    fn promote(&mut self, _block: u32, _step: u64) {}

    fn insert(&mut self, _block: u32, _step: u64) {}

    fn evict(&mut self, _block: u32) {}

    fn rank(&self, block: u32, step: u64) -> Rank {
        (self.count(block, step), 0)
    }

    fn admits(&self, candidate: Rank, victim: Rank) -> bool {
        candidate > victim
    }

    fn truncate(&mut self, n_blocks: u32) {
        self.blocks.truncate(n_blocks as usize);
    }

    fn clear(&mut self) {
        self.blocks.clear();
    }

    fn heap_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<(u64, u64)>()
    }
}

/// The block's entry, made if it is not there.
fn entry<T: Clone + Default>(blocks: &mut Vec<T>, block: u32) -> &mut T {
    let at = block as usize;
    if blocks.len() <= at {
        blocks.resize(at + 1, T::default());
    }
    &mut blocks[at]
}
