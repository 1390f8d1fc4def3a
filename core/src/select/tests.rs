//! Selection against sorting, group rules against `f64`, budgets against their definition; at every level.

use super::group::combine_at;
use super::nucleus::nucleus_at;
use super::topk::{top_k, write_out};
use super::*;
#[cfg(feature = "alloc")]
use super::{
    cut::cut,
    group::{Softmax, halves, softmaxes},
    marks::Cuts,
};
use crate::cpu::{self, Level};
use crate::kernels::topk::Score;
use crate::num::rng::Xoshiro256pp;
use proptest::prelude::*;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

/// The definition: best first, of equals the lower index; NaNs last; then the first `k` in order of index.
fn reference<T: Score>(scores: &[T], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(scores.len()).unwrap()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (scores[a as usize], scores[b as usize]);
        y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
    });
    order.truncate(k);
    order.sort_unstable();
    order
}

fn check<T: Score>(scores: &[T], k: usize, scratch: &mut TopKScratch, what: &str) {
    let want = reference(scores, k);
    for level in cpu::levels() {
        let mut out = vec![u32::MAX; want.len()];
        let n = top_k(level, scores, k, &mut out, scratch);
        let (a, b) = (&out[..n], &want[..]);
        assert!(
            a == b,
            "{what}: n {} k {k} {level}: {:?}",
            scores.len(),
            a.iter().zip(b).find(|(a, b)| a != b)
        );
    }
}

fn scratch() -> Box<TopKScratch> {
    Box::default()
}

/// Distributions: spread, skewed, a few values, constant, sorted, periodic, mostly ties with a tail, two far heaps.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "test data"
)]
fn shapes(n: usize, seed: u64) -> Vec<(&'static str, Vec<f32>)> {
    let mut rng = Xoshiro256pp::new(seed);
    let mut make = |name, f: &mut dyn FnMut(usize, f64) -> f64| {
        (name, (0..n).map(|i| f(i, rng.f64()) as f32).collect::<Vec<f32>>())
    };
    vec![
        make("spread", &mut |_, u| u * 65_535.0),
        make("skewed", &mut |_, u| u.powi(12) * 60_000.0 + 3000.0),
        make("narrow", &mut |_, u| 30_000.0 + u * 300.0),
        make("three values", &mut |_, u| (u * 3.0).floor()),
        make("two values", &mut |_, u| 9.0 + f64::from(u < 0.2)),
        make("constant", &mut |_, _| 513.0),
        make("rising", &mut |i, _| (i % 65_536) as f64),
        make("falling", &mut |i, _| (65_535 - i % 65_536) as f64),
        make("periodic", &mut |i, _| (i % 32 * 2000) as f64),
        make("ties with a tail", &mut |_, u| if u < 0.7 { 100.0 } else { u * 50_000.0 }),
        make("heaps", &mut |_, u| if u < 0.5 { u * 10.0 } else { 65_000.0 + u * 10.0 }),
        make("hidden", &mut |i, u| if i < 300 { 60_000.0 + u } else { u * 9.0 }),
    ]
}

fn to_u16(x: &[f32]) -> Vec<u16> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    x.iter().map(|&x| x as u16).collect()
}

#[test]
fn top_k_equals_sorting_for_any_distribution_length_and_k() {
    let mut scratch = scratch();
    for n in [0, 1, 2, 63, 64, 65, 1000, 4096, 4097, 9001, 70_001] {
        for (name, x) in shapes(n, n as u64) {
            let words = to_u16(&x);
            for k in [0, 1, 2, n / 100, n / 5, n / 2, n.saturating_sub(1), n, n + 9] {
                if n > 20_000 && k == n / 2 {
                    continue;
                }
                check(&words, k, &mut scratch, name);
                check(&x, k, &mut scratch, name);
            }
        }
    }
}

#[test]
fn top_k_of_more_scores_than_can_be_kept_equals_sorting() {
    let mut scratch = scratch();
    let n = 700_001;
    for (name, x) in shapes(n, 5) {
        for k in [n / 1000, n / 5] {
            check(&to_u16(&x), k, &mut scratch, name);
            check(&x, k, &mut scratch, name);
        }
    }
}

