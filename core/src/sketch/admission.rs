//! Policies for ids that no slot of their full bucket holds.

pub use crate::kernels::sketch::Admission;
use core::hint::select_unpredictable;

/// SpaceSaving as HotSketch was published: the newcomer always takes the slot and inherits its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceSaving;

impl Admission for SpaceSaving {
    #[inline(always)]
    fn admit(least: f32, weight: f32, _: f32) -> (f32, bool) {
        (least + weight, true)
    }
}

/// Randomised admission: over the score `m`, a newcomer of weight `v` gets in with probability `v / (m + v)`, and then holds `m + v`.
///
/// The expected gain of its score is `v`: scores of single ids are unbiased, and an id that comes once seldom pushes out one that
/// comes often. The default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Randomised;

impl Admission for Randomised {
    #[inline(always)]
    fn admit(least: f32, weight: f32, uniform: f32) -> (f32, bool) {
        let sum = least + weight;
        let takes = uniform * sum < weight;
        // As words: a choice between numbers would be a branch.
        (f32::from_bits(select_unpredictable(takes, sum.to_bits(), least.to_bits())), takes)
    }
}

/// Decay in the manner of HeavyKeeper: over the score `m`, a newcomer of weight `v` takes `v` off with probability
/// `1.08^(-m / v)`, and takes the slot with the weight `v` when nothing is left. Scores never exceed true sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decaying;

impl Admission for Decaying {
    #[inline(always)]
    fn admit(least: f32, weight: f32, uniform: f32) -> (f32, bool) {
        const LOG2_BASE: f32 = 0.111_031_31; // of 1.08, HeavyKeeper's own choice
        if weight <= 0.0 || uniform >= exp2_minus(LOG2_BASE * least / weight) {
            (least, false)
        } else if least > weight {
            (least - weight, false)
        } else {
            (weight, true)
        }
    }
}

/// `2^-x` for `x >= 0` within 2 %, by arithmetic that is the same everywhere.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= x < 126")]
fn exp2_minus(x: f32) -> f32 {
    if x >= 126.0 {
        return 0.0;
    }
    let whole = x as u32;
    let f = x - whole as f32;
    let fraction = 1.0 - f * (core::f32::consts::LN_2 - f * (0.240_226_5 - f * 0.055_504_1));
    fraction * f32::from_bits((127 - whole) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_within_two_percent() {
        for i in 0..1250 {
            let x = i as f32 * 0.1;
            let want = 2.0_f32.powf(-x);
            assert!((exp2_minus(x) - want).abs() <= 0.02 * want, "{x}");
        }
    }

    #[test]
    fn every_policy_lets_the_first_into_an_empty_slot() {
        for uniform in [0.0, 0.5, 0.999_999_9] {
            assert_eq!(SpaceSaving::admit(0.0, 2.0, uniform), (2.0, true));
            assert_eq!(Randomised::admit(0.0, 2.0, uniform), (2.0, true));
            assert_eq!(Decaying::admit(0.0, 2.0, uniform), (2.0, true));
        }
    }

    #[test]
    fn nobody_gets_in_with_no_weight_over_a_score() {
        assert_eq!(Randomised::admit(3.0, 0.0, 0.0), (3.0, false));
        assert_eq!(Decaying::admit(3.0, 0.0, 0.0), (3.0, false));
    }
}
