//! Every level against `f64`, row by row.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

use super::super::tests::{Stored, exact_within};
use super::super::{Blocks, Decode};
use super::*;
use crate::num::DType;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

struct Case {
    queries: Vec<Stored>,
    keys: Stored,
    values: Stored,
    n_queries: usize,
    n_keys: usize,
    scale: f32,
}

impl Case {
    fn new(
        group: usize,
        dtype: DType,
        (n_queries, n_keys): (usize, usize),
        dim: usize,
        dim_v: usize,
    ) -> Self {
        let mut rng = Xoshiro256pp::new((n_queries * 31 + n_keys + dim) as u64);
        let mut rows = |n, d| Stored::new(&mut rng, dtype, n, d);
        Self {
            queries: (0..group).map(|_| rows(n_queries, dim)).collect(),
            keys: rows(n_keys, dim),
            values: rows(n_keys, dim_v),
            n_queries,
            n_keys,
            scale: 0.3,
        }
    }

    /// Outputs, `lse` and maxima of blocks of `block` keys for the query rows `rows`.
    fn attend(&self, level: Level, rows: Range<usize>, block: usize) -> [Vec<f32>; 3] {
        self.attend_to(level, rows, block, self.keys.rows(), self.values.rows())
    }

    fn attend_to(
        &self,
        level: Level,
        rows: Range<usize>,
        block: usize,
        keys: Rows<'_>,
        values: Rows<'_>,
    ) -> [Vec<f32>; 3] {
        let queries: Vec<Rows<'_>> = self.queries.iter().map(Stored::rows).collect();
        let prompt = Prompt { queries: &queries, keys, values, scale: self.scale };
        let n = queries.len() * rows.len();
        let (mut out, mut lse) = (vec![7.0; n * values.dim()], vec![7.0; n]);
        let mut most = vec![7.0; if block > 0 { n * self.n_keys.div_ceil(block) } else { 0 }];
        let maxima = (block > 0).then_some(Maxima { block, out: &mut most });
        let mut causal = Causal::new(queries.len(), keys.dim(), values.dim()).unwrap();
        causal.attend_at(level, &prompt, rows, &mut out, &mut lse, maxima).unwrap();
        [out, lse, most]
    }

