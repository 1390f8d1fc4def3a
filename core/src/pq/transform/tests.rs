use super::*;
use crate::num::rng::Xoshiro256pp;
use crate::pq::{Codebook, TrainParams, train};
use std::{format, fs, path::Path};

/// Normal numbers with the sizes `scale(j)`, mixed by one fixed matrix so that coordinates are related.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn rows(seed: u64, n: usize, d: usize, scale: impl Fn(usize) -> f64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    let mut out = Vec::with_capacity(n * d);
    for _ in 0..n {
        let x: Vec<f64> = (0..d).map(|j| ((0..6).map(|_| rng.f64()).sum::<f64>() - 3.0) * scale(j)).collect();
        out.extend((0..d).map(|j| (x[j] + 0.5 * x[(j + 1) % d] - 0.3 * x[(j + 7) % d]) as f32));
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn shape(d: usize, m: usize) -> PqShape {
    PqShape::new(d, m, 6).unwrap()
}

/// Mean squared error of scores of `queries` with codes of `keys`.
fn score_error(transform: &KeyTransform, keys: &[f32], queries: &[f32], shape: PqShape) -> f64 {
    let d = shape.d();
    let (mut k, mut q) = (keys.to_vec(), queries.to_vec());
    transform.keys(keys, &mut k).unwrap();
    transform.queries(queries, &mut q).unwrap();
    let (codebook, _): (Codebook, _) = train(&k, shape, &TrainParams::default()).unwrap();
    let mut codes = vec![0; k.len() / d * shape.m()];
    codebook.encode(&k, &mut codes).unwrap();
    let mut decoded = vec![0.0; k.len()];
    codebook.decode(&codes, &mut decoded).unwrap();
    let errors = k.chunks(d).zip(decoded.chunks(d)).flat_map(|(k, c)| {
        let e: Vec<f32> = k.iter().zip(c).map(|(k, c)| k - c).collect();
        q.chunks(d).map(move |q| dot(q, &e).powi(2)).collect::<Vec<_>>()
    });
    errors.sum::<f64>() / count(k.len() / d * (q.len() / d))
}

#[test]
fn products_are_kept_and_all_levels_learn_the_same() {
    for (d, m) in [(2, 1), (8, 2), (33, 5), (64, 10), (80, 12), (128, 12)] {
        let keys = rows(1, 3 * d + 200, d, |j| 1.0 / count(1 + j));
        let queries = rows(2, 400, d, |j| if j % 3 == 0 { 3.0 } else { 0.2 });
        let params = TransformParams::default();
        let mut first: Option<KeyTransform> = None;
        for level in cpu::levels() {
            let got = KeyTransform::train_at(level, &keys, &queries, shape(d, m), &params).unwrap();
            assert_eq!(first.get_or_insert_with(|| got.clone()), &got, "d = {d}, {level}");
        }
        let transform = first.unwrap();
        assert!(!transform.is_identity(), "d = {d}");
        let (mut k, mut q) = (keys.clone(), queries.clone());
        transform.keys(&keys, &mut k).unwrap();
        transform.queries(&queries, &mut q).unwrap();
        for i in 0..50 {
            let at = |x: &[f32]| x[i * d..][..d].to_vec();
            let (want, got) = (dot(&at(&queries), &at(&keys)), dot(&at(&q), &at(&k)));
            let size = (dot(&at(&queries), &at(&queries)) * dot(&at(&keys), &at(&keys))).sqrt();
            assert!((want - got).abs() < 1e-4 * size, "d = {d}: {got} for {want}");
        }
        let mut bytes = vec![0; transform.len_bytes()];
        transform.to_bytes(&mut bytes).unwrap();
        assert_eq!(KeyTransform::from_bytes(d, &bytes).unwrap(), transform);
    }
}

#[test]
fn queries_that_look_one_way_are_served_better() {
    let (d, m) = (64, 10);
    let keys = rows(3, 1500, d, |j| if j < 32 { 2.0 } else { 0.5 });
    let queries = rows(4, 600, d, |j| if j % 8 == 0 { 4.0 } else { 0.1 });
    let transform = KeyTransform::train(&keys, &queries, shape(d, m), &TransformParams::default()).unwrap();
    let asked = rows(5, 40, d, |j| if j % 8 == 0 { 4.0 } else { 0.1 });
    let plain = score_error(&KeyTransform::identity(d), &keys, &asked, shape(d, m));
    let better = score_error(&transform, &keys, &asked, shape(d, m));
    assert!(better < 0.7 * plain, "{better} against {plain}");
}

#[test]
fn sub_spaces_get_their_fair_share() {
    let values: Vec<f64> = (0..64).map(|i| libm::exp(-0.2 * count(i))).collect();
    let shape = shape(64, 10);
    let order = deal(&values, shape);
    let mut seen = order.clone();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..64));
    let logs: Vec<f64> = (0..10)
        .map(|s| order[shape.start(s)..shape.start(s + 1)].iter().map(|i| libm::log(values[*i])).sum::<f64>())
        .collect();
    let plain: Vec<f64> = (0..10)
        .map(|s| (shape.start(s)..shape.start(s + 1)).map(|i| libm::log(values[i])).sum::<f64>())
        .collect();
    let spread =
        |x: &[f64]| x.iter().fold(f64::MIN, |a, b| a.max(*b)) - x.iter().fold(f64::MAX, |a, b| a.min(*b));
    assert!(spread(&logs) < 0.25 * spread(&plain), "{logs:?}");
}

