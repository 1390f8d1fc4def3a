//! Exact rows in host memory: the keys or the values of one head, in blocks of tokens that forks share.
//!
//! A [`RowStore`] holds rows of one element type, plain (`f32`, `f16`, `bf16`) or in blocks (`q8_0`), and never looks
//! inside them. A fork is a clone: it shares all blocks, and whoever writes first copies the one block that it writes
//! (of [`RowStore::block_tokens`] tokens). Appending fills the last block and starts a new one; nothing that is there
//! moves.

mod block;
#[cfg(test)]
mod tests;

use super::KvError;
use crate::attention::Rows;
use crate::num::{DType, convert};
use alloc::sync::Arc;
use alloc::vec::Vec;
use block::Block;
use core::ops::Range;

/// Tokens of a block unless said otherwise: 256 KiB of 128 `f16`.
pub const BLOCK_TOKENS: usize = 1024;

/// Rows of one head, one for each token. See the [module](self).
#[derive(Clone, Debug)]
pub struct RowStore {
    dtype: DType,
    dim: usize,
    row_bytes: usize,
    shift: u32,
    blocks: Vec<Arc<Block>>,
    len: usize,
}

impl RowStore {
    /// An empty store of rows of `dim` elements.
    ///
    /// # Errors
    /// [`KvError::Row`] if `dim` is zero or does not fill whole blocks of the type; [`KvError::BlockTokens`] unless
    /// `block_tokens` is a power of two.
    pub fn new(dtype: DType, dim: usize, block_tokens: usize) -> Result<Self, KvError> {
        let row_bytes = dtype.bytes_for(dim).filter(|&n| n > 0).ok_or(KvError::Row { dtype, dim })?;
        if !block_tokens.is_power_of_two() || block_tokens.checked_mul(row_bytes).is_none() {
            return Err(KvError::BlockTokens { block_tokens });
        }
        let shift = block_tokens.trailing_zeros();
        Ok(Self { dtype, dim, row_bytes, shift, blocks: Vec::new(), len: 0 })
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

    /// Bytes of a row.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Tokens of a block.
    #[must_use]
    pub const fn block_tokens(&self) -> usize {
        1 << self.shift
    }

    /// Tokens.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap. Blocks that a fork shares count in full in each.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(|b| b.heap_bytes()).sum();
        // Beside each block lie its fields and the two counts of the reference.
        blocks
            + self.blocks.len() * (size_of::<Block>() + 2 * size_of::<usize>())
            + self.blocks.capacity() * size_of::<Arc<Block>>()
    }

    /// Replaces the rows from `first` on. Cost: one copy of them, and of the blocks that a fork shares.
    ///
    /// # Errors
    /// [`KvError::Length`] if `rows` are not whole, [`KvError::Range`] if there are not so many; nothing is changed then.
    pub fn replace(&mut self, first: usize, rows: &[u8]) -> Result<(), KvError> {
        let n = rows.len() / self.row_bytes;
        if n * self.row_bytes != rows.len() {
            return Err(KvError::Length { expected: (n + 1) * self.row_bytes, got: rows.len() });
        }
        self.check(&(first..first.saturating_add(n)))?;
        let (mut at, mut rest) = (first, rows);
        while !rest.is_empty() {
            let in_block = (at & (self.block_tokens() - 1)) * self.row_bytes;
            let (now, later) = rest.split_at(rest.len().min(self.block_tokens() * self.row_bytes - in_block));
            let block = Arc::make_mut(&mut self.blocks[at >> self.shift]);
            block.bytes_mut()[in_block..in_block + now.len()].copy_from_slice(now);
            at += now.len() / self.row_bytes;
            rest = later;
        }
        Ok(())
    }

    /// Appends whole rows. Cost: one copy of them; amortised, since the last block grows by doubling, and one copy of
    /// the last block if a fork shares it.
    ///
    /// # Errors
    /// [`KvError::Length`] if `rows` are not whole; nothing is appended then.
    pub fn extend(&mut self, rows: &[u8]) -> Result<(), KvError> {
        if !rows.len().is_multiple_of(self.row_bytes) {
            let expected = rows.len().next_multiple_of(self.row_bytes);
            return Err(KvError::Length { expected, got: rows.len() });
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let in_block = self.len & (self.block_tokens() - 1);
            if in_block == 0 {
                self.blocks.push(Arc::default());
            }
            let most = self.block_tokens() * self.row_bytes;
            let (now, later) = rest.split_at(rest.len().min(most - in_block * self.row_bytes));
            let last = self.blocks.last_mut().expect("a block was pushed for the first token of each");
            Arc::make_mut(last).extend(now, most);
            self.len += now.len() / self.row_bytes;
            rest = later;
        }
        Ok(())
    }

