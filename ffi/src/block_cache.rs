//! Which blocks of tokens stay in a fast tier of memory.

use tersa_core::kv::block_cache::{
    Aged, BlockCache, BlockCacheError, BlockCopy, BlockGeometry, FetchPlan, Lfu, Lru, Policy, Rank,
};

use crate::attention::meets;
use crate::borrow::{self, Versioned};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::version::obey_environment;

/// No slot, or no block.
pub const TERSA_NONE: u32 = u32::MAX;

/// Which block leaves a full tier.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_block_policy {
    /// The one used in the fewest steps since it came in; what PQCache does.
    TERSA_BLOCKS_LFU = 0,
    /// The one used longest ago.
    TERSA_BLOCKS_LRU = 1,
    /// The one used least, old use counting less; a block that is used less than the one it would replace stays out.
    TERSA_BLOCKS_AGED = 2,
}

/// The bookkeeping of a fast tier of memory, such as a GPU's, that holds some blocks of the keys and values of a layer, or of whatever
/// moves together, while all of them lie in a slow one. It copies nothing. Each step:
///
/// 1. `tersa_block_cache_begin`; then `tersa_block_cache_look_up` for each KV head with the tokens it selected, which says
///    where their rows are.
/// 2. `tersa_block_cache_decide`: which blocks to copy in, and to which slots.
/// 3. The engine gathers the rows **first**, since a copy may overwrite a slot that holds one of them; then it copies, in any
///    order, and reports each copy by `tersa_block_cache_complete` or `_cancel`. Until then its slot is neither read nor given
///    away.
///
/// Equal calls give equal plans. No call of a step takes memory once the plan has grown to the step's size.
pub struct tersa_block_cache {
    cache: BlockCache<AnyPolicy>,
    plan: FetchPlan,
    max_copies: usize,
}

#[derive(Clone, Debug)]
enum AnyPolicy {
    Lfu(Lfu),
    Lru(Lru),
    Aged(Aged),
}

/// The same method of whichever policy it is.
macro_rules! each {
    ($self:ident, $p:ident => $call:expr) => {
        match $self {
            Self::Lfu($p) => $call,
            Self::Lru($p) => $call,
            Self::Aged($p) => $call,
        }
    };
}

impl Policy for AnyPolicy {
    fn observe(&mut self, block: u32, tokens: u32, step: u64) {
        each!(self, p => p.observe(block, tokens, step));
    }
    fn promote(&mut self, block: u32, step: u64) {
        each!(self, p => p.promote(block, step));
    }
    fn insert(&mut self, block: u32, step: u64) {
        each!(self, p => p.insert(block, step));
    }
    fn evict(&mut self, block: u32) {
        each!(self, p => p.evict(block));
    }
    fn rank(&self, block: u32, step: u64) -> Rank {
        each!(self, p => p.rank(block, step))
    }
    fn admits(&self, candidate: Rank, victim: Rank) -> bool {
        each!(self, p => p.admits(candidate, victim))
    }
    fn truncate(&mut self, n_blocks: u32) {
        each!(self, p => p.truncate(n_blocks));
    }
    fn clear(&mut self) {
        each!(self, p => p.clear());
    }
    fn heap_bytes(&self) -> usize {
        each!(self, p => p.heap_bytes())
    }
}

impl From<BlockCacheError> for Failure {
    fn from(e: BlockCacheError) -> Self {
        let status = match e {
            BlockCacheError::Stale { .. } => tersa_status::TERSA_ERR_STATE,
            _ => tersa_status::TERSA_ERR_ARGUMENT,
        };
        Self::new(status, format_args!("{e}"))
    }
}

/// What a block cache is made for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_block_cache_params {
    /// Set by `tersa_block_cache_params_init`.
    pub struct_size: u32,
    /// A `tersa_block_policy`.
    pub policy: u32,
    /// Tokens of a block, a power of two. 16 by default.
    pub block_size: u32,
    /// Blocks that one step may bring in. 16 by default.
    pub max_copies: u32,
    /// Slots of the fast tier.
    pub n_slots: usize,
    /// Tokens that a sequence may have: 4 to 20 bytes of tables for each block.
    pub max_tokens: usize,
    /// For `TERSA_BLOCKS_AGED`: steps after which a use counts half. 64 by default.
    pub half_life: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_block_cache_params {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            policy: tersa_block_policy::TERSA_BLOCKS_LFU as u32,
            block_size: 16,
            max_copies: 16,
            n_slots: 0,
            max_tokens: 0,
            half_life: 64,
        }
    }
}

