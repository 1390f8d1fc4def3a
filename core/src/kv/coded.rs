//! From codes to the best tokens in one call.

use crate::kernels::scan::cells::{self, CELLS, CellSet};
use crate::pq::{Codes, PqError, QueryTables, scan};
use crate::select::{GroupRule, TopKScratch, combine_counted, group_top_k_u16, is_monotone};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Fewer tokens are scored one by one: cells are a few microseconds of work, whatever the number of tokens.
const FEW: usize = 4096;

/// Rounds of halving after which what lies outside is left behind.
const ROUNDS: usize = 3;

/// Buffers of [`coded_top_k`], made once for each thread.
#[derive(Clone, Debug)]
pub struct CodedScratch {
    /// `[group][n]`.
    scores: Vec<u16>,
    /// `[n]`, unless there is one head.
    weights: Vec<f32>,
    top_k: Box<TopKScratch>,
    cells: Option<Box<Cells>>,
}

/// What is known of the 4096 pairs of codes.
#[derive(Clone, Debug)]
struct Cells {
    counts: Vec<u32>,
    /// `[group][CELLS]`.
    scores: Vec<u16>,
    weights: Vec<f32>,
    powers: Vec<f32>,
    keys: Vec<u32>,
    /// Keys and counts that are left, twice.
    kept: [Vec<u32>; 4],
    above: CellSet,
    at_least: CellSet,
}

impl CodedScratch {
    /// Buffers for tables like `tables` and up to `max_tokens` tokens; they grow if there are more.
    #[must_use]
    pub fn new(tables: &QueryTables, max_tokens: usize) -> Self {
        let group = tables.group();
        let has_cells = tables.shape().m() == 2 && tables.shape().nbits() == 6;
        let n = if has_cells { max_tokens.min(FEW) } else { max_tokens };
        let buffer = || vec![0; CELLS + 16];
        let cells = has_cells.then(|| {
            Box::new(Cells {
                counts: vec![0; CELLS],
                scores: vec![0; group * CELLS],
                weights: vec![0.0; CELLS],
                powers: vec![0.0; CELLS],
                keys: vec![0; CELLS],
                kept: [buffer(), buffer(), buffer(), buffer()],
                above: CellSet::EMPTY,
                at_least: CellSet::EMPTY,
            })
        });
        Self {
            scores: vec![0; group * n],
            weights: vec![0.0; if group > 1 { n } else { 0 }],
            top_k: Box::default(),
            cells,
        }
    }
}

/// The `out.len()` best of `tokens` for the heads of a group (all, if there are no more), counted from the first of the
/// range and rising; returns how many. `scales` `[group]` is the exponent's change for a step of a score, see
/// [`combine`](crate::select::combine): the head's [`QueryTables::scale`] times what attention multiplies scores by.
///
/// The same tokens, at every level, as [`scan`] followed by [`group_top_k_u16`]: ties go to the lower token. With two
/// sub-spaces of 6 bits no token is scored: the threshold is found among the 4096 pairs of codes, weighted with the number
/// of tokens that each has, and the group rule is applied to pairs, so that the cost of more heads does not grow with
/// the tokens; one pass over the codes then looks up which tokens are taken. Other shapes are scanned and selected.
///
/// Cost: for pairs, some `2 + 4 group` microseconds (2 for one head) and one pass; else as [`scan`] and [`group_top_k_u16`].
/// Allocates nothing unless there are more tokens than the scratch was made for.
///
/// # Errors
/// As [`scan`].
///
/// # Panics
/// If `scales` are not as many as heads, or one is negative or not finite; if the range ends before it starts; if it
/// has more than `u32::MAX` tokens.
pub fn coded_top_k(
    rule: GroupRule,
    tables: &QueryTables,
    scales: &[f32],
    codes: &Codes,
    tokens: Range<usize>,
    out: &mut [u32],
    scratch: &mut CodedScratch,
) -> Result<usize, PqError> {
    let (n, group) = (tokens.len(), tables.group());
    assert_eq!(scales.len(), group, "one scale for each head");
    assert!(scales.iter().all(|s| *s >= 0.0 && s.is_finite()), "scales are finite and not negative");
    if let Some(cells) = scratch.cells.as_mut().filter(|_| n > FEW && codes.shape() == tables.shape()) {
        return cells.top_k(rule, tables, scales, codes, tokens, out);
    }
    if scratch.scores.len() < group * n {
        scratch.scores.resize(group * n, 0);
    }
    if group > 1 && scratch.weights.len() < n {
        scratch.weights.resize(n, 0.0);
    }
    let scores = &mut scratch.scores[..group * n];
    scan(tables, codes, tokens, scores)?;
    // One head with a scale of 0 makes all tokens equal.
    if let [0.0] = scales {
        scores.fill(0);
        return Ok(group_top_k_u16(rule, scores, &[1.0], out.len(), &mut [], out, &mut scratch.top_k));
    }
    let weights = if group > 1 { &mut scratch.weights[..n] } else { &mut [] };
    Ok(group_top_k_u16(rule, scores, scales, out.len(), weights, out, &mut scratch.top_k))
}

