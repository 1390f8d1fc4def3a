//! A `.tersa` file opened for reading: its tables, and codecs made ready from what it stores.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, CodecSpec, TileCodec};
use tersa_core::format::{self, ChunkIndex, FormatError, ReadAt, ReadError, Reader, Region};

use crate::args::{SelectArgs, kind_letter};
use crate::coding::Scratch;
use crate::dump::{DumpStream, Skeleton, SkeletonFile, SourceFormat};
use crate::exit::Fault;
use crate::files::FileBytes;
use crate::meta::Metadata;
use crate::output::is_dash;
use tersa_core::view::{KvShape, KvStrides};

/// A `.tersa` file.
pub struct Archive<R> {
    /// The container.
    pub reader: Reader<R>,
    /// What it says about itself.
    pub meta: Metadata,
    name: String,
}

/// A stream of an archive, or the part of one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index of the stream.
    pub stream: usize,
    /// Heads, rising.
    pub heads: Vec<usize>,
    /// Tokens.
    pub tokens: Range<usize>,
}

/// A picked stream with its codecs at hand.
pub struct OpenStream {
    /// What is asked for.
    pub pick: Pick,
    /// Where its chunks are.
    pub index: ChunkIndex,
    codec: StreamCodec,
    /// Shape of the whole stream.
    pub shape: KvShape,
}

impl Archive<FileBytes> {
    /// Opens the file at `path`, or takes all of standard input for `-`.
    ///
    /// # Errors
    /// If it cannot be read or is not a sound container.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = if is_dash(path) {
            // A container is read from its end: what cannot be sought waits in an unnamed file.
            let mut file =
                tempfile::tempfile().context("standard input: cannot make a temporary file for it")?;
            io::copy(&mut io::stdin().lock(), &mut file).context("standard input")?;
            file.flush().context("standard input")?;
            file
        } else {
            if path.is_dir() {
                return Err(anyhow!("{name}: is a directory; name a .tersa file"));
            }
            File::open(path).with_context(|| name.clone())?
        };
        Self::new(FileBytes::new(file).with_context(|| name.clone())?, name)
    }
}

