//! Heads split over a pool's threads give what one thread gives.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use tersa_core::kv::{LayerShape, PqCache, Preset, Refresh};
use tersa_core::num::DType;
use tersa_core::num::rng::Xoshiro256pp;

const D: usize = 32;
const HEADS: usize = 5;
const SHAPE: LayerShape =
    LayerShape { n_kv_heads: HEADS, group: 2, dim_v: D, keys: DType::F32, values: DType::F32 };

/// Rows of `n` tokens, as bytes and as numbers.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn rows(n: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let mut rng = Xoshiro256pp::new(seed);
    let numbers: Vec<f32> =
        (0..n * HEADS * D).map(|i| (i % D) as f32 * 0.1 + rng.f64() as f32 - 0.5).collect();
    (numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), numbers)
}

fn indexes(cache: &PqCache) -> Vec<Vec<u8>> {
    cache.heads().iter().map(|head| head.index_bytes()).collect()
}

#[test]
fn a_pool_gives_what_one_thread_gives() {
    let mut config = Preset::Default.config(D).unwrap();
    config.refresh = Refresh::Growth { share: 0.1, at_least: 1 };
    let mut here = PqCache::new(&config, SHAPE).unwrap();
    let mut split = here.clone();
    let mut scratch = here.scratch(0).unwrap();
    let (keys, values, queries) = (rows(700, 1).0, rows(700, 2).0, rows(2 * 100, 3).1);
    here.prefill(&keys, &values, &queries, &mut scratch).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| split.par_prefill(&keys, &values, &queries)).unwrap();
    assert_eq!(indexes(&here), indexes(&split));
    let before = indexes(&here);

    let (key, value) = (rows(100, 4).0, rows(100, 5).0);
    let row = HEADS * D * 4;
    for cache in [&mut here, &mut split] {
        for (key, value) in key.chunks(row).zip(value.chunks(row)) {
            for (h, head) in cache.heads_mut().iter_mut().enumerate() {
                let own = h * D * 4..(h + 1) * D * 4;
                head.append(&key[own.clone()], &value[own], &mut scratch).unwrap();
            }
        }
    }
    assert!(here.is_refresh_due());
    here.refresh(&mut scratch).unwrap();
    pool.install(|| split.par_refresh()).unwrap();
    assert_eq!(indexes(&here), indexes(&split));
    assert!(!split.is_refresh_due() && indexes(&here) != before);

    let mut bad = keys;
    bad[3 * row..3 * row + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(
        PqCache::new(&config, SHAPE).unwrap().prefill(&bad, &values, &queries, &mut scratch),
        PqCache::new(&config, SHAPE).unwrap().par_prefill(&bad, &values, &queries)
    );
}
