//! Masks, estimates and sparse attention against dense attention and `f64`.
#![allow(clippy::cast_possible_truncation, reason = "test data")]

use super::attend::attend_at;
use super::*;
use crate::attention::tests::{Stored, exact_within};
use crate::attention::{AttentionError, Causal, Prompt, Rows};
use crate::cpu::{self, Level};
use crate::num::DType;
use crate::num::rng::Xoshiro256pp;
use std::vec;
use std::vec::Vec;

struct Case {
    queries: Vec<Stored>,
    keys: Stored,
    values: Stored,
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
        let mut rng = Xoshiro256pp::new((n_queries + n_keys * 3 + dim) as u64);
        let mut rows = |n, d| Stored::new(&mut rng, dtype, n, d);
        Self {
            queries: (0..group).map(|_| rows(n_queries, dim)).collect(),
            keys: rows(n_keys, dim),
            values: rows(n_keys, dim_v),
            scale: 0.25,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&Prompt<'_>, &mut Causal) -> T) -> T {
        let queries: Vec<Rows<'_>> = self.queries.iter().map(Stored::rows).collect();
        let prompt = Prompt {
            queries: &queries,
            keys: self.keys.rows(),
            values: self.values.rows(),
            scale: self.scale,
        };
        let mut causal = Causal::new(queries.len(), prompt.keys.dim(), prompt.values.dim()).unwrap();
        f(&prompt, &mut causal)
    }

    fn sparse(
        &self,
        level: Level,
        masks: &[BlockMask],
        means: Option<&BlockMeans>,
        tiles: core::ops::Range<usize>,
    ) -> (Vec<f32>, Vec<f32>) {
        self.with(|prompt, causal| {
            let n_queries = prompt.queries[0].n_tokens();
            let rows = prompt.queries.len() * (n_queries.min(tiles.end * TILE) - tiles.start * TILE);
            let (mut out, mut lse) = (vec![7.0; rows * prompt.values.dim()], vec![7.0; rows]);
            attend_at(level, causal, prompt, masks, means, tiles, &mut out, &mut lse).unwrap();
            (out, lse)
        })
    }

    fn dense(&self, level: Level) -> (Vec<f32>, Vec<f32>) {
        self.with(|prompt, causal| {
            let n = prompt.queries[0].n_tokens();
            let rows = prompt.queries.len() * n;
            let (mut out, mut lse) = (vec![7.0; rows * prompt.values.dim()], vec![7.0; rows]);
            causal.attend_at(level, prompt, 0..n, &mut out, &mut lse, None).unwrap();
            (out, lse)
        })
    }
}

/// About a third of the blocks, and those of the diagonal.
fn some_blocks(seed: u64, n_queries: usize, n_keys: usize) -> BlockMask {
    let mut rng = Xoshiro256pp::new(seed);
    let mut mask = BlockMask::new(n_queries, n_keys);
    for tile in 0..mask.n_tiles() {
        let seen = mask.seen_blocks(tile);
        for block in 0..seen {
            if rng.below(3) == 0 || block + 3 > seen {
                mask.keep(tile, block);
            }
        }
    }
    mask
}

#[test]
fn all_blocks_give_the_bits_of_dense_attention() {
    for (shape, dtype) in [((1, 1), DType::F32), ((200, 200), DType::F16), ((70, 300), DType::Bf16)] {
        let case = Case::new(2, dtype, shape, 40, 24);
        let mask = BlockMask::dense(shape.0, shape.1);
        assert_eq!(mask.density(), 1.0);
        for level in cpu::levels() {
            let dense = case.dense(level);
            assert_eq!(
                case.sparse(level, core::slice::from_ref(&mask), None, 0..mask.n_tiles()),
                dense,
                "{level}"
            );
            let means = BlockMeans::new(&case.keys.rows(), &case.values.rows());
            assert_eq!(
                case.sparse(level, core::slice::from_ref(&mask), Some(&means), 0..mask.n_tiles()),
                dense,
                "{level}"
            );
        }
    }
}

