//! `tersa eval`: what compressed keys and values, or attention to chosen tokens only, do to attention outputs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tersa_core::format::Kind as StoredKind;

use crate::archive::{Archive, Pick};
use crate::args::{DumpArgs, IndexSet, JobsArgs, count};
use crate::attention::{GroupQueries, OutputErrors, Reference, mean_and_p95};
use crate::coding::Scratch;
use crate::dump::{Dump, Queries};
use crate::exit::Fault;
use crate::files::FileBytes;
use crate::heads::{self, Keys, Layer};
use crate::parallel;
use crate::report::{Table, error};
use crate::selection::{Budgets, GroupRule, Specs, When};

/// `tersa eval`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
For each captured query q of each query head, o = softmax(q k^T scale) v over the \
tokens at or before its own. The error of a head's output is |o' - o| / |o| with o' \
from decompressed keys (K only), values (V only) or both. Reported are the mean and the \
95th percentile over queries and heads, and the largest difference of a score \
q k^T scale.

Queries are [q_heads][n_queries][head_dim], after RoPE, not scaled (tensors q.L0, q.L1, \
... beside the keys); the last one belongs to the last token. Query head h asks kv head \
h / (q_heads / kv_heads). The scale is the dump's metadata `scale`, else \
1/sqrt(head_dim).

With --select nothing is compressed: each query attends the sinks, the most recent \
tokens and a budget of others, which each selector chooses. Budgets are parts of all \
tokens. Reported are the bits that a selector reads for a key to choose, the recall of \
the best tokens by true score, the share of the attention mass that is kept, and the \
error of the output; with one set for each kv head, as a kernel reads it that shares rows \
among its query heads, and with one for each query head. Indexes are trained on what \
comes before the tested queries.

Selectors: exact (true scores), exact-v (times the length of the value), quest[:PAGE] \
(bounds of pages of 16 tokens), sparq:R (R channels of the keys), snapkv, h2o, recent, \
random; product quantization pq:{m}x{4,6,8}, with a second level of 2 to 4 bits \
pq:{m}x{4,6,8}+r{2,3,4}; its presets paper-longbench (2x6), paper-infinitebench (4x8), \
skylight and default; or all.

Examples:
  tersa eval kv.tersa --against kv.safetensors
  tersa eval kv.tersa --against kv.safetensors --queries q.safetensors --json
  tersa eval kv.tersa --against kv.safetensors --layers 0-9 --last-queries 256
  tersa eval kv.safetensors --select all
  tersa eval kv.safetensors --select exact,quest,default --budget 0.1 --plot loss.svg
  tersa eval kv.safetensors --select default --prefill 512 --refresh never")]
pub struct EvalArgs {
    /// A .tersa file; with --select a dump
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The dump it was made from
    #[arg(long, value_name = "ORIG", required_unless_present = "select", conflicts_with = "select")]
    pub against: Option<PathBuf>,
    /// A dump with queries, if the dump carries none
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Use the last N captured queries of each head
    #[arg(long, value_name = "N", default_value = "64", value_parser = count)]
    pub last_queries: NonZeroUsize,
    /// Tokens that a query sees, for sliding-window layers [default: all]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub window: Option<NonZeroUsize>,
    /// Only these layers, e.g. 0-3,7
    #[arg(long, value_name = "LIST")]
    pub layers: Option<IndexSet>,
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub select: SelectionArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub dump: DumpArgs,
}

/// Attention to chosen tokens only.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Attention to chosen tokens")]
pub struct SelectionArgs {
    /// Selectors to compare, with commas between them, or all (see below)
    #[arg(long, value_name = "LIST")]
    pub select: Option<Specs>,
    /// Tokens to choose, as parts of all
    #[arg(long, value_name = "LIST", default_value = "0.2,0.1,0.03,0.01", conflicts_with = "against")]
    pub budget: Budgets,
    /// Always attend the first N tokens
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "against")]
    pub sinks: usize,
    /// Always attend the last N tokens, the query's own included
    #[arg(long, value_name = "N", default_value = "64", value_parser = count, conflicts_with = "against")]
    pub recent: NonZeroUsize,
    /// How the query heads of a group agree on one set
    #[arg(long, value_enum, value_name = "RULE", default_value = "softmax-sum", conflicts_with = "against")]
    pub group_rule: GroupRule,
    /// Train indexes on the first N tokens and append the others one by one [default: on all before the tested queries]
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "against")]
    pub prefill: Option<NonZeroUsize>,
    /// When to build indexes anew as tokens are appended: preset, never, growth:SHARE, drift[:RATIO]
    #[arg(long, value_name = "WHEN", default_value = "preset", conflicts_with = "against")]
    pub refresh: When,
    /// Seed of what is random
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "against")]
    pub seed: u64,
    /// Draw error against budget as SVG
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub plot: Option<PathBuf>,
}

