//! What the kernels know of a grid: its levels, and a table that finds the cell of a number in five operations.
//!
//! A coordinate `u`, in units of the row's root mean square, becomes the fixed-point number `q`: `u * 2^f` rounded to
//! nearest, ties to even, saturated to 16 bits, with `f` = 13, or 12 at 8 bits, whose outer thresholds lie beyond 4.
//! Thresholds `T` are the midpoints of neighbouring levels on the same scale. The code is the count of `T < q`.
//!
//! The 2^16 numbers `q` are cut into bins of `2^shift`, narrow enough that none holds two thresholds. In bin `b`,
//! which starts at `q0` and lies above `c` thresholds, the code is `c` or `c + 1`, so adding a constant of the bin
//! lets the low bits carry into the code exactly when `q` exceeds the bin's threshold `T`:
//!
//! ```text
//! code = (q + bins[q >> shift]) >> shift      (16-bit, wrapping, logical shifts)
//! bins[b] = c * 2^shift - q0                               without a threshold in the bin
//! bins[b] = c * 2^shift - q0 + 2^shift - 1 - (T - q0)      with one
//! ```
//!
//! The table has 32 entries up to 4 bits, 64 at 5, 128 at 6, 1024 at 8: one, one and two word permutes with AVX-512,
//! which looks the 1024 up another way ([`Guess`]).

/// Codes have at most this many bits.
pub(crate) const MAX_BITS: u32 = 8;
const MAX_LEVELS: usize = 1 << MAX_BITS;
const MAX_BINS: usize = 1024;
/// Never wider bins than these 32: the smallest table any kernel looks up.
const WIDEST: u32 = 11;

/// A grid of `2^nbits` rising levels, symmetric about 0, ready for the kernels.
#[derive(Clone)]
pub(crate) struct Quantizer {
    pub(super) nbits: u32,
    /// `2^f`.
    pub(super) one: f32,
    pub(super) shift: u32,
    /// Indexed by the bits of `q`, so negative numbers come last. The first `2^(16 - shift)` entries count.
    pub(super) bins: [u16; MAX_BINS],
    /// The positive thresholds; `i16::MAX` after the last.
    pub(super) positive: [i16; MAX_LEVELS / 2],
    /// At 8 bits.
    pub(super) guess: Guess,
    /// The levels, repeated to fill the table, so that kernels may look up a code with bits of the next above it.
    pub(super) levels: [f32; MAX_LEVELS],
}

impl Quantizer {
    /// `None` if `nbits` is not 2 to 6 or 8, or `levels` is not `2^nbits` finite numbers that rise, mirror each other about 0
    /// and are spaced like a grid for the unit normal: no two thresholds in one of 1024 bins, none beyond the
    /// fixed-point range.
    pub(crate) fn new(nbits: u32, levels: &[f32]) -> Option<Self> {
        if !matches!(nbits, 2..=6 | 8) || levels.len() != 1 << nbits {
            return None;
        }
        let mirrored = levels.iter().zip(levels.iter().rev()).all(|(a, b)| *a == -*b && a.is_finite());
        if !mirrored || !levels.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let one: f32 = if nbits == 8 { 4096.0 } else { 8192.0 };
        let mut thresholds = [0i16; MAX_LEVELS - 1];
        let thresholds = &mut thresholds[..levels.len() - 1];
        for (t, pair) in thresholds.iter_mut().zip(levels.windows(2)) {
            let midpoint = (f64::from(pair[0]) + f64::from(pair[1])) * 0.5 * f64::from(one);
            *t = fixed(midpoint).filter(|t| *t < i16::MAX)?;
        }
        let shift = (6..=WIDEST).rev().find(|s| thresholds.windows(2).all(|p| p[0] >> s < p[1] >> s))?;
        let mut table = [0.0; MAX_LEVELS];
        table.iter_mut().zip(levels.iter().cycle()).for_each(|(t, l)| *t = *l);
        let mut positive = [i16::MAX; MAX_LEVELS / 2];
        let (_, above_zero) = thresholds.split_at(levels.len() / 2);
        positive[..above_zero.len()].copy_from_slice(above_zero);
        let guess = if nbits == MAX_BITS { Guess::new(&positive)? } else { Guess::NONE };
        Some(Self { nbits, one, shift, bins: bins(thresholds, shift), positive, guess, levels: table })
    }

    /// Bytes of a row of `d` codes.
    pub(crate) const fn row_bytes(&self, d: usize) -> usize {
        crate::kernels::bits::packed_len(self.nbits, d)
    }

    /// The code of fixed-point `q`.
    #[inline(always)]
    pub(super) fn code(&self, q: i16) -> u8 {
        let q = q.cast_unsigned();
        (q.wrapping_add(self.bins[usize::from(q >> self.shift)]) >> self.shift).to_le_bytes()[0]
    }
}

/// Counts the 127 positive thresholds of an 8-bit grid that are at most `m`, for `0 <= m < 2^15`, with small tables.
///
/// Thresholds are spaced smoothly, so within one of 64 bins of `m` their number grows nearly linearly. A line for each
/// bin, lowered a little, gives `g` with `g <= count <= g + 1`, and one comparison decides:
///
/// ```text
/// g = min((base[m >> 9] + ((m & 511) << 7) * slope[m >> 9] / 2^16) / 2^8, 126)
/// count = g + (m >= positive[g])
/// ```
#[derive(Clone)]
pub(super) struct Guess {
    pub(super) base: [u16; 64],
    pub(super) slope: [u16; 64],
}

