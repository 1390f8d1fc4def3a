//! Writing a container in one pass.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{FormatError, Region, WriteError};
use super::index;
use super::layout::{
    self, Location, MAX_CODEC_NAME, MAX_CODECS, MAX_METADATA, MAX_STREAMS, SEED, Section, Trailer,
    check_range,
};
use super::side::SideData;
use super::source::{Source, VerbatimBlock, VerbatimMethod};
use super::stream::{self, BlobRef, ChunkRef, StreamEntry, StreamRecord};
use super::{Sink, SkipSink};
use crate::num::hash::xxh64;

/// Side data up to this many bytes is remembered to be stored once; grids and signs are, large codebooks differ
/// from head to head anyway.
const SHARED_BLOB: usize = 4096;

/// Writes a container to a [`Sink`] without seeking.
///
/// Chunks, side data, exact sets and verbatim blocks go out as they are given, in any order; the same calls in the
/// same order give the same bytes. [`finish`](Self::finish) adds the tables. A file without them is not a container:
/// write under a temporary name and rename.
///
/// Memory: 24 bytes for each chunk, 32 for each verbatim block, and the indexes.
#[derive(Clone, Debug)]
pub struct Writer<S> {
    sink: S,
    position: u64,
    codecs: Vec<String>,
    /// For each stream, where each chunk is; `None` until it is written.
    chunks: Vec<Vec<Option<ChunkRef>>>,
    verbatim: Vec<VerbatimBlock>,
    indexes: Vec<index::Index>,
    shared: BTreeMap<Vec<u8>, BlobRef>,
}

impl<S: Sink> Writer<S> {
    /// Writes the header.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn new(sink: S) -> Result<Self, WriteError<S::Error>> {
        let (codecs, chunks, verbatim) = (Vec::new(), Vec::new(), Vec::new());
        let (indexes, shared) = (Vec::new(), BTreeMap::new());
        let mut writer = Self { sink, position: 0, codecs, chunks, verbatim, indexes, shared };
        writer.put(&layout::header())?;
        Ok(writer)
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The number that stands for a codec specification in [`Head::codec`](super::Head::codec).
    ///
    /// # Errors
    /// If it is longer than 255 bytes, or there are more than 65536 of them.
    pub fn codec(&mut self, spec: &str) -> Result<u32, FormatError> {
        check_range("length of a codec's name", spec.len() as u64, MAX_CODEC_NAME)?;
        let index = self.codecs.iter().position(|s| s == spec).unwrap_or(self.codecs.len());
        if index == self.codecs.len() {
            check_range("count of codecs", index as u64 + 1, MAX_CODECS)?;
            self.codecs.push(spec.into());
        }
        Ok(u32::try_from(index).expect("there are at most 65536 codecs"))
    }

    /// Writes a chunk's payload.
    ///
    /// # Errors
    /// If the sink fails, the chunk was written before, or the payload is empty or 4 GiB or longer.
    pub fn write_chunk(
        &mut self,
        stream: usize,
        chunk: usize,
        payload: &[u8],
    ) -> Result<(), WriteError<S::Error>> {
        let seal = Seal::of(payload);
        self.pad()?;
        self.record_chunk(stream, chunk, seal)?;
        self.put(payload)
    }

    /// Writes the next block of the source's bytes outside its tensors: `raw_len` bytes of it, stored as `stored`;
    /// at most [`VERBATIM_BLOCK`](super::VERBATIM_BLOCK) of them.
    ///
    /// # Errors
    /// If the sink fails or a length is not allowed.
    pub fn write_verbatim(
        &mut self,
        method: VerbatimMethod,
        raw_len: usize,
        stored: &[u8],
    ) -> Result<(), WriteError<S::Error>> {
        self.pad()?;
        self.record_verbatim(method, raw_len, Seal::of(stored))?;
        self.put(stored)
    }

    /// Writes what a head's codec needs beyond its name; `None` if that is nothing. Equal small data is written once.
    ///
    /// # Errors
    /// If the sink fails or the codebook's numbers do not fit together.
    pub fn write_side(&mut self, side: &SideData) -> Result<Option<BlobRef>, WriteError<S::Error>> {
        if side.is_empty() { Ok(None) } else { self.write_blob(side.to_bytes()?).map(Some) }
    }

    /// Writes a set of tokens that are stored exactly, ascending; `None` if it is empty. Equal small sets are
    /// written once.
    ///
    /// # Errors
    /// If the sink fails or the tokens do not ascend.
    pub fn write_exact(&mut self, tokens: &[u32]) -> Result<Option<BlobRef>, WriteError<S::Error>> {
        stream::check_exact(tokens, usize::MAX)?;
        if tokens.is_empty() { Ok(None) } else { self.write_blob(stream::exact_bytes(tokens)).map(Some) }
    }

    /// Takes an index over the keys of one head, which [`finish`](Self::finish) writes.
    ///
    /// # Errors
    /// If there are more than 2^20 of them.
    pub fn add_index(&mut self, part: u32, layer: u32, head: u32, bytes: Vec<u8>) -> Result<(), FormatError> {
        check_range("count of indexes", self.indexes.len() as u64 + 1, layout::MAX_INDEXES)?;
        self.indexes.push(((part, layer, head), bytes));
        Ok(())
    }

