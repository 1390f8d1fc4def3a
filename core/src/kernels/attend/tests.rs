//! What the accumulator's tests (`attention`) do not see: the pieces by themselves.

use super::body::Vector;
use super::*;
use crate::cpu;

#[test]
fn powers_of_two_are_within_their_bound_at_every_level() {
    for level in cpu::levels() {
        let mut x = -130.0_f32;
        while x <= 0.0 {
            let mut tile = Tile::new(1);
            // A token of score 0 fixes the maximum, so that the other's weight is 2^x.
            tile.cells[..2].copy_from_slice(&[0.0, x]);
            tile.cells[2..16].fill(f32::NEG_INFINITY);
            soften(level, &mut tile, 2);
            assert_eq!((tile.max[0], tile.cell(0, 0)), (0.0, 1.0), "{level}");
            let (got, want) = (f64::from(tile.cell(1, 0)), f64::from(x).exp2());
            if x < -126.0 {
                assert_eq!(got, 0.0, "{level} {x}");
            } else {
                assert!((got / want - 1.0).abs() < 2.0_f64.powi(-22), "{level} {x}: {got}, not {want}");
            }
            x += 0.003;
        }
    }
}

#[test]
fn softening_keeps_maxima_sums_and_what_fades() {
    for level in cpu::levels() {
        for group in 1..=HEADS {
            let width = group.next_power_of_two();
            let mut tile = Tile::new(group);
            for (block, n) in [3, 128, 1, 17].into_iter().enumerate() {
                let score = |t: usize, g: usize| ((t * 7 + g * 3 + block * 5) % 11) as f32 - 2.0 * g as f32;
                let before = tile.clone();
                tile.cells[..(n * width).next_multiple_of(COLUMNS)].fill(f32::NEG_INFINITY);
                for t in 0..n {
                    for g in 0..group {
                        tile.cells[t * width + g] = score(t, g);
                    }
                }
                soften(level, &mut tile, n);
                for g in 0..group {
                    let max = (0..n).fold(before.max[g], |m, t| m.max(score(t, g)));
                    assert_eq!(tile.max[g], max, "{level} {group} {n}");
                    // Whole powers of two: nothing is rounded.
                    let sum: f32 = (0..n).map(|t| (score(t, g) - max).exp2()).sum();
                    let fade = if block == 0 { 0.0 } else { (before.max[g] - max).exp2() };
                    assert_eq!(tile.fade[g], fade, "{level} {group} {n}");
                    assert_eq!(tile.sum[g], before.sum[g] * fade + sum, "{level} {group} {n}");
                }
            }
        }
    }
}

#[test]
fn array_lanes_swap_and_sum() {
    let x: [f32; 8] = core::array::from_fn(|i| i as f32);
    assert_eq!(x.swap(4), [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]);
    assert_eq!(x.swap(1), [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0]);
    assert_eq!(<[f32; 8] as Vector>::spread(&x, 2), [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn rows_are_checked_when_they_are_pushed() {
    let bytes = &[0; 100][..];
    assert!(std::panic::catch_unwind(|| RowBlock::new(10).push_run(bytes, 0, 10, 10)).is_ok());
    assert!(std::panic::catch_unwind(|| RowBlock::new(10).push_run(bytes, 1, 10, 10)).is_err());
    assert!(std::panic::catch_unwind(|| RowBlock::new(10).push_run(bytes, 0, usize::MAX, 3)).is_err());
    assert!(std::panic::catch_unwind(|| RowBlock::new(1).push_run(bytes, 0, 1, BLOCK + 1)).is_err());
    assert!(std::panic::catch_unwind(|| RowBlock::new(10).push_list(bytes, 10, &[9, 0])).is_ok());
    assert!(std::panic::catch_unwind(|| RowBlock::new(10).push_list(bytes, 10, &[3, 10, 0])).is_err());
}
