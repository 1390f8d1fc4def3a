//! Counting, collecting and writing out scores against a threshold: what exact selection is made of.
//!
//! Sixty-four scores become one 64-bit mask; everything else is done on masks. A threshold is found by counting how many
//! scores lie above trial values, so there is no histogram, nothing that depends on how the scores are distributed, and
//! nothing but counts and indices comes out: all levels give the same.
//!
//! Limit, AVX-512, 64 scores of 16 bits: two loads and compares to count (4 cycles when the scores come from the second-level
//! cache at 32 bytes a cycle); to write indices one byte compress, two widenings and two stores of 64 bytes, 6 cycles more.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
#[cfg(feature = "alloc")]
pub(in crate::kernels) use avx512::indices as avx512_indices;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Scores that become one mask.
const BLOCK: usize = 64;

/// A type of scores, with a 32-bit key for each value that is not a NaN, in the same order.
pub(crate) trait Score: bytemuck::Pod + PartialOrd {
    /// Key of the least score.
    const LEAST: u32;
    /// Key of the greatest score.
    const GREATEST: u32;
    fn key(self) -> u32;
    /// The score of a key in `LEAST..=GREATEST`.
    fn from_key(key: u32) -> Self;
    fn is_nan(self) -> bool;

    fn count_above_at(level: Level, scores: &[Self], t: Self) -> usize;
    fn collect_at(level: Level, scores: &[Self], range: [Self; 2], found: &mut Found, out: &mut [Self]);
    fn emit_at(level: Level, scores: &[Self], cut: &mut Cut<Self>, first: u32, out: &mut [u32]) -> usize;
}

impl Score for u16 {
    const LEAST: u32 = 0;
    const GREATEST: u32 = 0xffff;

    fn key(self) -> u32 {
        self.into()
    }

    #[allow(clippy::cast_possible_truncation, reason = "keys are at most GREATEST")]
    fn from_key(key: u32) -> Self {
        key as Self
    }

    fn is_nan(self) -> bool {
        false
    }

    fn count_above_at(level: Level, scores: &[Self], t: Self) -> usize {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::count_above_u16(scores, t) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::count_above_u16(scores, t) },
            _ => scalar::count_above_u16(scores, t),
        }
    }

    fn collect_at(level: Level, scores: &[Self], range: [Self; 2], found: &mut Found, out: &mut [Self]) {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::collect_u16(scores, range, found, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::collect_u16(scores, range, found, out) },
            _ => scalar::collect_u16(scores, range, found, out),
        }
    }

    fn emit_at(level: Level, scores: &[Self], cut: &mut Cut<Self>, first: u32, out: &mut [u32]) -> usize {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::emit_u16(scores, cut, first, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::emit_u16(scores, cut, first, out) },
            _ => scalar::emit_u16(scores, cut, first, out),
        }
    }
}

impl Score for f32 {
    const LEAST: u32 = 0x0080_0000; // -inf
    const GREATEST: u32 = 0xff80_0000; // +inf

    /// The bits above 2^31, or as far below it as the magnitude goes: 0 and -0 have one key.
    fn key(self) -> u32 {
        let bits = self.to_bits();
        if bits >> 31 == 1 { bits.wrapping_neg() } else { bits | 1 << 31 }
    }

    fn from_key(key: u32) -> Self {
        Self::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { key.wrapping_neg() })
    }

    fn is_nan(self) -> bool {
        self.is_nan()
    }

    fn count_above_at(level: Level, scores: &[Self], t: Self) -> usize {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::count_above_f32(scores, t) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::count_above_f32(scores, t) },
            _ => scalar::count_above_f32(scores, t),
        }
    }

    fn collect_at(level: Level, scores: &[Self], range: [Self; 2], found: &mut Found, out: &mut [Self]) {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::collect_f32(scores, range, found, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::collect_f32(scores, range, found, out) },
            _ => scalar::collect_f32(scores, range, found, out),
        }
    }

    fn emit_at(level: Level, scores: &[Self], cut: &mut Cut<Self>, first: u32, out: &mut [u32]) -> usize {
        match level {
            // SAFETY: the level exists only after detection saw every feature that the kernel enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::emit_f32(scores, cut, first, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::emit_f32(scores, cut, first, out) },
            _ => scalar::emit_f32(scores, cut, first, out),
        }
    }
}

/// What [`collect`] saw so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Scores above the range.
    pub(crate) above: usize,
    /// Scores in the range.
    pub(crate) inside: usize,
    /// How many of the latter were stored.
    pub(crate) stored: usize,
}