    /// Writes the tables and gives the sink back. `streams` must ascend by (part, layer, kind), and every chunk of
    /// each must have been written. `metadata` is a JSON text, which this module passes through.
    ///
    /// # Errors
    /// If the sink fails or the description does not fit what was written.
    pub fn finish(
        mut self,
        streams: &[StreamEntry],
        metadata: &str,
        source: Option<&Source>,
    ) -> Result<S, WriteError<S::Error>> {
        let mut sections = self.sections(streams, metadata, source)?;
        if !self.indexes.is_empty() {
            self.indexes.sort_by_key(|(key, _)| *key);
            sections.push((Section::Index, index::section(&self.indexes)?));
            self.indexes.clear();
        }
        let mut entries = Vec::new();
        for (section, bytes) in sections {
            entries.push((section, self.put_aligned(&bytes)?));
        }
        let directory = self.put_aligned(&layout::directory(&entries))?;
        self.pad()?;
        let file_len = self.position + layout::FRAME;
        self.put(&Trailer { file_len, directory }.to_bytes())?;
        Ok(self.sink)
    }

    fn sections(
        &self,
        streams: &[StreamEntry],
        metadata: &str,
        source: Option<&Source>,
    ) -> Result<Vec<(Section, Vec<u8>)>, FormatError> {
        check_range("count of streams", streams.len() as u64, MAX_STREAMS)?;
        check_range("length of the metadata", metadata.len() as u64, MAX_METADATA)?;
        if self.chunks.len() > streams.len() {
            return Err(FormatError::NoSuch {
                what: "stream",
                index: self.chunks.len() - 1,
                count: streams.len(),
            });
        }
        let (mut records, mut heads, mut chunks, mut stats) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, entry) in streams.iter().enumerate() {
            self.check_stream(i, entry)?;
            if i > 0 && streams[i - 1].info.key() >= entry.info.key() {
                return Err(FormatError::Order { what: "streams", index: i });
            }
            let (heads_start, chunks_start) = (heads.len(), chunks.len());
            entry.heads.iter().for_each(|head| head.put(&mut heads));
            entry.stats.iter().for_each(|s| s.put(&mut stats));
            let written = self.chunks.get(i).map_or(&[][..], Vec::as_slice);
            for (chunk, slot) in written.iter().enumerate() {
                let missing = FormatError::ChunkCount { stream: i, chunk, written: 0 };
                slot.ok_or(missing)?.put(&mut chunks);
            }
            let (heads_xxh64, chunks_xxh64) =
                (xxh64(SEED, &heads[heads_start..]), xxh64(SEED, &chunks[chunks_start..]));
            StreamRecord { info: entry.info, heads_xxh64, chunks_xxh64, exact: entry.exact }
                .put(&mut records);
        }
        let mut codecs = Vec::new();
        for spec in &self.codecs {
            codecs.push(u8::try_from(spec.len()).expect("`codec` capped it at 255"));
            codecs.extend_from_slice(spec.as_bytes());
        }
        let mut sections = Vec::from([
            (Section::Codecs, codecs),
            (Section::Streams, records),
            (Section::Heads, heads),
            (Section::Chunks, chunks),
            (Section::Stats, stats),
            (Section::Metadata, metadata.as_bytes().to_vec()),
        ]);
        let raw_bytes: u64 = self.verbatim.iter().map(|b| u64::from(b.raw_len)).sum();
        if let Some(source) = source {
            let infos: Vec<_> = streams.iter().map(|s| s.info).collect();
            sections.push((Section::Source, source.to_bytes(&infos)?));
            let mut verbatim = Vec::new();
            self.verbatim.iter().for_each(|block| block.put(&mut verbatim));
            sections.push((Section::Verbatim, verbatim));
        }
        let expected = source.map_or(0, Source::verbatim_len);
        if expected != raw_bytes {
            return Err(FormatError::Mismatch { what: "verbatim bytes", expected, got: raw_bytes });
        }
        Ok(sections)
    }

    fn check_stream(&self, i: usize, entry: &StreamEntry) -> Result<(), FormatError> {
        entry.info.check()?;
        let expect = |what, expected: usize, got: usize| {
            let (expected, got) = (expected as u64, got as u64);
            if expected == got { Ok(()) } else { Err(FormatError::Mismatch { what, expected, got }) }
        };
        expect("heads of a stream", entry.info.shape.n_kv_heads, entry.heads.len())?;
        expect("heads of a stream with statistics", entry.info.shape.n_kv_heads, entry.stats.len())?;
        expect("chunks of a stream", entry.info.n_chunks(), self.chunks.get(i).map_or(0, Vec::len))?;
        match entry.heads.iter().find(|h| h.codec as usize >= self.codecs.len()) {
            Some(head) => {
                let (index, count) = (head.codec as usize, self.codecs.len());
                Err(FormatError::NoSuch { what: "codec", index, count })
            }
            None => Ok(()),
        }
    }

    /// Notes a chunk that will lie at the aligned position.
    fn record_chunk(&mut self, stream: usize, chunk: usize, seal: Seal) -> Result<(), FormatError> {
        check_range("index of a stream", stream as u64, MAX_STREAMS - 1)?;
        check_range("index of a chunk", chunk as u64, layout::MAX_TOKENS - 1)?;
        let (offset, length) = (self.position, self.length("length of a chunk", seal)?);
        if self.chunks.len() <= stream {
            self.chunks.resize_with(stream + 1, Vec::new);
        }
        let slots = &mut self.chunks[stream];
        if slots.len() <= chunk {
            slots.resize(chunk + 1, None);
        }
        if slots[chunk].is_some() {
            return Err(FormatError::ChunkCount { stream, chunk, written: 2 });
        }
        slots[chunk] = Some(ChunkRef { offset, length, xxh64: seal.xxh64 });
        Ok(())
    }

    /// Notes a verbatim block that will lie at the aligned position.
    fn record_verbatim(
        &mut self,
        method: VerbatimMethod,
        raw_len: usize,
        seal: Seal,
    ) -> Result<(), FormatError> {
        let stored_len = self.length("length of a verbatim block", seal)?;
        let raw_len = u32::try_from(raw_len).unwrap_or(u32::MAX);
        let block = VerbatimBlock { offset: self.position, stored_len, raw_len, method, xxh64: seal.xxh64 };
        block.check_lengths()?;
        self.verbatim.push(block);
        Ok(())
    }

    fn length(&self, what: &'static str, seal: Seal) -> Result<u32, FormatError> {
        let (offset, length) = (self.position, seal.length);
        if length == 0 {
            return Err(FormatError::Misplaced { region: Region::Padding { offset }, offset, length });
        }
        u32::try_from(length).map_err(|_| FormatError::OutOfRange {
            what,
            value: length,
            max: u32::MAX.into(),
        })
    }

    fn write_blob(&mut self, bytes: Vec<u8>) -> Result<BlobRef, WriteError<S::Error>> {
        if let Some(&blob) = self.shared.get(&bytes) {
            return Ok(blob);
        }
        let Location { offset, length, xxh64 } = self.put_aligned(&bytes)?;
        let blob = BlobRef { offset, length, xxh64 };
        if bytes.len() <= SHARED_BLOB {
            self.shared.insert(bytes, blob);
        }
        Ok(blob)
    }

    fn put_aligned(&mut self, bytes: &[u8]) -> Result<Location, WriteError<S::Error>> {
        self.pad()?;
        let offset = self.position;
        self.put(bytes)?;
        Ok(Location { offset, length: bytes.len() as u64, xxh64: xxh64(SEED, bytes) })
    }

    fn pad(&mut self) -> Result<(), WriteError<S::Error>> {
        let padding = layout::align_up(self.position) - self.position;
        let padding = usize::try_from(padding).expect("padding is below 64");
        self.put(&[0; layout::FRAME_LEN][..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError<S::Error>> {
        self.sink.write(bytes).map_err(WriteError::Io)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl<S: SkipSink> Writer<S> {
    /// As [`write_chunk`](Self::write_chunk) for a payload that the caller writes itself, at the offset returned:
    /// places are given in order, payloads may be written at the same time. Payloads placed one after another lie
    /// side by side, zeros between them up to the next multiple of [`ALIGN`](super::ALIGN).
    ///
    /// # Errors
    /// As [`write_chunk`](Self::write_chunk).
    pub fn place_chunk(
        &mut self,
        stream: usize,
        chunk: usize,
        seal: Seal,
    ) -> Result<u64, WriteError<S::Error>> {
        self.skip_padding()?;
        self.record_chunk(stream, chunk, seal)?;
        self.skip(seal.length)
    }

    /// As [`write_verbatim`](Self::write_verbatim) for a block that the caller writes itself, at the offset returned.
    ///
    /// # Errors
    /// As [`write_verbatim`](Self::write_verbatim).
    pub fn place_verbatim(
        &mut self,
        method: VerbatimMethod,
        raw_len: usize,
        seal: Seal,
    ) -> Result<u64, WriteError<S::Error>> {
        self.skip_padding()?;
        self.record_verbatim(method, raw_len, seal)?;
        self.skip(seal.length)
    }

    fn skip_padding(&mut self) -> Result<(), WriteError<S::Error>> {
        self.skip(layout::align_up(self.position) - self.position).map(|_| ())
    }

    /// Where the bytes that are left out begin.
    fn skip(&mut self, len: u64) -> Result<u64, WriteError<S::Error>> {
        let start = self.position;
        if len > 0 {
            self.sink.skip(len).map_err(WriteError::Io)?;
            self.position += len;
        }
        Ok(start)
    }
}

/// What the tables hold about a payload beside its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    length: u64,
    xxh64: u64,
}

impl Seal {
    /// Of these bytes. Cost: one pass over them.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self { length: payload.len() as u64, xxh64: xxh64(SEED, payload) }
    }
}
