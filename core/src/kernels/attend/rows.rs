//! Addresses of the rows of a block, each checked once.

use super::{BLOCK, HEADS};
use core::marker::PhantomData;

/// Up to [`BLOCK`] rows of `row_bytes` bytes each, wherever they lie.
pub(crate) struct RowBlock<'a> {
    /// The rows' first bytes; those from `len` on repeat the last, if there is one, so that kernels may read whole
    /// vectors of rows.
    first: [*const u8; BLOCK],
    len: usize,
    row_bytes: usize,
    /// Whether every row is whole cache lines.
    is_lines: bool,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> RowBlock<'a> {
    /// No rows yet.
    pub(crate) const fn new(row_bytes: usize) -> Self {
        Self { first: [core::ptr::null(); BLOCK], len: 0, row_bytes, is_lines: false, bytes: PhantomData }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(crate) const fn clear(&mut self) {
        self.len = 0;
    }

    /// The rows at `start`, `start + stride`, ... of `bytes`.
    ///
    /// # Panics
    /// If there is no room for `n` more or one does not lie within `bytes`.
    #[inline]
    pub(crate) fn push_run(&mut self, bytes: &'a [u8], start: usize, stride: usize, n: usize) {
        if n == 0 {
            return;
        }
        let end = (n - 1).checked_mul(stride).and_then(|s| s.checked_add(start)?.checked_add(self.row_bytes));
        assert!(end.is_some_and(|end| end <= bytes.len()), "a run of rows lies within its bytes");
        let base = bytes.as_ptr().wrapping_add(start);
        for (i, p) in self.first[self.len..self.len + n].iter_mut().enumerate() {
            *p = base.wrapping_add(i * stride);
        }
        self.len += n;
        self.repeat_last();
    }

    /// The rows `indices` of `bytes`, `stride` apart.
    ///
    /// # Panics
    /// As [`push_run`](Self::push_run).
    #[inline]
    pub(crate) fn push_list(&mut self, bytes: &'a [u8], stride: usize, indices: &[u32]) {
        let Some(&last) = indices.iter().max() else { return };
        let end = (last as usize).checked_mul(stride).and_then(|s| s.checked_add(self.row_bytes));
        assert!(end.is_some_and(|end| end <= bytes.len()), "a listed row lies within its bytes");
        for (p, &i) in self.first[self.len..self.len + indices.len()].iter_mut().zip(indices) {
            *p = bytes.as_ptr().wrapping_add(i as usize * stride);
        }
        self.len += indices.len();
        self.repeat_last();
    }

    /// The row at `start` of `bytes`. After the last of such rows comes [`repeat_last`](Self::repeat_last).
    ///
    /// # Panics
    /// As [`push_run`](Self::push_run).
    #[inline]
    pub(crate) fn push_row(&mut self, bytes: &'a [u8], start: usize) {
        let end = start.checked_add(self.row_bytes);
        assert!(end.is_some_and(|end| end <= bytes.len()), "a row lies within its bytes");
        self.first[self.len] = bytes.as_ptr().wrapping_add(start);
        self.len += 1;
    }

    /// Fills the last vector of rows up, and sees how the rows lie.
    pub(crate) fn repeat_last(&mut self) {
        if let Some(&last) = self.first[..self.len].last() {
            let end = self.len.next_multiple_of(super::COLUMNS);
            self.first[self.len..end].fill(last);
            let starts = self.first[..end].iter().fold(0, |bits, row| bits | row.addr());
            self.is_lines = (starts | self.row_bytes).is_multiple_of(LINE);
        }
    }

    /// The first byte of row `t`, a real one wherever `t` is below `len` rounded up to a vector.
    #[inline(always)]
    pub(super) fn at(&self, t: usize) -> *const u8 {
        self.first[t]
    }
}

/// Rows that are asked for while a block is worked on: with each of its rows, one of the next block is asked for from memory, and, if
/// there are many heads, one of the block itself, a few rows ahead, from the second-level cache, where it is by then.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    now: &'a RowBlock<'a>,
    next: &'a RowBlock<'a>,
    /// Cache lines of a row of each, from and to.
    lines: [(usize, usize); 2],
}

/// How far ahead the second-level cache is asked. Measured: its lines wait behind those that come from memory, which costs 10 %
/// of a step of eight heads if they are not asked for; one head is slower with it, because it waits for memory anyway.
const NEAR: usize = 8;

impl<'a> Ahead<'a> {
    pub(crate) fn new(now: &'a RowBlock<'a>, next: &'a RowBlock<'a>) -> Self {
        let lines = [now, next].map(|block| {
            (0, if block.is_lines { block.row_bytes / LINE } else { most_lines(block.row_bytes) })
        });
        Self { now, next, lines }
    }

    /// The same rows, but of each only parts `part..part + n` of `parts`.
    #[inline(always)]
    pub(super) fn part(self, part: usize, n: usize, parts: usize) -> Self {
        let lines = self.lines.map(|(_, lines)| (lines * part / parts, lines * (part + n) / parts));
        Self { lines, ..self }
    }

    /// Asks for what is due with row `t` of so many heads.
    #[inline(always)]
    pub(super) fn ask<const G: usize>(&self, t: usize) {
        if G > HEADS / 2 && t + NEAR < self.now.len {
            ask::<true>(self.now, t + NEAR, self.lines[0]);
        }
        if t < self.next.len {
            ask::<false>(self.next, t, self.lines[1]);
        }
    }
}

/// Asks for lines `from..to` of row `t`, into the first-level cache or the second.
#[inline(always)]
fn ask<const FIRST: bool>(block: &RowBlock<'_>, t: usize, (from, to): (usize, usize)) {
    let first = block.first[t];
    if block.is_lines {
        let first = first.wrapping_add(from * LINE);
        // Without a loop for the usual counts, so that more rows fit what a processor looks ahead.
        match to - from {
            1 => ask_line::<FIRST>(first),
            4 => {
                ask_line::<FIRST>(first);
                ask_line::<FIRST>(first.wrapping_add(LINE));
                ask_line::<FIRST>(first.wrapping_add(2 * LINE));
                ask_line::<FIRST>(first.wrapping_add(3 * LINE));
            }
            n => (0..n).for_each(|line| ask_line::<FIRST>(first.wrapping_add(line * LINE))),
        }
        return;
    }
    // Rows need not start with a line: exactly the lines they touch, none of another row's.
    let into = first.addr() % LINE;
    let end = (to * LINE).min(into + block.row_bytes);
    let mut at = from * LINE;
    while at < end {
        ask_line::<FIRST>(first.wrapping_sub(into).wrapping_add(at));
        at += LINE;
    }
}

/// Cache lines that a row touches, wherever it starts.
const fn most_lines(row_bytes: usize) -> usize {
    (row_bytes + LINE - 1).div_ceil(LINE)
}

/// Bytes of a cache line.
const LINE: usize = 64;

#[inline(always)]
fn ask_line<const FIRST: bool>(byte: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint and reads nothing; SSE is part of x86-64.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if FIRST {
            _mm_prefetch::<_MM_HINT_T0>(byte.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(byte.cast());
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = byte;
}
