//! The product-quantization index of one KV head over an engine's own cache.

mod container;
mod params;

use std::ffi::c_void;

use tersa_core::kv::{HeadIndex, KvError};
use tersa_core::pq::IterBudget;

use crate::attention::{Output, meets};
use crate::borrow::{self, Versioned};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::tensor::tersa_range;
use crate::version::obey_environment;
use crate::view::{View, tersa_view};
use crate::workspace::{self, tersa_workspace};

pub use container::{tersa_reader_index_load, tersa_writer_add_index};
pub(crate) use params::group_rule;
pub use params::{
    tersa_extent, tersa_extent_unit, tersa_group_rule, tersa_index_params, tersa_index_params_init,
    tersa_index_preset,
};

/// The index of one KV head of one layer of one sequence: it codes the keys of an engine's cache and tells which tokens a
/// query should attend to. (PQCache, Zhang et al., 2025.) Keys and values stay where the engine has them; each call is shown the keys
/// of the whole sequence, token 0 first, and reads those it needs.
///
/// Every token is in one of three parts: the first tokens (*sinks*); the *middle*, whose keys have codes, among which is
/// selected; and the *tail*: at least the window and the current token. Sinks and tail are always attended to. A prompt
/// too short to train on is all tail, and attention is dense.
///
/// 1. `tersa_index_prefill` with the prompt's keys, at once or chunk by chunk as the cache fills.
/// 2. Each step: the engine writes the token's key and value to its cache, `tersa_index_append`, `tersa_index_attend`. Or
///    `tersa_index_select`, and attention of its own over sinks, selected tokens and tail.
///
/// Heads are independent: one thread may work on one head while others work on others, each with its own
/// workspace. Select and attend take a `const` index, which many threads may share.
pub struct tersa_index {
    pub(crate) head: HeadIndex,
    pub(crate) group: usize,
}

impl tersa_index {
    fn give(self, out: *mut *mut Self) -> Result<(), Failure> {
        // SAFETY: `out` was written to before.
        unsafe { borrow::put(out, Box::into_raw(Box::new(self)), "out") }
    }

    fn d(&self) -> usize {
        self.head.config().shape.d()
    }

    /// The group's queries.
    ///
    /// # Safety
    /// As for [`borrow::slice`].
    unsafe fn queries<'a>(&self, q: *const f32) -> Result<&'a [f32], Failure> {
        // SAFETY: the caller's promise.
        unsafe { borrow::slice(q, self.group * self.d(), "q") }
    }

    /// `n_queries` queries of training.
    ///
    /// # Safety
    /// As for [`borrow::slice`].
    unsafe fn training<'a>(&self, queries: *const f32, n_queries: usize) -> Result<&'a [f32], Failure> {
        // SAFETY: the caller's promise.
        unsafe { borrow::slice(queries, n_queries.saturating_mul(self.d()), "queries") }
    }
}

/// Why bytes are no index.
fn foreign(e: KvError) -> Failure {
    match e {
        KvError::Pq(_) | KvError::Rerank(_) => {
            Failure::new(tersa_status::TERSA_ERR_CORRUPT, format_args!("{e}"))
        }
        e => e.into(),
    }
}

/// Makes the index of an empty sequence. Under a microsecond.
///
/// # Safety
/// Pointers are NULL or as their types say; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_create(
    params: *const tersa_index_params,
    out: *mut *mut tersa_index,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        let params = unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            borrow::take(params, "params")?
        };
        let head = HeadIndex::new(&params.config()?)?;
        tersa_index { head, group: params.group as usize }.give(out)
    })
}

/// Frees an index; NULL is fine.
///
/// # Safety
/// `index` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_destroy(index: *mut tersa_index) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(index) });
}

/// Makes an index of a sequence that goes on from here on its own, as for beam search or a shared prompt. Codebook and
/// codes are shared until either writes.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_fork(
    index: *const tersa_index,
    out: *mut *mut tersa_index,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let index = unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            borrow::shared(index, "index")?
        };
        tersa_index { head: index.head.clone(), group: index.group }.give(out)
    })
}

