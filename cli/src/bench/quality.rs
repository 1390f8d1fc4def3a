//! Size and error of codecs: every head of the chosen layers is encoded as `compress` would and decoded again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use tersa_core::codec::{CodecSpec, KvSpec, Side};
use tersa_core::format::HeadStats;
use tersa_core::num::hash::xxh64;
use tersa_core::view::KvShape;

use crate::args::SelectArgs;
use crate::attention::{GroupQueries, OutputErrors, Reference, mean_and_p95};
use crate::coding::{self, Keep, PartCodec, Ready, Scratch};
use crate::dump::{Dump, Kind};
use crate::heads::{self, Keys, Layer};
use crate::select::{Part, select};

/// How `compress` would be asked to work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) chunk_tokens: usize,
    pub(super) keep: Keep,
    pub(super) last_queries: usize,
    pub(super) jobs: usize,
}

/// What a codec makes of the chosen layers.
pub(super) struct Quality {
    /// Bytes of the rows as the source has them, and of their codes with side data.
    pub(super) source_bytes: u64,
    pub(super) coded_bytes: u64,
    pub(super) n_values: u64,
    /// Relative error (Frobenius) of a head's keys and values, mean over heads and layers.
    pub(super) k_error: f64,
    pub(super) v_error: f64,
    /// Mean and 95th percentile of the relative error of attention outputs with both replaced.
    pub(super) output_error: Option<(f64, f64)>,
    /// By stream and head, for whoever encodes them again.
    pub(super) codecs: BTreeMap<(usize, usize), Ready>,
}

/// One head coded and decoded.
struct CodedHead {
    bytes: u64,
    stats: HeadStats,
    rows: Vec<f32>,
    codec: Ready,
}

/// One kv head of a layer: the unit of work.
struct HeadPair<'a> {
    layer: Layer,
    head: usize,
    k: Part<'a>,
    v: Part<'a>,
}

/// One head pair under one codec.
struct Measured {
    k: CodedHead,
    v: CodedHead,
    output: Option<OutputErrors>,
}

/// Measures `specs` on `layers`. A codec that cannot serve the dump comes back as the reason.
///
/// Memory: the rows of one head in `f32` for each thread, twice, and its queries' scores.
pub(super) fn measure(
    dump: &Dump,
    layers: &[Layer],
    specs: &[KvSpec],
    options: &Options,
) -> Result<Vec<Result<Quality>>> {
    let tasks = head_pairs(dump, layers)?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(pair) = tasks.get(i) else { break done };
            done.push((i, measure_head(dump, pair, specs, options)));
        }
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    // In one order whatever the threads did, so that sums are the same.
    results.sort_by_key(|(i, _)| *i);

    let mut sums: Vec<Result<Sum>> = specs.iter().map(|_| Ok(Sum::default())).collect();
    for (i, measured) in results {
        for (sum, measured) in sums.iter_mut().zip(measured?) {
            match (sum.as_mut(), measured) {
                (Ok(sum), Ok(m)) => sum.add(&tasks[i], m),
                (Ok(_), Err(why)) => *sum = Err(why),
                (Err(_), _) => {}
            }
        }
    }
    Ok(sums.into_iter().map(|sum| sum.map(Sum::finish)).collect())
}

#[derive(Default)]
struct Sum {
    source_bytes: u64,
    coded_bytes: u64,
    n_values: u64,
    k_errors: Vec<f64>,
    v_errors: Vec<f64>,
    output: Option<OutputErrors>,
    seen_sides: BTreeSet<u64>,
    codecs: BTreeMap<(usize, usize), Ready>,
}

impl Sum {
    fn add(&mut self, pair: &HeadPair<'_>, m: Measured) {
        let k = (pair.layer.k, &pair.k, m.k, &mut self.k_errors);
        let v = (pair.layer.v, &pair.v, m.v, &mut self.v_errors);
        for (stream, part, coded, errors) in [k, v] {
            let shape = part.stream.shape;
            self.source_bytes += part.len_bytes();
            self.n_values += (shape.n_tokens * shape.head_dim) as u64;
            self.coded_bytes += coded.bytes;
            // Heads that share their side data store it once.
            let side = side_bytes(&coded.codec.side);
            if self.seen_sides.insert(xxh64(0, &side)) {
                self.coded_bytes += side.len() as u64;
            }
            errors.push(coded.stats.rel_error());
            self.codecs.insert((stream, pair.head), coded.codec);
        }
        if let Some(output) = m.output {
            self.output.get_or_insert_default().merge(&output);
        }
    }

    fn finish(self) -> Quality {
        Quality {
            source_bytes: self.source_bytes,
            coded_bytes: self.coded_bytes,
            n_values: self.n_values,
            k_error: mean_and_p95(&self.k_errors).0,
            v_error: mean_and_p95(&self.v_errors).0,
            output_error: self.output.map(|o| mean_and_p95(&o.both)),
            codecs: self.codecs,
        }
    }
}

