//! Every level against plain sums.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

#[test]
fn greatest_scores_are_exact_at_every_level() {
    let mut rng = Xoshiro256pp::new(4);
    for d in [4, 36, 64, 128, 1024] {
        for n in [0, 1, 7, 8, 31, 32] {
            let extreme = d == 1024;
            let mut byte = |or: u8| if extreme { or } else { rng.below(256) as u8 };
            let queries: Vec<i8> = (0..LANES * d).map(|_| byte(0x81).max(0x81) as i8).collect();
            let keys: Vec<u8> = (0..n * d).map(|_| byte(255)).collect();
            let limits = core::array::from_fn(|lane| if lane == 3 { 0 } else { (n + 2 * lane) as u32 / 2 });
            let mut want = [i32::MIN; LANES];
            for (lane, want) in want.iter_mut().enumerate() {
                for j in 0..n.min(limits[lane] as usize) {
                    let at = |c: usize| i32::from(queries[(c / QUAD * LANES + lane) * QUAD + c % QUAD]);
                    let sum = (0..d).map(|c| at(c) * i32::from(keys[j * d + c])).sum();
                    *want = (*want).max(sum);
                }
            }
            for level in cpu::levels() {
                assert_eq!(greatest(level, &queries, &keys, &limits), want, "{level} {d} {n}");
            }
        }
    }
}

#[test]
fn codes_are_the_nearest_at_every_level() {
    let mut rng = Xoshiro256pp::new(5);
    for (n, d) in [(1, 1), (3, 40), (32, 64), (2, 128)] {
        let mean: Vec<f32> = (0..d).map(|_| rng.f64() as f32).collect();
        let x: Vec<f32> = (0..n * d).map(|_| rng.f64() as f32 * 8.0 - 4.0).collect();
        let centred = |i: usize| x[i] - mean[i % d];
        let most = (0..x.len()).fold(0.0_f32, |m, i| m.max(centred(i).abs()));
        for level in cpu::levels() {
            let mut codes = vec![0; x.len()];
            let step = quantize(level, &x, &mean, &mut codes);
            assert_eq!(step, most / 127.0, "{level}");
            for (i, code) in codes.iter().enumerate() {
                let error = (f32::from(*code) * step - centred(i)).abs();
                assert!(error <= 0.50001 * step, "{level} {i}: {code}");
            }
        }
    }
}

#[test]
fn what_has_no_scale_has_codes_of_zero() {
    for level in cpu::levels() {
        let mut codes = [7; 4];
        assert_eq!(quantize(level, &[1.0; 4], &[1.0; 4], &mut codes), 0.0);
        assert_eq!(codes, [0; 4]);
        let step = quantize(level, &[f32::NAN, f32::INFINITY, 254.0, -127.0], &[0.0; 4], &mut codes);
        assert_eq!((step, codes), (2.0, [0, 0, 127, -64]));
    }
}
