//! Powers of two, sums of them, and how the heads of a group are combined: the same bits at every level.
//!
//! `2^y` for `y <= 0`: `y` is raised to -126 at least, split into the nearest integer `n` and `f = y - n` in `[-1/2, 1/2]`
//! (exact), a polynomial of degree 5 gives `2^f`, and `n` is added to the exponent. Products and sums are rounded each by
//! itself, so that no level needs a fused multiply-add. The relative error is at most 2.6e-7: 7.5e-8 of the polynomial
//! (Remez, relative error) and 1.5 units of the last place of rounding.
//!
//! Limit: 17 vector operations for sixteen powers, and 4 to 6 to fetch the scores and use the result.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod coarse;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use crate::kernels::lanes::{LANES, Lanes};

/// 1.5 * 2^23: added to a number of magnitude below 2^22, it leaves the nearest integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// The least exponent.
const LEAST: f32 = -126.0;

/// `2^f` on `[-1/2, 1/2]`: constant term first.
const POLYNOMIAL: [f32; 6] =
    [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];

/// Sixteen lanes with what powers need.
trait Powers: Lanes {
    /// Exact.
    fn from_u16(x: &[u16; LANES]) -> Self;
    /// The greater; `other` where a lane is a NaN. Of 0 and -0 either.
    fn max(self, other: Self) -> Self;
    /// Adds the low nine bits of `power` to the exponents, which do not leave the normal range.
    fn raise(self, power: Self) -> Self;

    /// Adds `power`, from 0 to 1, to the nearest multiple of 2^-30 to a sum of up to 64 in two parts that begin at 0.
    #[inline(always)]
    fn tally([high, low]: [Self; 2], power: Self) -> [Self; 2] {
        let coarse = power.add(Self::splat(COARSE)).sub(Self::splat(COARSE));
        let fine = power.sub(coarse).add(Self::splat(FINE)).sub(Self::splat(FINE));
        [high.add(coarse), low.add(fine)]
    }

    /// The sum of all lanes of such a sum.
    #[inline(always)]
    fn tallied([high, low]: [Self; 2]) -> f64 {
        let (mut coarse, mut fine) = ([0.0; LANES], [0.0; LANES]);
        high.store(&mut coarse);
        low.store(&mut fine);
        coarse.iter().chain(&fine).map(|&x| f64::from(x)).sum()
    }

    /// `2^self`; `self` is at most 0 or a NaN, which counts as -126.
    #[inline(always)]
    fn exp2(self) -> Self {
        let y = self.max(Self::splat(LEAST));
        let r = y.add(Self::splat(MAGIC));
        let f = y.sub(r.sub(Self::splat(MAGIC)));
        let [c0, c1, c2, c3, c4, c5] = POLYNOMIAL;
        let p = Self::splat(c5).mul(f).add(Self::splat(c4));
        let p = p.mul(f).add(Self::splat(c3));
        let p = p.mul(f).add(Self::splat(c2));
        let p = p.mul(f).add(Self::splat(c1));
        let p = p.mul(f).add(Self::splat(c0));
        p.raise(r)
    }
}

/// A type of scores.
pub(crate) trait Scores: bytemuck::Pod {
    fn greatest_at(level: Level, scores: &[Self]) -> f32;
    fn sum_at(level: Level, scores: &[Self], head: Head) -> f64;
    fn add_at(level: Level, scores: &[Self], head: Head, how: How, out: &mut [f32]);
}

/// The softmax of one head: the weight of a score `s` is `2^((s - greatest) * exponent) * weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) greatest: f32,
    pub(crate) exponent: f32,
    pub(crate) weight: f32,
}

/// What becomes of a head's weight or score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The weight is written.
    Set,
    /// The weight is added to what is there.
    Add,
    /// The greater of the weight and what is there.
    Max,
    /// `s * exponent` is written.
    SetScore,
    /// `s * exponent` is added to what is there.
    AddScore,
}

/// The greatest score; NaNs are passed over. -infinity for none.
pub(crate) fn greatest<S: Scores>(level: Level, scores: &[S]) -> f32 {
    S::greatest_at(level, scores)
}

/// The sum of `2^((s - greatest) * exponent)`, each power taken to the nearest multiple of 2^-30, so that the sum of up to
/// 2^23 scores is exact and the same in any order: [`sum_counted`] of a histogram gives the same bits. The powers'
/// relative error of 2.6e-7 and `n` times 2^-31 (the sum is at least 1).
pub(crate) fn sum<S: Scores>(level: Level, scores: &[S], head: Head) -> f64 {
    S::sum_at(level, scores, head)
}

/// [`sum`] of scores that occur `counts` times, from their powers: those that [`add`] sets with a weight of 1. What does not
/// occur has a power of at most 1 as well.
pub(crate) fn sum_counted(level: Level, powers: &[f32], counts: &[u32]) -> f64 {
    assert_eq!(powers.len(), counts.len());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::sum_counted(powers, counts) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::sum_counted(powers, counts) },
        _ => scalar::sum_counted(powers, counts),
    }
}

