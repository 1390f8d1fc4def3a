//! The rows of one head where the caller keeps them: strided, or in the blocks of a pool.

use std::ffi::c_void;

use tersa_core::attention::{self, Blocks};

use crate::borrow::{self, Versioned, overlap};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::tensor::{self, tersa_dtype, whole};

/// The key or value rows of one KV head, one for each token of a sequence; only read. Elements are `TERSA_F32`, `TERSA_F16`,
/// `TERSA_BF16` or `TERSA_Q8_0`, those of a row side by side.
///
/// - `block_size` 0: `data` is the row of token 0, and rows are `row_stride` elements apart.
/// - `block_size` N: token `t` lies in block `block_table[t / N]` of a pool; its row is
///   `block_table[t / N] * block_stride + (t % N) * row_stride` elements after `data`, which is where this head's first row
///   of block 0 is. With N = 1 the table names the place of every single token.
///
/// Nobody may write to a row that a call reads while the call runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_view {
    /// Set by `tersa_view_init`.
    pub struct_size: u32,
    /// A `tersa_dtype`.
    pub dtype: u32,
    /// Elements of a row.
    pub dim: u32,
    /// Tokens of a block, 0 if there are no blocks.
    pub block_size: u32,
    /// Tokens.
    pub n_tokens: usize,
    /// See above; need not be aligned.
    pub data: *const c_void,
    /// Bytes that belong to the caller from `data` on; nothing beyond is read.
    pub len_bytes: usize,
    /// Elements from one token's row to the next; 0 stands for `dim`.
    pub row_stride: usize,
    /// Which block of the pool holds tokens `N * i` to `N * i + N - 1`.
    pub block_table: *const u32,
    /// Length of `block_table`.
    pub n_block_table: usize,
    /// Elements from one block of the pool to the next.
    pub block_stride: usize,
}

// SAFETY: integers and raw pointers only.
unsafe impl Versioned for tersa_view {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            dtype: tersa_dtype::TERSA_F16 as u32,
            dim: 0,
            block_size: 0,
            n_tokens: 0,
            data: std::ptr::null(),
            len_bytes: 0,
            row_stride: 0,
            block_table: std::ptr::null(),
            n_block_table: 0,
            block_stride: 0,
        }
    }
}

/// Sets `*view` to no tokens of f16. `struct_size` is `sizeof *view`.
///
/// # Safety
/// `view` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_view_init(
    view: *mut tersa_view,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(view, struct_size, "view") })
}

/// A checked view: every row lies within the caller's memory, as far as its lengths tell.
pub(crate) struct View<'a> {
    pub(crate) rows: attention::Rows<'a>,
    data: &'a [u8],
    /// The block table and, in bytes, from a block to the next and what a block reaches.
    blocks: Option<(&'a [u32], usize, usize)>,
}

impl<'a> View<'a> {
    /// # Safety
    /// `view` is NULL or a live struct with data and a table of the lengths that it says; nobody writes to the rows during
    /// the call.
    pub(crate) unsafe fn new(view: *const tersa_view, what: &str) -> Result<Self, Failure> {
        let at = |f: Failure| f.at(format_args!("{what}"));
        // SAFETY: the caller's promise.
        let view = unsafe { borrow::take(view, what)? };
        let row = tensor::Rows::new(view.dtype, 1, view.dim).map_err(at)?;
        let row_stride = if view.row_stride == 0 { row.head_dim } else { view.row_stride };
        let row_stride = whole(row.dtype, row_stride, what)?;
        let reach = |n: usize| n.saturating_sub(1).saturating_mul(row_stride).saturating_add(row.row_bytes());
        let n = view.n_tokens;
        if view.block_size == 0 {
            if !view.block_table.is_null() {
                return fail!(TERSA_ERR_ARGUMENT, "{what}: a block table needs a block_size");
            }
            let len = if n == 0 { 0 } else { reach(n).min(view.len_bytes) };
            // SAFETY: the caller's promise.
            let data = unsafe { borrow::bytes(view.data, len, "data").map_err(at)? };
            let rows = attention::Rows::strided(data, row.dtype, row.head_dim, n, row_stride)
                .map_err(|e| at(e.into()))?;
            return Ok(Self { rows, data, blocks: None });
        }
        let block_size = view.block_size as usize;
        let n_blocks = n.div_ceil(block_size);
        if view.n_block_table < n_blocks {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{what}: {n} tokens are {n_blocks} blocks of {block_size}, block_table has {}",
                view.n_block_table
            );
        }
        let block_stride = whole(row.dtype, view.block_stride, what)?;
        // SAFETY: the caller's promise.
        let (data, table) = unsafe {
            let len = if n == 0 { 0 } else { view.len_bytes };
            let data = borrow::bytes(view.data, len, "data").map_err(at)?;
            (data, borrow::slice(view.block_table, n_blocks, "block_table").map_err(at)?)
        };
        let blocks = Blocks { block_size, block_stride, first_row: 0, row_stride };
        let rows = attention::Rows::table(data, table, blocks, row.dtype, row.head_dim, n)
            .map_err(|e| at(e.into()))?;
        Ok(Self { rows, data, blocks: Some((table, block_stride, reach(n.min(block_size)))) })
    }

    /// Fails if the rows share a byte with an output.
    pub(crate) fn keep_off<T>(&self, out: *const T, len: usize, what: &str) -> Result<(), Failure> {
        let (out, len) = (out.cast::<u8>(), len.saturating_mul(size_of::<T>()));
        let start = self.data.as_ptr();
        let meets = overlap(start, self.data.len(), out, len)
            && match self.blocks {
                None => true,
                // A pool may hold much that is not this sequence's.
                Some((table, stride, reach)) => {
                    table.iter().any(|&b| overlap(start.wrapping_add(b as usize * stride), reach, out, len))
                }
            };
        if meets {
            return fail!(TERSA_ERR_OVERLAP, "{what} overlaps rows that are read");
        }
        Ok(())
    }
}
