//! Caches wherever they lie: one pointer a layer, one a block, or a block table into a pool.

use std::ffi::c_void;
use std::ops::Range;

use tersa_core::num::DType;

use crate::borrow::{self, Versioned, overlap};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};

/// How the elements of a cache are stored; little-endian. The types from 16 on are llama.cpp's blocks of 32 elements.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tersa_dtype {
    /// IEEE 754 binary32.
    TERSA_F32 = 1,
    /// IEEE 754 binary16.
    TERSA_F16 = 2,
    /// bfloat16.
    TERSA_BF16 = 3,
    /// 8-bit float, 4 exponent bits, no infinities.
    TERSA_F8_E4M3 = 4,
    /// 8-bit float, 5 exponent bits.
    TERSA_F8_E5M2 = 5,
    /// 34 bytes for 32 elements.
    TERSA_Q8_0 = 16,
    /// 18 bytes for 32 elements.
    TERSA_Q4_0 = 17,
    /// 20 bytes for 32 elements.
    TERSA_Q4_1 = 18,
    /// 22 bytes for 32 elements.
    TERSA_Q5_0 = 19,
    /// 24 bytes for 32 elements.
    TERSA_Q5_1 = 20,
    /// 18 bytes for 32 elements.
    TERSA_IQ4_NL = 21,
}

/// From `start` up to, not including, `end`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct tersa_range {
    /// First.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl tersa_range {
    /// The range if it lies within `0..len`.
    pub(crate) fn within(self, len: usize, what: &str) -> Result<Range<usize>, Failure> {
        let Self { start, end } = self;
        if start > end || end > len {
            return fail!(TERSA_ERR_ARGUMENT, "{what} {start}..{end} do not lie within 0..{len}");
        }
        Ok(start..end)
    }
}

/// Where the keys, or the values, of some layers lie: elements `[layer][token][head][dim]` of one type.
///
/// Three ways, by `block_size` and `block_table`:
/// - `block_size` 0: `pointers[layer]` is where token 0 of that layer starts.
/// - `block_size` N and no `block_table`: token `t` lies in block `t / N`, and
///   `pointers[layer * n_blocks + block]` is where that block starts, `n_blocks` being `n_tokens / N` rounded up.
/// - `block_size` N and a `block_table`: `pointers[layer]` is where a pool of blocks starts, and the block of token `t` starts
///   `block_table[t / N] * block_stride` elements after it.
///
/// Element (t, h, i) then lies `(t % N) * token_stride + h * head_stride + i * dim_stride` elements on. Strides of 0 stand
/// for rows of all heads side by side: `[token][head][dim]`. Block types want `dim_stride` 1 and strides of whole blocks.
///
/// Memory is read and written only where the tokens and layers of the call lie. Sources are never written to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_kv {
    /// Set by `tersa_kv_init`.
    pub struct_size: u32,
    /// A `tersa_dtype`.
    pub dtype: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Elements of one head's row.
    pub head_dim: u32,
    /// Tokens that can be reached.
    pub n_tokens: usize,
    /// See above.
    pub pointers: *const *mut c_void,
    /// Length of `pointers`.
    pub n_pointers: usize,
    /// Bytes that belong to the caller from each pointer on; nothing beyond is touched.
    pub len_bytes: usize,
    /// Elements from one token to the next.
    pub token_stride: usize,
    /// Elements from one head to the next.
    pub head_stride: usize,
    /// Elements from one element of a row to the next.
    pub dim_stride: usize,
    /// Tokens of a block, 0 if there are no blocks.
    pub block_size: usize,
    /// Which block of the pool holds tokens `N * i` to `N * i + N - 1`; NULL if there is no pool.
    pub block_table: *const u32,
    /// Length of `block_table`.
    pub n_block_table: usize,
    /// Elements from one block of the pool to the next.
    pub block_stride: usize,
}

