//! Building the index of a head anew, here or in another thread.

use super::head::{HeadCache, HeadScratch};
use crate::kv::KvError;
use crate::kv::head_index::{HeadIndex, IndexScratch};
use crate::kv::queries::RecentQueries;
use crate::kv::store::RowStore;
use crate::pq::IterBudget;
use alloc::sync::Arc;

/// Equal only to what it was handed on to. A clone is another one: forks go different ways.
#[derive(Debug, Default)]
pub(super) struct Lineage(Arc<()>);

impl Lineage {
    fn hand_on(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Clone for Lineage {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What an index is built from: the tokens and queries that there were when [`HeadCache::rebuild`] was called. Rows are shared with the
/// cache, which may go on.
#[derive(Debug)]
pub struct Rebuild {
    keys: RowStore,
    queries: RecentQueries,
    index: HeadIndex,
    lineage: Lineage,
}

/// An index that was built anew, for [`HeadCache::adopt`].
#[derive(Debug)]
pub struct Rebuilt {
    index: HeadIndex,
    lineage: Lineage,
}

impl Rebuild {
    /// Learns a transform from the recent queries (with few, the old one stays), trains centroids and codes the middle; see
    /// [`HeadIndex::refresh`]. `budget` overrides the configured iterations. Allocates the new index, a sample of the keys, and buffers.
    ///
    /// # Errors
    /// [`KvError::Pq`] if a key holds a NaN or an infinity.
    pub fn run(self, budget: Option<IterBudget<'_>>) -> Result<Rebuilt, KvError> {
        let Self { keys, queries, mut index, lineage } = self;
        let mut scratch = IndexScratch::new(index.config(), 1, 0);
        index.refresh(&keys, &queries.rows(), budget, &mut scratch)?;
        Ok(Rebuilt { index, lineage })
    }
}

impl HeadCache {
    /// Whether the index is to be built anew; see [`HeadIndex::is_refresh_due`].
    #[must_use]
    pub fn is_refresh_due(&self) -> bool {
        self.index.is_refresh_due()
    }

    /// Builds the index anew, transform, centroids and codes, with the queries of the last steps and prompts. Not for the hot path: it
    /// allocates, and costs what [`prefill`](Self::prefill) of all tokens does. `budget` overrides the configured iterations.
    ///
    /// # Errors
    /// [`KvError::Pq`] if a key holds a NaN or an infinity; nothing is changed then.
    pub fn refresh(
        &mut self,
        budget: Option<IterBudget<'_>>,
        scratch: &mut HeadScratch,
    ) -> Result<(), KvError> {
        self.index.refresh(&self.keys, &self.queries.rows(), budget, &mut scratch.index)
    }

    /// A snapshot to build the index from, in another thread: this head goes on with the index it has, until it
    /// [`adopt`](Self::adopt)s the new one. Cost: a pointer for each block of rows; the next step copies the blocks that it writes,
    /// which are shared now, and the recent queries.
    #[must_use]
    pub fn rebuild(&self) -> Rebuild {
        Rebuild {
            keys: self.keys.clone(),
            queries: self.queries.clone(),
            index: self.index.clone(),
            lineage: self.lineage.hand_on(),
        }
    }

    /// Puts a new index in the place of the one there is, after coding what arrived meanwhile: `d * ksub` multiply-adds for each such
    /// token.
    ///
    /// # Errors
    /// [`KvError::Outdated`] if tokens were cut, removed or replaced since the snapshot, or it is another cache's, a fork's included;
    /// [`KvError::Pq`] if a new key holds a NaN or an infinity. Nothing is changed then.
    pub fn adopt(&mut self, rebuilt: Rebuilt, scratch: &mut HeadScratch) -> Result<(), KvError> {
        if !self.lineage.is(&rebuilt.lineage) {
            return Err(KvError::Outdated);
        }
        self.index.adopt(rebuilt.index, &self.keys, &mut scratch.index)
    }
}
