//! Exact attention over rows of the caller.

use tersa_core::attention::{self, Decode, Tokens};

use crate::borrow::{self, overlap};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::tensor::tersa_range;
use crate::view::{View, tersa_view};
use crate::workspace::{self, tersa_workspace};

/// Most query heads of a group.
pub(crate) const MOST_HEADS: usize = 256;

/// Where the outputs of a group of query heads go. Borrowed only when they are written, after every check.
pub(crate) struct Output {
    out: *mut f32,
    n_out: usize,
    lse: *mut f32,
    group: usize,
}

impl Output {
    /// Outputs `[group][dim_v]` and, unless NULL, `[group]`.
    pub(crate) fn new(group: usize, dim_v: usize, out: *mut f32, lse: *mut f32) -> Result<Self, Failure> {
        let n_out = group * dim_v;
        borrow::check_out(out, n_out, "out")?;
        if !lse.is_null() {
            borrow::check_out(lse, group, "lse")?;
        }
        Ok(Self { out, n_out, lse, group })
    }

    /// Fails if an output shares a byte with an input or the other output.
    pub(crate) fn keep_off(&self, views: &[&View<'_>], inputs: &[&[f32]]) -> Result<(), Failure> {
        let n_lse = if self.lse.is_null() { 0 } else { self.group };
        for (out, len, what) in [(self.out, self.n_out, "out"), (self.lse, n_lse, "lse")] {
            for view in views {
                view.keep_off(out, len, what)?;
            }
            if inputs.iter().any(|input| meets(out, len, input)) {
                return fail!(TERSA_ERR_OVERLAP, "{what} overlaps an input");
            }
        }
        if overlap(self.out.cast(), self.n_out * 4, self.lse.cast(), n_lse * 4) {
            return fail!(TERSA_ERR_OVERLAP, "out overlaps lse");
        }
        Ok(())
    }

    /// Writes what `decode` has seen.
    ///
    /// # Safety
    /// `out` and `lse` have as many elements as [`Output::new`] was told, and nobody else uses them during the call.
    pub(crate) unsafe fn write(self, decode: &Decode) -> Result<(), Failure> {
        let mut unasked = [0.0; MOST_HEADS];
        // SAFETY: the caller's promise.
        let (out, lse) = unsafe {
            let lse = if self.lse.is_null() { unasked.as_mut_ptr() } else { self.lse };
            (borrow::slice_mut(self.out, self.n_out, "out")?, borrow::slice_mut(lse, self.group, "lse")?)
        };
        Ok(decode.finish(out, lse)?)
    }
}

/// Whether an output of `len` elements shares a byte with an input.
pub(crate) fn meets<T, U>(out: *mut T, len: usize, input: &[U]) -> bool {
    let out_bytes = len.saturating_mul(size_of::<T>());
    overlap(out.cast_const().cast(), out_bytes, input.as_ptr().cast(), size_of_val(input))
}

/// `n` numbers for each of `group` query heads.
///
/// # Safety
/// As for [`borrow::slice`].
unsafe fn heads<'a>(p: *const f32, group: u32, n: usize, what: &str) -> Result<&'a [f32], Failure> {
    let group = group as usize;
    if !(1..=MOST_HEADS).contains(&group) {
        return fail!(TERSA_ERR_ARGUMENT, "group is {group}: 1 to {MOST_HEADS} query heads are expected");
    }
    // SAFETY: the caller's promise.
    unsafe { borrow::slice(p, group.saturating_mul(n), what) }
}

/// The places of a call's tensors, in the order of its parameters.
struct Attend {
    q: *const f32,
    group: u32,
    scale: f32,
    keys: *const tersa_view,
    values: *const tersa_view,
    out: *mut f32,
    lse: *mut f32,
    workspace: *mut tersa_workspace,
}

impl Attend {
    /// # Safety
    /// As for the calls below.
    unsafe fn run(
        self,
        tokens: impl FnOnce(usize) -> Result<Tokens<'static>, Failure>,
    ) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        unsafe {
            let (keys, values) = (View::new(self.keys, "keys")?, View::new(self.values, "values")?);
            let q = heads(self.q, self.group, keys.rows.dim(), "q")?;
            let (group, dim_v) = (self.group as usize, values.rows.dim());
            let tokens = tokens(keys.rows.n_tokens())?;
            let output = Output::new(group, dim_v, self.out, self.lse)?;
            output.keep_off(&[&keys, &values], &[q])?;
            if let Tokens::List(list) = tokens {
                let n_lse = if self.lse.is_null() { 0 } else { group };
                if meets(self.out, group * dim_v, list) || meets(self.lse, n_lse, list) {
                    return fail!(TERSA_ERR_OVERLAP, "an output overlaps the tokens");
                }
            }
            workspace::with(self.workspace, |scratch| {
                let decode = scratch.decode(group, dim_v)?;
                decode.add(q, self.scale, &keys.rows, &values.rows, tokens)?;
                output.write(decode)
            })
        }
    }
}

