//! `tersa bench select`: a decode step that attends to chosen tokens, next to one that attends to all.
//!
//! A step is that of one kv head with the query heads of its group, on one core. All contestants take turns, pass after
//! pass over all heads, so that rows are as cold as the dump is large.

use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tersa_core::attention::{Decode, Rows, Tokens};
use tersa_core::cpu;
use tersa_core::kv::PqIndex;
use tersa_core::kv::index::{EncodeScratch, SelectScratch};
use tersa_core::num::DType;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::pq::{QueryTables, scan};

use super::{NOISY, choose_layers, say, seconds, source_name};
use crate::args::{DumpArgs, IndexSet, JobsArgs, count};
use crate::dump::Dump;
use crate::exit::Fault;
use crate::heads::{self, Keys, Layer};
use crate::parallel;
use crate::plot::lines::{Line, Lines, svg};
use crate::report::{Table, runs};
use crate::selection::{Budgets, GroupRule, Pq, Selector as _, Spec, Specs};

/// Passes over all heads, at least.
const PASSES: usize = 7;
/// Most bytes of keys and values that are worked on if tokens are drawn: many times what last-level caches hold.
const DRAWN_BYTES: usize = 1 << 30;
/// Shortest context that is measured unless one is asked for.
const SHORTEST: usize = 1024;

/// `tersa bench select`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
A step is that of one kv head with all its query heads, on one core: `tables` of the \
query's products with the centroids, `scan` of all codes, `choose` (what is left of \
choosing: group rule, top k, re-rank), `attend` to sinks, chosen and recent tokens, `step` \
all of it. `dense` attends to all tokens. Times are the best of several passes over all \
heads in which all contestants take turns; `spread` is how much longer the median pass \
took. What choosing loses tells `tersa eval --select`.

Selectors: pq:{m}x{4,6,8}[+r{2,3,4}], paper-longbench, paper-infinitebench, skylight, \
default.

Examples:
  tersa bench select kv.safetensors
  tersa bench select kv.safetensors --select default,pq:16x4 --budget 0.1,0.02
  tersa bench select kv.safetensors --synthetic 4096 --layers 6 --plot step.svg
  tersa bench select kv.safetensors --json | jq '.rows[] | {selector, budget, speedup}'")]
pub struct SelectBenchArgs {
    /// A dump: a file, or the files or folder of one dump
    #[arg(required = true, value_name = "DUMP")]
    pub inputs: Vec<PathBuf>,
    /// Indexes to compare, with commas between them (see below)
    #[arg(long, value_name = "LIST", default_value = "paper-longbench,default")]
    pub select: Specs,
    /// Tokens to choose, as parts of all
    #[arg(long, value_name = "LIST", default_value = "0.2,0.1,0.05,0.02")]
    pub budget: Budgets,
    /// Numbers of tokens to measure at [default: all, and halves of it down to 1024, at most 4]
    #[arg(long, value_name = "LIST")]
    pub contexts: Option<Counts>,
    /// Measure N tokens drawn from the dump's, with noise, in place of its own
    #[arg(long, value_name = "N", value_parser = count)]
    pub synthetic: Option<NonZeroUsize>,
    /// Always attend the first N tokens
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub sinks: usize,
    /// Always attend the last N tokens
    #[arg(long, value_name = "N", default_value = "64", value_parser = count)]
    pub recent: NonZeroUsize,
    /// How the query heads of a group agree on one set
    #[arg(long, value_enum, value_name = "RULE", default_value = "softmax-sum")]
    pub group_rule: GroupRule,
    /// Seed of what is random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only these layers, e.g. 0-3,7 [default: 8, evenly spread]
    #[arg(long, value_name = "LIST")]
    pub layers: Option<IndexSet>,
    /// About how long to time each context
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Draw time against context as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub dump: DumpArgs,
}

/// Whole numbers above 0, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<usize>);

impl FromStr for Counts {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |t: &str| {
            count(t.trim())
                .map(NonZeroUsize::get)
                .map_err(|_| format!("`{t}` is not a whole number above 0; write 4096,8192"))
        };
        s.split(',').map(number).collect::<Result<_, _>>().map(Self)
    }
}

/// Rows of one kv head, side by side, and queries that are asked of them.
struct Pool {
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Keys as numbers, of which indexes are made.
    numbers: Vec<f32>,
    /// `[n_queries][group][head_dim]`.
    queries: Vec<f32>,
}

