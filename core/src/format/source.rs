//! The source recipe: how the files that a cache came from are put together again.
//!
//! Every byte of a source file belongs either to a tensor (inside an [`Extent`]) or to the verbatim bytes, which are
//! the bytes outside all extents in file order, one file after another, cut into blocks.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use super::bytes::{Fields, PutFields};
use super::error::{FormatError, Region};
use super::layout::{Location, MAX_FILE_LEN, MAX_FILE_NAME, MAX_FILES, MAX_STREAMS, Section, check_range};
use super::stream::{StreamInfo, check_data};
use crate::view::KvStrides;

/// Most raw bytes in a verbatim block.
pub const VERBATIM_BLOCK: usize = 1 << 20;
pub(super) const VERBATIM_RECORD: usize = 32;

/// How the source files are rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The files.
    pub files: Vec<SourceFile>,
    /// Where each stream lies, in the order of the streams.
    pub placements: Vec<Placement>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative name, `/` between folders.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// The bytes that tensors fill, ascending, neither overlapping nor empty.
    pub tensors: Vec<Extent>,
}

/// A run of bytes of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Where a stream lies in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Index of the file.
    pub file: u32,
    /// Byte offset of element `[0][0][0]`.
    pub offset: u64,
    /// Strides in elements.
    pub strides: KvStrides,
}

/// How a verbatim block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VerbatimMethod {
    /// As it is.
    Raw = 0,
    /// A Zstandard frame.
    Zstd = 1,
}

/// Where a verbatim block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerbatimBlock {
    /// Offset in the container.
    pub offset: u64,
    /// Bytes as stored.
    pub stored_len: u32,
    /// Bytes of the source, at most [`VERBATIM_BLOCK`].
    pub raw_len: u32,
    /// How they are stored.
    pub method: VerbatimMethod,
    /// XXH64 of the stored bytes.
    pub xxh64: u64,
}

impl VerbatimBlock {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.stored_len);
        out.put_u32(self.raw_len);
        out.put_u32(self.method as u32);
        out.put_u32(0);
        out.put_u64(self.xxh64);
    }

    pub(super) const fn location(&self) -> Location {
        Location { offset: self.offset, length: self.stored_len as u64, xxh64: self.xxh64 }
    }

    /// A raw block holds as many bytes as it stands for, and no block is empty or too long.
    pub(super) fn check_lengths(&self) -> Result<(), FormatError> {
        let raw = u64::from(self.raw_len);
        check_range("length of a verbatim block", raw, VERBATIM_BLOCK as u64)?;
        let stored = u64::from(self.stored_len);
        if raw == 0 || (self.method == VerbatimMethod::Raw && raw != stored) {
            return Err(FormatError::Mismatch {
                what: "bytes of a verbatim block",
                expected: stored,
                got: raw,
            });
        }
        Ok(())
    }
}

/// Parses the verbatim section.
pub(super) fn parse_verbatim(bytes: &[u8], data_end: u64) -> Result<Vec<VerbatimBlock>, FormatError> {
    let mut fields = Fields::new(Region::Section(Section::Verbatim), bytes);
    let mut blocks = Vec::with_capacity(bytes.len() / VERBATIM_RECORD);
    while fields.remaining() > 0 {
        let (offset, stored_len, raw_len) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let method = match fields.u32()? {
            0 => VerbatimMethod::Raw,
            1 => VerbatimMethod::Zstd,
            code => return Err(FormatError::UnknownCode { what: "verbatim method", code }),
        };
        fields.zeros(4)?;
        let block = VerbatimBlock { offset, stored_len, raw_len, method, xxh64: fields.u64()? };
        check_data(Region::Verbatim { block: blocks.len() }, offset, stored_len.into(), data_end)?;
        block.check_lengths()?;
        blocks.push(block);
    }
    Ok(blocks)
}

impl Source {
    /// Bytes of all files outside their tensors: what the verbatim blocks hold.
    #[must_use]
    pub fn verbatim_len(&self) -> u64 {
        let tensors = |f: &SourceFile| f.tensors.iter().map(|e| e.length).sum::<u64>();
        self.files.iter().map(|f| f.length - tensors(f)).sum()
    }

    pub(super) fn to_bytes(&self, streams: &[StreamInfo]) -> Result<Vec<u8>, FormatError> {
        self.check(streams)?;
        let mut out = Vec::new();
        let narrow = |n: usize| u32::try_from(n).expect("Source::check capped it");
        out.put_u32(narrow(self.files.len()));
        out.put_u32(narrow(self.placements.len()));
        for file in &self.files {
            out.put_u64(file.length);
            out.put_u64(file.tensors.len() as u64);
            out.put_u32(narrow(file.name.len()));
            out.put_u32(0);
            out.extend_from_slice(file.name.as_bytes());
            out.put_zeros(file.name.len().next_multiple_of(8) - file.name.len());
            for extent in &file.tensors {
                out.put_u64(extent.offset);
                out.put_u64(extent.length);
            }
        }
        for placement in &self.placements {
            out.put_u32(placement.file);
            out.put_u32(0);
            out.put_u64(placement.offset);
            out.put_u64(placement.strides.token as u64);
            out.put_u64(placement.strides.head as u64);
            out.put_u64(placement.strides.dim as u64);
        }
        Ok(out)
    }

