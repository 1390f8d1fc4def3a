//! What can be wrong with a container.

use core::fmt;

use super::layout::Section;

/// A part of a container, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Region {
    /// The first 64 bytes.
    Header,
    /// The last 64 bytes.
    Trailer,
    /// The table of sections.
    Directory,
    /// A section.
    Section(Section),
    /// A section that this version does not know.
    UnknownSection {
        /// Its kind number.
        kind: u32,
    },
    /// A stream's slice of the heads section.
    HeadsOf {
        /// Index of the stream.
        stream: usize,
    },
    /// A stream's slice of the chunk index.
    ChunkIndexOf {
        /// Index of the stream.
        stream: usize,
    },
    /// A stream's exact token set.
    ExactOf {
        /// Index of the stream.
        stream: usize,
    },
    /// What a head's codec needs beyond its name.
    Side,
    /// A chunk.
    Chunk {
        /// Index of the stream.
        stream: usize,
        /// Index of the chunk within the stream.
        chunk: usize,
    },
    /// A block of the source's own bytes.
    Verbatim {
        /// Index of the block.
        block: usize,
    },
    /// The table of the index section.
    IndexTable,
    /// An entry of the index section.
    IndexEntry {
        /// Which entry.
        entry: usize,
    },
    /// Zero bytes between two regions.
    Padding {
        /// Where they start.
        offset: u64,
    },
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Trailer => f.write_str("trailer"),
            Self::Directory => f.write_str("directory"),
            Self::Section(section) => write!(f, "{} section", section.name()),
            Self::UnknownSection { kind } => write!(f, "section of unknown kind {kind}"),
            Self::HeadsOf { stream } => write!(f, "heads of stream {stream}"),
            Self::ChunkIndexOf { stream } => write!(f, "chunk index of stream {stream}"),
            Self::ExactOf { stream } => write!(f, "exact tokens of stream {stream}"),
            Self::Side => f.write_str("side data"),
            Self::Chunk { stream, chunk } => write!(f, "chunk {chunk} of stream {stream}"),
            Self::Verbatim { block } => write!(f, "verbatim block {block}"),
            Self::IndexTable => f.write_str("table of the index section"),
            Self::IndexEntry { entry } => write!(f, "entry {entry} of the index section"),
            Self::Padding { offset } => write!(f, "padding at offset {offset}"),
        }
    }
}

