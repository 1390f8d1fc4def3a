//! From a dump to a container: chunks encoded and written by many threads, their places given in order.

use std::fs::File;
use std::ops::Range;

use anyhow::{Result, anyhow};
use tersa_core::codec::{ByteCoder as _, CodecSpec};
use tersa_core::format::{
    ALIGN, Extent, Head, HeadStats, Placement, Seal, Source, SourceFile, StreamEntry, StreamInfo,
    VERBATIM_BLOCK, VerbatimMethod, WriteError, Writer,
};

use crate::coding::{self, Keep, PartCodec, Ready, Scratch, Shelf, learns};
use crate::dump::Dump;
use crate::files::{FileSink, write_all_at};
use crate::pipeline::{ordered, placed};
use crate::progress::Progress;
use crate::select::Part;

/// Source bytes that a thread encodes and writes at a time: handing out work costs little beside this much.
const RUN_BYTES: usize = 1 << 20;
/// Results that wait for their place or are being written may take this much memory together.
const WINDOW_BYTES: usize = 16 << 20;
/// Codebooks of the streams that are encoded at the same time may take about this much.
const CODEBOOK_BYTES: usize = 8 << 20;
/// Training holds a sample of rows for each thread; more threads than this would hold too many.
const TRAINING_JOBS: usize = 4;
/// A block of other bytes is compressed only if a sample of it shrinks by this share: queries and the like do not.
const WORTH_SAMPLE: usize = 32 << 10;

#[allow(clippy::cast_possible_truncation, reason = "64")]
const CHUNK_ALIGN: usize = ALIGN as usize;

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

/// A container that is being written.
struct Target<'f> {
    file: &'f File,
    writer: Writer<FileSink<'f>>,
    entries: Vec<StreamEntry>,
    stream_bytes: Vec<u64>,
    shelf: Shelf,
}

/// Consecutive chunks on their way into the file.
#[derive(Default)]
struct Run {
    /// The chunks as they will lie there: each starts at a multiple of [`ALIGN`], with zeros before it.
    bytes: Vec<u8>,
    /// Bytes in use; what follows is left over from earlier runs.
    len: usize,
    chunks: Vec<Encoded>,
}

struct Encoded {
    seal: Seal,
    stats: Vec<HeadStats>,
}

impl Run {
    fn clear(&mut self) {
        self.len = 0;
        self.chunks.clear();
    }

    /// Room for a chunk of at most `bound` bytes.
    fn room(&mut self, bound: usize) -> &mut [u8] {
        let start = self.len.next_multiple_of(CHUNK_ALIGN);
        if self.bytes.len() < start + bound {
            self.bytes.resize(start + bound, 0);
        }
        self.bytes[self.len..start].fill(0);
        self.len = start;
        &mut self.bytes[start..]
    }

