use super::*;
use crate::num::rng::Xoshiro256pp;
use std::{vec, vec::Vec};

/// Sums of uniform numbers, a few channels louder than the others.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn rows(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..n * d)
        .map(|i| {
            let x = (0..4).map(|_| rng.f64()).sum::<f64>() - 2.0;
            (if i % d % 13 == 5 { 6.0 * x } else { x }) as f32
        })
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn all(codes: &RerankCodes, q: &[f32], group: usize) -> Vec<f32> {
    let mut query = RerankQuery::new(codes.head_dim(), group);
    codes.prepare(q, &mut query).unwrap();
    let tokens: Vec<u32> = (0..u32::try_from(codes.len()).unwrap()).collect();
    let mut out = vec![0.0; group * tokens.len()];
    codes.score(&query, &tokens, &mut out);
    out
}

fn packed(codes: &RerankCodes) -> Vec<u8> {
    let mut bytes = vec![0; codes.len() * codes.record_bytes()];
    codes.pack(0..codes.len(), &mut bytes);
    bytes
}

#[test]
fn scores_err_as_much_as_the_grid_says_and_have_no_shrinkage() {
    let n = 700;
    for (bits, distortion) in [(2, 0.1175f64), (3, 0.0345), (4, 0.0095)] {
        for d in [64, 96, 128, 256] {
            let x = rows(1, n, d);
            let q = rows(2, 16, d);
            let mut codes = RerankCodes::new(d, bits, 9).unwrap();
            codes.extend(&x).unwrap();
            let scores = all(&codes, &q, 16);
            let (mut error, mut expected) = (0.0, 0.0);
            for (h, q) in q.chunks(d).enumerate() {
                for (i, x) in x.chunks(d).enumerate() {
                    error += (f64::from(scores[h * n + i]) - dot(q, x)).powi(2);
                    expected += dot(q, q) * dot(x, x) * distortion / f64::from(u32::try_from(d).unwrap());
                }
            }
            // The factor undoes the shrinkage, for which it pays 1 / (1 - D). Rows that are no power of two long are rotated in two
            // windows, which leaves loud channels less evenly spread.
            let most = if d.is_power_of_two() { 1.35 } else { 2.6 };
            let ratio = error / expected;
            assert!((0.7..most).contains(&ratio), "{bits} bits, d = {d}: {ratio} of the expected error");
            for (i, x) in x.chunks(d).take(20).enumerate() {
                let own = f64::from(all(&codes, x, 1)[i]);
                // The rounded query, the rounded factor.
                assert!((own / dot(x, x) - 1.0).abs() < 0.015, "{bits} bits, d = {d}: {own}");
            }
        }
    }
}

#[test]
fn a_mean_far_from_zero_costs_nothing_when_subtracted() {
    let (d, n) = (64, 300);
    let mut x = rows(3, n, d);
    let mean: Vec<f32> = rows(4, 1, d).iter().map(|m| 20.0 * m).collect();
    x.chunks_mut(d).for_each(|x| x.iter_mut().zip(&mean).for_each(|(x, m)| *x += m));
    let q = rows(5, 1, d);
    let error = |codes: RerankCodes| {
        let mut codes = codes;
        codes.extend(&x).unwrap();
        let scores = all(&codes, &q, 1);
        x.chunks(d).zip(scores).map(|(x, s)| (f64::from(s) - dot(&q, x)).powi(2)).sum::<f64>()
    };
    let plain = error(RerankCodes::new(d, 3, 1).unwrap());
    let centred = error(RerankCodes::new(d, 3, 1).unwrap().with_mean(&mean).unwrap());
    assert!(centred * 100.0 < plain, "{centred} against {plain}");
    let mut codes = RerankCodes::new(d, 3, 1).unwrap();
    codes.extend(&x[..d]).unwrap();
    assert_eq!(codes.with_mean(&mean).err(), Some(RerankError::NotEmpty { len: 1 }));
}