/// A threshold while indices are written: scores above `value` are taken, and the next `ties` that equal it. With a NaN as
/// value every number is above, and NaNs are the equals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut<T> {
    pub(crate) value: T,
    pub(crate) ties: usize,
}

/// How many scores are above `t`, which is not a NaN.
pub(crate) fn count_above<T: Score>(level: Level, scores: &[T], t: T) -> usize {
    T::count_above_at(level, scores, t)
}

/// Counts scores above the range `[low, high]` and in it, and appends the latter's values to `out[found.stored..]` as long
/// as there is room for a whole block of 64. Called with piece after piece of the scores.
pub(crate) fn collect<T: Score>(level: Level, scores: &[T], range: [T; 2], found: &mut Found, out: &mut [T]) {
    T::collect_at(level, scores, range, found, out);
}

/// Writes `first + i` for every score `i` that `cut` takes, in rising order, and returns how many; called with piece after
/// piece of the scores. Elements of `out` behind those may be overwritten with anything.
///
/// # Panics
/// If `out` is too short.
pub(crate) fn emit<T: Score>(
    level: Level,
    scores: &[T],
    cut: &mut Cut<T>,
    first: u32,
    out: &mut [u32],
) -> usize {
    if cut.value.is_nan() {
        return emit_among_nans(scores, cut, first, out);
    }
    T::emit_at(level, scores, cut, first, out)
}

/// Writes the indices of the scores in `low..=high`, rising; returns how many, or `None` if `out` has not room for 63 more.
pub(crate) fn emit_within(level: Level, scores: &[u16], range: [u16; 2], out: &mut [u32]) -> Option<usize> {
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::emit_within(scores, range, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::emit_within(scores, range, out) },
        _ => scalar::emit_within(scores, range, out),
    }
}

/// How many weights are above a threshold, and their sum in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mass {
    pub(crate) count: usize,
    pub(crate) mass: u64,
}

/// The weights above `t >= 0`, each times `unit` and rounded down: at most `2^30`.
pub(crate) fn mass_above(level: Level, weights: &[f32], t: f32, unit: f32) -> Mass {
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::mass_above(weights, t, unit) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::mass_above(weights, t, unit) },
        _ => scalar::mass_above(weights, t, unit),
    }
}

/// More is wanted than there are numbers: rare, and done plainly.
fn emit_among_nans<T: Score>(scores: &[T], cut: &mut Cut<T>, first: u32, out: &mut [u32]) -> usize {
    let mut len = 0;
    for (i, &s) in (first..).zip(scores) {
        if s.is_nan() {
            if cut.ties == 0 {
                continue;
            }
            cut.ties -= 1;
        }
        out[len] = i;
        len += 1;
    }
    len
}

/// Sixty-four scores at a level. Everything is `inline(always)`, so that the kernel's own features govern the code.
trait Block<T: Score> {
    /// Bit `i` for `x[i] > t`.
    fn above(x: &[T; BLOCK], t: T) -> u64;
    /// Bit `i` for `x[i] == t`.
    fn equal(x: &[T; BLOCK], t: T) -> u64;
    /// Bit `i` for `x[i] >= t`.
    fn at_least(x: &[T; BLOCK], t: T) -> u64;

    /// How many are above `t`.
    #[inline(always)]
    fn count_above(x: &[T; BLOCK], t: T) -> usize {
        Self::above(x, t).count_ones() as usize
    }

    /// The scores that `mask` names, side by side at the front of `out`; what follows them is anything.
    #[inline(always)]
    fn pack(x: &[T; BLOCK], mut mask: u64, out: &mut [T; BLOCK]) {
        for out in out {
            if mask == 0 {
                break;
            }
            *out = x[mask.trailing_zeros() as usize];
            mask &= mask - 1;
        }
    }

    /// `first + i` for every bit `i` of `mask` at the front of `out`; what follows them is anything.
    #[inline(always)]
    fn indices(mut mask: u64, first: u32, out: &mut [u32; BLOCK]) {
        for out in out {
            if mask == 0 {
                break;
            }
            *out = first + mask.trailing_zeros();
            mask &= mask - 1;
        }
    }
}

/// The scores of a last, shorter piece, filled up with anything, and the mask of the real ones. (No closures from here on:
/// they would be compiled without the kernel's features.)
#[inline(always)]
fn fill_up<T: Score>(tail: &[T]) -> ([T; BLOCK], u64) {
    let mut block = [T::zeroed(); BLOCK];
    block[..tail.len()].copy_from_slice(tail);
    (block, (1 << tail.len()) - 1)
}

