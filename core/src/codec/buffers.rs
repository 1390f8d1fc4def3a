//! Checks that every codec makes of the buffers it is lent.

use super::CodecError;

/// Rows in `len` bytes.
pub(super) const fn count_rows(len: usize, row_bytes: usize) -> Result<usize, CodecError> {
    if len.is_multiple_of(row_bytes) {
        Ok(len / row_bytes)
    } else {
        Err(CodecError::Corrupt { what: "a part of a row" })
    }
}

/// The first `len` elements of an output or scratch buffer.
pub(super) fn lent<T>(buffer: &mut [T], len: usize) -> Result<&mut [T], CodecError> {
    let got = buffer.len();
    buffer.get_mut(..len).ok_or(CodecError::ShortBuffer { needed: len, got })
}