/// The sequence has `keys->n_tokens` tokens now; those that are new are a prompt or the next chunk of one. Trains the
/// codebook as soon as there are enough keys, and again when a later chunk doubles them; codes all new keys but the sinks and
/// the window.
///
/// `queries`, `[n_queries][head_dim]`, are some of the prompt's queries of the group's heads, in the order of tokens (all heads of
/// one token, then those of the next), as attention sees them: after rotary embedding, before any scale. The last thousand tokens' are enough. The
/// first training learns from them what the index should be good at, if the parameters say `transform`; there may be none.
///
/// Cost: training, `iterations` times `sample` keys for each of the `2^nbits` centroids; then `head_dim * 2^nbits`
/// multiply-adds a key. Takes memory.
///
/// A key that holds a NaN or an infinity is `TERSA_ERR_ARGUMENT`: it and later keys stay without codes and are attended to densely.
///
/// # Safety
/// Handles are live, pointers as their types say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_prefill(
    index: *mut tersa_index,
    keys: *const tersa_view,
    queries: *const f32,
    n_queries: usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let index = borrow::unique(index, "index")?;
            let keys = View::new(keys, "keys")?;
            let queries = index.training(queries, n_queries)?;
            workspace::with(workspace, |scratch| {
                let scratch = scratch.index(index.head.config(), index.group, keys.rows.n_tokens());
                Ok(index.head.prefill(&keys.rows, queries, scratch)?)
            })
        }
    })
}

/// The sequence has `keys->n_tokens` tokens now; those that are new, usually one, were generated, and the last is the current one.
/// Keys that leave the window are coded: `head_dim * 2^nbits` multiply-adds each. Takes memory only when the codes grow into
/// a new block.
///
/// Errors are those of `tersa_index_prefill`.
///
/// # Safety
/// As for `tersa_index_prefill`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_append(
    index: *mut tersa_index,
    keys: *const tersa_view,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let index = borrow::unique(index, "index")?;
            let keys = View::new(keys, "keys")?;
            workspace::with(workspace, |scratch| {
                let scratch = scratch.index(index.head.config(), index.group, 0);
                Ok(index.head.append(&keys.rows, scratch)?)
            })
        }
    })
}

/// Selects the tokens of the middle that the queries `q`, `[group][head_dim]`, should attend to, as many as the budget says, and
/// writes them to `tokens`, rising. `*n_tokens` becomes their number or, with `TERSA_ERR_SHORT_BUFFER`, the capacity
/// that is needed; a capacity of 0 only asks for that.
///
/// `scale` is what attention multiplies scores by, usually `1 / sqrt(head_dim)`. The same tokens at every CPU level; of equal ones
/// the lower. Takes no memory with a workspace that has seen the size.
///
/// # Safety
/// Handles are live, pointers as their types say; `q` has `group * head_dim` elements, `tokens` has `capacity`; `workspace` is
/// NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_index_select(
    index: *const tersa_index,
    q: *const f32,
    scale: f32,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(n_tokens, 0, "n_tokens")?;
            let index = borrow::shared(index, "index")?;
            let most = index.head.budget().min(index.head.index().len());
            if capacity < most {
                *n_tokens = most;
                if capacity == 0 {
                    return Ok(());
                }
                return fail!(TERSA_ERR_SHORT_BUFFER, "{most} tokens are selected, capacity is {capacity}");
            }
            let q = index.queries(q)?;
            borrow::check_out(tokens, most, "tokens")?;
            if meets(tokens, most, q) {
                return fail!(TERSA_ERR_OVERLAP, "tokens overlaps q");
            }
            let out = borrow::slice_mut(tokens, most, "tokens")?;
            workspace::with(workspace, |scratch| {
                let scratch = scratch.index(index.head.config(), index.group, index.head.len());
                let selected = index.head.select(q, scale, scratch)?;
                out[..selected.len()].copy_from_slice(selected);
                *n_tokens = selected.len();
                Ok(())
            })
        }
    })
}

