//! The hand that walks round the buckets, and the threshold that it finds.
//!
//! Every few insertions it looks at one bucket: it counts the scores in a histogram of sixteenths of octaves and takes rows from ids
//! below the threshold while few rows are free. After a round the threshold becomes the score above which there are as many ids
//! as rows. The cost is one bucket in 4 to 32 insertions (a round is
//! an eighth of the stream so far at most), and nothing ever stops for it.

use super::SketchError;
use alloc::boxed::Box;

/// Insertions for each bucket that the hand looks at: the fewer, the shorter the stream so far.
const IDS_A_BUCKET: [u64; 2] = [4, 32];

/// Lowest octave of the histogram is `2^-24`; 64 octaves of 16 bins.
const BINS: usize = 1024;
const LOWEST: u32 = (127 - 24) << 4;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hand {
    pub(super) bucket: u32,
    /// Insertions not yet walked for.
    debt: u64,
    /// Insertions for each bucket of this round.
    ids_a_bucket: u64,
    /// The threshold in the middle of the round before.
    pub(super) before: f32,
    bins: Box<[u32; BINS]>,
}

/// The bin of a positive score.
fn bin(score: f32) -> usize {
    ((score.to_bits() >> 19).saturating_sub(LOWEST) as usize).min(BINS - 1)
}

/// The least score of the bin of a score below 16; other scores themselves. Small counts are whole numbers, and a threshold between
/// two of them would leave rows free.
pub(super) fn whole(score: f32) -> f32 {
    if score < 16.0 { f32::from_bits(score.to_bits() >> 19 << 19) } else { score }
}

/// The least score of a bin.
#[allow(clippy::cast_possible_truncation, reason = "a bin is below 1024")]
fn floor(bin: usize) -> f32 {
    f32::from_bits((bin as u32 + LOWEST) << 19)
}

impl Hand {
    pub(super) fn new() -> Self {
        Self { bucket: 0, debt: 0, ids_a_bucket: IDS_A_BUCKET[0], before: 0.0, bins: Box::new([0; BINS]) }
    }

    pub(super) const fn len_bytes() -> usize {
        BINS * 4
    }

    /// All of it, for a file.
    pub(super) fn words(&self) -> impl Iterator<Item = u32> {
        let small = |x: u64| u32::try_from(x).expect("at most 32");
        [self.bucket, small(self.ids_a_bucket), small(self.debt), self.before.to_bits()]
            .into_iter()
            .chain(self.bins.iter().copied())
    }

    /// Reads what [`words`](Self::words) gives, of a sketch of so many buckets and slots.
    pub(super) fn from_words(
        word: &mut impl FnMut() -> Result<u32, SketchError>,
        buckets: u32,
        slots: usize,
    ) -> Result<Self, SketchError> {
        let mut hand = Self::new();
        hand.bucket = word()?;
        (hand.ids_a_bucket, hand.debt) = (u64::from(word()?), u64::from(word()?));
        hand.before = f32::from_bits(word()?);
        for bin in hand.bins.iter_mut() {
            *bin = word()?;
        }
        let counted: u64 = hand.bins.iter().map(|n| u64::from(*n)).sum();
        let [least, most] = IDS_A_BUCKET;
        if hand.bucket < buckets
            && (least..=most).contains(&hand.ids_a_bucket)
            && hand.debt < hand.ids_a_bucket
            && hand.before >= 0.0
            && hand.before.is_finite()
            && counted <= u64::from(hand.bucket) * slots as u64
        {
            return Ok(hand);
        }
        Err(SketchError::Corrupt { what: "the hand" })
    }

    /// Takes note of insertions; how many buckets are to be looked at for them.
    pub(super) fn owe(&mut self, ids: u64) -> u64 {
        self.debt += ids;
        let buckets = self.debt / self.ids_a_bucket;
        self.debt %= self.ids_a_bucket;
        buckets
    }

    /// All scores shrink: what was counted means nothing any more.
    pub(super) fn shrink(&mut self, factor: f32) {
        self.before *= factor;
        self.bucket = 0;
        self.bins.fill(0);
    }

    /// Ends a round and starts the next: the threshold now, and what it grows by with each insertion. The scores were counted half a round
    /// ago on average, so the growth since the round before is carried on.
    #[allow(clippy::cast_precision_loss, reason = "a slope")]
    pub(super) fn finish(&mut self, rows: u32, seen: u64) -> (f32, f32) {
        let middle = self.threshold(rows);
        let growth = (middle - self.before).max(0.0);
        self.before = middle;
        let (buckets, [least, most]) = (u64::from(self.bucket), IDS_A_BUCKET);
        let round = (buckets * self.ids_a_bucket) as f32;
        self.ids_a_bucket = (seen / 8 / buckets).clamp(least, most);
        self.bucket = 0;
        self.bins.fill(0);
        (middle + 0.5 * growth, growth / round)
    }

    pub(super) fn count(&mut self, score: f32) {
        if score > 0.0 {
            self.bins[bin(score)] += 1;
        }
    }

    /// The score above which `rows` of the scores counted lie, taken as evenly spread within a bin; 0 if there are not so many.
    #[allow(clippy::cast_precision_loss, reason = "counts of one bin")]
    fn threshold(&self, rows: u32) -> f32 {
        let (mut above, rows) = (0_u64, u64::from(rows));
        for (b, &n) in self.bins.iter().enumerate().rev() {
            let n = u64::from(n);
            if above + n >= rows && n > 0 {
                let share = (rows - above) as f32 / n as f32;
                let (low, high) = (floor(b), floor(b + 1));
                return high - (high - low) * share;
            }
            above += n;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_splits_the_scores_counted() {
        let mut hand = Hand::new();
        for i in 1..=10_000 {
            hand.count(i as f32 * 0.37);
        }
        for rows in [100_u32, 1000, 5000, 9000] {
            let t = hand.threshold(rows);
            let above = (1..=10_000_u32).filter(|i| *i as f32 * 0.37 >= t).count();
            assert!(
                above.abs_diff(rows as usize) <= rows as usize / 50 + 40, // the highest bin is not full
                "{rows}: {above}"
            );
        }
        assert_eq!(hand.threshold(10_001), 0.0);
        assert_eq!((bin(0.0), bin(1e-30), bin(f32::MAX)), (0, 0, BINS - 1));
        assert_eq!((whole(4.06), whole(64.06)), (4.0, 64.06));
    }

    #[test]
    fn growth_is_carried_on() {
        let mut hand = Hand::new();
        let mut round = |score: f32| {
            hand.bucket = 100;
            (0..100).for_each(|_| hand.count(score));
            hand.finish(100, 1_000_000)
        };
        round(1000.0);
        let (threshold, slope) = round(1100.0);
        // A round later, in the middle of the next, it is where a third round would find it.
        let carried = threshold + slope * 100.0 * 32.0 * 0.5;
        assert!((carried - 1200.0).abs() < 65.0, "{carried}");
    }
}
