//! Addresses of the rows of a block, each checked once.

use super::BLOCK;
use core::marker::PhantomData;

/// Up to [`BLOCK`] rows of `row_bytes` bytes each, wherever they lie.
pub(crate) struct RowBlock<'a> {
    /// The rows' first bytes; those from `len` on repeat the last, if there is one, so that kernels may read whole
    /// vectors of rows.
    first: [*const u8; BLOCK],
    len: usize,
    row_bytes: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> RowBlock<'a> {
    /// No rows yet.
    pub(crate) const fn new(row_bytes: usize) -> Self {
        Self { first: [core::ptr::null(); BLOCK], len: 0, row_bytes, bytes: PhantomData }
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

    fn repeat_last(&mut self) {
        if let Some(&last) = self.first[..self.len].last() {
            let end = self.len.next_multiple_of(super::COLUMNS);
            self.first[self.len..end].fill(last);
        }
    }

    /// The first byte of row `t`, a real one wherever `t` is below `len` rounded up to a vector.
    #[inline(always)]
    pub(super) fn at(&self, t: usize) -> *const u8 {
        self.first[t]
    }
}

/// Rows that memory is asked for while a block is worked on: those of the block itself that lie `distance` rows ahead,
/// then those of the next block.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    now: &'a RowBlock<'a>,
    next: &'a RowBlock<'a>,
    distance: usize,
    /// Cache lines of a row of each, from and to.
    lines: [(usize, usize); 2],
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(now: &'a RowBlock<'a>, next: &'a RowBlock<'a>, distance: usize) -> Self {
        let lines = [now, next].map(|block| (0, most_lines(block.row_bytes)));
        Self { now, next, distance: distance.min(now.len), lines }
    }

    /// The same rows, but of each only parts `part..part + n` of `parts`.
    #[inline(always)]
    pub(super) fn part(self, part: usize, n: usize, parts: usize) -> Self {
        let lines = self.lines.map(|(_, lines)| (lines * part / parts, lines * (part + n) / parts));
        Self { lines, ..self }
    }

    /// Asks for what is due with row `t`.
    #[inline(always)]
    pub(super) fn ask(&self, t: usize) {
        let t = t + self.distance;
        let (block, t, (from, to)) = if t < self.now.len {
            (self.now, t, self.lines[0])
        } else {
            (self.next, t - self.now.len, self.lines[1])
        };
        if t < block.len {
            let first = block.first[t];
            // Rows need not start with a line: exactly the lines they touch, none of another row's.
            let into = first.addr() % LINE;
            let end = (to * LINE).min(into + block.row_bytes);
            let mut at = from * LINE;
            while at < end {
                ask(first.wrapping_sub(into).wrapping_add(at));
                at += LINE;
            }
        }
    }
}

/// Cache lines that a row touches, wherever it starts.
const fn most_lines(row_bytes: usize) -> usize {
    (row_bytes + LINE - 1).div_ceil(LINE)
}

/// Bytes of a cache line.
const LINE: usize = 64;

#[inline(always)]
fn ask(byte: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint and reads nothing; SSE is part of x86-64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(byte.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = byte;
}
