//! Decode attention over the rows of one KV head: dense, hot and cold, and gathered by index.
//!
//! Limit: the bandwidth of reading the rows, which a loop that only adds them up measures in the same rounds. Cold
//! means that successive calls walk through 1.6 GB, several times the last-level cache, as the layers of a model do in
//! a decode step. Times are first quartiles of rounds in which all candidates take turns. Not criterion, which has no
//! notion of a buffer that must not be met again soon.
//!
//! `cargo bench -p tersa-core --bench attention [-- dense gather threads levels f16 bf16 f32 q8_0]`
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a report of measurements")]

use std::hint::black_box;
use std::time::Instant;
use tersa_core::attention::{Decode, Rows, Tokens};
use tersa_core::cpu::{self, Level};
use tersa_core::num::DType;
use tersa_core::num::convert::from_f32;
use tersa_core::num::rng::Xoshiro256pp;

const D: usize = 128;
const TYPES: [DType; 4] = [DType::F16, DType::Bf16, DType::F32, DType::Q8_0];
const SCALE: f32 = 0.088_388_35;

/// Bytes that cold calls walk through.
const COLD: usize = 1600 << 20;

const LINE: usize = 64;

/// Keys and values of several calls, one after the other.
struct Caches {
    data: Vec<u8>,
    dtype: DType,
    each: usize,
}

