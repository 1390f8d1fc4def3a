//! The best of a group by the sum of softmax, without computing the powers of all tokens.
//!
//! [`coarse_sums`] gives each token a mark, a whole number of units of its sum, off by less than 2 % where the k-th token lies. The
//! k-th mark bounds the k-th sum, so a token whose mark is further from it than both errors is decided; only the few
//! others (1 to 3 % of the tokens) get their exact sums, and marks on the side where these put them. Which tokens are
//! taken is what exact sums of all would say, to the bit.

use super::group::{GroupRule, Softmax, combine_at, halves, is_monotone};
use super::topk::{Threshold, TopKScratch, kth_at};
use crate::cpu::Level;
use crate::kernels::softmax::coarse::{CoarseHead, SATURATED, relative_error};
use crate::kernels::softmax::{How, add, coarse_sums};
use crate::kernels::topk::{Score, count_above, emit_within};

/// Heads that are decided coarsely at most.
pub(super) const HEADS: usize = 16;

/// Fewer tokens are decided exactly.
const FEW: usize = 4096;

/// Tokens of a run of the sample that says what a unit is, and the runs.
const RUN: usize = 16;
const RUNS: usize = 64;

/// What the mark of the last token of the wider cut should be, and at most that of the narrower.
const AIM: f64 = 1024.0;
const MOST: f64 = 16384.0;

/// Undecided tokens whose scores are fetched at once.
const BATCH: usize = 1024;

/// Two selections from the same scores: the `ks[0]` best tokens, and the `ks[1]` best, which are more.
#[derive(Clone, Copy)]
pub(crate) struct Cuts<'a> {
    pub(crate) level: Level,
    /// `[group]`
    pub(crate) scales: &'a [f32],
    /// `[group][n]`
    pub(crate) scores: &'a [u16],
    pub(crate) ks: [usize; 2],
}

impl Cuts<'_> {
    /// Gives each token a mark: above the first number that is returned if it is among the `ks[0]` best, above the second if it is
    /// among the `ks[1]` best, exactly as many as are asked for. `heads` are those of the scores unless the rule is the sum of
    /// logits or there is one head. `weights` `[n]` (nothing for one head whose scale is not 0) and `ids` are working memory.
    pub(crate) fn mark(
        self,
        rule: GroupRule,
        heads: &[Softmax],
        marks: &mut [u16],
        weights: &mut [f32],
        ids: &mut [u32],
        scratch: &mut TopKScratch,
    ) -> [u16; 2] {
        let Self { level, scales, scores, ks } = self;
        if is_monotone(scales) {
            marks.copy_from_slice(scores);
            return self
                .mark_scores(marks, ids, scratch)
                .unwrap_or_else(|| mark_all(level, scores, ks, marks, scratch));
        }
        let weights = &mut weights[..marks.len()];
        if rule == GroupRule::SoftmaxSum && ks[1] < marks.len() {
            let spare = halves(bytemuck::cast_slice_mut(weights));
            if let Some(cuts) = cut(level, heads, scores, ks, marks, spare, scratch) {
                return cuts;
            }
        }
        combine_at(level, rule, scores, scales, weights);
        mark_all(level, weights, ks, marks, scratch)
    }

    /// One head, whose scores are the marks but for ties; `None` if there are too many of these, or no mark below or above.
    fn mark_scores(self, marks: &mut [u16], ids: &mut [u32], scratch: &mut TopKScratch) -> Option<[u16; 2]> {
        let Self { level, scores, ks, .. } = self;
        let wide = kth_at(level, scores, ks[1], scratch)?;
        let below = wide.value.checked_sub(1)?;
        let sure = kth_at(level, scores, ks[0], scratch);
        let equals = emit_within(level, marks, [wide.value; 2], ids)?;
        ids[..equals].iter().skip(wide.ties).for_each(|&id| marks[id as usize] = below);
        match sure {
            None => Some([u16::MAX, below]),
            Some(sure) if sure.value == wide.value => {
                let above = sure.value.checked_add(1)?;
                ids[..sure.ties].iter().for_each(|&id| marks[id as usize] = above);
                Some([sure.value, below])
            }
            Some(sure) => {
                let equals = emit_within(level, marks, [sure.value; 2], ids)?;
                ids[..equals].iter().skip(sure.ties).for_each(|&id| marks[id as usize] = sure.value - 1);
                Some([sure.value - 1, below])
            }
        }
    }
}