#[test]
fn any_order_of_growing_and_changing_gives_the_same_records() {
    let (d, n) = (80, 2 * BLOCK + 77);
    let x = rows(6, n, d);
    for bits in [2, 3, 4] {
        let mut whole = RerankCodes::new(d, bits, 2).unwrap();
        whole.extend(&x).unwrap();
        let mut pieces = RerankCodes::new(d, bits, 2).unwrap();
        let mut at = 0;
        for step in [0, 1, 31, 33, 500, 7, 300, 1000] {
            let end = (at + step).min(n);
            pieces.extend(&x[at * d..end * d]).unwrap();
            at = end;
        }
        assert_eq!(packed(&whole), packed(&pieces));
        let mut back = RerankCodes::new(d, bits, 2).unwrap();
        back.extend_packed(&packed(&whole)).unwrap();
        assert_eq!(packed(&whole), packed(&back));

        // Removal against a list of rows.
        for range in
            [0..0, 0..1, 5..5, 3..200, 100..BLOCK + 100, 0..2 * BLOCK, BLOCK - 1..BLOCK + 1, n - 3..n, 0..n]
        {
            let mut codes = whole.clone();
            codes.remove(range.clone());
            let mut kept = x[..range.start * d].to_vec();
            kept.extend(&x[range.end * d..]);
            let mut fresh = RerankCodes::new(d, bits, 2).unwrap();
            fresh.extend(&kept).unwrap();
            assert_eq!(packed(&codes), packed(&fresh), "{bits} bits, removed {range:?}");
            assert_eq!(codes.len(), n - range.len());
            assert_eq!(
                codes.heap_bytes() - codes.blocks.capacity() * 16,
                fresh.blocks.len() * fresh.block_bytes()
            );
        }
        whole.truncate(BLOCK + 1);
        whole.set(3, &x[9 * d..10 * d]).unwrap();
        assert_eq!(
            packed(&whole)[3 * whole.record_bytes()..][..whole.record_bytes()],
            packed(&pieces)[9 * whole.record_bytes()..][..whole.record_bytes()]
        );
    }
}

#[test]
fn a_clone_copies_only_the_block_that_changes() {
    let d = 64;
    let x = rows(7, BLOCK + 20, d);
    let mut trunk = RerankCodes::new(d, 2, 2).unwrap();
    trunk.extend(&x).unwrap();
    let before = packed(&trunk);
    let mut fork = trunk.clone();
    fork.extend(&x[..3 * d]).unwrap();
    assert!(Arc::ptr_eq(&fork.blocks[0], &trunk.blocks[0]), "the full block is shared");
    assert!(!Arc::ptr_eq(&fork.blocks[1], &trunk.blocks[1]), "the last one is not");
    trunk.set(BLOCK + 1, &x[..d]).unwrap();
    fork.set(0, &x[5 * d..6 * d]).unwrap();
    let stride = trunk.record_bytes();
    assert_eq!(packed(&trunk)[..BLOCK * stride], before[..BLOCK * stride]);
    assert_eq!(packed(&fork)[BLOCK * stride..][..20 * stride], before[BLOCK * stride..]);
}

#[test]
fn wrong_input_is_named_and_changes_nothing() {
    for (head_dim, bits) in [(0, 2), (1025, 2), (64, 1), (64, 5)] {
        assert_eq!(RerankCodes::new(head_dim, bits, 1).err(), Some(RerankError::Shape { head_dim, bits }));
    }
    let d = 64;
    let mut codes = RerankCodes::new(d, 2, 1).unwrap();
    let mut x = rows(8, 70, d);
    codes.extend(&x).unwrap();
    let before = packed(&codes);
    assert_eq!(codes.extend(&x[..65]), Err(RerankError::Length { expected: 128, got: 65 }));
    x[50 * d + 3] = f32::NAN;
    assert_eq!(codes.extend(&x), Err(RerankError::NonFinite { row: 50 }));
    assert_eq!(codes.set(2, &x[50 * d..51 * d]), Err(RerankError::NonFinite { row: 0 }));
    assert_eq!(
        codes.extend_packed(&before[1..]).err(),
        Some(RerankError::Length { expected: before.len(), got: before.len() - 1 })
    );
    assert_eq!(packed(&codes), before);
    let mut query = RerankQuery::new(d, 2);
    assert_eq!(codes.prepare(&x[49 * d..51 * d], &mut query), Err(RerankError::NonFinite { row: 1 }));
    assert_eq!(codes.prepare(&x[..d], &mut query), Err(RerankError::Length { expected: 128, got: 64 }));
    // Nothing to divide by.
    codes.prepare(&vec![0.0; 2 * d], &mut query).unwrap();
    codes.extend(&vec![0.0; d]).unwrap();
    let mut out = [f32::NAN; 4];
    codes.score(&query, &[70, 3], &mut out);
    assert_eq!(out, [0.0; 4]);
}
