//! Every level against the scalar twin, and the scalar twin against `f64`.

use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn noise(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

/// A table of random centroids, and the centroids `[ksub][dsub]` of each sub-space.
fn centroids(split: Split, rng: &mut Xoshiro256pp) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut table = vec![0.0; split.table_len()];
    let all: Vec<Vec<f32>> = (0..split.m).map(|s| noise(rng, split.ksub * split.dsub(s))).collect();
    for (s, centroids) in all.iter().enumerate() {
        split.fill_table(s, centroids, &mut table);
    }
    (table, all)
}

fn splits() -> impl Iterator<Item = Split> {
    let shapes = [
        (1, 1),
        (2, 1),
        (3, 1),
        (5, 1),
        (7, 1),
        (16, 1),
        (31, 1),
        (64, 1),
        (128, 1),
        (129, 1),
        (5, 3),
        (7, 7),
        (33, 2),
        (64, 16),
        (130, 2),
        (200, 5),
        (256, 3),
        (300, 2),
    ];
    shapes.into_iter().flat_map(|(d, m)| [16, 64, 256].map(|ksub| Split { d, m, ksub }))
}

#[test]
fn columns_are_split_without_gaps_and_widest_first() {
    let split = Split { d: 11, m: 4, ksub: 16 };
    assert_eq!((0..=4).map(|s| split.start(s)).collect::<Vec<_>>(), [0, 3, 6, 9, 11]);
    assert_eq!((0..4).map(|s| split.dsub(s)).collect::<Vec<_>>(), [3, 3, 3, 2]);
    assert_eq!(split.table_len(), 15 * 16);
}

#[test]
fn every_level_gives_the_scalar_codes_at_odd_sizes() {
    let mut rng = Xoshiro256pp::new(1);
    for split in splits() {
        let (table, _) = centroids(split, &mut rng);
        for n in [0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 47, 48, 49, 63, 65, 95, 97] {
            let rows = noise(&mut rng, n * split.d + 1);
            let mut want = vec![0; n * split.m];
            let _ = nearest(Level::Scalar, split, &table, &rows[1..], &mut want);
            for level in cpu::levels() {
                let mut codes = vec![0xff; n * split.m + 1];
                let _ = nearest(level, split, &table, &rows[1..], &mut codes[1..]);
                assert_eq!(codes[1..], want, "{split:?} n {n} {level}");
                assert_eq!(codes[0], 0xff);
            }
        }
    }
}