/// What all heads have in common.
#[derive(Clone, Copy, Debug)]
struct Shape {
    keys: DType,
    values: DType,
    head_dim: usize,
    value_dim: usize,
    group: usize,
    n_tokens: usize,
    scale: f32,
}

/// Times of a step, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    tables: f64,
    scan: f64,
    choose: f64,
    attend: f64,
    step: f64,
    dense: f64,
    spread: f64,
}

/// One line of the report.
struct Row {
    selector: Spec,
    context: usize,
    budget: f64,
    k: usize,
    times: Times,
}

/// What an index costs to make and to keep.
struct Built {
    selector: Spec,
    context: usize,
    bits: f64,
    seconds: f64,
    bytes: usize,
}

/// Runs the verb.
///
/// # Errors
/// If the dump cannot be read, holds rows that attention does not read, or the plot cannot be written.
pub(super) fn run(args: &SelectBenchArgs) -> Result<()> {
    let indexes: Vec<(Spec, Pq)> = args
        .select
        .0
        .iter()
        .map(|spec| match spec {
            Spec::Pq(pq) => Ok((*spec, *pq)),
            other => Err(Fault::usage(format!("{other} has no index to time; known: pq:{{m}}x{{4,6,8}}[+r{{2,3,4}}], paper-longbench, paper-infinitebench, skylight, default"))),
        })
        .collect::<Result<_>>()?;
    let dump = crate::dump::open(&args.inputs, &args.dump.open_options())?;
    let layers = choose_layers(&dump, args.layers.as_ref())?;
    let (pools, shape) = pools(&dump, &layers, args)?;
    let contexts = contexts(args, shape.n_tokens)?;
    let (mut rows, mut built) = (Vec::new(), Vec::new());
    for &context in &contexts {
        measure(&pools, &shape, context, &indexes, args, &mut rows, &mut built)?;
    }
    let noisy = rows.iter().any(|r| r.times.spread > NOISY);
    if noisy {
        say(&format!(
            "warning: median passes took over {:.0} % longer than the best: the machine was busy, compare times with care",
            NOISY * 100.0
        ));
    }
    let numbers: Vec<u32> = layers.iter().map(|l| l.layer).collect();
    let drawn = if args.synthetic.is_some() { ", drawn with noise" } else { "" };
    let about = format!(
        "{}: layers {}, {} heads x {}, {} query heads each, {}{drawn}; {} sinks, {} recent; one core, {}",
        source_name(&dump),
        runs(&numbers),
        pools.len(),
        shape.head_dim,
        shape.group,
        shape.keys,
        args.sinks,
        args.recent,
        cpu::level()
    );
    if let Some(path) = &args.plot {
        fs::write(path, plot(&about, &rows))
            .with_context(|| format!("{}: cannot write the plot", path.display()))?;
    }
    let text = if args.json {
        let report = json!({
            "source": source_name(&dump),
            "layers": numbers,
            "heads": pools.len(),
            "head_dim": shape.head_dim,
            "group": shape.group,
            "dtype": shape.keys.name(),
            "drawn": args.synthetic.is_some(),
            "sinks": args.sinks,
            "recent": args.recent.get(),
            "cpu": cpu::level().name(),
            "noisy": noisy,
            "indexes": built.iter().map(Built::to_json).collect::<Vec<_>>(),
            "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        });
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        tables(&about, &contexts, &rows, &built, &shape)
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn contexts(args: &SelectBenchArgs, n_tokens: usize) -> Result<Vec<usize>> {
    let contexts: Vec<usize> = match &args.contexts {
        Some(Counts(contexts)) => contexts.clone(),
        None => (0..4).map(|i| n_tokens >> i).take_while(|n| *n == n_tokens || *n >= SHORTEST).collect(),
    };
    for &context in &contexts {
        if context > n_tokens {
            return Err(Fault::usage(format!(
                "--contexts {context}: there are {n_tokens} tokens; draw more with --synthetic {context}"
            )));
        }
        if context <= args.sinks + args.recent.get() {
            return Err(Fault::usage(format!(
                "{context} tokens leave nothing to choose between {} sinks and {} recent ones",
                args.sinks, args.recent
            )));
        }
    }
    Ok(contexts)
}

/// Rows and queries of the heads of these layers, the dump's own or drawn from them.
fn pools(dump: &Dump, layers: &[Layer], args: &SelectBenchArgs) -> Result<(Vec<Pool>, Shape)> {
    let (first_k, first_v) = (dump.streams[layers[0].k].shape, dump.streams[layers[0].v].shape);
    let first_queries = dump.queries.iter().find(|q| q.layer == layers[0].layer);
    if first_queries.is_none() {
        say("note: the dump holds no queries; keys are asked of keys, and each kv head has one query head");
    }
    let mut shape = Shape {
        keys: first_k.dtype,
        values: first_v.dtype,
        head_dim: first_k.head_dim,
        value_dim: first_v.head_dim,
        group: first_queries.map_or(1, |q| q.shape[0] / first_k.n_kv_heads.max(1)),
        n_tokens: first_k.n_tokens,
        scale: heads::scale(dump, first_k.head_dim)?,
    };
    ensure!(shape.n_tokens > 0, "nothing to measure: the dump holds no tokens");
    let mut which: Vec<(Layer, usize)> =
        layers.iter().flat_map(|l| (0..dump.streams[l.k].shape.n_kv_heads).map(|h| (*l, h))).collect();
    if let Some(n) = args.synthetic {
        let head_bytes = n.get() * (first_k.row_bytes() + first_v.row_bytes());
        which.truncate((DRAWN_BYTES / head_bytes).max(2));
    }
    let one = |i: usize| -> Result<Pool> {
        let (layer, head) = which[i];
        let (k, v) = (dump.streams[layer.k].shape, dump.streams[layer.v].shape);
        ensure!(
            (k.n_tokens, k.head_dim, k.dtype) == (shape.n_tokens, shape.head_dim, shape.keys)
                && (v.n_tokens, v.head_dim, v.dtype) == (shape.n_tokens, shape.value_dim, shape.values),
            "layer {}: another shape than layer {}'s; choose layers of one shape with --layers",
            layer.layer,
            layers[0].layer
        );
        let copy = |stream: usize| -> Result<Vec<u8>> {
            let view = dump.view(stream)?;
            let mut bytes = vec![0; view.shape().n_tokens * view.shape().row_bytes()];
            view.copy_rows(head, 0..view.shape().n_tokens, &mut bytes);
            Ok(bytes)
        };
        let mut pool = Pool {
            keys: copy(layer.k)?,
            values: copy(layer.v)?,
            numbers: heads::rows(dump, layer.k, head)?,
            queries: Vec::new(),
        };
        let d = shape.head_dim;
        match dump.queries.iter().find(|q| q.layer == layer.layer) {
            Some(queries) => {
                let keys = Keys { n_tokens: k.n_tokens, n_kv_heads: k.n_kv_heads, head_dim: d };
                let all = heads::queries(dump, queries, &keys, 64)?;
                let (rows, n) = (&all.by_kv_head[head], all.n_queries);
                ensure!(
                    rows.len() == shape.group * n * d,
                    "layer {}: another number of query heads",
                    layer.layer
                );
                for j in 0..n {
                    (0..shape.group)
                        .for_each(|h| pool.queries.extend_from_slice(&rows[(h * n + j) * d..][..d]));
                }
            }
            None => {
                let last = pool.numbers.len() - (64 * d).min(pool.numbers.len());
                let rows = pool.numbers[last..].to_vec();
                (0..rows.len() / d).for_each(|j| pool.queries.extend(rows[j * d..][..d].repeat(shape.group)));
            }
        }
        match args.synthetic {
            Some(n) => draw(&pool, &shape, n.get(), args.seed ^ ((i as u64) << 32)),
            None => Ok(pool),
        }
    };
    let pools = parallel::map(which.len(), args.jobs.get(), one).into_iter().collect::<Result<Vec<_>>>()?;
    if let Some(n) = args.synthetic {
        shape.keys = DType::F16;
        shape.values = DType::F16;
        shape.n_tokens = n.get();
    }
    Ok((pools, shape))
}

/// `n` tokens drawn from a pool's, each number changed by up to a tenth: codes as skewed as real ones, at any length.
fn draw(pool: &Pool, shape: &Shape, n: usize, seed: u64) -> Result<Pool> {
    let (d, dv) = (shape.head_dim, shape.value_dim);
    let values = heads::widen(shape.values, dv, 0, &pool.values)?;
    let mut rng = Xoshiro256pp::new(seed);
    let mut drawn =
        Pool { keys: Vec::new(), values: Vec::new(), numbers: Vec::new(), queries: pool.queries.clone() };
    for _ in 0..n {
        let token = usize::try_from(rng.below(shape.n_tokens as u64))?;
        let mut bits = rng.next_u64();
        let mut bend = |x: &f32| {
            bits = bits.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            half::f16::from_f32(x * (1.0 + 0.2 * ((bits >> 40) as f32 / (1u32 << 24) as f32 - 0.5)))
        };
        for x in &pool.numbers[token * d..][..d] {
            let x = bend(x);
            drawn.numbers.push(x.to_f32());
            drawn.keys.extend(x.to_le_bytes());
        }
        values[token * dv..][..dv].iter().for_each(|x| drawn.values.extend(bend(x).to_le_bytes()));
    }
    Ok(drawn)
}

impl Pool {
    /// The first `n` tokens.
    fn rows(&self, shape: &Shape, n: usize) -> Result<(Rows<'_>, Rows<'_>)> {
        let first = |data: &'_ [u8], dtype: DType, dim: usize| -> Result<usize> {
            let bytes = n * dtype.bytes_for(dim).context("a row is not whole blocks")?;
            ensure!(bytes <= data.len(), "fewer rows than tokens");
            Ok(bytes)
        };
        let keys = &self.keys[..first(&self.keys, shape.keys, shape.head_dim)?];
        let values = &self.values[..first(&self.values, shape.values, shape.value_dim)?];
        Ok((
            Rows::contiguous(keys, shape.keys, shape.head_dim)?,
            Rows::contiguous(values, shape.values, shape.value_dim)?,
        ))
    }

    /// The group's queries of one pass.
    fn queries(&self, shape: &Shape, pass: usize) -> &[f32] {
        let len = shape.group * shape.head_dim;
        &self.queries[pass % (self.queries.len() / len) * len..][..len]
    }
}

/// An index at work: one for each head, the buffers of a step, and how long passes took.
struct Contestant {
    indexes: Vec<PqIndex>,
    scratch: SelectScratch,
    lut: QueryTables,
    scores: Vec<u16>,
    /// Passes of the tables and of the scan alone.
    tables: Vec<f64>,
    scan: Vec<f64>,
    /// For each budget passes of choosing and of attending.
    steps: Vec<Vec<(f64, f64)>>,
}

impl Contestant {
    /// Trains and fills the indexes of all heads; also how long the fastest took.
    fn new(
        pools: &[Pool],
        shape: &Shape,
        coded: &Range<usize>,
        pq: Pq,
        args: &SelectBenchArgs,
    ) -> Result<(Self, f64)> {
        let d = shape.head_dim;
        let mut params = pq.params(d, args.seed)?;
        params.rule = args.group_rule.in_core();
        let build = |i: usize| -> Result<(PqIndex, f64)> {
            let keys = &pools[i].numbers[coded.start * d..coded.end * d];
            let start = Instant::now();
            let mut index = PqIndex::new(params.clone())?;
            index.train(keys, &pools[i].queries, coded.len(), None)?;
            index.extend(keys, &mut EncodeScratch::new(params.shape))?;
            Ok((index, start.elapsed().as_secs_f64()))
        };
        let made =
            parallel::map(pools.len(), args.jobs.get(), build).into_iter().collect::<Result<Vec<_>>>()?;
        let least = made.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
        let contestant = Self {
            scratch: SelectScratch::new(&params, shape.group, coded.len(), coded.len()),
            lut: QueryTables::new(params.shape, shape.group),
            scores: vec![0; shape.group * coded.len()],
            indexes: made.into_iter().map(|(index, _)| index).collect(),
            tables: Vec::new(),
            scan: Vec::new(),
            steps: vec![Vec::new(); args.budget.0.len()],
        };
        Ok((contestant, least))
    }

    /// A pass over the tables and the scan alone.
    fn pieces(&mut self, pools: &[Pool], shape: &Shape, pass: usize) -> Result<()> {
        let (mut tables, mut scans) = (0.0, 0.0);
        for (pool, index) in pools.iter().zip(&self.indexes) {
            let codebook = index.codebook().context("the index is trained")?;
            let start = Instant::now();
            self.lut.fill(codebook, pool.queries(shape, pass))?;
            let middle = Instant::now();
            scan(&self.lut, index.codes(), 0..index.len(), &mut self.scores)?;
            black_box(&*self.scores);
            scans += middle.elapsed().as_secs_f64();
            tables += (middle - start).as_secs_f64();
        }
        self.tables.push(tables);
        self.scan.push(scans);
        Ok(())
    }
}

/// Attention and where it puts its results.
struct Attending {
    context: usize,
    /// Tokens that may be chosen.
    coded: Range<usize>,
    decode: Decode,
    out: Vec<f32>,
    lse: Vec<f32>,
    chosen: Vec<u32>,
}

impl Attending {
    fn finish(&mut self) -> Result<()> {
        self.decode.finish(&mut self.out, &mut self.lse)?;
        black_box(&*self.out);
        Ok(())
    }

    /// A pass over all tokens of all heads.
    fn all(&mut self, pools: &[Pool], shape: &Shape, pass: usize) -> Result<f64> {
        let mut seconds = 0.0;
        for pool in pools {
            let (keys, values) = pool.rows(shape, self.context)?;
            let q = pool.queries(shape, pass);
            let start = Instant::now();
            self.decode.reset();
            self.decode.add(q, shape.scale, &keys, &values, Tokens::Range(0..self.context))?;
            self.finish()?;
            seconds += start.elapsed().as_secs_f64();
        }
        Ok(seconds)
    }

    /// A pass over `k` chosen tokens of all heads: seconds of choosing, of attending.
    fn chosen(
        &mut self,
        pools: &[Pool],
        shape: &Shape,
        pass: usize,
        k: usize,
        (indexes, scratch): (&[PqIndex], &mut SelectScratch),
    ) -> Result<(f64, f64)> {
        let (mut choose, mut attend) = (0.0, 0.0);
        let (first, recent) = (u32::try_from(self.coded.start)?, self.coded.end..self.context);
        for (pool, index) in pools.iter().zip(indexes) {
            let (keys, values) = pool.rows(shape, self.context)?;
            let q = pool.queries(shape, pass);
            let start = Instant::now();
            let n = index.select(q, shape.scale, &mut self.chosen[..k], scratch)?;
            self.chosen[..n].iter_mut().for_each(|t| *t += first);
            let middle = Instant::now();
            self.decode.reset();
            self.decode.add(q, shape.scale, &keys, &values, Tokens::Range(0..self.coded.start))?;
            self.decode.add(q, shape.scale, &keys, &values, Tokens::List(&self.chosen[..n]))?;
            self.decode.add(q, shape.scale, &keys, &values, Tokens::Range(recent.clone()))?;
            self.finish()?;
            attend += middle.elapsed().as_secs_f64();
            choose += (middle - start).as_secs_f64();
        }
        Ok((choose, attend))
    }
}

/// Measures all indexes at one context and adds their lines.
fn measure(
    pools: &[Pool],
    shape: &Shape,
    context: usize,
    indexes: &[(Spec, Pq)],
    args: &SelectBenchArgs,
    rows: &mut Vec<Row>,
    built: &mut Vec<Built>,
) -> Result<()> {
    let coded = args.sinks..context - args.recent.get();
    let mut contestants = Vec::new();
    for (selector, pq) in indexes {
        let made = Contestant::new(pools, shape, &coded, *pq, args);
        let (contestant, seconds) = made.with_context(|| selector.to_string())?;
        built.push(Built {
            selector: *selector,
            context,
            bits: pq.bits(shape.head_dim, 0.0),
            seconds,
            bytes: contestant.indexes.iter().map(PqIndex::heap_bytes).sum::<usize>() / pools.len(),
        });
        contestants.push(contestant);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a number of tokens"
    )]
    let ks: Vec<usize> = args.budget.0.iter().map(|b| (b * context as f64 + 1e-9) as usize).collect();
    let mut attending = Attending {
        context,
        coded,
        decode: Decode::new(shape.group, shape.value_dim)?,
        out: vec![0.0; shape.group * shape.value_dim],
        lse: vec![0.0; shape.group],
        chosen: vec![0; context],
    };
    let mut dense = Vec::new();
    let started = Instant::now();
    // The first pass warms up.
    while dense.len() <= PASSES || started.elapsed().as_secs_f64() < args.seconds {
        let pass = dense.len();
        dense.push(attending.all(pools, shape, pass)?);
        for contestant in &mut contestants {
            contestant.pieces(pools, shape, pass)?;
            for (&k, steps) in ks.iter().zip(&mut contestant.steps) {
                let index = (&*contestant.indexes, &mut contestant.scratch);
                steps.push(attending.chosen(pools, shape, pass, k, index)?);
            }
        }
    }
    let per_step = 1.0 / pools.len() as f64;
    let best = |passes: &[f64]| passes[1..].iter().copied().fold(f64::INFINITY, f64::min) * per_step;
    for ((selector, _), contestant) in indexes.iter().zip(&contestants) {
        for ((&budget, &k), passes) in args.budget.0.iter().zip(&ks).zip(&contestant.steps) {
            let mut passes = passes[1..].to_vec();
            passes.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
            let (choose, attend) = passes[0];
            let median = passes[passes.len() / 2];
            let (tables, scan) = (best(&contestant.tables), best(&contestant.scan));
            let times = Times {
                tables,
                scan,
                // The parts were timed apart from the whole, so they may come out a little longer.
                choose: (choose * per_step - tables - scan).max(0.0),
                attend: attend * per_step,
                step: (choose + attend) * per_step,
                dense: best(&dense),
                spread: (median.0 + median.1) / (choose + attend) - 1.0,
            };
            rows.push(Row { selector: *selector, context, budget, k, times });
        }
    }
    Ok(())
}

fn us(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

fn tables(about: &str, contexts: &[usize], rows: &[Row], built: &[Built], shape: &Shape) -> String {
    let mut text = format!("{about}\nmicroseconds for a step of one kv head\n");
    for &context in contexts {
        let here = || rows.iter().filter(|r| r.context == context);
        let dense = here().next().map_or(f64::NAN, |r| r.times.dense);
        let row_bytes = [(shape.keys, shape.head_dim), (shape.values, shape.value_dim)]
            .iter()
            .map(|(t, dim)| t.bytes_for(*dim).unwrap_or(0))
            .sum::<usize>();
        text += &format!(
            "\n{context} tokens: dense {} us, {:.1} GB/s\n",
            us(dense),
            (context * row_bytes) as f64 / dense / 1e9
        );
        let mut table = Table::new(&[
            "selector", "budget", "tokens", "tables", "scan", "choose", "attend", "step", "x dense", "spread",
        ]);
        for row in here() {
            let t = &row.times;
            table.row([
                row.selector.to_string(),
                row.budget.to_string(),
                row.k.to_string(),
                us(t.tables),
                us(t.scan),
                us(t.choose),
                us(t.attend),
                us(t.step),
                format!("{:.2}", t.dense / t.step),
                format!("{:.0}%", 100.0 * t.spread),
            ]);
        }
        text += &table.to_string();
        for index in built.iter().filter(|b| b.context == context) {
            text += &format!(
                "{}: {} bits a key, {:.1} bytes a token with codebooks, made in {:.1} ms a head\n",
                index.selector,
                index.bits,
                index.bytes as f64 / context as f64,
                index.seconds * 1e3
            );
        }
    }
    text
}

impl Row {
    fn to_json(&self) -> Value {
        let t = &self.times;
        json!({
            "selector": self.selector.to_string(),
            "context": self.context,
            "budget": self.budget,
            "k": self.k,
            "tables_us": t.tables * 1e6,
            "scan_us": t.scan * 1e6,
            "choose_us": t.choose * 1e6,
            "attend_us": t.attend * 1e6,
            "step_us": t.step * 1e6,
            "dense_us": t.dense * 1e6,
            "speedup": t.dense / t.step,
            "spread": t.spread,
        })
    }
}

impl Built {
    fn to_json(&self) -> Value {
        json!({
            "selector": self.selector.to_string(),
            "context": self.context,
            "index_bits": self.bits,
            "bytes_a_head": self.bytes,
            "build_ms": self.seconds * 1e3,
        })
    }
}

fn plot(about: &str, rows: &[Row]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |label: String, family: usize, x: usize, y: f64| {
        let point = (x as f64, y * 1e6);
        match lines.iter_mut().find(|l| l.label == label) {
            Some(line) if line.points.iter().any(|p| p.0 == point.0) => {}
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, family, points: vec![point] }),
        }
    };
    for row in rows {
        add("dense".into(), 0, row.context, row.times.dense);
        let family = if matches!(row.selector, Spec::Pq(Pq::Preset(_))) { 2 } else { 1 };
        add(format!("{} {}", row.selector, row.budget), family, row.context, row.times.step);
    }
    svg(&Lines {
        title: "A decode step of one kv head",
        subtitle: about,
        x_label: "tokens",
        y_label: "microseconds",
        families: &["all tokens", "plain index", "preset"],
        lines: &lines,
    })
}
