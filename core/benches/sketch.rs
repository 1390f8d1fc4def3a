//! HotSketch on a reproducible Zipf stream: speed, recall of the true top ids, share of the traffic on hot rows.
//!
//! The stream is that of a published harness in C++ style: ranks by rejection-inversion (Hörmann and Derflinger 1996) from
//! xoshiro256** over 33,762,577 ids (the categorical values of Criteo-Kaggle), spread by a bijection; batches of 2048.
//!
//! Limit of insertion and query: one cache line an id from the second-level cache; see `kernels/sketch`.
//!
//! `cargo bench -p tersa-core --bench sketch -- [sweep] [policies] [slots]`; times are the best of two or three rounds.
#![allow(clippy::print_stdout, reason = "a table is what this program is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts far below 2^52, ids below 2^32"
)]

use std::hint::black_box;
use std::time::Instant;
use tersa_core::cpu;
use tersa_core::num::hash::mix64;
use tersa_core::sketch::{
    Admission, COLD, Decaying, HotSketch, Randomised, SketchParams, SpaceSaving, Threshold,
};

const IDS: u64 = 33_762_577;
const STREAM: usize = 20_000_000;
const BATCH: usize = 2048;
const BYTES_A_ROW: usize = 51;

/// The harness's generator; the library has xoshiro256++ only.
struct Xoshiro256ss([u64; 4]);

impl Xoshiro256ss {
    fn new(seed: u64) -> Self {
        let nth = |n: u64| mix64(seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(n)));
        Self([nth(1), nth(2), nth(3), nth(4)])
    }

    fn unit(&mut self) -> f64 {
        let s = &mut self.0;
        let r = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        (r >> 11) as f64 * 2.0_f64.powi(-53)
    }
}

struct Zipf {
    z: f64,
    first: f64,
    last: f64,
    sure: f64,
}

impl Zipf {
    fn new(z: f64) -> Self {
        let mut zipf = Self { z, first: 0.0, last: 0.0, sure: 0.0 };
        zipf.first = zipf.area(1.5) - 1.0;
        zipf.last = zipf.area(IDS as f64 + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - 2.0_f64.powf(-z));
        zipf
    }

    fn area(&self, x: f64) -> f64 {
        let l = x.ln();
        let t = (1.0 - self.z) * l;
        if t.abs() > 1e-8 { t.exp_m1() / t * l } else { l * (1.0 + t / 2.0) }
    }

    fn area_inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.z)).max(-1.0);
        (if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 } * x).exp()
    }

    fn id(&self, rng: &mut Xoshiro256ss) -> u32 {
        let rank = loop {
            let u = self.last + rng.unit() * (self.first - self.last);
            let x = self.area_inverse(u);
            let k = ((x + 0.5) as u64).clamp(1, IDS);
            if k as f64 - x <= self.sure || u >= self.area(k as f64 + 0.5) - (k as f64).powf(-self.z) {
                break k;
            }
        };
        (1 + (rank - 1) * 1_000_003 % IDS) as u32
    }
}

struct Stream {
    z: f64,
    ids: Vec<u32>,
    queries: Vec<u32>,
    counts: Vec<u32>,
    /// Ids that came, most frequent first.
    ranked: Vec<u32>,
}

impl Stream {
    fn new(z: f64) -> Self {
        let (zipf, mut rng) = (Zipf::new(z), Xoshiro256ss::new(1));
        let ids: Vec<u32> = (0..STREAM).map(|_| zipf.id(&mut rng)).collect();
        let queries = (0..STREAM).map(|_| zipf.id(&mut rng)).collect();
        let mut counts = vec![0_u32; IDS as usize + 1];
        for id in &ids {
            counts[*id as usize] += 1;
        }
        let mut ranked: Vec<u32> = (1..=IDS as u32).filter(|id| counts[*id as usize] > 0).collect();
        ranked.sort_unstable_by_key(|id| (core::cmp::Reverse(counts[*id as usize]), *id));
        Self { z, ids, queries, counts, ranked }
    }

    fn traffic(&self, ids: impl Iterator<Item = u32>) -> f64 {
        ids.map(|id| u64::from(self.counts[id as usize])).sum::<u64>() as f64 / self.ids.len() as f64
    }
}

struct Timed {
    insert: f64,
    query: f64,
    hot: Vec<u32>,
    bytes: f64,
    changes: u64,
}