/// Exact attention of the query heads that share a KV head, `q` `[group][keys->dim]`, over a range of tokens: `out`,
/// `[group][values->dim]`, and, unless `lse` is NULL, the natural logarithm of each head's sum of exponentials, `[group]`.
/// `scale` is what scores are multiplied by, usually `1 / sqrt(dim)`. Over no tokens, `out` is 0 and `lse` is minus infinity.
///
/// Keys and values are read once for the whole group, as f32, and summed in f32. Limit: the bandwidth of reading them for a few heads. A
/// long range may be cut among threads, and their results merged by `tersa_attend_merge`. Takes no memory with a workspace that
/// has seen `group` and `values->dim`.
///
/// # Safety
/// `q` has `group * keys->dim` elements, `out` has `group * values->dim`, `lse` has `group` or is NULL; pointers as their types
/// say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_attend_range(
    q: *const f32,
    group: u32,
    scale: f32,
    keys: *const tersa_view,
    values: *const tersa_view,
    tokens: tersa_range,
    out: *mut f32,
    lse: *mut f32,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let call = Attend { q, group, scale, keys, values, out, lse, workspace };
        call.run(|n| Ok(Tokens::Range(tokens.within(n, "tokens")?)))
    })
}

/// As `tersa_attend_range`, over the tokens of a list: best rising, and a token named twice counts twice.
///
/// # Safety
/// `tokens` has `n_tokens` elements; else as for `tersa_attend_range`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_attend_list(
    q: *const f32,
    group: u32,
    scale: f32,
    keys: *const tersa_view,
    values: *const tersa_view,
    tokens: *const u32,
    n_tokens: usize,
    out: *mut f32,
    lse: *mut f32,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let call = Attend { q, group, scale, keys, values, out, lse, workspace };
        call.run(|_| Ok(Tokens::List(borrow::slice(tokens, n_tokens, "tokens")?)))
    })
}

/// Merges the results of attention over `n_parts` sets of tokens: `part_out` `[n_parts][group][dim_v]` and `part_lse`
/// `[n_parts][group]` become `out` `[group][dim_v]` and, unless NULL, `lse` `[group]`: attention over all of them. A part with minus
/// infinity as `lse` has seen nothing, whatever its output.
///
/// # Safety
/// Inputs and outputs have as many elements as said; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_attend_merge(
    group: u32,
    dim_v: u32,
    part_out: *const f32,
    part_lse: *const f32,
    n_parts: usize,
    out: *mut f32,
    lse: *mut f32,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        if !(1..=1 << 16).contains(&dim_v) {
            return fail!(TERSA_ERR_ARGUMENT, "dim_v is {dim_v}: 1 to 65536 elements are expected");
        }
        let dim_v = dim_v as usize;
        let part_lse = heads(part_lse, group, n_parts, "part_lse")?;
        let part_out = borrow::slice(part_out, part_lse.len().saturating_mul(dim_v), "part_out")?;
        let group = group as usize;
        let output = Output::new(group, dim_v, out, lse)?;
        output.keep_off(&[], &[part_out, part_lse])?;
        workspace::with(workspace, |scratch| {
            let decode = scratch.decode(group, dim_v)?;
            for (out, lse) in part_out.chunks_exact(group * dim_v).zip(part_lse.chunks_exact(group)) {
                decode.merge_partial(out, lse)?;
            }
            output.write(decode)
        })
    })
}

/// Scores `<q, k>`, not scaled, of the query heads `q` `[group][keys->dim]` for a range of tokens: `scores`, `[group][tokens]`. What
/// exact selection ranks; see `tersa_group_top_k_f32`. Takes no memory.
///
/// # Safety
/// `q` has `group * keys->dim` elements, `scores` has `group` for each token of the range; pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_attend_scores(
    q: *const f32,
    group: u32,
    keys: *const tersa_view,
    tokens: tersa_range,
    scores: *mut f32,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let keys = View::new(keys, "keys")?;
        let q = heads(q, group, keys.rows.dim(), "q")?;
        let tokens = tokens.within(keys.rows.n_tokens(), "tokens")?;
        let n = (group as usize).saturating_mul(tokens.len());
        borrow::check_out(scores, n, "scores")?;
        keys.keep_off(scores, n, "scores")?;
        if meets(scores, n, q) {
            return fail!(TERSA_ERR_OVERLAP, "scores overlaps q");
        }
        let scores = borrow::slice_mut(scores, n, "scores")?;
        Ok(attention::scores(q, &keys.rows, Tokens::Range(tokens), scores)?)
    })
}
