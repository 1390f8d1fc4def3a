//! Which bytes of a source its tensors fill. Everything else is kept verbatim, so that the files can be rebuilt.

use std::ops::Range;

use super::{Dump, DumpStream, Queries, SourceFormat};

/// A dump without its tensors' bytes: what a container keeps of the source, and what output layouts are made from.
#[derive(Clone, Debug)]
pub struct Skeleton {
    /// What kind of files the source was.
    pub format: SourceFormat,
    /// The source's files.
    pub files: Vec<SkeletonFile>,
    /// The streams, with their places in the source.
    pub streams: Vec<DumpStream>,
    /// Captured queries, with their places in the source; their bytes are among the verbatim ones.
    pub queries: Vec<Queries>,
    /// As [`Dump::others`].
    pub others: Vec<String>,
    /// As [`Dump::meta`].
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// As [`Dump::heads_known`].
    pub heads_known: bool,
    /// As [`Dump::rotation_known`].
    pub rotation_known: bool,
}

/// One file of a [`Skeleton`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkeletonFile {
    /// Name relative to the dump's folder, or the file's own name.
    pub name: String,
    /// Its length.
    pub len: u64,
    /// Offset and bytes of everything that is not a tensor, ascending.
    pub verbatim: Vec<(u64, Vec<u8>)>,
}

impl DumpStream {
    /// The byte range from the first to the last byte of this stream.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        let (s, st) = (&self.shape, &self.strides);
        let start = self.offset as u64;
        if s.n_tokens == 0 || s.n_kv_heads == 0 || s.head_dim == 0 {
            return start..start;
        }
        let last = (s.n_tokens - 1) * st.token + (s.n_kv_heads - 1) * st.head + (s.head_dim - 1) * st.dim;
        let blocks = last / s.dtype.block_len() + 1;
        start..start + (blocks * s.dtype.block_bytes()) as u64
    }

    /// Bytes of the stream's elements.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        (self.shape.row_bytes() * self.shape.n_tokens * self.shape.n_kv_heads) as u64
    }
}

impl Dump {
    /// For each file, the byte ranges that tensors fill: sorted, disjoint, not empty, neighbours merged.
    ///
    /// Streams never share bytes (the readers see to it), so interleaved ones, such as keys and values that alternate
    /// head by head, fill their common span exactly if their sizes add up to it.
    /// Cost: O(streams log streams); one step for each row only of streams that leave gaps.
    #[must_use]
    pub fn regions(&self) -> Vec<Vec<Range<u64>>> {
        regions(&self.streams, self.files.len())
    }

    /// The dump without its tensors.
    #[must_use]
    pub fn skeleton(&self) -> Skeleton {
        let files = self
            .files
            .iter()
            .zip(self.regions())
            .map(|(f, filled)| SkeletonFile {
                name: f.name.clone(),
                len: f.bytes.len() as u64,
                verbatim: gaps(&filled, f.bytes.len() as u64)
                    .map(|r| (r.start, f.bytes[usize_range(&r)].to_vec()))
                    .collect(),
            })
            .collect();
        Skeleton {
            format: self.format,
            files,
            streams: self.streams.clone(),
            queries: self.queries.clone(),
            others: self.others.clone(),
            meta: self.meta.clone(),
            heads_known: self.heads_known,
            rotation_known: self.rotation_known,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "offsets within mapped bytes fit usize")]
const fn usize_range(r: &Range<u64>) -> Range<usize> {
    r.start as usize..r.end as usize
}

/// What lies between `filled` ranges, up to `len`.
pub(crate) fn gaps(filled: &[Range<u64>], len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let starts = std::iter::once(0).chain(filled.iter().map(|r| r.end));
    let ends = filled.iter().map(|r| r.start).chain(std::iter::once(len));
    starts.zip(ends).map(|(start, end)| start..end).filter(|r| !r.is_empty())
}

fn regions(streams: &[DumpStream], n_files: usize) -> Vec<Vec<Range<u64>>> {
    let mut out = vec![Vec::new(); n_files];
    for (file, filled) in out.iter_mut().enumerate() {
        let mut own: Vec<&DumpStream> =
            streams.iter().filter(|s| s.file == file && s.len_bytes() != 0).collect();
        own.sort_by_key(|s| s.span().start);
        let mut rest = own.as_slice();
        while let Some(first) = rest.first() {
            // The streams whose spans overlap, one after another.
            let (mut span, mut bytes, mut n) = (first.span(), 0, 0);
            while let Some(s) = rest.get(n).filter(|s| n == 0 || s.span().start < span.end) {
                span.end = span.end.max(s.span().end);
                bytes += s.len_bytes();
                n += 1;
            }
            if bytes == span.end - span.start {
                filled.push(span);
            } else {
                rest[..n].iter().for_each(|s| push_rows(s, filled));
            }
            rest = &rest[n..];
        }
        merge(filled);
    }
    out
}

/// The rows of a stream one by one, element by element where they are strided.
fn push_rows(s: &DumpStream, out: &mut Vec<Range<u64>>) {
    let (shape, strides) = (&s.shape, &s.strides);
    let (bytes, block) = (shape.dtype.block_bytes(), shape.dtype.block_len());
    let (n, step, len) =
        if strides.dim == 1 { (1, 0, shape.row_bytes()) } else { (shape.head_dim, strides.dim, bytes) };
    for token in 0..shape.n_tokens {
        for head in 0..shape.n_kv_heads {
            for dim in 0..n {
                let at = (token * strides.token + head * strides.head + dim * step) / block * bytes;
                let start = (s.offset + at) as u64;
                out.push(start..start + len as u64);
            }
        }
    }
}

fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|r| r.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}
