//! The files that a dump is written to: their names and lengths, the bytes that are known beforehand, and where each
//! stream's elements go. One engine fills every format from this by positional writes.

mod llama;
mod npy;
mod npz;
mod safetensors;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail, ensure};
use tersa_core::num::DType;
use tersa_core::view::KvStrides;

use super::llama::parse::Container;
use super::region::Skeleton;
use super::{DumpStream, Kind, Positions, SourceFormat};

/// What to write a dump as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One tensor for each stream, `k.L{layer}` or `v.L{layer}`, `[heads, tokens, dim]`.
    Safetensors,
    /// One array `[layers, keys and values, heads, tokens, dim]`.
    Npy,
    /// One array for each stream, named and shaped as in safetensors.
    Npz,
    /// A llama.cpp session file, of the source's version or this one.
    LlamaSession(Option<u32>),
    /// A llama.cpp sequence file, of the source's version or this one.
    LlamaSequence(Option<u32>),
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        let (name, version) = match s.split_once(':') {
            Some((name, v)) => (name, Some(v.parse().with_context(|| format!("`{s}`: no version number"))?)),
            None => (s, None),
        };
        Ok(match (name, version) {
            ("safetensors", None) => Self::Safetensors,
            ("npy", None) => Self::Npy,
            ("npz", None) => Self::Npz,
            ("llama-session", v) => Self::LlamaSession(v),
            ("llama-sequence", v) => Self::LlamaSequence(v),
            _ => bail!(
                "`{s}`: formats to write are safetensors, npy, npz, llama-session[:10|:11] and llama-sequence[:3|:4]"
            ),
        })
    }
}

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
    /// Offset and positions of rows, written as little-endian i32.
    pub positions: Vec<(u64, Positions)>,
}

impl OutFile {
    /// Hands offset and bytes of everything that is not a tensor to `put`, positions in pieces of at most 64 KiB.
    ///
    /// # Errors
    /// The first of `put`.
    pub fn write_extras<E>(&self, mut put: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        const PIECE: usize = (64 << 10) / POSITION_BYTES;
        for (offset, bytes) in &self.verbatim {
            put(*offset, bytes)?;
        }
        let mut piece = Vec::new();
        for (offset, positions) in &self.positions {
            let mut at = *offset;
            let mut all = positions.iter().peekable();
            while all.peek().is_some() {
                piece.clear();
                piece.extend(all.by_ref().take(PIECE).flat_map(i32::to_le_bytes));
                put(at, &piece)?;
                at += piece.len() as u64;
            }
        }
        Ok(())
    }
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
            positions: Vec::new(),
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

    /// The dump in another format.
    ///
    /// # Errors
    /// If the format cannot hold it; the message says which can.
    pub fn new(source: &Skeleton, target: Target) -> Result<Self> {
        // Later sums of sizes are of streams as at most f32, and of headers.
        let total = source.streams.iter().try_fold(0u64, |n, s| {
            let sum = n.checked_add(stream_len(s, DType::F32).ok()?)?;
            (sum < u64::MAX / 4).then_some(sum)
        });
        ensure!(total.is_some(), "the streams are larger than any file");
        match target {
            Target::Safetensors => safetensors::layout(source),
            Target::Npy => npy::layout(source),
            Target::Npz => npz::layout(source),
            Target::LlamaSession(version) => llama::layout(source, Container::Session, version),
            Target::LlamaSequence(version) => llama::layout(source, Container::Sequence, version),
        }
    }

    /// Completes `files`, which are those of the layout in the same order, readable and writable, after every element
    /// was written. Cost: one pass over the ranges that checksums cover.
    ///
    /// # Errors
    /// Only those of reading and writing.
    pub fn finish(&self, files: &[File]) -> Result<()> {
        let mut buffer = vec![0; 1 << 18];
        for Finish::Crc32 { file, range, at } in &self.finish {
            let mut out = &files[*file];
            out.seek(SeekFrom::Start(range.start))?;
            let mut crc = crc32fast::Hasher::new();
            let mut left = range.end - range.start;
            while left != 0 {
                let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                out.read_exact(&mut buffer[..n])?;
                crc.update(&buffer[..n]);
                left -= n as u64;
            }
            let crc = crc.finalize().to_le_bytes();
            for &at in at {
                out.seek(SeekFrom::Start(at))?;
                out.write_all(&crc)?;
            }
        }
        Ok(())
    }
}