#[test]
fn codes_are_nearest_by_f64_up_to_rounding() {
    let mut rng = Xoshiro256pp::new(2);
    for split in splits() {
        let (table, centroids) = centroids(split, &mut rng);
        let rows = noise(&mut rng, 37 * split.d);
        let mut codes = vec![0; 37 * split.m];
        let _ = nearest(cpu::level(), split, &table, &rows, &mut codes);
        for (i, (row, code)) in rows.chunks_exact(split.d).zip(codes.chunks_exact(split.m)).enumerate() {
            for (s, &code) in code.iter().enumerate() {
                let x = &row[split.start(s)..split.start(s + 1)];
                let distances = centroids[s].chunks_exact(split.dsub(s)).map(|c| {
                    x.iter().zip(c).map(|(&x, &c)| (f64::from(x) - f64::from(c)).powi(2)).sum::<f64>()
                });
                let distances: Vec<f64> = distances.collect();
                let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
                // Each of the dsub + 1 roundings of a score errs by half a unit of a partial sum, which is at
                // most 6 dsub here; a distance is twice a score, and two of them are compared.
                let dsub = split.dsub(s) as f64;
                let bound = 4.0 * (dsub + 1.0) * 6.0 * dsub * f64::from(f32::EPSILON) / 2.0;
                assert!(distances[usize::from(code)] <= least + bound, "{split:?} row {i} sub-space {s}");
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_index_and_overflow_is_a_tie() {
    for ksub in [16, 64, 256] {
        for (value, x) in
            [(1.0_f32, 1.0_f32), (0.0, -0.0), (-0.0, 3.0), (f32::MAX, 1.0), (f32::MAX, f32::MAX)]
        {
            let split = Split { d: 3, m: 1, ksub };
            let mut table = vec![0.0; split.table_len()];
            let mut far = vec![f32::MAX; ksub * 3];
            // Equal and nearest from index 5 on; in the overflowing cases all scores are infinite, index 0 wins.
            far[15..].fill(value);
            split.fill_table(0, &far, &mut table);
            let want = if value == f32::MAX { 0 } else { 5 };
            for level in cpu::levels() {
                for n in [1, 20, 50] {
                    let mut codes = vec![9; n];
                    let _ = nearest(level, split, &table, &vec![x; 3 * n], &mut codes);
                    assert!(codes.iter().all(|&c| c == want), "{level} {value} {x}: {codes:?}");
                }
            }
        }
    }
}

#[test]
fn sums_run_in_row_order_at_every_level() {
    let mut rng = Xoshiro256pp::new(3);
    for split in splits() {
        let n = 41;
        let rows = noise(&mut rng, n * split.d);
        let codes: Vec<u8> =
            (0..n * split.m).map(|_| u8::try_from(rng.below(split.ksub as u64)).unwrap()).collect();
        let mut want = vec![0.0; split.d * split.ksub];
        let mut want_counts = vec![0; split.m * split.ksub];
        for (row, code) in rows.chunks_exact(split.d).zip(codes.chunks_exact(split.m)) {
            for s in 0..split.m {
                let c = usize::from(code[s]);
                want_counts[s * split.ksub + c] += 1;
                for j in 0..split.dsub(s) {
                    want[split.start(s) * split.ksub + c * split.dsub(s) + j] +=
                        f64::from(row[split.start(s) + j]);
                }
            }
        }
        for level in cpu::levels() {
            let mut sums = vec![0.0; want.len()];
            let mut counts = vec![0; want_counts.len()];
            accumulate(level, split, &rows, &codes, &mut sums, &mut counts);
            assert_eq!((&sums, &counts), (&want, &want_counts), "{split:?} {level}");
        }
    }
}

#[test]
fn distances_fall_to_the_nearest_seed_at_every_level() {
    let mut rng = Xoshiro256pp::new(4);
    for n in [1, 7, 8, 9, 255, 256, 257, 600] {
        for dsub in [1, 2, 3, 8, 33] {
            let columns = noise(&mut rng, n * dsub);
            let seeds = noise(&mut rng, 3 * dsub);
            let mut first: Option<(Vec<f32>, Vec<f64>)> = None;
            for level in cpu::levels() {
                let mut best = vec![f32::INFINITY; n];
                let mut sums = vec![0.0; n.div_ceil(BLOCK)];
                for seed in seeds.chunks_exact(dsub) {
                    lower_distances(level, &columns, seed, &mut best, &mut sums);
                }
                for (i, &got) in best.iter().enumerate() {
                    let want = seeds.chunks_exact(dsub).map(|c| {
                        (0..dsub)
                            .map(|j| (f64::from(columns[j * n + i]) - f64::from(c[j])).powi(2))
                            .sum::<f64>()
                    });
                    let want = want.fold(f64::INFINITY, f64::min);
                    let bound = want * f64::from(f32::EPSILON) * (dsub + 2) as f64;
                    assert!((f64::from(got) - want).abs() <= bound, "n {n} dsub {dsub} row {i} {level}");
                }
                for (block, sum) in best.chunks(BLOCK).zip(&sums) {
                    let want: f64 = block.iter().map(|&b| f64::from(b)).sum();
                    assert!((sum - want).abs() <= want * 1e-13);
                }
                let (best_want, sums_want) = first.get_or_insert_with(|| (best.clone(), sums.clone()));
                assert_eq!((&best, &sums), (&*best_want, &*sums_want), "n {n} dsub {dsub} {level}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_found_wherever_it_is() {
    for d in [1, 3, 64] {
        for n in [1, 2, 63, 64, 65, 200] {
            let rows = vec![f32::MAX; n * d];
            for level in cpu::levels() {
                assert_eq!(first_non_finite(level, &rows, d), None);
                for at in [0, n * d / 2, n * d - 1] {
                    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        let mut rows = rows.clone();
                        rows[at] = bad;
                        assert_eq!(first_non_finite(level, &rows, d), Some(at / d));
                        rows[n * d - 1] = bad;
                        assert_eq!(first_non_finite(level, &rows, d), Some(at / d));
                    }
                }
            }
        }
    }
    assert_eq!(first_non_finite(cpu::level(), &[], 4), None);
}

proptest! {
    #[test]
    fn any_shape_gives_equal_codes_at_every_level(
        d in 1_usize..150, m in 1_usize..20, bits in 0..3_usize, n in 0_usize..70, seed: u64,
    ) {
        let split = Split { d, m: m.min(d), ksub: [16, 64, 256][bits] };
        let mut rng = Xoshiro256pp::new(seed);
        let (table, _) = centroids(split, &mut rng);
        let rows = noise(&mut rng, n * d);
        let mut want = vec![0; n * split.m];
        let _ = nearest(Level::Scalar, split, &table, &rows, &mut want);
        for level in cpu::levels() {
            let mut codes = vec![0; want.len()];
            let _ = nearest(level, split, &table, &rows, &mut codes);
            prop_assert_eq!(&codes, &want);
        }
    }
}
