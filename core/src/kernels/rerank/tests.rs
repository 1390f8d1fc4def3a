use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::{vec, vec::Vec};

/// Random bytes as records of `n` tokens: every byte is a valid code, every two bytes a valid factor.
fn blocks(rng: &mut Xoshiro256pp, n: usize, stride: usize) -> Vec<Arc<[u8]>> {
    let block = |rng: &mut Xoshiro256pp| {
        let mut bytes: Vec<u8> =
            (0..BLOCK * stride + SLACK).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        for record in bytes.chunks_exact_mut(stride).take(BLOCK) {
            // Exponents near 0, so that the reference stays within f32.
            record[stride - 1] = record[stride - 1] & 0b11 | 0b0111_1100;
        }
        Arc::from(bytes)
    };
    (0..n.div_ceil(BLOCK)).map(|_| block(rng)).collect()
}

/// The definition, code after code in integers, then `f64`.
fn reference(record: &[u8], nbits: usize, levels: &[i8; 16], query: &[i8], unit: f32) -> f64 {
    let sum: i64 = query
        .iter()
        .enumerate()
        .map(|(j, q)| {
            let bit = |b: usize| usize::from(record[b / 8] >> (b % 8) & 1);
            let code = (0..nbits).map(|i| bit(j * nbits + i) << i).sum::<usize>();
            i64::from(levels[code]) * i64::from(*q)
        })
        .sum();
    let stride = (query.len() * nbits).div_ceil(8) + 2;
    let packed = u16::from_le_bytes([record[stride - 2], record[stride - 1]]);
    let factor = 2f64.powi(i32::from(packed >> 10) - 32) * (1.0 + f64::from(packed & 1023) / 1024.0);
    f64::from(i32::try_from(sum).unwrap()) * factor * f64::from(unit)
}

#[test]
fn scores_are_the_definition_and_the_same_bits_at_every_level_and_length() {
    let mut rng = Xoshiro256pp::new(5);
    for d in [1, 3, 31, 32, 33, 64, 65, 80, 96, 128, 200, 256, 1024] {
        for nbits in [2u32, 3, 4] {
            let stride = (d * nbits as usize).div_ceil(8) + FACTOR_BYTES;
            let total = 2 * BLOCK;
            let blocks = blocks(&mut rng, total, stride);
            let records = Records { blocks: &blocks, stride, nbits };
            let mut levels = [0i8; 16];
            levels[..1 << nbits].fill_with(|| rng.next_u64().to_le_bytes()[0].cast_signed().max(-127));
            (levels[0], levels[1]) = (-127, 127);
            for (group, n) in [(1, 0), (1, 1), (2, 15), (1, 16), (3, 17), (1, 31), (8, 33)] {
                let tokens: Vec<u32> =
                    (0..n).map(|i| u32::try_from((i * 97 + total - 1) % total).unwrap()).collect();
                let padded = d.next_multiple_of(PAD);
                let mut queries = vec![0i8; group * padded];
                for query in queries.chunks_exact_mut(padded) {
                    query[..d].fill_with(|| rng.next_u64().to_le_bytes()[0].cast_signed().max(-127));
                }
                queries[..d].fill(127);
                let units: Vec<f32> =
                    (0..group).map(|h| 0.25 + f32::from(u8::try_from(h).unwrap())).collect();
                let sum = |q: &[i8]| 128 * q.iter().map(|q| i32::from(*q)).sum::<i32>();
                let excess: Vec<i32> = queries.chunks_exact(padded).map(sum).collect();
                let heads = Heads { queries: &queries, padded, units: &units, excess: &excess };
                let mut portable: Option<Vec<u32>> = None;
                for level in cpu::levels() {
                    let mut out = vec![f32::NAN; group * n];
                    scores(level, records, &levels, heads, &tokens, &mut out);
                    for (h, out) in out.chunks_exact(n.max(1)).enumerate() {
                        for (token, score) in tokens.iter().zip(out) {
                            let query = &queries[h * padded..][..d];
                            let want =
                                reference(records.get(*token), nbits as usize, &levels, query, units[h]);
                            let bound = want.abs() * 2f64.powi(-23);
                            assert!(
                                (f64::from(*score) - want).abs() <= bound,
                                "{level}, d = {d}, {nbits} bits, head {h}, token {token}: {score} for {want}"
                            );
                        }
                    }
                    let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                    assert_eq!(*portable.get_or_insert_with(|| bits.clone()), bits, "{level}, d = {d}");
                }
            }
        }
    }
}

#[test]
fn factors_keep_eleven_bits_over_their_range_and_saturate_beyond() {
    for e in -31..32 {
        for m in [1.0f32, 1.000_1, 1.333, 1.75, 1.999_9] {
            let x = m * libm::exp2f(f32::from(i8::try_from(e).unwrap()));
            let back = factor_of(pack_factor(x));
            assert!(
                (back - x).abs() <= x * 2f32.powi(-11) || pack_factor(x) == u16::MAX,
                "{x} became {back}"
            );
        }
    }
    assert_eq!(pack_factor(0.0), 0);
    assert_eq!(factor_of(0), 0.0);
    assert_eq!(pack_factor(1e-20), 0);
    assert_eq!(pack_factor(1e20), u16::MAX);
    assert_eq!(pack_factor(f32::MAX), u16::MAX);
    assert_eq!(pack_factor(f32::NAN), u16::MAX);
    assert!(factor_of(u16::MAX) > 4.2e9);
    for packed in 1..=u16::MAX {
        assert_eq!(pack_factor(factor_of(packed)), packed);
    }
}
