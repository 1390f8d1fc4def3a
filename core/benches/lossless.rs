//! `lossless` on the shipped dump, keys and values apart, beside copying and zstd on the bytes as they lie.
//!
//! Limit: half of each f16 tile (the plane of signs and exponents) passes zstd's entropy stage; the rest is copied.
//! `cargo bench -p tersa-core --bench lossless`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tersa_core::codec::{ByteCoder, CodecSpec, Side, TileCodec, Workspace, prepare};
use tersa_core::num::DType;

#[path = "../tests/zstd_coder/mod.rs"]
mod zstd_coder;

use zstd_coder::Zstd;

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/smollm2-135m-1k-sample.safetensors");
const HEAD_DIM: usize = 64;
/// A chunk's rows without its four exact ones.
const TILE: usize = 252 * HEAD_DIM * 2;

/// The tiles of all tensors whose name starts with `kind`.
fn tiles(kind: &str) -> Vec<Vec<u8>> {
    let file = std::fs::read(DUMP).expect("the shipped dump");
    let dump = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    let mut names: Vec<&str> = dump.names().into_iter().filter(|n| n.starts_with(kind)).collect();
    names.sort_unstable();
    let tensor = |name: &str| dump.tensor(name).expect("a name of the file").data().to_vec();
    names.iter().flat_map(|n| tensor(n).chunks_exact(TILE).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

fn encode(codec: &dyn TileCodec, tile: &[u8], out: &mut [u8], scratch: &mut [u8], coder: &mut Zstd) -> usize {
    let ws = &mut Workspace { floats: &mut [], bytes: scratch, coder: Some(coder) };
    codec.encode(tile, out, ws).expect("room as asked for")
}

fn lossless(c: &mut Criterion) {
    let spec: CodecSpec = "lossless".parse().expect("a codec");
    let codec = prepare(spec, HEAD_DIM, DType::F16, &Side::default()).expect("f16 rows");
    let n_rows = TILE / HEAD_DIM / 2;
    let mut scratch = vec![0; codec.workspace(n_rows).bytes];
    let mut coder = Zstd::new(1);
    let mut out = vec![0; coder.bound(TILE)];
    let mut back = vec![0; TILE];
    for kind in ["k.", "v."] {
        let tiles = tiles(kind);
        let bytes = tiles.len() * TILE;
        let name = &kind[..1];
        let coded: Vec<Vec<u8>> = tiles
            .iter()
            .map(|t| {
                let len = encode(&*codec, t, &mut out, &mut scratch, &mut coder);
                out[..len].to_vec()
            })
            .collect();
        let plain: Vec<Vec<u8>> = tiles
            .iter()
            .map(|t| {
                let len = coder.compress(t, &mut out).expect("room as asked for");
                out[..len].to_vec()
            })
            .collect();
        let ratio = |coded: &[Vec<u8>]| bytes as f64 / coded.iter().map(Vec::len).sum::<usize>() as f64;
        eprintln!("{name}: lossless {:.4}, zstd-1 {:.4} on {bytes} bytes", ratio(&coded), ratio(&plain));

        let mut group = c.benchmark_group("lossless");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| {
                tiles.iter().map(|t| encode(&*codec, t, &mut out, &mut scratch, &mut coder)).sum::<usize>()
            });
        });
        group.bench_function(format!("encode/{name}/zstd-1"), |b| {
            b.iter(|| tiles.iter().filter_map(|t| coder.compress(t, &mut out)).sum::<usize>());
        });
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| {
                for code in &coded {
                    let ws = &mut Workspace { floats: &mut [], bytes: &mut scratch, coder: Some(&mut coder) };
                    codec.decode(code, &mut back, ws).expect("what encode gave");
                }
            });
        });
        group.bench_function(format!("decode/{name}/zstd-1"), |b| {
            b.iter(|| plain.iter().all(|code| coder.decompress(code, &mut back)));
        });
        group.bench_function(format!("memcpy/{name}"), |b| {
            b.iter(|| {
                for tile in &tiles {
                    back.copy_from_slice(std::hint::black_box(tile));
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, lossless);
criterion_main!(benches);