#[test]
fn without_enough_to_learn_from_rows_stay_as_they_are() {
    let d = 16;
    let keys = rows(6, 300, d, |_| 1.0);
    let queries = rows(7, 100, d, |_| 1.0);
    let params = TransformParams::default();
    let cases: [(&[f32], &[f32], &str); 4] = [
        (&keys, &[], "no queries"),
        (&keys, &queries[..63 * d], "few queries"),
        (&keys[..d * d], &queries, "few keys"),
        (&keys, &vec![0.0; 100 * d], "queries of zeros"),
    ];
    for (keys, queries, what) in cases {
        let transform = KeyTransform::train(keys, queries, shape(d, 4), &params).unwrap();
        assert!(transform.is_identity(), "{what}");
        assert_eq!((transform.heap_bytes(), transform.len_bytes()), (0, 0));
        let mut out = vec![0.0; keys.len()];
        transform.keys(keys, &mut out).unwrap();
        assert_eq!(out, keys);
    }
}

/// Two of Gemma 3 270M's global layers have coordinates that are zero in all keys and queries.
#[test]
fn coordinates_that_are_always_zero_do_not_hinder() {
    let (d, m) = (64, 10);
    let look = |j: usize| if j.is_multiple_of(8) { 4.0 } else { 0.1 };
    let (mut keys, mut queries) =
        (rows(3, 1500, d, |j| if j < 32 { 2.0 } else { 0.5 }), rows(4, 600, d, look));
    let mut asked = rows(5, 40, d, look);
    for row in queries.chunks_mut(d).chain(asked.chunks_mut(d)).chain(keys.chunks_mut(d)) {
        (row[3], row[40], row[41]) = (0.0, 0.0, 0.0);
    }
    let transform = KeyTransform::train(&keys, &queries, shape(d, m), &TransformParams::default()).unwrap();
    assert!(!transform.is_identity());
    let plain = score_error(&KeyTransform::identity(d), &keys, &asked, shape(d, m));
    let better = score_error(&transform, &keys, &asked, shape(d, m));
    assert!(better < 0.7 * plain, "{better} against {plain}");
    // A key that uses them all the same still has its products, with queries that do too.
    let (key, query) = (rows(6, 1, d, |_| 1.0), rows(7, 1, d, |_| 1.0));
    let (mut k, mut q) = (key.clone(), query.clone());
    transform.keys(&key, &mut k).unwrap();
    transform.queries(&query, &mut q).unwrap();
    let size = (dot(&key, &key) * dot(&query, &query)).sqrt();
    assert!((dot(&q, &k) - dot(&query, &key)).abs() < 1e-4 * size);
}

