use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::{vec, vec::Vec};

/// Bit by bit, as the definition reads.
fn naive(nbits: u32, codes: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; (codes.len() * nbits as usize).div_ceil(8)];
    for (i, &c) in codes.iter().enumerate() {
        for b in 0..nbits as usize {
            let at = i * nbits as usize + b;
            out[at / 8] |= (c >> b & 1) << (at % 8);
        }
    }
    out
}

#[test]
fn streams_are_lsb_first_at_every_level_length_and_offset() {
    let mut rng = Xoshiro256pp::new(1);
    for level in cpu::levels() {
        for nbits in 1..=8u32 {
            for n in (0..=130).chain([256, 1000, 1024]) {
                for offset in [0, 1, 3] {
                    let all: Vec<u8> =
                        (0..n + offset).map(|_| rng.below(1 << nbits).to_le_bytes()[0]).collect();
                    let codes = &all[offset..];
                    let want = naive(nbits, codes);
                    assert_eq!(want.len(), packed_len(nbits, n));
                    let mut packed = vec![0xaa; want.len() + offset];
                    pack_bits(level, nbits, codes, &mut packed[offset..]);
                    assert_eq!(&packed[offset..], want, "{level} {nbits} bits, {n} codes");
                    let mut back = vec![0xaa; n];
                    unpack_bits(level, nbits, &packed[offset..], &mut back);
                    assert_eq!(back, codes, "{level} {nbits} bits, {n} codes");
                }
            }
        }
    }
}

#[test]
fn bits_after_the_last_code_are_ignored() {
    for level in cpu::levels() {
        let mut codes = [0; 3];
        unpack_bits(level, 3, &[0b1101_1001, 0xff], &mut codes);
        assert_eq!(codes, [0b001, 0b011, 0b111], "{level}");
    }
}
