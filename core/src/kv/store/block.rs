//! The rows of up to so many consecutive tokens, at the start of a cache line.

use alloc::vec;
use alloc::vec::Vec;

/// Rows start at a cache line: a 256-byte row then is four lines and not five.
const LINE: usize = 64;

/// Bytes that start at a cache line wherever the allocator put them.
#[derive(Debug, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    /// Bytes before the first line.
    pad: usize,
    /// Bytes used behind them.
    len: usize,
}

impl Block {
    /// A copy of `bytes` with room for `capacity` in all.
    pub(super) fn with_capacity(bytes: &[u8], capacity: usize) -> Self {
        let mut held = vec![0; capacity.max(bytes.len()) + LINE - 1];
        // The offset may not be known (under an interpreter); then nothing but speed is lost.
        let pad = held.as_ptr().align_offset(LINE).min(LINE - 1);
        held[pad..pad + bytes.len()].copy_from_slice(bytes);
        Self { bytes: held, pad, len: bytes.len() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.pad..self.pad + self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.pad..self.pad + self.len]
    }

    /// Appends `rows`; grows by doubling up to `most` bytes.
    pub(super) fn extend(&mut self, rows: &[u8], most: usize) {
        let needed = self.len + rows.len();
        if self.pad + needed > self.bytes.len() {
            *self =
                Self::with_capacity(self.bytes(), needed.next_power_of_two().max(LINE).min(most.max(needed)));
        }
        let at = self.pad + self.len;
        self.bytes[at..at + rows.len()].copy_from_slice(rows);
        self.len = needed;
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Clone for Block {
    /// A copy lies elsewhere, so its padding is its own. It keeps the room of the original.
    fn clone(&self) -> Self {
        Self::with_capacity(self.bytes(), self.bytes.len() + 1 - LINE)
    }
}
