//! Which rows nobody owns: one bit a row.

use alloc::vec;
use alloc::vec::Vec;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeRows {
    /// Bit `r % 64` of word `r / 64` is set if row `r` is free.
    bits: Vec<u64>,
    rows: u32,
    free: u32,
    /// A word to look into first.
    near: usize,
}

impl FreeRows {
    pub(super) fn new(rows: u32) -> Self {
        let mut all = Self { bits: vec![0; (rows as usize).div_ceil(64)], rows, free: 0, near: 0 };
        for row in 0..rows {
            all.give(row);
        }
        all.near = 0;
        all
    }

    pub(super) const fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) const fn free(&self) -> u32 {
        self.free
    }

    pub(super) const fn len_bytes(&self) -> usize {
        self.bits.len() * 8
    }

    /// Takes a free row, if there is one. Cost: a look at the last row given back, else up to one at each word.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let n = self.bits.len();
        let word = (self.near..n).chain(0..self.near).find(|w| self.bits[*w] != 0)?;
        let bit = self.bits[word].trailing_zeros();
        self.bits[word] &= self.bits[word] - 1;
        self.free -= 1;
        self.near = word;
        u32::try_from(word * 64).ok().map(|first| first + bit)
    }

    /// Takes this row; `false` if it is not free or there is no such row.
    #[must_use]
    pub(super) fn take_this(&mut self, row: u32) -> bool {
        let (word, bit) = (row as usize / 64, 1_u64 << (row % 64));
        let free = row < self.rows && self.bits[word] & bit != 0;
        if free {
            self.bits[word] &= !bit;
            self.free -= 1;
        }
        free
    }

    /// Gives a row back.
    pub(super) fn give(&mut self, row: u32) {
        let (word, bit) = (row as usize / 64, 1_u64 << (row % 64));
        debug_assert!(row < self.rows && self.bits[word] & bit == 0, "row {row} was not taken");
        self.bits[word] |= bit;
        self.free += 1;
        self.near = word;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_given_once() {
        let mut rows = FreeRows::new(130);
        let mut got: Vec<u32> = core::iter::from_fn(|| rows.take()).collect();
        assert_eq!(got, (0..130).collect::<Vec<_>>());
        got.reverse();
        for row in &got[..70] {
            rows.give(*row);
        }
        assert!(!rows.take_this(3) && !rows.take_this(130) && rows.take_this(100) && !rows.take_this(100));
        assert_eq!((rows.free(), rows.len_bytes()), (69, 24));
        assert_eq!(core::iter::from_fn(|| rows.take()).count(), 69);
    }
}
