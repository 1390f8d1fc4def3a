//! Product quantization: training and encoding at every level, decoding, the transform of keys.
//!
//! Limit of training and encoding: `n * d * ksub` fused multiply-adds, of which a core with two 512-bit units does 32 in
//! a cycle. At d = 128 that is 8192 or 32768 of them a row for 64 or 256 centroids: 256 or 1024 cycles. Limit of
//! decoding: the bandwidth of writing the rows. The transform's moments are `d^2 / 2` fused multiply-adds of `f64` for each of 4096
//! rows, 16 in a cycle of two such units (8 on Zen 4), or 2.1 M cycles at d = 128; its matrices some `14 d^3` operations.
//!
//! `cargo bench -p tersa-core --bench pq`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tersa_core::cpu;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::pq::{
    Codebook, Init, IterBudget, KeyTransform, PqShape, TrainParams, TransformParams, train,
};

const N: usize = 32_768;
const D: usize = 128;

/// The shapes that the literature and our own tables use.
const SHAPES: [(usize, u8); 4] = [(2, 6), (4, 8), (16, 8), (32, 4)];

/// Key-like rows: a slow walk over the tokens, 32 clusters, noise, and a few loud channels.
#[allow(clippy::cast_possible_truncation, reason = "random numbers and small indices")]
fn keys() -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(1);
    // Twelve uniform numbers make a nearly normal one.
    let mut normal = || (0..12).map(|_| rng.f64()).sum::<f64>() as f32 - 6.0;
    let centres: Vec<f32> = (0..32 * D).map(|_| normal()).collect();
    let mut walk = [0.0; D];
    let mut rows = Vec::with_capacity(N * D);
    for _ in 0..N {
        let cluster = (normal().abs() * 1e4) as usize % 32;
        for (j, w) in walk.iter_mut().enumerate() {
            *w += 0.05 * normal();
            let x = 0.5 * *w + centres[cluster * D + j] + 0.7 * normal();
            rows.push(if j % 32 == 5 { 6.0 * x } else { x });
        }
    }
    rows
}

fn params(init: Init<'_>) -> TrainParams<'_> {
    TrainParams { init, budget: IterBudget::Fixed(8), tol: 0.0, seed: 3, sample: None }
}

fn pq(c: &mut Criterion) {
    let rows = keys();
    let top = cpu::level();
    for (m, nbits) in SHAPES {
        let shape = PqShape::new(D, m, nbits).expect("a shape of the table");
        let name = format!("{m}x{nbits}_d{D}");

        let mut group = c.benchmark_group("pq/train");
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for init in [Init::RandomRows, Init::KMeansPlusPlus] {
            group.bench_function(BenchmarkId::new(format!("{init:?}"), &name), |b| {
                b.iter(|| train(black_box(&rows), shape, &params(init)));
            });
        }
        group.finish();

        let (codebook, _) = train(&rows, shape, &params(Init::RandomRows)).expect("finite rows");
        encode(c, &codebook, &rows, &name);
        cpu::lower_to(top);
    }
}

fn encode(c: &mut Criterion, codebook: &Codebook, rows: &[f32], name: &str) {
    let mut codes = vec![0; N * codebook.shape().m()];
    let mut group = c.benchmark_group("pq/encode");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(N as u64));
    for level in cpu::levels().filter(|l| *l > cpu::Level::Scalar) {
        cpu::lower_to(level);
        group.bench_function(BenchmarkId::new(level.name(), name), |b| {
            b.iter(|| codebook.encode(black_box(rows), &mut codes));
        });
    }
    // The portable twin's multiply-add is a function call: one row in 32 is enough to time it.
    cpu::lower_to(cpu::Level::Scalar);
    group.throughput(Throughput::Elements(N as u64 / 32));
    group.bench_function(BenchmarkId::new("scalar", name), |b| {
        let len = codes.len() / 32;
        b.iter(|| codebook.encode(black_box(&rows[..N / 32 * D]), &mut codes[..len]));
    });
    for level in cpu::levels() {
        cpu::lower_to(level); // ends at the highest
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("one_row", name), |b| {
        let len = codebook.shape().m();
        b.iter(|| codebook.encode(black_box(&rows[..D]), &mut codes[..len]));
    });
    group.finish();

    codebook.encode(rows, &mut codes).expect("finite rows");
    let mut decoded = vec![0.0; N * D];
    let mut group = c.benchmark_group("pq/decode");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(4 * (N * D) as u64));
    group.bench_function(name, |b| b.iter(|| codebook.decode(black_box(&codes), &mut decoded)));
    group.finish();
}

fn transform(c: &mut Criterion) {
    let rows = keys();
    let mut group = c.benchmark_group("pq/transform");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for d in [64, D] {
        let shape = PqShape::new(d, 8 + d / 32, 6).expect("the default's shape");
        let (keys, queries) = (&rows[..2048 * d], &rows[rows.len() - 2048 * d..]);
        group.bench_function(BenchmarkId::new("train", d), |b| {
            b.iter(|| KeyTransform::train(black_box(keys), queries, shape, &TransformParams::default()));
        });
    }
    group.finish();
}

criterion_group!(benches, pq, transform);
criterion_main!(benches);
