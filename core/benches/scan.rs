//! Scores of codes, and scores with selection: one thread, d = 128.
//!
//! Limit: see `kernels/scan`; rivals are faiss IndexPQ and IndexPQFastScan in the same minutes (docs/benchmarks.md).
//!
//! `cargo bench -p tersa-core --bench scan`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tersa_core::kv::{CodedScratch, coded_top_k};
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::pq::{Codebook, Codes, PqShape, QueryTables, scan};
use tersa_core::select::GroupRule;

const D: usize = 128;
const N: usize = 131_072;

#[allow(clippy::cast_possible_truncation, reason = "random numbers")]
fn noise(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect()
}

/// Codes all equally frequent, or, `skewed`, falling like the square of a uniform number.
fn codes(rng: &mut Xoshiro256pp, shape: PqShape, skewed: bool) -> Codes {
    let all: Vec<u8> = (0..N * shape.m())
        .map(|_| {
            let u = rng.f64();
            let x = if skewed { u * u } else { u } * f64::from(1_u32 << shape.nbits());
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below ksub")]
            {
                x as u8
            }
        })
        .collect();
    let mut codes = Codes::new(shape);
    codes.extend(&all).expect("codes below ksub");
    codes
}

fn bench(c: &mut Criterion) {
    let mut rng = Xoshiro256pp::new(1);
    for (m, nbits) in [(2, 6), (4, 8), (12, 6), (16, 8), (16, 4), (32, 4)] {
        let shape = PqShape::new(D, m, nbits).expect("a shape of the table");
        let codebook = Codebook::new(shape, noise(&mut rng, shape.codebook_len())).expect("finite");
        for group in [1, 8] {
            let name = format!("{m}x{nbits}_g{group}");
            let q = noise(&mut rng, group * D);
            let mut tables = QueryTables::new(shape, group);
            let mut groups = c.benchmark_group("scan");
            groups.sample_size(20).warm_up_time(Duration::from_millis(50));
            groups.measurement_time(Duration::from_millis(250));
            groups.bench_function(BenchmarkId::new("tables", &name), |b| {
                b.iter(|| tables.fill(&codebook, black_box(&q)));
            });
            tables.fill(&codebook, &q).expect("finite");
            groups.throughput(Throughput::Elements(N as u64));
            let uniform = codes(&mut rng, shape, false);
            let mut scores = vec![0; group * N];
            groups.bench_function(BenchmarkId::new("scores", &name), |b| {
                b.iter(|| scan(&tables, black_box(&uniform), 0..N, &mut scores));
            });
            let scales: Vec<f32> = (0..group).map(|h| tables.scale(h) * 0.088).collect();
            let mut scratch = CodedScratch::new(&tables, N);
            for (kind, codes) in [("uniform", &uniform), ("skewed", &codes(&mut rng, shape, true))] {
                for k in [N / 5, 256] {
                    let mut out = vec![0; k];
                    groups.bench_function(BenchmarkId::new(format!("top{k}_{kind}"), &name), |b| {
                        b.iter(|| {
                            let rule = GroupRule::SoftmaxSum;
                            let codes = black_box(codes);
                            coded_top_k(rule, &tables, &scales, codes, 0..N, &mut out, &mut scratch)
                        });
                    });
                }
            }
            groups.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
