use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use crate::sketch::{Decaying, Randomised, SpaceSaving};
use std::vec;
use std::vec::Vec;

/// Lengths around the lanes of every level, and whole blocks.
const LENGTHS: [usize; 10] = [0, 1, 7, 8, 9, 15, 16, 17, 33, BLOCK];

/// Plain buckets of (key, score, row): what the words stand for.
struct Reference<const C: usize>(Vec<[(u32, f32, u32); C]>);

impl<const C: usize> Reference<C> {
    fn insert<P: Admission>(
        &mut self,
        bucket: u32,
        key: u32,
        weight: f32,
        threshold: f32,
        uniform: f32,
    ) -> bool {
        let slots = &mut self.0[bucket as usize];
        if let Some(slot) = slots.iter_mut().find(|s| s.0 == key) {
            slot.1 += weight;
            return slot.2 == 0 && slot.1 >= threshold;
        }
        let rough = |score: f32| score.to_bits() >> if C <= 8 { 3 } else { 5 };
        let slot = slots.iter_mut().min_by_key(|s| rough(s.1)).expect("there are slots");
        if slot.2 == 0 {
            let (left, takes) = P::admit(slot.1, weight, uniform);
            slot.1 = left;
            if takes {
                slot.0 = key;
            }
        }
        false
    }
}

fn uniform(random: u32) -> f32 {
    (mix32(random) >> 8) as f32 / (1 << 24) as f32
}

#[allow(clippy::cast_possible_truncation, reason = "numbers below 2^32")]
fn follows_the_reference<P: Admission, const C: usize>() {
    const BUCKETS: u32 = 3;
    for level in cpu::levels() {
        let mut rng = Xoshiro256pp::new(C as u64);
        let mut lines = vec![Line::EMPTY; BUCKETS as usize * super::lines(C)];
        let mut reference = Reference([[(0, 0.0, 0); C]; BUCKETS as usize].to_vec());
        for round in 0..400 {
            let n = LENGTHS[round % LENGTHS.len()];
            let mut block = Block::new();
            let ids: Vec<u32> = (0..n).map(|_| rng.below(60) as u32 * rng.below(3) as u32).collect();
            block.n = n;
            place_block_u32(level, &ids, 5, BUCKETS, &mut block.buckets, &mut block.keys);
            let weights: Vec<f32> = (0..n).map(|_| rng.below(8) as f32 * 0.25).collect();
            let terms = Terms { scale: 1.5, threshold: 9.0, epoch: 0, random: round as u32 * 100 };
            let waiting = insert::<P, C>(level, &mut lines, &block, &weights, terms);
            let mut want = 0;
            for (i, (id, weight)) in ids.iter().zip(&weights).enumerate() {
                let (bucket, key) = place_u32(*id, 5, BUCKETS);
                assert_eq!((bucket, key), (block.buckets[i], block.keys[i]));
                let uniform = uniform(round as u32 * 100 + i as u32);
                want |= u64::from(reference.insert::<P>(bucket, key, weight * 1.5, 9.0, uniform)) << i;
            }
            assert_eq!(waiting, want, "{level} round {round}");
            // Some rows come and go.
            let words: &mut [u32] = bytemuck::cast_slice_mut(&mut lines);
            let (bucket, slot) = (rng.below(3) as usize, rng.below(C as u64) as usize);
            let row = rng.below(2) as u32 * (round as u32 + 1);
            words[bucket * super::words(C) + 2 * C + slot] = row;
            reference.0[bucket][slot].2 = row;
            let mut rows = vec![7; n];
            query::<C>(level, &lines, &block, &mut rows);
            for (i, row) in rows.iter().enumerate() {
                let slots = reference.0[block.buckets[i] as usize];
                let want = slots.iter().find(|s| s.0 == block.keys[i]).map_or(0, |s| s.2).wrapping_sub(1);
                assert_eq!(*row, want, "{level} round {round} id {i}");
            }
        }
        for (words, slots) in
            bytemuck::cast_slice::<Line, u32>(&lines).chunks(super::words(C)).zip(&reference.0)
        {
            for (s, slot) in slots.iter().enumerate() {
                assert_eq!((words[s], f32::from_bits(words[C + s]), words[2 * C + s]), *slot, "{level}");
            }
        }
    }
}

#[test]
fn every_level_follows_the_reference() {
    follows_the_reference::<Randomised, 1>();
    follows_the_reference::<Randomised, 4>();
    follows_the_reference::<Randomised, 5>();
    follows_the_reference::<SpaceSaving, 5>();
    follows_the_reference::<Decaying, 5>();
    follows_the_reference::<Randomised, 8>();
    follows_the_reference::<Randomised, 10>();
    follows_the_reference::<Decaying, 16>();
    follows_the_reference::<Randomised, 17>();
    follows_the_reference::<SpaceSaving, 21>();
    follows_the_reference::<Randomised, 24>();
}

#[test]
fn places_are_equal_at_every_level_and_spread_strided_ids() {
    for n in LENGTHS {
        let wide: Vec<u64> = (0..n as u64).map(|i| (i << 33) | (i * 3)).collect();
        for level in cpu::levels() {
            let mut block = Block::new();
            block.n = n;
            place_block_u64(level, &wide, 77, 1000, &mut block.buckets, &mut block.keys);
            for (i, id) in wide.iter().enumerate() {
                assert_eq!((block.buckets[i], block.keys[i]), place_u64(*id, 77, 1000));
            }
        }
    }
    for stride in [1_u32, 64, 1000, 1 << 16] {
        let mut seen = [0_u32; 64];
        for i in 0..64_000 {
            seen[place_u32(i * stride, 9, 64).0 as usize] += 1;
        }
        // Six standard deviations of a binomial with n = 64000, p = 1/64.
        assert!(seen.iter().all(|n| n.abs_diff(1000) < 190), "stride {stride}: {seen:?}");
    }
}

#[test]
fn old_buckets_are_brought_up_to_date() {
    for level in cpu::levels() {
        let mut lines = vec![Line::EMPTY; 1];
        let mut block = Block::new();
        block.n = 2;
        place_block_u32(level, &[1, 2], 0, 1, &mut block.buckets, &mut block.keys);
        let terms = |epoch| Terms { scale: 1.0, threshold: 1e30, epoch, random: 0 };
        assert_eq!(insert::<Randomised, 5>(level, &mut lines, &block, &[65536.0, 8.0], terms(0)), 0);
        assert_eq!(insert::<Randomised, 5>(level, &mut lines, &block, &[0.5, 0.0], terms(1)), 0);
        let words: &[u32] = bytemuck::cast_slice(&lines);
        assert_eq!([words[5], words[6]].map(f32::from_bits), [1.5, 8.0 / 65536.0]);
        assert_eq!(insert::<Randomised, 5>(level, &mut lines, &block, &[2.0, 0.0], terms(100)), 0);
        let words: &[u32] = bytemuck::cast_slice(&lines);
        assert_eq!([words[5], words[6]].map(f32::from_bits), [2.0, 0.0], "{level}");
    }
}

#[test]
#[should_panic(expected = "no such bucket")]
fn a_bucket_that_is_not_there_is_refused() {
    let mut block = Block::new();
    block.n = 9;
    place_block_u32(cpu::level(), &[1; 9], 0, 1000, &mut block.buckets, &mut block.keys);
    let _ = insert::<Randomised, 5>(
        cpu::level(),
        &mut [Line::EMPTY],
        &block,
        &[1.0; 9],
        Terms { scale: 1.0, threshold: 1.0, epoch: 0, random: 0 },
    );
}
