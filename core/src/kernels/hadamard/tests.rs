use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec::Vec;

/// Entry `(i, j)` of the Sylvester matrix is -1 to the number of common bits.
fn naive(x: &[f32]) -> Vec<f64> {
    (0..x.len())
        .map(|i| {
            x.iter()
                .enumerate()
                .map(
                    |(j, &v)| {
                        if (i & j).count_ones().is_multiple_of(2) { f64::from(v) } else { -f64::from(v) }
                    },
                )
                .sum()
        })
        .collect()
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn transform_matches_the_matrix_at_every_level_size_and_offset() {
    let mut rng = Xoshiro256pp::new(5);
    for size in (0..=10).map(|s| 1usize << s) {
        for offset in 0..3 {
            let all: Vec<f32> = (0..2 * size + offset).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect();
            let x = &all[offset..];
            let mut portable = all.clone();
            scalar::hadamard(&mut portable[offset..], size);
            for level in cpu::levels() {
                let mut got = all.clone();
                hadamard(level, &mut got[offset..], size);
                assert_eq!(got, portable, "{level} differs at size {size}");
                for (got, x) in got[offset..].chunks(size).zip(x.chunks(size)) {
                    // each of log2(size) stages rounds once: at most log2(size) * 2^-24 of sum |x|
                    let bound = f64::from(size.ilog2())
                        * 2f64.powi(-24)
                        * x.iter().map(|v| f64::from(v.abs())).sum::<f64>();
                    for (g, w) in got.iter().zip(naive(x)) {
                        assert!((f64::from(*g) - w).abs() <= bound, "{level} size {size}: {g} for {w}");
                    }
                }
            }
        }
    }
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn rotating_is_flipping_transforming_and_scaling_bit_for_bit() {
    let mut rng = Xoshiro256pp::new(6);
    for size in (0..=10).map(|s| 1usize << s) {
        let signs: Vec<u32> = (0..size).map(|_| (rng.next_u64() as u32) & 0x8000_0000).collect();
        let flip = |x: &mut [f32]| {
            for row in x.chunks_mut(size) {
                row.iter_mut().zip(&signs).for_each(|(x, s)| *x = f32::from_bits(x.to_bits() ^ s));
            }
        };
        for rows in [0, 1, 3] {
            let x: Vec<f32> = (0..rows * size + 1).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect();
            for inverse in [false, true] {
                let mut want = x[1..].to_vec();
                if !inverse {
                    flip(&mut want);
                }
                scalar::hadamard(&mut want, size);
                want.iter_mut().for_each(|x| *x *= 0.3);
                if inverse {
                    flip(&mut want);
                }
                for level in cpu::levels() {
                    let mut got = x.clone();
                    rotate(level, &mut got[1..], &signs, 0.3, inverse);
                    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got[1..]), bits(&want), "{level}, size {size}, inverse {inverse}");
                }
            }
        }
    }
}