impl Guess {
    const NONE: Self = Self { base: [0; 64], slope: [0; 64] };

    /// `None` if the lines miss for some `m`: the thresholds are not those of a smooth density.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates; misses are found"
    )]
    fn new(positive: &[i16; MAX_LEVELS / 2]) -> Option<Self> {
        const LAST: usize = MAX_LEVELS / 2 - 2;
        // The count as a continuous function: linear between thresholds and beyond the last.
        let position = |m: u16| -> f64 {
            let i = positive[..LAST].partition_point(|t| t.cast_unsigned() <= m);
            let low = if i == 0 { 0.0 } else { f64::from(positive[i - 1]) };
            let high = f64::from(positive[i]);
            f64::from(u8::try_from(i).unwrap_or(u8::MAX)) + (f64::from(m) - low) / (high - low)
        };
        let mut guess = Self::NONE;
        for (bin, (base, slope)) in (0u16..).zip(guess.base.iter_mut().zip(&mut guess.slope)) {
            let (start, end) = (position(bin << 9), position((bin + 1) << 9));
            *base = ((start - 0.1) * 256.0) as u16;
            *slope = ((end - start) * 256.0) as u16;
        }
        let fits = |m: u16| {
            let count = positive[..=LAST].partition_point(|t| t.cast_unsigned() <= m);
            let g = guess.at(m);
            g <= count && count <= g + 1
        };
        (0..1 << 15).all(fits).then_some(guess)
    }

    fn at(&self, m: u16) -> usize {
        let bin = usize::from(m >> 9);
        let rise = (u32::from((m & 511) << 7) * u32::from(self.slope[bin])) >> 16;
        usize::try_from((u32::from(self.base[bin]) + rise) >> 8).map_or(126, |g| g.min(126))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "within i16, as checked")]
fn fixed(x: f64) -> Option<i16> {
    let x = libm::rint(x);
    (x.abs() <= f64::from(i16::MAX)).then_some(x as i16)
}

fn bins(thresholds: &[i16], shift: u32) -> [u16; MAX_BINS] {
    let mut bins = [0; MAX_BINS];
    let width = 1u16 << shift;
    for (bin, x) in (0u16..).zip(&mut bins[..1 << (16 - shift)]) {
        let start = (bin << shift).cast_signed();
        let below = thresholds.partition_point(|t| *t < start);
        let carry = match thresholds.get(below) {
            Some(t) if t >> shift == start >> shift => width - 1 - t.wrapping_sub(start).cast_unsigned(),
            _ => 0,
        };
        let below = u16::try_from(below).expect("there are at most 255 thresholds");
        *x = (below << shift).wrapping_sub(start.cast_unsigned()).wrapping_add(carry);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotate::lloyd_max::Grid;
    use std::vec::Vec;

    #[allow(clippy::cast_possible_truncation, reason = "grids are kept as f32")]
    fn normal(bits: u8) -> Vec<f32> {
        Grid::unit_normal(bits).unwrap().levels().iter().map(|x| *x as f32).collect()
    }

    #[test]
    fn every_fixed_point_number_gets_the_count_of_thresholds_below_it() {
        for (bits, table) in [(2, 32), (3, 32), (4, 32), (5, 64), (6, 128), (8, 1024)] {
            let levels = normal(bits);
            let quantizer = Quantizer::new(bits.into(), &levels).unwrap();
            assert!(1 << (16 - quantizer.shift) <= table, "{bits} bits: shift {}", quantizer.shift);
            let thresholds: Vec<f64> = levels
                .windows(2)
                .map(|p| {
                    ((f64::from(p[0]) + f64::from(p[1])) * 0.5 * f64::from(quantizer.one)).round_ties_even()
                })
                .collect();
            for q in i16::MIN..=i16::MAX {
                let want = thresholds.iter().filter(|t| **t < f64::from(q)).count();
                assert_eq!(usize::from(quantizer.code(q)), want, "{bits} bits, q = {q}");
            }
        }
    }

    #[test]
    fn odd_grids_are_refused() {
        let good = normal(4);
        assert!(Quantizer::new(4, &good).is_some());
        assert!(Quantizer::new(3, &good).is_none());
        assert!(Quantizer::new(1, &[-1.0, 1.0]).is_none());
        let change = |i: usize, x: f32| {
            let mut g = good.clone();
            g[i] = x;
            g
        };
        for (i, x) in [(0, f32::NAN), (15, f32::INFINITY), (3, 0.0), (15, 99.0)] {
            assert!(Quantizer::new(4, &change(i, x)).is_none(), "level {i} = {x}");
        }
        let dense: Vec<f32> = good.iter().map(|x| x * 1e-3).collect();
        assert!(Quantizer::new(4, &dense).is_none(), "two thresholds in a bin");
        let wide: Vec<f32> = good.iter().map(|x| x * 10.0).collect();
        assert!(Quantizer::new(4, &wide).is_none(), "thresholds beyond the range");
    }
}
