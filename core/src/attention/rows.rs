//! Where the rows of one head lie, and which of them are meant.

use super::AttentionError;
use crate::cpu::{self, Level};
use crate::kernels::attend::{BLOCK, Format, RowBlock, blocked};
use crate::num::DType;
use crate::view::KvView;
use core::ops::Range;

/// The key or value rows of one head, one for each token: `dim` elements side by side, the rows strided or paged.
///
/// Cost of making one: constant, but for [`Rows::paged`] and [`Rows::table`], which check every block.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    layout: Layout<'a>,
    dtype: DType,
    format: Format,
    dim: usize,
    n_tokens: usize,
    row_bytes: usize,
    /// Bytes from a row to the next, within a block if paged.
    stride: usize,
}

#[derive(Clone, Copy, Debug)]
enum Layout<'a> {
    Strided(&'a [u8]),
    Paged { blocks: &'a [&'a [u8]], block_size: usize },
    Table { slab: &'a [u8], table: &'a [u32], blocks: Blocks },
}

/// How the blocks of a slab lie; all but `block_size` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Tokens in a block.
    pub block_size: usize,
    /// From a block to the next.
    pub block_stride: usize,
    /// From the start of a block to the head's first row.
    pub first_row: usize,
    /// From a token's row to the next.
    pub row_stride: usize,
}

/// Which tokens, in which order.
#[derive(Clone, Debug)]
pub enum Tokens<'a> {
    /// Consecutive ones.
    Range(Range<usize>),
    /// These; ascending is fastest. A token named twice counts twice.
    List(&'a [u32]),
}

impl Tokens<'_> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens are below `n_tokens`.
    pub(super) fn check(&self, n_tokens: usize) -> Result<(), AttentionError> {
        let last = match self {
            Self::Range(r) if r.start > r.end => {
                return Err(AttentionError::Range { start: r.start, end: r.end });
            }
            Self::Range(r) if r.is_empty() => return Ok(()),
            Self::Range(r) => r.end - 1,
            Self::List(list) => match list.iter().max() {
                Some(&last) => last as usize,
                None => return Ok(()),
            },
        };
        if last < n_tokens { Ok(()) } else { Err(AttentionError::Token { token: last, n_tokens }) }
    }
}

impl<'a> Rows<'a> {
    fn new(
        layout: Layout<'a>,
        dtype: DType,
        dim: usize,
        n_tokens: usize,
        stride: usize,
    ) -> Result<Self, AttentionError> {
        let format = match dtype {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            DType::Bf16 => Format::Bf16,
            DType::Q8_0 => Format::Q8_0,
            _ => return Err(AttentionError::Type { dtype }),
        };
        let row_bytes = dtype.bytes_for(dim).ok_or(AttentionError::SplitBlock { dtype, dim })?;
        Ok(Self { layout, dtype, format, dim, n_tokens, row_bytes, stride })
    }

    /// Rows that follow each other without gaps, as many as `data` holds.
    ///
    /// # Errors
    /// [`AttentionError::Type`] and [`AttentionError::SplitBlock`]; [`AttentionError::Length`] if `data` is not whole
    /// rows.
    pub fn contiguous(data: &'a [u8], dtype: DType, dim: usize) -> Result<Self, AttentionError> {
        let mut rows = Self::new(Layout::Strided(data), dtype, dim, 0, 0)?;
        rows.stride = rows.row_bytes;
        rows.n_tokens = data.len().checked_div(rows.row_bytes).unwrap_or(0);
        let whole = rows.n_tokens * rows.row_bytes;
        if whole != data.len() {
            return Err(AttentionError::Length { expected: whole + rows.row_bytes, got: data.len() });
        }
        Ok(rows)
    }