/// The best of `rounds`, in nanoseconds an id.
fn run<P: Admission + Clone, const C: usize>(
    stream: &Stream,
    rows: u32,
    threshold: Threshold,
    rounds: usize,
) -> Timed {
    let buckets = HotSketch::<u32, P, C>::buckets_in(rows as usize * BYTES_A_ROW, rows);
    let params = SketchParams { rows, buckets, threshold, half_life: None, seed: 1 };
    let (mut insert, mut query) = (f64::INFINITY, f64::INFINITY);
    let mut out = vec![0; BATCH];
    let (mut hot, mut bytes, mut changes) = (Vec::new(), 0.0, 0);
    for _ in 0..rounds {
        let mut sketch = HotSketch::<u32, P, C>::new(params).expect("rows and buckets are positive");
        changes = 0;
        let start = Instant::now();
        for ids in stream.ids.chunks(BATCH) {
            sketch.insert(ids, |_| changes += 1);
        }
        insert = insert.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for ids in stream.queries.chunks(BATCH) {
            let out = &mut out[..ids.len()];
            sketch.query(ids, out).expect("as many rows as ids");
            black_box(out);
        }
        query = query.min(start.elapsed().as_secs_f64());
        hot.clear();
        sketch.for_each_hot(|id, _| hot.push(id));
        bytes = sketch.len_bytes() as f64 / f64::from(rows);
        assert!(hot.iter().all(|id| {
            let mut row = [COLD];
            sketch.query(&[*id], &mut row).expect("one row for one id");
            row[0] != COLD
        }));
    }
    let nanos = 1e9 / stream.ids.len() as f64;
    Timed { insert: insert * nanos, query: query * nanos, hot, bytes, changes }
}

fn report(name: &str, stream: &Stream, rows: u32, t: &Timed) {
    let top = &stream.ranked[..(rows as usize - 1).min(stream.ranked.len())];
    let mut is_top = vec![false; IDS as usize + 1];
    for id in top {
        is_top[*id as usize] = true;
    }
    let found = t.hot.iter().filter(|id| is_top[**id as usize]).count() as f64;
    println!(
        "{name:<28} z={:.2} H={rows:<7} {:5.2} ns ({:3.0} M/s) {:5.2} ns ({:3.0} M/s)  {:.1} B/row  hot {:<7} recall {:.4} \
         precision {:.4}  traffic {:.4} of {:.4}  changes {}",
        stream.z,
        t.insert,
        1e3 / t.insert,
        t.query,
        1e3 / t.query,
        t.bytes,
        t.hot.len(),
        found / top.len() as f64,
        found / t.hot.len() as f64,
        stream.traffic(t.hot.iter().copied()),
        stream.traffic(top.iter().copied()),
        t.changes,
    );
}

fn oracle(stream: &Stream, rows: u32) -> Threshold {
    Threshold::Fixed(stream.counts[stream.ranked[rows as usize - 2] as usize] as f32)
}

fn main() {
    let what: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let asked = |name: &str| what.iter().any(|w| w == name);
    let rows = 15_434;
    let stream = Stream::new(1.05);
    println!("policy                        stream          insert            query");
    let top = cpu::level();
    for level in cpu::levels() {
        cpu::lower_to(level);
        let t = run::<Randomised, 5>(&stream, rows, Threshold::Auto, 3);
        report(&format!("randomised x5 auto {level}"), &stream, rows, &t);
    }
    cpu::lower_to(top);
    if asked("policies") {
        let fixed = oracle(&stream, rows);
        report("randomised x5 fixed", &stream, rows, &run::<Randomised, 5>(&stream, rows, fixed, 3));
        report("space-saving x5 fixed", &stream, rows, &run::<SpaceSaving, 5>(&stream, rows, fixed, 3));
        report(
            "space-saving x5 auto",
            &stream,
            rows,
            &run::<SpaceSaving, 5>(&stream, rows, Threshold::Auto, 3),
        );
        report("decaying x5 auto", &stream, rows, &run::<Decaying, 5>(&stream, rows, Threshold::Auto, 3));
    }
    if asked("slots") {
        report(
            "randomised x10 auto",
            &stream,
            rows,
            &run::<Randomised, 10>(&stream, rows, Threshold::Auto, 3),
        );
        report(
            "randomised x21 auto",
            &stream,
            rows,
            &run::<Randomised, 21>(&stream, rows, Threshold::Auto, 3),
        );
    }
    if asked("sweep") {
        for rows in [65_536, 262_144] {
            report(
                "randomised x5 auto",
                &stream,
                rows,
                &run::<Randomised, 5>(&stream, rows, Threshold::Auto, 2),
            );
        }
        for z in [1.1, 1.2, 1.4] {
            let stream = Stream::new(z);
            for rows in [15_434, 65_536, 262_144] {
                report(
                    "randomised x5 auto",
                    &stream,
                    rows,
                    &run::<Randomised, 5>(&stream, rows, Threshold::Auto, 2),
                );
            }
        }
    }
}
