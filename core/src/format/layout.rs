//! The file's frame: header, trailer, directory, and the numbers that never change.

use alloc::vec::Vec;

use super::bytes::{Fields, PutFields};
use super::error::{FormatError, Region};
use crate::num::hash::xxh64;

/// First eight bytes of a file: a byte that is no text, the name, and the line ends that careless transfers alter
/// (PNG's trick).
pub const MAGIC: [u8; 8] = *b"\x89TERSA\r\n";
/// First eight bytes of the last 64.
pub(super) const TRAILER_MAGIC: [u8; 8] = *b"\x89TRSEND\n";
/// Regions start at multiples of this many bytes: a cache line, and what direct GPU copies like.
pub const ALIGN: u64 = 64;
/// Bytes of the header, and of the trailer.
pub(super) const FRAME: u64 = FRAME_LEN as u64;
/// The same for array lengths.
pub(super) const FRAME_LEN: usize = 64;
/// Seed of every XXH64 in a container.
pub(super) const SEED: u64 = 0;

/// A format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when older readers cannot read the file.
    pub major: u16,
    /// Changes when the file may hold more, and older readers can still read it.
    pub minor: u16,
}

/// What this release writes.
pub const VERSION: Version = Version { major: 0, minor: 1 };

// Caps. Each is far above any real cache and keeps sums and products of file numbers within 64 bits.
pub(super) const MAX_SECTIONS: u64 = 64;
pub(super) const MAX_CODECS: u64 = 1 << 16;
pub(super) const MAX_CODEC_NAME: u64 = 255;
pub(super) const MAX_STREAMS: u64 = 1 << 20;
pub(super) const MAX_TOKENS: u64 = 1 << 32;
pub(super) const MAX_HEADS: u64 = 1 << 16;
pub(super) const MAX_HEAD_DIM: u64 = 1 << 16;
pub(super) const MAX_CHUNK_TOKENS: u64 = 1 << 20;
/// Bytes of a chunk's rows before coding: what a reader of one chunk has to hold.
pub(super) const MAX_CHUNK_BYTES: u64 = 1 << 30;
/// Heads of all layers of all parts.
pub(super) const MAX_INDEXES: u64 = 1 << 20;
pub(super) const MAX_METADATA: u64 = 16 << 20;
pub(super) const MAX_FILES: u64 = 1 << 16;
pub(super) const MAX_FILE_NAME: u64 = 4096;
/// Offsets and lengths within source files.
pub(super) const MAX_FILE_LEN: u64 = 1 << 62;

/// A region that the directory lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u32)]
pub enum Section {
    /// Codec specification strings.
    Codecs = 1,
    /// One record for each stream.
    Streams = 2,
    /// Codec and side data of every head of every stream.
    Heads = 3,
    /// Location of every chunk of every stream.
    Chunks = 4,
    /// What encoding lost, for every head of every stream.
    Stats = 5,
    /// A JSON text about the cache.
    Metadata = 6,
    /// How to rebuild the source files.
    Source = 7,
    /// Location of every block of the source's other bytes.
    Verbatim = 8,
    /// Indexes over the keys of heads, for selection.
    Index = 9,
}

impl Section {
    pub(super) const ALL: [Self; 9] = [
        Self::Codecs,
        Self::Streams,
        Self::Heads,
        Self::Chunks,
        Self::Stats,
        Self::Metadata,
        Self::Source,
        Self::Verbatim,
        Self::Index,
    ];

    /// The section's name in messages and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Codecs => "codecs",
            Self::Streams => "streams",
            Self::Heads => "heads",
            Self::Chunks => "chunks",
            Self::Stats => "stats",
            Self::Metadata => "metadata",
            Self::Source => "source",
            Self::Verbatim => "verbatim",
            Self::Index => "index",
        }
    }

    /// The number that stands for this section in files; never reused.
    #[must_use]
    pub const fn kind(self) -> u32 {
        self as u32
    }

    fn from_kind(kind: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.kind() == kind)
    }

    /// Whether a reader that does not know this section must refuse the file.
    const fn critical(self) -> bool {
        !matches!(self, Self::Stats | Self::Metadata | Self::Source | Self::Verbatim | Self::Index)
    }
}

/// `n` rounded up to the next region boundary. Callers stay below 2^63, see the caps.
pub(super) const fn align_up(n: u64) -> u64 {
    n.next_multiple_of(ALIGN)
}

pub(super) fn check_range(what: &'static str, value: u64, max: u64) -> Result<(), FormatError> {
    if value > max { Err(FormatError::OutOfRange { what, value, max }) } else { Ok(()) }
}

/// Compares a region's checksum.
pub(super) fn check_hash(region: Region, expected: u64, got: u64) -> Result<(), FormatError> {
    if expected == got { Ok(()) } else { Err(FormatError::Checksum { region, expected, got }) }
}

/// The header's bytes.
pub(super) fn header() -> Vec<u8> {
    let mut out = Vec::from(MAGIC);
    out.put_u16(VERSION.major);
    out.put_u16(VERSION.minor);
    out.put_zeros(44);
    let hash = xxh64(SEED, &out);
    out.put_u64(hash);
    out
}

