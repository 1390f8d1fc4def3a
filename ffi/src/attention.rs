//! Exact attention over rows of the caller.

use tersa_core::attention::Decode;

use crate::borrow::{self, overlap};
use crate::status::{Failure, fail};
use crate::view::View;

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