// SAFETY: integers and raw pointers only.
unsafe impl Versioned for tersa_kv {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            dtype: tersa_dtype::TERSA_F16 as u32,
            n_kv_heads: 0,
            head_dim: 0,
            n_tokens: 0,
            pointers: std::ptr::null(),
            n_pointers: 0,
            len_bytes: 0,
            token_stride: 0,
            head_stride: 0,
            dim_stride: 0,
            block_size: 0,
            block_table: std::ptr::null(),
            n_block_table: 0,
            block_stride: 0,
        }
    }
}

/// Sets `*kv` to an empty cache of f16. `struct_size` is `sizeof *kv`.
///
/// # Safety
/// `kv` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_kv_init(
    kv: *mut tersa_kv,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(kv, struct_size, "kv") })
}

/// The element type with this number.
pub(crate) fn dtype(code: u32) -> Result<DType, Failure> {
    match u8::try_from(code).ok().and_then(DType::from_code) {
        Some(dtype) => Ok(dtype),
        None => fail!(TERSA_ERR_ARGUMENT, "{code} is no tersa_dtype"),
    }
}

/// Type and size of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) dtype: DType,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Rows {
    pub(crate) fn new(code: u32, n_kv_heads: u32, head_dim: u32) -> Result<Self, Failure> {
        let dtype = dtype(code)?;
        let (n_kv_heads, head_dim) = (n_kv_heads as usize, head_dim as usize);
        if !(1..=1 << 16).contains(&n_kv_heads) || !(1..=1 << 16).contains(&head_dim) {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{n_kv_heads} heads of {head_dim} elements: both go from 1 to 65536"
            );
        }
        if dtype.bytes_for(head_dim).is_none() {
            return fail!(TERSA_ERR_ARGUMENT, "rows of {head_dim} elements are not whole blocks of {dtype}");
        }
        Ok(Self { dtype, n_kv_heads, head_dim })
    }

    /// Bytes of one head's row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.dtype.bytes_for(self.head_dim).expect("checked in `new`")
    }
}

/// Addresses of a checked [`tersa_kv`]. It outlives the caller's struct and arrays, but not the elements.
pub(crate) struct Places {
    rows: Rows,
    n_tokens: usize,
    n_layers: usize,
    /// `[layer]`, or `[layer][block]` without a table.
    pointers: Vec<*mut u8>,
    len_bytes: usize,
    /// Bytes from one token, head and element to the next; of an element (or block of elements).
    token: usize,
    head: usize,
    dim: usize,
    unit: usize,
    /// Tokens of a block; all of them without blocks.
    block: usize,
    /// Byte offset of each block from its layer's pointer.
    table: Option<Vec<usize>>,
}

// SAFETY: the pointers are the caller's, who promises that their memory may be used from whichever thread runs the call.
unsafe impl Send for Places {}