/// Coarse sums of the heads' weights, see [`coarse`]; `scores` is `[group][out.len()]`. The same at every level.
pub(crate) fn coarse_sums(level: Level, scores: &[u16], heads: &[coarse::CoarseHead], out: &mut [u16]) {
    assert_eq!(scores.len(), heads.len() * out.len());
    if out.is_empty() {
        return;
    }
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::coarse_sums(scores, heads, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::coarse_sums(scores, heads, out) },
        _ => coarse::sums(scores, heads, out),
    }
}

/// Brings one head's scores into `out`.
pub(crate) fn add<S: Scores>(level: Level, scores: &[S], head: Head, how: How, out: &mut [f32]) {
    assert_eq!(scores.len(), out.len());
    S::add_at(level, scores, head, how, out);
}

macro_rules! scores {
    ($ty:ty, $greatest:ident, $sum:ident, $add:ident) => {
        impl Scores for $ty {
            fn greatest_at(level: Level, scores: &[Self]) -> f32 {
                match level {
                    // SAFETY: the level exists only after detection saw every feature that the kernel enables.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => unsafe { avx512::$greatest(scores) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => unsafe { avx2::$greatest(scores) },
                    _ => scalar::$greatest(scores),
                }
            }

            fn sum_at(level: Level, scores: &[Self], head: Head) -> f64 {
                match level {
                    // SAFETY: the level exists only after detection saw every feature that the kernel enables.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => unsafe { avx512::$sum(scores, head) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => unsafe { avx2::$sum(scores, head) },
                    _ => scalar::$sum(scores, head),
                }
            }

            fn add_at(level: Level, scores: &[Self], head: Head, how: How, out: &mut [f32]) {
                match level {
                    // SAFETY: the level exists only after detection saw every feature that the kernel enables.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => unsafe { avx512::$add(scores, head, how, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => unsafe { avx2::$add(scores, head, how, out) },
                    _ => scalar::$add(scores, head, how, out),
                }
            }
        }
    };
}

scores!(u16, greatest_u16, sum_u16, add_u16);
scores!(f32, greatest_f32, sum_f32, add_f32);

/// Sixteen scores as `f32`.
trait Fetch: bytemuck::Pod {
    fn fetch<V: Powers>(x: &[Self; LANES]) -> V;
}

impl Fetch for u16 {
    #[inline(always)]
    fn fetch<V: Powers>(x: &[Self; LANES]) -> V {
        V::from_u16(x)
    }
}

impl Fetch for f32 {
    #[inline(always)]
    fn fetch<V: Powers>(x: &[Self; LANES]) -> V {
        V::load(x)
    }
}

/// Scores whose powers are added in one go.
const RUN: usize = 4096;

/// Vectors at work at once.
const WIDE: usize = 4;

/// The sixteen scores at the front of a shorter piece, and zeros.
#[inline(always)]
fn padded<S: Fetch>(tail: &[S]) -> [S; LANES] {
    let mut x = [S::zeroed(); LANES];
    x[..tail.len()].copy_from_slice(tail);
    x
}

#[inline(always)]
fn greatest_of<S: Fetch, V: Powers>(scores: &[S]) -> f32 {
    let (vectors, tail) = scores.as_chunks::<LANES>();
    let (wide, rest) = vectors.as_chunks::<WIDE>();
    let mut most = [V::splat(f32::NEG_INFINITY); WIDE];
    for vectors in wide {
        for (most, x) in most.iter_mut().zip(vectors) {
            *most = S::fetch::<V>(x).max(*most);
        }
    }
    for x in rest {
        most[0] = S::fetch::<V>(x).max(most[0]);
    }
    let mut lanes = [0.0; LANES];
    most[0].max(most[1]).max(most[2].max(most[3])).store(&mut lanes);
    let mut last = [f32::NAN; LANES];
    S::fetch::<V>(&padded(tail)).store(&mut last);
    let pick = |most: f32, &x: &f32| if x > most { x } else { most };
    last[..tail.len()].iter().fold(lanes.iter().fold(f32::NEG_INFINITY, pick), pick)
}

#[inline(always)]
fn power<S: Fetch, V: Powers>(x: &[S; LANES], head: Head) -> V {
    S::fetch::<V>(x).sub(V::splat(head.greatest)).mul(V::splat(head.exponent)).exp2()
}

/// Added to a number from 0 to 1, it leaves the nearest multiple of 2^-12 when it is subtracted again.
const COARSE: f32 = 3072.0;

/// The same for the nearest multiple of 2^-30 of a number of magnitude at most 2^-13.
const FINE: f32 = 0.011_718_75; // 1.5 * 2^-7