impl Cells {
    fn top_k(
        &mut self,
        rule: GroupRule,
        tables: &QueryTables,
        scales: &[f32],
        codes: &Codes,
        tokens: Range<usize>,
        out: &mut [u32],
    ) -> Result<usize, PqError> {
        let n = u32::try_from(tokens.len()).expect("indices are 32 bits wide");
        let k = n.min(u32::try_from(out.len()).unwrap_or(u32::MAX));
        codes.cells_of(tokens.clone(), &mut self.counts)?;
        if k == 0 {
            return Ok(0);
        }
        let level = tables.level();
        for (h, scores) in self.scores.chunks_exact_mut(CELLS).enumerate() {
            cells::scores(level, tables.tables(), h, &self.counts, scores);
        }
        if is_monotone(scales) {
            for (key, &score) in self.keys.iter_mut().zip(&self.scores) {
                *key = score.into();
            }
        } else {
            let Self { counts, scores, weights, powers, .. } = self;
            combine_counted(level, rule, scores, counts, scales, weights, powers);
            // Weights are not negative, so that their bits are in their order.
            for (key, weight) in self.keys.iter_mut().zip(&self.weights) {
                *key = weight.to_bits();
            }
        }
        let (key, ties) = self.kth(level, k, n);
        cells::sets(level, &self.keys, key, &mut self.above, &mut self.at_least);
        let pieces = codes.pieces(tokens);
        Ok(cells::emit(level, pieces, &self.above, &self.at_least, ties as usize, out))
    }

