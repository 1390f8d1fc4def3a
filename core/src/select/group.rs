//! One score a token from the scores of the query heads that share a KV head.

use super::cut::{self, cut};
use super::topk::{TopKScratch, top_k_f32, top_k_u16};
use crate::cpu::{self, Level};
#[cfg(feature = "alloc")]
use crate::kernels::softmax::sum_counted;
use crate::kernels::softmax::{Head, How, Scores, add, greatest, sum};
use crate::kernels::topk::{Cut, emit};
use core::f32::consts::LOG2_E;

/// How the query heads of a group agree on one set of tokens. With `s` a head's score of a token, `c` the head's scale and
/// `p = exp(c s) / sum over the tokens of exp(c s)`:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupRule {
    /// The sum of `p` over the heads (PQCache, section 3.2: what its code does for grouped queries).
    #[default]
    SoftmaxSum,
    /// The greatest `p` of any head.
    Max,
    /// The sum of `c s` over the heads.
    LogitSum,
}

/// Heads whose parameters are kept at once.
const HEADS: usize = 16;

/// Tokens whose combined scores stay in the first-level cache while the heads take turns.
const TOKENS: usize = 2048;

/// Combines `scores` `[group][n]` into `out` `[n]`. `scales` `[group]` is the exponent's change for a step of 1 in a
/// score: the score's own scale over the root of `head_dim`. Whatever is added to all scores of a head (a bias) changes
/// no rule's order, so it is not asked for.
///
/// The powers' relative error is below 2.6e-7, that of a head's denominator below 2.6e-7 + n / 2^31; a token whose score is more than 126 ln 2 below
/// the head's best in the exponent counts as if it were exactly that far below. Cost: two powers for each score (none for
/// [`GroupRule::LogitSum`]), over three passes of each head's scores. The same bits at every level.
///
/// # Panics
/// If the lengths do not agree, `scales` is empty, or a scale is negative or not finite.
pub fn combine(rule: GroupRule, scores: &[u16], scales: &[f32], out: &mut [f32]) {
    combine_at(cpu::level(), rule, scores, scales, out);
}

/// As [`combine`], of `f32` scores that are at most finite: a NaN counts as the least score of its head, and makes the
/// logit sum of its token a NaN.
///
/// # Panics
/// As [`combine`].
pub fn combine_f32(rule: GroupRule, scores: &[f32], scales: &[f32], out: &mut [f32]) {
    combine_at(cpu::level(), rule, scores, scales, out);
}

/// The `k` best tokens of a group: those that [`combine`] and then [`top_k_f32`] give. `weights` `[n]` is working memory. With one
/// head every rule is monotone, so its scores are ranked as they are, without powers, and `weights` is not touched. Sums of
/// softmax of at most 16 heads are weighed coarsely first, in whole numbers, and only tokens close to the `k`-th exactly: one power
/// for each score (for the denominators) and a coarse one, which is a fifth of the work.
///
/// # Panics
/// As [`combine`] and [`top_k_f32`].
pub fn group_top_k_u16(
    rule: GroupRule,
    scores: &[u16],
    scales: &[f32],
    k: usize,
    weights: &mut [f32],
    out: &mut [u32],
    scratch: &mut TopKScratch,
) -> usize {
    if is_monotone(scales) {
        return top_k_u16(scores, k, out, scratch);
    }
    let n = weights.len();
    if rule == GroupRule::SoftmaxSum && scales.len() <= cut::HEADS && (1..n).contains(&k) {
        check(scores, scales, n);
        let level = cpu::level();
        let mut heads = [Softmax::NONE; cut::HEADS];
        let heads = &mut heads[..scales.len()];
        softmaxes(level, scores, scales, heads);
        let (marks, rest) = bytemuck::cast_slice_mut::<f32, u32>(weights).split_at_mut(n.div_ceil(2));
        let marks = &mut bytemuck::cast_slice_mut(marks)[..n];
        if let Some([_, mark]) = cut(level, heads, scores, [0, k], marks, halves(rest), scratch) {
            return emit(level, marks, &mut Cut { value: mark, ties: 0 }, 0, out);
        }
    }
    combine(rule, scores, scales, weights);
    top_k_f32(weights, k, out, scratch)
}

/// Both halves of a buffer.
pub(crate) fn halves(buffer: &mut [u32]) -> [&mut [u32]; 2] {
    let (a, b) = buffer.split_at_mut(buffer.len() / 2);
    [a, b]
}

