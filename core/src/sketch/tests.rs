use super::*;
use crate::num::rng::Xoshiro256pp;
use proptest::prelude::*;
use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

fn params(rows: u32, buckets: u32) -> SketchParams {
    SketchParams { rows, buckets, threshold: Threshold::Auto, half_life: None, seed: 3 }
}

/// Ids `0..n`, id `i` with a share of about `(i + 1)^-z`.
#[allow(clippy::cast_possible_truncation, reason = "ids are below 2^32")]
fn zipf(n: usize, z: f64, len: usize, seed: u64) -> Vec<u32> {
    let mut sums: Vec<f64> = (1..=n).map(|r| (r as f64).powf(-z)).collect();
    for i in 1..n {
        sums[i] += sums[i - 1];
    }
    let mut rng = Xoshiro256pp::new(seed);
    let draw = |u: f64| sums.partition_point(|s| *s < u * sums[n - 1]).min(n - 1) as u32;
    (0..len).map(|_| draw(rng.f64())).collect()
}

fn counts(ids: &[u32]) -> HashMap<u32, u32> {
    let mut counts = HashMap::new();
    for id in ids {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

/// Follows events and holds them against what the sketch says.
#[derive(Default)]
struct Owners<I>(HashMap<u32, I>);

impl<I: Id + core::hash::Hash> Owners<I> {
    fn hear(&mut self, event: Event<I>) {
        match event {
            Event::Hot { id, row } => assert_eq!(self.0.insert(row, id), None, "row {row} has an owner"),
            Event::Cold { id, row } => {
                assert_eq!(self.0.remove(&row), Some(id), "row {row} had another owner")
            }
        }
    }

    fn check<P: Admission, const C: usize>(&self, sketch: &HotSketch<I, P, C>) {
        let mut hot = HashMap::new();
        sketch.for_each_hot(|id, row| assert_eq!(hot.insert(row, id), None, "row {row} is owned twice"));
        assert_eq!(hot, self.0);
        assert_eq!(hot.len(), sketch.hot() as usize);
        assert!(sketch.hot() <= sketch.params().rows);
        let (rows, ids): (Vec<u32>, Vec<I>) = hot.into_iter().unzip();
        let mut found = vec![0; rows.len()];
        sketch.query(&ids, &mut found).unwrap();
        assert_eq!(found, rows);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn events_tell_who_owns_what(
        rows in 1_u32..40,
        buckets in 1_u32..20,
        seed: u64,
        half_life in proptest::option::of(50.0_f32..5000.0),
        fixed in proptest::option::of(1.0_f32..30.0),
        batches in proptest::collection::vec(0_usize..300, 1..12),
    ) {
        let threshold = fixed.map_or(Threshold::Auto, Threshold::Fixed);
        let params = SketchParams { rows, buckets, threshold, half_life, seed };
        let mut narrow = HotSketch::<u32>::new(params).unwrap();
        let mut wide = HotSketch::<u64, SpaceSaving, 10>::new(params).unwrap();
        let (mut owners, mut wide_owners) = (Owners::default(), Owners::default());
        let mut stream = zipf(300, 1.1, batches.iter().sum(), seed);
        for n in batches {
            let rest = stream.split_off(n);
            let ids: Vec<u64> = stream.iter().map(|id| u64::from(*id) << 35 | 5).collect();
            narrow.insert(&stream, |e| owners.hear(e));
            wide.insert(&ids, |e| wide_owners.hear(e));
            owners.check(&narrow);
            wide_owners.check(&wide);
            stream = rest;
        }
        wide.decay(0.25, |e| wide_owners.hear(e)).unwrap();
        wide_owners.check(&wide);
        let other = narrow.clone();
        narrow.merge(&other, |e| owners.hear(e)).unwrap();
        owners.check(&narrow);
    }

    /// Bytes read back go on as the sketch itself does.
    #[test]
    fn bytes_round_trip(seed: u64, n in 0_usize..2000, half_life in proptest::option::of(1.0_f32..500.0)) {
        let stream = zipf(500, 1.0, n + 500, seed);
        let mut sketch = HotSketch::<u64>::new(SketchParams { half_life, seed, ..params(20, 15) }).unwrap();
        let ids: Vec<u64> = stream.iter().map(|id| u64::from(*id) * 0x1_0000_0001).collect();
        sketch.insert(&ids[..n], |_| ());
        let mut read = HotSketch::<u64>::from_bytes(&sketch.to_bytes()).unwrap();
        let (mut events, mut again) = (Vec::new(), Vec::new());
        sketch.insert(&ids[n..], |e| events.push(e));
        read.insert(&ids[n..], |e| again.push(e));
        prop_assert_eq!(events, again);
        prop_assert_eq!(sketch.to_bytes(), read.to_bytes());
    }

    #[test]
    fn damaged_bytes_never_panic(at in 0_usize..6000, with: u8, cut in 0_usize..6000) {
        let mut sketch = HotSketch::<u32>::new(params(8, 6)).unwrap();
        sketch.insert(&zipf(100, 1.0, 500, 1), |_| ());
        let mut bytes = sketch.to_bytes();
        let n = bytes.len();
        prop_assert!(HotSketch::<u32>::from_bytes(&bytes[..cut % n]).is_err());
        bytes[at % n] = with;
        if let Ok(mut read) = HotSketch::<u32>::from_bytes(&bytes) {
            read.insert(&zipf(100, 1.0, 500, 2), |_| ());
        }
    }

    #[test]
    fn randomised_merging_keeps_the_sum(seed: u64) {
        let streams = [zipf(400, 1.1, 900, seed), zipf(400, 1.1, 700, seed ^ 1)];
        let [mut a, b] = streams.map(|ids| {
            let mut sketch = HotSketch::<u32>::new(params(10, 8)).unwrap();
            sketch.insert(&ids, |_| ());
            sketch
        });
        let sum = |s: &HotSketch<u32>| (0..400).filter_map(|id| s.score(id)).map(f64::from).sum::<f64>();
        let before = sum(&a) + sum(&b);
        a.merge(&b, |_| ()).unwrap();
        prop_assert!((sum(&a) - before).abs() < 1e-3 * before, "{} {}", sum(&a), before);
    }

    #[test]
    fn space_saving_merging_keeps_upper_bounds(seed: u64) {
        let streams = [zipf(400, 1.1, 900, seed), zipf(400, 1.1, 700, seed ^ 1)];
        let all = counts(&streams.concat());
        let [mut a, b] = streams.map(|ids| {
            let mut sketch = HotSketch::<u32, SpaceSaving>::new(params(1, 8)).unwrap();
            sketch.insert(&ids, |_| ());
            sketch
        });
        a.merge(&b, |_| ()).unwrap();
        for (id, n) in all {
            // A row that was taken keeps its slot from being replaced, and what is dropped then is not in the bound.
            if let Some(score) = a.score(id) {
                prop_assert!(score + 250.0 >= n as f32, "{id}: {score} of {n}");
            }
        }
    }
}

/// Section A of CAFE's supplement: on a Zipf stream an id with a share of more than `g` is held with a probability above
/// `sup_e 3^-e (1 - e / ((c - 1) g (e w)^z))`.
#[test]
fn heavy_ids_are_held_as_often_as_the_theory_says() {
    fn held<P: Admission, const C: usize>(z: f64) {
        const STREAMS: u64 = 12;
        let (n, w) = (50_000, 64_u32);
        let total: f64 = (1..=n).map(|r| (r as f64).powf(-z)).sum();
        let mut held = [0_u32; 256];
        for seed in 0..STREAMS {
            let params = SketchParams { seed, ..params(1, w) };
            let mut sketch = HotSketch::<u32, P, C>::new(params).unwrap();
            sketch.insert(&zipf(n, z, 60_000, seed), |_| ());
            for (id, held) in (0_u32..).zip(&mut held) {
                *held += u32::from(sketch.score(id).is_some());
            }
        }
        // Ids in groups of eight, so that there are enough trials; the last of a group has the least share.
        for (group, held) in held.chunks(8).enumerate() {
            let g = ((group * 8 + 8) as f64).powf(-z) / total;
            let bound = (1..200)
                .map(|i| f64::from(i) * 0.02)
                .map(|e| 3.0_f64.powf(-e) * (1.0 - e / ((C as f64 - 1.0) * g * (e * f64::from(w)).powf(z))))
                .fold(0.0, f64::max);
            let trials = 8.0 * STREAMS as f64;
            let share = f64::from(held.iter().sum::<u32>()) / trials;
            let deviation = (bound * (1.0 - bound) / trials).sqrt();
            assert!(share >= bound - 3.0 * deviation, "z={z} slots {C} group {group}: {share} below {bound}");
        }
    }
    for z in [1.1, 1.4] {
        held::<SpaceSaving, 5>(z);
        held::<Randomised, 5>(z);
        held::<Randomised, 10>(z);
        held::<Decaying, 5>(z);
    }
}

#[test]
fn most_of_the_true_top_owns_rows() {
    let stream = zipf(200_000, 1.05, 400_000, 7);
    let counts = counts(&stream);
    let rows = 500;
    let buckets = HotSketch::<u32>::buckets_in(rows as usize * 51 + 4096, rows);
    let mut ranked: Vec<u32> = counts.keys().copied().collect();
    ranked.sort_unstable_by_key(|id| (core::cmp::Reverse(counts[id]), *id));
    let top = |id: &u32| ranked[..rows as usize].contains(id);
    let mut ours = HotSketch::<u32>::new(params(rows, buckets)).unwrap();
    ours.insert(&stream, |_| ());
    let least = counts[&ranked[rows as usize - 1]] as f32;
    let fixed = SketchParams { threshold: Threshold::Fixed(least), ..params(rows, buckets) };
    let mut published = HotSketch::<u32, SpaceSaving>::new(fixed).unwrap();
    published.insert(&stream, |_| ());
    let mut found = [0_u32; 2];
    ours.for_each_hot(|id, _| found[0] += u32::from(top(&id)));
    published.for_each_hot(|id, _| found[1] += u32::from(top(&id)));
    let [ours, published] = found.map(|n| f64::from(n) / f64::from(rows));
    assert!(ours > 0.9 && published < ours - 0.1, "{ours} {published}");
}

/// The pool is full of yesterday's ids; today's take over.
#[test]
fn a_full_pool_follows_a_changed_stream() {
    let mut sketch =
        HotSketch::<u32>::new(SketchParams { half_life: Some(20_000.0), ..params(100, 120) }).unwrap();
    sketch.insert(&zipf(5000, 1.2, 100_000, 1), |_| ());
    assert!(sketch.hot() >= 95, "{}", sketch.hot());
    let today: Vec<u32> = zipf(5000, 1.2, 200_000, 2).iter().map(|id| id + 10_000).collect();
    sketch.insert(&today, |_| ());
    let mut out = vec![0; 60];
    sketch.query(&(10_000..10_060).collect::<Vec<_>>(), &mut out).unwrap();
    assert!(out.iter().filter(|r| **r != COLD).count() >= 57, "{out:?}");
    let mut old = 0;
    sketch.for_each_hot(|id, _| old += u32::from(id < 10_000));
    assert!(old <= 3, "{old} rows are still yesterday's");
}

#[test]
fn half_life_halves() {
    let half_life = Some(64.0);
    let mut sketch = HotSketch::<u32>::new(SketchParams { half_life, ..params(4, 4) }).unwrap();
    sketch.insert_weighted(&[7], &[1000.0], |_| ()).unwrap();
    let mut expected = 1000.0 * 0.5_f64.powf(1.0 / 64.0);
    // Over several epochs of 16 halvings.
    for round in 0..40 {
        let got = f64::from(sketch.score(7).unwrap());
        assert!((got - expected).abs() < 1e-3 * expected, "round {round}: {got} {expected}");
        sketch.insert_weighted(&[9; 64], &[0.0; 64], |_| ()).unwrap();
        expected *= 0.5;
    }
}

#[test]
fn a_fixed_threshold_does_as_published() {
    let fixed = SketchParams { threshold: Threshold::Fixed(3.0), ..params(1, 1) };
    let mut sketch = HotSketch::<u32, SpaceSaving>::new(fixed).unwrap();
    let mut events = Vec::new();
    sketch.insert(&[1, 2, 1, 1, 2, 2, 2, 2], |e| events.push(e));
    // The pool has one row: whoever comes later goes without.
    assert_eq!(events, [Event::Hot { id: 1, row: 0 }]);
    // Newcomers inherit, but the hot id stays.
    sketch.insert(&[3, 4, 5, 6, 7, 8], |e| events.push(e));
    assert_eq!((sketch.score(1), sketch.hot(), events.len()), (Some(3.0), 1, 1));
    sketch.decay(0.99, |e| events.push(e)).unwrap();
    assert_eq!(events[1..], [Event::Cold { id: 1, row: 0 }]);
    assert_eq!(sketch.hot(), 0);
}

#[test]
fn importance_decides_where_weights_do() {
    let mut sketch = HotSketch::<u32>::new(params(2, 40)).unwrap();
    for _ in 0..2000 {
        sketch.insert_weighted(&[1, 2, 3, 4, 4], &[3.0, 4.0, 1.0, 0.5, 0.5], |_| ()).unwrap();
    }
    let mut out = [0; 4];
    sketch.query(&[1, 2, 3, 4], &mut out).unwrap();
    assert!(out[0] != COLD && out[1] != COLD && out[2] == COLD && out[3] == COLD, "{out:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let new = HotSketch::<u32>::new;
    assert_eq!(new(params(0, 1)).err(), Some(SketchError::Rows { rows: 0 }));
    assert_eq!(new(params(1, 0)).err(), Some(SketchError::Buckets));
    let fixed = SketchParams { threshold: Threshold::Fixed(-1.0), ..params(1, 1) };
    assert_eq!(new(fixed).err(), Some(SketchError::Parameter { name: "threshold", value: -1.0 }));
    let mut sketch = new(params(1, 1)).unwrap();
    let mut insert = |weights: &[f32]| sketch.insert_weighted(&[1, 2], weights, |_| ());
    assert_eq!(insert(&[1.0]), Err(SketchError::Length { expected: 2, got: 1 }));
    assert_eq!(insert(&[1.0, -1.0]), Err(SketchError::Weight { index: 1, weight: -1.0 }));
    assert!(insert(&[1.0, f32::NAN]).is_err() && insert(&[f32::INFINITY, 1.0]).is_err());
    assert!(sketch.decay(1.5, |_| ()).is_err() && sketch.query(&[1], &mut []).is_err());
    let other = new(SketchParams { seed: 4, ..params(1, 1) }).unwrap();
    assert_eq!(sketch.merge(&other, |_| ()), Err(SketchError::Unlike { what: "seed" }));
    assert_eq!((sketch.seen(), sketch.hot()), (0, 0));
}

#[test]
fn memory_is_what_is_held() {
    let sketch = HotSketch::<u32>::new(params(1000, 800)).unwrap();
    assert_eq!(sketch.len_bytes(), 800 * 64 + 16 * 8 + 4096);
    let sketch = HotSketch::<u64, Randomised, 10>::new(params(1000, 400)).unwrap();
    assert_eq!(sketch.len_bytes(), 400 * 128 + 16 * 8 + 4096 + 8000);
    for bytes in [5000, 51_000, 1_000_000] {
        let buckets = HotSketch::<u32>::buckets_in(bytes, 700);
        let held = |buckets| HotSketch::<u32>::new(params(700, buckets)).unwrap().len_bytes();
        assert!(held(buckets) <= bytes && held(buckets + 1) > bytes);
    }
}
