//! Every level against `f64`, at the bound that the module states.

use super::decode::scores_at;
use super::*;
use crate::cpu::{self, Level};
use crate::num::convert::{from_f32, to_f32};
use crate::num::rng::Xoshiro256pp;
use crate::view::{KvShape, KvStrides, KvView};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const TYPES: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::Q8_0];

/// Half a unit in the last place of 1.
const U: f64 = 1.0 / (1 << 24) as f64;

#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn noise(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

/// Rows as they are stored, and what they stand for.
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) dtype: DType,
    d: usize,
    numbers: Vec<f32>,
}

impl Stored {
    pub(crate) fn new(rng: &mut Xoshiro256pp, dtype: DType, n: usize, d: usize) -> Self {
        Self::of(&noise(rng, n * d), dtype, d)
    }

    pub(crate) fn of(x: &[f32], dtype: DType, d: usize) -> Self {
        let mut bytes = vec![0; dtype.bytes_for(x.len()).unwrap()];
        from_f32(dtype, x, &mut bytes).unwrap();
        let mut numbers = vec![0.0; x.len()];
        to_f32(dtype, &bytes, &mut numbers).unwrap();
        Self { bytes, dtype, d, numbers }
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::contiguous(&self.bytes, self.dtype, self.d).unwrap()
    }

    pub(crate) fn row(&self, t: usize) -> &[f32] {
        &self.numbers[t * self.d..][..self.d]
    }
}

fn dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    (products.clone().sum(), products.map(f64::abs).sum())
}

/// Outputs and `lse` of one head, and how far each may be off.
pub(crate) struct Exact {
    pub(crate) out: Vec<f64>,
    pub(crate) out_bound: Vec<f64>,
    pub(crate) lse: f64,
    pub(crate) lse_bound: f64,
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn exact(q: &[f32], scale: f32, k: &Stored, v: &Stored, tokens: &[u32]) -> Exact {
    exact_within(q.len() as f64 / 8.0 + 16.0, q, scale, k, v, tokens)
}

/// A score may be off by `score_steps * U` of its size.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn exact_within(
    score_steps: f64,
    q: &[f32],
    scale: f32,
    k: &Stored,
    v: &Stored,
    tokens: &[u32],
) -> Exact {
    let scale = f64::from(scale);
    let scored: Vec<(f64, f64)> = tokens.iter().map(|&t| dot(q, k.row(t as usize))).collect();
    let max = scored.iter().fold(f64::NEG_INFINITY, |m, s| m.max(scale * s.0));
    let s = scored.iter().fold(0.0_f64, |m, s| m.max(scale.abs() * s.1));
    let weights: Vec<f64> = scored.iter().map(|s| (scale * s.0 - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let (mut out, mut sizes) = (vec![0.0; v.d], vec![0.0; v.d]);
    for (&t, w) in tokens.iter().zip(&weights) {
        for ((out, size), x) in out.iter_mut().zip(&mut sizes).zip(v.row(t as usize)) {
            *out += w / sum * f64::from(*x);
            *size += w / sum * f64::from(x.abs());
        }
    }
    let lse = max + sum.ln();
    let e = score_steps * U * s;
    let steps = (128.0 + tokens.len() as f64 / 128.0 + 40.0) * U;
    let bound = 2.0 * e + 2.0 * steps;
    Exact {
        out,
        out_bound: sizes.iter().map(|size| bound * size + 1e-36).collect(),
        lse,
        lse_bound: e + steps * (1.0 + lse.abs()),
    }
}

struct Case<'a> {
    q: &'a [f32],
    group: usize,
    scale: f32,
    k: &'a Stored,
    v: &'a Stored,
}

impl Case<'_> {
    fn decode(
        &self,
        level: Level,
        keys: &Rows<'_>,
        values: &Rows<'_>,
        parts: &[Tokens<'_>],
    ) -> (Vec<f32>, Vec<f32>) {
        let mut decode = Decode::new(self.group, self.v.d).unwrap();
        for tokens in parts {
            decode.add_at(level, self.q, self.scale, keys, values, tokens).unwrap();
        }
        finish(&decode)
    }

    fn check(&self, what: &str, tokens: &[u32], out: &[f32], lse: &[f32]) {
        for g in 0..self.group {
            let want = exact(&self.q[g * self.k.d..][..self.k.d], self.scale, self.k, self.v, tokens);
            let error = (f64::from(lse[g]) - want.lse).abs();
            assert!(error <= want.lse_bound, "{what}: lse of head {g} is {}, not {}", lse[g], want.lse);
            for j in 0..self.v.d {
                let got = out[g * self.v.d + j];
                let error = (f64::from(got) - want.out[j]).abs();
                assert!(
                    error <= want.out_bound[j],
                    "{what}: head {g} column {j} is {got}, not {}; bound {:e}, error {error:e}",
                    want.out[j],
                    want.out_bound[j]
                );
            }
        }
    }
}

fn finish(decode: &Decode) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut lse) = (vec![0.0; decode.group() * decode.dim_v()], vec![0.0; decode.group()]);
    decode.finish(&mut out, &mut lse).unwrap();
    (out, lse)
}

