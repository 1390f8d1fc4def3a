//! `had+lm{2,3,4,5,6,8}`: bytes of fp16 a second, one core, beside a copy of the same bytes.
//!
//! `hot` works on one 256-row tile again and again, which the first- and second-level caches hold; `cold` walks
//! through 96 MiB of tiles, more than any cache here holds.
//!
//! Limit, AVX-512, d = 64, sixteen values: decoding needs 4 shuffles, 6 additions, an unpack of 3, a sign, a
//! product, a clamp and 2 operations to narrow, about 19 vector operations; encoding at 4 bits about 22. Four vector
//! operations a cycle at 4 GHz, both assumed, would be 27 and 23 GB/s. Measured hot on a shared two-core Zen 5, best of
//! 1500: decode 11.5 GB/s and encode 9.1 GB/s at d = 64 (13.3 and 10.4 at d = 128), 40 to 50 % of that.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tersa_core::codec::{CodecSpec, Side, Workspace, prepare};
use tersa_core::cpu;
use tersa_core::num::DType;
use tersa_core::num::rng::Xoshiro256pp;

const ROWS: usize = 256;
const COLD_BYTES: usize = 96 << 20;

/// Tiles of fp16 rows whose elements are sums of uniform numbers.
fn tiles(d: usize, n: usize) -> Vec<u8> {
    let mut rng = Xoshiro256pp::new(1);
    let mut normal = || (0..4).map(|_| rng.f64()).sum::<f64>() - 2.0;
    let tile: Vec<u8> = (0..ROWS * d).flat_map(|_| half::f16::from_f64(normal()).to_le_bytes()).collect();
    tile.repeat(n)
}

fn lloyd_max(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    for d in [64, 128] {
        let tile_bytes = ROWS * d * 2;
        for (residence, n) in [("hot", 1), ("cold", COLD_BYTES / tile_bytes)] {
            let rows = tiles(d, n);
            let mut back = rows.clone();
            group.throughput(Throughput::Bytes(tile_bytes as u64));
            let mut i = 0;
            group.bench_function(BenchmarkId::new("memcpy", format!("d{d}/{residence}")), |b| {
                b.iter(|| {
                    let at = i % n * tile_bytes;
                    i += 1;
                    back[at..at + tile_bytes].copy_from_slice(black_box(&rows[at..at + tile_bytes]));
                });
            });
            for spec in ["had+lm2", "had+lm3", "had+lm4", "had+lm5", "had+lm6", "had+lm8", "had+lm4+ls"] {
                let parsed: CodecSpec = spec.parse().expect("a spec of the table above");
                let side = Side::make(parsed, d, 1, None).expect("rotations and grids need no training");
                let codec = prepare(parsed, d, DType::F16, &side).expect("the side was made for it");
                let mut floats = vec![0.0; codec.workspace(ROWS).floats];
                let mut ws = Workspace { floats: &mut floats, bytes: &mut [], coder: None };
                let len = codec.bound(ROWS);
                let mut codes = vec![0; n * len];
                for (rows, codes) in rows.chunks(tile_bytes).zip(codes.chunks_mut(len)) {
                    codec.encode(rows, codes, &mut ws).expect("finite rows");
                }
                let name = |what| BenchmarkId::new(format!("{spec}/{what}"), format!("d{d}/{residence}"));
                let mut i = 0;
                group.bench_function(name("encode"), |b| {
                    b.iter(|| {
                        let at = i % n;
                        i += 1;
                        let rows = &rows[at * tile_bytes..(at + 1) * tile_bytes];
                        codec.encode(rows, &mut codes[at * len..(at + 1) * len], &mut ws)
                    });
                });
                group.bench_function(name("decode"), |b| {
                    b.iter(|| {
                        let at = i % n;
                        i += 1;
                        let rows = &mut back[at * tile_bytes..(at + 1) * tile_bytes];
                        codec.decode(&codes[at * len..(at + 1) * len], rows, &mut ws)
                    });
                });
            }
        }
    }
    group.finish();
}

fn at_this_level(c: &mut Criterion) {
    if let Some(level) = std::env::var("TERSA_CPU").ok().as_deref().and_then(cpu::Level::from_name) {
        cpu::lower_to(level);
    }
    lloyd_max(c);
}

criterion_group!(benches, at_this_level);
criterion_main!(benches);