/// Marks of 2, 1 and 0, by scores that are all numbers.
fn mark_all<T: Score>(
    level: Level,
    scores: &[T],
    ks: [usize; 2],
    marks: &mut [u16],
    scratch: &mut TopKScratch,
) -> [u16; 2] {
    marks.fill(0);
    for (k, to) in [(ks[1], 1), (ks[0], 2)] {
        let Some(Threshold { value, mut ties, .. }) = kth_at(level, scores, k, scratch) else { continue };
        for (mark, &score) in marks.iter_mut().zip(scores) {
            let tie = score == value && ties > 0;
            ties -= usize::from(tie);
            if tie || score > value {
                *mark = to;
            }
        }
    }
    [1, 0]
}

/// Marks that decide: how far they may be from the sums.
#[derive(Clone, Copy)]
struct Errors {
    relative: f64,
    units: f64,
}

impl Errors {
    /// The marks of tokens that may lie on either side of one whose mark is the `k`-th; `None` if those may be saturated.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    fn around(self, mark: u16) -> Option<[u16; 2]> {
        let Self { relative, units } = self;
        let most = (f64::from(mark) + units) / (1.0 - relative);
        let least = (f64::from(mark) - units) / (1.0 + relative);
        let high = libm::ceil(most * (1.0 + relative) + units);
        let low = libm::floor(least * (1.0 - relative) - units).max(0.0);
        (high < SATURATED.into()).then_some([low as u16, high as u16])
    }
}

/// Decides the `ks[0]` and the `ks[1]` best (in this order rising, below the number of tokens) of `scores`, `[group][marks.len()]`, by sums of
/// softmax: tokens with marks above the first number that is returned, and above the second. `None` if nothing is decided:
/// there are few tokens or many heads, scores that no coarse weight is for, or too many are close to one another. `ids` and `sums` are
/// for what has to be looked at closely; a 64th of the tokens is enough most of the time.
pub(crate) fn cut(
    level: Level,
    heads: &[Softmax],
    scores: &[u16],
    ks: [usize; 2],
    marks: &mut [u16],
    [ids, sums]: [&mut [u32]; 2],
    scratch: &mut TopKScratch,
) -> Option<[u16; 2]> {
    let n = marks.len();
    debug_assert!(ks[0] <= ks[1] && ks[1] < n && scores.len() == heads.len() * n);
    if n < FEW || heads.len() > HEADS || ks[1] == 0 {
        return None;
    }
    let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
    let mut coarse = [CoarseHead::default(); HEADS];
    let coarse = &mut coarse[..heads.len()];
    let unit = unit(level, heads, scores, n, ks, scratch)?;
    for (coarse, head) in coarse.iter_mut().zip(heads) {
        *coarse = CoarseHead::new(head.head, unit)?;
    }
    coarse_sums(level, scores, coarse, marks);
    #[allow(clippy::cast_precision_loss, reason = "few heads")]
    let errors = Errors { relative: relative_error(coarse) + 1e-5, units: heads.len() as f64 };
    let mut close = Close { level, heads, scores, n, ids, sums };
    let wide = errors.around(kth_at(level, marks, ks[1], scratch)?.value)?;
    let [low, high] = wide;
    if ks[0] == 0 {
        close.decide(marks, wide, &[Best { k: ks[1], mark: u16::MAX }], 0, scratch)?;
        return Some([u16::MAX, high]);
    }
    let narrow = errors.around(kth_at(level, marks, ks[0], scratch)?.value)?;
    let best = Best { k: ks[0], mark: u16::MAX };
    let top = narrow[1];
    if narrow[0] <= high {
        close.decide(marks, [low, top], &[best, Best { k: ks[1], mark: top }], 0, scratch)?;
        return Some([top, top - 1]);
    }
    close.decide(marks, narrow, &[best], top, scratch)?;
    close.decide(marks, wide, &[Best { k: ks[1], mark: high + 1 }], 0, scratch)?;
    Some([top, high])
}

