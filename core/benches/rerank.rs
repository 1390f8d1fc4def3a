//! The second level of a two-stage selection and the transform of the first: nanoseconds a candidate, milliseconds a head.
//!
//! `l2` scores every tenth of 8192 tokens (0.3 MB of records at `d` = 128, 2 bits); `cold` every tenth of 1 Mi tokens in
//! 36 MB, walking on from call to call. Throughput is in candidates, rows or heads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::pq::{KeyTransform, PqShape, TransformParams};
use tersa_core::select::{RerankCodes, RerankQuery};

#[allow(clippy::cast_possible_truncation, reason = "benchmark data")]
fn rows(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..n * d).map(|_| ((0..4).map(|_| rng.f64()).sum::<f64>() - 2.0) as f32).collect()
}

fn rerank(c: &mut Criterion) {
    let mut group = c.benchmark_group("rerank");
    group
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(20);
    for (d, bits) in [(64, 2), (128, 2), (128, 3), (128, 4), (256, 2)] {
        let batch = rows(1, 8192, d);
        let mut codes = RerankCodes::new(d, bits, 1).expect("a shape that is served");
        group.throughput(Throughput::Elements(512));
        group.bench_function(BenchmarkId::new("extend", format!("d{d}/b{bits}")), |b| {
            b.iter(|| {
                codes.truncate(0);
                codes.extend(black_box(&batch[..512 * d])).expect("finite rows");
            });
        });
        codes.truncate(0);
        codes.extend(&batch).expect("finite rows");
        for heads in [1, 4] {
            let mut query = RerankQuery::new(d, heads);
            codes.prepare(&rows(2, heads, d), &mut query).expect("finite queries");
            let tokens: Vec<u32> = (0..8192).step_by(10).collect();
            let mut out = vec![0.0; heads * tokens.len()];
            group.throughput(Throughput::Elements(tokens.len() as u64));
            group.bench_function(BenchmarkId::new("score/l2", format!("d{d}/b{bits}/g{heads}")), |b| {
                b.iter(|| codes.score(&query, black_box(&tokens), &mut out));
            });
        }
        if (d, bits) == (128, 2) {
            let mut query = RerankQuery::new(d, 4);
            let q = rows(2, 4, d);
            group.throughput(Throughput::Elements(4));
            group.bench_function(BenchmarkId::new("prepare", "d128/g4"), |b| {
                b.iter(|| codes.prepare(black_box(&q), &mut query).expect("finite queries"));
            });
            for _ in 1..128 {
                codes.extend(&batch).expect("finite rows");
            }
            codes.prepare(&q, &mut query).expect("finite queries");
            let mut out = vec![0.0; 4 * 819];
            let mut at = 0u32;
            group.throughput(Throughput::Elements(819));
            group.bench_function(BenchmarkId::new("score/cold", "d128/b2/g4"), |b| {
                b.iter(|| {
                    at = (at + 8192) % (128 * 8192);
                    let tokens: Vec<u32> = (0..819).map(|i| at + i * 10).collect();
                    codes.score(&query, black_box(&tokens), &mut out);
                });
            });
        }
    }
    group.finish();
}

fn transform(c: &mut Criterion) {
    let mut group = c.benchmark_group("transform");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(10);
    for (d, m) in [(64, 10), (128, 12), (256, 16)] {
        let (keys, queries) = (rows(3, 8192, d), rows(4, 4096, d));
        let shape = PqShape::new(d, m, 6).expect("a shape that is served");
        let train =
            || KeyTransform::train(&keys, &queries, shape, &TransformParams::default()).expect("finite rows");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("train", format!("d{d}")), |b| b.iter(train));
        // Uniform clouds gain nothing; take a transform that is not the identity for the product.
        let mut narrow = queries.clone();
        narrow.iter_mut().enumerate().for_each(|(i, x)| *x *= if i % d % 5 == 0 { 4.0 } else { 0.3 });
        let transform =
            KeyTransform::train(&keys, &narrow, shape, &TransformParams::default()).expect("finite rows");
        assert!(!transform.is_identity());
        let mut out = vec![0.0; 2048 * d];
        group.throughput(Throughput::Elements(2048));
        group.bench_function(BenchmarkId::new("keys", format!("d{d}")), |b| {
            b.iter(|| transform.keys(black_box(&keys[..2048 * d]), &mut out).expect("whole rows"));
        });
    }
    group.finish();
}

criterion_group!(benches, rerank, transform);
criterion_main!(benches);