fn all(n: usize) -> Vec<u32> {
    (0..u32::try_from(n).unwrap()).collect()
}

#[test]
fn every_level_is_within_the_bound_at_odd_sizes() {
    let mut rng = Xoshiro256pp::new(1);
    let dims = [
        (1, 1),
        (3, 17),
        (7, 8),
        (8, 15),
        (16, 16),
        (33, 31),
        (40, 96),
        (64, 64),
        (80, 72),
        (128, 128),
        (256, 250),
    ];
    for (i, (dk, dv)) in dims.into_iter().enumerate() {
        for group in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17] {
            let n = [1, 2, 15, 16, 17, 127, 128, 129, 258, 333][(i * 3 + group) % 10];
            let (kt, vt) = (TYPES[(i + group) % 3], TYPES[(i + group / 3) % 3]);
            let (k, v) = (Stored::new(&mut rng, kt, n, dk), Stored::new(&mut rng, vt, n, dv));
            let q = noise(&mut rng, group * dk);
            let case = Case { q: &q, group, scale: 0.3, k: &k, v: &v };
            for level in cpu::levels() {
                let (out, lse) = case.decode(level, &k.rows(), &v.rows(), &[Tokens::Range(0..n)]);
                case.check(
                    &std::format!("{level} {dk}x{dv} {group} heads {n} {kt} {vt}"),
                    &all(n),
                    &out,
                    &lse,
                );
            }
        }
    }
}

#[test]
fn every_type_and_dimension_from_32_to_256_is_within_the_bound() {
    let mut rng = Xoshiro256pp::new(2);
    for d in (32..=256).step_by(8) {
        for (i, kt) in TYPES.into_iter().enumerate() {
            let vt = TYPES[(i + d / 8) % 4];
            if d % 32 != 0 && (kt == DType::Q8_0 || vt == DType::Q8_0) {
                continue;
            }
            let (n, group) = (70, 1 + d / 8 % 8);
            let (k, v) = (Stored::new(&mut rng, kt, n, d), Stored::new(&mut rng, vt, n, d));
            let q = noise(&mut rng, group * d);
            let case = Case { q: &q, group, scale: 0.1, k: &k, v: &v };
            for level in cpu::levels() {
                let (out, lse) = case.decode(level, &k.rows(), &v.rows(), &[Tokens::Range(0..n)]);
                case.check(&std::format!("{level} {d} {group} heads {kt} {vt}"), &all(n), &out, &lse);
            }
        }
    }
}

