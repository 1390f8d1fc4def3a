//! The sketch itself.

use super::hand::{Hand, whole};
use super::rows::FreeRows;
use super::{Admission, Event, Id, Randomised, SketchError};
use crate::cpu;
use crate::kernels::sketch::{self as kernels, BLOCK, Block, EPOCH_BITS, Line, Terms, ones, renew, words};
use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;

/// 2^60: sums of 2^40 weights in any scale stay finite.
const MAX_WEIGHT: f32 = (1_u64 << 60) as f32;

/// From which score an id deserves a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// The score above which there are about as many ids as rows, found anew all the time. Rows go from ids below it to ids above
    /// it, so that a full pool never freezes the hot set.
    Auto,
    /// This score, as published. An id loses its row when decay takes it below; when all rows are taken, nobody gets one.
    Fixed(f32),
}

/// Shape and rules of a [`HotSketch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SketchParams {
    /// Rows to share out.
    pub rows: u32,
    /// Buckets.
    pub buckets: u32,
    /// Who deserves a row.
    pub threshold: Threshold,
    /// Insertions (of single ids) after which a score counts half; `None` keeps scores for ever. Done by inflating the weight of what
    /// comes later; a bucket is brought up to date when it is touched.
    pub half_life: Option<f32>,
    /// Of hashes and random choices.
    pub seed: u64,
}

/// Bounded memory that watches which ids weigh most in a stream and gives them rows of a table.
///
/// `I` is the id's type, `P` the [`Admission`] policy, `C` the slots of a bucket: 5, 10 or 21 fill one, two or four cache
/// lines well (at most 24). Equal parameters and equal calls give equal sketches and equal events, on every machine.
///
/// Memory: [`len_bytes`](Self::len_bytes). Nothing is allocated after [`new`](Self::new).
#[derive(Clone, Debug)]
pub struct HotSketch<I: Id = u32, P: Admission = Randomised, const C: usize = 5> {
    pub(super) params: SketchParams,
    pub(super) lines: Vec<Line>,
    pub(super) free: FreeRows,
    /// The owner of each row, where the key of a slot does not say it; otherwise empty.
    pub(super) owners: Vec<I>,
    /// In the present scale.
    pub(super) threshold: f32,
    /// What the threshold grows by with each insertion, until the hand knows better.
    pub(super) slope: f32,
    /// What a weight of 1 is worth now.
    pub(super) scale: f32,
    pub(super) epoch: u32,
    /// Ids inserted.
    pub(super) seen: u64,
    pub(super) hand: Hand,
    pub(super) policy: PhantomData<P>,
}

impl<I: Id, P: Admission, const C: usize> HotSketch<I, P, C> {
    /// An empty sketch.
    ///
    /// # Errors
    /// [`SketchError::Rows`], [`SketchError::Buckets`] or [`SketchError::Parameter`] for parameters that make no sense.
    pub fn new(params: SketchParams) -> Result<Self, SketchError> {
        check(params)?;
        Ok(Self {
            params,
            lines: vec![Line::EMPTY; params.buckets as usize * kernels::lines(C)],
            free: FreeRows::new(params.rows),
            owners: if I::KEY_IS_ID { Vec::new() } else { vec![I::narrow(0); params.rows as usize] },
            threshold: match params.threshold {
                Threshold::Auto => 0.0,
                Threshold::Fixed(t) => t,
            },
            slope: 0.0,
            scale: 1.0,
            epoch: 0,
            seen: 0,
            hand: Hand::new(),
            policy: PhantomData,
        })
    }

    /// Buckets that fit, with all that belongs to them, into so many bytes for `rows` rows; 0 if none does.
    #[must_use]
    pub fn buckets_in(bytes: usize, rows: u32) -> u32 {
        let fixed = Hand::len_bytes() + (rows as usize).div_ceil(64) * 8;
        let owners = if I::KEY_IS_ID { 0 } else { rows as usize * I::BYTES };
        u32::try_from(bytes.saturating_sub(fixed + owners) / (words(C) * 4)).unwrap_or(u32::MAX)
    }

