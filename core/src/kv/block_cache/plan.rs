//! What one step has to fetch and to copy.

use alloc::vec::Vec;

/// A selected token whose rows are in the fast tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The KV head that selected it.
    pub head: u32,
    /// Where it stands in that head's selection.
    pub rank: u32,
    /// The slot that holds its block.
    pub slot: u32,
    /// Its row within the block.
    pub row: u32,
}

/// A selected token whose rows have to come from the slow tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The KV head that selected it.
    pub head: u32,
    /// Where it stands in that head's selection.
    pub rank: u32,
    /// The token.
    pub token: u32,
}

/// A block to copy from the slow tier into a slot of the fast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block.
    pub block: u32,
    /// Where it goes.
    pub slot: u32,
    /// The block that it replaces.
    pub evicted: Option<u32>,
    /// The step that planned it, so that a late report is told from a new copy.
    pub step: u64,
}

/// Where a step's selected tokens come from, and which blocks to bring in. Its buffers are reused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchPlan {
    pub(super) hits: Vec<Hit>,
    pub(super) misses: Vec<Miss>,
    pub(super) copies: Vec<BlockCopy>,
}

impl FetchPlan {
    /// A plan with room for `tokens` looked up and `copies` blocks, so that no step allocates.
    #[must_use]
    pub fn with_capacity(tokens: usize, copies: usize) -> Self {
        Self {
            hits: Vec::with_capacity(tokens),
            misses: Vec::with_capacity(tokens),
            copies: Vec::with_capacity(copies),
        }
    }

    /// Tokens to gather from the fast tier, by head in the order of the calls, then by rank.
    #[must_use]
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// Tokens to fetch from the slow tier, in the same order.
    #[must_use]
    pub fn misses(&self) -> &[Miss] {
        &self.misses
    }

    /// Blocks to copy once hits and misses are gathered.
    #[must_use]
    pub fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    pub(super) fn clear(&mut self) {
        self.hits.clear();
        self.misses.clear();
        self.copies.clear();
    }
}
