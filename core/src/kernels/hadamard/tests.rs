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
