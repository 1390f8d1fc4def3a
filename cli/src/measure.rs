//! What a codec does to a stream, measured on some of its chunks.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use tersa_core::codec::{CodecSpec, KvSpec};
use tersa_core::format::{ALIGN, HeadStats};

use crate::coding::{Keep, PartCodec, Scratch, Shelf};
use crate::dump::Kind;
use crate::pack::total;
use crate::pipeline::ordered;
use crate::select::Part;

/// How much of each stream to look at, and how it would be packed.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Tokens of a chunk.
    pub chunk_tokens: usize,
    /// Whole chunks of about this many tokens together are measured, spread evenly; all if there are fewer.
    pub max_tokens: usize,
    /// Tokens that stay exact.
    pub keep: Keep,
    /// Threads.
    pub jobs: usize,
}

/// One stream under one codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// What encoding lost on the sample, all heads together.
    pub stats: HeadStats,
    /// Bytes that the whole stream would take, by the sample: chunks with their padding and index, and side data.
    pub bytes: u64,
    /// Bytes of the source's rows in the sample.
    pub sampled_bytes: u64,
    /// Seconds that encoding the sample took one thread, measuring the error included.
    pub encode_seconds: f64,
}

impl Measured {
    /// Squared error over squared norm.
    #[must_use]
    pub fn rel_sq_error(&self) -> f64 {
        self.stats.rel_error().powi(2)
    }
}

/// Measures `spec` on every stream of `parts`, in their order; `None` where the codec cannot serve the stream.
///
/// # Errors
/// If a chunk cannot be encoded for another reason.
pub fn measure_codec(parts: &[Part<'_>], spec: KvSpec, sample: &Sample) -> Result<Vec<Option<Measured>>> {
    let of = |kind| match kind {
        Kind::K => spec.k,
        Kind::V => spec.v,
    };
    let pairs: Vec<_> = parts.iter().enumerate().map(|(i, p)| (i, of(p.stream.kind))).collect();
    measure_pairs(parts, &pairs, sample, || {})
}

/// Measures every (stream, codec) of `pairs`; calls `done` after each.
///
/// # Errors
/// As [`measure_codec`].
pub fn measure_pairs(
    parts: &[Part<'_>],
    pairs: &[(usize, CodecSpec)],
    sample: &Sample,
    mut done: impl FnMut() + Send,
) -> Result<Vec<Option<Measured>>> {
    let mut all = Vec::with_capacity(pairs.len());
    ordered(
        sample.jobs,
        pairs.len(),
        4 * sample.jobs,
        || (Scratch::new(), Shelf::default(), Vec::new()),
        |(scratch, shelf, out), i, result| {
            let (part, spec) = pairs[i];
            *result = one(&parts[part], spec, sample, scratch, shelf, out)?;
            Ok(())
        },
        |_, result| {
            all.push(*result);
            done();
            Ok(())
        },
    )?;
    Ok(all)
}

fn one(
    part: &Part<'_>,
    spec: CodecSpec,
    sample: &Sample,
    scratch: &mut Scratch,
    shelf: &mut Shelf,
    out: &mut Vec<u8>,
) -> Result<Option<Measured>> {
    let shape = part.stream.shape;
    let made: Result<Vec<_>> = (0..shape.n_kv_heads).map(|head| shelf.make(spec, part, head)).collect();
    let Ok(ready) = made else { return Ok(None) };
    let codebooks = ready.iter().filter_map(|r| r.side.codebook.as_ref());
    let side_bytes: u64 = codebooks.map(|c| tersa_core::pq::Codebook::len_bytes(c.shape()) as u64 + 64).sum();
    let exact = if spec.is_exact() { Vec::new() } else { sample.keep.rows(&part.stream) };
    let codec = PartCodec::new(part, &ready, exact)?;
    let mut stats = vec![HeadStats::default(); shape.n_kv_heads];
    let (mut bytes, mut tokens, mut seconds) = (0u64, 0usize, 0.0);
    for chunk in sample.chunks(shape.n_tokens) {
        let start = Instant::now();
        out.resize(out.len().max(codec.bound(chunk.clone())), 0);
        let len = codec.encode(part, chunk.clone(), out, scratch, &mut stats)?;
        seconds += start.elapsed().as_secs_f64();
        bytes += (len as u64).next_multiple_of(ALIGN) + 24;
        tokens += chunk.len();
    }
    let whole = |n: u64| u128::from(n) * shape.n_tokens as u128 / tokens.max(1) as u128;
    Ok(Some(Measured {
        stats: total(&stats),
        bytes: u64::try_from(whole(bytes)).unwrap_or(u64::MAX) + side_bytes,
        sampled_bytes: (tokens * shape.n_kv_heads * shape.row_bytes()) as u64,
        encode_seconds: seconds,
    }))
}

impl Sample {
    /// The chunks of a stream to look at.
    fn chunks(&self, n_tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let (size, all) = (self.chunk_tokens, n_tokens.div_ceil(self.chunk_tokens));
        let n = all.min((self.max_tokens / size).max(1));
        // The first and the last are always among them: sinks and the newest tokens are unlike the rest.
        (0..n).map(move |i| if n > 1 { i * (all - 1) / (n - 1) } else { 0 }).map(move |c| {
            let start = c * size;
            start..n_tokens.min(start + size)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_whole_chunks_from_first_to_last() {
        let sample = Sample { chunk_tokens: 256, max_tokens: 1024, keep: Keep::default(), jobs: 1 };
        let of = |n| sample.chunks(n).map(|c| (c.start, c.end)).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(100), [(0, 100)]);
        assert_eq!(of(600), [(0, 256), (256, 512), (512, 600)]);
        assert_eq!(of(8192), [(0, 256), (2560, 2816), (5120, 5376), (7936, 8192)]);
        let large = Sample { chunk_tokens: 4096, ..sample };
        assert_eq!(large.chunks(8192).next(), Some(0..4096));
    }
}