/// Attention of the queries `q`, `[group][head_dim]`, over sinks, selected tokens and tail, by the exact rows of `keys` and `values`:
/// `out`, `[group][values->dim]`, and, unless `lse` is NULL, the natural logarithm of each head's sum of exponentials, `[group]`, with which
/// results of several calls are merged.
///
/// `keys->n_tokens` says how far to look: if it is more than the index was told of, those tokens are tail too; if less, as for the
/// earlier tokens of a batch, no token with codes may lie beyond. Takes no memory with a workspace that has seen the size.
///
/// # Safety
/// As for `tersa_index_select`; `out` has `group * values->dim` elements, `lse` has `group` or is NULL.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_index_attend(
    index: *const tersa_index,
    q: *const f32,
    scale: f32,
    keys: *const tersa_view,
    values: *const tersa_view,
    out: *mut f32,
    lse: *mut f32,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let index = borrow::shared(index, "index")?;
            let q = index.queries(q)?;
            let (keys, values) = (View::new(keys, "keys")?, View::new(values, "values")?);
            let output = Output::new(index.group, values.rows.dim(), out, lse)?;
            output.keep_off(&[&keys, &values], &[q])?;
            workspace::with(workspace, |scratch| {
                let dim_v = values.rows.dim();
                let (scratch, decode) =
                    scratch.index_and_decode(index.head.config(), index.group, index.head.len(), dim_v)?;
                index.head.attend(q, scale, &keys.rows, &values.rows, decode, scratch)?;
                output.write(decode)
            })
        }
    })
}

/// Gives this head another budget, as when a layer's budget is shared out by what its heads need.
///
/// # Safety
/// Handles are live and used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_set_budget(
    index: *mut tersa_index,
    budget: tersa_extent,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let index = unsafe { borrow::unique(index, "index")? };
        Ok(index.head.set_budget(budget.extent("budget")?)?)
    })
}

/// The sequence keeps its first `n_tokens` tokens; more than it has change nothing.
///
/// # Safety
/// Handles are live and used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_truncate(
    index: *mut tersa_index,
    n_tokens: usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe { borrow::unique(index, "index")? }.head.truncate(n_tokens);
        Ok(())
    })
}

/// The tokens of a range left the sequence, and later ones moved down, to tokens lower by as many: eviction, or a context shift. If
/// their keys were rotated to new positions, go on with `tersa_index_recode`. Cost: one copy of the later codes.
///
/// # Safety
/// Handles are live and used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_remove(
    index: *mut tersa_index,
    tokens: tersa_range,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let index = unsafe { borrow::unique(index, "index")? };
        let tokens = tokens.within(index.head.len(), "tokens")?;
        Ok(index.head.remove(tokens)?)
    })
}

/// The keys of a range are others now, as when an engine rotates them to other positions: those of the middle get new
/// codes, `head_dim * 2^nbits` multiply-adds each.
///
/// # Safety
/// As for `tersa_index_prefill`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_recode(
    index: *mut tersa_index,
    tokens: tersa_range,
    keys: *const tersa_view,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let index = borrow::unique(index, "index")?;
            let keys = View::new(keys, "keys")?;
            let tokens = tokens.within(index.head.len(), "tokens")?;
            workspace::with(workspace, |scratch| {
                let scratch = scratch.index(index.head.config(), index.group, 0);
                Ok(index.head.recode(tokens, &keys.rows, scratch)?)
            })
        }
    })
}

/// Builds the index anew from the keys there are, transform, codebook and codes; costs what `tersa_index_prefill` of all of them
/// does. `iterations` are those at most, 0 for what the parameters say; `queries` are the last ones, from which the transform is
/// learned, 2048 vectors at best: with fewer than 64 it stays as it is.
///
/// To do this beside the decoding: fork the index, refresh the fork in another thread, `tersa_index_append` to the fork what came
/// meanwhile, and use it in the place of the index. The keys must not move until then.
///
/// # Safety
/// As for `tersa_index_prefill`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_refresh(
    index: *mut tersa_index,
    keys: *const tersa_view,
    queries: *const f32,
    n_queries: usize,
    iterations: u32,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let index = borrow::unique(index, "index")?;
            let keys = View::new(keys, "keys")?;
            let queries = index.training(queries, n_queries)?;
            let budget = (iterations > 0).then_some(IterBudget::Fixed(iterations));
            workspace::with(workspace, |scratch| {
                let scratch = scratch.index(index.head.config(), index.group, 0);
                Ok(index.head.refresh(&keys.rows, queries, budget, scratch)?)
            })
        }
    })
}