    /// The key of the `k`-th of `n` tokens and how many of those with this key are among the `k`.
    fn kth(&mut self, level: crate::cpu::Level, k: u32, n: u32) -> (u32, u32) {
        let [keys_a, counts_a, keys_b, counts_b] = &mut self.kept;
        let (mut low, mut high) = (0, self.keys.iter().fold(0, |top: u32, &key| top.max(key)));
        // `inside` tokens have keys from `low` to `high`, `above` tokens greater ones; the `k`-th is inside.
        let mut above = 0;
        let (mut keys, mut counts) = (&self.keys[..], &self.counts[..]);
        let mut spare = Some((&mut keys_a[..], &mut counts_a[..]));
        let mut next = Some((&mut keys_b[..], &mut counts_b[..]));
        debug_assert!(k <= n);
        // Tokens above `high` that are no longer among `keys`.
        let mut beyond = 0;
        let mut round = 0;
        while low < high {
            let middle = low + (high - low) / 2;
            let over = beyond + cells::count_above(level, keys, counts, middle);
            if over < k {
                (high, above) = (middle, over);
            } else {
                low = middle + 1;
            }
            round += 1;
            if round % ROUNDS == 0
                && let Some((keys_to, counts_to)) = spare.take()
            {
                let len = cells::keep(level, keys, counts, [low, high], [&mut *keys_to, &mut *counts_to]);
                (keys, counts, beyond) = (&keys_to[..len], &counts_to[..len], above);
                spare = next.take();
            }
        }
        (high, k - above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use crate::num::rng::Xoshiro256pp;
    use crate::pq::{Codebook, PqShape};

    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    fn noise(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
        (0..n).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
    }

    #[test]
    fn the_tokens_are_those_of_a_scan_and_a_selection_at_every_level() {
        let mut rng = Xoshiro256pp::new(5);
        for (m, nbits) in [(2, 6), (3, 6), (2, 4), (2, 8)] {
            let shape = PqShape::new(8, m, nbits).unwrap();
            let codebook = Codebook::new(shape, noise(&mut rng, shape.codebook_len())).unwrap();
            for skewed in [false, true] {
                let n = 9000;
                let mut codes = Codes::new(shape);
                for _ in 0..n {
                    let code = |rng: &mut Xoshiro256pp| {
                        let c = rng.below(1 << nbits);
                        // A square of uniforms; few pairs have most tokens, many have none.
                        u8::try_from(if skewed { (c * c) >> (nbits + 2) } else { c }).unwrap()
                    };
                    let token: Vec<u8> = (0..m).map(|_| code(&mut rng)).collect();
                    codes.extend(&token).unwrap();
                }
                for group in [1, 2, 5, 17] {
                    let q = noise(&mut rng, group * 8);
                    for rule in [GroupRule::SoftmaxSum, GroupRule::Max, GroupRule::LogitSum] {
                        check(&codes, &codebook, &q, rule);
                    }
                }
            }
        }
    }

    fn check(codes: &Codes, codebook: &Codebook, q: &[f32], rule: GroupRule) {
        let group = q.len() / 8;
        let n = codes.len();
        for level in cpu::levels() {
            let mut tables = QueryTables::new(codes.shape(), group);
            tables.fill_at(level, codebook, q).unwrap();
            let scales: Vec<f32> = (0..group).map(|h| tables.scale(h) * 0.7).collect();
            let mut scratch = CodedScratch::new(&tables, n);
            for tokens in [0..n, 100..n - 37, 2000..6500, n - 500..n] {
                for k in [0, 1, 256, tokens.len() / 5, tokens.len() - 1, tokens.len(), tokens.len() + 9] {
                    let mut scores = vec![0; group * tokens.len()];
                    scan(&tables, codes, tokens.clone(), &mut scores).unwrap();
                    let (mut weights, mut want) = (vec![0.0; tokens.len()], vec![0; k]);
                    let mut top_k = TopKScratch::new();
                    let len = group_top_k_u16(rule, &scores, &scales, k, &mut weights, &mut want, &mut top_k);
                    let mut got = vec![0; k];
                    let range = tokens.clone();
                    let n =
                        coded_top_k(rule, &tables, &scales, codes, range, &mut got, &mut scratch).unwrap();
                    assert_eq!(n, len);
                    assert!(got[..n] == want[..n], "{rule:?} group {group} {tokens:?} k {k} {level}");
                }
            }
        }
    }

    #[test]
    fn a_scale_of_zero_takes_the_first_tokens() {
        let shape = PqShape::new(8, 2, 6).unwrap();
        let mut rng = Xoshiro256pp::new(6);
        let codebook = Codebook::new(shape, noise(&mut rng, shape.codebook_len())).unwrap();
        let mut tables = QueryTables::new(shape, 1);
        tables.fill(&codebook, &noise(&mut rng, 8)).unwrap();
        let mut codes = Codes::new(shape);
        codes.extend(&(0..12_000).map(|i| (i * 7 % 64) as u8).collect::<Vec<_>>()).unwrap();
        for n in [100, 6000] {
            let mut scratch = CodedScratch::new(&tables, n);
            let mut out = [9; 3];
            let rule = GroupRule::SoftmaxSum;
            coded_top_k(rule, &tables, &[0.0], &codes, 0..n, &mut out, &mut scratch).unwrap();
            assert_eq!(out, [0, 1, 2]);
        }
        let mut scratch = CodedScratch::new(&tables, 10);
        let error = coded_top_k(GroupRule::Max, &tables, &[1.0], &codes, 0..6001, &mut [0], &mut scratch);
        assert_eq!(error, Err(PqError::Tokens { end: 6001, len: 6000 }));
    }
}
