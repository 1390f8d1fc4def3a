//! The Rust half of `cargo xtask peers`: runs one task of ours when it is asked to, so that a peer in another process can
//! take turns with it.
//!
//! Reads a task with its arguments from each line of standard input and answers with a line `microseconds [more]`: the
//! fastest of several runs, or the first quartile where memory is cold. Rows, queries and scores come from raw little-endian files
//! that the other side wrote, so that both work on the same. `tests/peers/peers.py` has the table of tasks.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a report of measurements")]

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::str::SplitWhitespace;
use std::time::Instant;
use tersa_core::attention::{Decode, Rows, Tokens};
use tersa_core::kv::{CodedScratch, coded_top_k};
use tersa_core::num::DType;
use tersa_core::num::convert::from_f32;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::pq::{Codebook, Codes, Init, IterBudget, PqShape, QueryTables, TrainParams, train};
use tersa_core::select::{GroupRule, TopKScratch, top_k_f32, top_k_u16};

/// Seconds that a task may take for one answer, and the least number of runs in it.
const SECONDS: f64 = 0.25;
const RUNS: usize = 3;
/// Bytes that cold calls walk through.
const COLD: usize = 1600 << 20;

/// What a line holds after the task's name.
struct Args<'a>(SplitWhitespace<'a>);

impl<'a> Args<'a> {
    fn word(&mut self) -> &'a str {
        self.0.next().expect("the script gives all arguments")
    }

    fn number(&mut self) -> usize {
        self.word().parse().expect("a number")
    }
}

/// Files that were read, by path.
#[derive(Default)]
struct Files(HashMap<String, Vec<u8>>);

impl Files {
    fn bytes(&mut self, path: &str) -> &[u8] {
        let read = || std::fs::read(path).expect("a file that the script wrote");
        self.0.entry(path.to_owned()).or_insert_with(read)
    }

    fn floats(&mut self, path: &str) -> Vec<f32> {
        self.bytes(path).as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    fn words(&mut self, path: &str) -> Vec<u16> {
        self.bytes(path).as_chunks::<2>().0.iter().map(|x| u16::from_le_bytes(*x)).collect()
    }
}

/// Microseconds of runs in ascending order.
fn times(mut run: impl FnMut()) -> Vec<f64> {
    let mut times = Vec::new();
    let begun = Instant::now();
    while times.len() < RUNS || begun.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn fastest(run: impl FnMut()) -> f64 {
    times(run)[0]
}

const fn params(iterations: u32, sample: Option<usize>) -> TrainParams<'static> {
    TrainParams { init: Init::RandomRows, budget: IterBudget::Fixed(iterations), tol: 0.0, seed: 3, sample }
}

fn shape(d: usize, args: &mut Args<'_>) -> PqShape {
    let (m, nbits) = (args.number(), args.number());
    PqShape::new(d, m, u8::try_from(nbits).expect("a few bits")).expect("a shape of the table")
}

/// Squared error of the decoded rows over the squared distances of the rows from their mean.
fn relative_error(codebook: &Codebook, rows: &[f32], d: usize) -> f64 {
    let n = rows.len() / d;
    let mut codes = vec![0; n * codebook.shape().m()];
    codebook.encode(rows, &mut codes).expect("finite rows");
    let mut back = vec![0.0; rows.len()];
    codebook.decode(&codes, &mut back).expect("codes of ours");
    let mut means = vec![0.0; d];
    for row in rows.chunks_exact(d) {
        means.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / n as f64);
    }
    let square = |x: f64| x * x;
    let lost: f64 = rows.iter().zip(&back).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let whole: f64 = rows.iter().zip(means.iter().cycle()).map(|(&a, &b)| square(f64::from(a) - b)).sum();
    lost / whole
}