/// The version in a header.
pub(super) fn parse_header(bytes: &[u8; FRAME_LEN]) -> Result<Version, FormatError> {
    let region = Region::Header;
    let mut fields = Fields::new(region, bytes);
    if fields.bytes(8)? != MAGIC {
        return Err(FormatError::NoMagic { region });
    }
    let version = Version { major: fields.u16()?, minor: fields.u16()? };
    // Before the checksum: a later major version may lay out the rest of the header in its own way.
    if version.major != VERSION.major {
        return Err(FormatError::UnknownMajor { major: version.major, minor: version.minor });
    }
    fields.zeros(44)?;
    check_hash(region, fields.u64()?, xxh64(SEED, &bytes[..56]))?;
    Ok(version)
}

/// Where the directory is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trailer {
    pub(super) file_len: u64,
    pub(super) directory: Location,
}

/// Place and checksum of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) xxh64: u64,
}

impl Trailer {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::from(TRAILER_MAGIC);
        out.put_u64(self.file_len);
        out.put_u64(self.directory.offset);
        out.put_u64(self.directory.length);
        out.put_u64(self.directory.xxh64);
        out.put_zeros(16);
        let hash = xxh64(SEED, &out);
        out.put_u64(hash);
        out
    }

    /// Checks that the directory lies directly before the trailer of a file of `file_len` bytes.
    pub(super) fn parse(bytes: &[u8; FRAME_LEN], file_len: u64) -> Result<Self, FormatError> {
        let region = Region::Trailer;
        let mut fields = Fields::new(region, bytes);
        if fields.bytes(8)? != TRAILER_MAGIC {
            return Err(FormatError::NoMagic { region });
        }
        check_hash(
            region,
            u64::from_le_bytes(*bytes.last_chunk().expect("64 bytes")),
            xxh64(SEED, &bytes[..56]),
        )?;
        let trailer = Self {
            file_len: fields.u64()?,
            directory: Location { offset: fields.u64()?, length: fields.u64()?, xxh64: fields.u64()? },
        };
        fields.zeros(16)?;
        if trailer.file_len != file_len {
            return Err(FormatError::FileLength { expected: trailer.file_len, got: file_len });
        }
        let Location { offset, length, .. } = trailer.directory;
        check_range("directory length", length, 8 + 32 * MAX_SECTIONS)?;
        check_range("directory offset", offset, file_len)?;
        let end = align_up(offset + length).saturating_add(FRAME);
        if !offset.is_multiple_of(ALIGN) || offset < FRAME || end != file_len {
            return Err(FormatError::Misplaced { region: Region::Directory, offset, length });
        }
        Ok(trailer)
    }
}

/// A line of the directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectoryEntry {
    /// `None` for a kind that this release does not know and may skip.
    pub(super) section: Option<Section>,
    pub(super) kind: u32,
    pub(super) location: Location,
}

impl DirectoryEntry {
    pub(super) const fn region(&self) -> Region {
        match self.section {
            Some(section) => Region::Section(section),
            None => Region::UnknownSection { kind: self.kind },
        }
    }
}

/// The directory's bytes.
pub(super) fn directory(entries: &[(Section, Location)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(entries.len()).expect("there are only nine kinds of section"));
    out.put_u32(0);
    for (section, location) in entries {
        out.put_u32(section.kind());
        out.put_u32(u32::from(section.critical()));
        out.put_u64(location.offset);
        out.put_u64(location.length);
        out.put_u64(location.xxh64);
    }
    out
}

/// Checks that the sections fill the space before the directory without holes; the first one ends the data area.
pub(super) fn parse_directory(
    bytes: &[u8],
    directory_offset: u64,
) -> Result<Vec<DirectoryEntry>, FormatError> {
    let region = Region::Directory;
    let mut fields = Fields::new(region, bytes);
    let count = u64::from(fields.u32()?);
    fields.zeros(4)?;
    check_range("count of sections", count, MAX_SECTIONS)?;
    let mut entries: Vec<DirectoryEntry> = Vec::new();
    for _ in 0..count {
        let kind = fields.u32()?;
        let flags = fields.u32()?;
        let location = Location { offset: fields.u64()?, length: fields.u64()?, xxh64: fields.u64()? };
        if flags > 1 {
            return Err(FormatError::NotZero { region });
        }
        let section = Section::from_kind(kind);
        if section.is_none() && flags & 1 != 0 {
            return Err(FormatError::UnknownCriticalSection { kind });
        }
        if entries.iter().any(|e| e.kind == kind) {
            return Err(FormatError::DuplicateSection { section: kind });
        }
        let entry = DirectoryEntry { section, kind, location };
        let start =
            entries.last().map_or(location.offset, |e| align_up(e.location.offset + e.location.length));
        // In this order, so that no sum overflows: the directory's offset is below the file's length.
        let fits =
            location.offset <= directory_offset && location.length <= directory_offset - location.offset;
        if !location.offset.is_multiple_of(ALIGN)
            || location.offset < FRAME
            || location.offset != start
            || !fits
        {
            let Location { offset, length, .. } = location;
            return Err(FormatError::Misplaced { region: entry.region(), offset, length });
        }
        entries.push(entry);
    }
    fields.end()?;
    let end = entries.last().map_or(directory_offset, |e| align_up(e.location.offset + e.location.length));
    if end != directory_offset {
        return Err(FormatError::Misplaced { region, offset: directory_offset, length: bytes.len() as u64 });
    }
    Ok(entries)
}
