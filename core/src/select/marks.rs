//! Marks that say which tokens are among the best, for two numbers of them at once.

use super::cut::cut;
use super::group::{GroupRule, Softmax, combine_at, halves, is_monotone};
use super::topk::{Threshold, TopKScratch, kth_at};
use crate::cpu::Level;
use crate::kernels::topk::{Score, emit_within};

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