/// `train ROWS D M NBITS ITERATIONS`: all rows.
fn k_means(files: &mut Files, args: &mut Args<'_>) -> String {
    let (rows, d) = (files.floats(args.word()), args.number());
    let (shape, iterations) = (shape(d, args), u32::try_from(args.number()).expect("few"));
    let mut codebook = None;
    let us = fastest(|| codebook = Some(train(black_box(&rows), shape, &params(iterations, None))));
    let (codebook, _) = codebook.expect("it ran").expect("finite rows");
    format!("{us:.2} {:.5}", relative_error(&codebook, &rows, d))
}

/// `encode ROWS D M NBITS N`: the first `N` rows, by a codebook of four iterations over all.
fn encode(files: &mut Files, args: &mut Args<'_>) -> String {
    let (rows, d) = (files.floats(args.word()), args.number());
    let shape = shape(d, args);
    let n = args.number();
    let (codebook, _) = train(&rows, shape, &params(4, None)).expect("finite rows");
    let mut codes = vec![0; n * shape.m()];
    // Many calls between two looks at the clock where one is short.
    let calls = (1024 / n).max(1);
    let us = fastest(|| {
        for _ in 0..calls {
            codebook.encode(black_box(&rows[..n * d]), &mut codes).expect("finite rows");
        }
    });
    format!("{:.4}", us / calls as f64)
}

/// `layer ROWS D M NBITS HEADS SAMPLE ITERATIONS WHOLE`: codebooks and codes of the heads `[heads][n][d]`, two threads.
/// Iterations on a sample, then some on all rows; also the inertia over that of ten on all rows, of the worst head.
fn layer(files: &mut Files, args: &mut Args<'_>) -> String {
    let (rows, d) = (files.floats(args.word()), args.number());
    let shape = shape(d, args);
    let (heads, sample) = (args.number(), args.number());
    let [iterations, whole] = [(); 2].map(|()| u32::try_from(args.number()).expect("few"));
    let each = rows.len() / heads;
    let half = |mut codes: Vec<&mut [u8]>, rows: &[f32]| -> Vec<Codebook> {
        let heads = rows.chunks_exact(each).zip(&mut codes);
        heads
            .map(|(rows, codes)| {
                let (mut codebook, _) =
                    train(rows, shape, &params(iterations, Some(sample))).expect("finite rows");
                if whole > 0 {
                    let more = TrainParams { init: Init::From(&codebook), ..params(whole, None) };
                    codebook = train(rows, shape, &more).expect("finite rows").0;
                }
                codebook.encode(rows, codes).expect("finite rows");
                codebook
            })
            .collect()
    };
    let mut codes = vec![0; rows.len() / d * shape.m()];
    let mut codebooks = Vec::new();
    let us = fastest(|| {
        let middle = heads / 2 * each;
        let mut pieces: Vec<&mut [u8]> = codes.chunks_exact_mut(each / d * shape.m()).collect();
        let others = pieces.split_off(heads / 2);
        codebooks = std::thread::scope(|s| {
            let other = s.spawn(|| half(others, &rows[middle..]));
            let mut mine = half(pieces, &rows[..middle]);
            mine.extend(other.join().expect("no panic"));
            mine
        });
    });
    let mut worst: f64 = 0.0;
    for (codebook, rows) in codebooks.iter().zip(rows.chunks_exact(each)) {
        let (full, _) = train(rows, shape, &params(10, None)).expect("finite rows");
        worst = worst.max(relative_error(codebook, rows, d) / relative_error(&full, rows, d));
    }
    format!("{us:.2} {worst:.5}")
}

