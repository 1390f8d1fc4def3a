use std::vec;
use std::vec::Vec;

use super::*;
use crate::cpu;
use crate::num::convert::from_f32;
use crate::num::rng::Xoshiro256pp;

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    #[allow(clippy::cast_possible_truncation, reason = "test values")]
    (0..n).map(|i| (rng.f64() as f32 - 0.5) * if i % 5 == 0 { 90.0 } else { 0.3 }).collect()
}

fn stored(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; dtype.bytes_for(x.len()).unwrap()];
    from_f32(dtype, x, &mut out).unwrap();
    out
}

fn widened(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    to_f32(dtype, bytes, &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

#[test]
fn sums_match_the_definition_and_each_other_at_every_level() {
    for dtype in DType::ALL {
        for n in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 96, 255, 256, 257, 640, 4096] {
            if dtype.bytes_for(n).is_none() {
                continue;
            }
            // One byte in front makes the data unaligned.
            let (mut x, mut y) = (vec![0xff], vec![0xff]);
            x.extend(stored(dtype, &values(n, 1)));
            y.extend(stored(dtype, &values(n, 2)));
            let (x, y) = (&x[1..], &y[1..]);
            let (a, b) = (widened(dtype, x), widened(dtype, y));
            let err: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
            let sq: f64 = a.iter().map(|a| a * a).sum();
            let max = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let scalar = error_sums(Level::Scalar, dtype, x, y);
            assert!((scalar.sum_sq_error - err).abs() <= err * 1e-13, "{dtype} {n}");
            assert!((scalar.sum_sq - sq).abs() <= sq * 1e-13, "{dtype} {n}");
            assert_eq!(scalar.max_abs_error, max, "{dtype} {n}");
            for level in cpu::levels() {
                assert_eq!(error_sums(level, dtype, x, y), scalar, "{level} {dtype} {n}");
                let squares = square_sum(level, dtype, x);
                assert_eq!(squares.to_bits(), scalar.sum_sq.to_bits(), "{level} {dtype} {n}");
            }
        }
    }
}

#[test]
fn extreme_values_do_not_overflow() {
    let (x, y) = (stored(DType::F32, &[f32::MAX; 40]), stored(DType::F32, &[f32::MIN; 40]));
    for level in cpu::levels() {
        let sums = error_sums(level, DType::F32, &x, &y);
        assert_eq!(sums.max_abs_error, 2.0 * f64::from(f32::MAX));
        assert!(sums.sum_sq_error.is_finite() && sums.sum_sq > 0.0);
    }
}

#[test]
fn sources_that_are_not_finite_show_in_the_sum() {
    for level in cpu::levels() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 15, 16, 36] {
                let mut x = values(37, 3);
                x[at] = bad;
                let x = stored(DType::F16, &x);
                assert!(!error_sums(level, DType::F16, &x, &x).sum_sq.is_finite(), "{level} {at}");
                assert!(!square_sum(level, DType::F16, &x).is_finite(), "{level} {at}");
            }
        }
    }
}