/// Sums of powers in two parts, multiples of 2^-12 and of 2^-30: 64 of each add up in a lane without rounding.
#[derive(Clone, Copy)]
struct Exact<V>([V; 2]);

impl<V: Powers> Exact<V> {
    #[inline(always)]
    fn zero() -> Self {
        Self([V::splat(0.0); 2])
    }

    #[inline(always)]
    fn add(&mut self, power: V) {
        self.0 = V::tally(self.0, power);
    }

    #[inline(always)]
    fn total(self) -> f64 {
        V::tallied(self.0)
    }
}

#[inline(always)]
fn sum_of<S: Fetch, V: Powers>(scores: &[S], head: Head) -> f64 {
    let mut total = 0.0;
    // Each lane of the four sums takes 64 scores at most: one pass of 4096.
    for run in scores.chunks(RUN) {
        let (vectors, tail) = run.as_chunks::<LANES>();
        let (wide, rest) = vectors.as_chunks::<WIDE>();
        let mut sum = [Exact::<V>::zero(); WIDE];
        for vectors in wide {
            for (sum, x) in sum.iter_mut().zip(vectors) {
                sum.add(power::<S, V>(x, head));
            }
        }
        for (sum, x) in sum.iter_mut().zip(rest) {
            sum.add(power::<S, V>(x, head));
        }
        if !tail.is_empty() {
            let mut lanes = [0.0; LANES];
            power::<S, V>(&padded(tail), head).store(&mut lanes);
            lanes[tail.len()..].fill(0.0);
            sum[3].add(V::load(&lanes));
        }
        for sum in sum {
            total += sum.total();
        }
    }
    total
}

/// Sixteen lanes, which the compiler makes vectors of; exact, so that their order means nothing.
#[inline(always)]
fn counted(powers: &[f32], counts: &[u32]) -> f64 {
    let mut total = [0.0; LANES];
    for (powers, counts) in powers.chunks(LANES).zip(counts.chunks(LANES)) {
        for ((total, &p), &count) in total.iter_mut().zip(powers).zip(counts) {
            let coarse = (p + COARSE) - COARSE;
            let fine = ((p - coarse) + FINE) - FINE;
            *total += (f64::from(coarse) + f64::from(fine)) * f64::from(count);
        }
    }
    total.iter().sum()
}

/// Sixteen elements at a time, a shorter last piece filled up.
#[inline(always)]
fn add_to<S: Fetch, V: Powers>(scores: &[S], head: Head, how: How, out: &mut [f32]) {
    let (vectors, tail) = scores.as_chunks::<LANES>();
    let (outs, out_tail) = out.as_chunks_mut::<LANES>();
    // A loop for each, which the compiler would not always make of a choice within one.
    match how {
        How::Set => add_vectors::<S, V, SET>(vectors, head, outs),
        How::Add => add_vectors::<S, V, ADD>(vectors, head, outs),
        How::Max => add_vectors::<S, V, MAX>(vectors, head, outs),
        How::SetScore => add_vectors::<S, V, SET_SCORE>(vectors, head, outs),
        How::AddScore => add_vectors::<S, V, ADD_SCORE>(vectors, head, outs),
    }
    if !tail.is_empty() {
        let mut lanes = [padded(out_tail)];
        let vectors = [padded(tail)];
        match how {
            How::Set => add_vectors::<S, V, SET>(&vectors, head, &mut lanes),
            How::Add => add_vectors::<S, V, ADD>(&vectors, head, &mut lanes),
            How::Max => add_vectors::<S, V, MAX>(&vectors, head, &mut lanes),
            How::SetScore => add_vectors::<S, V, SET_SCORE>(&vectors, head, &mut lanes),
            How::AddScore => add_vectors::<S, V, ADD_SCORE>(&vectors, head, &mut lanes),
        }
        out_tail.copy_from_slice(&lanes[0][..tail.len()]);
    }
}

const SET: u8 = How::Set as u8;
const ADD: u8 = How::Add as u8;
const MAX: u8 = How::Max as u8;
const SET_SCORE: u8 = How::SetScore as u8;
const ADD_SCORE: u8 = How::AddScore as u8;

#[inline(always)]
fn add_vectors<S: Fetch, V: Powers, const HOW: u8>(
    scores: &[[S; LANES]],
    head: Head,
    out: &mut [[f32; LANES]],
) {
    let weight = V::splat(head.weight);
    for (x, out) in scores.iter().zip(out) {
        let new = match HOW {
            SET => power::<S, V>(x, head).mul(weight),
            ADD => V::load(out).add(power::<S, V>(x, head).mul(weight)),
            MAX => power::<S, V>(x, head).mul(weight).max(V::load(out)),
            SET_SCORE => S::fetch::<V>(x).mul(V::splat(head.exponent)),
            _ => V::load(out).add(S::fetch::<V>(x).mul(V::splat(head.exponent))),
        };
        new.store(out);
    }
}
