//! Reading a container: little at first, then what is asked for.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::ReadAt;
use super::bytes::Fields;
use super::error::{FormatError, ReadError, Region};
use super::layout::{
    self, DirectoryEntry, FRAME, FRAME_LEN, Location, MAX_CODEC_NAME, MAX_CODECS, MAX_METADATA, MAX_STREAMS,
    SEED, Section, Trailer, Version, check_hash, check_range,
};
use super::side::SideData;
use super::source::{self, Source, VerbatimBlock};
use super::stream::{
    self, CHUNK_RECORD, ChunkRef, HEAD_RECORD, Head, HeadStats, Kind, STATS_RECORD, STREAM_RECORD,
    StreamInfo, StreamRecord,
};
use crate::num::hash::xxh64;

/// A container opened for reading. Sharing it between threads is fine where sharing the [`ReadAt`] is.
#[derive(Debug)]
pub struct Reader<R> {
    pub(super) inner: R,
    pub(super) file_len: u64,
    version: Version,
    pub(super) directory: Location,
    pub(super) sections: Vec<DirectoryEntry>,
    codecs: Vec<String>,
    infos: Vec<StreamInfo>,
    tables: Vec<StreamTables>,
}

/// Where a stream's slices of the shared tables are.
#[derive(Clone, Copy, Debug)]
struct StreamTables {
    heads: Location,
    chunks: Location,
    exact: Option<stream::BlobRef>,
}

/// Where the chunks of one stream are; from [`Reader::chunk_index`].
#[derive(Clone, Debug)]
pub struct ChunkIndex {
    stream: usize,
    info: StreamInfo,
    chunks: Vec<ChunkRef>,
}

impl ChunkIndex {
    /// Index of the stream.
    #[must_use]
    pub const fn stream(&self) -> usize {
        self.stream
    }

    /// Places and sizes, in token order.
    #[must_use]
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// The tokens in chunk `i`.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn tokens(&self, i: usize) -> Range<usize> {
        assert!(i < self.chunks.len(), "chunk {i} of {}", self.chunks.len());
        let chunk = self.info.chunk_tokens as usize;
        let start = i * chunk;
        start..self.info.shape.n_tokens.min(start.saturating_add(chunk))
    }

    /// The chunks that hold `tokens`, which are clipped to the stream.
    #[must_use]
    pub fn covering(&self, tokens: Range<usize>) -> Range<usize> {
        let end = tokens.end.min(self.info.shape.n_tokens);
        if tokens.start >= end {
            return 0..0;
        }
        let chunk = self.info.chunk_tokens as usize;
        tokens.start / chunk..end.div_ceil(chunk)
    }
}

impl<R: ReadAt> Reader<R> {
    /// Reads and checks header, trailer, directory, and the codecs and streams sections.
    ///
    /// # Errors
    /// If reading fails or the bytes are not a sound container.
    pub fn open(inner: R) -> Result<Self, ReadError<R::Error>> {
        let file_len = inner.len().map_err(ReadError::Io)?;
        check_range("length of the file", file_len, layout::MAX_FILE_LEN)?;
        let frame = |offset: u64, region| {
            let mut bytes = [0; FRAME_LEN];
            if file_len < FRAME {
                return Err(FormatError::Short { region, needed: FRAME, got: file_len }.into());
            }
            inner.read_at(offset, &mut bytes).map_err(ReadError::Io)?;
            Ok::<_, ReadError<R::Error>>(bytes)
        };
        let version = layout::parse_header(&frame(0, Region::Header)?)?;
        if file_len < 2 * FRAME {
            return Err(
                FormatError::Short { region: Region::Trailer, needed: 2 * FRAME, got: file_len }.into()
            );
        }
        let trailer = Trailer::parse(&frame(file_len - FRAME, Region::Trailer)?, file_len)?;
        let directory = trailer.directory;
        let bytes = read_checked(&inner, Region::Directory, directory)?;
        let sections = layout::parse_directory(&bytes, directory.offset)?;
        let (codecs, infos, tables) = (Vec::new(), Vec::new(), Vec::new());
        let mut reader = Self { inner, file_len, version, directory, sections, codecs, infos, tables };
        reader.codecs = parse_codecs(&reader.required(Section::Codecs, MAX_CODECS * (1 + MAX_CODEC_NAME))?)?;
        let bytes = reader.required(Section::Streams, MAX_STREAMS * STREAM_RECORD as u64)?;
        let records = stream::parse_streams(&bytes, reader.data_end())?;
        reader.tables = reader.locate(&records)?;
        reader.infos = records.iter().map(|r| r.info).collect();
        Ok(reader)
    }