    /// Keeps the first `len` tokens. No cost to speak of; of a shared block that is cut, the rest is copied.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.blocks.truncate(len.div_ceil(self.block_tokens()));
        let in_block = (len & (self.block_tokens() - 1)) * self.row_bytes;
        if in_block > 0 {
            let last = self.blocks.last_mut().expect("a cut block is there");
            match Arc::get_mut(last) {
                Some(block) => block.truncate(in_block),
                None => *last = Arc::new(Block::with_capacity(&last.bytes()[..in_block], in_block)),
            }
        }
    }

    /// Takes the tokens of `range` out; later tokens move down by as many. Cost: one copy of the later rows.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; nothing is removed then.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), KvError> {
        self.check(&range)?;
        let block_tokens = self.block_tokens();
        let (mut to, mut from) = (range.start, range.end);
        if to == from {
            return Ok(());
        }
        while from < self.len {
            // As many rows as lie side by side at both ends.
            let (at, source) = (to & (block_tokens - 1), from & (block_tokens - 1));
            let n = (block_tokens - at).min(block_tokens - source).min(self.len - from);
            let (at, source, bytes) = (at * self.row_bytes, source * self.row_bytes, n * self.row_bytes);
            if to >> self.shift == from >> self.shift {
                let block = Arc::make_mut(&mut self.blocks[to >> self.shift]);
                block.bytes_mut().copy_within(source..source + bytes, at);
            } else {
                let (head, tail) = self.blocks.split_at_mut(from >> self.shift);
                let block = Arc::make_mut(&mut head[to >> self.shift]);
                block.bytes_mut()[at..at + bytes].copy_from_slice(&tail[0].bytes()[source..source + bytes]);
            }
            to += n;
            from += n;
        }
        self.truncate(self.len - range.len());
        Ok(())
    }

    /// The row of `token`.
    ///
    /// # Panics
    /// If there is no such token.
    #[must_use]
    pub fn row(&self, token: usize) -> &[u8] {
        assert!(token < self.len, "token {token} of {}", self.len);
        let at = (token & (self.block_tokens() - 1)) * self.row_bytes;
        &self.blocks[token >> self.shift].bytes()[at..at + self.row_bytes]
    }

    /// The blocks' rows, in order: [`block_tokens`](Self::block_tokens) of them, fewer in the last.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.blocks.iter().map(|b| b.bytes())
    }

    /// Calls `f` with the rows as attention reads them. Allocates a list of the blocks if there are more than 1024 (of
    /// [`BLOCK_TOKENS`]: 2^20 tokens), else nothing.
    ///
    /// # Errors
    /// [`KvError::Attention`] for a type that attention does not read, and what `f` returns.
    pub fn with_rows<T>(&self, f: impl FnOnce(&Rows<'_>) -> Result<T, KvError>) -> Result<T, KvError> {
        let mut few = [&[][..]; 1024];
        let many: Vec<&[u8]>;
        let blocks = match few.get_mut(..self.blocks.len()) {
            Some(few) => {
                few.iter_mut().zip(self.blocks()).for_each(|(to, block)| *to = block);
                few
            }
            None => {
                many = self.blocks().collect();
                &many[..]
            }
        };
        let rows = Rows::paged(blocks, self.block_tokens(), self.dtype, self.dim, self.len, self.row_bytes)?;
        f(&rows)
    }

    /// The runs of rows side by side that make up `tokens`.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens.
    pub fn runs(&self, tokens: Range<usize>) -> Result<impl Iterator<Item = &[u8]>, KvError> {
        self.check(&tokens)?;
        let block_tokens = self.block_tokens();
        let blocks = tokens.start >> self.shift..tokens.end.div_ceil(block_tokens);
        // An empty range may start behind the last block.
        let blocks = if tokens.is_empty() { 0..0 } else { blocks };
        Ok(blocks.map(move |b| {
            let first = b << self.shift;
            let start = tokens.start.max(first) - first;
            let end = tokens.end.min(first + block_tokens) - first;
            &self.blocks[b].bytes()[start * self.row_bytes..end * self.row_bytes]
        }))
    }

    /// Converts the rows of `tokens` to `f32`, `[tokens][dim]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KvError::Range`] unless the range lies within the tokens; [`KvError::Length`] unless `out` has as many elements.
    pub fn to_f32(&self, tokens: Range<usize>, out: &mut [f32]) -> Result<(), KvError> {
        let expected = tokens.len() * self.dim;
        if out.len() != expected {
            return Err(KvError::Length { expected, got: out.len() });
        }
        let mut at = 0;
        for run in self.runs(tokens)? {
            let n = run.len() / self.row_bytes * self.dim;
            convert::to_f32(self.dtype, run, &mut out[at..at + n])
                .map_err(|_| KvError::Row { dtype: self.dtype, dim: self.dim })?;
            at += n;
        }
        Ok(())
    }

    /// How many of the blocks are shared with other stores.
    #[must_use]
    pub fn shared_blocks(&self) -> usize {
        self.blocks.iter().filter(|b| Arc::strong_count(b) > 1).count()
    }

    fn check(&self, range: &Range<usize>) -> Result<(), KvError> {
        if range.start <= range.end && range.end <= self.len {
            Ok(())
        } else {
            Err(KvError::Range { start: range.start, end: range.end, len: self.len })
        }
    }
}
