//! The best of a group by the sum of softmax, without computing the powers of all tokens.
//!
//! [`coarse_sums`] gives each token a mark, a whole number of units of its sum, off by less than 2 % where the k-th token lies. The
//! k-th mark bounds the k-th sum, so a token whose mark is further from it than both errors is decided; only the few
//! others (1 to 3 % of the tokens) get their exact sums, and marks on the side where these put them. Which tokens are
//! taken is what exact sums of all would say, to the bit.

use super::group::Softmax;
use super::topk::{Threshold, TopKScratch, kth_at};
use crate::cpu::Level;
use crate::kernels::softmax::coarse::{CoarseHead, SATURATED, relative_error};
use crate::kernels::softmax::{How, add, coarse_sums};
use crate::kernels::topk::{count_above, emit_within};

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
pub(super) fn cut(
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