#[test]
fn long_contexts_stay_within_the_bound() {
    let mut rng = Xoshiro256pp::new(3);
    let (n, d) = (20_000, 64);
    let (k, v) = (Stored::new(&mut rng, DType::F16, n, d), Stored::new(&mut rng, DType::Bf16, n, d));
    let q = noise(&mut rng, 2 * d);
    let case = Case { q: &q, group: 2, scale: 0.125, k: &k, v: &v };
    for level in cpu::levels() {
        let (out, lse) = case.decode(level, &k.rows(), &v.rows(), &[Tokens::Range(0..n)]);
        case.check(&std::format!("{level}"), &all(n), &out, &lse);
    }
}

#[test]
fn every_layout_gives_the_same_bits() {
    let mut rng = Xoshiro256pp::new(4);
    let (n, d, group, heads) = (150, 64, 3, 2);
    for dtype in TYPES {
        let whole = Stored::new(&mut rng, dtype, n * heads, d); // [token][head]
        let row = dtype.bytes_for(d).unwrap();
        let shape = KvShape { dtype, n_tokens: n, n_kv_heads: heads, head_dim: d };
        let view = KvView::new(&whole.bytes, shape, KvStrides::token_major(&shape)).unwrap();
        let strided = Rows::of_view(&view, 1).unwrap();

        let mut side_by_side = vec![0; n * row];
        view.copy_rows(1, 0..n, &mut side_by_side);
        let contiguous = Rows::contiguous(&side_by_side, dtype, d).unwrap();

        let pages: Vec<&[u8]> = side_by_side.chunks(16 * row).collect();
        let paged = Rows::paged(&pages, 16, dtype, d, n, row).unwrap();

        // A slab of blocks of both heads, in a scrambled order.
        let blocks = Blocks { block_size: 16, block_stride: 40 * row, first_row: 3, row_stride: 2 * row };
        let table: Vec<u32> = (0..10).map(|b| b * 7 % 10).collect();
        let mut slab = vec![0xA5; 10 * blocks.block_stride];
        for t in 0..n {
            let at = table[t / 16] as usize * blocks.block_stride + 3 + t % 16 * 2 * row;
            slab[at..at + row].copy_from_slice(&side_by_side[t * row..][..row]);
        }
        let tabled = Rows::table(&slab, &table, blocks, dtype, d, n).unwrap();

        let q = noise(&mut rng, group * d);
        let list: Vec<u32> =
            (0..n).step_by(2).chain([149, 3, 3]).map(|t| u32::try_from(t).unwrap()).collect();
        for level in cpu::levels() {
            for tokens in [Tokens::Range(0..n), Tokens::Range(5..141), Tokens::List(&list)] {
                let run = |rows: &Rows<'_>| {
                    let mut decode = Decode::new(group, d).unwrap();
                    decode.add_at(level, &q, 0.2, rows, rows, &tokens).unwrap();
                    let mut all = vec![0.0; group * tokens.len()];
                    scores_at(level, &q, rows, &tokens, &mut all).unwrap();
                    (finish(&decode), all)
                };
                let want = run(&contiguous);
                for rows in [&strided, &paged, &tabled] {
                    assert_eq!(run(rows), want, "{level} {dtype} {tokens:?} {rows:?}");
                }
            }
        }
    }
}