/// Why bytes are not a container, or a description cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The magic bytes are not there: not a `.tersa` file, or, for the trailer, one that was cut short.
    NoMagic {
        /// Header or trailer.
        region: Region,
    },
    /// Written by a later, incompatible version.
    UnknownMajor {
        /// Major version in the header.
        major: u16,
        /// Minor version in the header.
        minor: u16,
    },
    /// The file has another length than the trailer says.
    FileLength {
        /// Length in the trailer.
        expected: u64,
        /// Length of the file.
        got: u64,
    },
    /// The bytes are not those that were written.
    Checksum {
        /// Where.
        region: Region,
        /// XXH64 in the file.
        expected: u64,
        /// XXH64 of the bytes.
        got: u64,
    },
    /// A region is shorter than its contents.
    Short {
        /// Where.
        region: Region,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A region is longer than its contents.
    Excess {
        /// Where.
        region: Region,
        /// Bytes too many.
        excess: u64,
    },
    /// A region does not lie where regions may lie: out of bounds, not aligned, over another or after a hole.
    Misplaced {
        /// Which.
        region: Region,
        /// Its offset.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// Reserved bits, bytes or padding are not zero.
    NotZero {
        /// Where.
        region: Region,
    },
    /// A section that this version does not know and must not skip.
    UnknownCriticalSection {
        /// Its kind number.
        kind: u32,
    },
    /// Two sections of one kind.
    DuplicateSection {
        /// Which.
        section: u32,
    },
    /// A section that every file has is not there.
    MissingSection {
        /// Which.
        section: Section,
    },
    /// A text is not UTF-8.
    NotUtf8 {
        /// Where.
        region: Region,
    },
    /// A source file's name is empty, not a plain relative path with `/` between folders, or taken.
    FileName {
        /// Index of the file.
        file: usize,
    },
    /// A number beyond what the format allows.
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// A number that stands for nothing.
    UnknownCode {
        /// What it should stand for.
        what: &'static str,
        /// The number.
        code: u32,
    },
    /// Entries that must strictly ascend do not.
    Order {
        /// Which entries.
        what: &'static str,
        /// Index of the first entry that is not above its predecessor.
        index: usize,
    },
    /// Two counts that must agree do not.
    Mismatch {
        /// Which counts.
        what: &'static str,
        /// What follows from one place.
        expected: u64,
        /// What another place says.
        got: u64,
    },
    /// There is no such stream, chunk or block.
    NoSuch {
        /// What was asked for.
        what: &'static str,
        /// The index asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A chunk was written twice, or not at all.
    ChunkCount {
        /// Index of the stream.
        stream: usize,
        /// Index of the chunk.
        chunk: usize,
        /// Times it was written.
        written: usize,
    },
    /// More bytes than this machine can address or has free.
    OutOfMemory {
        /// Bytes asked for, all of them present in the file.
        bytes: u64,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic { region: Region::Trailer } => f.write_str("no trailer: the file was cut short"),
            Self::NoMagic { .. } => f.write_str("not a .tersa file"),
            Self::UnknownMajor { major, minor } => {
                write!(f, "format {major}.{minor} is newer than this release can read")
            }
            Self::FileLength { expected, got } => {
                write!(f, "the file has {got} bytes, {expected} were written")
            }
            Self::Checksum { region, expected, got } => {
                write!(f, "{region}: checksum {got:016x}, written was {expected:016x}")
            }
            Self::Short { region, needed, got } => {
                write!(f, "{region}: {needed} bytes needed, {got} are there")
            }
            Self::Excess { region, excess } => write!(f, "{region}: {excess} bytes too many"),
            Self::Misplaced { region, offset, length } => {
                write!(f, "{region}: misplaced at offset {offset}, length {length}")
            }
            Self::NotZero { region } => write!(f, "{region}: bits that must be zero are not"),
            Self::UnknownCriticalSection { kind } => {
                write!(
                    f,
                    "section kind {kind} is needed to read this file, and this release does not know it"
                )
            }
            Self::DuplicateSection { section } => write!(f, "two sections of kind {section}"),
            Self::MissingSection { section } => write!(f, "no {} section", section.name()),
            Self::NotUtf8 { region } => write!(f, "{region}: not UTF-8"),
            Self::FileName { file } => write!(f, "source file {file} has no usable name of its own"),
            Self::OutOfRange { what, value, max } => write!(f, "{what} is {value}, at most {max} is allowed"),
            Self::UnknownCode { what, code } => write!(f, "{code} is no {what}"),
            Self::Order { what, index } => write!(f, "{what}: entry {index} is not above the one before it"),
            Self::Mismatch { what, expected, got } => write!(f, "{what}: {expected} expected, {got} found"),
            Self::NoSuch { what, index, count } => write!(f, "no {what} {index}, there are {count}"),
            Self::ChunkCount { stream, chunk, written } => {
                write!(f, "chunk {chunk} of stream {stream} was written {written} times")
            }
            Self::OutOfMemory { bytes } => write!(f, "no memory for {bytes} bytes"),
        }
    }
}

impl core::error::Error for FormatError {}

/// Why reading a container failed: the bytes could not be had, or they are wrong.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadError<E> {
    /// The [`ReadAt`](super::ReadAt) failed.
    Io(E),
    /// The bytes are not a sound container.
    Format(FormatError),
}

/// Why writing a container failed: the bytes could not be put, or the description is not sound.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteError<E> {
    /// The [`Sink`](super::Sink) failed.
    Io(E),
    /// What was given does not describe a container.
    Format(FormatError),
}

macro_rules! io_or_format {
    ($name:ident) => {
        impl<E> From<FormatError> for $name<E> {
            fn from(e: FormatError) -> Self {
                Self::Format(e)
            }
        }

        impl<E: fmt::Display> fmt::Display for $name<E> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Io(e) => e.fmt(f),
                    Self::Format(e) => e.fmt(f),
                }
            }
        }

        impl<E: fmt::Debug + fmt::Display> core::error::Error for $name<E> {}
    };
}

io_or_format!(ReadError);
io_or_format!(WriteError);