    /// The format version that the file was written in.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes of a section, 0 if it is not there.
    #[must_use]
    pub fn section_len(&self, section: Section) -> u64 {
        self.section(section).map_or(0, |s| s.length)
    }

    /// Codec specifications, as [`Head::codec`] numbers them.
    #[must_use]
    pub fn codecs(&self) -> &[String] {
        &self.codecs
    }

    /// All streams, ascending by (part, layer, kind).
    #[must_use]
    pub fn streams(&self) -> &[StreamInfo] {
        &self.infos
    }

    /// Index of a stream.
    #[must_use]
    pub fn find(&self, part: u32, layer: u32, kind: Kind) -> Option<usize> {
        self.infos.binary_search_by_key(&(part, layer, kind), StreamInfo::key).ok()
    }

    /// How each head of a stream is coded. Reads 32 bytes for each.
    ///
    /// # Errors
    /// If there is no such stream, reading fails, or the bytes are not sound.
    pub fn heads(&self, stream: usize) -> Result<Vec<Head>, ReadError<R::Error>> {
        let region = Region::HeadsOf { stream };
        let bytes = read_checked(&self.inner, region, self.table(stream)?.heads)?;
        let mut fields = Fields::new(region, &bytes);
        let mut heads = Vec::with_capacity(bytes.len() / HEAD_RECORD);
        while fields.remaining() > 0 {
            heads.push(Head::parse(&mut fields, self.codecs.len(), self.data_end())?);
        }
        Ok(heads)
    }

    /// What a head's codec needs beyond its name.
    ///
    /// # Errors
    /// If reading fails or the bytes are not sound.
    pub fn side(&self, head: &Head) -> Result<SideData, ReadError<R::Error>> {
        let Some(blob) = head.side else { return Ok(SideData::default()) };
        Ok(SideData::parse(&read_checked(&self.inner, Region::Side, blob.location())?)?)
    }

    /// The tokens of a stream that are stored exactly, ascending.
    ///
    /// # Errors
    /// If there is no such stream, reading fails, or the bytes are not sound.
    pub fn exact(&self, stream: usize) -> Result<Vec<u32>, ReadError<R::Error>> {
        let Some(blob) = self.table(stream)?.exact else { return Ok(Vec::new()) };
        let bytes = read_checked(&self.inner, Region::ExactOf { stream }, blob.location())?;
        Ok(stream::parse_exact(&bytes, stream, self.infos[stream].shape.n_tokens)?)
    }

    /// Where the chunks of a stream are. Reads 24 bytes for each.
    ///
    /// # Errors
    /// If there is no such stream, reading fails, or the bytes are not sound.
    pub fn chunk_index(&self, stream: usize) -> Result<ChunkIndex, ReadError<R::Error>> {
        let region = Region::ChunkIndexOf { stream };
        let bytes = read_checked(&self.inner, region, self.table(stream)?.chunks)?;
        let mut fields = Fields::new(region, &bytes);
        let mut chunks = Vec::with_capacity(bytes.len() / CHUNK_RECORD);
        while fields.remaining() > 0 {
            let region = Region::Chunk { stream, chunk: chunks.len() };
            chunks.push(ChunkRef::parse(&mut fields, region, self.data_end())?);
        }
        Ok(ChunkIndex { stream, info: self.infos[stream], chunks })
    }

