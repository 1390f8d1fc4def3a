//! One sparse decode step of one KV head (tables, scan, select, gather, attend) against dense attention over the same rows,
//! both memory-cold: the steps rotate through more rows than any cache holds.
//!
//! `cargo bench -p tersa-core --bench decode_step [-- [PRESET]... GIB [CONTEXT]...]` (both presets, 1.6 GiB of rows and 8192 32768 131072 unless said
//! otherwise). Times are first quartiles of at least one round, dense and sparse steps taking turns; `TERSA_CPU` lowers the level.
#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes far below 2^53")]

use std::time::{Duration, Instant};
use tersa_core::attention::{Decode, Tokens};
use tersa_core::cpu::{self, Level};
use tersa_core::kv::{Extent, HeadCache, HeadScratch, LayerShape, PqCache, PqConfig, Preset};
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::num::{DType, convert};

const D: usize = 128;
const BUDGETS: [f64; 4] = [0.2, 0.1, 0.05, 0.02];

/// Key-like rows `[n][D]` of `f16`: 32 clusters, a slow walk, noise, a few wide channels.
fn rows(n: usize, seed: u64) -> Vec<u8> {
    let mut rng = Xoshiro256pp::new(seed);
    let mut uniform = move || (rng.f64() * 2.0 - 1.0) as f32;
    let centres: Vec<f32> = (0..32 * D).map(|_| uniform()).collect();
    let mut walk = vec![0.0; D];
    let mut row = vec![0.0; D];
    let mut out = vec![0; n * D * 2];
    for (t, out) in out.chunks_exact_mut(2 * D).enumerate() {
        let centre = &centres[t * 7919 % 32 * D..][..D];
        for i in 0..D {
            walk[i] = 0.99 * walk[i] + 0.1 * uniform();
            let wide = if i % 40 == 0 { 6.0 } else { 1.0 };
            row[i] = wide * (centre[i] + walk[i] + 0.5 * uniform());
        }
        convert::from_f32(DType::F16, &row, out).expect("finite");
    }
    out
}

fn queries(group: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..group * D).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

const fn layer(group: usize) -> LayerShape {
    LayerShape { n_kv_heads: 1, group, dim_v: D, keys: DType::F16, values: DType::F16 }
}

struct Bench {
    heads: Vec<HeadCache>,
    scratch: HeadScratch,
    decode: Decode,
    group: usize,
    at: usize,
}

impl Bench {
    /// As many heads of `n` tokens as fill `bytes` of rows, all with the same rows, each with memory of its own.
    fn new(config: &PqConfig, n: usize, bytes: usize) -> Self {
        let shape = layer(1);
        let mut cache = PqCache::new(config, shape).expect("a sound configuration");
        let mut scratch = cache.scratch(n + 4096).expect("a sound configuration");
        let (keys, values) = (rows(n, 1), rows(n, 2));
        cache.prefill(&keys, &values, &queries(1024, 5), &mut scratch).expect("finite rows");
        let index = cache.heads()[0].index_bytes();
        let copies = (bytes / (n * D * 4)).max(3);
        let mut heads = Vec::new();
        for _ in 0..copies {
            let mut head = PqCache::new(config, shape).expect("as before").heads()[0].clone();
            head.restore(&keys, &values, &index).expect("its own index");
            heads.push(head);
        }
        Self { heads, scratch, decode: Decode::new(1, D).expect("heads"), group: 1, at: 0 }
    }

    fn set(&mut self, config: &PqConfig, group: usize, budget: usize) {
        let n = self.heads[0].len();
        self.group = group;
        self.decode = Decode::new(group, D).expect("heads");
        let cache = PqCache::new(config, layer(group)).expect("as before");
        self.scratch = cache.scratch(n + 4096).expect("a sound configuration");
        self.heads.iter_mut().for_each(|head| head.set_budget(Extent::Tokens(budget)).expect("tokens"));
    }

    fn dense(&mut self, q: &[f32], out: &mut [f32], lse: &mut [f32]) -> Duration {
        self.at = (self.at + 1) % self.heads.len();
        let head = &self.heads[self.at];
        let start = Instant::now();
        self.decode.reset();
        let n = head.len();
        head.keys()
            .with_rows(|keys| {
                head.values()
                    .with_rows(|values| Ok(self.decode.add(q, 0.088, keys, values, Tokens::Range(0..n))?))
            })
            .expect("rows attention reads");
        self.decode.finish(out, lse).expect("buffers fit");
        start.elapsed()
    }