#[test]
fn kept_blocks_are_attended_to_exactly() {
    let shape = (150, 310);
    let case = Case::new(2, DType::F32, shape, 32, 32);
    let masks = [some_blocks(1, shape.0, shape.1), some_blocks(2, shape.0, shape.1)];
    for level in cpu::levels() {
        let (out, lse) = case.sparse(level, &masks, None, 0..3);
        for (head, mask) in masks.iter().enumerate() {
            for row in 0..shape.0 {
                let seen = shape.1 - shape.0 + row + 1;
                let tokens: Vec<u32> = mask
                    .kept(row / TILE)
                    .flat_map(|b| b * BLOCK..seen.min((b + 1) * BLOCK))
                    .map(|t| t as u32)
                    .collect();
                let q = case.queries[head].row(row);
                let want = exact_within(40.0, q, case.scale, &case.keys, &case.values, &tokens);
                let at = head * shape.0 + row;
                assert!((f64::from(lse[at]) - want.lse).abs() <= want.lse_bound, "{level} {row}");
                for ((x, y), bound) in out[at * 32..].iter().zip(&want.out).zip(&want.out_bound) {
                    assert!((f64::from(*x) - y).abs() <= *bound, "{level} {row}: {x}, not {y}");
                }
            }
        }
        // Tiles by themselves give the same.
        let (part, part_lse) = case.sparse(level, &masks, None, 1..2);
        assert_eq!(part_lse[..64], lse[64..128]);
        assert_eq!(part[64 * 32..], out[(shape.0 + 64) * 32..(shape.0 + 128) * 32]);
    }
}

#[test]
fn skipped_blocks_count_as_their_means() {
    let n = 256;
    let case = Case::new(1, DType::F32, (n, n), 16, 16);
    let mask = some_blocks(3, n, n);
    let means = BlockMeans::new(&case.keys.rows(), &case.values.rows());
    assert_eq!(means.len(), 8);
    let mean = |rows: &Stored, b: usize, c: usize| -> f64 {
        (b * BLOCK..(b + 1) * BLOCK).map(|t| f64::from(rows.row(t)[c])).sum::<f64>() / 32.0
    };
    for level in cpu::levels() {
        let (out, lse) = case.sparse(level, core::slice::from_ref(&mask), Some(&means), 0..4);
        for row in 0..n {
            let q = case.queries[0].row(row);
            let mut terms: Vec<(f64, Vec<f64>)> = Vec::new();
            for b in 0..(row + 1).div_ceil(BLOCK) {
                if mask.is_kept(row / TILE, b) {
                    for t in b * BLOCK..(row + 1).min((b + 1) * BLOCK) {
                        let s: f64 = q.iter().zip(case.keys.row(t)).map(|(q, k)| f64::from(q * k)).sum();
                        let value = case.values.row(t).iter().map(|x| f64::from(*x)).collect();
                        terms.push(((s * f64::from(case.scale)).exp(), value));
                    }
                } else {
                    let s: f64 = (0..16).map(|c| f64::from(q[c]) * mean(&case.keys, b, c)).sum();
                    let value = (0..16).map(|c| mean(&case.values, b, c)).collect();
                    terms.push((32.0 * (s * f64::from(case.scale)).exp(), value));
                }
            }
            let sum: f64 = terms.iter().map(|t| t.0).sum();
            assert!((f64::from(lse[row]) - sum.ln()).abs() < 1e-5, "{level} {row}");
            for c in 0..16 {
                let want = terms.iter().map(|(w, v)| w * v[c]).sum::<f64>() / sum;
                assert!((f64::from(out[row * 16 + c]) - want).abs() < 1e-5, "{level} {row} {c}");
            }
        }
    }
}

/// Keys of which some blocks point where the queries do.
fn pointed(n: usize, d: usize) -> Case {
    let mut case = Case::new(1, DType::F32, (n, n), d, d);
    let mut keys: Vec<f32> = (0..n).flat_map(|t| case.keys.row(t).to_vec()).collect();
    let mut queries: Vec<f32> = (0..n).flat_map(|t| case.queries[0].row(t).to_vec()).collect();
    for t in 0..n {
        queries[t * d] += 6.0;
        // One key in blocks 3, 10, 17, ... stands out, in each as much.
        if t % (7 * BLOCK) == 3 * BLOCK + 5 {
            keys[t * d..][..d].fill(0.0);
            keys[t * d] = 24.0;
        }
    }
    case.keys = Stored::of(&keys, DType::F32, d);
    case.queries[0] = Stored::of(&queries, DType::F32, d);
    case.scale = 1.0 / (d as f32).sqrt();
    case
}

