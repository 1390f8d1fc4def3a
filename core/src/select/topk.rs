//! Exact top-k: find the k-th score, then write out what is above it and the first of its equals.

use crate::cpu::{self, Level};
use crate::kernels::topk::{Cut, Found, Score, collect, count_above, emit};

/// Scores that are looked at to guess where the k-th lies.
const SAMPLE: usize = 4096;

/// Scores that can lie within the guess: 5 % of 327680 of 32 bits.
const INSIDE: usize = 16_384;

/// Up to here the k-th score is sought among all scores.
const FEW: usize = 4096;

/// Working memory of the selections: 80 KiB, for any number of scores. Made once for each thread; what is in it means
/// nothing between calls.
#[derive(Clone, Debug)]
pub struct TopKScratch {
    sample: [u32; SAMPLE],
    inside: [u32; INSIDE],
}

impl TopKScratch {
    /// Zeroed memory; may be placed in a static.
    #[must_use]
    pub const fn new() -> Self {
        Self { sample: [0; SAMPLE], inside: [0; INSIDE] }
    }

    /// Room for values that are kept, of any 32-bit type.
    pub(super) fn kept(&mut self) -> &mut [u32] {
        &mut self.inside
    }
}

impl Default for TopKScratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a selection ends: every score above `value` belongs to it, and the first `ties` of those equal to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold<T> {
    /// The k-th best score; a NaN if there are fewer numbers than `k`.
    pub value: T,
    /// How many scores are above it (if it is a NaN: how many numbers there are).
    pub above: usize,
    /// How many of its equals are taken, at least one.
    pub ties: usize,
}

impl<T> Threshold<T> {
    /// How many scores are selected: `k`.
    #[must_use]
    pub const fn k(&self) -> usize {
        self.above + self.ties
    }
}

/// Writes the indices of the `k` greatest of `scores` to the front of `out`, in rising order, and returns how many: `k`, or
/// `scores.len()` if that is less. Of equal scores those with lower indices are taken. Exact, and the same at every
/// level. What lies behind the indices in `out` is left undefined.
///
/// Cost: one pass over a sample of 4096 scores, one over all scores to find the k-th, one to write the indices; more
/// passes to find the k-th, at most 16, where the sample misleads. Allocates nothing.
///
/// # Panics
/// If `out` is shorter than the result or there are more than `u32::MAX` scores.
///
/// ```
/// use tersa_core::select::{TopKScratch, top_k_u16};
///
/// let mut scratch = TopKScratch::new();
/// let mut out = [0; 3];
/// assert_eq!(top_k_u16(&[7, 9, 1, 9, 9, 7], 3, &mut out, &mut scratch), 3);
/// assert_eq!(out, [1, 3, 4]);
/// assert_eq!(top_k_u16(&[7, 9, 1, 9, 8, 7], 2, &mut out, &mut scratch), 2);
/// assert_eq!(out[..2], [1, 3]);
/// ```
pub fn top_k_u16(scores: &[u16], k: usize, out: &mut [u32], scratch: &mut TopKScratch) -> usize {
    top_k(cpu::level(), scores, k, out, scratch)
}

/// As [`top_k_u16`]. NaNs rank below every number, 0 and -0 are equal. Where the sample misleads, at most 32 passes.
///
/// # Panics
/// If `out` is shorter than the result or there are more than `u32::MAX` scores.
pub fn top_k_f32(scores: &[f32], k: usize, out: &mut [u32], scratch: &mut TopKScratch) -> usize {
    top_k(cpu::level(), scores, k, out, scratch)
}

/// The `k` best of a list of candidates: as [`top_k_f32`], but `scores[i]` belongs to token `ids[i]`, and tokens are what is
/// written, in the order of `ids`. If `ids` rise, so does the result, and ties go to the lower token.
///
/// # Panics
/// If `ids` and `scores` differ in length, or as [`top_k_f32`].
pub fn top_k_of(ids: &[u32], scores: &[f32], k: usize, out: &mut [u32], scratch: &mut TopKScratch) -> usize {
    assert_eq!(ids.len(), scores.len(), "one score for each candidate");
    let n = top_k_f32(scores, k, out, scratch);
    for out in &mut out[..n] {
        *out = ids[*out as usize];
    }
    n
}

/// The threshold of [`top_k_u16`], without indices; `None` if `k` or the number of scores is 0.
pub fn kth_u16(scores: &[u16], k: usize, scratch: &mut TopKScratch) -> Option<Threshold<u16>> {
    kth_at(cpu::level(), scores, k, scratch)
}

/// The threshold of [`top_k_f32`], without indices; `None` if `k` or the number of scores is 0.
pub fn kth_f32(scores: &[f32], k: usize, scratch: &mut TopKScratch) -> Option<Threshold<f32>> {
    kth_at(cpu::level(), scores, k, scratch)
}