    fn check(&self, level: Level, what: &str) {
        let [out, lse, most] = self.attend(level, 0..self.n_queries, 32);
        let dim_v = self.values.rows().dim();
        let n_blocks = self.n_keys.div_ceil(32);
        for (head, queries) in self.queries.iter().enumerate() {
            for i in 0..self.n_queries {
                let row = head * self.n_queries + i;
                let out = &out[row * dim_v..][..dim_v];
                let seen = (self.n_keys + i + 1).saturating_sub(self.n_queries) as u32;
                if seen == 0 {
                    assert!(out.iter().all(|x| *x == 0.0) && lse[row] == f32::NEG_INFINITY, "{what} {i}");
                    continue;
                }
                let tokens: Vec<u32> = (0..seen).collect();
                let q = queries.row(i);
                let steps = q.len() as f64 + 8.0;
                let want = exact_within(steps, q, self.scale, &self.keys, &self.values, &tokens);
                let error = (f64::from(lse[row]) - want.lse).abs();
                assert!(error <= want.lse_bound, "{what} {level} {i}: lse {} not {}", lse[row], want.lse);
                for ((x, y), bound) in out.iter().zip(&want.out).zip(&want.out_bound) {
                    assert!((f64::from(*x) - y).abs() <= *bound, "{what} {level} {i}: {x} not {y}");
                }
                for (b, most) in most[row * n_blocks..][..n_blocks].iter().enumerate() {
                    let block = b * 32..self.n_keys.min(seen as usize).min(b * 32 + 32);
                    let score = |t: usize| -> f64 {
                        let products = q.iter().zip(self.keys.row(t));
                        products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
                            * f64::from(self.scale)
                    };
                    let want_most = block.map(score).fold(f64::NEG_INFINITY, f64::max) - want.lse;
                    let error = (f64::from(*most) - want_most).abs();
                    assert!(
                        f64::from(*most) == want_most || error <= 2.0 * want.lse_bound,
                        "{what} {level} row {i} block {b}: {most} not {want_most}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_row_sees_its_keys_at_every_level() {
    let shapes = [(1, 1), (5, 5), (64, 64), (65, 65), (70, 300), (3, 257), (130, 7)];
    for level in cpu::levels() {
        for shape in shapes {
            Case::new(1, DType::F32, shape, 64, 64).check(level, "f32");
        }
        Case::new(3, DType::F16, (200, 200), 40, 72).check(level, "f16, group of 3");
        Case::new(5, DType::Bf16, (90, 131), 33, 15).check(level, "bf16, odd dimensions");
        Case::new(2, DType::Q8_0, (66, 70), 32, 96).check(level, "q8_0");
        Case::new(1, DType::F16, (300, 300), 128, 128).check(level, "more than a stripe");
        Case::new(1, DType::F32, (20, 20), 256, 80).check(level, "wide");
    }
}

#[test]
fn rows_may_be_split_and_maxima_change_nothing() {
    let case = Case::new(2, DType::F16, (333, 400), 64, 48);
    for level in cpu::levels() {
        let [out, lse, most] = case.attend(level, 0..333, 16);
        let [same_out, same_lse, _] = case.attend(level, 0..333, 0);
        assert_eq!((&out, &lse), (&same_out, &same_lse));
        // Which rows share a tile does not matter.
        for rows in [0..1, 1..100, 100..333, 332..333, 50..50] {
            let [part_out, part_lse, part_most] = case.attend(level, rows.clone(), 16);
            for head in 0..2 {
                let all = head * 333 + rows.start..head * 333 + rows.end;
                let part = head * rows.len()..(head + 1) * rows.len();
                let scaled = |r: &Range<usize>, n: usize| r.start * n..r.end * n;
                assert_eq!(part_lse[part.clone()], lse[all.clone()]);
                assert_eq!(part_out[scaled(&part, 48)], out[scaled(&all, 48)]);
                assert_eq!(part_most[scaled(&part, 25)], most[scaled(&all, 25)]);
            }
        }
        // Wider blocks have the maxima of the narrower ones they hold.
        let [_, _, wide] = case.attend(level, 0..333, 128);
        for (wide, narrow) in wide.chunks(4).zip(most.chunks(25)) {
            for (wide, narrow) in wide.iter().zip(narrow.chunks(8)) {
                assert_eq!(*wide, narrow.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            }
        }
    }
}

#[test]
fn paged_rows_give_the_same_bits() {
    let case = Case::new(1, DType::F16, (40, 100), 64, 64);
    // Blocks of 16 tokens, keys and values one after the other, in another order.
    let table = [4, 0, 6, 2, 1, 5, 3];
    let row = 128;
    let mut slab = vec![0; 7 * 2 * 16 * row];
    for t in 0..100 {
        let place = (table[t / 16] * 2 * 16 + t % 16) * row;
        slab[place..][..row].copy_from_slice(&case.keys.bytes[t * row..][..row]);
        slab[place + 16 * row..][..row].copy_from_slice(&case.values.bytes[t * row..][..row]);
    }
    let table = table.map(|b| b as u32);
    let rows = |first_row| {
        let blocks = Blocks { block_size: 16, block_stride: 2 * 16 * row, first_row, row_stride: row };
        Rows::table(&slab, &table, blocks, DType::F16, 64, 100).unwrap()
    };
    for level in cpu::levels() {
        let paged = case.attend_to(level, 0..40, 32, rows(0), rows(16 * row));
        assert_eq!(paged, case.attend(level, 0..40, 32));
    }
}

#[test]
fn the_last_row_agrees_with_decoding() {
    let case = Case::new(1, DType::F32, (1, 500), 64, 64);
    let [out, lse, _] = case.attend(cpu::level(), 0..1, 0);
    let mut decode = Decode::new(1, 64).unwrap();
    let (keys, values) = (case.keys.rows(), case.values.rows());
    decode.add(case.queries[0].row(0), case.scale, &keys, &values, Tokens::Range(0..500)).unwrap();
    let (mut want, mut want_lse) = (vec![0.0; 64], vec![0.0]);
    decode.finish(&mut want, &mut want_lse).unwrap();
    assert!((lse[0] - want_lse[0]).abs() < 1e-5);
    assert!(out.iter().zip(&want).all(|(x, y)| (x - y).abs() < 1e-5));
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for level in cpu::levels() {
        let mut case = Case::new(1, DType::F32, (200, 200), 16, 16);
        let mut numbers: Vec<f32> = (0..200 * 16).map(|i| (i % 13) as f32 * 0.1).collect();
        numbers[150 * 16] = f32::NAN;
        case.queries[0] = Stored::of(&numbers, DType::F32, 16);
        let [out, lse, _] = case.attend(level, 0..200, 0);
        for i in 0..200 {
            let nan = i == 150;
            assert_eq!(lse[i].is_nan(), nan, "{level} {i}");
            assert!(out[i * 16..][..16].iter().all(|x| x.is_nan() == nan), "{level} {i}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new(2, DType::F32, (10, 12), 16, 8);
    let queries: Vec<Rows<'_>> = case.queries.iter().map(Stored::rows).collect();
    let prompt = Prompt { queries: &queries, keys: case.keys.rows(), values: case.values.rows(), scale: 1.0 };
    let attend =
        |group, dim, prompt: &Prompt<'_>, rows, out: usize, lse: usize, block: usize, most: usize| {
            let mut most = vec![0.0; most];
            let maxima = (block > 0).then_some(Maxima { block, out: &mut most });
            let (mut out, mut lse) = (vec![0.0; out], vec![0.0; lse]);
            Causal::new(group, dim, 8).unwrap().attend(prompt, rows, &mut out, &mut lse, maxima)
        };
    assert!(attend(2, 16, &prompt, 0..10, 160, 20, 16, 20).is_ok());
    assert!(matches!(Causal::new(0, 16, 8), Err(AttentionError::NoHeads)));
    assert_eq!(
        attend(3, 16, &prompt, 0..10, 240, 30, 0, 0),
        Err(AttentionError::Length { expected: 3, got: 2 })
    );
    assert_eq!(
        attend(2, 17, &prompt, 0..10, 160, 20, 0, 0),
        Err(AttentionError::Dim { expected: 17, got: 16 })
    );
    assert_eq!(
        attend(2, 16, &prompt, 0..11, 176, 22, 0, 0),
        Err(AttentionError::Token { token: 10, n_tokens: 10 })
    );
    assert_eq!(
        attend(2, 16, &prompt, 0..10, 159, 20, 0, 0),
        Err(AttentionError::Length { expected: 160, got: 159 })
    );
    assert_eq!(
        attend(2, 16, &prompt, 0..10, 160, 21, 0, 0),
        Err(AttentionError::Length { expected: 20, got: 21 })
    );
    assert_eq!(
        attend(2, 16, &prompt, 0..10, 160, 20, 24, 20),
        Err(AttentionError::Length { expected: 32, got: 24 })
    );
    assert_eq!(
        attend(2, 16, &prompt, 0..10, 160, 20, 16, 19),
        Err(AttentionError::Length { expected: 20, got: 19 })
    );
    let fewer = Prompt { values: case.keys.rows(), ..prompt };
    assert_eq!(
        attend(2, 16, &fewer, 0..10, 160, 20, 0, 0),
        Err(AttentionError::Dim { expected: 8, got: 16 })
    );
}
