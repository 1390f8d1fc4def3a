//! Codes that stay in memory, ready to be scanned, while tokens come and go.

use super::{PqError, PqShape, whole_rows};
use crate::cpu;
use crate::kernels::bits::{pack_bits, unpack_bits};
use crate::kernels::scan::{BLOCK, Line, Piece};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Codes unpacked at a time, on their way from or to packed rows.
const PACKED_ROWS: usize = 256;

/// The codes of one head's tokens, in the order of the tokens and in the layout that [`scan`](super::scan()) reads:
/// blocks of 2048 tokens, one array for each sub-space, a byte a code (6 and 8 bits), or for eight of them, half a byte
/// a code (4 bits; `m` is filled up to a multiple of eight).
///
/// A clone shares the blocks, and each side copies a block (at 2 x 6 bits 4 KiB, at 16 x 8 32 KiB) when it first
/// changes it: forking a sequence costs one pointer for 2048 tokens.
///
/// With two sub-spaces of 6 bits it also counts the tokens of each of the 4096 pairs of codes, which every change keeps
/// up to date: selection then needs no pass over the tokens to find its threshold.
#[derive(Clone, Debug)]
pub struct Codes {
    shape: PqShape,
    len: usize,
    blocks: Vec<Arc<[Line]>>,
    /// Tokens of each pair of codes, `[64][64]`, if there are pairs.
    cells: Option<Arc<[u32]>>,
}

impl PqShape {
    /// Whether a token's codes are one of 4096 pairs.
    pub(super) const fn has_cells(self) -> bool {
        self.m == 2 && self.nbits == 6
    }
}

impl Codes {
    /// No tokens yet.
    #[must_use]
    pub fn new(shape: PqShape) -> Self {
        let cells = shape.has_cells().then(|| Arc::from(vec![0; 4096]));
        Self { shape, len: 0, blocks: Vec::new(), cells }
    }

    /// Shape of the quantizer whose codes these are.
    #[must_use]
    pub const fn shape(&self) -> PqShape {
        self.shape
    }

