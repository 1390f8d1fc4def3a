use std::vec;
use std::vec::Vec;

use super::*;
use crate::cpu;
use crate::num::convert::f16_to_f32;
use crate::num::rng::Xoshiro256pp;

const DIMS: [usize; 16] = [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 96];

/// Values of mixed signs and sizes, with zeros of both signs among them, below 2^15.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    (0..n)
        .map(|i| match i % 11 {
            3 => 0.0,
            4 => -0.0,
            _ => {
                let sign = if rng.next_u64() & 1 == 0 { 1.0 } else { -1.0 };
                let size = f32::from(u16::try_from(rng.below(4000)).unwrap()) / 37.0;
                sign * size * if rng.below(9) == 0 { 1e-4 } else { 1.0 }
            }
        })
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Everything that one level makes of a tile, by columns and by groups: codes, parameters, decoded bits.
type Results = (Vec<u8>, Vec<u8>, Vec<u32>);

fn by_columns(level: Level, x: &[f32], d: usize, max: f32) -> Results {
    let (mut lo, mut hi) = (vec![0.0; d], vec![0.0; d]);
    range_columns(level, x, &mut lo, &mut hi);
    let mut stored = vec![0; 4 * d];
    let (lo_f16, scale_f16) = stored.split_at_mut(2 * d);
    params(level, 0.5, max, &mut lo, &mut hi, lo_f16, scale_f16);
    let mut codes = vec![0; x.len()];
    quantize_columns(level, x, 0.5, &lo, &hi, max, &mut codes);
    let scale: Vec<f32> =
        scale_f16.chunks(2).map(|b| f16_to_f32(u16::from_le_bytes(b.try_into().unwrap()))).collect();
    let mut out = vec![0.0; x.len()];
    dequantize_columns(level, &codes, 2.0, &lo, &scale, &mut out);
    for (i, (x, y)) in x.iter().zip(&out).enumerate() {
        let (error, half) = ((f64::from(*x) - f64::from(*y)).abs(), f64::from(scale[i % d]));
        assert!(
            error <= half * 1.0001 + 1e-5,
            "{level} d={d} element {i}: {x} came back as {y}, half step {half}"
        );
    }
    (codes, stored, bits(&out))
}

fn by_groups(level: Level, x: &[f32], d: usize, group: usize, max: f32) -> Results {
    let n = n_groups(x.len(), d, group);
    let (mut lo, mut hi) = (vec![0.0; n], vec![0.0; n]);
    range_groups(level, x, d, group, &mut lo, &mut hi);
    for (g, run) in x.chunks(d).flat_map(|row| row.chunks(group)).enumerate() {
        assert_eq!(lo[g], run.iter().copied().fold(f32::INFINITY, f32::min));
        assert_eq!(hi[g], run.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
    let mut stored = vec![0; 4 * n];
    let (lo_f16, scale_f16) = stored.split_at_mut(2 * n);
    params(level, 1.0, max, &mut lo, &mut hi, lo_f16, scale_f16);
    let mut codes = vec![0; x.len()];
    quantize_groups(level, x, (d, group), 1.0, (&lo, &hi), max, &mut codes);
    let scale: Vec<f32> =
        scale_f16.chunks(2).map(|b| f16_to_f32(u16::from_le_bytes(b.try_into().unwrap()))).collect();
    let mut out = vec![0.0; x.len()];
    dequantize_groups(level, &codes, (d, group), 1.0, (&lo, &scale), &mut out);
    (codes, stored, bits(&out))
}

#[test]
fn all_levels_give_the_same_bytes_for_columns() {
    for d in DIMS {
        for n_rows in [1, 2, 5, 32, 33] {
            let x = values(n_rows * d + 1, d as u64);
            for max in [3.0, 15.0, 255.0] {
                let expected = by_columns(Level::Scalar, &x[1..], d, max);
                for level in cpu::levels() {
                    assert_eq!(
                        by_columns(level, &x[1..], d, max),
                        expected,
                        "{level} {n_rows}x{d} max {max}"
                    );
                }
            }
        }
    }
}

#[test]
fn all_levels_give_the_same_bytes_for_groups() {
    for d in DIMS {
        for group in [8, 32, 64] {
            let x = values(3 * d + 1, d as u64);
            for max in [3.0, 15.0, 255.0] {
                let expected = by_groups(Level::Scalar, &x[1..], d, group, max);
                for level in cpu::levels() {
                    assert_eq!(by_groups(level, &x[1..], d, group, max), expected, "{level} d={d} g={group}");
                }
            }
        }
    }
}

#[test]
fn parameters_enclose_the_range() {
    let (lo, hi) = (values(1000, 5), values(1000, 6));
    let (mut lo16, mut scale16) = (vec![0; 2000], vec![0; 2000]);
    for level in cpu::levels() {
        let mut a: Vec<f32> = lo.iter().zip(&hi).map(|(a, b)| a.min(*b)).collect();
        let mut b: Vec<f32> = lo.iter().zip(&hi).map(|(a, b)| a.max(*b)).collect();
        let (min, max) = (a.clone(), b.clone());
        params(level, 1.0, 15.0, &mut a, &mut b, &mut lo16, &mut scale16);
        for i in 0..1000 {
            let get = |x: &[u8]| f64::from(f16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])));
            let (lo, scale) = (get(&lo16), get(&scale16));
            let (min, max) = (f64::from(min[i]), f64::from(max[i]));
            assert_eq!(lo, f64::from(a[i]));
            assert!(lo <= min && min - lo <= min.abs() / 1024.0 + 6e-8, "{level} {i}: {lo} for {min}");
            let top = lo + 15.0 * scale;
            assert!(top >= max - (max - lo) * 1e-6, "{level} {i}: {top} below {max}");
            assert!(top <= max + (max - lo) / 1000.0 + 1e-6, "{level} {i}: {top} far above {max}");
        }
    }
}

#[test]
fn magnitude_finds_what_is_not_finite() {
    for level in cpu::levels() {
        for n in 0..70 {
            let mut x = values(n, 9);
            let expected = x.iter().map(|x| x.abs()).fold(0.0, f32::max);
            assert_eq!(max_abs_bits(level, &x), expected.to_bits());
            for i in 0..n {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let kept = core::mem::replace(&mut x[i], bad);
                    assert!(max_abs_bits(level, &x) >= f32::INFINITY.to_bits(), "{level} {i} of {n}");
                    x[i] = kept;
                }
            }
        }
    }
}