fn select(case: &Case, level: Level, how: Estimate) -> (BlockMask, Vec<f32>) {
    let (queries, keys) = (case.queries[0].rows(), case.keys.rows());
    let codes = KeyCodes::new_at(level, &keys);
    let mut mask = BlockMask::new(queries.n_tokens(), keys.n_tokens());
    let mut scratch = EstimateScratch::new();
    for tile in 0..mask.n_tiles() {
        how.select_at(level, &queries, &codes, case.scale, tile, &mut mask, &mut scratch).unwrap();
    }
    (mask, scratch.scores().to_vec())
}

#[test]
fn estimates_find_the_blocks_that_stand_out() {
    let n = 1000;
    let case = pointed(n, 36);
    let how = Estimate { threshold: 0.05, near: 64, ..Estimate::default() };
    let (mask, _) = select(&case, cpu::level(), how);
    for tile in 0..mask.n_tiles() {
        let near = (tile * TILE).saturating_sub(64) / BLOCK;
        for block in 0..mask.seen_blocks(tile) {
            let kept = block == 0 || block >= near || block % 7 == 3;
            assert_eq!(mask.is_kept(tile, block), kept, "tile {tile} block {block}");
        }
    }
    // What is kept is nearly all of the weight.
    let means = BlockMeans::new(&case.keys.rows(), &case.values.rows());
    let (dense, _) = case.dense(cpu::level());
    let (sparse, _) =
        case.sparse(cpu::level(), core::slice::from_ref(&mask), Some(&means), 0..mask.n_tiles());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = dense.iter().zip(&sparse).map(|(x, y)| square(x - y)).sum();
    let all: f64 = dense.iter().map(|x| square(*x)).sum();
    assert!((off / all).sqrt() < 0.25 && mask.density() < 0.6, "{} {}", (off / all).sqrt(), mask.density());
}

