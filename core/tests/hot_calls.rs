//! Hot calls allocate nothing: a counting allocator watches decode steps of every preset.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tersa_core::kv::{LayerShape, PqCache, PqConfig, Preset};
use tersa_core::num::DType;
use tersa_core::num::convert::from_f32;
use tersa_core::num::rng::Xoshiro256pp;

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is the system allocator's with the same arguments; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

const D: usize = 64;
const STEPS: usize = 600;
const PROMPT: usize = 1500;

/// Rows `[n][heads][D]` of numbers around a few centres.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..n).map(|i| ((i / D % 7) as f64 * 0.3 + rng.f64() * 2.0 - 1.0) as f32).collect()
}

fn halves(n: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; 2 * n];
    from_f32(DType::F16, &floats(n, seed), &mut out).unwrap();
    out
}

/// Decode steps of which each may allocate only as much as rows and codes grow by whole blocks.
fn decode(config: &PqConfig, group: usize) {
    let heads = 2;
    let shape = LayerShape { n_kv_heads: heads, group, dim_v: D, keys: DType::F16, values: DType::F16 };
    let mut cache = PqCache::new(config, shape).unwrap();
    let mut scratch = cache.scratch(PROMPT + STEPS).unwrap();
    let width = heads * D;
    let (keys, values) = (halves(PROMPT * width, 1), halves(PROMPT * width, 2));
    let queries = floats(200 * group * width, 3);
    cache.prefill(&keys, &values, &queries, &mut scratch).unwrap();
    let (mut out, mut lse) = (vec![0.0; group * width], vec![0.0; group * heads]);
    let (key, value) = (halves(STEPS * width, 4), halves(STEPS * width, 5));
    let q = floats(STEPS * group * width, 6);
    let mut grown = 0;
    for step in 0..STEPS {
        let row = step * 2 * width..(step + 1) * 2 * width;
        let q = &q[step * group * width..][..group * width];
        let (before, bytes) = (ALLOCATIONS.get(), cache.heap_bytes());
        cache.step(q, 0.125, &key[row.clone()], &value[row], &mut out, &mut lse, &mut scratch).unwrap();
        let allocations = ALLOCATIONS.get() - before;
        let grows = cache.heap_bytes() != bytes;
        assert!(allocations == 0 || grows, "group {group}, step {step}: {allocations} allocations");
        grown += usize::from(grows);
    }
    // Blocks of 512 (second level), 1024 (rows) and 2048 (codes) tokens, the last block of rows by doubling.
    assert!((1..20).contains(&grown), "group {group}: {grown} of {STEPS} steps grew");
}

#[test]
fn decode_steps_allocate_only_as_blocks_fill() {
    for preset in Preset::ALL {
        for group in [1, 3] {
            decode(&preset.config(D).unwrap(), group);
        }
    }
}
