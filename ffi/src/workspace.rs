//! Scratch memory of one thread.

use tersa_core::attention::Decode;
use tersa_core::codec::{Workspace, WorkspaceSize};
use tersa_core::kv::{IndexScratch, PqConfig};
use tersa_core::pq::PqShape;
use tersa_core::select::TopKScratch;

use crate::borrow;
use crate::codec::tersa_codec;
use crate::index::tersa_index;
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::version::obey_environment;
use crate::zstd_coder::ZstdCoder;

/// Scratch memory of one thread. It grows to the largest need it meets and is used again, so that later calls of that size
/// take no memory.
pub struct tersa_workspace {
    scratch: Scratch,
}

/// Memory for coding, grown to the largest need.
#[derive(Default)]
pub(crate) struct Scratch {
    floats: Vec<f32>,
    bytes: Vec<u8>,
    /// Rows on their way between the caller's places and a codec.
    pub(crate) rows: Vec<u8>,
    /// A chunk's bytes on their way from or to a container.
    pub(crate) chunk: Vec<u8>,
    coder: Option<ZstdCoder>,
    /// One for each kind of index that was met, and how many tokens it has room for.
    indexes: Vec<(IndexKind, usize, IndexScratch)>,
    /// One for each number of query heads and size of values that was met.
    decodes: Vec<Decode>,
    pub(crate) top_k: Box<TopKScratch>,
    /// Combined scores of a group.
    pub(crate) weights: Vec<f32>,
}

/// Indexes of a kind can share scratch: shape of the codes, bits and band of the second look, query heads.
type IndexKind = (PqShape, Option<(u8, f64)>, usize);

/// Makes `buffer` at least `len` long.
pub(crate) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> Result<(), Failure> {
    if buffer.len() < len {
        if buffer.try_reserve_exact(len - buffer.len()).is_err() {
            return fail!(TERSA_ERR_MEMORY, "no memory for {len} elements of scratch");
        }
        buffer.resize(len, T::default());
    }
    Ok(())
}

impl Scratch {
    pub(crate) fn reserve(&mut self, size: WorkspaceSize, rows: usize) -> Result<(), Failure> {
        grow(&mut self.floats, size.floats)?;
        grow(&mut self.bytes, size.bytes)?;
        grow(&mut self.rows, rows)?;
        if self.coder.is_none() {
            self.coder = Some(ZstdCoder::new());
        }
        Ok(())
    }

    /// Scratch for an index of `config` with `group` query heads and, so that it need not grow, `n_tokens` tokens.
    pub(crate) fn index(&mut self, config: &PqConfig, group: usize, n_tokens: usize) -> &mut IndexScratch {
        index(&mut self.indexes, config, group, n_tokens)
    }

    /// An accumulator that has seen nothing.
    pub(crate) fn decode(&mut self, group: usize, dim_v: usize) -> Result<&mut Decode, Failure> {
        decode(&mut self.decodes, group, dim_v)
    }

    /// Both.
    pub(crate) fn index_and_decode(
        &mut self,
        config: &PqConfig,
        group: usize,
        n_tokens: usize,
        dim_v: usize,
    ) -> Result<(&mut IndexScratch, &mut Decode), Failure> {
        let decode = decode(&mut self.decodes, group, dim_v)?;
        Ok((index(&mut self.indexes, config, group, n_tokens), decode))
    }

    /// The first `rows` bytes for rows, and what a codec of core wants.
    pub(crate) fn lend(
        &mut self,
        size: WorkspaceSize,
        rows: usize,
    ) -> Result<(&mut [u8], Workspace<'_>), Failure> {
        self.reserve(size, rows)?;
        let coder = self.coder.as_mut().map(|c| c as &mut dyn tersa_core::codec::ByteCoder);
        Ok((&mut self.rows[..rows], Workspace { floats: &mut self.floats, bytes: &mut self.bytes, coder }))
    }
}

fn index<'a>(
    indexes: &'a mut Vec<(IndexKind, usize, IndexScratch)>,
    config: &PqConfig,
    group: usize,
    n_tokens: usize,
) -> &'a mut IndexScratch {
    let kind = (config.shape, config.rerank.map(|r| (r.bits, r.band)), group);
    let at = match indexes.iter().position(|i| i.0 == kind) {
        Some(at) => at,
        None => {
            indexes.push((kind, n_tokens, IndexScratch::new(config, group, n_tokens)));
            indexes.len() - 1
        }
    };
    let (_, room, scratch) = &mut indexes[at];
    if *room < n_tokens {
        *room = n_tokens.max(*room * 2);
        *scratch = IndexScratch::new(config, group, *room);
    }
    scratch
}

fn decode(decodes: &mut Vec<Decode>, group: usize, dim_v: usize) -> Result<&mut Decode, Failure> {
    let at = match decodes.iter().position(|d| d.group() == group && d.dim_v() == dim_v) {
        Some(at) => at,
        None => {
            decodes.push(Decode::new(group, dim_v)?);
            decodes.len() - 1
        }
    };
    decodes[at].reset();
    Ok(&mut decodes[at])
}

/// Runs `body` with the caller's workspace, or with one of its own if the caller has none.
///
/// # Safety
/// `workspace` is NULL or a workspace that no other thread uses during the call.
pub(crate) unsafe fn with<T>(
    workspace: *mut tersa_workspace,
    body: impl FnOnce(&mut Scratch) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if workspace.is_null() {
        return body(&mut Scratch::default());
    }
    // SAFETY: the caller's promise.
    body(&mut unsafe { borrow::unique(workspace, "workspace")? }.scratch)
}

/// Makes a workspace. Calls take NULL in place of one and then take memory for themselves each time.
///
/// # Safety
/// `out` points to a pointer; `err` is NULL or points to a `tersa_error`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_workspace_create(
    out: *mut *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            borrow::put(out, Box::into_raw(Box::new(tersa_workspace { scratch: Scratch::default() })), "out")
        }
    })
}

/// Takes the memory now that `codec` will need for caches of up to `n_tokens` tokens.
///
/// # Safety
/// The handles are live, `workspace` is used by this thread only; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_workspace_reserve(
    workspace: *mut tersa_workspace,
    codec: *const tersa_codec,
    n_tokens: usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (workspace, codec) =
            unsafe { (borrow::unique(workspace, "workspace")?, borrow::shared(codec, "codec")?) };
        let (size, rows) = codec.inner.scratch_size(n_tokens);
        workspace.scratch.reserve(size, rows)
    })
}

/// Takes the memory now that indexes like `index` will need for sequences of up to `n_tokens` tokens with values of `dim_v` elements.
///
/// # Safety
/// The handles are live, `workspace` is used by this thread only; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_workspace_reserve_index(
    workspace: *mut tersa_workspace,
    index: *const tersa_index,
    n_tokens: usize,
    dim_v: u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (workspace, index) =
            unsafe { (borrow::unique(workspace, "workspace")?, borrow::shared(index, "index")?) };
        if n_tokens > u32::MAX as usize || dim_v > 1 << 16 {
            return fail!(TERSA_ERR_ARGUMENT, "{n_tokens} tokens with values of {dim_v} elements");
        }
        workspace.scratch.index(index.head.config(), index.group, n_tokens);
        workspace.scratch.decode(index.group, dim_v as usize)?;
        Ok(())
    })
}

/// Frees a workspace; NULL is fine.
///
/// # Safety
/// `workspace` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_workspace_destroy(workspace: *mut tersa_workspace) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(workspace) });
}
