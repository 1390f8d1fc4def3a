//! Top-p: the fewest tokens that hold a share of the weight.

use super::topk::{Threshold, TopKScratch, select_f32};
use crate::cpu::{self, Level};
use crate::kernels::softmax::greatest;
use crate::kernels::topk::{Found, Score, collect, mass_above};

/// Writes the indices of the smallest set of tokens whose weights make up at least the share `p` of all, heaviest first
/// (of equals the lower index), in rising order of index; returns how many. [`nucleus`] says how weights are added.
///
/// # Panics
/// If `out` is shorter than the result, `p` is not in `0..=1`, or there are more than `u32::MAX` weights.
pub fn top_p(weights: &[f32], p: f32, out: &mut [u32], scratch: &mut TopKScratch) -> usize {
    nucleus(weights, p, scratch).map_or(0, |threshold| select_f32(weights, threshold, out))
}

/// The threshold of [`top_p`]; its `k()` is how many tokens that takes. `None` for no tokens: if `p` is 0 or no weight is
/// positive.
///
/// Weights are not negative and finite, and need not sum to 1 (those of [`combine`](super::combine) sum to the size of
/// the group). They are added as multiples of 2^-29 of the greatest power of two that is not above the greatest weight,
/// rounded down, so the sum is exact and the same in every order; weights below that (and negative ones and NaNs) count as 0.
///
/// Cost: about ten passes over the weights, at most 32. Allocates nothing.
///
/// # Panics
/// If `p` is not in `0..=1`.
pub fn nucleus(weights: &[f32], p: f32, scratch: &mut TopKScratch) -> Option<Threshold<f32>> {
    nucleus_at(cpu::level(), weights, p, scratch)
}

pub(super) fn nucleus_at(
    level: Level,
    weights: &[f32],
    p: f32,
    scratch: &mut TopKScratch,
) -> Option<Threshold<f32>> {
    assert!((0.0..=1.0).contains(&p), "a share is between 0 and 1, not {p}");
    let greatest = greatest(level, weights);
    if p == 0.0 || greatest.is_nan() || greatest <= 0.0 {
        return None;
    }
    let unit = unit(greatest);
    let all = mass_above(level, weights, 0.0, unit);
    let wanted = share(p, all.mass);
    // Fewer than `wanted` lie above `high`, and at least as many at `low` or above.
    let (mut low, mut high) = (0.0_f32.key() + 1, greatest.key());
    let (mut above, mut inside) = (0, all.count);
    let mut mass = 0;
    let mut kept: &[f32] = weights;
    let buffer: &mut [f32] = bytemuck::cast_slice_mut(scratch.kept());
    let room = buffer.len() / 2;
    let mut beyond = (0, 0);
    // Positive numbers' keys: halve the exponents first, then the fractions.
    while low < high && inside > room {
        let key = low + (high - low) / 2;
        let now = mass_above(level, kept, f32::from_key(key), unit);
        if now.mass < wanted {
            (high, inside, above, mass) = (key, inside + above - now.count, now.count, now.mass);
        } else {
            (low, inside) = (key + 1, now.count - above);
        }
    }
    if low < high {
        let mut found = Found::default();
        collect(level, kept, [low, high].map(f32::from_key), &mut found, buffer);
        kept = &buffer[..found.stored];
        beyond = (above, mass);
    }
    while low < high {
        let key = low + (high - low) / 2;
        let now = mass_above(level, kept, f32::from_key(key), unit);
        let (count, total) = (beyond.0 + now.count, beyond.1 + now.mass);
        if total < wanted {
            (high, above, mass) = (key, count, total);
        } else {
            low = key + 1;
        }
    }
    let value = f32::from_key(high);
    let each = mass_above(level, &[value], 0.0, unit).mass;
    let ties = (wanted - mass).div_ceil(each);
    Some(Threshold { value, above, ties: usize::try_from(ties).expect("no more than there are weights") })
}

/// The power of two that makes the greatest weight a number from 2^29 to 2^30; as near as `f32` comes, for tiny weights.
fn unit(greatest: f32) -> f32 {
    let exponent = greatest.to_bits() >> 23; // with a bias of 127
    f32::from_bits((127 + 127 + 29 - exponent.max(1)).clamp(1, 254) << 23)
}

/// `p` of the mass, rounded up; at least 1.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share within 2^-53 is meant"
)]
fn share(p: f32, mass: u64) -> u64 {
    (libm::ceil(f64::from(p) * mass as f64) as u64).clamp(1, mass)
}