    /// Tokens.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no tokens.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap, those shared with clones included: whole blocks of 2048 tokens of [`token_bytes`](Self::token_bytes),
    /// a pointer each, and 16 KiB of counts if there are pairs.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let block = BLOCK * Self::token_bytes(self.shape);
        self.blocks.len() * block
            + self.blocks.capacity() * size_of::<Arc<[Line]>>()
            + self.cells.as_ref().map_or(0, |c| size_of_val(&c[..]))
    }

    /// Bytes that a token takes: `m` with 6 and 8 bits, half of `m` filled up to a multiple of eight with 4.
    #[must_use]
    pub const fn token_bytes(shape: PqShape) -> usize {
        shape.layout().token_bytes()
    }

    /// Appends tokens with codes `[n][m]`, one byte a code. Amortised O(`m`) a token: nothing moves but a block that is
    /// shared with a clone.
    ///
    /// # Errors
    /// [`PqError::Length`] if the codes are not whole rows, [`PqError::Code`] for a code that is not below `ksub`;
    /// nothing is appended then.
    pub fn extend(&mut self, codes: &[u8]) -> Result<(), PqError> {
        let n = whole_rows(codes.len(), self.shape.m)?;
        self.check(codes)?;
        let mut codes = codes;
        let end = self.len + n;
        while self.len < end {
            let at = self.len % BLOCK;
            if at == 0 {
                let lines = BLOCK * Self::token_bytes(self.shape) / size_of::<Line>();
                self.blocks.push(core::iter::repeat_n(Line::ZERO, lines).collect());
            }
            let step = (BLOCK - at).min(end - self.len);
            let (now, rest) = codes.split_at(step * self.shape.m);
            write(self.shape, self.bytes_mut(self.len / BLOCK), at, now);
            self.count(now, true);
            self.len += step;
            codes = rest;
        }
        Ok(())
    }

    /// Reads the codes of one token.
    ///
    /// # Panics
    /// If there is no such token or `out` has not `m` bytes.
    pub fn get(&self, token: usize, out: &mut [u8]) {
        assert!(token < self.len, "token {token} of {}", self.len);
        assert_eq!(out.len(), self.shape.m, "codes of a token");
        read(self.shape, self.bytes(token / BLOCK), token % BLOCK, out);
    }

    /// Replaces the codes of one token.
    ///
    /// # Errors
    /// [`PqError::Tokens`] if there is no such token, [`PqError::Length`] unless there are `m` codes, [`PqError::Code`]
    /// for a code that is not below `ksub`; nothing is changed then.
    pub fn set(&mut self, token: usize, codes: &[u8]) -> Result<(), PqError> {
        if token >= self.len {
            return Err(PqError::Tokens { end: token + 1, len: self.len });
        }
        if codes.len() != self.shape.m {
            return Err(PqError::Length { expected: self.shape.m, got: codes.len() });
        }
        self.check(codes)?;
        if self.cells.is_some() {
            let mut old = [0; 2];
            self.get(token, &mut old);
            self.count(&old, false);
            self.count(codes, true);
        }
        write(self.shape, self.bytes_mut(token / BLOCK), token % BLOCK, codes);
        Ok(())
    }

    /// Keeps the first `len` tokens; all of them, if there are no more.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.uncount(len..self.len);
        self.len = len;
        self.blocks.truncate(len.div_ceil(BLOCK));
    }

    /// Removes tokens; those behind them move up, which costs as much as writing them again.
    ///
    /// # Errors
    /// [`PqError::Tokens`] if there are not so many tokens; nothing is changed then.
    ///
    /// # Panics
    /// If the range ends before it starts.
    pub fn remove(&mut self, tokens: Range<usize>) -> Result<(), PqError> {
        self.check_tokens(&tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        self.uncount(tokens.clone());
        let (streams, stride) = (self.shape.layout().streams(), self.shape.layout().stride());
        let (mut to, mut from) = (tokens.start, tokens.end);
        while from < self.len {
            let step = (BLOCK - to % BLOCK).min(BLOCK - from % BLOCK).min(self.len - from);
            let (to_at, from_at) = (to % BLOCK, from % BLOCK);
            let span = |s: usize, at: usize| (s * BLOCK + at) * stride..(s * BLOCK + at + step) * stride;
            if to / BLOCK == from / BLOCK {
                let bytes = self.bytes_mut(to / BLOCK);
                for s in 0..streams {
                    bytes.copy_within(span(s, from_at), span(s, to_at).start);
                }
            } else {
                let source = Arc::clone(&self.blocks[from / BLOCK]);
                let source = bytemuck::cast_slice::<Line, u8>(&source);
                let bytes = self.bytes_mut(to / BLOCK);
                for s in 0..streams {
                    bytes[span(s, to_at)].copy_from_slice(&source[span(s, from_at)]);
                }
            }
            to += step;
            from += step;
        }
        self.len = to;
        self.blocks.truncate(to.div_ceil(BLOCK));
        Ok(())
    }

    /// Packs the codes of tokens to rows of [`PqShape::code_bytes`] bytes: `m * nbits` bits from the least significant
    /// on, filled up with zeros, as the codec `pq` stores them.
    ///
    /// # Errors
    /// [`PqError::Tokens`] if there are not so many tokens, [`PqError::Length`] if `out` has not the rows' bytes.
    ///
    /// # Panics
    /// If the range ends before it starts.
    pub fn pack(&self, tokens: Range<usize>, out: &mut [u8]) -> Result<(), PqError> {
        self.check_tokens(&tokens)?;
        let (m, row_bytes) = (self.shape.m, self.shape.code_bytes());
        if out.len() != tokens.len() * row_bytes {
            return Err(PqError::Length { expected: tokens.len() * row_bytes, got: out.len() });
        }
        let mut codes = vec![0; PACKED_ROWS.min(tokens.len()) * m];
        let mut token = tokens.start;
        for out in out.chunks_mut(PACKED_ROWS * row_bytes) {
            let codes = &mut codes[..out.len() / row_bytes * m];
            for codes in codes.chunks_exact_mut(m) {
                self.get(token, codes);
                token += 1;
            }
            self.shape.pack(codes, out);
        }
        Ok(())
    }

    /// Appends `n` tokens that [`pack`](Self::pack) packed.
    ///
    /// # Errors
    /// [`PqError::Length`] unless there are `n` rows, [`PqError::Padding`] for bits after a row's last code; nothing is
    /// appended then.
    pub fn extend_packed(&mut self, packed: &[u8], n: usize) -> Result<(), PqError> {
        let (m, row_bytes, before) = (self.shape.m, self.shape.code_bytes(), self.len);
        if n.checked_mul(row_bytes) != Some(packed.len()) {
            return Err(PqError::Length { expected: n.saturating_mul(row_bytes), got: packed.len() });
        }
        let mut codes = vec![0; PACKED_ROWS.min(n) * m];
        for packed in packed.chunks(PACKED_ROWS * row_bytes) {
            let codes = &mut codes[..packed.len() / row_bytes * m];
            if let Err(row) = self.shape.unpack(packed, codes) {
                let row = self.len - before + row;
                self.truncate(before);
                return Err(PqError::Padding { row });
            }
            self.extend(codes)?;
        }
        Ok(())
    }

    /// Tokens of each pair of codes `[first][second]`, 64 times 64, if the shape is two sub-spaces of 6 bits.
    #[must_use]
    pub fn cells(&self) -> Option<&[u32]> {
        self.cells.as_deref()
    }

    /// Counts the tokens of a range in each pair of codes, from the counts of all or one by one, whichever is less work.
    pub(crate) fn cells_of(&self, tokens: Range<usize>, counts: &mut [u32]) -> Result<(), PqError> {
        self.check_tokens(&tokens)?;
        let all = self.cells().ok_or(PqError::OtherShape {
            expected: PqShape { m: 2, nbits: 6, ..self.shape },
            got: self.shape,
        })?;
        if tokens.len() < self.len / 2 {
            counts.fill(0);
            self.pieces(tokens).for_each(|piece| for_each_cell(&piece, |cell| counts[cell] += 1));
            return Ok(());
        }
        counts.copy_from_slice(all);
        for outside in [0..tokens.start, tokens.end..self.len] {
            self.pieces(outside).for_each(|piece| for_each_cell(&piece, |cell| counts[cell] -= 1));
        }
        Ok(())
    }

    /// The tokens, block by block.
    pub(crate) fn pieces(&self, tokens: Range<usize>) -> impl Iterator<Item = Piece<'_>> + Clone {
        let blocks = tokens.start / BLOCK..tokens.end.div_ceil(BLOCK);
        blocks.map(move |b| {
            let start = tokens.start.saturating_sub(b * BLOCK);
            Piece { block: self.bytes(b), tokens: start..(tokens.end - b * BLOCK).min(BLOCK) }
        })
    }

    pub(super) fn check_tokens(&self, tokens: &Range<usize>) -> Result<(), PqError> {
        assert!(tokens.start <= tokens.end, "tokens {tokens:?}");
        if tokens.end > self.len {
            return Err(PqError::Tokens { end: tokens.end, len: self.len });
        }
        Ok(())
    }

    fn check(&self, codes: &[u8]) -> Result<(), PqError> {
        let ksub = self.shape.ksub();
        // A greatest code is found faster than a first bad one.
        let top = codes.iter().fold(0, |top, &c| c.max(top));
        if usize::from(top) < ksub {
            return Ok(());
        }
        let at = codes.iter().position(|&c| usize::from(c) >= ksub).expect("the greatest is one");
        Err(PqError::Code { at, code: codes[at] })
    }

    fn bytes(&self, block: usize) -> &[u8] {
        bytemuck::cast_slice(&self.blocks[block])
    }

    fn bytes_mut(&mut self, block: usize) -> &mut [u8] {
        bytemuck::cast_slice_mut(Arc::make_mut(&mut self.blocks[block]))
    }

    /// Counts tokens' pairs in or out.
    fn count(&mut self, codes: &[u8], comes: bool) {
        let Some(cells) = &mut self.cells else { return };
        let cells = Arc::make_mut(cells);
        for &[a, b] in codes.as_chunks::<2>().0 {
            let cell = &mut cells[cell(a, b)];
            *cell = if comes { *cell + 1 } else { *cell - 1 };
        }
    }

    /// Counts the pairs of tokens that are still there out.
    fn uncount(&mut self, tokens: Range<usize>) {
        let Some(mut cells) = self.cells.take() else { return };
        let counts = Arc::make_mut(&mut cells);
        for piece in self.pieces(tokens) {
            for_each_cell(&piece, |cell| counts[cell] -= 1);
        }
        self.cells = Some(cells);
    }
}