#[test]
fn bits_go_to_the_directions_that_vary_most() {
    // Four bits for two equal directions: two each, a sixteenth of the variance is left.
    let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-12 * y.max(1.0), "{x} for {y}");
    near(least_error(&mut [(1.0, 1.0), (1.0, 3.0)], 4), 4.0 / 16.0);
    // One direction far above the other has all bits; the other errs by all it varies.
    near(least_error(&mut [(0.001, 5.0), (1.0, 1.0)], 4), 1.0 / 256.0 + 0.001 * 5.0);
    // Directions without variance take nothing and cost nothing.
    near(least_error(&mut [(0.0, 7.0), (1.0, 1.0), (0.0, 0.0)], 4), 1.0 / 256.0);
    near(least_error(&mut [(0.0, 7.0)], 6), 0.0);
}

#[test]
fn wrong_input_is_named() {
    let d = 16;
    let params = TransformParams::default();
    let mut keys = rows(8, 40, d, |_| 1.0);
    let mut queries = rows(9, 80, d, |_| 1.0);
    let length = KeyTransform::train(&keys[1..], &queries, shape(d, 4), &params);
    assert_eq!(length.err(), Some(PqError::Length { expected: 640, got: 639 }));
    queries[5 * d] = f32::INFINITY;
    let infinite = KeyTransform::train(&keys, &queries, shape(d, 4), &params);
    assert_eq!(infinite.err(), Some(PqError::NonFinite { row: 45 }));
    keys[7 * d + 1] = f32::NAN;
    let nan = KeyTransform::train(&keys, &queries, shape(d, 4), &params);
    assert_eq!(nan.err(), Some(PqError::NonFinite { row: 7 }));
    let identity = KeyTransform::identity(d);
    assert_eq!(identity.keys(&keys[..d], &mut [0.0; 3]), Err(PqError::Length { expected: 16, got: 3 }));
    assert!(KeyTransform::from_bytes(d, &[0; 9]).is_err());
    assert_eq!(
        KeyTransform::from_bytes(1, &[0, 0, 128, 63, 0, 0, 128, 127]).err(),
        Some(PqError::NonFinite { row: 1 })
    );
}

/// Keys and queries of a real model with few query vectors: 64 tokens of 3 heads.
#[test]
fn real_keys_are_coded_better_for_queries_that_come_later() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/smollm2-135m-1k-sample.safetensors");
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let words = file.tensor(name).unwrap().data().as_chunks::<2>().0;
        words.iter().map(|w| half::f16::from_le_bytes(*w).to_f32()).collect()
    };
    let (d, shape) = (64, shape(64, 10));
    for layer in [1, 6, 16, 26] {
        let (k, q) = (floats(&format!("k.L{layer}")), floats(&format!("q.L{layer}")));
        for head in 0..3 {
            let keys = &k[head * 1024 * d..][..960 * d];
            let part = |from: usize| -> Vec<f32> {
                let heads = (3 * head..3 * head + 3).map(|h| &q[(h * 128 + from) * d..][..64 * d]);
                heads.flatten().copied().collect()
            };
            let transform = KeyTransform::train(keys, &part(0), shape, &TransformParams::default()).unwrap();
            assert!(!transform.is_identity(), "layer {layer}, head {head}");
            let plain = score_error(&KeyTransform::identity(d), keys, &part(64), shape);
            let better = score_error(&transform, keys, &part(64), shape);
            assert!(better < 0.9 * plain, "layer {layer}, head {head}: {better} against {plain}");
        }
    }
}
