//! Every level against plain loops, at odd lengths and unaligned.

use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

const LENGTHS: [usize; 16] = [0, 1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200, 1000];

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn words(rng: &mut Xoshiro256pp, n: usize, values: u64) -> Vec<u16> {
    // Few values make ties; the shift reaches both ends of the range.
    (0..n).map(|_| (rng.below(values) as u16).wrapping_mul(65_535 / (values - 1) as u16)).collect()
}

fn floats(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    let odd = [
        f32::NAN,
        -f32::NAN,
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1.0,
        -1.0,
        f32::MIN_POSITIVE / 2.0,
    ];
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let mut value = || match usize::try_from(rng.below(20)).unwrap() {
        i if i < odd.len() => odd[i],
        _ => (rng.f64() * 4.0 - 2.0) as f32,
    };
    (0..n).map(|_| value()).collect()
}

/// Counting, collecting and emitting in two pieces, against the definition.
fn check<T: Score + core::fmt::Debug>(scores: &[T], low: T, high: T, ties: usize) {
    let above = scores.iter().filter(|&&s| s > high).count();
    let inside: Vec<u32> = scores.iter().filter(|&&s| s >= low && s <= high).map(|s| s.key()).collect();
    let mut left = ties;
    let mut want = Vec::new();
    for (i, &s) in (7..).zip(scores) {
        if s > low || (s == low && left > 0) {
            left -= usize::from(s == low);
            want.push(i);
        }
    }
    for level in cpu::levels() {
        assert_eq!(count_above(level, scores, high), above, "{level}");
        let (a, b) = scores.split_at(scores.len() / 3);
        let mut found = Found::default();
        let mut kept = vec![T::from_key(T::LEAST); scores.len() + BLOCK];
        collect(level, a, [low, high], &mut found, &mut kept);
        collect(level, b, [low, high], &mut found, &mut kept);
        assert_eq!(found, Found { above, inside: inside.len(), stored: inside.len() }, "{level}");
        assert_eq!(kept[..inside.len()].iter().map(|s| s.key()).collect::<Vec<_>>(), inside, "{level}");

        // Without room nothing is stored, and everything counted.
        let mut found = Found::default();
        collect(level, scores, [low, high], &mut found, &mut kept[..BLOCK - 1]);
        assert_eq!(found, Found { above, inside: inside.len(), stored: 0 }, "{level}");

        // Exactly as long as the result, and longer.
        for slack in [0, 1, 63, 64, 200] {
            let mut out = vec![u32::MAX; want.len() + slack];
            let mut cut = Cut { value: low, ties };
            let n = emit(level, a, &mut cut, 7, &mut out);
            let m = emit(level, b, &mut cut, 7 + u32::try_from(a.len()).unwrap(), &mut out[n..]);
            assert_eq!(out[..n + m], want, "{level} {low:?} ties {ties} slack {slack}");
            assert_eq!(cut.ties, left);
        }
    }
}

#[test]
fn words_are_counted_collected_and_written_at_odd_lengths() {
    let mut rng = Xoshiro256pp::new(1);
    for n in LENGTHS {
        for values in [2, 3, 7, 300, 65_536] {
            let scores = words(&mut rng, n + 1, values);
            for _ in 0..3 {
                let mut range = [words(&mut rng, 1, values)[0], words(&mut rng, 1, values)[0]];
                range.sort_unstable();
                check(&scores[1..], range[0], range[1], usize::try_from(rng.below(n as u64 + 2)).unwrap());
            }
        }
    }
}

#[test]
fn words_within_a_range_are_written_if_there_is_room() {
    let mut rng = Xoshiro256pp::new(3);
    for n in LENGTHS {
        for values in [2, 7, 65_536] {
            let scores = &words(&mut rng, n + 1, values)[1..];
            let mut range = [words(&mut rng, 1, values)[0], words(&mut rng, 1, values)[0]];
            range.sort_unstable();
            let [low, high] = range;
            let want: Vec<u32> =
                (0..).zip(scores).filter(|&(_, s)| (low..=high).contains(s)).map(|(i, _)| i).collect();
            for level in cpu::levels() {
                let mut out = vec![u32::MAX; want.len() + BLOCK];
                assert_eq!(emit_within(level, scores, range, &mut out), Some(want.len()), "{level}");
                assert_eq!(out[..want.len()], want, "{level}");
                if want.len() >= BLOCK {
                    assert_eq!(emit_within(level, scores, range, &mut out[..BLOCK]), None, "{level}");
                }
            }
        }
    }
}

#[test]
fn floats_are_counted_collected_and_written_at_odd_lengths() {
    let mut rng = Xoshiro256pp::new(2);
    for n in LENGTHS {
        let scores = floats(&mut rng, n + 1);
        for _ in 0..20 {
            let range = floats(&mut rng, 2);
            if range[0] <= range[1] {
                check(&scores[1..], range[0], range[1], usize::try_from(rng.below(n as u64 + 2)).unwrap());
            }
        }
    }
}

#[test]
fn with_a_nan_as_threshold_all_numbers_and_the_first_nans_are_written() {
    let scores = [1.0, f32::NAN, f32::NEG_INFINITY, f32::NAN, -f32::NAN, 0.0];
    for level in cpu::levels() {
        let mut out = [0; 5];
        let mut cut = Cut { value: f32::NAN, ties: 2 };
        assert_eq!(emit(level, &scores, &mut cut, 0, &mut out), 5);
        assert_eq!(out, [0, 1, 2, 3, 5]);
        assert_eq!(cut.ties, 0);
    }
}

#[test]
fn keys_are_ordered_as_numbers_and_come_back() {
    let numbers: Vec<f32> = vec![
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -f32::MIN_POSITIVE,
        -f32::from_bits(1),
        0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        1.0,
        f32::MAX,
        f32::INFINITY,
    ];
    assert_eq!((numbers[0].key(), numbers[10].key()), (f32::LEAST, f32::GREATEST));
    assert_eq!(0.0_f32.key(), (-0.0_f32).key());
    assert!(numbers.is_sorted_by(|a, b| a.key() < b.key()));
    // No number lies between those of neighbouring keys.
    assert_eq!((0.0_f32.key() - 1, 0.0_f32.key() + 1), (numbers[4].key(), numbers[6].key()));
    numbers.iter().for_each(|&x| assert_eq!(f32::from_key(x.key()), x));
    assert_eq!((u16::from_key(7), 7_u16.key()), (7, 7));
}

#[test]
fn masses_are_added_exactly_at_every_level() {
    let mut rng = Xoshiro256pp::new(3);
    let unit = (1_u32 << 28) as f32;
    for n in LENGTHS {
        let weights: Vec<f32> = floats(&mut rng, n).into_iter().map(|w| w.clamp(-4.0, 3.9)).collect();
        for t in [0.0, 0.5, 1.0, 3.9] {
            let mass = |w: f32| if w > t { (f64::from(w) * f64::from(unit)).floor() } else { 0.0 };
            let want = Mass {
                count: weights.iter().filter(|&&w| w > t).count(),
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole and small"
                )]
                mass: weights.iter().map(|&w| mass(w)).sum::<f64>() as u64,
            };
            for level in cpu::levels() {
                assert_eq!(mass_above(level, &weights, t, unit), want, "{level} {n} {t}");
            }
        }
    }
}