/// Sets `*params` to defaults: no slots and no tokens yet. `struct_size` is `sizeof *params`.
///
/// # Safety
/// `params` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_params_init(
    params: *mut tersa_block_cache_params,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(params, struct_size, "params") })
}

/// Makes an empty block cache.
///
/// # Safety
/// Pointers are NULL or as their types say; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_create(
    params: *const tersa_block_cache_params,
    out: *mut *mut tersa_block_cache,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        let params = unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            borrow::take(params, "params")?
        };
        let policy = match params.policy {
            0 => AnyPolicy::Lfu(Lfu::new()),
            1 => AnyPolicy::Lru(Lru::new()),
            2 => AnyPolicy::Aged(Aged::new(params.half_life)),
            policy => return fail!(TERSA_ERR_ARGUMENT, "{policy} is no tersa_block_policy"),
        };
        if u32::try_from(params.max_tokens).is_err() {
            return fail!(TERSA_ERR_ARGUMENT, "max_tokens is {}: tokens are 32 bits wide", params.max_tokens);
        }
        // Slots are counted, so a block is one byte of capacity.
        let (block_tokens, max_copies) = (params.block_size as usize, params.max_copies as usize);
        let geometry = BlockGeometry { block_tokens, block_bytes: 1, max_tokens: params.max_tokens };
        let cache = BlockCache::new(geometry, params.n_slots, max_copies, policy)?;
        let max_copies = max_copies.min(cache.n_slots());
        let cache = tersa_block_cache { cache, plan: FetchPlan::with_capacity(0, max_copies), max_copies };
        // SAFETY: the caller's promise.
        unsafe { borrow::put(out, Box::into_raw(Box::new(cache)), "out") }
    })
}

/// Frees a block cache; NULL is fine.
///
/// # Safety
/// `cache` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_destroy(cache: *mut tersa_block_cache) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(cache) });
}

/// Starts a step.
///
/// # Safety
/// The handle is live and used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_begin(
    cache: *mut tersa_block_cache,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let cache = unsafe { borrow::unique(cache, "cache")? };
        cache.cache.begin(&mut cache.plan);
        Ok(())
    })
}

/// Says for each of `n_tokens` tokens that a head selected in which slot of the fast tier its row lies, row `token % block_size` of it, or
/// `TERSA_NONE` if it has to come from the slow one; and counts their blocks for `tersa_block_cache_decide`.
///
/// # Safety
/// Handles are live and used by this thread only; `tokens` and `slots` have `n_tokens` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_look_up(
    cache: *mut tersa_block_cache,
    tokens: *const u32,
    n_tokens: usize,
    slots: *mut u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let cache = borrow::unique(cache, "cache")?;
            let tokens = borrow::slice(tokens, n_tokens, "tokens")?;
            borrow::check_out(slots, n_tokens, "slots")?;
            if meets(slots, n_tokens, tokens) {
                return fail!(TERSA_ERR_OVERLAP, "slots overlaps tokens");
            }
            let hits = cache.plan.hits().len();
            cache.cache.look_up(0, tokens, &mut cache.plan)?;
            let slots = borrow::slice_mut(slots, n_tokens, "slots")?;
            slots.fill(TERSA_NONE);
            for hit in &cache.plan.hits()[hits..] {
                slots[hit.rank as usize] = hit.slot;
            }
            Ok(())
        }
    })
}

/// A block to copy from the slow tier into a slot of the fast one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct tersa_block_copy {
    /// The block: tokens `block * block_size` on.
    pub block: u32,
    /// Where it goes.
    pub slot: u32,
    /// The block that it replaces, or `TERSA_NONE`.
    pub evicted: u32,
    /// 0.
    pub reserved: u32,
    /// The step that planned it.
    pub step: u64,
}

impl From<&BlockCopy> for tersa_block_copy {
    fn from(copy: &BlockCopy) -> Self {
        let &BlockCopy { block, slot, evicted, step } = copy;
        Self { block, slot, evicted: evicted.unwrap_or(TERSA_NONE), reserved: 0, step }
    }
}

impl From<&tersa_block_copy> for BlockCopy {
    fn from(copy: &tersa_block_copy) -> Self {
        let &tersa_block_copy { block, slot, evicted, step, .. } = copy;
        Self { block, slot, evicted: Some(evicted).filter(|&b| b != TERSA_NONE), step }
    }
}