/// Writes the indices that `threshold` selects, which may come from other scores: the first `threshold.ties` equals.
/// Returns how many; rising, the same at every level. What lies behind them in `out` is left undefined.
///
/// # Panics
/// If `out` is shorter than the result, or there are more than `u32::MAX` scores.
pub fn select_u16(scores: &[u16], threshold: Threshold<u16>, out: &mut [u32]) -> usize {
    write_out(cpu::level(), scores, threshold, out)
}

/// As [`select_u16`].
///
/// # Panics
/// If `out` is shorter than the result, or there are more than `u32::MAX` scores.
pub fn select_f32(scores: &[f32], threshold: Threshold<f32>, out: &mut [u32]) -> usize {
    write_out(cpu::level(), scores, threshold, out)
}

/// How many scores are at least `least`: the length [`at_least_u16`] needs.
#[must_use]
pub fn count_at_least_u16(scores: &[u16], least: u16) -> usize {
    match least.checked_sub(1) {
        Some(t) => count_above(cpu::level(), scores, t),
        None => scores.len(),
    }
}

/// How many scores are at least `least`: the length [`at_least_f32`] needs. A NaN is at least nothing, and nothing is at
/// least a NaN.
#[must_use]
pub fn count_at_least_f32(scores: &[f32], least: f32) -> usize {
    if least.is_nan() {
        return 0;
    }
    let mut found = Found::default();
    collect(cpu::level(), scores, [least, f32::INFINITY], &mut found, &mut []);
    found.above + found.inside
}

/// Writes the indices of the scores that are at least `least`, in rising order; returns how many.
///
/// # Panics
/// If `out` is shorter than the result, or there are more than `u32::MAX` scores.
pub fn at_least_u16(scores: &[u16], least: u16, out: &mut [u32]) -> usize {
    write_out(cpu::level(), scores, Threshold { value: least, above: 0, ties: usize::MAX }, out)
}

/// Writes the indices of the scores that are at least `least`, in rising order; returns how many. See
/// [`count_at_least_f32`] for NaNs.
///
/// # Panics
/// If `out` is shorter than the result, or there are more than `u32::MAX` scores.
pub fn at_least_f32(scores: &[f32], least: f32, out: &mut [u32]) -> usize {
    if least.is_nan() {
        return 0;
    }
    write_out(cpu::level(), scores, Threshold { value: least, above: 0, ties: usize::MAX }, out)
}

pub(super) fn top_k<T: Score>(
    level: Level,
    scores: &[T],
    k: usize,
    out: &mut [u32],
    scratch: &mut TopKScratch,
) -> usize {
    kth_at(level, scores, k, scratch).map_or(0, |threshold| write_out(level, scores, threshold, out))
}

pub(super) fn write_out<T: Score>(
    level: Level,
    scores: &[T],
    threshold: Threshold<T>,
    out: &mut [u32],
) -> usize {
    assert!(u32::try_from(scores.len()).is_ok(), "indices are 32 bits wide");
    emit(level, scores, &mut Cut { value: threshold.value, ties: threshold.ties }, 0, out)
}

/// Keys between which the k-th score lies: fewer than k scores are above `high`, and at least k are `low` or above, unless
/// NaNs are among the k (`low` is the least key then).
#[derive(Clone, Copy, Debug)]
struct Span {
    low: u32,
    high: u32,
    /// Scores above `high`.
    above: usize,
    /// Scores from `low` to `high`; with the NaNs if `low` is the least key.
    inside: usize,
}

impl Span {
    const fn all<T: Score>(n: usize) -> Self {
        Self { low: T::LEAST, high: T::GREATEST, above: 0, inside: n }
    }

    /// What is known when the key, one of the span but its last, has `above` scores above it.
    const fn cut(self, key: u32, above: usize, k: usize) -> Self {
        if above < k {
            Self { high: key, above, inside: self.above + self.inside - above, ..self }
        } else {
            Self { low: key + 1, inside: above - self.above, ..self }
        }
    }

    const fn is_one(self) -> bool {
        self.low == self.high
    }
}

/// The threshold of the `k` best scores (of all, if there are fewer); `None` for none.
pub(super) fn kth_at<T: Score>(
    level: Level,
    scores: &[T],
    k: usize,
    scratch: &mut TopKScratch,
) -> Option<Threshold<T>> {
    let k = k.min(scores.len());
    if k == 0 {
        return None;
    }
    let span = if scores.len() <= FEW {
        halve(level, scores, 0, Span::all::<T>(scores.len()), k, 0)
    } else {
        narrow(level, scores, k, scratch)
    };
    Some(finish(level, scores, span, k))
}

