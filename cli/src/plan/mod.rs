//! Which codec for which stream: named by the user, or found for a size or an error.
//!
//! A search measures a ladder of codecs on evenly spread chunks of every stream and picks one for each. A size
//! (`--bits`, `--ratio`) is spent where it lowers the sum of all streams' relative squared errors most; an error
//! (`--max-rel-error`) is met by each stream's cheapest codec. Keys and values weigh alike. What the finished file
//! records is then held against the target, and a miss is repaired with the recorded numbers.

pub mod policy;
pub mod search;

use anyhow::{Context as _, Result};
use tersa_core::codec::{CodecSpec, KvSpec};

use crate::dump::{Dump, Kind};
use crate::exit::Fault;
use crate::measure::{Sample, measure_pairs};
use crate::pack::Packed;
use crate::progress::Progress;
use crate::select::Part;
use policy::Policy;
use search::{Choice, cheapest_within, spend};

/// Tokens of each stream that a search looks at.
const SAMPLE_TOKENS: usize = 4096;

/// What a search tries. On real caches (SmolLM2-135M) these make up the lower hull of size against error: removing the
/// means pays for keys nearly always and for some values, `+ls` lowers the error for nothing, and for keys with strong
/// channels groups along the tokens beat a rotation at 4 and 8 bits. 2-bit groups and `pq` never came near the hull.
/// `lossless` meets every error, and `raw` serves what nothing else can.
const LADDER: [&str; 18] = [
    "had+lm2+ls",
    "mean+had+lm2+ls",
    "had+lm3+ls",
    "mean+had+lm3+ls",
    "int4c128",
    "had+lm4+ls",
    "mean+had+lm4+ls",
    "int4c64",
    "int4c32",
    "had+lm5+ls",
    "mean+had+lm5+ls",
    "had+lm6+ls",
    "mean+had+lm6+ls",
    "int8c128",
    "had+lm8+ls",
    "mean+had+lm8+ls",
    "lossless",
    "raw",
];

/// What the user aims at.
#[derive(Clone, Debug)]
pub enum Target {
    /// These codecs.
    Codec(KvSpec),
    /// At most so many bits for each value.
    Bits(f64),
    /// At least so many times smaller.
    Ratio(f64),
    /// At most such a relative error of every stream.
    MaxRelError(f64),
}

/// For each stream, the codec of each head.
pub type Codecs = Vec<Vec<CodecSpec>>;

/// `spec` for every head of every stream, but where `policy` says otherwise.
#[must_use]
pub fn fixed(parts: &[Part<'_>], spec: KvSpec, policy: &Policy) -> Codecs {
    let of = |part: &Part<'_>, head: usize| {
        let s = &part.stream;
        let otherwise = match s.kind {
            Kind::K => spec.k,
            Kind::V => spec.v,
        };
        policy.codec(s.layer, head, s.kind).unwrap_or(otherwise)
    };
    parts.iter().map(|p| (0..p.stream.shape.n_kv_heads).map(|h| of(p, h)).collect()).collect()
}

/// Refuses codecs that mix values of different heads where the heads are not known.
///
/// # Errors
/// If a lossy codec is among `codecs` and `dump` does not say how many heads a row has.
pub fn check_heads(dump: &Dump, codecs: &Codecs) -> Result<()> {
    match codecs.iter().flatten().find(|c| !c.is_exact()) {
        Some(lossy) if !dump.heads_known => Err(Fault::usage(format!(
            "{}: {lossy} needs to know the heads, and the file does not say: give --kv-heads or --head-dim, or use \
             --preset lossless",
            dump.files.first().map_or("the dump", |f| f.name.as_str())
        ))),
        _ => Ok(()),
    }
}

/// A search under way: what every codec of the ladder does to every stream, as far as it is known.
pub struct Search {
    specs: Vec<CodecSpec>,
    /// For each stream, the codecs that can serve it, as indices into `specs`.
    offered: Vec<Vec<usize>>,
    /// Measured on a sample, and replaced by what a finished file recorded.
    choices: Vec<Vec<Choice>>,
    picked: Vec<usize>,
    /// Bytes that keys and values may take.
    budget: Option<u64>,
    /// What the file needs beside the streams: estimated, then known.
    overhead: u64,
    max_sq_error: f64,
}

/// How a finished file compares with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It meets it.
    Met,
    /// It does not; other codecs were picked.
    TryAgain,
    /// It does not, and nothing better is known.
    Missed,
}