fn side_bytes(side: &Side) -> Vec<u8> {
    let mut bytes: Vec<u8> = side.grid.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes.extend(&side.signs);
    if let Some(codebook) = &side.codebook {
        for s in 0..codebook.shape().m() {
            bytes.extend(codebook.centroids(s).iter().flat_map(|x| x.to_le_bytes()));
        }
    }
    bytes
}

/// The heads of `layers`, each as parts of the dump that hold this head alone.
fn head_pairs<'a>(dump: &'a Dump, layers: &[Layer]) -> Result<Vec<HeadPair<'a>>> {
    let most = layers.iter().map(|l| dump.streams[l.k].shape.n_kv_heads).max().unwrap_or(0);
    let mut pairs = Vec::new();
    for head in 0..most {
        let only = SelectArgs {
            heads: Some(head.to_string().parse().map_err(anyhow::Error::msg)?),
            ..SelectArgs::default()
        };
        let mut parts = select(dump, &only)?;
        let mut take = |layer: &Layer, kind| {
            let is = |p: &Part<'_>| {
                (p.stream.part, p.stream.layer, p.stream.kind) == (layer.part, layer.layer, kind)
            };
            parts.iter().position(is).map(|i| parts.swap_remove(i))
        };
        for layer in layers.iter().filter(|l| head < dump.streams[l.k].shape.n_kv_heads) {
            let k = take(layer, Kind::K).context("a head of keys is missing")?;
            let v = take(layer, Kind::V)
                .with_context(|| format!("layer {}: fewer heads of values than of keys", layer.layer))?;
            ensure!(
                k.stream.shape.n_tokens == v.stream.shape.n_tokens,
                "layer {}: keys and values have different numbers of tokens",
                layer.layer
            );
            pairs.push(HeadPair { layer: *layer, head, k, v });
        }
    }
    pairs.sort_by_key(|p| (p.layer.k, p.head));
    Ok(pairs)
}

fn measure_head(
    dump: &Dump,
    pair: &HeadPair<'_>,
    specs: &[KvSpec],
    options: &Options,
) -> Result<Vec<Result<Measured>>> {
    let HeadPair { layer, head, .. } = *pair;
    let shape = dump.streams[layer.k].shape;
    let keys = Keys { n_tokens: shape.n_tokens, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim };
    let captured = dump.queries.iter().find(|q| q.layer == layer.layer && layer.part == 0);
    let queries = captured.map(|q| heads::queries(dump, q, &keys, options.last_queries)).transpose()?;
    let originals = queries.map(|q| {
        Ok::<_, anyhow::Error>((q, heads::rows(dump, layer.k, head)?, heads::rows(dump, layer.v, head)?))
    });
    let originals = originals.transpose()?;
    let reference = match &originals {
        Some((q, k, v)) => {
            let group = GroupQueries {
                rows: &q.by_kv_head[head],
                n_queries: q.n_queries,
                head_dim: shape.head_dim,
                window: shape.n_tokens,
                scale: heads::scale(dump, shape.head_dim)?,
            };
            Some(Reference::new(group, k, v))
        }
        None => None,
    };
    let one = |spec: &KvSpec| -> Result<Measured> {
        let k = code_head(&pair.k, spec.k, options)?;
        let v = code_head(&pair.v, spec.v, options)?;
        let output = reference.as_ref().map(|r| r.compare(&k.rows, &v.rows));
        // What was decoded is not needed any more.
        let bare = |h: CodedHead| CodedHead { rows: Vec::new(), ..h };
        Ok(Measured { k: bare(k), v: bare(v), output })
    };
    Ok(specs.iter().map(one).collect())
}

fn code_head(part: &Part<'_>, spec: CodecSpec, options: &Options) -> Result<CodedHead> {
    let KvShape { dtype, n_tokens, head_dim, .. } = part.stream.shape;
    let ready = coding::train(spec, part, 0)?;
    let codec = PartCodec::new(part, std::slice::from_ref(&ready), options.keep.rows(&part.stream))?;
    let mut scratch = Scratch::new();
    let mut stats = [HeadStats::default()];
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let row = part.stream.shape.row_bytes();
    let mut decoded = vec![0; n_tokens * row];
    for start in (0..n_tokens).step_by(options.chunk_tokens) {
        let tokens = start..n_tokens.min(start + options.chunk_tokens);
        chunk.resize(codec.bound(tokens.clone()), 0);
        let len = codec.encode(part, tokens.clone(), &mut chunk, &mut scratch, &mut stats)?;
        bytes += len as u64;
        let rows = &mut decoded[tokens.start * row..tokens.end * row];
        codec.decode_head(&chunk[..len], tokens, 0, rows, &mut scratch).context("a chunk does not decode")?;
    }
    let rows = heads::widen(dtype, head_dim, part.stream.hadamard, &decoded)?;
    Ok(CodedHead { bytes, stats: stats[0], rows, codec: ready })
}