/// Element type in a format of plain values, and the rotation to undo on the way there: block types become f16.
fn plain_type(s: &DumpStream, source: &Skeleton) -> Result<(DType, u32)> {
    if s.shape.dtype.is_plain() {
        return Ok((s.shape.dtype, s.hadamard));
    }
    ensure!(
        source.rotation_known,
        "it is not known whether the {} rows are rotated: compress the source with --head-dim to write them as plain values",
        s.shape.dtype
    );
    Ok((DType::F16, s.hadamard))
}

/// Bytes of a stream as `dtype`.
fn stream_len(s: &DumpStream, dtype: DType) -> Result<u64> {
    let values =
        s.shape.n_kv_heads.checked_mul(s.shape.head_dim).and_then(|n| n.checked_mul(s.shape.n_tokens));
    let bytes = values.and_then(|n| dtype.bytes_for(n)).and_then(|n| u64::try_from(n).ok());
    bytes.with_context(|| format!("layer {} is larger than memory can address", s.layer))
}

/// What the streams' arrays are called: `k.L3`, and `k.L3.p1` where there are several parts.
fn array_names(source: &Skeleton) -> impl Iterator<Item = String> + '_ {
    let several = has_parts(source);
    source.streams.iter().map(move |s| {
        let kind = match s.kind {
            Kind::K => 'k',
            Kind::V => 'v',
        };
        format!("{kind}.L{}{}", s.layer, part_suffix(s.part, several))
    })
}

fn has_parts(source: &Skeleton) -> bool {
    source.streams.iter().any(|s| s.part != 0)
}

fn part_suffix(part: u32, several: bool) -> String {
    if several { format!(".p{part}") } else { String::new() }
}

/// Name and token positions of every part whose rows are not simply positions 0, 1, ...
fn positions(source: &Skeleton) -> Vec<(String, Positions)> {
    let several = has_parts(source);
    let listed = |part: &[DumpStream]| {
        let positions = part[0].positions.as_ref().filter(|p| !p.is_counted())?;
        Some((format!("positions{}", part_suffix(part[0].part, several)), positions.clone()))
    };
    source.streams.chunk_by(|a, b| a.part == b.part).filter_map(listed).collect()
}

/// Bytes of a written position.
const POSITION_BYTES: usize = 4;

/// What of the source does not go into a file of plain values, in words; nothing is lost silently.
///
/// `queries` and `meta`: whether the format takes these.
fn left_out(source: &Skeleton, queries: bool, meta: bool) -> Option<String> {
    let mut parts = Vec::new();
    if !queries && !source.queries.is_empty() {
        parts.push("captured queries (safetensors takes them)".to_owned());
    }
    match &source.others[..] {
        [] => {}
        [one] => parts.push(format!("tensor `{one}`")),
        [first, rest @ ..] => parts.push(format!("tensor `{first}` and {} more", rest.len())),
    }
    let has_files = !source.files.is_empty();
    if has_files && matches!(source.format, SourceFormat::LlamaSession | SourceFormat::LlamaSequence) {
        parts.push("llama.cpp's tokens and cells (but for positions)".to_owned());
    }
    if !meta && !source.meta.is_empty() {
        parts.push("metadata".to_owned());
    }
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
}

/// What every export of plain values should say.
fn common_notes(source: &Skeleton) -> Vec<String> {
    let mut notes = Vec::new();
    if source.streams.iter().any(|s| !s.shape.dtype.is_plain()) {
        notes.push("block-quantized rows are written as f16".to_owned());
    }
    if source.streams.iter().any(|s| s.hadamard != 0) {
        notes.push("rotated rows are written unrotated".to_owned());
    }
    if !source.heads_known {
        notes.push("heads are not told apart: each token's row is written as one head".to_owned());
    }
    notes
}
