use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

/// Rows with every sign of maximum, ties of magnitude, zeros, and scales from vanishing to saturating.
fn source(n: usize) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(5);
    (0..n)
        .map(|i| {
            let scale = [1.0, 1e-30, 0.0, 60_000.0, 1e-40, 3e9, 1e-7, f32::MAX][i / BLOCK % 8];
            #[allow(clippy::cast_possible_truncation, reason = "any f32 will do")]
            let x = (rng.f64() * 2.0 - 1.0) as f32;
            // Every third block is rounded to multiples of 1/8: ties in code and in magnitude.
            if (i / BLOCK).is_multiple_of(3) { (x * 8.0).round() / 8.0 * scale } else { x * scale }
        })
        .collect()
}

#[test]
fn levels_agree_at_every_count_of_blocks_and_offset() {
    type Quantize = fn(Level, &[f32], &mut [u8]);
    type Dequantize = fn(Level, &[u8], &mut [f32]);
    let pairs: [(usize, Quantize, Dequantize); 2] =
        [(Q8_0, quantize_q8_0, dequantize_q8_0), (Q4_0, quantize_q4_0, dequantize_q4_0)];
    let source = source(50 * BLOCK + 3);
    for (bytes, quantize, dequantize) in pairs {
        for (blocks, offset) in [(0, 0), (1, 0), (1, 1), (2, 2), (3, 3), (50, 0), (50, 1)] {
            let x = &source[offset..offset + blocks * BLOCK];
            let (mut want, mut want_back) = (vec![0; blocks * bytes], vec![0.0; x.len()]);
            quantize(Level::Scalar, x, &mut want);
            dequantize(Level::Scalar, &want, &mut want_back);
            assert!(want_back.iter().all(|v| v.is_finite()));
            for level in cpu::levels() {
                let (mut got, mut back) = (vec![0; want.len()], vec![0.0; x.len()]);
                quantize(level, x, &mut got);
                assert_eq!(got, want, "{level}, {blocks} blocks at {offset}");
                dequantize(level, &got, &mut back);
                let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&back), bits(&want_back), "{level}, {blocks} blocks at {offset}");
            }
        }
    }
}

#[test]
fn decoded_values_lie_within_half_a_step() {
    let x = source(BLOCK);
    let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for level in cpu::levels() {
        let (mut code, mut back) = ([0; Q8_0], [0.0; BLOCK]);
        quantize_q8_0(level, &x, &mut code);
        dequantize_q8_0(level, &code, &mut back);
        // Half a step of 1/127, plus the rounding of the scale to f16 (2^-11).
        let bound = largest * (0.5 / 127.0 + 1.0 / 2048.0);
        assert!(x.iter().zip(back).all(|(a, b)| (a - b).abs() <= bound), "{level}");
    }
}
