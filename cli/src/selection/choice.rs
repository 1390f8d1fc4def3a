//! From scores of tokens to chosen tokens: the group rule, the top k.

use super::head::{GroupRule, Head, softmax};

/// The tokens that a selector chooses, ascending.
pub(crate) struct Choice {
    /// `[budget][n_queries]`: one set for the group, as a kernel reads it that shares rows among query heads.
    pub(crate) shared: Vec<Vec<Vec<u32>>>,
    /// `[budget][group * n_queries]`: a set for each query head.
    pub(crate) single: Vec<Vec<Vec<u32>>>,
}

impl Choice {
    /// Room for every query of a head, all sets empty.
    pub(crate) fn empty(head: &Head<'_>) -> Self {
        let sets = |n: usize| vec![vec![Vec::new(); n]; head.setting.ks.len()];
        Self { shared: sets(head.n_queries), single: sets(head.group * head.n_queries) }
    }

    /// The best candidates by `scores`, `[group][n_queries][n_tokens]`, which are scaled as scores of attention are.
    pub(crate) fn by_scores(head: &Head<'_>, scores: &[f32]) -> Self {
        let mut choice = Self::empty(head);
        let (mut combined, mut order) = (Vec::new(), Vec::new());
        for j in 0..head.n_queries {
            let candidates = head.candidates(j);
            let rows: Vec<&[f32]> = (0..head.group)
                .map(|h| {
                    &scores[(h * head.n_queries + j) * head.n_tokens..][..head.n_tokens][candidates.clone()]
                })
                .collect();
            #[allow(clippy::cast_possible_truncation, reason = "a dump has fewer than 2^32 tokens")]
            let first = candidates.start as u32;
            for (h, row) in rows.iter().enumerate() {
                let into = choice.single.iter_mut().map(|sets| &mut sets[h * head.n_queries + j]);
                best(row, first, &head.setting.ks, &mut order, into);
            }
            combine(head.setting.rule, &rows, &mut combined);
            let into = choice.shared.iter_mut().map(|sets| &mut sets[j]);
            best(&combined, first, &head.setting.ks, &mut order, into);
        }
        choice
    }
}

/// One score of a token from those of the heads of a group.
fn combine(rule: GroupRule, rows: &[&[f32]], combined: &mut Vec<f32>) {
    combined.clear();
    combined.extend_from_slice(rows[0]);
    if rule != GroupRule::LogitSum {
        softmax(combined);
    }
    let mut weights = Vec::new();
    for row in &rows[1..] {
        weights.clear();
        weights.extend_from_slice(row);
        if rule != GroupRule::LogitSum {
            softmax(&mut weights);
        }
        for (sum, w) in combined.iter_mut().zip(&weights) {
            *sum = if rule == GroupRule::Max { sum.max(*w) } else { *sum + w };
        }
    }
}

/// For each `k` the `k` highest scores, the lower index first among equals; indices ascending, counted from `first`.
fn best<'a>(
    scores: &[f32],
    first: u32,
    ks: &[usize],
    order: &mut Vec<u64>,
    sets: impl Iterator<Item = &'a mut Vec<u32>>,
) {
    // Whole numbers that rise as the score falls, then as the index rises.
    let falling = |s: f32| {
        let bits = s.to_bits();
        if bits >> 31 == 0 { !bits & 0x7fff_ffff } else { bits }
    };
    order.clear();
    order.extend((0u64..).zip(scores).map(|(i, s)| u64::from(falling(*s)) << 32 | i));
    let mut sets: Vec<(usize, &mut Vec<u32>)> = ks.iter().copied().zip(sets).collect();
    // Sets are nested: each is looked for in the next bigger one.
    sets.sort_by_key(|(k, _)| std::cmp::Reverse(*k));
    let mut within = &mut order[..];
    for (k, set) in sets {
        if k > 0 && k < within.len() {
            within.select_nth_unstable(k - 1);
        }
        let len = k.min(within.len());
        within = &mut within[..len];
        #[allow(clippy::cast_possible_truncation, reason = "the low half is the index")]
        set.extend(within.iter().map(|x| first + *x as u32));
        set.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_go_to_the_lower_index() {
        let scores = [1.0, -3.0, 2.0, 2.0, f32::NEG_INFINITY, 0.0, -0.5, 2.0];
        let ks = [2, 5, 0, 8, 99];
        let mut sets = vec![Vec::new(); 5];
        best(&scores, 10, &ks, &mut Vec::new(), sets.iter_mut());
        assert_eq!(sets[0], [12, 13]);
        assert_eq!(sets[1], [10, 12, 13, 15, 17]);
        assert!(sets[2].is_empty());
        assert_eq!(sets[3], (10..18).collect::<Vec<u32>>());
        assert_eq!(sets[4], sets[3]);
    }

    #[test]
    fn group_rules_do_what_they_are_called() {
        let (a, b) = ([0.0, 1.0, 2.0], [5.0, 0.0, 0.0]);
        let mut out = Vec::new();
        combine(GroupRule::LogitSum, &[&a, &b], &mut out);
        assert_eq!(out, [5.0, 1.0, 2.0]);
        let p = |s: [f32; 3]| s.map(|x| x.exp() / s.map(f32::exp).iter().sum::<f32>());
        let (pa, pb) = (p(a), p(b));
        combine(GroupRule::SoftmaxSum, &[&a, &b], &mut out);
        assert!((0..3).all(|i| (out[i] - pa[i] - pb[i]).abs() < 1e-6));
        combine(GroupRule::Max, &[&a, &b], &mut out);
        assert!((0..3).all(|i| (out[i] - pa[i].max(pb[i])).abs() < 1e-6));
    }
}
