//! Exact selection from scores of the caller.

use tersa_core::num::convert::first_non_finite;
use tersa_core::select;

use crate::attention::{MOST_HEADS, meets};
use crate::borrow;
use crate::index::group_rule;
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::workspace::{self, grow, tersa_workspace};

/// An output of indices, checked against the input before it is borrowed.
struct Indices {
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
}

impl Indices {
    /// # Safety
    /// `tokens` has `capacity` elements, `n_tokens` is NULL or points to a number.
    unsafe fn new<T>(
        tokens: *mut u32,
        capacity: usize,
        n_tokens: *mut usize,
        scores: &[T],
    ) -> Result<Self, Failure> {
        if u32::try_from(scores.len()).is_err() {
            return fail!(TERSA_ERR_ARGUMENT, "{} scores: indices are 32 bits wide", scores.len());
        }
        borrow::check_out(tokens, capacity, "tokens")?;
        if meets(tokens, capacity, scores) || meets(n_tokens, 1, scores) {
            return fail!(TERSA_ERR_OVERLAP, "an output overlaps the scores");
        }
        // SAFETY: the caller's promise.
        unsafe { borrow::put(n_tokens, 0, "n_tokens")? };
        Ok(Self { tokens, capacity, n_tokens })
    }

    /// Hands out `n` indices, which `write` puts there; a capacity of 0 only asks for their number.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    unsafe fn fill(self, n: usize, write: impl FnOnce(&mut [u32]) -> usize) -> Result<(), Failure> {
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(self.n_tokens, n, "n_tokens")?;
            if self.capacity == 0 {
                return Ok(());
            }
            if self.capacity < n {
                return fail!(
                    TERSA_ERR_SHORT_BUFFER,
                    "{n} tokens are selected, capacity is {}",
                    self.capacity
                );
            }
            let n = write(borrow::slice_mut(self.tokens, n, "tokens")?);
            borrow::put(self.n_tokens, n, "n_tokens")
        }
    }
}

/// Writes the indices of the `k` greatest of `n_scores` scores, rising, to `tokens`, which has `capacity` elements; `*n_tokens` becomes
/// their number: `k`, or `n_scores` if that is less. Of equal scores the lower indices are taken. The same at every CPU level. With
/// `TERSA_ERR_SHORT_BUFFER` `*n_tokens` is the capacity that is needed; a capacity of 0 only asks for that.
///
/// Cost: two passes over the scores. Takes no memory with a workspace that was used for a selection before.
///
/// # Safety
/// `scores` has `n_scores` elements, `tokens` has `capacity`; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_top_k_u16(
    scores: *const u16,
    n_scores: usize,
    k: usize,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let scores = borrow::slice(scores, n_scores, "scores")?;
        let out = Indices::new(tokens, capacity, n_tokens, scores)?;
        workspace::with(workspace, |scratch| {
            let k = k.min(n_scores);
            out.fill(k, |tokens| select::top_k_u16(scores, k, tokens, &mut scratch.top_k))
        })
    })
}

/// As `tersa_top_k_u16`. NaNs rank below every number; 0 and -0 are equal.
///
/// # Safety
/// As for `tersa_top_k_u16`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_top_k_f32(
    scores: *const f32,
    n_scores: usize,
    k: usize,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let scores = borrow::slice(scores, n_scores, "scores")?;
        let out = Indices::new(tokens, capacity, n_tokens, scores)?;
        workspace::with(workspace, |scratch| {
            let k = k.min(n_scores);
            out.fill(k, |tokens| select::top_k_f32(scores, k, tokens, &mut scratch.top_k))
        })
    })
}

