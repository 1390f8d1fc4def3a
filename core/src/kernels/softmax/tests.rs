//! Every level against the scalar twin, bit for bit, and the scalar twin against `f64`.

use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

const LENGTHS: [usize; 14] = [0, 1, 2, 15, 16, 17, 31, 33, 63, 65, 100, 1023, 1025, 3000];

/// What the module promises of a power.
const POWER: f64 = 2.6e-7;

/// What it promises of a sum.
const SUM: f64 = 8e-6;

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn words(rng: &mut Xoshiro256pp, n: usize) -> Vec<u16> {
    (0..n).map(|_| rng.next_u64() as u16).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn floats(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.f64() * 40.0 - 30.0) as f32).collect()
}

fn weight(s: f64, head: Head) -> f64 {
    let y = (s - f64::from(head.greatest)) * f64::from(head.exponent);
    libm::exp2(y.max(-126.0)) * f64::from(head.weight)
}

#[test]
fn powers_are_as_near_as_promised_over_the_whole_range() {
    let mut worst = 0.0_f64;
    let mut previous = 0.0;
    for i in 0..=4_000_000_u32 {
        #[allow(clippy::cast_precision_loss, reason = "test data")]
        let y = -126.0 + i as f32 * (126.0 / 4e6);
        if i % 16 != 0 {
            continue;
        }
        let got = f64::from(<[f32; LANES]>::splat(y).exp2()[3]);
        worst = worst.max((got / libm::exp2(y.into()) - 1.0).abs());
        assert!(got >= previous * (1.0 - POWER), "{y}");
        previous = got;
    }
    assert!(worst <= POWER, "{worst}");
    for y in [f32::NEG_INFINITY, f32::NAN, -1e30, -126.0] {
        let least = <[f32; LANES]>::splat(y).exp2()[0];
        assert!((least / f32::MIN_POSITIVE - 1.0).abs() < 3e-7, "{y} {least}");
    }
}

fn check<S: Scores + Into<f64>>(scores: &[S], exponent: f32) {
    let most = greatest(Level::Scalar, scores);
    let want =
        scores.iter().map(|&s| s.into()).filter(|s: &f64| !s.is_nan()).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(f64::from(most), want);
    let head = Head { greatest: most, exponent, weight: 0.37 };
    let total = sum(Level::Scalar, scores, head);
    let one = Head { weight: 1.0, ..head };
    let want: f64 = scores.iter().map(|&s| weight(s.into(), one)).sum();
    // The argument of the power is a product, rounded once: half a unit of at most 126.
    let argument = 126.0 * f64::from(f32::EPSILON);
    assert!((total - want).abs() <= want * (SUM + argument), "{total} {want}");
    let mut powers = vec![0.0; scores.len()];
    add(Level::Scalar, scores, one, How::Set, &mut powers);
    for level in cpu::levels() {
        assert_eq!(sum_counted(level, &powers, &vec![1; powers.len()]).to_bits(), total.to_bits(), "{level}");
        let counts: Vec<u32> = (0..).map(|i| i % 3).take(powers.len()).collect();
        let each = powers.iter().zip(&counts).rev().flat_map(|(&p, &c)| (0..c).map(move |_| p));
        let want = each.map(|p| sum_counted(Level::Scalar, &[p], &[1])).fold(0.0, |a: f64, b| a + b);
        assert_eq!(sum_counted(level, &powers, &counts).to_bits(), want.to_bits(), "{level}");
    }
    let before: Vec<f32> = (0..scores.len()).map(|i| (i % 7) as f32 * 0.01).collect();
    for how in [How::Set, How::Add, How::Max, How::SetScore, How::AddScore] {
        let mut first = before.clone();
        add(Level::Scalar, scores, head, how, &mut first);
        for ((&s, &b), &got) in scores.iter().zip(&before).zip(&first) {
            let (s, b): (f64, f64) = (s.into(), b.into());
            let (w, score) = (weight(s, head), s * f64::from(exponent));
            let want = match how {
                How::Set => w,
                How::Add => b + w,
                How::Max => b.max(w),
                How::SetScore => score,
                How::AddScore => b + score,
            };
            let bound =
                want.abs() * (POWER + argument + 2e-7) + score.abs() * 2e-7 * f64::from(how == How::AddScore);
            assert!((f64::from(got) - want).abs() <= bound, "{how:?} {s}: {got} {want}");
        }
        for level in cpu::levels() {
            assert_eq!(greatest(level, scores).to_bits(), most.to_bits(), "{level}");
            assert_eq!(sum(level, scores, head).to_bits(), total.to_bits(), "{level} n {}", scores.len());
            let mut out = before.clone();
            add(level, scores, head, how, &mut out);
            let same = out.iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{level} {how:?} n {}", scores.len());
        }
    }
}

