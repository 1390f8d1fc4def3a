//! `tersa eval --select`: what attention loses when it reads a part of the tokens only, by who chooses them.
//!
//! | file | idea |
//! |---|---|
//! | `spec` | names of selectors, budgets |
//! | `head` | one kv head with its queries; full attention and what a part of it keeps |
//! | `choice` | from scores to sets |
//! | `peers` | selectors of others |
//! | `pq` | the core's index |
//! | `report` | tables, JSON, the plot |

mod choice;
mod head;
mod peers;
mod pq;
mod report;
mod spec;

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};

pub use head::GroupRule;
pub(crate) use pq::Pq;
pub(crate) use spec::Spec;
pub use spec::{Budgets, Specs, When};

use crate::dump::{Dump, Queries};
use crate::eval::EvalArgs;
use crate::exit::Fault;
use crate::heads::{self, Keys, Layer};
use crate::parallel;
use crate::progress::Progress;
use choice::{Choice, Upkeep};
use head::{Head, Kept, Setting, Truth};

/// Who chooses tokens.
pub(crate) trait Selector: Sync {
    /// Bits that are read for a key and a step to choose, in a cache of numbers of `value_bits` bits; codebooks and
    /// tables not counted.
    fn bits(&self, head_dim: usize, value_bits: f64) -> f64;

    /// The tokens that each tested query attends besides those it always does, for every budget.
    fn choose(&self, head: &Head<'_>, truth: &Truth) -> Result<Choice>;
}

/// What a selector keeps, over queries and heads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    recall: Vec<f64>,
    mass: Vec<f64>,
    error: Vec<f64>,
}

impl Measured {
    fn add(&mut self, recall: f64, kept: Kept) {
        self.recall.push(recall);
        self.mass.push(kept.mass);
        self.error.push(kept.error);
    }

    fn merge(&mut self, other: &Self) {
        self.recall.extend(&other.recall);
        self.mass.extend(&other.mass);
        self.error.extend(&other.error);
    }
}

/// A selector at one budget: one set for the group, and one for each query head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    shared: Measured,
    single: Measured,
}

/// Everything measured of one selector.
pub(crate) struct Row {
    spec: Spec,
    bits: f64,
    /// `[layer][budget]`.
    layers: Vec<Vec<Cell>>,
    upkeep: Upkeep,
}

/// What was measured, and how.
pub(crate) struct Report {
    source: String,
    /// Numbers of the layers.
    layers: Vec<u32>,
    n_tokens: usize,
    n_kv_heads: usize,
    group: usize,
    head_dim: usize,
    dtype: &'static str,
    /// Tested queries of a query head.
    n_queries: usize,
    budgets: Vec<f64>,
    setting: Setting,
    rows: Vec<Row>,
}

/// One kv head, to be measured by whichever thread is free.
struct Task<'a> {
    layer: Layer,
    /// Where the layer stands among the measured ones.
    at: usize,
    queries: &'a Queries,
    head: usize,
}

/// Runs `tersa eval --select`.
///
/// # Errors
/// If the dump cannot be read, holds no queries, or no selector could be measured.
pub(crate) fn run(args: &EvalArgs, specs: &Specs) -> Result<()> {
    let options = args.dump.open_options();
    let dump = crate::dump::open(std::slice::from_ref(&args.input), &options)?;
    let other = args.queries.as_ref().map(|path| crate::dump::open(std::slice::from_ref(path), &options));
    let asking = other.transpose()?;
    let asking = asking.as_ref().unwrap_or(&dump);
    crate::eval::mention_window(asking, args.window)?;
    let tasks = tasks(&dump, asking, args)?;
    let report = measure(&dump, asking, &tasks, args, specs)?;
    if let Some(path) = &args.select.plot {
        std::fs::write(path, report.svg())
            .with_context(|| format!("{}: cannot write the plot", path.display()))?;
    }
    let text =
        if args.json { serde_json::to_string_pretty(&report.to_json())? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn tasks<'a>(dump: &Dump, asking: &'a Dump, args: &EvalArgs) -> Result<Vec<Task<'a>>> {
    if asking.queries.is_empty() {
        return Err(Fault::usage(
            "no queries: name a dump that holds them (tensors q.L0, q.L1, ...) with --queries",
        ));
    }
    let mut tasks = Vec::new();
    let mut at = 0;
    let wanted = |l: &Layer| args.layers.as_ref().is_none_or(|set| set.contains(l.layer as usize));
    for layer in heads::layers(dump).into_iter().filter(wanted) {
        let Some(queries) = asking.queries.iter().find(|q| q.layer == layer.layer) else { continue };
        let (keys, values) = (dump.streams[layer.k].shape, dump.streams[layer.v].shape);
        ensure!(
            (keys.n_tokens, keys.n_kv_heads) == (values.n_tokens, values.n_kv_heads),
            "layer {}: keys and values have different numbers of tokens or heads",
            layer.layer
        );
        ensure!(
            dump.streams[layer.k].positions.as_ref().is_none_or(|p| p.is_sorted()),
            "layer {}: rows are not in the order of positions, so queries cannot be matched with them",
            layer.layer
        );
        tasks.extend((0..keys.n_kv_heads).map(|head| Task { layer, at, queries, head }));
        at += 1;
    }
    if tasks.is_empty() {
        return Err(Fault::usage("no layer is left that has keys, values and queries"));
    }
    Ok(tasks)
}