    pub(super) fn parse(bytes: &[u8], streams: &[StreamInfo]) -> Result<Self, FormatError> {
        let region = Region::Section(Section::Source);
        let mut fields = Fields::new(region, bytes);
        let (n_files, n_placements) = (fields.u32()?, fields.u32()?);
        check_range("count of source files", n_files.into(), MAX_FILES)?;
        let mut source = Self::default();
        for _ in 0..n_files {
            let (length, n_extents) = (fields.u64()?, fields.u64()?);
            let name_len = fields.u32()?;
            check_range("length of a file name", name_len.into(), MAX_FILE_NAME)?;
            fields.zeros(4)?;
            let name = fields.text(name_len as usize)?;
            fields.zeros(name.len().next_multiple_of(8) - name.len())?;
            let (needed, got) = (n_extents.saturating_mul(16), fields.remaining() as u64);
            if needed > got {
                return Err(FormatError::Short { region, needed, got });
            }
            let mut tensors = Vec::new();
            for _ in 0..n_extents {
                tensors.push(Extent { offset: fields.u64()?, length: fields.u64()? });
            }
            source.files.push(SourceFile { name: name.into(), length, tensors });
        }
        for _ in 0..n_placements {
            let file = fields.u32()?;
            fields.zeros(4)?;
            let offset = fields.u64()?;
            let mut stride = || -> Result<usize, FormatError> {
                let value = fields.u64()?;
                let what = "stride";
                usize::try_from(value).map_err(|_| FormatError::OutOfRange {
                    what,
                    value,
                    max: usize::MAX as u64,
                })
            };
            let strides = KvStrides { token: stride()?, head: stride()?, dim: stride()? };
            source.placements.push(Placement { file, offset, strides });
        }
        fields.end()?;
        source.check(streams)?;
        Ok(source)
    }

    /// Extents ascend within their file, every tensor lies within its file, and tensors have exactly the bytes of
    /// the extents.
    fn check(&self, streams: &[StreamInfo]) -> Result<(), FormatError> {
        check_range("count of source files", self.files.len() as u64, MAX_FILES)?;
        check_range("count of placements", self.placements.len() as u64, MAX_STREAMS)?;
        let mismatch = |what, expected, got| Err(FormatError::Mismatch { what, expected, got });
        if self.placements.len() != streams.len() {
            return mismatch("placements", streams.len() as u64, self.placements.len() as u64);
        }
        // Sums in 128 bits: 2^16 files of 2^62 bytes.
        let mut extent_bytes = 0_u128;
        let mut names = BTreeSet::new();
        for (index, file) in self.files.iter().enumerate() {
            check_range("length of a file name", file.name.len() as u64, MAX_FILE_NAME)?;
            if !is_plain_path(&file.name) || !names.insert(file.name.as_str()) {
                return Err(FormatError::FileName { file: index });
            }
            check_range("length of a source file", file.length, MAX_FILE_LEN)?;
            let mut end = 0;
            for (index, extent) in file.tensors.iter().enumerate() {
                if extent.offset < end || extent.length == 0 {
                    return Err(FormatError::Order { what: "extents", index });
                }
                let room = file.length.saturating_sub(extent.offset);
                check_range("length of an extent", extent.length, room)?;
                end = extent.offset + extent.length;
                extent_bytes += u128::from(extent.length);
            }
        }
        let total: u128 = self.files.iter().map(|f| u128::from(f.length)).sum();
        check_range("bytes of all source files", u64::try_from(total).unwrap_or(u64::MAX), MAX_FILE_LEN)?;
        let mut tensor_bytes = 0_u128;
        for (placement, stream) in self.placements.iter().zip(streams) {
            let Some(file) = self.files.get(placement.file as usize) else {
                let (index, count) = (placement.file as usize, self.files.len());
                return Err(FormatError::NoSuch { what: "source file", index, count });
            };
            let bytes = placement.check(stream, file.length)?;
            tensor_bytes += bytes;
        }
        if tensor_bytes != extent_bytes {
            let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
            return mismatch("bytes of the tensors", narrow(extent_bytes), narrow(tensor_bytes));
        }
        Ok(())
    }
}

/// Whether a name can only lead below the folder that files are restored in, where paths are POSIX's: drive letters are
/// not looked for.
fn is_plain_path(name: &str) -> bool {
    name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !name.contains(['\\', '\0'])
}

impl Placement {
    /// Checks that the last element lies within a file of `file_len` bytes; the bytes of all elements.
    fn check(&self, stream: &StreamInfo, file_len: u64) -> Result<u128, FormatError> {
        let shape = &stream.shape;
        let (block_len, block_bytes) = (shape.dtype.block_len() as u128, shape.dtype.block_bytes() as u128);
        let cut = |n: usize| !(n as u128).is_multiple_of(block_len);
        if block_len > 1 && (self.strides.dim != 1 || cut(self.strides.token) || cut(self.strides.head)) {
            let (what, got) = ("stride of whole blocks", self.strides.token as u64);
            return Err(FormatError::Mismatch { what, expected: shape.dtype.block_len() as u64, got });
        }
        if shape.n_tokens == 0 {
            return Ok(0);
        }
        let reach = |n: usize, stride: usize| (n as u128 - 1) * stride as u128;
        // Shapes are capped at 2^32 and strides at 2^64, so nothing here reaches 2^128.
        let last = reach(shape.n_tokens, self.strides.token)
            + reach(shape.n_kv_heads, self.strides.head)
            + reach(shape.head_dim, self.strides.dim);
        let end = u128::from(self.offset) + (last / block_len + 1) * block_bytes;
        if end > u128::from(file_len) {
            let value = u64::try_from(end).unwrap_or(u64::MAX);
            return Err(FormatError::OutOfRange {
                what: "end of a tensor in its file",
                value,
                max: file_len,
            });
        }
        let n_values = shape.n_tokens as u128 * shape.n_kv_heads as u128 * shape.head_dim as u128;
        Ok(n_values / block_len * block_bytes)
    }
}