/// One head of one layer, to be measured by whichever thread is free.
struct Task<'a> {
    layer: Layer,
    queries: &'a Queries,
    head: usize,
    /// Indices of the layer's streams in the archive.
    k: usize,
    v: usize,
}

/// Runs the verb.
///
/// # Errors
/// If a file cannot be read, does not belong to the dump, or there are no queries.
pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some(specs) = &args.select.select {
        return crate::selection::run(args, specs);
    }
    let Some(against) = &args.against else { return Err(Fault::usage("name the dump with --against")) };
    let archive = Archive::open(&args.input)?;
    let options = args.dump.open_options();
    let dump = crate::dump::open(std::slice::from_ref(against), &options)?;
    let other = args.queries.as_ref().map(|path| crate::dump::open(std::slice::from_ref(path), &options));
    let asking = other.transpose()?;
    let asking = asking.as_ref().unwrap_or(&dump);
    mention_window(asking, args.window)?;
    let tasks = tasks(&archive, &dump, asking, args)?;
    let layers = measure(&archive, &dump, asking, &tasks, args)?;
    let mut overall = OutputErrors::default();
    layers.values().for_each(|errors| overall.merge(errors));
    let text = if args.json {
        let named: Vec<Value> = layers
            .iter()
            .map(|((part, layer), e)| {
                let mut line = to_json(e);
                line["part"] = json!(part);
                line["layer"] = json!(layer);
                line
            })
            .collect();
        serde_json::to_string_pretty(&json!({ "layers": named, "overall": to_json(&overall) }))? + "\n"
    } else {
        table(&layers, &overall).to_string()
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

/// Says that a dump's window is not applied, unless the user gave one.
pub(crate) fn mention_window(dump: &Dump, given: Option<NonZeroUsize>) -> Result<()> {
    if let (None, Some(window)) = (given, dump.meta.get("window")) {
        writeln!(
            std::io::stderr(),
            "note: the dump mentions a window ({window}); all layers are taken to see every token"
        )?;
    }
    Ok(())
}

fn tasks<'a>(
    archive: &Archive<FileBytes>,
    dump: &Dump,
    asking: &'a Dump,
    args: &EvalArgs,
) -> Result<Vec<Task<'a>>> {
    if asking.queries.is_empty() {
        return Err(Fault::usage(
            "no queries: name a dump that holds them (tensors q.L0, q.L1, ...) with --queries",
        ));
    }
    let mut tasks = Vec::new();
    let wanted = |l: &Layer| args.layers.as_ref().is_none_or(|set| set.contains(l.layer as usize));
    for layer in heads::layers(dump).into_iter().filter(wanted) {
        let Some(queries) = asking.queries.iter().find(|q| q.layer == layer.layer) else { continue };
        let stored = |kind, stream: usize| -> Result<Option<usize>> {
            let Some(found) = archive.reader.find(layer.part, layer.layer, kind) else { return Ok(None) };
            let (original, stored) = (dump.streams[stream].shape, archive.reader.streams()[found].shape);
            ensure!(
                original == stored,
                "layer {}: {} holds {} tokens x {} heads x {} {}, the original {} x {} x {} {}: eval compares whole layers, packed without --tokens and --heads",
                layer.layer,
                archive.name(),
                stored.n_tokens,
                stored.n_kv_heads,
                stored.head_dim,
                stored.dtype,
                original.n_tokens,
                original.n_kv_heads,
                original.head_dim,
                original.dtype
            );
            Ok(Some(found))
        };
        if let (Some(k), Some(v)) = (stored(StoredKind::K, layer.k)?, stored(StoredKind::V, layer.v)?) {
            let (keys, values) = (dump.streams[layer.k].shape, dump.streams[layer.v].shape);
            ensure!(
                (keys.n_tokens, keys.n_kv_heads) == (values.n_tokens, values.n_kv_heads),
                "layer {}: keys and values have different numbers of tokens or heads",
                layer.layer
            );
            tasks.extend((0..keys.n_kv_heads).map(|head| Task { layer, queries, head, k, v }));
        }
    }
    if tasks.is_empty() {
        return Err(Fault::usage("no layer is left that has keys, values and queries in these files"));
    }
    Ok(tasks)
}