impl<R: ReadAt> Archive<R>
where
    R::Error: std::error::Error + Send + Sync + 'static,
{
    /// An archive of these bytes; `name` is for messages.
    ///
    /// # Errors
    /// If they cannot be read or are not a sound container.
    pub fn new(bytes: R, name: String) -> Result<Self> {
        let reader = Reader::open(bytes).map_err(|e| explain(&name, e))?;
        let text = reader.metadata().map_err(|e| explain(&name, e))?;
        let meta = if text.is_empty() {
            Metadata::default()
        } else {
            serde_json::from_str(&text).map_err(|e| Fault::damage(format!("{name}: metadata: {e}")))?
        };
        Ok(Self { reader, meta, name })
    }

    /// The file's name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What went wrong with this file.
    pub fn explain(&self, e: ReadError<R::Error>) -> anyhow::Error {
        explain(&self.name, e)
    }

    /// What `select` leaves of the streams.
    ///
    /// # Errors
    /// If that is nothing.
    pub fn pick(&self, select: &SelectArgs) -> Result<Vec<Pick>> {
        let mut picks = Vec::new();
        for (stream, info) in self.reader.streams().iter().enumerate() {
            if select.layers.as_ref().is_some_and(|l| !l.contains(info.layer as usize)) {
                continue;
            }
            let wanted = |h: &usize| select.heads.as_ref().is_none_or(|set| set.contains(*h));
            let heads: Vec<usize> = (0..info.shape.n_kv_heads).filter(wanted).collect();
            let tokens = match &select.tokens {
                Some(range) => range.within(info.shape.n_tokens),
                None => 0..info.shape.n_tokens,
            };
            if !heads.is_empty() && (!tokens.is_empty() || info.shape.n_tokens == 0) {
                picks.push(Pick { stream, heads, tokens });
            }
        }
        if picks.is_empty() && !self.reader.streams().is_empty() {
            return Err(Fault::usage(format!(
                "{}: nothing is selected; `tersa inspect` shows which layers, tokens and heads there are",
                self.name
            )));
        }
        Ok(picks)
    }

    /// Reads a picked stream's tables: the index of its chunks, and the side data of the heads asked for.
    ///
    /// # Errors
    /// If they cannot be read, are damaged, or name a codec that this release does not know.
    pub fn open_stream(&self, pick: Pick) -> Result<OpenStream> {
        let info = self.reader.streams()[pick.stream];
        let KvShape { dtype, head_dim, .. } = info.shape;
        let at = || format!("{}: layer {} {}", self.name, info.layer, kind_letter(info.kind));
        let heads = self.reader.heads(pick.stream).map_err(|e| self.explain(e))?;
        let mut made: Vec<(format::Head, Arc<dyn TileCodec>)> = Vec::new();
        let mut codecs = Vec::with_capacity(heads.len());
        for (i, head) in heads.iter().enumerate() {
            if !pick.heads.contains(&i) {
                // Stands in for a head that nobody reads, so that its side data need not be. Never shared: a head
                // with an equal record may be read.
                let raw = codec::prepare(CodecSpec::RAW, head_dim, dtype, &codec::Side::default())
                    .map_err(|e| anyhow!("{}: {e}", at()))?;
                codecs.push(raw.into());
                continue;
            }
            if let Some((_, codec)) = made.iter().find(|(h, _)| h == head) {
                codecs.push(codec.clone());
                continue;
            }
            let name = &self.reader.codecs()[head.codec as usize];
            let spec: CodecSpec = name.parse().map_err(|e| anyhow!("{}: codec `{name}`: {e}", at()))?;
            let side = self.reader.side(head).map_err(|e| self.explain(e))?;
            let side = codec::Side::from_stored(side, spec, head_dim)
                .map_err(|e| Fault::damage(format!("{}: codec `{name}`: {e}", at())))?;
            let codec: Arc<dyn TileCodec> = codec::prepare(spec, head_dim, dtype, &side)
                .map_err(|e| Fault::damage(format!("{}: codec `{name}`: {e}", at())))?
                .into();
            made.push((*head, codec.clone()));
            codecs.push(codec);
        }
        let exact = self.reader.exact(pick.stream).map_err(|e| self.explain(e))?;
        let index = self.reader.chunk_index(pick.stream).map_err(|e| self.explain(e))?;
        let codec = StreamCodec::new(dtype, head_dim, codecs, exact).map_err(|e| anyhow!("{}: {e}", at()))?;
        Ok(OpenStream { pick, index, codec, shape: info.shape })
    }

    /// Reads chunk number `chunk` of `stream` and decodes the picked heads: `rows` becomes
    /// `[heads][tokens of the chunk][row]`, and the tokens are returned.
    ///
    /// # Errors
    /// If the chunk cannot be read or is damaged.
    pub fn decode_chunk(
        &self,
        stream: &OpenStream,
        chunk: usize,
        payload: &mut Vec<u8>,
        rows: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<Range<usize>> {
        self.decode_chunks(stream, chunk..chunk + 1, payload, rows, scratch)
    }

    /// As [`decode_chunk`](Self::decode_chunk) for consecutive chunks, at least one: `rows` becomes
    /// `[heads][tokens of all these chunks][row]`.
    ///
    /// # Errors
    /// If a chunk cannot be read or is damaged.
    pub fn decode_chunks(
        &self,
        stream: &OpenStream,
        chunks: Range<usize>,
        payload: &mut Vec<u8>,
        rows: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<Range<usize>> {
        let held = stream.index.tokens(chunks.start).start..stream.index.tokens(chunks.end - 1).end;
        let row = stream.shape.row_bytes();
        for chunk in chunks {
            self.reader.read_chunk(&stream.index, chunk, payload).map_err(|e| self.explain(e))?;
            let tokens = stream.index.tokens(chunk);
            let damaged = |head: usize, e| {
                let info = self.reader.streams()[stream.pick.stream];
                let kind = kind_letter(info.kind);
                Fault::damage(format!(
                    "{}: layer {} {kind}, chunk {chunk}, head {head}: {e}",
                    self.name, info.layer
                ))
            };
            // A chunk's bytes must be there before memory is taken for the rows that the tables promise.
            for &head in &stream.pick.heads {
                stream.codec.check_head(payload, tokens.clone(), head).map_err(|e| damaged(head, e))?;
            }
            rows.resize(held.len() * row * stream.pick.heads.len(), 0);
            for (i, &head) in stream.pick.heads.iter().enumerate() {
                let start = (i * held.len() + tokens.start - held.start) * row;
                let out = &mut rows[start..start + tokens.len() * row];
                let mut ws = scratch.lend(stream.codec.workspace(tokens.len()));
                let decoded = stream.codec.decode_head(payload, tokens.clone(), head, out, &mut ws);
                decoded.map_err(|e| damaged(head, e))?;
            }
        }
        Ok(held)
    }

    /// What output layouts are made from: the picked streams, in the source's place where it is known. Queries are
    /// listed in any case; their bytes are there only with `verbatim`.
    ///
    /// # Errors
    /// If a table cannot be read or is damaged.
    pub fn skeleton(&self, picks: &[Pick], verbatim: bool) -> Result<Skeleton> {
        let source = self.reader.source().map_err(|e| self.explain(e))?;
        let streams = picks.iter().map(|p| {
            let info = self.reader.streams()[p.stream];
            let shape = KvShape { n_tokens: p.tokens.len(), n_kv_heads: p.heads.len(), ..info.shape };
            let place = source.as_ref().map(|s| s.placements[p.stream]);
            DumpStream {
                part: info.part,
                layer: info.layer,
                kind: info.kind,
                shape,
                file: place.map_or(0, |p| p.file as usize),
                offset: place.map_or(0, |p| usize::try_from(p.offset).unwrap_or(usize::MAX)),
                strides: place.map_or(KvStrides::token_major(&shape), |p| p.strides),
                hadamard: info.hadamard,
                positions: self
                    .meta
                    .positions(info.part, info.shape.n_tokens)
                    .map(|all| all.range(p.tokens.clone())),
                sequences: None,
            }
        });
        let files = source.iter().flat_map(|s| &s.files).map(|f| SkeletonFile {
            name: f.name.clone(),
            len: f.length,
            verbatim: Vec::new(),
        });
        let mut skeleton = Skeleton {
            format: self.meta.format().unwrap_or(SourceFormat::Safetensors),
            files: files.collect(),
            streams: streams.collect(),
            queries: if source.is_some() { self.meta.queries() } else { Vec::new() },
            others: self.meta.others.clone(),
            meta: self.meta.source.clone(),
            heads_known: self.meta.heads_known,
            rotation_known: self.meta.rotation_known,
        };
        if let Some(source) = source.as_ref().filter(|_| verbatim) {
            let mut scratch = Scratch::new();
            let blocks = self.reader.verbatim().map_err(|e| self.explain(e))?;
            let gaps = Gaps::new(source);
            let mut bytes = Vec::new();
            for block in 0..blocks.len() {
                let raw = self.verbatim_block(&blocks, block, &mut scratch)?;
                bytes.extend_from_slice(&raw);
            }
            gaps.scatter(0, &bytes, |file, offset, piece| {
                skeleton.files[file].verbatim.push((offset, piece.to_vec()));
                Ok(())
            })?;
        }
        Ok(skeleton)
    }

    /// The bytes of a verbatim block.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn verbatim_block(
        &self,
        blocks: &[format::VerbatimBlock],
        block: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>> {
        use tersa_core::codec::ByteCoder as _;

        let mut stored = Vec::new();
        self.reader.read_verbatim(blocks, block, &mut stored).map_err(|e| self.explain(e))?;
        match blocks[block].method {
            format::VerbatimMethod::Raw => Ok(stored),
            format::VerbatimMethod::Zstd => {
                let mut raw = vec![0; blocks[block].raw_len as usize];
                if !scratch.coder().decompress(&stored, &mut raw) {
                    return Err(Fault::damage(format!(
                        "{}: verbatim block {block} does not unpack",
                        self.name
                    )));
                }
                Ok(raw)
            }
        }
    }
}

/// Where the bytes between a source's tensors lie.
pub struct Gaps {
    /// (bytes of all gaps before, file, offset, length), ascending.
    gaps: Vec<(u64, usize, u64, u64)>,
}

impl Gaps {
    /// The gaps of all files, in order.
    #[must_use]
    pub fn new(source: &format::Source) -> Self {
        let mut gaps = Vec::new();
        let mut before = 0;
        for (file, f) in source.files.iter().enumerate() {
            let ends = f.tensors.iter().map(|e| e.offset).chain([f.length]);
            let starts = std::iter::once(0).chain(f.tensors.iter().map(|e| e.offset + e.length));
            for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
                gaps.push((before, file, start, end - start));
                before += end - start;
            }
        }
        Self { gaps }
    }

    /// Hands `bytes`, which start at `at` of all gaps' bytes, to `put(file, offset, piece)` piece by piece.
    ///
    /// # Errors
    /// The first of `put`.
    pub fn scatter(
        &self,
        at: u64,
        bytes: &[u8],
        mut put: impl FnMut(usize, u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let end = at + bytes.len() as u64;
        let first = self.gaps.partition_point(|&(before, _, _, len)| before + len <= at);
        for &(before, file, offset, len) in self.gaps[first..].iter().take_while(|g| g.0 < end) {
            let (from, to) = (at.max(before), end.min(before + len));
            let within = |n: u64| usize::try_from(n - at).unwrap_or(usize::MAX);
            put(file, offset + (from - before), &bytes[within(from)..within(to)])?;
        }
        Ok(())
    }
}

fn explain<E: std::error::Error + Send + Sync + 'static>(name: &str, e: ReadError<E>) -> anyhow::Error {
    match e {
        ReadError::Io(e) => anyhow::Error::new(e).context(name.to_owned()),
        ReadError::Format(
            e @ (FormatError::UnknownMajor { .. }
            | FormatError::UnknownCriticalSection { .. }
            | FormatError::OutOfMemory { .. }),
        ) => anyhow!("{name}: {e}"),
        // Something else, not something broken: files of ours have a header at least.
        ReadError::Format(
            FormatError::NoMagic { region: Region::Header }
            | FormatError::Short { region: Region::Header, .. },
        ) => anyhow!("{name}: not a .tersa file"),
        ReadError::Format(e) => Fault::damage(format!("{name}: damaged: {e}")),
    }
}