#[test]
fn nans_rank_last_and_zeros_are_equal() {
    let mut scratch = scratch();
    for n in [20, 5000, 40_000] {
        for share in [0.01, 0.5, 0.97, 1.0] {
            let mut rng = Xoshiro256pp::new(n);
            #[allow(clippy::cast_possible_truncation, reason = "test data")]
            let mut value = |_| match rng.f64() {
                u if u < share => f32::NAN,
                _ if rng.below(3) == 0 => {
                    [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY][rng.below(4) as usize]
                }
                _ => (rng.f64() * 8.0 - 4.0) as f32,
            };
            let x: Vec<f32> = (0..n).map(&mut value).collect();
            let n = x.len();
            for k in [1, n / 50, n / 5, n / 2, n * 9 / 10, n - 1, n] {
                check(&x, k, &mut scratch, "NaNs");
            }
            let negative: Vec<f32> = x.iter().map(|x| -x.abs()).collect();
            check(&negative, n / 3, &mut scratch, "negative zeros");
        }
    }
}

#[test]
fn a_threshold_tells_how_many_are_above_and_how_many_equals_are_taken() {
    let mut scratch = scratch();
    let scores = [5_u16, 9, 5, 5, 1, 9];
    let threshold = kth_u16(&scores, 4, &mut scratch).unwrap();
    assert_eq!(threshold, Threshold { value: 5, above: 2, ties: 2 });
    assert_eq!(threshold.k(), 4);
    let mut out = [0; 4];
    assert_eq!(select_u16(&scores, threshold, &mut out), 4);
    assert_eq!(out, [0, 1, 2, 5]);
    assert_eq!(kth_u16(&scores, 0, &mut scratch), None);
    assert_eq!(kth_u16(&[], 3, &mut scratch), None);
    let nan = kth_f32(&[f32::NAN, 1.0, f32::NAN], 2, &mut scratch).unwrap();
    assert!(nan.value.is_nan() && nan.above == 1 && nan.ties == 1);
    let mut rng = Xoshiro256pp::new(4);
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let scores: Vec<f32> = (0..30_000).map(|_| rng.f64() as f32).collect();
    let threshold = kth_f32(&scores, 6000, &mut scratch).unwrap();
    assert_eq!(scores.iter().filter(|&&s| s > threshold.value).count(), threshold.above);
    let mut out = vec![0; 6000];
    assert_eq!(select_f32(&scores, threshold, &mut out), 6000);
    assert_eq!(out, reference(&scores, 6000));
}

#[test]
fn thresholds_take_everything_that_reaches_them() {
    let scores = [3_u16, 0, 65_535, 7, 7];
    let mut out = [0; 5];
    for (least, want) in [(0_u16, &[0, 1, 2, 3, 4][..]), (7, &[2, 3, 4]), (65_535, &[2])] {
        assert_eq!(count_at_least_u16(&scores, least), want.len());
        assert_eq!(at_least_u16(&scores, least, &mut out[..want.len()]), want.len());
        assert_eq!(out[..want.len()], *want);
    }
    let scores = [1.0, f32::NAN, f32::NEG_INFINITY, -0.0, 2.0];
    for (least, want) in
        [(0.0, &[0, 3, 4][..]), (f32::NEG_INFINITY, &[0, 2, 3, 4]), (f32::INFINITY, &[]), (f32::NAN, &[])]
    {
        assert_eq!(count_at_least_f32(&scores, least), want.len());
        assert_eq!(at_least_f32(&scores, least, &mut out), want.len());
        assert_eq!(out[..want.len()], *want);
    }
}

#[test]
fn candidates_are_ranked_by_their_own_scores() {
    let mut scratch = scratch();
    let (ids, scores) = ([4, 9, 17, 30], [1.0, 3.0, 3.0, 2.0]);
    let mut out = [0; 4];
    for (k, want) in [(1, &[9][..]), (2, &[9, 17]), (3, &[9, 17, 30]), (8, &[4, 9, 17, 30])] {
        assert_eq!(top_k_of(&ids, &scores, k, &mut out, &mut scratch), want.len());
        assert_eq!(out[..want.len()], *want);
    }
}