/// Errors by (part, layer), heads merged in order, so that they do not depend on the threads.
fn measure(
    archive: &Archive<FileBytes>,
    dump: &Dump,
    asking: &Dump,
    tasks: &[Task<'_>],
    args: &EvalArgs,
) -> Result<BTreeMap<(u32, u32), OutputErrors>> {
    let results = parallel::map(tasks.len(), args.jobs.get(), |i| {
        measure_head(archive, dump, asking, &tasks[i], args, &mut Scratch::new())
    });
    let mut layers: BTreeMap<(u32, u32), OutputErrors> = BTreeMap::new();
    for (task, errors) in tasks.iter().zip(results) {
        let Layer { part, layer, .. } = task.layer;
        layers.entry((part, layer)).or_default().merge(&errors?);
    }
    Ok(layers)
}

fn measure_head(
    archive: &Archive<FileBytes>,
    dump: &Dump,
    asking: &Dump,
    task: &Task<'_>,
    args: &EvalArgs,
    scratch: &mut Scratch,
) -> Result<OutputErrors> {
    let stream = &dump.streams[task.layer.k];
    if let Some(positions) = &stream.positions {
        ensure!(
            positions.is_sorted(),
            "layer {}: rows are not in the order of positions, so queries cannot be matched with them",
            task.layer.layer
        );
    }
    let shape = stream.shape;
    let keys = Keys { n_tokens: shape.n_tokens, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim };
    let queries = heads::queries(asking, task.queries, &keys, args.last_queries.get())?;
    let group = GroupQueries {
        rows: &queries.by_kv_head[task.head],
        n_queries: queries.n_queries,
        head_dim: shape.head_dim,
        window: args.window.map_or(shape.n_tokens, NonZeroUsize::get),
        scale: heads::scale(asking, shape.head_dim)?,
    };
    let v = heads::rows(dump, task.layer.v, task.head)?;
    let reference = Reference::new(group, &heads::rows(dump, task.layer.k, task.head)?, &v);
    let k2 = decoded(archive, task.k, task.head, scratch)?;
    let v2 = decoded(archive, task.v, task.head, scratch)?;
    Ok(reference.compare(&k2, &v2))
}

/// All rows of one head of an archive's stream.
fn decoded(
    archive: &Archive<FileBytes>,
    stream: usize,
    head: usize,
    scratch: &mut Scratch,
) -> Result<Vec<f32>> {
    let info = archive.reader.streams()[stream];
    let pick = Pick { stream, heads: vec![head], tokens: 0..info.shape.n_tokens };
    let open = archive.open_stream(pick)?;
    let (mut bytes, mut payload, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in 0..open.index.chunks().len() {
        archive.decode_chunk(&open, chunk, &mut payload, &mut rows, scratch)?;
        bytes.extend_from_slice(&rows);
    }
    heads::widen(info.shape.dtype, info.shape.head_dim, info.hadamard, &bytes)
}

fn to_json(e: &OutputErrors) -> Value {
    let both = |errors: &[f64]| {
        let (mean, p95) = mean_and_p95(errors);
        json!({ "mean": mean, "p95": p95 })
    };
    json!({
        "outputs": e.both.len(),
        "k_only": both(&e.k),
        "v_only": both(&e.v),
        "both": both(&e.both),
        "max_logit_error": e.max_logit,
    })
}

fn table(layers: &BTreeMap<(u32, u32), OutputErrors>, overall: &OutputErrors) -> Table {
    let mut table =
        Table::new(&["layer", "K only", "p95", "V only", "p95", "both", "p95", "max logit error"]);
    let parts = layers.keys().any(|(part, _)| *part != 0);
    let mut line = |name: String, e: &OutputErrors| {
        let errors = [&e.k, &e.v, &e.both].map(|errors| mean_and_p95(errors));
        let cells = errors.into_iter().flat_map(|(mean, p95)| [error(mean), error(p95)]);
        table.row([name].into_iter().chain(cells).chain([format!("{:.3}", e.max_logit)]));
    };
    for ((part, layer), errors) in layers {
        line(if parts { format!("{part}/{layer}") } else { layer.to_string() }, errors);
    }
    line("all".into(), overall);
    table
}
