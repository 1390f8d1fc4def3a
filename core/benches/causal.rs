//! Causal attention of a whole prompt, one head and one thread.
//!
//! Limit: the rate of multiply-adds, which a loop of nothing else measures in the same rounds. Times are first quartiles
//! of rounds in which all candidates take turns. Operations are counted as `4 d` for each pair of row and key it sees.
//!
//! `cargo bench -p tersa-core --bench causal [-- 2048 8192 64 128 256 group]`
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a report of measurements")]

use std::hint::black_box;
use std::time::Instant;
use tersa_core::attention::{Causal, Maxima, Prompt, Rows};
use tersa_core::cpu::{self, Level};
use tersa_core::num::DType;
use tersa_core::num::convert::from_f32;
use tersa_core::num::rng::Xoshiro256pp;

fn bytes(dtype: DType, n: usize, seed: u64) -> Vec<u8> {
    let mut rng = Xoshiro256pp::new(seed);
    #[allow(clippy::cast_possible_truncation, reason = "random numbers")]
    let numbers: Vec<f32> =
        (0..n).map(|_| (0..4).map(|_| rng.f64() as f32 - 0.5).sum::<f32>() * 1.7).collect();
    let mut bytes = vec![0; dtype.bytes_for(n).expect("whole blocks")];
    from_f32(dtype, &numbers, &mut bytes).expect("finite numbers");
    bytes
}

struct Head {
    d: usize,
    n: usize,
    group: usize,
    dtype: DType,
    q: Vec<Vec<u8>>,
    k: Vec<u8>,
    v: Vec<u8>,
}

impl Head {
    fn new(d: usize, n: usize, group: usize, dtype: DType) -> Self {
        let q = (0..group).map(|g| bytes(dtype, n * d, g as u64 + 3)).collect();
        Self { d, n, group, dtype, q, k: bytes(dtype, n * d, 1), v: bytes(dtype, n * d, 2) }
    }

    fn attend(&self, causal: &mut Causal, out: &mut [f32], lse: &mut [f32], most: Option<&mut [f32]>) {
        let rows = |bytes| Rows::contiguous(bytes, self.dtype, self.d).expect("whole rows");
        let queries: Vec<Rows<'_>> = self.q.iter().map(|q| rows(q)).collect();
        let scale = (self.d as f32).sqrt().recip();
        let prompt = Prompt { queries: &queries, keys: rows(&self.k), values: rows(&self.v), scale };
        let maxima = most.map(|out| Maxima { block: 32, out });
        causal.attend(&prompt, 0..self.n, out, lse, maxima).expect("everything fits");
        black_box(&out);
    }

    fn operations(&self) -> f64 {
        4.0 * self.d as f64 * self.group as f64 * self.n as f64 * (self.n as f64 + 1.0) / 2.0
    }
}

/// Operations a second of independent multiply-adds.
#[cfg(target_arch = "x86_64")]
fn roof() -> f64 {
    const TIMES: u32 = 1 << 20;

    #[target_feature(enable = "avx512f")]
    fn wide() -> f32 {
        use core::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
        let (a, b) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(0.001)));
        let mut x = [_mm512_set1_ps(1.0); 16];
        for _ in 0..TIMES {
            for x in &mut x {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        x.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    fn narrow() -> f32 {
        use core::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
        let (a, b) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
        let mut x = [_mm256_set1_ps(1.0); 12];
        for _ in 0..TIMES {
            for x in &mut x {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        x.into_iter().map(|x| _mm256_cvtss_f32(x)).sum()
    }

    let start = Instant::now();
    let (sum, each) = match cpu::level() {
        // SAFETY: the level says that the processor has the features.
        Level::Avx512 => (unsafe { wide() }, 2 * 16 * 16),
        // SAFETY: as above.
        Level::Avx2 => (unsafe { narrow() }, 2 * 8 * 12),
        _ => return f64::NAN,
    };
    black_box(sum);
    f64::from(TIMES * each) / start.elapsed().as_secs_f64()
}

#[cfg(not(target_arch = "x86_64"))]
fn roof() -> f64 {
    f64::NAN
}

fn quartile(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

fn report(head: &Head, level: Level, rounds: usize) {
    let level = cpu::lower_to(level);
    let rows = head.group * head.n;
    let mut causal = Causal::new(head.group, head.d, head.d).expect("heads");
    let (mut out, mut lse) = (vec![0.0; rows * head.d], vec![0.0; rows]);
    let mut most = vec![0.0; rows * head.n.div_ceil(32)];
    let (mut plain, mut with, mut roofs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        roofs.push(-roof());
        let start = Instant::now();
        head.attend(&mut causal, &mut out, &mut lse, None);
        plain.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        head.attend(&mut causal, &mut out, &mut lse, Some(&mut most));
        with.push(start.elapsed().as_secs_f64());
    }
    let (plain, with, roof) = (quartile(&mut plain), quartile(&mut with), -quartile(&mut roofs));
    let rate = head.operations() / plain;
    println!(
        "{level:<7} {:<5} d {:>3} n {:>5} group {}: {:>8.2} ms, {:>6.1} GFLOP/s, {:>3.0} % of {:>5.1}; with maxima {:+.1} %",
        head.dtype.to_string(),
        head.d,
        head.n,
        head.group,
        plain * 1e3,
        rate / 1e9,
        100.0 * rate / roof,
        roof / 1e9,
        100.0 * (with / plain - 1.0),
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |word: &str| words.is_empty() || words.iter().any(|w| w == word);
    let top = cpu::level();
    for n in [2048, 8192].into_iter().filter(|n| wanted(&n.to_string())) {
        for d in [64, 128, 256].into_iter().filter(|d| wanted(&d.to_string())) {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                report(&Head::new(d, n, 1, dtype), top, 5);
            }
            if d == 128 {
                report(&Head::new(d, n, 1, DType::F32), Level::Avx2.min(top), 3);
            }
        }
    }
    if wanted("group") {
        report(&Head::new(128, 2048, 4, DType::F16), top, 5);
    }
}