    /// `n_tokens` rows, `stride` bytes apart, the first at the start of `data`.
    ///
    /// # Errors
    /// [`AttentionError::Type`], [`AttentionError::SplitBlock`]; [`AttentionError::OutOfBounds`] if `data` ends before
    /// the last row does.
    pub fn strided(
        data: &'a [u8],
        dtype: DType,
        dim: usize,
        n_tokens: usize,
        stride: usize,
    ) -> Result<Self, AttentionError> {
        let rows = Self::new(Layout::Strided(data), dtype, dim, n_tokens, stride)?;
        within(rows.reach(n_tokens), data.len())?;
        Ok(rows)
    }

    /// The rows of one head of a view.
    ///
    /// # Errors
    /// [`AttentionError::Type`]; [`AttentionError::Head`] if the view has no such head or the elements of its rows are
    /// apart.
    pub fn of_view(view: &KvView<'a>, head: usize) -> Result<Self, AttentionError> {
        let shape = view.shape();
        let (data, stride) = view.head_rows(head).ok_or(AttentionError::Head { head })?;
        Self::strided(data, shape.dtype, shape.head_dim, shape.n_tokens, stride)
    }

    /// Paged rows: token `t` is row `t % block_size` of block `t / block_size`. Each block's slice starts at the head's
    /// first row of it; rows are `stride` bytes apart. The last block may have fewer rows.
    ///
    /// # Errors
    /// [`AttentionError::Type`], [`AttentionError::SplitBlock`]; [`AttentionError::OutOfBounds`] if a block is too
    /// short; [`AttentionError::Token`] if there are too few blocks.
    pub fn paged(
        blocks: &'a [&'a [u8]],
        block_size: usize,
        dtype: DType,
        dim: usize,
        n_tokens: usize,
        stride: usize,
    ) -> Result<Self, AttentionError> {
        let rows = Self::new(Layout::Paged { blocks, block_size }, dtype, dim, n_tokens, stride)?;
        enough_blocks(blocks.len(), block_size, n_tokens)?;
        for (b, block) in blocks.iter().enumerate() {
            within(rows.reach(n_tokens.saturating_sub(b * block_size).min(block_size)), block.len())?;
        }
        Ok(rows)
    }

    /// Paged rows in one slab: token `t` is row `t % block_size` of block `table[t / block_size]`.
    ///
    /// # Errors
    /// As [`Rows::paged`].
    pub fn table(
        slab: &'a [u8],
        table: &'a [u32],
        blocks: Blocks,
        dtype: DType,
        dim: usize,
        n_tokens: usize,
    ) -> Result<Self, AttentionError> {
        let layout = Layout::Table { slab, table, blocks };
        let rows = Self::new(layout, dtype, dim, n_tokens, blocks.row_stride)?;
        enough_blocks(table.len(), blocks.block_size, n_tokens)?;
        for (b, &block) in table.iter().enumerate() {
            let n = n_tokens.saturating_sub(b * blocks.block_size).min(blocks.block_size);
            if n > 0 {
                let start = u128::from(block) * blocks.block_stride as u128 + blocks.first_row as u128;
                within(start + rows.reach(n), slab.len())?;
            }
        }
        Ok(rows)
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements of a row.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.dim
    }

    /// Rows.
    #[must_use]
    pub const fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes of a row.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Converts the rows of `tokens` to `f32`, `[tokens][dim]`. Allocates nothing.
    ///
    /// # Errors
    /// [`AttentionError::Token`] or [`AttentionError::Range`] if not all tokens have a row, [`AttentionError::Length`] unless
    /// `out` has as many elements.
    pub fn to_f32(&self, tokens: Range<usize>, out: &mut [f32]) -> Result<(), AttentionError> {
        Tokens::Range(tokens.clone()).check(self.n_tokens)?;
        let expected = tokens.len() * self.dim;
        if out.len() != expected {
            return Err(AttentionError::Length { expected, got: out.len() });
        }
        self.widen(cpu::level(), tokens, out, self.dim);
        Ok(())
    }

    /// Bytes from the first byte of the first of `n` rows to the last byte of the last.
    fn reach(&self, n: usize) -> u128 {
        if n == 0 { 0 } else { (n as u128 - 1) * self.stride as u128 + self.row_bytes as u128 }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// The rows of a block of the tokens, from the `at`th on. All tokens were checked.
    pub(super) fn block(&self, tokens: &Tokens<'_>, at: usize, block: &mut RowBlock<'a>) {
        block.clear();
        let n = BLOCK.min(tokens.len().saturating_sub(at));
        if n == 0 {
            return;
        }
        match (tokens, self.layout) {
            (Tokens::Range(range), Layout::Strided(data)) => {
                block.push_run(data, (range.start + at) * self.stride, self.stride, n);
            }
            (Tokens::List(list), Layout::Strided(data)) => {
                block.push_list(data, self.stride, &list[at..at + n]);
            }
            (Tokens::Range(range), _) => {
                let mut token = range.start + at;
                let end = token + n;
                while token < end {
                    token += self.push_page(token, end - token, block);
                }
            }
            (Tokens::List(list), Layout::Paged { blocks, block_size }) => {
                let pages = Pages::new(block_size);
                for &token in &list[at..at + n] {
                    let (page, row) = pages.place(token as usize);
                    block.push_row(blocks[page], row * self.stride);
                }
                block.repeat_last();
            }
            (Tokens::List(list), Layout::Table { slab, table, blocks }) => {
                let pages = Pages::new(blocks.block_size);
                for &token in &list[at..at + n] {
                    let (page, row) = pages.place(token as usize);
                    let first = table[page] as usize * blocks.block_stride + blocks.first_row;
                    block.push_row(slab, first + row * self.stride);
                }
                block.repeat_last();
            }
        }
    }

    /// The rows `tokens` as `f32`, `stride` apart in `out`. All were checked.
    pub(crate) fn widen(&self, level: Level, tokens: Range<usize>, out: &mut [f32], stride: usize) {
        let tokens = Tokens::Range(tokens);
        let mut block = RowBlock::new(self.row_bytes);
        for (i, out) in out.chunks_mut(BLOCK * stride.max(1)).enumerate() {
            self.block(&tokens, i * BLOCK, &mut block);
            blocked::widen(level, self.format, &block, self.dim, out, stride, 0);
        }
    }

    /// Up to `most` rows from `token` on, as many as its page holds; returns how many.
    fn push_page(&self, token: usize, most: usize, block: &mut RowBlock<'a>) -> usize {
        let (bytes, base, block_size) = match self.layout {
            Layout::Strided(data) => (data, 0, usize::MAX),
            Layout::Paged { blocks, block_size } => (blocks[token / block_size], 0, block_size),
            Layout::Table { slab, table, blocks } => {
                let page = table[token / blocks.block_size] as usize;
                (slab, page * blocks.block_stride + blocks.first_row, blocks.block_size)
            }
        };
        let row = token % block_size;
        let n = most.min(block_size - row);
        block.push_run(bytes, base + row * self.stride, self.stride, n);
        n
    }
}

/// Where tokens lie in pages. Pages are mostly powers of two long, and a division takes longer than all else that an
/// address needs.
#[derive(Clone, Copy)]
struct Pages {
    block_size: usize,
    shift: Option<u32>,
}

impl Pages {
    fn new(block_size: usize) -> Self {
        Self { block_size, shift: block_size.is_power_of_two().then(|| block_size.trailing_zeros()) }
    }

    /// The page of a token and its row there.
    #[inline]
    fn place(self, token: usize) -> (usize, usize) {
        match self.shift {
            Some(shift) => (token >> shift, token & (self.block_size - 1)),
            None => (token / self.block_size, token % self.block_size),
        }
    }
}

fn within(needed: u128, len: usize) -> Result<(), AttentionError> {
    if needed <= len as u128 { Ok(()) } else { Err(AttentionError::OutOfBounds { needed, len }) }
}

fn enough_blocks(blocks: usize, block_size: usize, n_tokens: usize) -> Result<(), AttentionError> {
    let held = blocks.saturating_mul(block_size);
    if n_tokens <= held { Ok(()) } else { Err(AttentionError::Token { token: n_tokens - 1, n_tokens: held }) }
}
