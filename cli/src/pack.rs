//! From a dump to a container: chunks encoded by many threads, written by one in order.

use std::fs::File;
use std::ops::Range;

use anyhow::{Result, anyhow};
use tersa_core::codec::chunk::HeadStats;
use tersa_core::codec::{ByteCoder as _, CodecSpec};
use tersa_core::format::{
    self, Extent, Head, Placement, Source, SourceFile, StreamEntry, StreamInfo, VERBATIM_BLOCK,
    VerbatimMethod, WriteError, Writer,
};

use crate::coding::{self, Keep, PartCodec, Ready, Scratch, Shelf, learns};
use crate::dump::{Dump, Kind};
use crate::files::FileSink;
use crate::pipeline::ordered;
use crate::progress::Progress;
use crate::select::Part;

/// Source bytes that a thread encodes at a time: handing results over costs little beside this much.
const RUN_BYTES: usize = 1 << 20;
/// Results that wait for the writer may take this much memory together.
const WINDOW_BYTES: usize = 16 << 20;
/// Codebooks of the streams that are encoded at the same time may take about this much.
const CODEBOOK_BYTES: usize = 8 << 20;
/// Training holds a sample of rows for each thread; more threads than this would hold too many.
const TRAINING_JOBS: usize = 4;
/// A block of other bytes is compressed only if a sample of it shrinks by this share: queries and the like do not.
const WORTH_SAMPLE: usize = 32 << 10;

/// What to pack and how.
pub struct Pack<'a> {
    /// The source.
    pub dump: &'a Dump,
    /// The streams to pack.
    pub parts: &'a [Part<'a>],
    /// For each stream, the codec of each head.
    pub plan: &'a [Vec<CodecSpec>],
    /// Tokens that stay exact.
    pub keep: Keep,
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Whether to keep the source's other bytes, so that its files can be rebuilt. Needs all of its streams whole.
    pub whole_source: bool,
    /// Threads.
    pub jobs: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Bytes of the container.
    pub file_len: u64,
    /// Bytes of the source outside its tensors.
    pub verbatim_len: u64,
    /// Bytes that these took.
    pub verbatim_stored: u64,
    /// For each stream, bytes of its chunks and codebooks, padding included.
    pub stream_bytes: Vec<u64>,
    /// What encoding lost, for each stream, for each head.
    pub stats: Vec<Vec<HeadStats>>,
}

impl Packed {
    /// Bytes that keys and values took: all but the verbatim blocks.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.file_len - self.verbatim_stored
    }
}

type FileWriter<'f> = Writer<FileSink<'f>>;

/// A chunk on its way to the writer.
#[derive(Default)]
struct Encoded {
    bytes: Vec<u8>,
    stats: Vec<HeadStats>,
}

/// A stream on its way into the file.
struct Coded {
    codec: PartCodec,
    first_item: usize,
}