#[test]
fn selection_is_the_same_at_every_level_and_grows_with_a_lower_threshold() {
    for (n_queries, n_keys) in [(1, 1), (130, 130), (70, 401)] {
        let case = Case::new(1, DType::F16, (n_queries, n_keys), 64, 64);
        for stride in [1, 4, 64] {
            let how = |threshold| Estimate { threshold, stride, sinks: 1, near: 32 };
            let (all, _) = select(&case, cpu::level(), how(0.0));
            assert_eq!(all, BlockMask::dense(n_queries, n_keys));
            let (some, scores) = select(&case, cpu::level(), how(0.08));
            let (few, _) = select(&case, cpu::level(), how(0.12));
            assert!(scores.iter().all(|s| (0.0..=1.0001).contains(s)));
            for tile in 0..few.n_tiles() {
                assert!(few.kept(tile).all(|block| some.is_kept(tile, block)));
                let diagonal = few.seen_blocks(tile) - 1;
                assert!(few.is_kept(tile, 0) && few.is_kept(tile, diagonal), "sinks and the diagonal");
            }
            for level in cpu::levels() {
                assert_eq!(select(&case, level, how(0.08)), (some.clone(), scores.clone()), "{level}");
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_true_maxima_but_for_eight_bits() {
    let n = 320;
    let case = pointed(n, 64);
    let how = Estimate { stride: 4, ..Estimate::default() };
    let (_, scores) = select(&case, cpu::level(), how);
    // The last tile, from plain products.
    let tile = n / TILE - 1;
    let rows: Vec<usize> = (0..16).map(|i| tile * TILE + 4 * i + 2).collect();
    let mut want = vec![0.0; n / BLOCK];
    for &row in &rows {
        let greatest: Vec<f64> = (0..n / BLOCK)
            .map(|b| {
                (b * BLOCK..(row + 1).min((b + 1) * BLOCK))
                    .map(|t| {
                        let (q, k) = (case.queries[0].row(row), case.keys.row(t));
                        q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>() * f64::from(case.scale)
                    })
                    .fold(f64::NEG_INFINITY, f64::max)
            })
            .collect();
        let sum: f64 = greatest.iter().map(|m| m.exp()).sum();
        for (want, m) in want.iter_mut().zip(&greatest) {
            *want += m.exp() / sum / rows.len() as f64;
        }
    }
    for (got, want) in scores.iter().zip(&want) {
        assert!((f64::from(*got) - want).abs() < 0.05 * want + 1e-4, "{got}, not {want}");
    }
}

#[test]
fn masks_turn_into_lists_and_into_what_is_added() {
    let (n_queries, n_keys) = (100, 140);
    let mask = some_blocks(9, n_queries, n_keys);
    assert_eq!((mask.n_tiles(), mask.n_blocks(), mask.seen_blocks(0), mask.seen_blocks(1)), (2, 5, 4, 5));
    let (mut starts, mut blocks) = ([9; 3], [9; 10]);
    let n = mask.to_csr(&mut starts, &mut blocks);
    assert_eq!((starts[0], starts[2] as usize), (0, n));
    for tile in 0..2 {
        let list = &blocks[starts[tile] as usize..starts[tile + 1] as usize];
        let kept: Vec<u32> = mask.kept(tile).map(|b| b as u32).collect();
        assert_eq!(list, kept);
        let skipped: Vec<usize> = mask.skipped(tile).collect();
        assert_eq!(skipped.len() + kept.len(), mask.seen_blocks(tile));
    }
    assert_eq!(mask.to_csr(&mut [0; 3], &mut []), n, "asks for room");
    let stride = 160;
    let mut added = vec![1; n_queries * stride];
    mask.write_additive(&mut added, stride);
    for row in 0..n_queries {
        for key in 0..stride {
            let open =
                key < n_keys && key <= n_keys - n_queries + row && mask.is_kept(row / TILE, key / BLOCK);
            let want = if open { 0 } else { 0xfc00 };
            assert_eq!(added[row * stride + key], want, "{row} {key}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new(2, DType::F32, (10, 12), 16, 8);
    let queries: Vec<Rows<'_>> = case.queries.iter().map(Stored::rows).collect();
    let prompt = Prompt { queries: &queries, keys: case.keys.rows(), values: case.values.rows(), scale: 1.0 };
    let mut causal = Causal::new(2, 16, 8).unwrap();
    let (mut out, mut lse) = (vec![0.0; 160], vec![0.0; 20]);
    let masks = [BlockMask::dense(10, 12), BlockMask::dense(10, 13)];
    let mut run = |masks: &[BlockMask], tiles, out: &mut [f32]| {
        attend(&mut causal, &prompt, masks, None, tiles, out, &mut lse)
    };
    assert!(run(&masks[..1], 0..1, &mut out).is_ok());
    assert_eq!(run(&masks, 0..1, &mut out), Err(AttentionError::Length { expected: 12, got: 13 }));
    assert_eq!(run(&masks[..1], 0..2, &mut out), Err(AttentionError::Token { token: 128, n_tokens: 10 }));
    let short = Err(AttentionError::Length { expected: 160, got: 159 });
    assert_eq!(run(&masks[..1], 0..1, &mut out[..159]), short);
    let codes = KeyCodes::new(&prompt.keys);
    assert_eq!((codes.dim(), codes.n_tokens()), (16, 12));
    let mut mask = BlockMask::new(10, 12);
    let mut select = |how: Estimate, tile| {
        how.select(&queries[0], &codes, 1.0, tile, &mut mask, &mut EstimateScratch::new())
    };
    assert!(select(Estimate::default(), 0).is_ok());
    let odd = Estimate { stride: 3, ..Estimate::default() };
    assert_eq!(select(odd, 0), Err(AttentionError::Length { expected: 4, got: 3 }));
    assert_eq!(select(Estimate::default(), 1), Err(AttentionError::Token { token: 64, n_tokens: 10 }));
}
