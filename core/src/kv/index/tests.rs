use super::*;
use crate::kv::config::{Extent, Preset};
use crate::num::rng::Xoshiro256pp;
use crate::pq::{QueryTables, scan};
use crate::select::RerankQuery;

const D: usize = 32;
const SCALE: f32 = 0.2;

/// Keys around a few centres, `[n][D]`.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
pub(super) fn keys(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(seed);
    let mut uniform = move || (rng.f64() * 2.0 - 1.0) as f32;
    let centres: Vec<f32> = (0..8 * D).map(|_| 2.0 * uniform()).collect();
    (0..n * D).map(|i| centres[i / D * 5 % 8 * D + i % D] + uniform()).collect()
}

fn params(rerank: Option<Rerank>, rule: GroupRule) -> IndexParams {
    let config = Preset::PaperLongBench.config(D).unwrap();
    IndexParams { shape: PqShape::new(D, 4, 4).unwrap(), rule, rerank, ..IndexParams::from(&config) }
}

pub(super) const RERANK: Rerank = Rerank { bits: 3, band: 0.1, seed: 9 };
const RULES: [GroupRule; 3] = [GroupRule::SoftmaxSum, GroupRule::Max, GroupRule::LogitSum];

pub(super) fn filled(n: usize, rerank: Option<Rerank>, rule: GroupRule) -> PqIndex {
    let params = params(rerank, rule);
    let mut scratch = EncodeScratch::new(params.shape);
    let mut index = PqIndex::new(params).unwrap();
    let keys = keys(n, 3);
    index.train(&keys, &[], n, None).unwrap();
    index.extend(&keys, &mut scratch).unwrap();
    index
}

fn select(index: &PqIndex, q: &[f32], k: usize) -> Vec<u32> {
    let mut scratch = SelectScratch::new(index.params(), q.len() / D, index.len(), k);
    let mut out = vec![u32::MAX; k];
    let n = index.select(q, SCALE, &mut out, &mut scratch).unwrap();
    out.truncate(n);
    out
}

/// Best first; ties to the lower index.
fn order(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
    order
}

/// The group's value of each key from logits `[group][n]`, with normalisers of logits `first` `[group][n]`.
fn rule_of(rule: GroupRule, logits: &[Vec<f64>], first: &[Vec<f64>]) -> Vec<f64> {
    let heads = logits.iter().zip(first).map(|(logits, first)| {
        if rule == GroupRule::LogitSum {
            return logits.clone();
        }
        let sum: f64 = first.iter().map(|&x| libm::exp(x)).sum();
        logits.iter().map(|&x| libm::exp(x) / sum).collect()
    });
    let join = |a: Vec<f64>, b: Vec<f64>| {
        a.iter().zip(b).map(|(a, b)| if rule == GroupRule::Max { a.max(b) } else { a + b }).collect()
    };
    heads.reduce(join).unwrap()
}

/// The recipe with sorts, in `f64`: the set, and the value at its edge with the values of all keys looked at.
fn reference(index: &PqIndex, q: &[f32], k: usize, rerank: Rerank) -> (Vec<usize>, Vec<usize>, Vec<f64>) {
    let (n, group) = (index.len(), q.len() / D);
    let mut tables = QueryTables::new(index.params().shape, group);
    tables.fill(index.codebook().unwrap(), q).unwrap();
    let mut scores = vec![0; group * n];
    scan(&tables, index.codes(), 0..n, &mut scores).unwrap();
    let product = |h: usize, i: usize| {
        f64::from(tables.bias(h)) + f64::from(tables.scale(h)) * f64::from(scores[h * n + i])
    };
    let scale = f64::from(SCALE);
    let first: Vec<Vec<f64>> = (0..group).map(|h| (0..n).map(|i| product(h, i) * scale).collect()).collect();
    let mut query = RerankQuery::new(D, group);
    index.rerank().unwrap().prepare(q, &mut query).unwrap();
    let all: Vec<u32> = (0..u32::try_from(n).unwrap()).collect();
    let mut second = vec![0.0; group * n];
    index.rerank().unwrap().score(&query, &all, &mut second);
    let refined: Vec<Vec<f64>> = (0..group)
        .map(|h| (0..n).map(|i| (product(h, i) + f64::from(second[h * n + i])) * scale).collect())
        .collect();
    let ranked = order(&rule_of(index.params().rule, &first, &first));
    let band = Extent::OfContext(rerank.band).tokens(n, n).min(4 * k);
    let sure = k.saturating_sub(band * 2 / 5);
    let values = rule_of(index.params().rule, &refined, &first);
    let mut chosen: Vec<usize> = ranked[..sure].to_vec();
    let looked = ranked[sure..(sure + band).min(n)].to_vec();
    let mut again = looked.clone();
    again.sort_unstable();
    again.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
    chosen.extend(&again[..k - sure]);
    chosen.sort_unstable();
    (chosen, looked, values)
}

