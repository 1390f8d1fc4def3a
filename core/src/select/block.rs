//! Scores of blocks of tokens.

/// How a block's score comes from its tokens'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockRule {
    /// The greatest score; NaNs are passed over, and a block of NaNs gets -infinity.
    Max,
    /// The sum of the scores.
    Sum,
}

/// Scores of consecutive blocks of `block` tokens, the last of which may be shorter: `out` `[n.div_ceil(block)]`. Blocks are
/// then selected by [`top_k_f32`](super::top_k_f32).
///
/// A sum runs in sixteen lanes, token `i` of the block in lane `i % 16`, which are then added in halves. Cost: one pass.
///
/// # Panics
/// If `block` is 0 or `out` has another length.
pub fn block_scores(scores: &[f32], block: usize, rule: BlockRule, out: &mut [f32]) {
    assert_eq!(out.len(), scores.len().div_ceil(block), "one score for each block");
    for (scores, out) in scores.chunks(block).zip(out) {
        *out = match rule {
            BlockRule::Max => over(scores, f32::NEG_INFINITY, |a, b| if b > a { b } else { a }),
            BlockRule::Sum => over(scores, 0.0, |a, b| a + b),
        };
    }
}

fn over(scores: &[f32], start: f32, op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    for scores in scores.chunks(16) {
        for (lane, &s) in lanes.iter_mut().zip(scores) {
            *lane = op(*lane, s);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = op(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}