impl Search {
    /// Measures the ladder.
    ///
    /// # Errors
    /// If a chunk cannot be encoded, or no codec can serve a stream.
    pub fn new(parts: &[Part<'_>], heads_known: bool, sample: &Sample, quiet: bool) -> Result<Self> {
        let all: Vec<CodecSpec> =
            LADDER.iter().map(|s| s.parse().context("the ladder")).collect::<Result<_>>()?;
        let specs: Vec<CodecSpec> = all.into_iter().filter(|s| heads_known || s.is_exact()).collect();
        let pairs: Vec<(usize, CodecSpec)> =
            (0..parts.len()).flat_map(|p| specs.iter().map(move |&s| (p, s))).collect();
        let mut progress = Progress::new("measuring codecs", pairs.len() as u64, quiet);
        let sample = Sample { max_tokens: SAMPLE_TOKENS, ..*sample };
        let measured = measure_pairs(parts, &pairs, &sample, || progress.add(1))?;
        let (mut offered, mut choices) = (Vec::new(), Vec::new());
        for (part, row) in parts.iter().zip(measured.chunks(specs.len())) {
            let served = || row.iter().enumerate().filter_map(|(i, m)| Some((i, m.as_ref()?)));
            offered.push(served().map(|(i, _)| i).collect::<Vec<_>>());
            let choice = |m: &crate::measure::Measured| Choice { bytes: m.bytes, sq_error: m.rel_sq_error() };
            choices.push(served().map(|(_, m)| choice(m)).collect::<Vec<_>>());
            if offered.last().is_none_or(Vec::is_empty) {
                return Err(Fault::usage(format!("layer {}: no codec serves it", part.stream.layer)));
            }
        }
        let tables = |p: &Part<'_>| 96 + 72 * p.stream.shape.n_kv_heads as u64;
        let overhead = 4096 + parts.iter().map(tables).sum::<u64>();
        let picked = Vec::new();
        Ok(Self { specs, offered, choices, picked, budget: None, overhead, max_sq_error: f64::INFINITY })
    }

    /// Picks codecs for keys and values that take `bytes` together.
    ///
    /// # Errors
    /// [`Fault::target_missed`] if even the smallest codecs take more.
    pub fn within_bytes(&mut self, bytes: u64) -> Result<()> {
        self.budget = Some(bytes);
        self.picked =
            spend(&self.choices, bytes.saturating_sub(self.overhead)).ok_or_else(|| self.too_small(bytes))?;
        Ok(())
    }

    fn too_small(&self, bytes: u64) -> anyhow::Error {
        let least = |c: &Vec<Choice>| c.iter().map(|c| c.bytes).min().unwrap_or(0);
        let least = self.choices.iter().map(least).sum::<u64>() + self.overhead;
        Fault::target_missed(format!(
            "keys and values cannot be made as small as {}: the smallest codecs need about {}",
            crate::report::Bytes(bytes),
            crate::report::Bytes(least)
        ))
    }

    /// Picks each stream's cheapest codec with a relative error of at most `max`.
    ///
    /// # Errors
    /// [`Fault::target_missed`] if a stream has none.
    pub fn within_error(&mut self, max: f64) -> Result<()> {
        self.max_sq_error = max * max;
        let missed =
            || Fault::target_missed(format!("no codec keeps the relative error of every stream below {max}"));
        let pick = |c: &Vec<Choice>| cheapest_within(c, self.max_sq_error).ok_or_else(missed);
        self.picked = self.choices.iter().map(pick).collect::<Result<_>>()?;
        Ok(())
    }

    /// What is picked, for every head.
    #[must_use]
    pub fn codecs(&self, parts: &[Part<'_>]) -> Codecs {
        let spec = |i: usize| self.specs[self.offered[i][self.picked[i]]];
        parts.iter().enumerate().map(|(i, p)| vec![spec(i); p.stream.shape.n_kv_heads]).collect()
    }

    /// Holds a file made with [`codecs`](Self::codecs) against the target. Its recorded sizes and errors replace the
    /// estimates, so a second pick is made with better knowledge; each round settles at least one more choice.
    ///
    /// # Errors
    /// As [`within_bytes`](Self::within_bytes) and [`within_error`](Self::within_error).
    pub fn judge(&mut self, packed: &Packed) -> Result<Verdict> {
        let streams: u64 = packed.stream_bytes.iter().sum();
        let mut learned = false;
        for (i, &pick) in self.picked.iter().enumerate() {
            let recorded = Choice {
                bytes: packed.stream_bytes[i],
                sq_error: crate::pack::total(&packed.stats[i]).rel_error().powi(2),
            };
            learned |= self.choices[i][pick] != recorded;
            self.choices[i][pick] = recorded;
        }
        self.overhead = packed.kv_bytes() - streams;
        let before = self.picked.clone();
        let met = match self.budget {
            Some(budget) => packed.kv_bytes() <= budget,
            None => self.picked.iter().zip(&self.choices).all(|(&p, c)| c[p].sq_error <= self.max_sq_error),
        };
        if met {
            return Ok(Verdict::Met);
        }
        match self.budget {
            Some(budget) => self.within_bytes(budget)?,
            None => self.within_error(self.max_sq_error.sqrt())?,
        }
        Ok(if learned || before != self.picked { Verdict::TryAgain } else { Verdict::Missed })
    }
}
