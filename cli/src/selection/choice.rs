//! From scores of tokens to chosen tokens, as the core does it.

use tersa_core::select::{TopKScratch, group_top_k_f32};

use super::head::Head;

/// The tokens that a selector chooses, ascending.
pub(crate) struct Choice {
    /// `[budget][n_queries]`: one set for the group, as a kernel reads it that shares rows among query heads.
    pub(crate) shared: Vec<Vec<Vec<u32>>>,
    /// `[budget][group * n_queries]`: a set for each query head.
    pub(crate) single: Vec<Vec<Vec<u32>>>,
    /// What it took to keep the index up to date.
    pub(crate) upkeep: Upkeep,
}

/// Builds of indexes after the first, of some heads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Upkeep {
    /// Heads.
    pub(crate) heads: usize,
    /// Tokens that came after the first build.
    pub(crate) appended: usize,
    /// Builds.
    pub(crate) builds: usize,
    /// Seconds of building.
    pub(crate) seconds: f64,
}

impl Upkeep {
    pub(crate) fn merge(&mut self, other: Self) {
        self.heads += other.heads;
        self.appended += other.appended;
        self.builds += other.builds;
        self.seconds += other.seconds;
    }

    /// Microseconds of building for each token that came.
    pub(crate) fn us_per_token(&self) -> f64 {
        if self.appended == 0 { 0.0 } else { 1e6 * self.seconds / self.appended as f64 }
    }
}

impl Choice {
    /// Room for every query of a head, all sets empty.
    pub(crate) fn empty(head: &Head<'_>) -> Self {
        let sets = |n: usize| vec![vec![Vec::new(); n]; head.setting.ks.len()];
        Self {
            shared: sets(head.n_queries),
            single: sets(head.group * head.n_queries),
            upkeep: Upkeep::default(),
        }
    }

    /// The best candidates by `scores`, `[group][n_queries][n_tokens]`, which are scaled as scores of attention are.
    pub(crate) fn by_scores(head: &Head<'_>, scores: &[f32]) -> Self {
        let rule = head.setting.rule.in_core();
        let mut choice = Self::empty(head);
        let (mut rows, mut weights, mut out) = (Vec::new(), Vec::new(), vec![0; head.n_tokens]);
        let mut scratch = Box::<TopKScratch>::default();
        let scales = vec![1.0; head.group];
        for j in 0..head.n_queries {
            let candidates = head.candidates(j);
            let n = candidates.len();
            rows.clear();
            for h in 0..head.group {
                let row = &scores[(h * head.n_queries + j) * head.n_tokens..][..head.n_tokens];
                rows.extend_from_slice(&row[candidates.clone()]);
            }
            weights.resize(n, 0.0);
            #[allow(clippy::cast_possible_truncation, reason = "a dump has fewer than 2^32 tokens")]
            let first = candidates.start as u32;
            let mut best = |scores: &[f32], heads: usize, k: usize| -> Vec<u32> {
                let k = k.min(n);
                let found = group_top_k_f32(
                    rule,
                    scores,
                    &scales[..heads],
                    k,
                    &mut weights,
                    &mut out[..k],
                    &mut scratch,
                );
                out[..found].iter().map(|t| first + t).collect()
            };
            for (budget, &k) in head.setting.ks.iter().enumerate() {
                choice.shared[budget][j] = best(&rows, head.group, k);
                for h in 0..head.group {
                    choice.single[budget][h * head.n_queries + j] = best(&rows[h * n..][..n], 1, k);
                }
            }
        }
        choice
    }
}
