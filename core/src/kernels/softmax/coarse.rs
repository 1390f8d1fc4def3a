//! Sums of softmax in whole units, close enough to tell most tokens from the k-th.
//!
//! A head's weight is `2^x`, and `x` comes from the integer score by one 16-bit multiplication, in steps of `2^-10`. Its
//! fraction `f` becomes `2^f` by a quadratic polynomial, its whole part a shift. All of it is 16-bit integer arithmetic that
//! compilers make vectors of: the same numbers at every level.
//!
//! **Error.** With `W` the sum of the heads' weights divided by the unit, and `A` the number that comes out,
//! `A - group <= W (1 + r)` and, below [`SATURATED`], `A + group >= W (1 - r)`, where `r` is [`relative_error`].
//!
//! Limit: 15 vector operations for 32 scores.

use super::Head;

/// Steps of an exponent of 1.
const STEPS: f64 = 1024.0;

/// The greatest exponent: `2^16` less a step.
pub(super) const TOP: u16 = 16 * 1024 - 1;

/// Numbers from here on stand for anything greater, too.
pub(crate) const SATURATED: u16 = 65_280;

/// `2^f - 1 = f (LINEAR + SQUARE f)` within 0.18 % of `2^f`, in units of `2^-15`.
pub(super) const LINEAR: u16 = 21_495;
pub(super) const SQUARE: u16 = 11_272;

/// The most that exponents of steep heads are shifted.
const MAX_SHIFT: u32 = 4;

/// One head's weights in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CoarseHead {
    pub(super) greatest: u16,
    /// Scores further below the greatest count as this far below it.
    pub(super) cap: u16,
    /// The exponent's fall for a step of a score, in units of `2^-26`, shifted down by `shift`.
    pub(super) slope: u16,
    pub(super) shift: u16,
    /// The exponent of the greatest score.
    pub(super) start: u16,
}

impl CoarseHead {
    /// The head's weights in units of `2^unit`; `None` if scores are too steep, or the greatest weight above `2^64` units.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, as is seen before")]
    pub(crate) fn new(head: Head, unit: f64) -> Option<Self> {
        let mut slope = f64::from(head.exponent) * STEPS * 65536.0;
        let mut shift = 0;
        while slope > 65535.0 {
            slope /= 2.0;
            shift += 1;
        }
        let start = (libm::log2(f64::from(head.weight)) - unit) * STEPS;
        if shift > MAX_SHIFT || start.is_nan() || start > 65535.0 {
            return None;
        }
        let slope = libm::round(slope) as u16;
        let most = u32::from(u16::MAX >> shift) << 16;
        let cap = most.checked_div(slope.into()).map_or(u16::MAX, |cap| cap.min(65535) as u16);
        let start = libm::round(start.max(0.0)) as u16;
        Some(Self { greatest: head.greatest as u16, cap, slope, shift: shift as u16, start })
    }

    #[inline(always)]
    fn weight(self, score: u16) -> u16 {
        let below = self.greatest.saturating_sub(score).min(self.cap);
        let x = self.start.saturating_sub(product_high(below, self.slope) << self.shift).min(TOP);
        let f = x << 6;
        let power = product_high(f, LINEAR.wrapping_add(product_high(f, SQUARE)));
        (0x8000 | power) >> (15 - (x >> 10))
    }
}

/// The relative error of the weights of `heads`: 0.18 % of the polynomial, and steps of exponents: one where products are
/// cut off, shifted, and half of one for each rounding of slope and start.
pub(crate) fn relative_error(heads: &[CoarseHead]) -> f64 {
    let shift = heads.iter().map(|head| head.shift).max().unwrap_or(0);
    0.0025 + 0.0007 * f64::from(2 + (2 << shift))
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the upper half of a product of 32 bits")]
const fn product_high(a: u16, b: u16) -> u16 {
    ((a as u32 * b as u32) >> 16) as u16
}

/// Tokens whose sums stay in registers.
const WIDE: usize = 64;

/// Sums of the heads' weights, `scores` being `[group][out.len()]`.
#[inline(always)]
pub(super) fn sums(scores: &[u16], heads: &[CoarseHead], out: &mut [u16]) {
    let n = out.len();
    let whole = n - n % WIDE;
    for (tile, out) in out.as_chunks_mut::<WIDE>().0.iter_mut().enumerate() {
        let mut sums = [0_u16; WIDE];
        for (head, scores) in heads.iter().zip(scores.chunks_exact(n)) {
            if let Some(scores) = scores[tile * WIDE..].first_chunk::<WIDE>() {
                for (sum, &score) in sums.iter_mut().zip(scores) {
                    *sum = sum.saturating_add(head.weight(score));
                }
            }
        }
        *out = sums;
    }
    sums_from(whole, scores, heads, out);
}

/// The sums from token `first` on.
#[inline(always)]
pub(super) fn sums_from(first: usize, scores: &[u16], heads: &[CoarseHead], out: &mut [u16]) {
    let n = out.len();
    for (t, out) in out.iter_mut().enumerate().skip(first) {
        *out = 0;
        for (head, scores) in heads.iter().zip(scores.chunks_exact(n)) {
            *out = out.saturating_add(head.weight(scores[t]));
        }
    }
}
