//! `tersa bench select`: a decode step that attends to chosen tokens, next to one that attends to all.
//!
//! A step is that of one kv head with the query heads of its group, on one core. All contestants take turns, pass after
//! pass over all heads, so that rows are as cold as the dump is large.
//!
//! | file | idea |
//! |---|---|
//! | `pool` | rows and queries of the heads, the dump's own or drawn from them |
//! | `step` | steps of all contestants, timed |
//! | `report` | tables, JSON, the plot |

mod pool;
mod report;
mod step;

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use tersa_core::cpu;

use super::{NOISY, choose_layers, say, seconds, source_name};
use crate::args::{DumpArgs, IndexSet, JobsArgs, count};
use crate::exit::Fault;
use crate::report::runs;
use crate::selection::{Budgets, GroupRule, Pq, Spec, Specs};
use pool::pools;
use report::{Built, Row, plot, tables};
use step::measure;

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