#[inline(always)]
fn count_blocks<T: Score, B: Block<T>>(scores: &[T], t: T) -> usize {
    let (blocks, tail) = scores.as_chunks::<BLOCK>();
    let mut count = 0;
    for block in blocks {
        count += B::count_above(block, t);
    }
    if !tail.is_empty() {
        let (block, real) = fill_up(tail);
        count += (B::above(&block, t) & real).count_ones() as usize;
    }
    count
}

#[inline(always)]
fn collect_blocks<T: Score, B: Block<T>>(scores: &[T], range: [T; 2], found: &mut Found, out: &mut [T]) {
    let (blocks, tail) = scores.as_chunks::<BLOCK>();
    let mut now = *found;
    for block in blocks {
        collect_block::<T, B>(block, !0, range, &mut now, out);
    }
    if !tail.is_empty() {
        let (block, real) = fill_up(tail);
        collect_block::<T, B>(&block, real, range, &mut now, out);
    }
    *found = now;
}

#[inline(always)]
fn collect_block<T: Score, B: Block<T>>(
    block: &[T; BLOCK],
    real: u64,
    [low, high]: [T; 2],
    found: &mut Found,
    out: &mut [T],
) {
    let above = B::above(block, high) & real;
    let inside = B::at_least(block, low) & real & !above;
    let count = inside.count_ones() as usize;
    found.above += above.count_ones() as usize;
    found.inside += count;
    if inside != 0
        && out.len() - found.stored >= BLOCK
        && let Some(out) = out[found.stored..].first_chunk_mut()
    {
        B::pack(block, inside, out);
        found.stored += count;
    }
}

#[inline(always)]
fn emit_blocks<T: Score, B: Block<T>>(scores: &[T], cut: &mut Cut<T>, first: u32, out: &mut [u32]) -> usize {
    let (blocks, tail) = scores.as_chunks::<BLOCK>();
    let (mut len, mut at, mut now) = (0, first, *cut);
    for block in blocks {
        emit_block::<T, B>(block, !0, &mut now, at, out, &mut len);
        at = at.wrapping_add(64);
    }
    if !tail.is_empty() {
        let (block, real) = fill_up(tail);
        emit_block::<T, B>(&block, real, &mut now, at, out, &mut len);
    }
    *cut = now;
    len
}

#[inline(always)]
fn emit_block<T: Score, B: Block<T>>(
    block: &[T; BLOCK],
    real: u64,
    cut: &mut Cut<T>,
    first: u32,
    out: &mut [u32],
    len: &mut usize,
) {
    let mut mask = B::above(block, cut.value) & real;
    if cut.ties > 0 {
        mask |= lowest(B::equal(block, cut.value) & real, &mut cut.ties);
    }
    if mask == 0 {
        return;
    }
    if out.len() - *len >= BLOCK
        && let Some(out) = out[*len..].first_chunk_mut()
    {
        B::indices(mask, first, out);
        *len += mask.count_ones() as usize;
    } else {
        // The last few, which end where `out` does.
        while mask != 0 {
            out[*len] = first + mask.trailing_zeros();
            *len += 1;
            mask &= mask - 1;
        }
    }
}

#[inline(always)]
fn emit_within_blocks<B: Block<u16>>(
    scores: &[u16],
    [low, high]: [u16; 2],
    out: &mut [u32],
) -> Option<usize> {
    let (blocks, tail) = scores.as_chunks::<BLOCK>();
    let (mut len, mut first) = (0, 0_u32);
    for block in blocks {
        let mask = B::at_least(block, low) & !B::above(block, high);
        if mask != 0 {
            B::indices(mask, first, out.get_mut(len..)?.first_chunk_mut()?);
            len += mask.count_ones() as usize;
        }
        first = first.wrapping_add(64);
    }
    if !tail.is_empty() {
        let (block, real) = fill_up(tail);
        let mask = B::at_least(&block, low) & !B::above(&block, high) & real;
        B::indices(mask, first, out.get_mut(len..)?.first_chunk_mut()?);
        len += mask.count_ones() as usize;
    }
    Some(len)
}

/// The lowest `ties` bits that are set, of which `ties` then owes so many less.
#[inline(always)]
pub(in crate::kernels) fn lowest(mut bits: u64, ties: &mut usize) -> u64 {
    let count = bits.count_ones() as usize;
    if count <= *ties {
        *ties -= count;
        return bits;
    }
    let all = bits;
    for _ in 0..*ties {
        bits &= bits - 1;
    }
    *ties = 0;
    all ^ bits
}