/// Index of a pair of 6-bit codes.
pub(super) fn cell(a: u8, b: u8) -> usize {
    (usize::from(a) << 6 | usize::from(b)) & 4095
}

/// The pairs of a piece's tokens, in order.
pub(super) fn for_each_cell(piece: &Piece<'_>, mut f: impl FnMut(usize)) {
    let (first, second) = piece.block.split_at(BLOCK);
    for (&a, &b) in first[piece.tokens.clone()].iter().zip(&second[piece.tokens.clone()]) {
        f(cell(a, b));
    }
}

/// Writes the codes `[n][m]` of tokens from `at` on into a block.
fn write(shape: PqShape, block: &mut [u8], at: usize, codes: &[u8]) {
    let m = shape.m;
    if shape.nbits == 4 {
        for (w, words) in block.chunks_exact_mut(4 * BLOCK).enumerate() {
            let words = &mut words.as_chunks_mut::<4>().0[at..];
            let width = (m - 8 * w).min(8);
            for (word, codes) in words.iter_mut().zip(codes.chunks_exact(m)) {
                let mut eight = [0; 8];
                eight[..width].copy_from_slice(&codes[8 * w..][..width]);
                *word = core::array::from_fn(|p| eight[p] | eight[4 + p] << 4);
            }
        }
    } else {
        for (s, stream) in block.chunks_exact_mut(BLOCK).enumerate() {
            for (byte, codes) in stream[at..].iter_mut().zip(codes.chunks_exact(m)) {
                *byte = codes[s];
            }
        }
    }
}