    /// Reads a chunk's payload into `buf`, which is resized to it, and checks it.
    ///
    /// # Errors
    /// If there is no such chunk, reading fails, or the bytes are not those that were written.
    pub fn read_chunk(
        &self,
        index: &ChunkIndex,
        chunk: usize,
        buf: &mut Vec<u8>,
    ) -> Result<(), ReadError<R::Error>> {
        let count = index.chunks.len();
        let at = index.chunks.get(chunk).ok_or(FormatError::NoSuch { what: "chunk", index: chunk, count })?;
        read_into(&self.inner, Region::Chunk { stream: index.stream, chunk }, at.location(), buf)
    }

    /// What encoding lost: for each stream, for each head. Empty if the file does not say.
    ///
    /// # Errors
    /// If reading fails or the bytes are not sound.
    pub fn stats(&self) -> Result<Vec<Vec<HeadStats>>, ReadError<R::Error>> {
        let Some(location) = self.section(Section::Stats) else { return Ok(Vec::new()) };
        let region = Region::Section(Section::Stats);
        let heads: u64 = self.infos.iter().map(|i| i.shape.n_kv_heads as u64).sum();
        let expected = heads * STATS_RECORD as u64;
        if location.length != expected {
            let (what, got) = ("bytes of the statistics", location.length);
            return Err(FormatError::Mismatch { what, expected, got }.into());
        }
        let bytes = read_checked(&self.inner, region, location)?;
        let mut fields = Fields::new(region, &bytes);
        let mut of_stream = |info: &StreamInfo| -> Result<Vec<HeadStats>, FormatError> {
            (0..info.shape.n_kv_heads).map(|_| HeadStats::parse(&mut fields)).collect()
        };
        Ok(self.infos.iter().map(&mut of_stream).collect::<Result<_, _>>()?)
    }

    /// The JSON text about the cache; empty if there is none.
    ///
    /// # Errors
    /// If reading fails or the bytes are not UTF-8.
    pub fn metadata(&self) -> Result<String, ReadError<R::Error>> {
        let Some(location) = self.section(Section::Metadata) else { return Ok(String::new()) };
        check_range("length of the metadata", location.length, MAX_METADATA)?;
        let region = Region::Section(Section::Metadata);
        let bytes = read_checked(&self.inner, region, location)?;
        Ok(String::from_utf8(bytes).map_err(|_| FormatError::NotUtf8 { region })?)
    }

    /// How the source files are rebuilt; `None` if the file does not say.
    ///
    /// # Errors
    /// If reading fails or the bytes are not sound.
    pub fn source(&self) -> Result<Option<Source>, ReadError<R::Error>> {
        let Some(location) = self.section(Section::Source) else { return Ok(None) };
        let bytes = read_checked(&self.inner, Region::Section(Section::Source), location)?;
        Ok(Some(Source::parse(&bytes, &self.infos)?))
    }

    /// Where the blocks of the source's bytes outside its tensors are, in order.
    ///
    /// # Errors
    /// If reading fails or the bytes are not sound.
    pub fn verbatim(&self) -> Result<Vec<VerbatimBlock>, ReadError<R::Error>> {
        let Some(location) = self.section(Section::Verbatim) else { return Ok(Vec::new()) };
        let bytes = read_checked(&self.inner, Region::Section(Section::Verbatim), location)?;
        Ok(source::parse_verbatim(&bytes, self.data_end())?)
    }

    /// Reads the stored bytes of block number `block` into `buf`, which is resized to them, and checks them.
    ///
    /// # Errors
    /// If reading fails or the bytes are not those that were written.
    pub fn read_verbatim(
        &self,
        blocks: &[VerbatimBlock],
        block: usize,
        buf: &mut Vec<u8>,
    ) -> Result<(), ReadError<R::Error>> {
        let count = blocks.len();
        let at =
            blocks.get(block).ok_or(FormatError::NoSuch { what: "verbatim block", index: block, count })?;
        read_into(&self.inner, Region::Verbatim { block }, at.location(), buf)
    }