#[test]
fn scores_are_within_the_bound() {
    let mut rng = Xoshiro256pp::new(5);
    for (d, group, n) in [(1, 1, 1), (31, 3, 70), (64, 8, 65), (96, 9, 16), (128, 16, 129), (130, 5, 15)] {
        let k = Stored::new(&mut rng, DType::F16, n, d);
        let q = noise(&mut rng, group * d);
        for level in cpu::levels() {
            let mut out = vec![0.0; group * n];
            scores_at(level, &q, &k.rows(), &Tokens::Range(0..n), &mut out).unwrap();
            for (i, got) in out.iter().enumerate() {
                let (want, size) = dot(&q[i / n * d..][..d], k.row(i % n));
                let bound = (f64::from(u32::try_from(d).unwrap()) / 8.0 + 16.0) * U * size;
                assert!(
                    (f64::from(*got) - want).abs() <= bound,
                    "{level} {d} {group} {n} {i}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn scores_of_no_queries_or_tokens_are_none() {
    let k = Stored::of(&[1.0; 64], DType::F32, 64);
    assert_eq!(scores(&[], &k.rows(), Tokens::Range(0..1), &mut []), Ok(()));
    assert_eq!(scores(&[1.0; 64], &k.rows(), Tokens::List(&[]), &mut []), Ok(()));
}

#[test]
fn nothing_seen_is_zeros_and_minus_infinity() {
    let mut decode = Decode::new(2, 3).unwrap();
    let nothing = (vec![0.0; 6], vec![f32::NEG_INFINITY; 2]);
    assert_eq!(finish(&decode), nothing);
    decode.merge(&Decode::new(2, 3).unwrap()).unwrap();
    decode.merge_partial(&[f32::NAN; 6], &[f32::NEG_INFINITY; 2]).unwrap();
    assert_eq!(finish(&decode), nothing);
}

#[test]
fn empty_parts_change_no_bit() {
    let mut rng = Xoshiro256pp::new(6);
    let (k, v) = (Stored::new(&mut rng, DType::F16, 100, 64), Stored::new(&mut rng, DType::F16, 100, 64));
    let q = noise(&mut rng, 2 * 64);
    let mut decode = Decode::new(2, 64).unwrap();
    decode.add(&q, 0.1, &k.rows(), &v.rows(), Tokens::Range(0..100)).unwrap();
    let want = finish(&decode);
    decode.add(&q, 0.1, &k.rows(), &v.rows(), Tokens::List(&[])).unwrap();
    decode.merge(&Decode::new(2, 64).unwrap()).unwrap();
    decode.merge_partial(&[7.0; 128], &[f32::NEG_INFINITY; 2]).unwrap();
    assert_eq!(finish(&decode), want);
    let mut empty = Decode::new(2, 64).unwrap();
    empty.merge(&decode).unwrap();
    assert_eq!(finish(&empty), want);
    decode.reset();
    assert_eq!(finish(&decode), finish(&Decode::new(2, 64).unwrap()));
}

#[test]
fn what_is_not_finite_stays_where_the_documentation_says() {
    let (d, group, n) = (32, 2, 70);
    let plain = |x: f32| vec![x; n * d];
    for level in cpu::levels() {
        let run = |q: &[f32], k: &[f32], v: &[f32]| {
            let (k, v) = (Stored::of(k, DType::F32, d), Stored::of(v, DType::F32, d));
            Case { q, group, scale: 1.0, k: &k, v: &v }.decode(
                level,
                &k.rows(),
                &v.rows(),
                &[Tokens::Range(0..n)],
            )
        };
        let q = vec![1.0; group * d];

        // A head whose scores are all -inf has seen nothing; its neighbour has.
        let mut head = q.clone();
        head[..d].fill(-1.0);
        let (out, lse) = run(&head, &plain(f32::INFINITY), &plain(1.0));
        assert_eq!(lse[0], f32::NEG_INFINITY, "{level}");
        assert!(out[..d].iter().all(|x| *x == 0.0), "{level}");
        assert!(lse[1].is_nan() && out[d..].iter().all(|x| x.is_nan()), "{level}");

        for at in [0, 17, 69] {
            // One key of -inf scores: no weight, whatever its value.
            let (mut k, mut v) = (plain(0.5), plain(2.0));
            k[at * d] = f32::NEG_INFINITY;
            v[at * d..][..d].fill(100.0);
            let (out, lse) = run(&q, &k, &v);
            assert!(out.iter().all(|x| *x == 2.0), "{level} {at}");
            assert!(lse.iter().all(|x| (x - 16.0 - 69_f32.ln()).abs() < 1e-4), "{level} {at}");

            // A NaN in a key: its heads are NaN. A NaN query spoils its own head only.
            let mut k = plain(0.5);
            k[at * d + 5] = f32::NAN;
            let (out, lse) = run(&q, &k, &plain(2.0));
            assert!(out.iter().chain(&lse).all(|x| x.is_nan()), "{level} {at}");
            let mut spoiled = q.clone();
            spoiled[d + 3] = f32::NAN;
            let (out, lse) = run(&spoiled, &plain(0.5), &plain(2.0));
            assert!(lse[0].is_finite() && out[..d].iter().all(|x| *x == 2.0), "{level}");
            assert!(lse[1].is_nan() && out[d..].iter().all(|x| x.is_nan()), "{level}");

            // A value that is not finite spoils its column, even at no weight.
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut k, mut v) = (plain(0.5), plain(2.0));
                k[at * d..][..d].fill(-100.0);
                v[at * d + 9] = bad;
                let (out, lse) = run(&q, &k, &v);
                for (i, x) in out.iter().enumerate() {
                    assert_eq!(x.is_finite(), i % d != 9, "{level} {at} {i} {x}");
                }
                assert!(lse.iter().all(|x| x.is_finite()));
            }
        }
    }
    // A partial result of NaN, and an overflowing score.
    let mut decode = Decode::new(1, 1).unwrap();
    decode.merge_partial(&[1.0], &[f32::NAN]).unwrap();
    let (out, lse) = finish(&decode);
    assert!(out[0].is_nan() && lse[0].is_nan());
}

#[test]
fn wrong_calls_are_refused_and_add_nothing() {
    use AttentionError as E;
    let k = Stored::of(&[0.5; 10 * 32], DType::F32, 32);
    let v = Stored::of(&[0.5; 9 * 32], DType::Q8_0, 32);
    let (keys, values) = (k.rows(), v.rows());
    assert_eq!(Decode::new(0, 4).unwrap_err(), E::NoHeads);
    let mut d = Decode::new(2, 32).unwrap();
    let q = [0.0; 64];
    let add = |d: &mut Decode, q: &[f32], tokens| d.add(q, 1.0, &keys, &values, tokens);
    assert_eq!(add(&mut d, &q[1..], Tokens::Range(0..1)), Err(E::Length { expected: 64, got: 63 }));
    assert_eq!(add(&mut d, &q, Tokens::Range(0..10)), Err(E::Token { token: 9, n_tokens: 9 }));
    assert_eq!(add(&mut d, &q, Tokens::List(&[8, 9, 0])), Err(E::Token { token: 9, n_tokens: 9 }));
    #[allow(clippy::reversed_empty_ranges, reason = "what is tested")]
    let backwards = Tokens::Range(5..3);
    assert_eq!(add(&mut d, &q, backwards), Err(E::Range { start: 5, end: 3 }));
    let mut narrow = Decode::new(2, 31).unwrap();
    assert_eq!(add(&mut narrow, &q, Tokens::Range(0..1)), Err(E::Dim { expected: 31, got: 32 }));
    assert_eq!(narrow.merge(&d), Err(E::Dim { expected: 31, got: 32 }));
    assert_eq!(d.merge(&Decode::new(1, 32).unwrap()), Err(E::Length { expected: 2, got: 1 }));
    assert_eq!(d.merge_partial(&[0.0; 64], &[0.0]), Err(E::Length { expected: 2, got: 1 }));
    assert_eq!(d.finish(&mut [0.0; 63], &mut [0.0; 2]), Err(E::Length { expected: 64, got: 63 }));
    assert_eq!(scores(&q, &keys, Tokens::Range(0..2), &mut [0.0; 3]), Err(E::Length { expected: 4, got: 3 }));
    assert_eq!(
        scores(&q, &keys, Tokens::Range(0..11), &mut [0.0; 22]),
        Err(E::Token { token: 10, n_tokens: 10 })
    );
    assert!(finish(&d).1.iter().all(|x| *x == f32::NEG_INFINITY));

    let bytes = [0_u8; 1000];
    assert_eq!(Rows::contiguous(&bytes, DType::Q4_0, 32).unwrap_err(), E::Type { dtype: DType::Q4_0 });
    assert_eq!(
        Rows::contiguous(&bytes, DType::Q8_0, 40).unwrap_err(),
        E::SplitBlock { dtype: DType::Q8_0, dim: 40 }
    );
    assert_eq!(
        Rows::contiguous(&bytes, DType::F16, 64).unwrap_err(),
        E::Length { expected: 1024, got: 1000 }
    );
    assert_eq!(
        Rows::strided(&bytes, DType::F32, 4, 3, 500).unwrap_err(),
        E::OutOfBounds { needed: 1016, len: 1000 }
    );
    assert!(Rows::strided(&bytes, DType::F32, 4, 3, 492).is_ok());
    let pages: [&[u8]; 2] = [&bytes[..64], &bytes[..32]];
    assert!(Rows::paged(&pages, 4, DType::F32, 4, 6, 16).is_ok());
    assert_eq!(
        Rows::paged(&pages, 4, DType::F32, 4, 7, 16).unwrap_err(),
        E::OutOfBounds { needed: 48, len: 32 }
    );
    assert_eq!(Rows::paged(&pages, 4, DType::F32, 4, 9, 16).unwrap_err(), E::Token { token: 8, n_tokens: 8 });
    let blocks = Blocks { block_size: 4, block_stride: 64, first_row: 0, row_stride: 16 };
    assert!(Rows::table(&bytes, &[14, 0], blocks, DType::F32, 4, 8).is_ok());
    let beyond = Rows::table(&bytes, &[0, 15], blocks, DType::F32, 4, 8).unwrap_err();
    assert_eq!(beyond, E::OutOfBounds { needed: 1024, len: 1000 });
    let far = Blocks { block_stride: usize::MAX, ..blocks };
    assert!(Rows::table(&bytes, &[0, u32::MAX], far, DType::F32, 4, 8).is_err());
    let none = Blocks { block_size: 0, ..blocks };
    assert!(Rows::table(&bytes, &[0, 0], none, DType::F32, 4, 8).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the tokens are cut into parts, and in whatever tree the parts are merged, the result is dense
    /// attention's within the bound.
    #[test]
    fn any_split_merged_in_any_order_is_dense_attention(
        seed in any::<u64>(),
        n in 1usize..400,
        dims in (1usize..5, 1usize..5),
        group in 1usize..11,
        scale in 0.01f32..2.0,
        types in (0usize..4, 0usize..4),
        cuts in prop::collection::vec(0usize..400, 0..6),
        how in prop::collection::vec(any::<u8>(), 7),
    ) {
        let rng = &mut Xoshiro256pp::new(seed);
        let (k, v) = (
            Stored::new(rng, TYPES[types.0], n, 32 * dims.0),
            Stored::new(rng, TYPES[types.1], n, 32 * dims.1),
        );
        let q = noise(rng, group * k.d);
        let case = Case { q: &q, group, scale, k: &k, v: &v };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(n)).chain([0, n]).collect();
        cuts.sort_unstable();
        let tokens = all(n);
        for level in cpu::levels() {
            let mut parts: Vec<Decode> = Vec::new();
            for (range, how) in cuts.windows(2).zip(&how) {
                let (start, end) = (range[0], range[1]);
                let part = if how % 2 == 0 { Tokens::Range(start..end) } else { Tokens::List(&tokens[start..end]) };
                let mut decode = Decode::new(group, v.d).unwrap();
                decode.add_at(level, &q, scale, &k.rows(), &v.rows(), &part).unwrap();
                parts.push(decode);
            }
            for how in how.iter().cycle().map(|h| usize::from(*h)) {
                if parts.len() == 1 {
                    break;
                }
                let part = parts.swap_remove(how % parts.len());
                let into = how / 3 % parts.len();
                if how % 5 == 0 {
                    let (out, lse) = finish(&part);
                    parts[into].merge_partial(&out, &lse).unwrap();
                } else {
                    parts[into].merge(&part).unwrap();
                }
            }
            let (out, lse) = finish(&parts[0]);
            case.check(&std::format!("{level} seed {seed}"), &tokens, &out, &lse);
        }
    }
}
