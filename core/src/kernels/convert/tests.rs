use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

type Widen = fn(Level, &[u8], &mut [f32]);
type Narrow = fn(Level, &[f32], &mut [u8]);

const PAIRS: [(usize, Widen, Narrow); 4] = [
    (2, f16_to_f32, f16_from_f32),
    (2, bf16_to_f32, bf16_from_f32),
    (1, f8_e4m3_to_f32, f8_e4m3_from_f32),
    (1, f8_e5m2_to_f32, f8_e5m2_from_f32),
];

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn levels_agree_at_odd_lengths_and_offsets() {
    let mut rng = Xoshiro256pp::new(1);
    // Bit patterns, so that NaN, infinities and subnormals are among them.
    let source: Vec<f32> =
        (0..80).map(|_| f32::from_bits((rng.next_u64() >> 32).try_into().unwrap())).collect();
    let stored: Vec<u8> = (0..170).map(|_| (rng.next_u64() >> 56).try_into().unwrap()).collect();
    for (bytes, widen, narrow) in PAIRS {
        for n in [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65] {
            for offset in [0, 1, 3] {
                let (x, s) = (&source[offset..offset + n], &stored[offset..offset + n * bytes]);
                let (mut want_wide, mut want_narrow) = (vec![0.0; n], vec![0; n * bytes]);
                widen(Level::Scalar, s, &mut want_wide);
                narrow(Level::Scalar, x, &mut want_narrow);
                for level in cpu::levels() {
                    let mut wide = vec![0.0; n];
                    widen(level, s, &mut wide);
                    assert_eq!(bits(&wide), bits(&want_wide), "{level}, {n} elements at {offset}");
                    // One byte more in front: unaligned stores, and nothing written before or after.
                    let mut out = vec![0xAA; n * bytes + 2];
                    narrow(level, x, &mut out[1..=n * bytes]);
                    assert_eq!(out[1..=n * bytes], want_narrow, "{level}, {n} elements at {offset}");
                    assert_eq!((out[0], out[n * bytes + 1]), (0xAA, 0xAA));
                }
            }
        }
    }
}

#[test]
fn levels_agree_on_every_stored_pattern_and_its_neighbours() {
    for (bytes, widen, narrow) in PAIRS {
        let stored: Vec<u8> = if bytes == 2 {
            (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()
        } else {
            (0..=u8::MAX).collect()
        };
        let n = stored.len() / bytes;
        let mut wide = vec![0.0; n];
        widen(Level::Scalar, &stored, &mut wide);
        // Values, values one f32 step off, and the middles between neighbours one f32 step off.
        let mut probes = Vec::new();
        for pair in wide.windows(2) {
            let middle = f32::midpoint(pair[0], pair[1]);
            for x in [pair[0], middle] {
                probes.extend([x.next_down(), x, x.next_up()]);
            }
        }
        let mut want = vec![0; probes.len() * bytes];
        narrow(Level::Scalar, &probes, &mut want);
        for level in cpu::levels() {
            let mut got = vec![0.0; n];
            widen(level, &stored, &mut got);
            assert_eq!(bits(&got), bits(&wide), "{level}");
            let mut got = vec![0; want.len()];
            narrow(level, &probes, &mut got);
            assert!(got == want, "{level}");
        }
    }
}

#[test]
fn first_non_finite_is_found_wherever_it_is() {
    for level in cpu::levels() {
        for n in [0, 1, 15, 16, 17, 255, 256, 257, 600] {
            let mut x = vec![f32::MAX; n];
            assert_eq!(first_non_finite(level, &x), None, "{level}");
            for i in (0..n).rev() {
                x[i] = if i % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
                assert_eq!(first_non_finite(level, &x), Some(i), "{level}, {n}");
            }
        }
    }
}
