use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::{vec, vec::Vec};

const DIMS: [usize; 12] = [1, 2, 3, 7, 8, 9, 17, 33, 64, 65, 100, 130];

fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..n).map(|_| rng.f64() * 2.0 - 1.0).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

fn transposed(a: &[f64], d: usize) -> Vec<f64> {
    (0..d * d).map(|i| a[i % d * d + i / d]).collect()
}

fn times_plainly(a: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    (0..d * d).map(|i| (0..d).map(|k| a[i / d * d + k] * b[k * d + i % d]).sum()).collect()
}

fn symmetric(seed: u64, d: usize) -> Vec<f64> {
    let a = numbers(seed, d * d);
    let b = transposed(&a, d);
    a.iter().zip(&b).map(|(a, b)| a + b).collect()
}

fn close(a: &[f64], b: &[f64], bound: f64, what: &str) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= bound, "{what}, element {i}: {a} for {b}");
    }
}

/// Runs `each` at every level and demands the same bits.
fn same_everywhere(what: &str, each: impl Fn(Level) -> Vec<f64>) -> Vec<f64> {
    let mut first: Option<Vec<f64>> = None;
    for level in cpu::levels() {
        let got = each(level);
        let want = first.get_or_insert_with(|| got.clone());
        assert!(
            got.iter().zip(want.iter()).all(|(a, b)| a.to_bits() == b.to_bits()),
            "{what} differs at {level}"
        );
    }
    first.unwrap()
}

#[test]
fn second_moments_match_plain_sums() {
    for d in DIMS {
        for n in [0, 1, 3, 4, 5, 13] {
            let x = narrow(&numbers(1, n * d));
            let got = same_everywhere("gram", |level| {
                let mut sums = vec![1.0; d * d];
                gram(level, &x, d, &mut sums);
                sums
            });
            for i in 0..d {
                for j in 0..d {
                    let sum: f64 = x.chunks(d).map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                    let want = if j >= i { 1.0 + sum } else { 1.0 };
                    assert!((got[i * d + j] - want).abs() < 1e-13, "d = {d}, n = {n}, {i}, {j}");
                }
            }
        }
    }
}

#[test]
fn factors_and_solutions_multiply_back() {
    for d in DIMS {
        let b = numbers(2, d * d);
        let mut a = times_plainly(&b, &transposed(&b, d), d);
        (0..d).for_each(|i| a[i * d + i] += 0.1);
        let l = same_everywhere("cholesky", |level| {
            let mut l = a.clone();
            assert!(cholesky(level, &mut l, d));
            l
        });
        close(&times_plainly(&l, &transposed(&l, d), d), &a, 1e-12 * 150.0, "L L^T");
        let u = numbers(3, d * d);
        let x = same_everywhere("solve", |level| {
            let mut x = u.clone();
            solve(level, &l, &mut x, d);
            x
        });
        close(&times_plainly(&x, &l, d), &u, 1e-10, "x L");
        let p = same_everywhere("product", |level| {
            let mut out = vec![0.0; d * d];
            product(level, &u, &l, &mut out, d);
            out
        });
        close(&p, &times_plainly(&u, &l, d), 1e-11, "product");
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut a = vec![1.0, 0.0, 0.0, bad];
        assert!(!cholesky(cpu::level(), &mut a, 2));
    }
}

#[test]
fn eigenvectors_are_orthonormal_and_rebuild_the_matrix() {
    let check = |a: &[f64], d: usize, name: &str| {
        let both = same_everywhere(name, |level| {
            let (mut a, mut values, mut vectors) = (a.to_vec(), vec![0.0; d], vec![0.0; d * d]);
            assert!(eigen(level, &mut a, &mut values, &mut vectors), "{name}, d = {d}");
            values.extend(vectors);
            values
        });
        let (values, vectors) = both.split_at(d);
        let size = a.iter().fold(1e-300f64, |m, x| m.max(x.abs())) * 4.0;
        let mut unit = vec![0.0; d * d];
        (0..d).for_each(|i| unit[i * d + i] = 1.0);
        close(&times_plainly(vectors, &transposed(vectors, d), d), &unit, 1e-12, name);
        let scaled: Vec<f64> = vectors.iter().enumerate().map(|(i, v)| v * values[i / d]).collect();
        close(&times_plainly(&transposed(vectors, d), &scaled, d), a, 1e-12 * size * 10.0, name);
    };
    for d in DIMS {
        check(&symmetric(4, d), d, "random");
        check(&vec![0.0; d * d], d, "zero");
        check(&vec![1.0; d * d], d, "rank one");
        let diagonal: Vec<f64> = (0..d * d).map(|i| if i / d == i % d { 1.0 } else { 0.0 }).collect();
        check(&diagonal, d, "identity");
        // Graded over 24 orders of magnitude: small values keep absolute, not relative accuracy.
        let graded: Vec<f64> = symmetric(5, d)
            .iter()
            .enumerate()
            .map(|(i, x)| x * libm::exp(-0.2 * f64::from(u32::try_from(i / d + i % d).unwrap())))
            .collect();
        check(&graded, d, "graded");
    }
    let (mut a, mut values, mut vectors) = (vec![f64::NAN; 9], vec![0.0; 3], vec![0.0; 9]);
    let _ = eigen(cpu::level(), &mut a, &mut values, &mut vectors);
}

#[test]
fn rows_times_a_matrix_match_within_rounding_at_every_length() {
    for d in DIMS.into_iter().chain([256]) {
        let a = numbers(6, d * d);
        let mut laid = vec![0.0; panels_len(d)];
        panels(&a, d, &mut laid);
        for n in [0, 1, 5, 6, 7, 13] {
            let x = narrow(&numbers(7, n * d));
            let got = same_everywhere("times", |level| {
                let mut out = vec![0.0f32; n * d];
                times(level, &laid, &x, &mut out, d);
                out.iter().map(|x| f64::from(*x)).collect()
            });
            for (i, got) in got.iter().enumerate() {
                let row = &x[i / d * d..][..d];
                let want: f64 = a[i % d * d..][..d].iter().zip(row).map(|(a, x)| a * f64::from(*x)).sum();
                // d roundings of sums below d, and the matrix rounded.
                let bound = f64::from(u32::try_from(d).unwrap()).powi(2) * 2f64.powi(-24) + 1e-6;
                assert!((got - want).abs() < bound, "d = {d}, n = {n}, {i}: {got} for {want}");
            }
        }
    }
}