    /// Bytes on the heap: buckets, free rows, owners (of `u64` ids) and the histogram of scores.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
            + self.free.len_bytes()
            + self.owners.len() * I::BYTES
            + Hand::len_bytes()
    }

    /// What it was made with.
    #[must_use]
    pub const fn params(&self) -> SketchParams {
        self.params
    }

    /// Rows that ids own.
    #[must_use]
    pub const fn hot(&self) -> u32 {
        self.free.rows() - self.free.free()
    }

    /// The score from which an id deserves a row now.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.bar() / self.scale
    }

    /// Ids inserted so far.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Adds 1 to the score of each id, in order (an id that comes twice counts twice). `events` hears of rows that change
    /// owners while it happens: a row's old owner is named before its new one.
    ///
    /// Cost: about 9 ns an id on a core whose second-level cache holds the sketch (16 thousand rows).
    pub fn insert(&mut self, ids: &[I], mut events: impl FnMut(Event<I>)) {
        self.insert_all(ids, |_, n| &[1.0; BLOCK][..n], &mut events);
    }

    /// As [`insert`](Self::insert) with a weight for each id: its importance.
    ///
    /// # Errors
    /// [`SketchError::Length`] or [`SketchError::Weight`].
    pub fn insert_weighted(
        &mut self,
        ids: &[I],
        weights: &[f32],
        mut events: impl FnMut(Event<I>),
    ) -> Result<(), SketchError> {
        if ids.len() != weights.len() {
            return Err(SketchError::Length { expected: ids.len(), got: weights.len() });
        }
        if let Some(index) = weights.iter().position(|w| !(0.0..=MAX_WEIGHT).contains(w)) {
            return Err(SketchError::Weight { index, weight: weights[index] });
        }
        self.insert_all(ids, |at, n| &weights[at..at + n], &mut events);
        Ok(())
    }

    /// The row of each id, [`COLD`](super::COLD) where it owns none. Changes nothing. Cost: about 3 ns an id in the second-level cache.
    ///
    /// # Errors
    /// [`SketchError::Length`].
    pub fn query(&self, ids: &[I], rows: &mut [u32]) -> Result<(), SketchError> {
        if ids.len() != rows.len() {
            return Err(SketchError::Length { expected: ids.len(), got: rows.len() });
        }
        let level = cpu::level();
        let mut blocks = [Block::new(), Block::new()];
        self.place(&ids[..ids.len().min(BLOCK)], &mut blocks[0]);
        for (i, rows) in rows.chunks_mut(BLOCK).enumerate() {
            let next = ids.len().min((i + 1) * BLOCK);
            self.place(&ids[next..ids.len().min(next + BLOCK)], &mut blocks[(i + 1) % 2]);
            kernels::query::<C>(level, &self.lines, &blocks[i % 2], rows);
        }
        Ok(())
    }

    /// The score of an id, if a slot holds it.
    #[must_use]
    pub fn score(&self, id: I) -> Option<f32> {
        let (bucket, slot) = self.find(id)?;
        let words = self.bucket(bucket);
        let age = self.epoch.wrapping_sub(words[words.len() - 1]);
        let past = libm::exp2f(-(age as f32) * EPOCH_BITS as f32);
        Some(f32::from_bits(words[C + slot]) * past / self.scale)
    }

    /// Every id that owns a row, and the row.
    pub fn for_each_hot(&self, mut f: impl FnMut(I, u32)) {
        for words in self.buckets() {
            for slot in (0..C).filter(|s| words[2 * C + s] != 0) {
                let row = words[2 * C + slot] - 1;
                f(self.owner(row, words[slot]), row);
            }
        }
    }

    /// Multiplies every score, as published sketches do once in a while. A fixed threshold stays, and ids that fall below it lose
    /// their rows; an automatic one falls, too. Cost: a pass over all buckets.
    ///
    /// # Errors
    /// [`SketchError::Parameter`] if the factor is not in `0..=1`.
    pub fn decay(&mut self, factor: f32, mut events: impl FnMut(Event<I>)) -> Result<(), SketchError> {
        if !(0.0..=1.0).contains(&factor) {
            return Err(SketchError::Parameter { name: "factor", value: factor });
        }
        self.hand.shrink(factor);
        if self.params.threshold == Threshold::Auto {
            self.threshold *= factor;
            self.slope *= factor;
        }
        for bucket in 0..self.params.buckets {
            let (epoch, threshold) = (self.epoch, self.threshold);
            let words = self.bucket_mut(bucket);
            renew::<C>(words, epoch);
            for slot in 0..C {
                let words = self.bucket_mut(bucket);
                let score = f32::from_bits(words[C + slot]) * factor;
                words[C + slot] = score.to_bits();
                if words[2 * C + slot] != 0 && score < threshold {
                    self.demote(bucket, slot, &mut events);
                }
            }
        }
        Ok(())
    }

    /// Block after block; the buckets of the next one are on their way meanwhile.
    fn insert_all<'w>(
        &mut self,
        ids: &[I],
        weights: impl Fn(usize, usize) -> &'w [f32],
        events: &mut impl FnMut(Event<I>),
    ) {
        let mut blocks = [Block::new(), Block::new()];
        self.place(&ids[..ids.len().min(BLOCK)], &mut blocks[0]);
        for (i, now) in ids.chunks(BLOCK).enumerate() {
            let next = ids.len().min((i + 1) * BLOCK);
            self.place(&ids[next..ids.len().min(next + BLOCK)], &mut blocks[(i + 1) % 2]);
            self.insert_block(now, &blocks[i % 2], weights(i * BLOCK, now.len()), events);
        }
    }

    /// Finds the buckets of a block and asks for them.
    fn place(&self, ids: &[I], block: &mut Block) {
        let SketchParams { seed, buckets, .. } = self.params;
        block.n = ids.len();
        I::place_block(cpu::level(), ids, seed, buckets, &mut block.buckets, &mut block.keys);
        kernels::prefetch::<C>(&self.lines, block);
    }

    fn insert_block(&mut self, ids: &[I], block: &Block, weights: &[f32], events: &mut impl FnMut(Event<I>)) {
        let terms = Terms {
            scale: self.scale,
            threshold: self.bar(),
            epoch: self.epoch,
            random: low(self.params.seed ^ self.params.seed >> 32).wrapping_add(low(self.seen)),
        };
        let waiting = kernels::insert::<P, C>(cpu::level(), &mut self.lines, block, weights, terms);
        for i in ones(waiting) {
            self.promote(ids[i], block.buckets[i], block.keys[i], events);
        }
        self.seen = self.seen.wrapping_add(ids.len() as u64);
        self.threshold += self.slope * ids.len() as f32;
        self.walk(ids.len() as u64, events);
        if let Some(half_life) = self.params.half_life {
            self.scale *= libm::exp2f(ids.len() as f32 / half_life);
            let epoch = (1_u32 << EPOCH_BITS) as f32;
            while self.scale >= epoch {
                self.scale /= epoch;
                self.epoch = self.epoch.wrapping_add(1);
                self.threshold /= epoch;
                self.slope /= epoch;
            }
            if let Threshold::Fixed(t) = self.params.threshold {
                self.threshold = t * self.scale;
            }
        }
    }

    /// Gives an id that waits a row, if it still deserves one and one is to be had.
    fn promote(&mut self, id: I, bucket: u32, key: u32, events: &mut impl FnMut(Event<I>)) {
        let threshold = self.bar();
        let words = self.bucket(bucket);
        let Some(slot) = words[..C].iter().position(|k| *k == key) else { return };
        if words[2 * C + slot] != 0 || f32::from_bits(words[C + slot]) < threshold {
            return;
        }
        if self.free.free() == 0 && self.params.threshold == Threshold::Auto {
            // Competition in the bucket; the hand sees to the others.
            let weak = (0..C).find(|s| words[2 * C + s] != 0 && f32::from_bits(words[C + s]) < threshold);
            if let Some(weak) = weak {
                self.demote(bucket, weak, events);
            }
        }
        let Some(row) = self.free.take() else { return };
        self.bucket_mut(bucket)[2 * C + slot] = row + 1;
        if !I::KEY_IS_ID {
            self.owners[row as usize] = id;
        }
        events(Event::Hot { id, row });
    }

    fn demote(&mut self, bucket: u32, slot: usize, events: &mut impl FnMut(Event<I>)) {
        let words = self.bucket_mut(bucket);
        let (key, row) = (words[slot], words[2 * C + slot] - 1);
        words[2 * C + slot] = 0;
        self.free.give(row);
        let id = self.owner(row, key);
        events(Event::Cold { id, row });
    }

    /// Lets the hand go on for `n` insertions.
    fn walk(&mut self, n: u64, events: &mut impl FnMut(Event<I>)) {
        for _ in 0..self.hand.owe(n) {
            let bucket = self.hand.bucket;
            let (epoch, threshold, unit) = (self.epoch, self.bar(), 1.0 / self.scale);
            let words = self.bucket_mut(bucket);
            if words[self::words(C) - 1] != epoch {
                renew::<C>(words, epoch);
            }
            for slot in 0..C {
                let words = self.bucket(bucket);
                let (score, row) = (f32::from_bits(words[C + slot]), words[2 * C + slot]);
                self.hand.count(score * unit);
                if row != 0 && score < threshold && self.free.free() <= self.reserve() {
                    self.demote(bucket, slot, events);
                }
            }
            self.hand.bucket += 1;
            if self.hand.bucket == self.params.buckets {
                let (threshold, slope) = self.hand.finish(self.params.rows, self.seen);
                if self.params.threshold == Threshold::Auto {
                    (self.threshold, self.slope) = (threshold * self.scale, slope * self.scale);
                }
            }
        }
    }

    /// The threshold as scores are compared with it.
    fn bar(&self) -> f32 {
        match self.params.threshold {
            Threshold::Auto => whole(self.threshold / self.scale) * self.scale,
            Threshold::Fixed(_) => self.threshold,
        }
    }

    /// So many rows at least are to be free for ids that come up.
    fn reserve(&self) -> u32 {
        match self.params.threshold {
            Threshold::Auto => self.params.rows / 256,
            Threshold::Fixed(_) => self.params.rows,
        }
    }

    fn find(&self, id: I) -> Option<(u32, usize)> {
        let (bucket, key) = id.place(self.params.seed, self.params.buckets);
        let words = self.bucket(bucket);
        let slot = (0..C).find(|s| words[*s] == key && words[C + s] != 0)?;
        Some((bucket, slot))
    }

    pub(super) fn owner(&self, row: u32, key: u32) -> I {
        if I::KEY_IS_ID { I::from_key(key) } else { self.owners[row as usize] }
    }

    pub(super) fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(super) fn buckets(&self) -> impl Iterator<Item = &[u32]> {
        self.words().chunks_exact(words(C))
    }

    pub(super) fn bucket(&self, bucket: u32) -> &[u32] {
        &self.words()[bucket as usize * words(C)..][..words(C)]
    }

    pub(super) fn bucket_mut(&mut self, bucket: u32) -> &mut [u32] {
        let all: &mut [u32] = bytemuck::cast_slice_mut(&mut self.lines);
        &mut all[bucket as usize * words(C)..][..words(C)]
    }
}

pub(super) fn check(params: SketchParams) -> Result<(), SketchError> {
    if params.rows == 0 || params.rows == u32::MAX {
        return Err(SketchError::Rows { rows: params.rows });
    }
    if params.buckets == 0 {
        return Err(SketchError::Buckets);
    }
    let positive = |name, value: f32| {
        if value > 0.0 && value.is_finite() { Ok(()) } else { Err(SketchError::Parameter { name, value }) }
    };
    if let Threshold::Fixed(t) = params.threshold {
        positive("threshold", t)?;
    }
    params.half_life.map_or(Ok(()), |h| positive("half_life", h))
}

#[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(x: u64) -> u32 {
    x as u32
}