/// The logarithm to base 2 of a unit, from exact sums of a few tokens.
fn unit(
    level: Level,
    heads: &[Softmax],
    scores: &[u16],
    n: usize,
    ks: [usize; 2],
    scratch: &mut TopKScratch,
) -> Option<f64> {
    const SAMPLE: usize = RUN * RUNS;
    let mut some = [0.0; SAMPLE];
    let mut fetched = [0; SAMPLE];
    for (h, head) in heads.iter().enumerate() {
        for (run, to) in fetched.as_chunks_mut::<RUN>().0.iter_mut().enumerate() {
            to.copy_from_slice(&scores[h * n + run * (n - RUN) / (RUNS - 1)..][..RUN]);
        }
        add(level, &fetched, head.head, if h == 0 { How::Set } else { How::Add }, &mut some);
    }
    let mut at = |k: usize| {
        let k = (k * SAMPLE / n).clamp(1, SAMPLE);
        kth_at(level, &some, k, scratch).map(|t| libm::log2(f64::from(t.value)))
    };
    let wide = at(ks[1])? - libm::log2(AIM);
    if ks[0] == 0 { Some(wide) } else { Some(wide.max(at(ks[0])? - libm::log2(MOST))) }
}

/// Exact sums of the tokens that marks do not decide.
struct Close<'a> {
    level: Level,
    heads: &'a [Softmax],
    scores: &'a [u16],
    n: usize,
    ids: &'a mut [u32],
    sums: &'a mut [f32],
}

/// The `k` best of all tokens, and the mark that says so.
#[derive(Clone, Copy)]
struct Best {
    k: usize,
    mark: u16,
}

impl Close<'_> {
    /// Gives every token with a mark in `range` the mark of the first of `best`, whose `k` rise, that it belongs to, or else `rest`. The
    /// `k`-th token is one of them.
    fn decide(
        &mut self,
        marks: &mut [u16],
        range: [u16; 2],
        best: &[Best],
        rest: u16,
        scratch: &mut TopKScratch,
    ) -> Option<()> {
        let Self { level, heads, scores, n, .. } = *self;
        let above = count_above(level, marks, range[1]);
        let found = emit_within(level, marks, range, self.ids).filter(|n| *n <= self.sums.len())?;
        let (ids, sums) = (&self.ids[..found], &mut self.sums[..found]);
        let mut fetched = [0; BATCH];
        for (ids, sums) in ids.chunks(BATCH).zip(sums.chunks_mut(BATCH)) {
            let fetched = &mut fetched[..ids.len()];
            for (h, head) in heads.iter().enumerate() {
                let scores = &scores[h * n..][..n];
                for (to, &id) in fetched.iter_mut().zip(ids) {
                    *to = scores[id as usize];
                }
                add(level, fetched, head.head, if h == 0 { How::Set } else { How::Add }, sums);
            }
        }
        ids.iter().for_each(|&id| marks[id as usize] = rest);
        // The widest first, so that narrower ones have the last word.
        for best in best.iter().rev() {
            let Threshold { value, mut ties, .. } = kth_at(level, sums, best.k.checked_sub(above)?, scratch)?;
            for (&id, &sum) in ids.iter().zip(&*sums) {
                let tie = sum == value && ties > 0;
                ties -= usize::from(tie);
                if tie || sum > value {
                    marks[id as usize] = best.mark;
                }
            }
        }
        Some(())
    }
}