/// The rules in `f64`.
fn combined(rule: GroupRule, scores: &[Vec<f64>], scales: &[f32]) -> Vec<f64> {
    let heads = scores.iter().zip(scales).map(|(s, &c)| {
        let c = f64::from(c);
        if rule == GroupRule::LogitSum {
            return s.iter().map(|s| s * c).collect();
        }
        let most = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = s.iter().map(|s| libm::exp((s - most) * c)).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|p| p / sum).collect::<Vec<f64>>()
    });
    let add = |a: Vec<f64>, b: Vec<f64>| {
        a.iter().zip(b).map(|(a, b)| if rule == GroupRule::Max { a.max(b) } else { a + b }).collect()
    };
    heads.reduce(add).unwrap()
}

const RULES: [GroupRule; 3] = [GroupRule::SoftmaxSum, GroupRule::Max, GroupRule::LogitSum];

#[test]
fn rules_match_their_definition_and_have_the_same_bits_at_every_level() {
    let mut rng = Xoshiro256pp::new(6);
    for n in [1, 5, 16, 100, 2047, 2049, 5000] {
        for group in [1, 2, 3, 8, 17, 33] {
            #[allow(clippy::cast_possible_truncation, reason = "test data")]
            let words: Vec<u16> = (0..n * group).map(|_| rng.below(60_000) as u16).collect();
            let floats: Vec<f32> = words.iter().map(|&w| f32::from(w) * 1e-3 - 25.0).collect();
            // Exponents span up to 80.
            let scales: Vec<f32> = (0..group).map(|h| 80.0 / 60_000.0 / (h % 4 + 1) as f32).collect();
            let wide: Vec<f32> = scales.iter().map(|s| s * 1000.0).collect();
            for rule in RULES {
                let mut first = vec![0.0; n];
                let mut first_wide = vec![0.0; n];
                combine_at(Level::Scalar, rule, &words, &scales, &mut first);
                combine_at(Level::Scalar, rule, &floats, &wide, &mut first_wide);
                for level in cpu::levels() {
                    let mut out = vec![1.0; n];
                    combine_at(level, rule, &words, &scales, &mut out);
                    assert_eq!(out, first, "{level} {rule:?} {n} {group}");
                    combine_at(level, rule, &floats, &wide, &mut out);
                    assert_eq!(out, first_wide, "{level} {rule:?} {n} {group}");
                }
                for (got, scores, scales) in [
                    (&first, words.iter().map(|&w| f64::from(w)).collect::<Vec<_>>(), &scales),
                    (&first_wide, floats.iter().map(|&f| f64::from(f)).collect(), &wide),
                ] {
                    let heads: Vec<Vec<f64>> = scores.chunks(n).map(<[f64]>::to_vec).collect();
                    let want = combined(rule, &heads, scales);
                    let size = if rule == GroupRule::LogitSum { 80.0 * group as f64 } else { 0.0 };
                    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
                        // Powers and denominator, and the argument's roundings of at most 126 octaves.
                        let bound = want.abs() * 6e-5 + size * 1e-6;
                        assert!((f64::from(got) - want).abs() <= bound, "{rule:?} {i}: {got} {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_head_is_ranked_by_its_scores_and_several_by_the_rule() {
    let mut scratch = scratch();
    let mut rng = Xoshiro256pp::new(7);
    let n = 6000;
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let words: Vec<u16> = (0..2 * n).map(|_| rng.next_u64() as u16).collect();
    let floats: Vec<f32> = words.iter().map(|&w| f32::from(w)).collect();
    let (mut weights, mut out) = (vec![0.0; n], vec![0; n]);
    for rule in RULES {
        // Scores far below the best one have equal powers; ranked as they are, they still differ.
        let k = group_top_k_u16(rule, &words[..n], &[0.1], 900, &mut weights, &mut out, &mut scratch);
        assert_eq!(out[..k], reference(&words[..n], 900));
        let k = group_top_k_f32(rule, &floats[..n], &[0.1], 900, &mut weights, &mut out, &mut scratch);
        assert_eq!(out[..k], reference(&floats[..n], 900));
        let k = group_top_k_u16(rule, &words, &[1e-4, 2e-4], 900, &mut weights, &mut out, &mut scratch);
        let mut want = vec![0.0; n];
        combine(rule, &words, &[1e-4, 2e-4], &mut want);
        assert_eq!(out[..k], reference(&want, 900));
        let k = group_top_k_f32(rule, &floats, &[1e-4, 2e-4], 900, &mut weights, &mut out, &mut scratch);
        assert_eq!(out[..k], reference(&want, 900));
        let k = group_top_k_u16(rule, &words[..n], &[0.0], 3, &mut weights, &mut out, &mut scratch);
        assert_eq!(out[..k], [0, 1, 2], "a scale of 0 makes all equal");
    }
}

/// Scores that are nearly normal, as sums of table entries are, of heads that agree in part.
#[cfg(feature = "alloc")]
fn group_scores(rng: &mut Xoshiro256pp, group: usize, n: usize) -> Vec<u16> {
    let mut some = |most: u64| (0..4).map(|_| rng.below(most)).sum::<u64>();
    let shared: Vec<u64> = (0..n).map(|_| some(8000)).collect();
    (0..group * n).map(|i| u16::try_from(shared[i % n] + some(8000)).unwrap()).collect()
}

#[cfg(feature = "alloc")]
#[test]
fn both_cuts_take_what_exact_sums_of_all_tokens_say() {
    let mut scratch = scratch();
    let mut rng = Xoshiro256pp::new(11);
    let mut decided = 0;
    for n in [300, 4096, 9001, 20_000] {
        for group in [1, 2, 8, 17] {
            let mut scores = group_scores(&mut rng, group, n);
            // Equal tokens, among them many at the edges.
            for t in (0..n).step_by(3) {
                let from = rng.below(40);
                (0..group).for_each(|h| scores[h * n + t] = scores[h * n + usize::try_from(from).unwrap()]);
            }
            for span in [0.5, 12.0, 60.0, 600.0] {
                let scales: Vec<f32> = (0..group).map(|h| span / 50_000.0 * (1.0 + h as f32 * 0.1)).collect();
                for rule in RULES {
                    for ks in [[0, n / 50], [n / 50, n / 40], [n / 8, n / 4], [n / 5, n / 5 + 1], [n - 9, n]]
                    {
                        let mut weights = vec![0.0; n];
                        combine_at(Level::Scalar, rule, &scores, &scales, &mut weights);
                        if group == 1 {
                            weights = scores.iter().map(|&s| f32::from(s)).collect();
                        }
                        let want = ks.map(|k| reference(&weights, k));
                        for level in cpu::levels() {
                            let mut heads = vec![Softmax::NONE; group];
                            softmaxes(level, &scores, &scales, &mut heads);
                            let (mut marks, mut spare) = (vec![9; n], vec![0; n]);
                            let cuts = Cuts { level, scales: &scales, scores: &scores, ks };
                            let at =
                                cuts.mark(rule, &heads, &mut marks, &mut weights, &mut spare, &mut scratch);
                            for (at, want) in at.into_iter().zip(&want) {
                                let got: Vec<u32> =
                                    (0..).zip(&marks).filter(|(_, m)| **m > at).map(|(i, _)| i).collect();
                                assert!(got == *want, "{level} {rule:?} n {n} group {group} {span} {ks:?}");
                            }
                            if rule == GroupRule::SoftmaxSum && group > 1 && ks[1] < n {
                                let spare = halves(&mut spare);
                                decided += usize::from(
                                    cut(level, &heads, &scores, ks, &mut marks, spare, &mut scratch)
                                        .is_some(),
                                );
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(decided > 40, "coarse sums decide {decided} times");
}

/// The definition of top-p, with the same rounding of weights.
fn nucleus_reference(weights: &[f32], p: f32) -> Vec<u32> {
    let most = weights.iter().copied().fold(0.0, f32::max);
    if p == 0.0 || most <= 0.0 {
        return vec![];
    }
    let unit = libm::exp2((29.0 - libm::floor(libm::log2(most.into()))).min(127.0));
    let mass = |&w: &f32| if w > 0.0 { (f64::from(w) * unit).floor() } else { 0.0 };
    let all: f64 = weights.iter().map(mass).sum();
    let wanted = (f64::from(p) * all).ceil().max(1.0).min(all);
    let mut order: Vec<u32> = (0..u32::try_from(weights.len()).unwrap()).collect();
    order.sort_by(|&a, &b| weights[b as usize].partial_cmp(&weights[a as usize]).unwrap());
    let mut sum = 0.0;
    order.retain(|&i| {
        let before = sum;
        sum += mass(&weights[i as usize]);
        before < wanted
    });
    order.sort_unstable();
    order
}

#[test]
fn top_p_takes_the_fewest_that_reach_the_share() {
    let mut scratch = scratch();
    for n in [0, 1, 2, 100, 5000, 40_001] {
        for (name, x) in shapes(n, 8 + n as u64) {
            for scale in [1.0, 1e-30, 1e30] {
                let weights: Vec<f32> = x.iter().map(|x| x * scale).collect();
                for p in [0.0, 1e-6, 0.3, 0.9, 0.999, 1.0] {
                    let want = nucleus_reference(&weights, p);
                    for level in cpu::levels() {
                        let threshold = nucleus_at(level, &weights, p, &mut scratch);
                        let mut out = vec![0; want.len()];
                        let k = threshold.map_or(0, |t| write_out(level, &weights, t, &mut out));
                        assert!(
                            out[..k] == want,
                            "{name} n {n} p {p} scale {scale} {level}: {k} {}",
                            want.len()
                        );
                        assert_eq!(threshold.map_or(0, |t| t.k()), want.len());
                    }
                }
            }
        }
    }
    let mut out = [9; 3];
    assert_eq!(top_p(&[0.1, 0.6, 0.3], 0.8, &mut out, &mut scratch), 2);
    assert_eq!(out[..2], [1, 2]);
    assert_eq!(top_p(&[0.0, -1.0, f32::NAN], 0.8, &mut out, &mut scratch), 0);
    assert_eq!(top_p(&[f32::NAN, -1.0, 2.0], 1.0, &mut out, &mut scratch), 1);
}

#[test]
fn budgets_count_the_heads_shares_of_the_best_tokens() {
    let mut scratch = scratch();
    let weights =
        [0.5, 0.1, 0.1, 0.3, /* head 1 */ 0.1, 0.9, 0.0, 0.0, /* head 2 */ 0.1, 0.1, 0.4, 0.4];
    let mut out = [0; 3];
    head_budgets(&weights, 5, &mut out, &mut scratch);
    assert_eq!(out, [2, 1, 2]);
    head_budgets(&weights, 7, &mut out, &mut scratch); // of six equals the two of head 0
    assert_eq!(out, [4, 1, 2]);
    head_budgets(&weights, 99, &mut out, &mut scratch);
    assert_eq!(out, [4, 4, 4]);
    head_budgets(&weights, 0, &mut out, &mut scratch);
    assert_eq!(out, [0, 0, 0]);
    head_budgets(&[f32::NAN, 1.0, f32::NAN], 2, &mut out, &mut scratch);
    assert_eq!(out, [1, 1, 0]);
}

#[test]
fn tokens_are_shared_out_in_proportion_within_limits() {
    let mut out = [0; 4];
    share_out(10, &[1, 1, 1, 1], 0, 10, &mut out);
    assert_eq!(out, [3, 3, 2, 2], "of equal remainders the lower heads");
    share_out(100, &[8, 1, 1, 0], 4, 100, &mut out);
    assert_eq!(out, [71, 13, 12, 4], "four each, then 67.2, 8.4, 8.4");
    share_out(100, &[8, 1, 1, 0], 0, 50, &mut out);
    assert_eq!(out, [50, 25, 25, 0], "what one has no room for goes to the others");
    share_out(100, &[1, 0, 0, 0], 0, 40, &mut out);
    assert_eq!(out, [40, 20, 20, 20], "and to those without mass in the end");
    share_out(12, &[0, 0, 0, 0], 3, 3, &mut out);
    assert_eq!(out, [3, 3, 3, 3]);
    share_out(u64::MAX, &[u64::MAX, u64::MAX, 1, 0], 0, u64::MAX, &mut out);
    assert_eq!(out.iter().map(|&o| u128::from(o)).sum::<u128>(), u64::MAX.into());
}

#[test]
fn blocks_take_their_greatest_or_their_sum() {
    let scores = [1.0, f32::NAN, 3.0, -2.0, 5.0, f32::NAN, f32::NAN];
    let mut out = [0.0; 4];
    block_scores(&scores, 2, BlockRule::Max, &mut out);
    assert_eq!(out, [1.0, 3.0, 5.0, f32::NEG_INFINITY]);
    let scores: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let mut out = [0.0; 8];
    block_scores(&scores, 128, BlockRule::Sum, &mut out);
    for (b, out) in out.iter().enumerate() {
        let want: f32 = scores[128 * b..1000.min(128 * b + 128)].iter().sum();
        assert_eq!(*out, want, "small whole numbers are exact");
    }
    block_scores(&[], 5, BlockRule::Sum, &mut []);
}

proptest! {
    #[test]
    fn any_words_are_selected_as_by_sorting(
        n in 0_usize..12_000, share in 0.0_f64..1.0, low: u16, spread in 0_u32..17, seed: u64,
    ) {
        let mut rng = Xoshiro256pp::new(seed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data")]
        let (scores, k): (Vec<u16>, usize) = (
            (0..n).map(|_| low.saturating_add(rng.below(1 << spread).min(65_535) as u16)).collect(),
            (share * n as f64) as usize,
        );
        let mut scratch = scratch();
        let want = reference(&scores, k);
        for level in cpu::levels() {
            let mut out = vec![0; k];
            prop_assert_eq!(top_k(level, &scores, k, &mut out, &mut scratch), k);
            prop_assert_eq!(&out, &want);
        }
    }

    #[test]
    fn any_bits_are_selected_as_by_sorting(n in 0_usize..9000, share in 0.0_f64..1.0, same in 0_u32..33, seed: u64) {
        let mut rng = Xoshiro256pp::new(seed);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data")]
        let (scores, k): (Vec<f32>, usize) = (
            // NaNs, infinities and subnormal numbers among them; the fewer random bits, the more ties.
            (0..n).map(|_| f32::from_bits((rng.next_u64() as u32).checked_shl(same).unwrap_or(0))).collect(),
            (share * n as f64) as usize,
        );
        let mut scratch = scratch();
        let want = reference(&scores, k);
        for level in cpu::levels() {
            let mut out = vec![0; k];
            prop_assert_eq!(top_k(level, &scores, k, &mut out, &mut scratch), k);
            prop_assert_eq!(&out, &want);
        }
    }

    #[test]
    fn budgets_sum_to_the_total_and_keep_the_limits(
        masses in proptest::collection::vec(0_u64..1000, 1..40), least in 0_u64..9, room in 0_u64..500, share in 0.0_f64..1.0,
    ) {
        let heads = masses.len() as u64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test data")]
        let total = heads * least + (share * (heads * room) as f64) as u64;
        let mut out = vec![0; masses.len()];
        share_out(total, &masses, least, least + room, &mut out);
        prop_assert_eq!(out.iter().sum::<u64>(), total);
        prop_assert!(out.iter().all(|o| (least..=least + room).contains(o)));
        for (i, a) in out.iter().enumerate() {
            for (j, b) in out.iter().enumerate() {
                prop_assert!(masses[i] <= masses[j] || a >= b, "more mass, no fewer tokens");
            }
        }
    }
}