impl Pack<'_> {
    /// Writes the container into `file`, which must be empty. `metadata` is its JSON text.
    ///
    /// # Errors
    /// If a codec cannot serve a stream or the file cannot be written.
    pub fn write(&self, file: &File, metadata: &str, progress: &mut Progress) -> Result<Packed> {
        let mut writer = Writer::new(FileSink::new(file)).map_err(failed)?;
        let mut entries = Vec::with_capacity(self.parts.len());
        let mut stream_bytes = Vec::with_capacity(self.parts.len());
        let mut shelf = Shelf::default();
        let mut start = 0;
        while start < self.parts.len() {
            let end = self.batch_end(start);
            self.batch(start..end, &mut writer, &mut shelf, &mut entries, &mut stream_bytes, progress)?;
            start = end;
        }
        let source = self.whole_source.then(|| self.source()).transpose()?;
        let before = writer.position();
        if self.whole_source {
            self.verbatim(&mut writer, progress)?;
        }
        let verbatim_stored = writer.position() - before;
        let sink = writer.finish(&entries, metadata, source.as_ref()).map_err(failed)?;
        sink.flush()?;
        Ok(Packed {
            file_len: file.metadata()?.len(),
            verbatim_len: source.map_or(0, |s| s.verbatim_len()),
            verbatim_stored,
            stream_bytes,
            stats: entries.iter().map(|e| e.stats.iter().map(|s| (*s).into()).collect()).collect(),
        })
    }

    /// Streams from `start` on whose codebooks fit into memory together; all of them where nothing is learned.
    fn batch_end(&self, start: usize) -> usize {
        let mut bytes = 0;
        let codebooks = |i: usize| {
            let row = self.parts[i].stream.shape.head_dim * 4;
            let one = |spec: &CodecSpec| match spec.quantizer {
                tersa_core::codec::Quantizer::Pq { nbits, .. } => 2 * (row << nbits), // centroids and their table
                _ => 0,
            };
            self.plan[i].iter().map(one).sum::<usize>()
        };
        let fits = |i: &usize| {
            bytes += codebooks(*i);
            *i == start || bytes <= CODEBOOK_BYTES
        };
        start + (start..self.parts.len()).take_while(fits).count()
    }

    /// Prepares the codecs of some streams, then encodes and writes their chunks.
    fn batch(
        &self,
        range: Range<usize>,
        writer: &mut FileWriter<'_>,
        shelf: &mut Shelf,
        entries: &mut Vec<StreamEntry>,
        stream_bytes: &mut Vec<u64>,
        progress: &mut Progress,
    ) -> Result<()> {
        let parts = &self.parts[range.clone()];
        let mut trained = self.train(range.clone())?.into_iter();
        let mut coded: Vec<Coded> = Vec::with_capacity(parts.len());
        let (mut items, mut largest) = (0, 1);
        for (part, specs) in parts.iter().zip(&self.plan[range.clone()]) {
            let before = writer.position();
            let mut heads = Vec::with_capacity(specs.len());
            let mut ready = Vec::with_capacity(specs.len());
            for (head, &spec) in specs.iter().enumerate() {
                let one = match learns(spec) {
                    true => trained.next().ok_or_else(|| anyhow!("a codebook is missing"))?,
                    false => shelf.make(spec, part, head)?,
                };
                let codec = writer.codec(&spec.to_string())?;
                let side = writer.write_side(&one.side.to_stored()).map_err(failed)?;
                heads.push(Head { codec, side });
                ready.push(one);
            }
            // Exact codecs keep every token anyway.
            let all_exact = specs.iter().all(CodecSpec::is_exact);
            let exact = if all_exact { Vec::new() } else { self.keep.rows(&part.stream) };
            let codec = PartCodec::new(part, &ready, exact)?;
            let exact = writer.write_exact(codec.exact_tokens()).map_err(failed)?;
            let info = self.info(part);
            largest = largest.max(codec.bound(0..info.shape.n_tokens.min(self.chunk_tokens as usize)));
            let stats = vec![format::HeadStats::default(); specs.len()];
            entries.push(StreamEntry { info, heads, exact, stats });
            stream_bytes.push(writer.position() - before);
            coded.push(Coded { codec, first_item: items });
            items += info.n_chunks();
        }
        let at = |item: usize| {
            let s = coded.partition_point(|c| c.first_item <= item) - 1;
            (s, item - coded[s].first_item)
        };
        let tokens = |s: usize, chunk: usize| {
            let start = chunk * self.chunk_tokens as usize;
            start..parts[s].stream.shape.n_tokens.min(start + self.chunk_tokens as usize)
        };
        let encode_chunk = |scratch: &mut Scratch, item: usize, out: &mut Encoded| {
            let (s, chunk) = at(item);
            out.stats.clear();
            out.stats.resize(self.plan[range.start + s].len(), HeadStats::default());
            coded[s].codec.encode(&parts[s], tokens(s, chunk), &mut out.bytes, scratch, &mut out.stats)
        };
        let mut take_chunk = |item: usize, out: &Encoded| {
            let (s, chunk) = at(item);
            let stream = range.start + s;
            let before = writer.position();
            writer.write_chunk(stream, chunk, &out.bytes).map_err(failed)?;
            stream_bytes[stream] += writer.position() - before;
            for (sum, new) in entries[stream].stats.iter_mut().zip(&out.stats) {
                let mut merged = HeadStats::from(*sum);
                merged.merge(new);
                *sum = merged.into();
            }
            let shape = parts[s].stream.shape;
            progress.add((tokens(s, chunk).len() * shape.n_kv_heads * shape.row_bytes()) as u64);
            Ok(())
        };
        // As many chunks as make a run, but several runs for each thread.
        let run = (RUN_BYTES / largest).min(items / (4 * self.jobs)).max(1);
        let chunks = |i: usize| i * run..items.min((i + 1) * run);
        ordered(
            self.jobs,
            items.div_ceil(run),
            WINDOW_BYTES / (largest * run),
            Scratch::new,
            |scratch, i, out: &mut Vec<Encoded>| {
                out.resize_with(chunks(i).len(), Encoded::default);
                chunks(i).zip(out).try_for_each(|(item, out)| encode_chunk(scratch, item, out))
            },
            |i, out| chunks(i).zip(&*out).try_for_each(|(item, out)| take_chunk(item, out)),
        )
    }

    /// The codebooks of the streams in `range` that need some, in order of streams and heads.
    fn train(&self, range: Range<usize>) -> Result<Vec<Ready>> {
        let heads: Vec<(usize, usize)> = range
            .flat_map(|s| (0..self.plan[s].len()).map(move |h| (s, h)))
            .filter(|&(s, h)| learns(self.plan[s][h]))
            .collect();
        let mut trained = Vec::with_capacity(heads.len());
        ordered(
            self.jobs.min(TRAINING_JOBS),
            heads.len(),
            heads.len(),
            || (),
            |(), i, out: &mut Option<Ready>| {
                let (s, h) = heads[i];
                *out = Some(coding::train(self.plan[s][h], &self.parts[s], h)?);
                Ok(())
            },
            |_, out| {
                trained.extend(out.take());
                Ok(())
            },
        )?;
        Ok(trained)
    }

    fn info(&self, part: &Part<'_>) -> StreamInfo {
        let s = &part.stream;
        let kind = match s.kind {
            Kind::K => format::Kind::K,
            Kind::V => format::Kind::V,
        };
        let chunk_tokens = self.chunk_tokens;
        StreamInfo { part: s.part, layer: s.layer, kind, shape: s.shape, chunk_tokens, hadamard: s.hadamard }
    }

    /// How the source's files are put together again.
    fn source(&self) -> Result<Source> {
        let narrow = |n: usize| u32::try_from(n).map_err(|_| anyhow!("more than 2^32 source files"));
        let placement = |p: &Part<'_>| {
            let s = &p.stream;
            Ok(Placement { file: narrow(s.file)?, offset: s.offset as u64, strides: s.strides })
        };
        let extent = |r: Range<u64>| Extent { offset: r.start, length: r.end - r.start };
        let files = self.dump.files.iter().zip(self.dump.regions()).map(|(f, filled)| SourceFile {
            name: f.name.clone(),
            length: f.bytes.len() as u64,
            tensors: filled.into_iter().map(extent).collect(),
        });
        Ok(Source {
            files: files.collect(),
            placements: self.parts.iter().map(placement).collect::<Result<_>>()?,
        })
    }

    /// Writes the source's bytes outside its tensors, one file after another, in blocks.
    fn verbatim(&self, writer: &mut FileWriter<'_>, progress: &mut Progress) -> Result<()> {
        let mut pieces: Vec<(u64, &[u8])> = Vec::new();
        let mut total = 0;
        for (file, filled) in self.dump.files.iter().zip(self.dump.regions()) {
            for gap in gaps(&filled, file.bytes.len()) {
                pieces.push((total, &file.bytes[gap.clone()]));
                total += gap.len() as u64;
            }
        }
        let block = VERBATIM_BLOCK as u64;
        let n = usize::try_from(total.div_ceil(block))?;
        let gather = |i: usize, raw: &mut Vec<u8>| {
            raw.clear();
            let (start, end) = (i as u64 * block, total.min((i as u64 + 1) * block));
            let first = pieces.partition_point(|&(at, bytes)| at + bytes.len() as u64 <= start);
            for &(at, bytes) in pieces[first..].iter().take_while(|&&(at, _)| at < end) {
                let within = |n: u64| usize::try_from(n.saturating_sub(at)).unwrap_or(usize::MAX);
                raw.extend_from_slice(&bytes[within(start)..within(end).min(bytes.len())]);
            }
        };
        let compress =
            |(scratch, raw): &mut (Scratch, Vec<u8>), i: usize, out: &mut (usize, bool, Vec<u8>)| {
                gather(i, raw);
                out.0 = raw.len();
                let coder = scratch.coder();
                out.2.resize(coder.bound(raw.len()), 0);
                let sample = &raw[..raw.len().min(WORTH_SAMPLE)];
                let worth = |from: usize, to: usize| to < from - from / 8;
                let packed = coder
                    .compress(sample, &mut out.2)
                    .filter(|&n| worth(sample.len(), n))
                    .and_then(|_| coder.compress(raw, &mut out.2))
                    .filter(|&n| worth(raw.len(), n));
                out.1 = packed.is_some();
                match packed {
                    Some(n) => out.2.truncate(n),
                    None => std::mem::swap(&mut out.2, raw),
                }
                Ok(())
            };
        ordered(
            self.jobs,
            n,
            WINDOW_BYTES / VERBATIM_BLOCK,
            || (Scratch::new(), Vec::new()),
            compress,
            |_, (raw_len, packed, stored)| {
                let method = if *packed { VerbatimMethod::Zstd } else { VerbatimMethod::Raw };
                progress.add(*raw_len as u64);
                writer.write_verbatim(method, *raw_len, stored).map_err(failed)
            },
        )
    }
}

/// What lies between the `filled` ranges of a file of `len` bytes.
fn gaps(filled: &[Range<u64>], len: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    // Ranges lie within mapped bytes, so they fit usize.
    let at = move |n: u64| usize::try_from(n).unwrap_or(len);
    let starts = std::iter::once(0).chain(filled.iter().map(move |r| at(r.end)));
    let ends = filled.iter().map(move |r| at(r.start)).chain(std::iter::once(len));
    starts.zip(ends).map(|(a, b)| a..b).filter(|r| !r.is_empty())
}

/// The error itself, not wrapped: what failed is known to the caller.
fn failed(e: WriteError<std::io::Error>) -> anyhow::Error {
    match e {
        WriteError::Io(e) => e.into(),
        WriteError::Format(e) => e.into(),
    }
}

/// All heads' statistics together.
#[must_use]
pub fn total<'a>(stats: impl IntoIterator<Item = &'a HeadStats>) -> HeadStats {
    stats.into_iter().fold(HeadStats::default(), |mut sum, s| {
        sum.merge(s);
        sum
    })
}