    /// Append, select, attend; the whole and what selecting alone takes of the next head.
    fn sparse(&mut self, q: &[f32], token: &[u8], out: &mut [f32], lse: &mut [f32]) -> [Duration; 2] {
        self.at = (self.at + 1) % self.heads.len();
        let start = Instant::now();
        self.heads[self.at].step(q, 0.088, token, token, out, lse, &mut self.scratch).expect("buffers fit");
        let whole = start.elapsed();
        self.at = (self.at + 1) % self.heads.len();
        let start = Instant::now();
        self.heads[self.at].select(q, 0.088, &mut self.scratch).expect("buffers fit");
        [whole, start.elapsed()]
    }

    /// First quartiles in microseconds: dense, sparse, selection.
    fn run(&mut self) -> [f64; 3] {
        let q = queries(self.group, 3);
        let token = rows(1, 4);
        let (mut out, mut lse) = (vec![0.0; self.group * D], vec![0.0; self.group]);
        let mut times: [Vec<f64>; 3] = Default::default();
        let start = Instant::now();
        while times[0].len() < self.heads.len().max(9) || start.elapsed() < Duration::from_millis(600) {
            times[0].push(self.dense(&q, &mut out, &mut lse).as_secs_f64());
            let [whole, select] = self.sparse(&q, &token, &mut out, &mut lse);
            times[1].push(whole.as_secs_f64());
            times[2].push(select.as_secs_f64());
        }
        times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 4] * 1e6
        })
    }

    /// How much faster two threads, each with half of the heads, take one step of every head.
    fn two_threads(&mut self) -> f64 {
        let q = queries(self.group, 3);
        let token = rows(1, 4);
        let (group, scratch) = (self.group, self.scratch.clone());
        let work = |heads: &mut [HeadCache], mut scratch: HeadScratch| {
            let (mut out, mut lse) = (vec![0.0; group * D], vec![0.0; group]);
            for head in heads {
                head.step(&q, 0.088, &token, &token, &mut out, &mut lse, &mut scratch).expect("buffers fit");
            }
        };
        let half = self.heads.len() / 2;
        let mut best = [f64::INFINITY; 2];
        for _ in 0..7 {
            let (a, b) = self.heads[..2 * half].split_at_mut(half);
            let s = [scratch.clone(), scratch.clone(), scratch.clone(), scratch.clone()];
            let [s0, s1, s2, s3] = s;
            let start = Instant::now();
            work(a, s0);
            work(b, s1);
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| work(a, s2));
                work(b, s3);
            });
            best[1] = best[1].min(start.elapsed().as_secs_f64());
        }
        best[0] / best[1]
    }
}

fn main() {
    match std::env::var("TERSA_CPU").as_deref() {
        Ok("scalar") => _ = cpu::lower_to(Level::Scalar),
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => _ = cpu::lower_to(Level::Avx2),
        _ => {}
    }
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<f64>().ok());
    let bytes = (numbers.next().unwrap_or(1.6) * f64::from(1 << 30)) as usize;
    let named: Vec<String> = std::env::args().filter(|a| Preset::from_name(a).is_some()).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|n| n == name);
    let mut contexts: Vec<usize> = numbers.map(|n| n as usize).collect();
    if contexts.is_empty() {
        contexts = vec![8192, 32768, 131_072];
    }
    println!(
        "{}; f16, d = {D}, rows of {:.1} GiB; us, first quartiles",
        cpu::level(),
        bytes as f64 / f64::from(1 << 30)
    );
    println!("preset          heads  context  budget    dense   sparse  ratio   select  dense GB/s");
    for n in contexts {
        for preset in [Preset::Default, Preset::PaperLongBench].into_iter().filter(|p| wanted(p.name())) {
            let config = PqConfig {
                sinks: 32,
                window: Extent::Tokens(128),
                ..preset.config(D).expect("128 elements")
            };
            let mut bench = Bench::new(&config, n, bytes);
            for (group, share) in [1, 8].into_iter().flat_map(|g| BUDGETS.map(|b| (g, b))) {
                bench.set(&config, group, (n as f64 * share) as usize);
                let [dense, sparse, select] = bench.run();
                let threads = if share == BUDGETS[0] && n == 131_072 {
                    format!("  two threads {:.2}x", bench.two_threads())
                } else {
                    String::new()
                };
                println!(
                    "{:<15} {group:>5} {n:>8} {:>6.0}% {dense:>8.0} {sparse:>8.0} {:>5.1}x {select:>8.0} {:>11.1}{threads}",
                    preset.name(),
                    share * 100.0,
                    dense / sparse,
                    (n * D * 4) as f64 / dense / 1e3,
                );
            }
        }
    }
}
