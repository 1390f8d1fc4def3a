//! Steps of all contestants: each takes its turn, pass after pass over all heads.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tersa_core::attention::{Decode, Tokens};
use tersa_core::kv::PqIndex;
use tersa_core::kv::index::{EncodeScratch, SelectScratch};
use tersa_core::pq::{QueryTables, scan};

use super::SelectBenchArgs;
use super::pool::{Pool, Shape};
use super::report::{Built, Row, Times};
use crate::parallel;
use crate::selection::{Pq, Selector as _, Spec};

/// Passes over all heads, at least.
const PASSES: usize = 7;

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
pub(super) fn measure(
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