impl Places {
    /// Checks that every element of `n_layers` layers lies within the caller's memory, as far as its lengths tell.
    ///
    /// # Safety
    /// `kv` is NULL or a live struct with arrays of the lengths that it says.
    pub(crate) unsafe fn new(
        kv: *const tersa_kv,
        rows: Rows,
        n_layers: usize,
        what: &str,
    ) -> Result<Self, Failure> {
        // SAFETY: the caller's promise.
        let kv = unsafe { borrow::take(kv, what)? };
        let got =
            Rows::new(kv.dtype, kv.n_kv_heads, kv.head_dim).map_err(|f| f.at(format_args!("{what}")))?;
        if got != rows {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{what} has {} heads of {} x {}, expected are {} of {} x {}",
                got.n_kv_heads,
                got.head_dim,
                got.dtype,
                rows.n_kv_heads,
                rows.head_dim,
                rows.dtype
            );
        }
        // SAFETY: the caller's promise.
        let (pointers, table) = unsafe {
            (
                borrow::slice(kv.pointers, kv.n_pointers, "pointers")?,
                borrow::slice(kv.block_table, kv.n_block_table, "block_table")?,
            )
        };
        if kv.block_size == 0 && !table.is_empty() {
            return fail!(TERSA_ERR_ARGUMENT, "{what}: a block table needs a block_size");
        }
        let block = if kv.block_size == 0 { kv.n_tokens.max(1) } else { kv.block_size };
        let n_blocks = kv.n_tokens.div_ceil(block);
        let with_table = !table.is_empty();
        if with_table && table.len() < n_blocks {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{what}: {} tokens are {n_blocks} blocks of {block}, block_table has {}",
                kv.n_tokens,
                table.len()
            );
        }
        let per_layer = if with_table { 1 } else { n_blocks };
        let n_pointers = n_layers.saturating_mul(per_layer);
        if pointers.len() != n_pointers {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "{what} has {} pointers, {n_layers} layers need {n_pointers}",
                pointers.len()
            );
        }
        if pointers.iter().any(|p| p.is_null()) {
            return fail!(TERSA_ERR_NULL, "{what}: one of the pointers is NULL");
        }
        let places = Self::strides(&kv, rows, block, what)?;
        let mut table_bytes = None;
        if with_table {
            let stride = whole(rows.dtype, kv.block_stride, what)?;
            let reach = places.reach(block.min(kv.n_tokens));
            let mut offsets = Vec::with_capacity(n_blocks);
            for &b in &table[..n_blocks] {
                let start = (b as usize).saturating_mul(stride);
                if start.saturating_add(reach) > kv.len_bytes {
                    return fail!(
                        TERSA_ERR_SHORT_BUFFER,
                        "{what}: block {b} of the table reaches past len_bytes, which is {}",
                        kv.len_bytes
                    );
                }
                offsets.push(start);
            }
            table_bytes = Some(offsets);
        } else if kv.n_tokens > 0 && places.reach(block.min(kv.n_tokens)) > kv.len_bytes {
            return fail!(
                TERSA_ERR_SHORT_BUFFER,
                "{what}: {} bytes are behind each pointer, shape and strides need {}",
                kv.len_bytes,
                places.reach(block.min(kv.n_tokens))
            );
        }
        let pointers = pointers.iter().map(|p| p.cast()).collect();
        Ok(Self { n_layers, pointers, table: table_bytes, ..places })
    }

    fn strides(kv: &tersa_kv, rows: Rows, block: usize, what: &str) -> Result<Self, Failure> {
        let or = |stride: usize, default: usize| if stride == 0 { default } else { stride };
        let dim = or(kv.dim_stride, 1);
        let head = or(kv.head_stride, rows.head_dim);
        let token = or(kv.token_stride, rows.head_dim * rows.n_kv_heads);
        if dim != 1 && !rows.dtype.is_plain() {
            return fail!(TERSA_ERR_ARGUMENT, "{what}: dim_stride is {dim}, {} wants 1", rows.dtype);
        }
        Ok(Self {
            rows,
            n_tokens: kv.n_tokens,
            n_layers: 0,
            pointers: Vec::new(),
            len_bytes: kv.len_bytes,
            token: whole(rows.dtype, token, what)?,
            head: whole(rows.dtype, head, what)?,
            dim: dim.saturating_mul(rows.dtype.block_bytes()),
            unit: rows.dtype.block_bytes(),
            block,
            table: None,
        })
    }

    /// Bytes from a block's start to the end of the last element of its first `n` tokens; saturating.
    fn reach(&self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        let units = self.rows.head_dim / self.rows.dtype.block_len();
        ((n - 1).saturating_mul(self.token))
            .saturating_add((self.rows.n_kv_heads - 1).saturating_mul(self.head))
            .saturating_add((units - 1).saturating_mul(self.dim))
            .saturating_add(self.unit)
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Fails if the memory behind a pointer shares a byte with `bytes`.
    pub(crate) fn keep_off(&self, bytes: *const u8, len: usize, what: &str) -> Result<(), Failure> {
        let reach = match &self.table {
            Some(offsets) => offsets
                .iter()
                .max()
                .map_or(0, |o| o.saturating_add(self.reach(self.block.min(self.n_tokens)))),
            None => self.reach(self.block.min(self.n_tokens)),
        };
        let reach = reach.min(self.len_bytes);
        let dense = self.table.is_none();
        for p in &self.pointers {
            let meets = if dense {
                overlap(*p, reach, bytes, len)
            } else {
                // A pool may hold much that is not this cache's.
                let block = self.reach(self.block.min(self.n_tokens));
                overlap(*p, reach, bytes, len)
                    && self.table.iter().flatten().any(|o| overlap(p.wrapping_add(*o), block, bytes, len))
            };
            if meets {
                return fail!(TERSA_ERR_OVERLAP, "{what} overlap the elements of the cache");
            }
        }
        Ok(())
    }

    /// Where a row starts. In bounds of the caller's memory for `layer < n_layers`, `token < n_tokens`, `head <
    /// n_kv_heads`: `new` checked the farthest.
    fn at(&self, layer: usize, token: usize, head: usize) -> *mut u8 {
        assert!(layer < self.n_layers && token < self.n_tokens && head < self.rows.n_kv_heads);
        let (block, within) = (token / self.block, token % self.block);
        let start = match &self.table {
            Some(offsets) => self.pointers[layer].wrapping_add(offsets[block]),
            None => self.pointers[layer * self.n_tokens.div_ceil(self.block) + block],
        };
        start.wrapping_add(within * self.token + head * self.head)
    }

    /// Calls `f(first row, rows)` for the stretches of `tokens` that lie within one block.
    fn stretches(&self, tokens: Range<usize>, mut f: impl FnMut(usize, usize)) {
        let mut token = tokens.start;
        while token < tokens.end {
            let n = (self.block - token % self.block).min(tokens.end - token);
            f(token, n);
            token += n;
        }
    }

    /// Copies rows of one head side by side into `out`.
    ///
    /// # Safety
    /// The elements are readable, and nobody writes to them during the call.
    pub(crate) unsafe fn gather(&self, layer: usize, head: usize, tokens: Range<usize>, out: &mut [u8]) {
        // SAFETY: the caller's promise; `out` is only written to.
        unsafe {
            self.walk(layer, head, tokens, out.len(), |row, place, len| {
                out[row..row + len].as_mut_ptr().copy_from_nonoverlapping(place, len);
            })
        };
    }

    /// Copies rows that lie side by side to their places.
    ///
    /// # Safety
    /// The elements are writable, and nobody else uses them during the call.
    pub(crate) unsafe fn scatter(&self, layer: usize, head: usize, tokens: Range<usize>, rows: &[u8]) {
        // SAFETY: the caller's promise.
        unsafe {
            self.walk(layer, head, tokens, rows.len(), |row, place, len| {
                place.copy_from_nonoverlapping(rows[row..row + len].as_ptr(), len);
            })
        };
    }

    /// Calls `copy(offset among the rows, address, bytes)` for everything that `tokens` of a head hold.
    ///
    /// # Safety
    /// Whatever `copy` needs.
    unsafe fn walk(
        &self,
        layer: usize,
        head: usize,
        tokens: Range<usize>,
        len: usize,
        mut copy: impl FnMut(usize, *mut u8, usize),
    ) {
        let row = self.rows.row_bytes();
        assert_eq!(len, tokens.len() * row, "as many bytes as rows");
        let first = tokens.start;
        self.stretches(tokens, |token, n| {
            let (at, place) = ((token - first) * row, self.at(layer, token, head));
            if self.dim == self.unit && self.token == row {
                copy(at, place, n * row);
            } else if self.dim == self.unit {
                for i in 0..n {
                    copy(at + i * row, place.wrapping_add(i * self.token), row);
                }
            } else {
                // Transposed caches: channel by channel, since a channel's tokens are neighbours there.
                for dim in 0..self.rows.head_dim {
                    for i in 0..n {
                        let from = place.wrapping_add(i * self.token + dim * self.dim);
                        copy(at + i * row + dim * self.unit, from, self.unit);
                    }
                }
            }
        });
    }
}

/// Bytes of a stride of whole blocks.
pub(crate) fn whole(dtype: DType, elements: usize, what: &str) -> Result<usize, Failure> {
    match dtype.bytes_for(elements) {
        Some(bytes) => Ok(bytes),
        None => fail!(
            TERSA_ERR_ARGUMENT,
            "{what}: a stride of {elements} elements cuts through blocks of {dtype}"
        ),
    }
}
