//! A sketch as bytes; all numbers little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 each | layout (1), slots of a bucket, bytes of an id, rows, buckets |
//! | 4 each | fixed threshold or 0, half-life or 0 (`f32`) |
//! | 8 each | seed, ids seen |
//! | 4 each | threshold, its slope, scale (`f32`), epoch, the hand's bucket, ids a bucket, debt, threshold before (`f32`) |
//! | 4 each | 1024 bins of the hand |
//! | 8 each | owner of each row, of `u64` ids only |
//! | 4 each | words of all buckets |

use super::hand::Hand;
use super::hot::{HotSketch, SketchParams, Threshold, check};
use super::rows::FreeRows;
use super::{Admission, Id, SketchError};
use crate::kernels::sketch::{self as kernels, EPOCH_BITS, Line, words};
use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;

const LAYOUT: u32 = 1;

const fn corrupt(what: &'static str) -> SketchError {
    SketchError::Corrupt { what }
}

impl<I: Id, P: Admission, const C: usize> HotSketch<I, P, C> {
    /// The sketch as bytes. Cost: one pass.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.len_bytes());
        let count = |n: usize| u32::try_from(n).expect("at most 32");
        let fixed = if let Threshold::Fixed(t) = self.params.threshold { t } else { 0.0 };
        let mut put = |word: u32| out.extend_from_slice(&word.to_le_bytes());
        for word in [LAYOUT, count(C), count(I::BYTES), self.params.rows, self.params.buckets] {
            put(word);
        }
        for x in [fixed, self.params.half_life.unwrap_or(0.0)] {
            put(x.to_bits());
        }
        for x in [self.params.seed, self.seen] {
            out.extend_from_slice(&x.to_le_bytes());
        }
        let mut put = |word: u32| out.extend_from_slice(&word.to_le_bytes());
        for x in [self.threshold, self.slope, self.scale] {
            put(x.to_bits());
        }
        put(self.epoch);
        self.hand.words().for_each(&mut put);
        for owner in &self.owners {
            out.extend_from_slice(&owner.widen().to_le_bytes());
        }
        for word in self.words() {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. The policy `P` is not among it: it only says how to go on.
    ///
    /// # Errors
    /// [`SketchError::Unlike`] if the bytes are of other types of ids or numbers of slots, [`SketchError::Corrupt`] if they are no sketch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError> {
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(corrupt("part of a word"));
        }
        let mut words = words.iter().map(|w| u32::from_le_bytes(*w));
        let left = words.len();
        let mut word = || words.next().ok_or(corrupt("too few bytes"));
        let [layout, slots, id_bytes, rows, buckets] = take(&mut word)?;
        if layout != LAYOUT {
            return Err(SketchError::Unlike { what: "layout" });
        }
        if slots as usize != C {
            return Err(SketchError::Unlike { what: "number of slots" });
        }
        if id_bytes as usize != I::BYTES {
            return Err(SketchError::Unlike { what: "type of ids" });
        }
        let [fixed, half_life] = take(&mut word)?.map(f32::from_bits);
        let mut wide = || word().and_then(|low| Ok(u64::from(low) | u64::from(word()?) << 32));
        let (seed, seen) = (wide()?, wide()?);
        let threshold = if fixed == 0.0 { Threshold::Auto } else { Threshold::Fixed(fixed) };
        let half_life = (half_life != 0.0).then_some(half_life);
        let params = SketchParams { rows, buckets, threshold, half_life, seed };
        check(params).map_err(|_| corrupt("parameters"))?;
        let [threshold, slope, scale] = take(&mut word)?.map(f32::from_bits);
        let sound = |x: f32| x >= 0.0 && x.is_finite();
        if !sound(threshold) || !sound(slope) || !(1.0..(1 << EPOCH_BITS) as f32).contains(&scale) {
            return Err(corrupt("threshold or scale"));
        }
        let [epoch] = take(&mut word)?;
        let hand = Hand::from_words(&mut word, buckets, C)?;
        if seen > u64::MAX / 2 {
            return Err(corrupt("ids seen"));
        }
        // Memory is taken for what is there only.
        let owners = if I::KEY_IS_ID { 0 } else { rows as usize };
        let lines = (buckets as usize).checked_mul(kernels::lines(C)).ok_or(corrupt("too few bytes"))?;
        let needed = lines.checked_mul(16).and_then(|w| w.checked_add(2 * owners));
        if needed.is_none_or(|n| n > left) || rows as usize / 64 > 64 * left {
            return Err(corrupt("too few bytes"));
        }
        let mut wide = || word().and_then(|low| Ok(u64::from(low) | u64::from(word()?) << 32));
        let owners = (0..owners).map(|_| wide().map(I::narrow)).collect::<Result<_, _>>()?;
        let mut all = vec![Line::EMPTY; lines];
        for to in bytemuck::cast_slice_mut::<Line, u32>(&mut all) {
            *to = word()?;
        }
        if word().is_ok() {
            return Err(corrupt("too many bytes"));
        }
        let mut free = FreeRows::new(rows);
        for bucket in bytemuck::cast_slice::<Line, u32>(&all).chunks_exact(self::words(C)) {
            if !bucket[C..2 * C].iter().all(|s| sound(f32::from_bits(*s))) {
                return Err(corrupt("a score"));
            }
            for row in bucket[2 * C..3 * C].iter().filter(|r| **r != 0) {
                if !free.take_this(row - 1) {
                    return Err(corrupt("a row that is owned twice, or none"));
                }
            }
        }
        let policy = PhantomData;
        Ok(Self { params, lines: all, free, owners, threshold, slope, scale, epoch, seen, hand, policy })
    }
}

fn take<const N: usize>(
    word: &mut impl FnMut() -> Result<u32, SketchError>,
) -> Result<[u32; N], SketchError> {
    let mut out = [0; N];
    for to in &mut out {
        *to = word()?;
    }
    Ok(out)
}
