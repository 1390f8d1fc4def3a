//! Exact top-k and group rules at every level.
//!
//! Limit of top-k: three passes over the scores, which lie in the second-level cache (256 KiB and 512 KiB here), at its
//! bandwidth, and the indices written once. Limit of the group rules: about 20 vector operations for sixteen powers, two
//! powers a score.
//!
//! `cargo bench -p tersa-core --bench select`; the last lines are best times, to be set against others' best times.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tersa_core::cpu;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::select::{GroupRule, TopKScratch, combine, nucleus, top_k_f32, top_k_u16};

const N: usize = 131_072;

/// Uniform words; and sums of two tables, as 2x6-bit codes give them: 4096 values at most, drawn by a power law, in runs.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "random numbers in range")]
fn words() -> [(&'static str, Vec<u16>); 2] {
    let mut rng = Xoshiro256pp::new(1);
    let random = (0..N).map(|_| rng.next_u64() as u16).collect();
    let mut table = || -> Vec<u16> {
        (0..64).map(|_| ((0..6).map(|_| rng.f64()).sum::<f64>() / 6.0 * 32_767.0) as u16).collect()
    };
    let tables = [table(), table()];
    let mut codes = [0, 0];
    let skewed = (0..N).map(|_| {
        for code in &mut codes {
            if rng.below(4) == 0 {
                *code = (rng.f64().powi(3) * 64.0) as usize;
            }
        }
        tables[0][codes[0]] + tables[1][codes[1]]
    });
    let skewed = skewed.collect();
    [("random", random), ("skewed", skewed)]
}

/// Sums of twelve uniform numbers, nearly normal; and their exponentials.
#[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
fn floats() -> [(&'static str, Vec<f32>); 2] {
    let mut rng = Xoshiro256pp::new(2);
    let normal: Vec<f32> = (0..N).map(|_| ((0..12).map(|_| rng.f64()).sum::<f64>() - 6.0) as f32).collect();
    let skewed = normal.iter().map(|x| (3.0 * x).exp()).collect();
    [("normal", normal), ("exp", skewed)]
}

/// The fastest of many runs, in microseconds.
fn best(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..500 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64() * 1e6);
    }
    best
}

#[allow(clippy::print_stdout, reason = "the best times are what is compared with others")]
fn select(c: &mut Criterion) {
    let (words, floats) = (words(), floats());
    let mut scratch = Box::new(TopKScratch::new());
    let mut out = vec![0; N];
    let mut lines = Vec::new();
    let top = cpu::level();
    for level in cpu::levels() {
        cpu::lower_to(level);
        let mut group = c.benchmark_group("select/top_k");
        group.sample_size(20).warm_up_time(Duration::from_millis(100));
        group.measurement_time(Duration::from_millis(300)).throughput(Throughput::Elements(N as u64));
        for k in [N / 5, N / 10, 256] {
            for (name, x) in &words {
                group.bench_function(BenchmarkId::new(format!("u16/{level}/{name}"), k), |b| {
                    b.iter(|| top_k_u16(black_box(x), k, &mut out, &mut scratch));
                });
                let us = best(|| {
                    black_box(top_k_u16(black_box(x), k, &mut out, &mut scratch));
                });
                lines.push(format!("u16 {level} {name} k={k}: {us:.1} us"));
            }
            for (name, x) in &floats {
                group.bench_function(BenchmarkId::new(format!("f32/{level}/{name}"), k), |b| {
                    b.iter(|| top_k_f32(black_box(x), k, &mut out, &mut scratch));
                });
                let us = best(|| {
                    black_box(top_k_f32(black_box(x), k, &mut out, &mut scratch));
                });
                lines.push(format!("f32 {level} {name} k={k}: {us:.1} us"));
            }
        }
        group.finish();
    }
    cpu::lower_to(top);
    let mut weights = vec![0.0; N / 8];
    for rule in [GroupRule::SoftmaxSum, GroupRule::Max, GroupRule::LogitSum] {
        // Eight heads of 16384 tokens.
        let us = best(|| combine(rule, black_box(&words[1].1), &[3e-4; 8], &mut weights));
        let rate = N as f64 / us / 1e3;
        lines.push(format!("{rule:?} {top} 8 heads x {}: {us:.1} us, {rate:.2} G scores/s", N / 8));
    }
    for (name, x) in &floats[1..] {
        let us = best(|| {
            black_box(nucleus(black_box(x), 0.9, &mut scratch));
        });
        lines.push(format!("nucleus {top} {name} p=0.9: {us:.1} us"));
    }
    println!("{}", lines.join("\n"));
}

criterion_group!(benches, select);
criterion_main!(benches);