    /// The first `len` bytes of the room are a chunk.
    fn push(&mut self, len: usize, stats: Vec<HeadStats>) {
        let seal = Seal::of(&self.bytes[self.len..self.len + len]);
        self.len += len;
        self.chunks.push(Encoded { seal, stats });
    }
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
        let writer = Writer::new(FileSink::new(file)).map_err(failed)?;
        let (entries, stream_bytes) = (Vec::new(), Vec::new());
        let mut out = Target { file, writer, entries, stream_bytes, shelf: Shelf::default() };
        let mut start = 0;
        while start < self.parts.len() {
            let end = self.batch_end(start);
            self.batch(start..end, &mut out, progress)?;
            start = end;
        }
        let source = self.whole_source.then(|| self.source()).transpose()?;
        let before = out.writer.position();
        if self.whole_source {
            self.verbatim(&mut out, progress)?;
        }
        let Target { writer, entries, stream_bytes, .. } = out;
        let verbatim_stored = writer.position() - before;
        let sink = writer.finish(&entries, metadata, source.as_ref()).map_err(failed)?;
        sink.flush()?;
        Ok(Packed {
            file_len: file.metadata()?.len(),
            verbatim_len: source.map_or(0, |s| s.verbatim_len()),
            verbatim_stored,
            stream_bytes,
            stats: entries.into_iter().map(|e| e.stats).collect(),
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
    fn batch(&self, range: Range<usize>, out: &mut Target<'_>, progress: &mut Progress) -> Result<()> {
        let Target { file, writer, entries, stream_bytes, shelf } = out;
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
            let stats = vec![HeadStats::default(); specs.len()];
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
        let encode_chunk = |scratch: &mut Scratch, item: usize, run: &mut Run| -> Result<()> {
            let (s, chunk) = at(item);
            let (codec, tokens) = (&coded[s].codec, tokens(s, chunk));
            let mut stats = vec![HeadStats::default(); self.plan[range.start + s].len()];
            let room = run.room(codec.bound(tokens.clone()));
            let len = codec.encode(&parts[s], tokens, room, scratch, &mut stats)?;
            run.push(len, stats);
            Ok(())
        };
        let mut place_chunk = |item: usize, encoded: &Encoded| -> Result<u64> {
            let (s, chunk) = at(item);
            let stream = range.start + s;
            let before = writer.position();
            let place = writer.place_chunk(stream, chunk, encoded.seal).map_err(failed)?;
            stream_bytes[stream] += writer.position() - before;
            for (sum, new) in entries[stream].stats.iter_mut().zip(&encoded.stats) {
                sum.merge(new);
            }
            let shape = parts[s].stream.shape;
            progress.add((tokens(s, chunk).len() * shape.n_kv_heads * shape.row_bytes()) as u64);
            Ok(place)
        };
        // As many chunks as make a run, but several runs for each thread.
        let run = (RUN_BYTES / largest).min(items / (4 * self.jobs)).max(1);
        let chunks = |i: usize| i * run..items.min((i + 1) * run);
        placed(
            self.jobs,
            items.div_ceil(run),
            WINDOW_BYTES / (largest * run),
            Scratch::new,
            |scratch, i, run: &mut Run| {
                run.clear();
                chunks(i).try_for_each(|item| encode_chunk(scratch, item, run))
            },
            |i, run| {
                let places = chunks(i).zip(&run.chunks).map(|(item, encoded)| place_chunk(item, encoded));
                let places = places.collect::<Result<Vec<u64>>>()?;
                Ok(places.first().copied())
            },
            |run, first| match first {
                Some(first) => Ok(write_all_at(file, first, &run.bytes[..run.len])?),
                None => Ok(()),
            },
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
        let chunk_tokens = self.chunk_tokens;
        StreamInfo {
            part: s.part,
            layer: s.layer,
            kind: s.kind,
            shape: s.shape,
            chunk_tokens,
            hadamard: s.hadamard,
        }
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
    fn verbatim(&self, out: &mut Target<'_>, progress: &mut Progress) -> Result<()> {
        let Target { file, writer, .. } = out;
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
        let compress = |(scratch, raw): &mut (Scratch, Vec<u8>), i: usize, out: &mut Block| {
            gather(i, raw);
            out.raw_len = raw.len();
            let coder = scratch.coder();
            out.stored.resize(coder.bound(raw.len()), 0);
            let sample = &raw[..raw.len().min(WORTH_SAMPLE)];
            let worth = |from: usize, to: usize| to < from - from / 8;
            let packed = coder
                .compress(sample, &mut out.stored)
                .filter(|&n| worth(sample.len(), n))
                .and_then(|_| coder.compress(raw, &mut out.stored))
                .filter(|&n| worth(raw.len(), n));
            match packed {
                Some(n) => out.stored.truncate(n),
                None => std::mem::swap(&mut out.stored, raw),
            }
            let method = if packed.is_some() { VerbatimMethod::Zstd } else { VerbatimMethod::Raw };
            out.sealed = Some((method, Seal::of(&out.stored)));
            Ok(())
        };
        placed(
            self.jobs,
            n,
            WINDOW_BYTES / VERBATIM_BLOCK,
            || (Scratch::new(), Vec::new()),
            compress,
            |_, block| {
                let (method, seal) = block.sealed.ok_or_else(|| anyhow!("a block was not compressed"))?;
                progress.add(block.raw_len as u64);
                writer.place_verbatim(method, block.raw_len, seal).map_err(failed)
            },
            |block, place| Ok(write_all_at(file, place, &block.stored)?),
        )
    }
}

/// A block of other bytes on its way into the file.
#[derive(Default)]
struct Block {
    raw_len: usize,
    stored: Vec<u8>,
    sealed: Option<(VerbatimMethod, Seal)>,
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