/// Ends a step: which blocks to copy in, those with the most selected tokens first; `*n_copies` becomes their number. `settled` is how many
/// of the sequence's first tokens lie in the slow tier for good: a block that reaches beyond stays out. `capacity` must be at
/// least the smaller of `max_copies` and `n_slots`.
///
/// # Safety
/// Handles are live and used by this thread only; `copies` has `capacity` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_decide(
    cache: *mut tersa_block_cache,
    settled: usize,
    copies: *mut tersa_block_copy,
    capacity: usize,
    n_copies: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(n_copies, 0, "n_copies")?;
            let cache = borrow::unique(cache, "cache")?;
            if capacity < cache.max_copies {
                borrow::put(n_copies, cache.max_copies, "n_copies")?;
                return fail!(
                    TERSA_ERR_SHORT_BUFFER,
                    "a step may copy {} blocks, capacity is {capacity}",
                    cache.max_copies
                );
            }
            let copies = borrow::slice_mut(copies, cache.max_copies, "copies")?;
            let before = cache.plan.copies().len();
            cache.cache.decide(settled, &mut cache.plan);
            let planned = &cache.plan.copies()[before..];
            for (to, copy) in copies.iter_mut().zip(planned) {
                *to = copy.into();
            }
            borrow::put(n_copies, planned.len(), "n_copies")
        }
    })
}

/// A copy is done: its block is in the fast tier from now on. `TERSA_ERR_STATE` if it is not under way: reported twice, or the
/// sequence was cut meanwhile.
///
/// # Safety
/// Handles are live and used by this thread only; pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_complete(
    cache: *mut tersa_block_cache,
    copy: *const tersa_block_copy,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (cache, copy) = unsafe { (borrow::unique(cache, "cache")?, borrow::shared(copy, "copy")?) };
        Ok(cache.cache.complete(&copy.into())?)
    })
}

/// A copy will not be made: its slot is free again. `TERSA_ERR_STATE` if it is not under way.
///
/// # Safety
/// As for `tersa_block_cache_complete`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_cancel(
    cache: *mut tersa_block_cache,
    copy: *const tersa_block_copy,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (cache, copy) = unsafe { (borrow::unique(cache, "cache")?, borrow::shared(copy, "copy")?) };
        Ok(cache.cache.cancel(&copy.into())?)
    })
}

/// The sequence was cut to `n_tokens` tokens, or those from there on were moved: blocks that reach beyond are dropped, also
/// those under way. 0 forgets the whole sequence.
///
/// # Safety
/// The handle is live and used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_truncate(
    cache: *mut tersa_block_cache,
    n_tokens: usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let cache = &mut unsafe { borrow::unique(cache, "cache")? }.cache;
        if n_tokens == 0 {
            cache.clear()
        } else {
            cache.truncate(n_tokens)
        }
        Ok(())
    })
}

/// What a block cache has seen since it was made or truncated to nothing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_block_cache_info {
    /// Set by `tersa_block_cache_info_init`.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Slots that are used: no more than there are blocks.
    pub n_slots: usize,
    /// Bytes on the heap.
    pub heap_bytes: usize,
    /// Steps begun.
    pub steps: u64,
    /// Tokens looked up.
    pub lookups: u64,
    /// Tokens that were in the fast tier.
    pub hits: u64,
    /// Copies that were planned.
    pub copies: u64,
    /// Blocks that left for another.
    pub evictions: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_block_cache_info {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            reserved: 0,
            n_slots: 0,
            heap_bytes: 0,
            steps: 0,
            lookups: 0,
            hits: 0,
            copies: 0,
            evictions: 0,
        }
    }
}

/// Sets `*info` to zeros. `struct_size` is `sizeof *info`.
///
/// # Safety
/// `info` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_info_init(
    info: *mut tersa_block_cache_info,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(info, struct_size, "info") })
}

/// Looks at a block cache.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_block_cache_inspect(
    cache: *const tersa_block_cache,
    info: *mut tersa_block_cache_info,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let cache = &unsafe { borrow::shared(cache, "cache")? }.cache;
        let seen = cache.counters();
        let filled = tersa_block_cache_info {
            n_slots: cache.n_slots(),
            heap_bytes: cache.heap_bytes(),
            steps: seen.steps,
            lookups: seen.lookups,
            hits: seen.hits,
            copies: seen.copies,
            evictions: seen.evictions,
            ..tersa_block_cache_info::defaults()
        };
        // SAFETY: the caller's promise.
        unsafe { borrow::fill(info, &filled, "info") }
    })
}
