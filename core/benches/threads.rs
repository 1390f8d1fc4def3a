//! Codecs with one thread and with two, before any file is involved.
//!
//! Each thread walks through tiles of its own as the command does: rows or codes come from memory that no cache holds (a
//! mapped file), what they become goes into a buffer of 1 MiB that is used again. Plain reading and storing of as much
//! memory is measured in the same rounds.
//!
//! Limit: twice one thread, where two cores share nothing but memory and do not exhaust it. Storing to memory that no
//! cache holds reads it first; stores that pass by the caches do not, and show what that costs.
//!
//! `cargo bench -p tersa-core --bench threads [-- ROUNDS]`
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a report of measurements")]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::time::Instant;
use tersa_core::codec::{ByteCoder, CodecSpec, Side, TileCodec, Workspace, prepare};
use tersa_core::num::DType;

#[path = "../tests/zstd_coder/mod.rs"]
mod zstd_coder;

use zstd_coder::Zstd;

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/smollm2-135m-1k-sample.safetensors");
const HEAD_DIM: usize = 64;
const ROWS: usize = 256;
const TILE: usize = ROWS * HEAD_DIM * 2;
/// Three times the last-level cache of the machine that docs/benchmarks.md has figures of.
const TILES: usize = (96 << 20) / TILE;
/// What a thread of the command encodes or decodes before it writes.
const RUN: usize = 1 << 20;

/// Seconds of one candidate with so many threads.
type Candidate<'a> = Box<dyn FnMut(usize) -> f64 + 'a>;

/// Lets one thread or two, each with a room for its share of the tiles, do `work` on all tiles.
fn candidate<'a, R: Send + 'a>(
    room: impl Fn(usize) -> R,
    work: impl Fn(Range<usize>, &mut R) + Sync + 'a,
) -> Candidate<'a> {
    let mut rooms = [1, 2].map(|threads| (0..threads).map(|_| room(TILES / threads)).collect::<Vec<R>>());
    Box::new(move |threads| {
        let share = TILES / threads;
        let start = Barrier::new(threads);
        let one = |t: usize, room: &mut R| {
            start.wait();
            let begun = Instant::now();
            work(t * share..(t + 1) * share, room);
            begun.elapsed().as_secs_f64()
        };
        let (mine, others) = rooms[threads - 1].split_first_mut().expect("a room for each thread");
        std::thread::scope(|s| {
            let one = &one;
            let others: Vec<_> =
                others.iter_mut().enumerate().map(|(t, room)| s.spawn(move || one(t + 1, room))).collect();
            let first = one(0, mine);
            others.into_iter().fold(first, |worst, other| worst.max(other.join().expect("no panic")))
        })
    })
}

/// Keys and values of the shipped dump, whole tiles, repeated.
fn source() -> Vec<u8> {
    let file = std::fs::read(DUMP).expect("the shipped dump");
    let dump = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    let mut names: Vec<&str> = dump.names().into_iter().filter(|n| !n.starts_with('q')).collect();
    names.sort_unstable();
    let whole = |n: &str| {
        let data = dump.tensor(n).expect("a name of the file").data();
        data[..data.len() / TILE * TILE].to_vec()
    };
    let once: Vec<u8> = names.iter().flat_map(|n| whole(n)).collect();
    once.iter().copied().cycle().take(TILES * TILE).collect()
}

/// A thread's buffers.
struct Room {
    out: Vec<u8>,
    floats: Vec<f32>,
    bytes: Vec<u8>,
    coder: Zstd,
}

impl Room {
    fn new(codec: &dyn TileCodec) -> Self {
        let size = codec.workspace(ROWS);
        let coder = Zstd::new(1);
        let out = vec![0; RUN + codec.bound(ROWS) + coder.bound(TILE)];
        Self { out, floats: vec![0.0; size.floats], bytes: vec![0; size.bytes], coder }
    }

    /// Hands each tile the free part of the buffer; `work` returns what it took.
    fn each(&mut self, tiles: Range<usize>, work: impl Fn(usize, &mut [u8], &mut Workspace<'_>) -> usize) {
        let mut at = 0;
        for tile in tiles {
            let coder: Option<&mut dyn ByteCoder> = Some(&mut self.coder);
            let mut ws = Workspace { floats: &mut self.floats, bytes: &mut self.bytes, coder };
            at += work(tile, &mut self.out[at..], &mut ws);
            if at > RUN - TILE {
                at = 0;
            }
        }
        black_box(&self.out);
    }
}

/// The code of every tile, one after the other, and where each lies.
fn encode_all(codec: &dyn TileCodec, rows: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut codes, mut places) = (Vec::new(), Vec::new());
    let mut room = Room::new(codec);
    for tile in rows.chunks_exact(TILE) {
        let coder: Option<&mut dyn ByteCoder> = Some(&mut room.coder);
        let mut ws = Workspace { floats: &mut room.floats, bytes: &mut room.bytes, coder };
        let len = codec.encode(tile, &mut room.out, &mut ws).expect("room as asked for");
        places.push(codes.len()..codes.len() + len);
        codes.extend_from_slice(&room.out[..len]);
    }
    (codes, places)
}