/// What an index holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_index_info {
    /// Set by `tersa_index_info_init`.
    pub struct_size: u32,
    /// 1 if there is a codebook.
    pub trained: u32,
    /// 1 if `tersa_index_refresh` is due: there are enough keys for a first codebook, or it is time by the parameters; else 0.
    pub refresh_due: u32,
    /// Bits of a key's codes.
    pub bits: u32,
    /// Tokens of the sequence.
    pub n_tokens: usize,
    /// Tokens of its prompt.
    pub n_prompt: usize,
    /// Tokens with codes. Those before are the sinks, those after the tail.
    pub middle: tersa_range,
    /// Tokens of the window.
    pub window: usize,
    /// Tokens that are selected, if the middle has so many.
    pub budget: usize,
    /// Bytes on the heap, those shared with forks included.
    pub heap_bytes: usize,
    /// Keys appended since training.
    pub appended: u64,
    /// Recent coding error of new keys over that of the trained ones.
    pub drift: f64,
}

// SAFETY: numbers only.
unsafe impl Versioned for tersa_index_info {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            trained: 0,
            refresh_due: 0,
            bits: 0,
            n_tokens: 0,
            n_prompt: 0,
            middle: tersa_range { start: 0, end: 0 },
            window: 0,
            budget: 0,
            heap_bytes: 0,
            appended: 0,
            drift: 0.0,
        }
    }
}

/// Sets `*info` to zeros. `struct_size` is `sizeof *info`.
///
/// # Safety
/// `info` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_info_init(
    info: *mut tersa_index_info,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(info, struct_size, "info") })
}

/// Looks at an index. Under a microsecond but for long sequences.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_inspect(
    index: *const tersa_index,
    info: *mut tersa_index_info,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let head = &unsafe { borrow::shared(index, "index")? }.head;
        let (stats, middle) = (head.index().stats(), head.middle());
        let filled = tersa_index_info {
            struct_size: 0,
            trained: stats.trained.into(),
            refresh_due: head.is_refresh_due().into(),
            bits: u32::try_from(stats.bits).unwrap_or(u32::MAX),
            n_tokens: head.len(),
            n_prompt: head.prompt(),
            middle: tersa_range { start: middle.start, end: middle.end },
            window: head.window(),
            budget: head.budget(),
            heap_bytes: head.heap_bytes(),
            appended: stats.appended,
            drift: stats.drift,
        };
        // SAFETY: the caller's promise.
        unsafe { borrow::fill(info, &filled, "info") }
    })
}

/// Writes the index to `dst`, as an entry of a container's index section (docs/format.md, section 8), so that a session that is loaded
/// again selects without training. `*written` becomes its size, also with `TERSA_ERR_SHORT_BUFFER`; a capacity of 0 only asks for
/// that. Takes memory.
///
/// # Safety
/// Handles are live, pointers as their types say; `dst` has `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_save(
    index: *const tersa_index,
    dst: *mut c_void,
    capacity: usize,
    written: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let bytes = borrow::shared(index, "index")?.head.to_bytes();
        borrow::give_bytes(&bytes, dst, capacity, written)
    })
}

/// Makes the index of a sequence of `n_tokens` tokens from what `tersa_index_save` wrote when it had as many. `params` are those it was
/// made with; `TERSA_ERR_CODEC` if codes of that shape are not what the bytes hold.
///
/// # Safety
/// `src` has `len` bytes; pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_index_load(
    params: *const tersa_index_params,
    n_tokens: usize,
    src: *const c_void,
    len: usize,
    out: *mut *mut tersa_index,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        let (params, src) = unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            (borrow::take(params, "params")?, borrow::bytes(src, len, "src")?)
        };
        let head = HeadIndex::from_bytes(&params.config()?, n_tokens, src).map_err(foreign)?;
        tersa_index { head, group: params.group as usize }.give(out)
    })
}