impl Caches {
    #[allow(clippy::cast_possible_truncation, reason = "random numbers")]
    fn new(dtype: DType, n: usize, data: Vec<u8>) -> Self {
        let mut rng = Xoshiro256pp::new(1);
        // A stretch of nearly normal numbers, repeated: what they are does not change the time.
        let stretch: Vec<f32> =
            (0..D * 1021).map(|_| (0..4).map(|_| rng.f64() as f32 - 0.5).sum::<f32>() * 1.7).collect();
        let mut bytes = vec![0; dtype.bytes_for(stretch.len()).expect("whole blocks")];
        from_f32(dtype, &stretch, &mut bytes).expect("finite numbers");
        let each = 2 * n * dtype.bytes_for(D).expect("whole blocks");
        let mut caches = Self { data, dtype, each };
        for piece in caches.data.chunks_mut(bytes.len()) {
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
        caches
    }

    fn len(&self) -> usize {
        (self.data.len() - LINE) / self.each
    }

    /// Rows start with a cache line, as engines lay them out.
    fn bytes(&self, i: usize) -> &[u8] {
        let start = self.data.as_ptr().align_offset(LINE);
        &self.data[start + i % self.len() * self.each..][..self.each]
    }

    fn rows(&self, i: usize) -> (Rows<'_>, Rows<'_>) {
        let (k, v) = self.bytes(i).split_at(self.each / 2);
        let rows = |bytes| Rows::contiguous(bytes, self.dtype, D).expect("whole rows");
        (rows(k), rows(v))
    }
}

/// Adds up all words; eight sums, so that loads are all that limits it.
#[inline(always)]
fn sum_words(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 64];
    for words in bytes.as_chunks::<512>().0 {
        for (sum, word) in sums.iter_mut().zip(words.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sum_avx512(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

fn sum(bytes: &[u8]) -> u64 {
    match cpu::level() {
        // SAFETY: the level exists only after detection saw the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { sum_avx512(bytes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { sum_avx2(bytes) },
        _ => sum_words(bytes),
    }
}

/// First quartile of each candidate's seconds over rounds in which they take turns.
fn rounds<const C: usize>(seconds: f64, least: usize, mut run: impl FnMut(usize, usize)) -> [f64; C] {
    let mut times: [Vec<f64>; C] = std::array::from_fn(|_| Vec::new());
    let start = Instant::now();
    let mut round = 0;
    while round < least || start.elapsed().as_secs_f64() < seconds {
        for (c, times) in times.iter_mut().enumerate() {
            let at = Instant::now();
            run(c, round);
            times.push(at.elapsed().as_secs_f64());
        }
        round += 1;
    }
    times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 4]
    })
}

fn queries(group: usize) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(2);
    #[allow(clippy::cast_possible_truncation, reason = "random numbers")]
    (0..group * D).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

fn attend(decode: &mut Decode, q: &[f32], rows: &(Rows<'_>, Rows<'_>), tokens: Tokens<'_>) {
    decode.reset();
    decode.add(q, SCALE, &rows.0, &rows.1, tokens).expect("tokens are in range");
    black_box(&decode);
}

#[allow(clippy::cast_precision_loss, reason = "sizes of buffers")]
fn gbs(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e9
}

fn dense(seconds: f64, wanted: &dyn Fn(&str) -> bool) {
    println!("dense, d = {D}; GB/s of keys and values; share of the bandwidth of adding up the same bytes");
    println!(
        "{:5} {:7} {:>4} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6}",
        "type", "tokens", "q", "hot us", "GB/s", "share", "cold us", "GB/s", "share"
    );
    let mut data = vec![0; COLD + LINE];
    for dtype in TYPES.into_iter().filter(|t| wanted(t.name())) {
        for n in [8192, 32_768, 131_072] {
            let caches = Caches::new(dtype, n, data);
            let q = queries(16);
            let mut decode: Vec<Decode> = [1, 4, 8].map(|g| Decode::new(g, D).expect("heads")).into();
            let run = |decode: &mut Vec<Decode>, c: usize, i: usize| match c {
                0 => {
                    black_box(sum(caches.bytes(i)));
                }
                c => {
                    let decode = &mut decode[c - 1];
                    let q = &q[..decode.group() * D];
                    attend(decode, q, &caches.rows(i), Tokens::Range(0..n));
                }
            };
            let hot: [f64; 4] =
                std::array::from_fn(|c| rounds::<1>(seconds / 8.0, 3, |_, _| run(&mut decode, c, 0))[0]);
            let mut next = 0;
            let cold: [f64; 4] = rounds(seconds, caches.len().min(8), |c, _| {
                run(&mut decode, c, next);
                next += 1;
            });
            for c in 0..4 {
                let (h, w) = (hot[c], cold[c]);
                let what = ["sum", "1", "4", "8"][c];
                println!(
                    "{:5} {:7} {:>4} {:9.1} {:9.2} {:5.1}% {:9.1} {:9.2} {:5.1}%",
                    dtype.name(),
                    n,
                    what,
                    h * 1e6,
                    gbs(caches.each, h),
                    100.0 * hot[0] / h,
                    w * 1e6,
                    gbs(caches.each, w),
                    100.0 * cold[0] / w
                );
            }
            data = caches.data;
        }
    }
}

/// Every `1/share`th token on average, ascending.
#[allow(clippy::cast_possible_truncation, reason = "token numbers")]
fn some(n: usize, share: f64, rng: &mut Xoshiro256pp) -> Vec<u32> {
    (0..n as u32).filter(|_| rng.f64() < share).collect()
}

fn gather(seconds: f64, wanted: &dyn Fn(&str) -> bool) {
    let n = 131_072;
    println!("gathered, d = {D}, {n} tokens, cold; GB/s of the rows that are used; ratio to dense attention");
    println!(
        "{:5} {:>6} {:>3} {:>9} {:>9} {:>9} {:>6}",
        "type", "share", "q", "us", "GB/s", "of sum", "dense"
    );
    let mut data = vec![0; COLD + LINE];
    for dtype in TYPES.into_iter().filter(|t| wanted(t.name())) {
        let caches = Caches::new(dtype, n, data);
        let mut rng = Xoshiro256pp::new(3);
        let lists: Vec<Vec<u32>> = [0.2, 0.1, 0.05, 0.02].map(|share| some(n, share, &mut rng)).into();
        for group in [1, 8] {
            let q = queries(group);
            let mut decode = Decode::new(group, D).expect("heads");
            let mut next = 0;
            let times: [f64; 6] = rounds(seconds, caches.len().min(8), |c, _| {
                match c {
                    0 => {
                        black_box(sum(caches.bytes(next)));
                    }
                    1 => attend(&mut decode, &q, &caches.rows(next), Tokens::Range(0..n)),
                    c => attend(&mut decode, &q, &caches.rows(next), Tokens::List(&lists[c - 2])),
                }
                next += 1;
            });
            for (list, t) in lists.iter().zip(&times[2..]) {
                let rate = gbs(caches.each / n * list.len(), *t);
                println!(
                    "{:5} {:5.1}% {:>3} {:9.1} {:9.2} {:8.1}% {:5.2}x",
                    dtype.name(),
                    100.0 * list.len() as f64 / n as f64,
                    group,
                    t * 1e6,
                    rate,
                    100.0 * rate / gbs(caches.each, times[0]),
                    times[1] / t
                );
            }
        }
        data = caches.data;
    }
}

fn threads(seconds: f64) {
    let n = 131_072;
    println!(
        "two threads, a KV head each, f16, d = {D}, {n} tokens, cold: seconds of one thread for both / of two"
    );
    let caches = Caches::new(DType::F16, n, vec![0; COLD + LINE]);
    for group in [1, 8] {
        let q = queries(group);
        let mut decode = [0, 1].map(|_| Decode::new(group, D).expect("heads"));
        let mut next = 0;
        let times: [f64; 4] = rounds(seconds, caches.len().min(8), |c, _| {
            let i = next;
            next += 2;
            let [a, b] = &mut decode;
            let one = |decode: &mut Decode, i| attend(decode, &q, &caches.rows(i), Tokens::Range(0..n));
            match c {
                0 => {
                    one(a, i);
                    one(b, i + 1);
                }
                1 => std::thread::scope(|s| {
                    s.spawn(|| one(a, i));
                    one(b, i + 1);
                }),
                2 => {
                    black_box(sum(caches.bytes(i)) ^ sum(caches.bytes(i + 1)));
                }
                _ => std::thread::scope(|s| {
                    s.spawn(|| black_box(sum(caches.bytes(i))));
                    black_box(sum(caches.bytes(i + 1)));
                }),
            }
        });
        println!(
            "q = {group}: {:.2}x ({:.1} -> {:.1} us); adding up: {:.2}x",
            times[0] / times[1],
            times[0] * 1e6,
            times[1] * 1e6,
            times[2] / times[3]
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (types, parts): (Vec<&str>, Vec<&str>) =
        args.iter().map(String::as_str).partition(|a| DType::from_name(a).is_some());
    let part = |name: &str| parts.is_empty() || parts.contains(&name);
    let wanted = |name: &str| types.is_empty() || types.contains(&name);
    println!("level: {}", cpu::level());
    if part("dense") {
        dense(1.0, &wanted);
    }
    if part("gather") {
        gather(2.0, &wanted);
    }
    if part("threads") {
        threads(3.0);
    }
    if part("levels") {
        for level in cpu::levels() {
            println!("level: {}", cpu::lower_to(level));
            dense(0.5, &wanted);
        }
    }
}
