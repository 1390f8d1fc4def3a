//! The `.tersa` container: parsing and building its bytes. `docs/format.md` is the authority.
//!
//! ```text
//! header (64) | chunks, side blobs, exact sets, verbatim blocks | sections | directory | trailer (64)
//! ```
//!
//! A [`Writer`] puts a file out in one pass without ever seeking back, so a pipe will do; a [`Reader`] starts from
//! both ends and then reads only what it is asked for. Neither opens files: a [`ReadAt`] supplies bytes, a [`Sink`]
//! takes them. This module knows bytes only; what a tile or a codebook means is [`codec`](crate::codec)'s affair.
//!
//! Everything is little-endian and covered by an XXH64 or checked to be zero. A count is believed only when the
//! bytes for it are there, so memory follows what the file holds and never what it claims.
//!
//! Cost: opening reads the header, the trailer, the directory and two tables (96 bytes for each stream); work on a
//! stream adds its own 32 bytes for each head and 24 bytes for each chunk.
//!
//! ```
//! use tersa_core::format::{Head, HeadStats, Kind, Reader, StreamEntry, StreamInfo, Writer};
//! use tersa_core::{num::DType, view::KvShape};
//!
//! let mut writer = Writer::new(Vec::new())?;
//! let codec = writer.codec("raw")?;
//! let shape = KvShape { dtype: DType::F16, n_tokens: 2, n_kv_heads: 1, head_dim: 2 };
//! let info = StreamInfo { part: 0, layer: 0, kind: Kind::K, shape, chunk_tokens: 256, hadamard: 0 };
//! writer.write_chunk(0, 0, &[8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])?;
//! let heads = vec![Head { codec, side: None }];
//! let stream = StreamEntry { info, heads, exact: None, stats: vec![HeadStats::default()] };
//! let bytes = writer.finish(&[stream], "{}", None)?;
//!
//! let reader = Reader::open(bytes.as_slice())?;
//! let index = reader.chunk_index(0)?;
//! let mut chunk = Vec::new();
//! reader.read_chunk(&index, 0, &mut chunk)?;
//! assert_eq!(chunk.len(), 12);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bytes;
mod error;
mod index;
mod layout;
mod reader;
mod side;
mod source;
mod stream;
mod verify;
mod writer;

pub use error::{FormatError, ReadError, Region, WriteError};
pub use index::IndexEntry;
pub use layout::{ALIGN, MAGIC, Section, VERSION, Version};
pub use reader::{ChunkIndex, Reader};
pub use side::{CodebookData, SideData};
pub use source::{Extent, Placement, Source, SourceFile, VERBATIM_BLOCK, VerbatimBlock, VerbatimMethod};
pub use stream::{BlobRef, ChunkRef, Head, HeadStats, Kind, StreamEntry, StreamInfo};
pub use verify::Verified;
pub use writer::{Seal, Writer};

/// Bytes that can be read from anywhere, by many threads at once where the implementor allows it.
#[allow(clippy::len_without_is_empty, reason = "no caller asks, and the length may fail")]
pub trait ReadAt {
    /// What can go wrong.
    type Error;
    /// Bytes there are.
    ///
    /// # Errors
    /// If the length cannot be found out.
    fn len(&self) -> Result<u64, Self::Error>;
    /// Fills `buf` with the bytes from `offset` on. Callers in this module stay below [`len`](Self::len).
    ///
    /// # Errors
    /// If not all of `buf` could be filled.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error>;
}

/// A place that takes bytes in order.
pub trait Sink {
    /// What can go wrong.
    type Error;
    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// If not all of them could be taken.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// A [`Sink`] that can leave room for bytes which are written there by other means, at the same time as it goes on.
pub trait SkipSink: Sink {
    /// Leaves out `len` bytes: zeros, unless somebody writes them.
    ///
    /// # Errors
    /// If there is no room.
    fn skip(&mut self, len: u64) -> Result<(), Self::Error>;
}

/// A read past the end of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEnd {
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub len: usize,
}

impl core::fmt::Display for PastEnd {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "no {} bytes at offset {}", self.len, self.offset)
    }
}

impl core::error::Error for PastEnd {}

impl ReadAt for [u8] {
    type Error = PastEnd;
    fn len(&self) -> Result<u64, PastEnd> {
        Ok(<[u8]>::len(self) as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), PastEnd> {
        let past_end = PastEnd { offset, len: buf.len() };
        let start = usize::try_from(offset).map_err(|_| past_end)?;
        let end = start.checked_add(buf.len()).ok_or(past_end)?;
        buf.copy_from_slice(self.get(start..end).ok_or(past_end)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    type Error = T::Error;
    fn len(&self) -> Result<u64, T::Error> {
        (**self).len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), T::Error> {
        (**self).read_at(offset, buf)
    }
}

impl Sink for alloc::vec::Vec<u8> {
    type Error = core::convert::Infallible;
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl SkipSink for alloc::vec::Vec<u8> {
    fn skip(&mut self, len: u64) -> Result<(), Self::Error> {
        self.resize(self.len() + usize::try_from(len).unwrap_or(usize::MAX), 0);
        Ok(())
    }
}

impl<T: Sink + ?Sized> Sink for &mut T {
    type Error = T::Error;
    fn write(&mut self, bytes: &[u8]) -> Result<(), T::Error> {
        (**self).write(bytes)
    }
}

#[cfg(test)]
mod tests;