/// As [`group_top_k_u16`], of `f32` scores.
///
/// # Panics
/// As [`combine`] and [`top_k_f32`].
pub fn group_top_k_f32(
    rule: GroupRule,
    scores: &[f32],
    scales: &[f32],
    k: usize,
    weights: &mut [f32],
    out: &mut [u32],
    scratch: &mut TopKScratch,
) -> usize {
    if is_monotone(scales) {
        return top_k_f32(scores, k, out, scratch);
    }
    combine_f32(rule, scores, scales, weights);
    top_k_f32(weights, k, out, scratch)
}

/// As [`combine`] of scores that occur `counts` times, `[group][n]` and `[n]`, with spare memory `[n]`: `out` is what [`combine`] gives each of the
/// tokens with these scores, to the bit. Scores that do not occur are not above the greatest that does.
#[cfg(feature = "alloc")]
pub(crate) fn combine_counted(
    level: Level,
    rule: GroupRule,
    scores: &[u16],
    counts: &[u32],
    scales: &[f32],
    out: &mut [f32],
    spare: &mut [f32],
) {
    combine_with(level, rule, scores, scales, out, |head, scores| {
        add(level, scores, head, How::Set, spare);
        sum_counted(level, spare, counts)
    });
}

/// The softmax of one head over all tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// With the weight of the greatest score.
    pub(crate) head: Head,
    /// The denominator, of which that weight is the inverse.
    #[cfg_attr(not(feature = "alloc"), expect(dead_code, reason = "for what is looked at twice"))]
    pub(crate) sum: f64,
}

impl Softmax {
    pub(crate) const NONE: Self = Self { head: Head { greatest: 0.0, exponent: 0.0, weight: 1.0 }, sum: 1.0 };

    fn new<S: Scores>(
        level: Level,
        scores: &[S],
        scale: f32,
        mut sum: impl FnMut(Head, &[S]) -> f64,
    ) -> Self {
        let mut head = Head { greatest: greatest(level, scores), exponent: scale * LOG2_E, weight: 1.0 };
        let sum = sum(head, scores);
        head.weight = inverse(sum);
        Self { head, sum }
    }
}

/// The softmax of every head, `scores` being `[group][n]` of at least one token.
pub(crate) fn softmaxes(level: Level, scores: &[u16], scales: &[f32], out: &mut [Softmax]) {
    let n = scores.len() / scales.len();
    for ((out, &scale), scores) in out.iter_mut().zip(scales).zip(scores.chunks_exact(n)) {
        *out = Softmax::new(level, scores, scale, |head, scores| sum(level, scores, head));
    }
}

/// One head, whose scores rise as their powers do. (A scale of 0 makes all tokens equal.)
pub(crate) fn is_monotone(scales: &[f32]) -> bool {
    matches!(scales, [scale] if *scale > 0.0)
}

pub(super) fn combine_at<S: Scores>(
    level: Level,
    rule: GroupRule,
    scores: &[S],
    scales: &[f32],
    out: &mut [f32],
) {
    combine_with(level, rule, scores, scales, out, |head, scores| sum(level, scores, head));
}

/// `sum` gives a head's denominator.
fn combine_with<S: Scores>(
    level: Level,
    rule: GroupRule,
    scores: &[S],
    scales: &[f32],
    out: &mut [f32],
    mut sum: impl FnMut(Head, &[S]) -> f64,
) {
    let n = out.len();
    check(scores, scales, n);
    if n == 0 {
        return;
    }
    let (first, next) = match rule {
        GroupRule::SoftmaxSum => (How::Set, How::Add),
        GroupRule::Max => (How::Set, How::Max),
        GroupRule::LogitSum => (How::SetScore, How::AddScore),
    };
    for (part, (scales, scores)) in scales.chunks(HEADS).zip(scores.chunks(HEADS * n)).enumerate() {
        let mut heads = [Head { greatest: 0.0, exponent: 0.0, weight: 1.0 }; HEADS];
        for ((head, &scale), scores) in heads.iter_mut().zip(scales).zip(scores.chunks_exact(n)) {
            if rule == GroupRule::LogitSum {
                head.exponent = scale;
            } else {
                *head = Softmax::new(level, scores, scale, &mut sum).head;
            }
        }
        for (b, out) in out.chunks_mut(TOKENS).enumerate() {
            for (h, (head, scores)) in heads.iter().zip(scores.chunks_exact(n)).enumerate() {
                let how = if part == 0 && h == 0 { first } else { next };
                add(level, &scores[b * TOKENS..][..out.len()], *head, how, out);
            }
        }
    }
}

fn check<S>(scores: &[S], scales: &[f32], n: usize) {
    assert!(!scales.is_empty(), "a group has at least one head");
    assert_eq!(scores.len(), scales.len() * n, "scores are [group][n]");
    assert!(scales.iter().all(|s| *s >= 0.0 && s.is_finite()), "scales are finite and not negative");
}

#[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
fn inverse(sum: f64) -> f32 {
    (1.0 / sum) as f32
}