/// What each selector keeps of one head at each budget, or why it could not be measured.
type HeadCells = Vec<Result<(Vec<Cell>, Upkeep)>>;

fn measure(dump: &Dump, asking: &Dump, tasks: &[Task<'_>], args: &EvalArgs, specs: &Specs) -> Result<Report> {
    let first = dump.streams[tasks[0].layer.k].shape;
    let window = args.window.map_or(first.n_tokens, NonZeroUsize::get);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a number of tokens"
    )]
    let k = |budget: &f64| (budget * first.n_tokens.min(window) as f64 + 1e-9) as usize;
    let setting = Setting {
        sinks: args.select.sinks,
        recent: args.select.recent.get(),
        window,
        ks: args.select.budget.0.iter().map(k).collect(),
        rule: args.select.group_rule,
        seed: args.select.seed,
        prefill: args.select.prefill.map(NonZeroUsize::get),
        refresh: args.select.refresh.0,
    };
    let selectors: Vec<Box<dyn Selector>> = specs.0.iter().map(|s| s.selector()).collect();
    let bytes = |t: &Task<'_>| -> u64 {
        [t.layer.k, t.layer.v]
            .iter()
            .map(|s| dump.streams[*s].shape)
            .map(|s| (s.n_tokens * s.row_bytes()) as u64)
            .sum()
    };
    let progress = Mutex::new(Progress::new("selecting", tasks.iter().map(bytes).sum(), false));
    let results = parallel::map(tasks.len(), args.jobs.get(), |i| {
        let cells = measure_head(dump, asking, &tasks[i], args, &setting, &selectors);
        progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(bytes(&tasks[i]));
        cells
    });
    drop(progress);
    let numbers: Vec<u32> = {
        let mut numbers: Vec<u32> = tasks.iter().map(|t| t.layer.layer).collect();
        numbers.dedup();
        numbers
    };
    let mut rows: Vec<Option<Row>> = specs
        .0
        .iter()
        .zip(&selectors)
        .map(|(spec, selector)| {
            let bits = selector.bits(first.head_dim, 8.0 * first.row_bytes() as f64 / first.head_dim as f64);
            Some(Row {
                spec: *spec,
                bits,
                layers: vec![vec![Cell::default(); setting.ks.len()]; numbers.len()],
                upkeep: Upkeep::default(),
            })
        })
        .collect();
    // Heads are merged in the dump's order, so that nothing depends on the threads.
    for (task, cells) in tasks.iter().zip(results) {
        let at = task.at;
        for (row, cells) in rows.iter_mut().zip(cells?) {
            let Some(open) = row else { continue };
            match cells {
                Ok((cells, upkeep)) => {
                    open.upkeep.merge(upkeep);
                    for (all, cell) in open.layers[at].iter_mut().zip(cells) {
                        all.shared.merge(&cell.shared);
                        all.single.merge(&cell.single);
                    }
                }
                Err(why) => {
                    let layer = task.layer.layer;
                    writeln!(std::io::stderr(), "{}: left out: layer {layer}: {why:#}", open.spec)?;
                    *row = None;
                }
            }
        }
    }
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    ensure!(!rows.is_empty(), "no selector could be measured");
    let [q_heads, captured, _] = tasks[0].queries.shape;
    Ok(Report {
        source: crate::bench::source_name(dump),
        layers: numbers,
        n_tokens: first.n_tokens,
        n_kv_heads: first.n_kv_heads,
        group: q_heads / first.n_kv_heads,
        head_dim: first.head_dim,
        dtype: first.dtype.name(),
        n_queries: captured.min(args.last_queries.get()),
        budgets: args.select.budget.0.clone(),
        setting,
        rows,
    })
}

