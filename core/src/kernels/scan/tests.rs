//! Every level against slow sums.

use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

fn bytes(rng: &mut Xoshiro256pp, n: usize, nbits: u8) -> Vec<u8> {
    let mask = if nbits == 6 { 63 } else { 255 };
    (0..n).map(|_| rng.next_u64().to_le_bytes()[0] & mask).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn noise(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

/// The code of sub-space `s` and token `i` of a block, as the layout reads.
fn code(layout: Layout, block: &[u8], s: usize, i: usize) -> usize {
    usize::from(match layout.nbits {
        4 if s % 8 < 4 => block[(s / 8 * BLOCK + i) * 4 + s % 4] & 15,
        4 => block[(s / 8 * BLOCK + i) * 4 + s % 4] >> 4,
        _ => block[s * BLOCK + i],
    })
}

fn layouts() -> impl Iterator<Item = Layout> {
    [4, 6, 8].into_iter().flat_map(|nbits| [1, 2, 3, 7, 8, 9, 16, 33].map(|m| Layout { m, nbits }))
}

/// Numbers `0..=most`, as products that [`quantize`] turns into themselves.
#[allow(clippy::cast_precision_loss, reason = "below 2^16")]
fn whole(rng: &mut Xoshiro256pp, n: usize, most: u64) -> Vec<f32> {
    (0..n).map(|_| rng.below(most + 1) as f32).collect()
}

#[test]
fn scores_are_sums_of_entries_at_every_level_offset_and_length() {
    let mut rng = Xoshiro256pp::new(1);
    for layout in layouts() {
        let ksub = 1 << layout.nbits;
        let most = if layout.nbits == 4 { 255 } else { 65535 / layout.m as u64 };
        let blocks: Vec<Vec<u8>> =
            (0..3).map(|_| bytes(&mut rng, layout.token_bytes() * BLOCK, layout.nbits)).collect();
        for group in [1, 2, 3, 5, 8] {
            let luts: Vec<Vec<f32>> = (0..group).map(|_| whole(&mut rng, layout.m * ksub, most)).collect();
            for (first, last, end) in [
                (0, 0, 0),
                (0, 0, 1),
                (5, 0, 68),
                (63, 0, 65),
                (100, 0, 631),
                (0, 0, BLOCK),
                (BLOCK - 1, 0, BLOCK),
                (1, 1, BLOCK - 3),
                (77, 2, 97),
            ] {
                let pieces = (first / BLOCK..=last).map(|b| Piece {
                    block: &blocks[b],
                    tokens: if b == 0 { first } else { 0 }..if b == last { end } else { BLOCK },
                });
                let tokens: Vec<(usize, usize)> =
                    pieces.clone().enumerate().flat_map(|(b, p)| p.tokens.map(move |i| (b, i))).collect();
                let n = tokens.len();
                let want: Vec<u16> = luts
                    .iter()
                    .flat_map(|lut| {
                        tokens.iter().map(|&(b, i)| {
                            let entry = |s| lut[s * ksub + code(layout, &blocks[b], s, i)];
                            #[allow(
                                clippy::cast_possible_truncation,
                                clippy::cast_sign_loss,
                                reason = "fits"
                            )]
                            (0..layout.m).map(entry).map(|x| x as u16).sum::<u16>()
                        })
                    })
                    .collect();
                for level in cpu::levels() {
                    let size = layout.table_bytes();
                    let mut tables = vec![Line::ZERO; group * size / 64];
                    let tables: &mut [u8] = bytemuck::cast_slice_mut(&mut tables);
                    for (lut, out) in luts.iter().zip(tables.chunks_exact_mut(size)) {
                        quantize(level, layout, lut, &vec![(0.0, 0.0); layout.m], 1.0, out);
                    }
                    let mut scores = vec![7; group * n];
                    scan(level, Tables { layout, bytes: tables }, n, pieces.clone(), &mut scores);
                    assert!(scores == want, "{layout:?} group {group} {first}..{last}+{end} {level}");
                }
            }
        }
    }
}

#[test]
fn products_are_equal_at_every_level_and_near_f64() {
    let mut rng = Xoshiro256pp::new(2);
    for (d, m) in [(1, 1), (5, 3), (64, 16), (128, 2), (130, 7)] {
        for ksub in [16, 64, 256] {
            let split = Split { d, m, ksub };
            let mut table = vec![0.0; split.table_len()];
            let centroids: Vec<Vec<f32>> = (0..m).map(|s| noise(&mut rng, ksub * split.dsub(s))).collect();
            for (s, c) in centroids.iter().enumerate() {
                split.fill_table(s, c, &mut table);
            }
            for group in [1, 3, 4, 6] {
                let q = noise(&mut rng, group * d);
                let mut first: Option<Vec<f32>> = None;
                for level in cpu::levels() {
                    let mut lut = vec![f32::NAN; group * m * ksub];
                    products(level, split, &table, &q, &mut lut);
                    for (i, &got) in lut.iter().enumerate() {
                        let (h, s, c) = (i / (m * ksub), i / ksub % m, i % ksub);
                        let q = &q[h * d + split.start(s)..][..split.dsub(s)];
                        let c = &centroids[s][c * split.dsub(s)..];
                        let terms = || q.iter().zip(c).map(|(&q, &c)| f64::from(q) * f64::from(c));
                        let bound = terms().map(f64::abs).sum::<f64>()
                            * f64::from(f32::EPSILON)
                            * (split.dsub(s) + 1) as f64;
                        assert!((f64::from(got) - terms().sum::<f64>()).abs() <= bound, "{split:?} {level}");
                    }
                    assert!(*first.get_or_insert_with(|| lut.clone()) == lut, "{split:?} {level}");
                    let mut all = vec![(0.0, 0.0); m];
                    extremes(level, ksub, &lut[..m * ksub], &mut all);
                    for (lut, &(low, high)) in lut.chunks_exact(ksub).zip(&all) {
                        let fold = |f: fn(f32, f32) -> f32| lut.iter().copied().reduce(f);
                        assert_eq!((fold(f32::min), fold(f32::max)), (Some(low), Some(high)));
                    }
                }
            }
        }
    }
}