#[test]
fn scores_of_words_have_the_same_bits_at_every_level_and_meet_the_bound() {
    let mut rng = Xoshiro256pp::new(1);
    for n in LENGTHS {
        for exponent in [0.0, 1e-4, 3e-3, 0.5] {
            check(&words(&mut rng, n + 1)[1..], exponent);
        }
    }
}

#[test]
fn scores_of_floats_have_the_same_bits_at_every_level_and_meet_the_bound() {
    let mut rng = Xoshiro256pp::new(2);
    for n in LENGTHS {
        for exponent in [0.0, 0.18, 1.44] {
            check(&floats(&mut rng, n + 1)[1..], exponent);
        }
    }
}

#[test]
fn coarse_sums_are_the_same_at_every_level_and_meet_the_bound() {
    let mut rng = Xoshiro256pp::new(4);
    for n in [1, 63, 64, 65, 700, 3001] {
        for group in [1, 3, 8] {
            for exponent in [0.0, 1e-5, 3e-4, 9e-4, 4e-3, 0.012] {
                let scores = &words(&mut rng, group * n + 1)[1..];
                let heads: Vec<Head> = (0..group)
                    .map(|h| Head {
                        greatest: greatest(Level::Scalar, &scores[h * n..][..n]),
                        exponent: exponent * (1.0 + h as f32 * 0.01),
                        weight: 1.0 / (h + 1) as f32,
                    })
                    .collect();
                for unit in [-3.3, -12.1, -50.0] {
                    let coarse: Vec<_> =
                        heads.iter().map(|&h| coarse::CoarseHead::new(h, unit).unwrap()).collect();
                    let mut first = vec![7; n];
                    coarse_sums(Level::Scalar, scores, &coarse, &mut first);
                    let error = coarse::relative_error(&coarse);
                    assert!(exponent > 1e-3 || error < 0.006, "{error}");
                    for (t, &got) in first.iter().enumerate() {
                        let exact: f64 =
                            heads.iter().zip(scores.chunks(n)).map(|(&h, s)| weight(s[t].into(), h)).sum();
                        let (exact, units, got) = (exact / libm::exp2(unit), group as f64, f64::from(got));
                        assert!(got - units <= exact * (1.0 + error), "{exponent} {unit}: {got} {exact}");
                        assert!(
                            got >= coarse::SATURATED.into() || got + units >= exact * (1.0 - error),
                            "{exponent} {unit}: {got} {exact}"
                        );
                    }
                    for level in cpu::levels() {
                        let mut out = vec![7; n];
                        coarse_sums(level, scores, &coarse, &mut out);
                        assert!(out == first, "{level} n {n} group {group}");
                    }
                }
            }
        }
    }
}

#[test]
fn no_coarse_weights_are_for_steep_heads_or_tiny_units() {
    let head = Head { greatest: 100.0, exponent: 1.0, weight: 1.0 };
    assert_eq!(coarse::CoarseHead::new(head, 0.0), None);
    let head = Head { exponent: 1e-3, ..head };
    assert!(coarse::CoarseHead::new(head, -60.0).is_some());
    assert_eq!(coarse::CoarseHead::new(head, -70.0), None);
}

#[test]
fn scores_that_are_not_finite_count_as_the_least() {
    let scores = [1.0, f32::NAN, f32::NEG_INFINITY, 0.5, -f32::NAN];
    for level in cpu::levels() {
        assert_eq!(greatest(level, &scores), 1.0);
        let head = Head { greatest: 1.0, exponent: 1.0, weight: 1.0 };
        let mut out = vec![0.0; 5];
        add(level, &scores, head, How::Set, &mut out);
        assert!(out[1] < 2e-38 && out[2] < 2e-38 && out[4] < 2e-38 && out[0] > 0.999, "{out:?}");
        assert!((sum(level, &scores, head) - 1.0 - 0.5_f64.sqrt()).abs() < 1e-6);
        assert_eq!(greatest(level, &[f32::NAN; 20]), f32::NEG_INFINITY);
    }
}
