//! The files that a dump is written to: their names and lengths, the bytes that are known beforehand, and where each
//! stream's elements go. One engine fills every format from this by positional writes.

use tersa_core::num::DType;
use tersa_core::view::KvStrides;

use super::region::Skeleton;

/// Output files and the streams' places in them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The files.
    pub files: Vec<OutFile>,
    /// Where the streams go; every byte of a file is either verbatim or of exactly one placement.
    pub placements: Vec<Placement>,
    /// What can only be known once the elements are written.
    pub finish: Vec<Finish>,
    /// What the format could not keep as it was; shown to the user, never silent.
    pub notes: Vec<String>,
}

/// One output file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFile {
    /// Relative to the output folder where there are several; a suggestion where there is one.
    pub name: String,
    /// Its length.
    pub len: u64,
    /// Offset and bytes of everything that is not a tensor, ascending.
    pub verbatim: Vec<(u64, Vec<u8>)>,
}

/// Where one stream goes, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Index into [`Skeleton::streams`], whose shape holds here too.
    pub stream: usize,
    /// Index into [`Layout::files`].
    pub file: usize,
    /// Byte offset of element `[0][0][0]`.
    pub offset: u64,
    /// Element type in the output; differs from the stream's own where the format has no such type.
    pub dtype: DType,
    /// Strides in elements.
    pub strides: KvStrides,
    /// Size of the Walsh–Hadamard rotation to undo before writing, 0 if rows are written as they are.
    pub unrotate: u32,
}

/// A step after all elements are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Store the CRC-32 of `range` as a little-endian u32 at each offset of `at`.
    Crc32 {
        /// Index into [`Layout::files`].
        file: usize,
        /// The bytes that count.
        range: std::ops::Range<u64>,
        /// Where the result goes.
        at: Vec<u64>,
    },
}

impl Layout {
    /// The source itself, byte for byte where the streams are exact.
    #[must_use]
    pub fn of_source(source: &Skeleton) -> Self {
        let files = source.files.iter().map(|f| OutFile {
            name: f.name.clone(),
            len: f.len,
            verbatim: f.verbatim.clone(),
        });
        let placements = source.streams.iter().enumerate().map(|(stream, s)| Placement {
            stream,
            file: s.file,
            offset: s.offset as u64,
            dtype: s.shape.dtype,
            strides: s.strides,
            unrotate: 0,
        });
        Self { files: files.collect(), placements: placements.collect(), ..Self::default() }
    }
}