/// `scan ROWS QUERY D M NBITS K`: tables, scores and the best `K`, codes of the rows themselves.
fn scan(files: &mut Files, args: &mut Args<'_>) -> String {
    let (rows, q, d) = (files.floats(args.word()), files.floats(args.word()), args.number());
    let shape = shape(d, args);
    let (n, k) = (rows.len() / d, args.number());
    let (codebook, _) = train(&rows, shape, &params(4, Some(32_768 / shape.ksub()))).expect("finite rows");
    let mut bytes = vec![0; n * shape.m()];
    codebook.encode(&rows, &mut bytes).expect("finite rows");
    let mut codes = Codes::new(shape);
    codes.extend(&bytes).expect("codes of ours");
    let mut tables = QueryTables::new(shape, 1);
    let mut scratch = CodedScratch::new(&tables, n);
    let mut out = vec![0; k];
    let us = fastest(|| {
        tables.fill(&codebook, black_box(&q[..d])).expect("finite queries");
        let scales = [tables.scale(0) * 0.088];
        let rule = GroupRule::SoftmaxSum;
        coded_top_k(rule, &tables, &scales, black_box(&codes), 0..n, &mut out, &mut scratch).expect("room");
    });
    format!("{us:.2}")
}

/// `select SCORES f32|u16 K`.
fn select(files: &mut Files, args: &mut Args<'_>) -> String {
    let (path, kind, k) = (args.word(), args.word(), args.number());
    let mut scratch = Box::new(TopKScratch::new());
    let mut out = vec![0; k];
    let us = if kind == "u16" {
        let x = files.words(path);
        fastest(|| {
            black_box(top_k_u16(black_box(&x), k, &mut out, &mut scratch));
        })
    } else {
        let x = files.floats(path);
        fastest(|| {
            black_box(top_k_f32(black_box(&x), k, &mut out, &mut scratch));
        })
    };
    format!("{us:.2}")
}

/// Keys and values of many calls, f16, each met again only after all others.
struct Cold {
    n: usize,
    d: usize,
    data: Vec<u8>,
    next: usize,
}

impl Cold {
    #[allow(clippy::cast_possible_truncation, reason = "random numbers")]
    fn new(n: usize, d: usize) -> Self {
        let mut rng = Xoshiro256pp::new(1);
        let some: Vec<f32> = (0..d * 1021).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect();
        let mut bytes = vec![0; 2 * some.len()];
        from_f32(DType::F16, &some, &mut bytes).expect("finite numbers");
        let each = 4 * n * d;
        let data = bytes.iter().copied().cycle().take(COLD / each * each).collect();
        Self { n, d, data, next: 0 }
    }

    fn next(&mut self) -> (Rows<'_>, Rows<'_>) {
        let each = 4 * self.n * self.d;
        let at = self.next % (self.data.len() / each) * each;
        self.next += 1;
        let (k, v) = self.data[at..at + each].split_at(each / 2);
        let rows = |bytes| Rows::contiguous(bytes, DType::F16, self.d).expect("whole rows");
        (rows(k), rows(v))
    }
}

/// `attend N D GROUP`: dense attention of one token, `GROUP` query heads that share the KV head.
fn attend(cold: &mut Option<Cold>, args: &mut Args<'_>) -> String {
    let (n, d, group) = (args.number(), args.number(), args.number());
    if cold.as_ref().is_none_or(|c| (c.n, c.d) != (n, d)) {
        *cold = Some(Cold::new(n, d));
    }
    let cold = cold.as_mut().expect("made above");
    let q: Vec<f32> = (0_u8..).take(group * d).map(|i| f32::from(i % 13) / 13.0 - 0.5).collect();
    let mut decode = Decode::new(group, d).expect("heads");
    let times = times(|| {
        let (k, v) = cold.next();
        decode.reset();
        decode.add(&q, 0.088, &k, &v, Tokens::Range(0..n)).expect("tokens in range");
        black_box(&decode);
    });
    format!("{:.2}", times[times.len() / 4])
}

fn main() {
    let (mut files, mut cold) = (Files::default(), None);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let mut args = Args(line.split_whitespace());
        let answer = match args.word() {
            "train" => k_means(&mut files, &mut args),
            "encode" => encode(&mut files, &mut args),
            "layer" => layer(&mut files, &mut args),
            "scan" => scan(&mut files, &mut args),
            "select" => select(&mut files, &mut args),
            "attend" => attend(&mut cold, &mut args),
            other => panic!("no task `{other}`"),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("the script listens");
    }
}
