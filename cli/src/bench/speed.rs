//! Speed of codecs on one core, next to memcpy and zstd over the same rows.
//!
//! All contestants take turns: round after round each encodes and decodes its sample once, so that a slow second of
//! the machine hits all alike. The best round counts; how far the median lies behind it is the spread.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::view::KvView;

use crate::coding::Scratch;
use zstd::bulk::{Compressor, Decompressor};

/// Rounds that count, after one that warms up.
const ROUNDS: usize = 7;
/// Most bytes of rows that a contestant works on: more than most last-level caches hold.
pub(super) const SAMPLE_BYTES: usize = 64 << 20;

/// Who runs.
pub(super) enum Method<'a> {
    /// One stream codec for each stream of the sample.
    Codec(&'a [StreamCodec]),
    /// Copying the rows.
    Memcpy,
    /// zstd of this level over the rows of a chunk.
    Zstd(i32),
}

/// A chunk of the sample.
pub(super) struct SampleChunk<'a> {
    /// Index into a codec's streams.
    pub(super) stream: usize,
    pub(super) view: KvView<'a>,
    pub(super) tokens: Range<usize>,
}

impl SampleChunk<'_> {
    fn tile_bytes(&self) -> usize {
        self.tokens.len() * self.view.shape().row_bytes()
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.tile_bytes() * self.view.shape().n_kv_heads
    }

    fn copy(&self, out: &mut [u8]) {
        for (head, tile) in out.chunks_exact_mut(self.tile_bytes()).enumerate() {
            self.view.copy_rows(head, self.tokens.clone(), tile);
        }
    }
}

/// Speeds over rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Of the best round, in bytes of rows.
    pub(super) gb_per_s: f64,
    /// How much longer the median round took than the best: 0.1 is 10 %.
    pub(super) spread: f64,
}

/// What one contestant reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) encode: Speed,
    pub(super) decode: Speed,
    /// Bytes of rows in a round, and what they were encoded to.
    pub(super) sample_bytes: u64,
    pub(super) coded_bytes: u64,
}

/// Lets all methods take turns on `chunks`, about `seconds` for each method.
pub(super) fn race(methods: &[Method<'_>], chunks: &[SampleChunk<'_>], seconds: f64) -> Result<Vec<Timing>> {
    ensure!(!chunks.is_empty(), "nothing to measure: the dump holds no tokens");
    let mut runners = methods.iter().map(|m| Runner::new(m, chunks)).collect::<Result<Vec<_>>>()?;
    for runner in &mut runners {
        runner.warm_up(seconds / (ROUNDS + 1) as f64)?;
    }
    let mut times = vec![(Vec::new(), Vec::new()); runners.len()];
    for _ in 0..ROUNDS {
        for (runner, (encode, decode)) in runners.iter_mut().zip(&mut times) {
            encode.push(runner.encode()?);
            decode.push(runner.decode()?);
        }
    }
    let timing = |(runner, (encode, decode)): (&Runner<'_>, (Vec<f64>, Vec<f64>))| Timing {
        encode: runner.speed(encode),
        decode: runner.speed(decode),
        sample_bytes: runner.sample_bytes as u64,
        coded_bytes: runner.codes.iter().map(|c| c.len() as u64).sum(),
    };
    Ok(runners.iter().zip(times).map(timing).collect())
}

struct Runner<'a> {
    method: &'a Method<'a>,
    chunks: &'a [SampleChunk<'a>],
    sample_bytes: usize,
    out: Vec<u8>,
    codes: Vec<Range<usize>>,
    rows: Vec<u8>,
    scratch: Scratch,
    /// Rows of a chunk side by side, and the contexts, of zstd.
    gathered: Vec<u8>,
    zstd: Option<(Compressor<'static>, Decompressor<'static>)>,
}