/// Reads the codes of token `at` of a block.
fn read(shape: PqShape, block: &[u8], at: usize, codes: &mut [u8]) {
    if shape.nbits == 4 {
        for (s, code) in codes.iter_mut().enumerate() {
            let byte = block[(s / 8 * BLOCK + at) * 4 + s % 4];
            *code = if s % 8 < 4 { byte & 15 } else { byte >> 4 };
        }
    } else {
        for (code, stream) in codes.iter_mut().zip(block.chunks_exact(BLOCK)) {
            *code = stream[at];
        }
    }
}

impl PqShape {
    /// Packs codes `[n][m]` to rows of [`code_bytes`](Self::code_bytes).
    pub(crate) fn pack(self, codes: &[u8], out: &mut [u8]) {
        let (level, nbits) = (cpu::level(), u32::from(self.nbits));
        if (self.m * usize::from(self.nbits)).is_multiple_of(8) {
            return pack_bits(level, nbits, codes, out);
        }
        for (codes, out) in codes.chunks_exact(self.m).zip(out.chunks_exact_mut(self.code_bytes())) {
            pack_bits(level, nbits, codes, out);
        }
    }

    /// The reverse of [`pack`](Self::pack); `Err` with the first row that has bits after its last code.
    pub(crate) fn unpack(self, packed: &[u8], codes: &mut [u8]) -> Result<(), usize> {
        let (level, nbits) = (cpu::level(), u32::from(self.nbits));
        let used = self.m * usize::from(self.nbits) % 8;
        if used == 0 {
            unpack_bits(level, nbits, packed, codes);
            return Ok(());
        }
        let rows = codes.chunks_exact_mut(self.m).zip(packed.chunks_exact(self.code_bytes()));
        for (row, (codes, packed)) in rows.enumerate() {
            if packed.last().is_some_and(|last| last >> used != 0) {
                return Err(row);
            }
            unpack_bits(level, nbits, packed, codes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