/// One key is left: its score, unless there are too few numbers.
fn finish<T: Score>(level: Level, scores: &[T], span: Span, k: usize) -> Threshold<T> {
    debug_assert!(span.is_one(), "{span:?}");
    let value = T::from_key(span.high);
    if span.high == T::LEAST {
        let mut found = Found::default();
        collect(level, scores, [value, T::from_key(T::GREATEST)], &mut found, &mut []);
        let numbers = found.above + found.inside;
        if numbers < k {
            let nan = scores.iter().copied().find(|s| s.is_nan()).expect("what is not a number is a NaN");
            return Threshold { value: nan, above: numbers, ties: k - numbers };
        }
    }
    Threshold { value, above: span.above, ties: k - span.above }
}

/// Halves the span until it holds one key or at most `enough` scores. `scores` may be a part: `beyond` more are above it.
fn halve<T: Score>(
    level: Level,
    scores: &[T],
    beyond: usize,
    mut span: Span,
    k: usize,
    enough: usize,
) -> Span {
    while !span.is_one() && span.inside > enough {
        let key = span.low + (span.high - span.low) / 2;
        span = span.cut(key, beyond + count_above(level, scores, T::from_key(key)), k);
    }
    span
}

/// Guesses from a sample where the k-th score lies, looks whether it does, and halves what is left.
fn narrow<T: Score>(level: Level, scores: &[T], k: usize, scratch: &mut TopKScratch) -> Span {
    let sample: &mut [T] = &mut bytemuck::cast_slice_mut(&mut scratch.sample)[..SAMPLE];
    let inside: &mut [T] = bytemuck::cast_slice_mut(&mut scratch.inside);
    let mut span = Span::all::<T>(scores.len());
    take_sample(scores, sample);
    let mut tried = guess(level, sample, span, k);
    while !span.is_one() {
        let [low, high] = tried;
        let mut found = Found::default();
        collect(level, scores, tried.map(T::from_key), &mut found, inside);
        let from_low = found.above + found.inside;
        if low == T::LEAST && from_low < k {
            // NaNs are among the k.
            return Span { low, high: low, ..span };
        }
        if high < span.high {
            span = span.cut(high, found.above, k);
        }
        if low > span.low {
            span = span.cut(low - 1, from_low, k);
        }
        let within = found.above < k && k <= from_low;
        if within && found.stored == found.inside {
            return among(level, &inside[..found.stored], span, k, sample);
        }
        tried = [span.low, span.high];
        if within {
            // Too many to keep; what was kept is a sample of them.
            take_sample(&inside[..found.stored], sample);
            tried = guess(level, sample, span, k);
        }
        if tried == [span.low, span.high] {
            span = halve(level, scores, 0, span, k, inside.len() / 2);
            tried = [span.low, span.high];
        }
    }
    span
}

/// Halves the span with the scores that lie in it.
fn among<T: Score>(level: Level, kept: &[T], span: Span, k: usize, spare: &mut [T]) -> Span {
    let beyond = span.above;
    let span = halve(level, kept, beyond, span, k, SAMPLE / 4);
    let mut found = Found::default();
    collect(level, kept, [span.low, span.high].map(T::from_key), &mut found, spare);
    halve(level, &spare[..found.stored], span.above, span, k, 0)
}

/// One score out of each of as many equal stretches of `scores` as `sample` is long, at places in the stretches that do
/// not repeat themselves. There are at least as many scores.
fn take_sample<T: Score>(scores: &[T], sample: &mut [T]) {
    let stretches = sample.len();
    let width = (scores.len() / stretches) as u64;
    let mut place = 0_u32;
    for (i, out) in sample.iter_mut().enumerate() {
        place = place.wrapping_add(0x9e37_79b9); // 2^32 divided by the golden ratio
        let within = (u64::from(place) * width) >> 32;
        *out = scores[i * scores.len() / stretches + usize::try_from(within).expect("less than the width")];
    }
}

/// Keys between which the k-th score lies, most likely: the ranks in the sample that are four standard deviations above
/// and below the rank it would have.
fn guess<T: Score>(level: Level, sample: &[T], span: Span, k: usize) -> [u32; 2] {
    let size = sample.len() as f64;
    let p = (k - span.above) as f64 / span.inside as f64;
    let margin = 4.0 * libm::sqrt(size * p * (1.0 - p)) + 2.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as is meant")]
    let [first, last] = [(p * size - margin) as usize, (p * size + margin) as usize];
    let all = Span { above: 0, inside: sample.len(), ..span };
    // Within a 16th of the range of ranks is near enough.
    let enough = (last - first) / 16;
    let high = if first == 0 { span.high } else { halve(level, sample, 0, all, first, enough).high };
    let low = if last >= sample.len() { span.low } else { halve(level, sample, 0, all, last, enough).low };
    [low, high]
}