/// The `k` best tokens for the query heads that share a KV head: their scores, `[group][n_scores]`, are combined by `rule`, a
/// `tersa_group_rule`, after multiplication by `scale`, and the greatest are written as by `tersa_top_k_f32`. With scores of
/// `tersa_attend_scores` and attention's scale this is exact selection.
///
/// Cost: two powers a score and three passes. Takes no memory with a workspace that has seen the size.
///
/// # Safety
/// `scores` has `group * n_scores` elements; else as for `tersa_top_k_u16`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_group_top_k_f32(
    rule: u32,
    scores: *const f32,
    group: u32,
    n_scores: usize,
    scale: f32,
    k: usize,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let rule = group_rule(rule)?;
        let group = group as usize;
        if !(1..=MOST_HEADS).contains(&group) {
            return fail!(TERSA_ERR_ARGUMENT, "group is {group}: 1 to {MOST_HEADS} query heads are expected");
        }
        if !(scale >= 0.0 && scale.is_finite()) {
            return fail!(TERSA_ERR_ARGUMENT, "scores cannot be scaled by {scale}");
        }
        if u32::try_from(n_scores).is_err() {
            return fail!(TERSA_ERR_ARGUMENT, "{n_scores} scores: indices are 32 bits wide");
        }
        let scores = borrow::slice(scores, group.saturating_mul(n_scores), "scores")?;
        let out = Indices::new(tokens, capacity, n_tokens, scores)?;
        workspace::with(workspace, |scratch| {
            let k = k.min(n_scores);
            let scales = [scale; MOST_HEADS];
            grow(&mut scratch.weights, n_scores)?;
            let weights = &mut scratch.weights[..n_scores];
            out.fill(k, |tokens| {
                let top_k = &mut scratch.top_k;
                select::group_top_k_f32(rule, scores, &scales[..group], k, weights, tokens, top_k)
            })
        })
    })
}

/// Writes the indices of the fewest tokens that hold at least the share `p` of all weights, heaviest first (of equal ones the lower
/// index), in rising order. Weights are finite, need not sum to 1, and count as 0 where they are negative. Else as
/// `tersa_top_k_u16`.
///
/// Cost: about ten passes over the weights.
///
/// # Safety
/// As for `tersa_top_k_u16`.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_top_p(
    weights: *const f32,
    n_weights: usize,
    p: f32,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let weights = borrow::slice(weights, n_weights, "weights")?;
        let out = Indices::new(tokens, capacity, n_tokens, weights)?;
        if !(0.0..=1.0).contains(&p) {
            return fail!(TERSA_ERR_ARGUMENT, "a share is between 0 and 1, not {p}");
        }
        if let Some(at) = first_non_finite(weights) {
            return fail!(TERSA_ERR_ARGUMENT, "weight {at} is a NaN or an infinity");
        }
        workspace::with(workspace, |scratch| match select::nucleus(weights, p, &mut scratch.top_k) {
            Some(threshold) => {
                out.fill(threshold.k(), |tokens| select::select_f32(weights, threshold, tokens))
            }
            None => out.fill(0, |_| 0),
        })
    })
}

/// Writes the indices of the scores that are at least `least`, rising. Else as `tersa_top_k_u16`.
///
/// # Safety
/// As for `tersa_top_k_u16`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_at_least_u16(
    scores: *const u16,
    n_scores: usize,
    least: u16,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let scores = borrow::slice(scores, n_scores, "scores")?;
        let n = select::count_at_least_u16(scores, least);
        Indices::new(tokens, capacity, n_tokens, scores)?
            .fill(n, |tokens| select::at_least_u16(scores, least, tokens))
    })
}

/// As `tersa_at_least_u16`. A NaN is at least nothing, and nothing is at least a NaN.
///
/// # Safety
/// As for `tersa_top_k_u16`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_at_least_f32(
    scores: *const f32,
    n_scores: usize,
    least: f32,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let scores = borrow::slice(scores, n_scores, "scores")?;
        let n = select::count_at_least_f32(scores, least);
        Indices::new(tokens, capacity, n_tokens, scores)?
            .fill(n, |tokens| select::at_least_f32(scores, least, tokens))
    })
}