    /// End of the data area: where the first section starts.
    pub(super) fn data_end(&self) -> u64 {
        self.sections.first().map_or(self.directory.offset, |s| s.location.offset)
    }

    pub(super) fn section(&self, section: Section) -> Option<Location> {
        self.sections.iter().find(|s| s.section == Some(section)).map(|s| s.location)
    }

    pub(super) fn exact_blob(&self, stream: usize) -> Option<stream::BlobRef> {
        self.tables[stream].exact
    }

    fn table(&self, stream: usize) -> Result<&StreamTables, FormatError> {
        let count = self.tables.len();
        self.tables.get(stream).ok_or(FormatError::NoSuch { what: "stream", index: stream, count })
    }

    fn required(&self, section: Section, max: u64) -> Result<Vec<u8>, ReadError<R::Error>> {
        let location = self.section(section).ok_or(FormatError::MissingSection { section })?;
        check_range("length of a section", location.length, max)?;
        read_checked(&self.inner, Region::Section(section), location)
    }

    /// Cuts the heads and chunks sections into the streams' slices, which must use them up.
    fn locate(&self, records: &[StreamRecord]) -> Result<Vec<StreamTables>, FormatError> {
        let find = |section| self.section(section).ok_or(FormatError::MissingSection { section });
        let (heads, chunks) = (find(Section::Heads)?, find(Section::Chunks)?);
        let (mut heads_used, mut chunks_used) = (0, 0);
        let mut tables = Vec::with_capacity(records.len());
        for record in records {
            let slice = |section: &Location, used: &mut u64, n: usize, size: usize, xxh64| {
                let (offset, length) = (section.offset + *used, n as u64 * size as u64);
                // Below 2^38 for each of at most 2^20 streams.
                *used += length;
                Location { offset, length, xxh64 }
            };
            let shape = &record.info.shape;
            tables.push(StreamTables {
                heads: slice(&heads, &mut heads_used, shape.n_kv_heads, HEAD_RECORD, record.heads_xxh64),
                chunks: slice(
                    &chunks,
                    &mut chunks_used,
                    record.info.n_chunks(),
                    CHUNK_RECORD,
                    record.chunks_xxh64,
                ),
                exact: record.exact,
            });
        }
        for (section, location, used) in
            [(Section::Heads, heads, heads_used), (Section::Chunks, chunks, chunks_used)]
        {
            let (region, got) = (Region::Section(section), location.length);
            if got < used {
                return Err(FormatError::Short { region, needed: used, got });
            }
            if got > used {
                return Err(FormatError::Excess { region, excess: got - used });
            }
        }
        Ok(tables)
    }
}

fn parse_codecs(bytes: &[u8]) -> Result<Vec<String>, FormatError> {
    let mut fields = Fields::new(Region::Section(Section::Codecs), bytes);
    let mut codecs = Vec::new();
    while fields.remaining() > 0 {
        let length = fields.u8()?;
        codecs.push(fields.text(length.into())?.into());
        check_range("count of codecs", codecs.len() as u64, MAX_CODECS)?;
    }
    Ok(codecs)
}

/// Reads a region that is known to lie within the file, and compares its checksum.
pub(super) fn read_checked<R: ReadAt>(
    inner: &R,
    region: Region,
    at: Location,
) -> Result<Vec<u8>, ReadError<R::Error>> {
    let mut buf = Vec::new();
    read_into(inner, region, at, &mut buf)?;
    Ok(buf)
}

pub(super) fn read_into<R: ReadAt>(
    inner: &R,
    region: Region,
    at: Location,
    buf: &mut Vec<u8>,
) -> Result<(), ReadError<R::Error>> {
    let too_large = FormatError::OutOfMemory { bytes: at.length };
    let length = usize::try_from(at.length).map_err(|_| too_large)?;
    buf.try_reserve_exact(length.saturating_sub(buf.len())).map_err(|_| too_large)?;
    buf.resize(length, 0);
    inner.read_at(at.offset, buf).map_err(ReadError::Io)?;
    Ok(check_hash(region, at.xxh64, xxh64(SEED, buf))?)
}