#[test]
fn the_second_look_equals_sorting_by_the_recipe() {
    for rule in RULES {
        let index = filled(1500, Some(RERANK), rule);
        for group in [1, 2, 5] {
            for (k, seed) in [(1, 1), (20, 2), (75, 3), (150, 4), (300, 5), (1450, 6)] {
                let q = keys(group, 50 + seed);
                let got: Vec<usize> = select(&index, &q, k).iter().map(|&i| i as usize).collect();
                let (want, looked, values) = reference(&index, &q, k, RERANK);
                assert_eq!(got.len(), k);
                assert!(got.is_sorted());
                // Rounding may exchange keys whose values are equal but for it.
                let edge =
                    want.iter().filter(|i| looked.contains(i)).map(|&i| values[i]).fold(f64::MAX, f64::min);
                for i in
                    got.iter().filter(|i| !want.contains(i)).chain(want.iter().filter(|i| !got.contains(i)))
                {
                    let near = (values[*i] - edge).abs() <= 1e-4 * edge.abs();
                    assert!(
                        near && looked.contains(i),
                        "{rule:?} {group} {k}: key {i} {} {edge}",
                        values[*i]
                    );
                }
            }
        }
    }
}

#[test]
fn the_second_look_finds_more_of_the_true_best() {
    let n = 4000;
    let keys_ = keys(n, 3);
    let (plain, twice) =
        (filled(n, None, GroupRule::SoftmaxSum), filled(n, Some(RERANK), GroupRule::SoftmaxSum));
    let mut found = [0; 2];
    for seed in 0..10 {
        let q = keys(1, 70 + seed);
        let dot = |key: &[f32]| key.iter().zip(&q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum();
        let exact = order(&keys_.chunks(D).map(dot).collect::<Vec<f64>>())[..200].to_vec();
        for (found, index) in found.iter_mut().zip([&plain, &twice]) {
            *found += select(index, &q, 200).iter().filter(|&&i| exact.contains(&(i as usize))).count();
        }
    }
    assert!(found[1] * 100 > found[0] * 115, "{found:?} of 2000");
}

/// Rows whose coordinates are of very different sizes.
fn askew(n: usize, seed: u64, power: i32) -> Vec<f32> {
    let mut rows = keys(n, seed);
    for (i, x) in rows.iter_mut().enumerate() {
        *x *= 1.2f32.powi(i32::try_from(i % D).unwrap() * power);
    }
    rows
}

#[test]
fn a_transform_is_learned_from_queries_and_kept() {
    let n = 4000;
    let rows = keys(n, 3);
    let queries = askew(512, 4, -1);
    let mut found = [0; 2];
    for (found, transform) in found.iter_mut().zip([false, true]) {
        let mut index =
            PqIndex::new(IndexParams { transform, ..params(None, GroupRule::SoftmaxSum) }).unwrap();
        index.train(&rows, &queries, n, None).unwrap();
        assert_eq!(index.transform().unwrap().is_identity(), !transform);
        let mut scratch = EncodeScratch::new(index.params().shape);
        index.extend(&rows, &mut scratch).unwrap();
        for seed in 0..10 {
            let q = askew(1, 100 + seed, -1);
            let dot = |key: &[f32]| key.iter().zip(&q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum();
            let exact = order(&rows.chunks(D).map(dot).collect::<Vec<f64>>())[..200].to_vec();
            *found += select(&index, &q, 200).iter().filter(|&&i| exact.contains(&(i as usize))).count();
        }
        // Without queries the transform stays; with others, another is learned.
        let again = index.rebuilt(&rows, &[], n, None).unwrap();
        assert!(again.transform() == index.transform() && again.is_empty());
        let again = index.rebuilt(&rows, &askew(512, 5, 1), n, None).unwrap();
        assert_eq!(again.transform() == index.transform(), !transform);
    }
    assert!(found[0] > 400, "{found:?} of 2000, 100 by chance");
    assert!(found[1] * 100 > found[0] * 110, "{found:?} of 2000");
}

#[test]
fn what_cannot_be_done_is_named() {
    let mut index = PqIndex::new(params(Some(RERANK), GroupRule::Max)).unwrap();
    let mut encode = EncodeScratch::new(index.params().shape);
    let mut scratch = SelectScratch::new(index.params(), 1, 0, 0);
    assert_eq!(index.extend(&[0.0; D], &mut encode), Err(KvError::Untrained));
    assert_eq!(index.append(&[0.0; D], &mut encode), Err(KvError::Untrained));
    assert_eq!(index.select(&[0.0; D], 1.0, &mut [0; 4], &mut scratch), Err(KvError::Untrained));
    assert!(matches!(index.rebuilt(&[0.0; D], &[], 1, None), Err(KvError::Untrained)));
    assert_eq!(index.train(&[], &[], 0, None).err(), Some(KvError::Pq(PqError::NoRows)));
    let rows = keys(600, 1);
    index.train(&rows, &[], 600, None).unwrap();
    let mut bad = rows.clone();
    bad[500 * D] = f32::NAN;
    assert_eq!(index.extend(&bad, &mut encode), Err(KvError::Pq(PqError::NonFinite { row: 500 })));
    assert!(index.is_empty() && index.rerank().unwrap().is_empty());
    index.extend(&rows, &mut encode).unwrap();
    assert_eq!(
        index.replace(590, &rows[..11 * D], &mut encode),
        Err(KvError::Range { start: 590, end: 601, len: 600 })
    );
    assert_eq!(index.remove(3..601), Err(KvError::Range { start: 3, end: 601, len: 600 }));
    let no_level = params(Some(Rerank { bits: 5, ..RERANK }), GroupRule::Max);
    assert!(matches!(PqIndex::new(no_level), Err(KvError::Rerank(_))));
    assert!(index.select(&[f32::NAN; D], 1.0, &mut [0; 4], &mut scratch).is_err());
    assert!(index.select(&[1.0; 2 * D], 1.0, &mut [0; 4], &mut scratch).is_err());
}

#[test]
fn an_index_takes_the_bytes_a_token_that_its_configuration_says() {
    let want = |preset, d: usize| match preset {
        Preset::PaperLongBench | Preset::SkyLight => 2,
        Preset::PaperInfiniteBench => 4,
        // 8 + d/32 codes in a byte each; two bits a coordinate and a factor.
        _ => 8 + d / 32 + d / 4 + 2,
    };
    let n = 8192;
    for preset in Preset::ALL {
        for d in [64, 128, 256] {
            let config = preset.config(d).unwrap();
            assert_eq!(config.bytes_per_token(), want(preset, d), "{preset:?} {d}");
            let mut index = PqIndex::new(IndexParams::from(&config)).unwrap();
            let rows: Vec<f32> = keys(n * d / D, 1);
            index.train(&rows[..1000 * d], &[], n, Some(IterBudget::Fixed(1))).unwrap();
            let fixed = index.heap_bytes();
            index.extend(&rows, &mut EncodeScratch::new(config.shape)).unwrap();
            let grown = index.heap_bytes() - fixed;
            let bytes = n * config.bytes_per_token();
            assert!(grown >= bytes && grown <= bytes + bytes / 100 + 4096, "{preset:?} {d}: {grown} {bytes}");
            let once = 2 * 4 * d * config.shape.ksub();
            assert!(fixed <= once + once / 8 + (17 << 10), "{preset:?} {d}: {fixed} {once}");
        }
    }
}

#[test]
fn asking_for_all_or_more_gives_all() {
    let index = filled(300, Some(RERANK), GroupRule::SoftmaxSum);
    for k in [300, 301, 500] {
        assert_eq!(select(&index, &keys(2, 8), k), (0..300).collect::<Vec<u32>>());
    }
    assert!(select(&index, &keys(2, 8), 0).is_empty());
}