impl<'a> Runner<'a> {
    fn new(method: &'a Method<'a>, chunks: &'a [SampleChunk<'a>]) -> Result<Self> {
        let mut runner = Self {
            method,
            chunks: &chunks[..1],
            sample_bytes: 0,
            out: Vec::new(),
            codes: Vec::new(),
            rows: Vec::new(),
            scratch: Scratch::new(),
            gathered: vec![0; chunks.iter().map(SampleChunk::len_bytes).max().unwrap_or(0)],
            zstd: match method {
                Method::Zstd(level) => Some((Compressor::new(*level)?, Decompressor::new()?)),
                _ => None,
            },
        };
        runner.take(&chunks[..1]);
        runner.encode()?;
        runner.decode()?;
        runner.chunks = chunks;
        Ok(runner)
    }

    /// Makes room for these chunks.
    fn take(&mut self, chunks: &'a [SampleChunk<'a>]) {
        self.chunks = chunks;
        self.sample_bytes = chunks.iter().map(SampleChunk::len_bytes).sum();
        let bound = |c: &SampleChunk<'_>| match self.method {
            Method::Codec(streams) => streams[c.stream].bound(c.tokens.clone()),
            Method::Memcpy => c.len_bytes(),
            Method::Zstd(_) => zstd::zstd_safe::compress_bound(c.len_bytes()),
        };
        self.out = vec![0; chunks.iter().map(bound).sum()];
        self.rows = vec![0; self.sample_bytes];
    }

    /// Chooses how many chunks fit a round of `seconds`, and runs them once.
    fn warm_up(&mut self, seconds: f64) -> Result<()> {
        let all = self.chunks;
        self.take(&all[..1]);
        let one = (self.encode()? + self.decode()?).max(1e-9);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the chunks there are"
        )]
        let n = ((seconds / one) as usize).clamp(1, all.len());
        self.take(&all[..n]);
        self.encode()?;
        self.decode()?;
        Ok(())
    }

    fn encode(&mut self) -> Result<f64> {
        self.codes.clear();
        let start = Instant::now();
        let mut at = 0;
        for chunk in self.chunks {
            let out = &mut self.out[at..];
            let n = match self.method {
                Method::Codec(streams) => {
                    let codec = &streams[chunk.stream];
                    let mut ws = self.scratch.lend(codec.workspace(chunk.tokens.len()));
                    codec.encode(&chunk.view, chunk.tokens.clone(), out, &mut ws, None)?
                }
                Method::Memcpy => {
                    chunk.copy(&mut out[..chunk.len_bytes()]);
                    chunk.len_bytes()
                }
                Method::Zstd(_) => {
                    let rows = &mut self.gathered[..chunk.len_bytes()];
                    chunk.copy(rows);
                    let (compressor, _) = self.zstd.as_mut().context("zstd has no context")?;
                    compressor.compress_to_buffer(rows, out)?
                }
            };
            self.codes.push(at..at + n);
            at += n;
        }
        black_box(&self.out);
        Ok(start.elapsed().as_secs_f64())
    }

    fn decode(&mut self) -> Result<f64> {
        let start = Instant::now();
        let mut to = 0;
        for (chunk, code) in self.chunks.iter().zip(&self.codes) {
            let code = &self.out[code.clone()];
            let rows = &mut self.rows[to..to + chunk.len_bytes()];
            match self.method {
                Method::Codec(streams) => {
                    let codec = &streams[chunk.stream];
                    for (head, tile) in rows.chunks_exact_mut(chunk.tile_bytes()).enumerate() {
                        let mut ws = self.scratch.lend(codec.workspace(chunk.tokens.len()));
                        codec.decode_head(code, chunk.tokens.clone(), head, tile, &mut ws)?;
                    }
                }
                Method::Memcpy => rows.copy_from_slice(code),
                Method::Zstd(_) => {
                    let (_, decompressor) = self.zstd.as_mut().context("zstd has no context")?;
                    let n = decompressor.decompress_to_buffer(code, rows)?;
                    ensure!(n == rows.len(), "zstd gave {n} bytes, not {}", rows.len());
                }
            }
            to += chunk.len_bytes();
        }
        black_box(&self.rows);
        Ok(start.elapsed().as_secs_f64())
    }

    fn speed(&self, mut seconds: Vec<f64>) -> Speed {
        seconds.sort_by(f64::total_cmp);
        let best = seconds[0].max(1e-9);
        Speed {
            gb_per_s: self.sample_bytes as f64 / best / 1e9,
            spread: seconds[seconds.len() / 2] / best - 1.0,
        }
    }
}