/// Sixteen bytes, the most that every x86-64 processor stores at once.
type Words = Vec<u128>;

const WORDS: usize = TILE / 16;

#[inline(never)]
fn read(words: &[u128]) {
    let mut sums = [0_u128; 8];
    for words in words.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum ^= word;
        }
    }
    black_box(sums);
}

#[inline(never)]
fn store(words: &mut [u128], word: u128) {
    words.fill(black_box(word));
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn store_past_caches(words: &mut [u128]) {
    use core::arch::x86_64::{_mm_set1_epi8, _mm_sfence, _mm_stream_si128};
    for word in words.iter_mut() {
        // SAFETY: `word` is sixteen aligned bytes, and the instruction belongs to every x86-64 processor.
        unsafe { _mm_stream_si128(std::ptr::from_mut(word).cast(), _mm_set1_epi8(3)) };
    }
    // SAFETY: as above; it takes nothing.
    unsafe { _mm_sfence() };
}

fn main() {
    let rounds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(15);
    let rows = source();
    let codecs = ["had+lm4", "lossless"].map(|name| {
        let spec: CodecSpec = name.parse().expect("a codec");
        let side = Side::make(spec, HEAD_DIM, 1, None).expect("nothing to train");
        let codec = prepare(spec, HEAD_DIM, DType::F16, &side).expect("the side was made for it");
        let (codes, places) = encode_all(&*codec, &rows);
        (name, codec, codes, places)
    });
    let words: Words = vec![1; TILES * WORDS];
    let mut candidates: Vec<(String, Candidate<'_>)> = Vec::new();
    for (name, codec, codes, places) in &codecs {
        let room = |_| Room::new(&**codec);
        let encode = candidate(room, |tiles, room| {
            room.each(tiles, |tile, out, ws| {
                codec.encode(&rows[tile * TILE..(tile + 1) * TILE], out, ws).expect("room as asked for")
            });
        });
        candidates.push((format!("{name}, encode"), encode));
        let decode = candidate(room, |tiles, room| {
            room.each(tiles, |tile, out, ws| {
                codec.decode(&codes[places[tile].clone()], &mut out[..TILE], ws).expect("a code of ours");
                TILE
            });
        });
        candidates.push((format!("{name}, decode"), decode));
    }
    candidates.push((
        "memory, read".into(),
        candidate(|_| (), |tiles, ()| read(&words[tiles.start * WORDS..tiles.end * WORDS])),
    ));
    let own = |tiles| vec![1_u128; tiles * WORDS];
    candidates.push(("memory, store".into(), candidate(own, |_, words: &mut Words| store(words, 3))));
    #[cfg(target_arch = "x86_64")]
    candidates.push((
        "memory, store past caches".into(),
        candidate(own, |_, words: &mut Words| store_past_caches(words)),
    ));
    let mut times = vec![[const { Vec::new() }; 2]; candidates.len()];
    for round in 0..=rounds {
        for ((_, run), times) in candidates.iter_mut().zip(&mut times) {
            for (threads, times) in [1, 2].into_iter().zip(times) {
                let seconds = run(threads);
                // The first round warms up.
                if round > 0 {
                    times.push(seconds);
                }
            }
        }
    }
    println!(
        "{} MiB of rows or words; fastest of {rounds} rounds, GB/s; how far the median lies behind",
        (TILES * TILE) >> 20
    );
    println!("{:26} {:>9} {:>7} {:>9} {:>7} {:>6}", "", "1 thread", "spread", "2 threads", "spread", "ratio");
    for ((name, _), times) in candidates.iter().zip(&mut times) {
        let [one, two] = times.each_mut().map(|t| {
            t.sort_by(f64::total_cmp);
            (t[0], 100.0 * (t[t.len() / 2] / t[0] - 1.0))
        });
        let rate = |seconds: f64| (TILES * TILE) as f64 / seconds / 1e9;
        println!(
            "{name:26} {:9.2} {:6.0}% {:9.2} {:6.0}% {:5.2}x",
            rate(one.0),
            one.1,
            rate(two.0),
            two.1,
            one.0 / two.0
        );
    }
}
