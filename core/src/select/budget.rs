//! How many tokens each head of a layer may keep.

use super::topk::{TopKScratch, kth_f32};

/// How many of the `total` greatest `weights` `[heads][n]` of a layer belong to each head, `out` `[heads]`: the budgets of
/// Ada-KV (Feng et al., 2024, Algorithm 1) before its safeguard, which is [`share_out`] of these numbers. Weights are
/// softmax weights, so that heads compare; ties go to the lower head and the lower index. `out` sums to `total`, or to the
/// number of weights if that is less.
///
/// Cost: as [`kth_f32`] of all weights, and one more pass.
///
/// # Panics
/// If `weights` is not `[heads][n]`.
pub fn head_budgets(weights: &[f32], total: usize, out: &mut [u64], scratch: &mut TopKScratch) {
    out.fill(0);
    let Some(threshold) = kth_f32(weights, total, scratch) else {
        return;
    };
    assert!(weights.len().is_multiple_of(out.len()), "weights are [heads][n]");
    let (value, mut ties) = (threshold.value, threshold.ties as u64);
    for (head, out) in weights.chunks_exact(weights.len() / out.len()).zip(out) {
        // With a NaN as threshold every number is above it.
        let above = |w: &&f32| if value.is_nan() { !w.is_nan() } else { **w > value };
        let equal = |w: &&f32| if value.is_nan() { w.is_nan() } else { **w == value };
        let taken = ties.min(head.iter().filter(equal).count() as u64);
        ties -= taken;
        *out = head.iter().filter(above).count() as u64 + taken;
    }
}

/// Shares `total` tokens out in proportion to `masses` `[heads]`, with at least `least` and at most `most` tokens for each
/// head: first `least` each, then the rest in proportion, rounded down; what exceeds `most` goes to the other heads in
/// proportion, and what rounding left over, one each, to the largest remainders, of equal ones to the lower heads. If no
/// head that has room has mass, those heads share equally. `out` `[heads]` sums to `total`.
///
/// Cost: at most `heads^2` steps. Integers only.
///
/// # Panics
/// If the lengths differ or are 0, or `total` is not between `least` and `most` for each head.
pub fn share_out(total: u64, masses: &[u64], least: u64, most: u64, out: &mut [u64]) {
    let heads = out.len() as u128;
    assert_eq!(masses.len(), out.len(), "one mass for each head");
    assert!(
        u128::from(least) * heads <= total.into() && u128::from(total) <= u128::from(most) * heads,
        "{total} tokens for {heads} heads with {least} to {most} each"
    );
    out.fill(least);
    let mut rest = total - least * out.len() as u64;
    let room = most.saturating_sub(least);
    while rest > 0 {
        let open = || out.iter().zip(masses).enumerate().filter(|(_, (out, _))| **out < most);
        let mut all: u128 = open().map(|(_, (_, &mass))| u128::from(mass)).sum();
        let equal = all == 0;
        if equal {
            all = open().count() as u128;
        }
        // The exact share is a fraction with `all` below.
        let share = |mass: u64| if equal { u128::from(rest) } else { u128::from(mass) * u128::from(rest) };
        let is_full = |mass: u64| share(mass) / all >= u128::from(room);
        let full = open().filter(|(_, (_, mass))| is_full(**mass)).count() as u64;
        if full > 0 {
            for (out, &mass) in out.iter_mut().zip(masses) {
                if *out < most && is_full(mass) {
                    *out = most;
                }
            }
            rest -= full * room;
            continue;
        }
        let whole = |mass| u64::try_from(share(mass) / all).expect("less than there is room");
        let given: u64 = open().map(|(_, (_, &mass))| whole(mass)).sum();
        // Falling remainders, each with the heads in order: the next is the greatest that comes after the last.
        let rank = |h: usize, mass: u64| (share(mass) % all, core::cmp::Reverse(h));
        let mut last = None;
        for _ in 0..rest - given {
            last = open().map(|(h, (_, &mass))| rank(h, mass)).filter(|r| last.is_none_or(|l| *r < l)).max();
        }
        for (h, (out, &mass)) in out.iter_mut().zip(masses).enumerate() {
            if *out < most {
                *out += whole(mass) + u64::from(last.is_some_and(|l| rank(h, mass) >= l));
            }
        }
        rest = 0;
    }
}