fn measure_head(
    dump: &Dump,
    asking: &Dump,
    task: &Task<'_>,
    args: &EvalArgs,
    setting: &Setting,
    selectors: &[Box<dyn Selector>],
) -> Result<HeadCells> {
    let shape = dump.streams[task.layer.k].shape;
    let keys = Keys { n_tokens: shape.n_tokens, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim };
    let captured = heads::queries(asking, task.queries, &keys, usize::MAX)?;
    let rows = &captured.by_kv_head[task.head];
    let (d, all) = (shape.head_dim, captured.n_queries);
    let n_queries = all.min(args.last_queries.get());
    let (mut before, mut queries) = (Vec::new(), Vec::new());
    for head in rows.chunks_exact(all * d) {
        let (earlier, tested) = head.split_at((all - n_queries) * d);
        before.extend_from_slice(earlier);
        queries.extend_from_slice(tested);
    }
    let (k, v) = (heads::rows(dump, task.layer.k, task.head)?, heads::rows(dump, task.layer.v, task.head)?);
    ensure!(
        setting.prefill.is_none_or(|n| n <= shape.n_tokens - n_queries),
        "--prefill: the last {n_queries} of {} tokens are tested, so that at most {} can be trained on",
        shape.n_tokens,
        shape.n_tokens - n_queries
    );
    let head = Head {
        keys: &k,
        values: &v,
        n_tokens: shape.n_tokens,
        head_dim: d,
        group: rows.len() / (all * d),
        n_queries,
        queries: &queries,
        n_before: all - n_queries,
        before: &before,
        scale: heads::scale(asking, d)?,
        number: u64::from(task.layer.part) << 48 | u64::from(task.layer.layer) << 24 | task.head as u64,
        setting,
    };
    let truth = head.truth();
    let exact = Choice::by_scores(&head, &truth.logits);
    let always: Vec<_> = (0..head.group * n_queries).map(|row| truth.always(&head, row)).collect();
    let cells = |selector: &dyn Selector| -> Result<(Vec<Cell>, Upkeep)> {
        let choice = selector.choose(&head, &truth)?;
        let measure = |budget: usize| {
            let mut cell = Cell::default();
            for (row, always) in always.iter().enumerate() {
                let one = |into: &mut Measured, chosen: &[u32], best: &[u32]| {
                    into.add(recall(chosen, best), truth.kept(&head, row, always, chosen));
                };
                let j = row % n_queries;
                one(&mut cell.shared, &choice.shared[budget][j], &exact.shared[budget][j]);
                one(&mut cell.single, &choice.single[budget][row], &exact.single[budget][row]);
            }
            cell
        };
        Ok(((0..setting.ks.len()).map(measure).collect(), choice.upkeep))
    };
    Ok(selectors.iter().map(|s| cells(&**s)).collect())
}

/// Share of `best` that is in `chosen`, both ascending; 1 if there is nothing to find.
fn recall(chosen: &[u32], best: &[u32]) -> f64 {
    if best.is_empty() {
        return 1.0;
    }
    let mut found = 0;
    let mut chosen = chosen.iter().peekable();
    for token in best {
        while chosen.next_if(|t| *t < token).is_some() {}
        found += usize::from(chosen.next_if(|t| *t == token).is_some());
    }
    found as f64 / best.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_what_was_found() {
        assert_eq!(recall(&[], &[]), 1.0);
        assert_eq!(recall(&[], &[1]), 0.0);
        assert_eq!(recall(&[1, 3, 5, 7], &[0, 1, 5, 9]), 0.5);
        assert_eq!(recall(&[2, 4], &[2, 4]), 1.0);
    }
}
