use super::*;
use crate::kv::config::{Extent, Preset, Rerank};
use crate::kv::drift::{DriftParams, Refresh};
use crate::kv::index::SelectScratch;
use crate::num::convert;
use crate::num::rng::Xoshiro256pp;
use crate::pq::{Codebook, Init, IterBudget, PqShape, QueryTables, TrainParams, scan, train};
use crate::select::{RerankCodes, combine};
use alloc::vec;
use proptest::prelude::*;

const D: usize = 16;
const D_V: usize = 8;
const SHAPE: LayerShape =
    LayerShape { n_kv_heads: 2, group: 2, dim_v: D_V, keys: DType::F16, values: DType::F32 };
const SCALE: f32 = 0.25;

/// 2 x 4 bits: 16 centroids; 4 sinks, a window of 6, 5 selected.
fn config() -> PqConfig {
    PqConfig {
        shape: PqShape::new(D, 2, 4).unwrap(),
        sinks: 4,
        window: Extent::Tokens(6),
        budget: Extent::Tokens(5),
        ..Preset::PaperLongBench.config(D).unwrap()
    }
}

/// The same with a transform and a second look at a tenth of the middle.
fn with_rerank() -> PqConfig {
    PqConfig { transform: true, rerank: Some(Rerank { bits: 2, band: 0.1, seed: 5 }), ..config() }
}

/// Numbers that only token `id` and `head` have.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn noise(id: u64, head: usize, n: usize) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(id * 64 + head as u64);
    (0..n).map(|_| (rng.f64() * 4.0 - 2.0) as f32).collect()
}

fn key(id: u64, head: usize) -> Vec<u8> {
    let mut out = vec![0; D * 2];
    convert::from_f32(DType::F16, &noise(id, head, D), &mut out).unwrap();
    out
}

fn value(id: u64, head: usize) -> Vec<u8> {
    bytemuck::cast_slice(&noise(id + 1_000_000, head, D_V)).to_vec()
}

fn rows(ids: &[u64], row: fn(u64, usize) -> Vec<u8>) -> Vec<u8> {
    ids.iter().flat_map(|&id| (0..SHAPE.n_kv_heads).flat_map(move |h| row(id, h))).collect()
}

/// The key's numbers as they are stored.
fn key_numbers(id: u64, head: usize) -> Vec<f32> {
    let mut out = vec![0.0; D];
    convert::to_f32(DType::F16, &key(id, head), &mut out).unwrap();
    out
}

/// A cache, its buffers and the list of tokens that it ought to have.
#[derive(Clone)]
struct Live {
    cache: PqCache,
    scratch: HeadScratch,
    ids: Vec<u64>,
}

/// What a step gave.
struct Step {
    out: Vec<f32>,
    lse: Vec<f32>,
}

impl Live {
    fn new(config: &PqConfig) -> Self {
        let cache = PqCache::new(config, SHAPE).unwrap();
        let scratch = cache.scratch(64).unwrap();
        Self { cache, scratch, ids: vec![] }
    }

    fn prefill(&mut self, ids: Range<u64>) {
        let ids: Vec<u64> = ids.collect();
        let queries: Vec<f32> = ids.iter().flat_map(|&id| noise(id + 5_000_000, 0, 4 * D)).collect();
        self.cache.prefill(&rows(&ids, key), &rows(&ids, value), &queries, &mut self.scratch).unwrap();
        self.ids.extend(ids);
    }

    fn step(&mut self, id: u64) -> Step {
        let q = noise(id + 2_000_000, 0, 4 * D);
        let (mut out, mut lse) = (vec![0.0; 4 * D_V], vec![0.0; 4]);
        let (k, v) = (rows(&[id], key), rows(&[id], value));
        self.cache.step(&q, SCALE, &k, &v, &mut out, &mut lse, &mut self.scratch).unwrap();
        self.ids.push(id);
        Step { out, lse }
    }

    /// Everything that must hold of every head at any time.
    fn check(&mut self) {
        let config = self.cache.config().clone();
        for (h, head) in self.cache.heads().iter().enumerate() {
            assert_eq!(head.len(), self.ids.len());
            for (t, &id) in self.ids.iter().enumerate() {
                assert_eq!(head.keys().row(t), key(id, h), "key of token {t}, head {h}");
                assert_eq!(head.values().row(t), value(id, h), "value of token {t}, head {h}");
            }
            // Every token is in exactly one part.
            assert_eq!(head.sinks(), 0..config.sinks.min(self.ids.len()));
            assert_eq!(head.middle().start, head.sinks().end);
            assert_eq!(head.tail(), head.middle().end..self.ids.len());
            if !head.middle().is_empty() {
                assert!(head.tail().len() >= head.window());
            }
            // Every code is the nearest centroid of its own key.
            let Some(codebook) = head.index().codebook() else {
                assert!(head.index().is_empty());
                continue;
            };
            let coded = |t: usize| {
                let mut key = [0.0; D];
                head.index().transform().unwrap().keys(&key_numbers(self.ids[t], h), &mut key).unwrap();
                key
            };
            for t in head.middle() {
                let mut codes = [0; 2];
                head.index().codes().get(t - head.middle().start, &mut codes);
                assert_nearest(codebook, &coded(t), codes);
            }
            // And every record of the second level is that of what its own codes leave.
            let Some(rerank) = head.index().rerank() else { continue };
            assert_eq!(rerank.len(), head.index().len());
            let mut own = rerank.clone();
            own.truncate(0);
            for t in head.middle() {
                let (mut codes, mut residual) = ([0; 2], [0.0; D]);
                head.index().codes().get(t - head.middle().start, &mut codes);
                codebook.decode(&codes, &mut residual).unwrap();
                residual.iter_mut().zip(coded(t)).for_each(|(r, k)| *r = k - *r);
                own.extend(&residual).unwrap();
            }
            let bytes = |codes: &RerankCodes| {
                let mut out = vec![0; codes.len() * codes.record_bytes()];
                codes.pack(0..codes.len(), &mut out);
                out
            };
            assert_eq!(bytes(rerank), bytes(&own));
        }
        if config.rerank.is_none() {
            self.check_selection();
        }
    }

    /// The selection of every head is that of a sort over the same codes.
    fn check_selection(&mut self) {
        let q = noise(3_000_000 + self.ids.len() as u64, 0, 2 * D);
        for head in self.cache.heads() {
            let selected = head.select(&q, SCALE, &mut self.scratch).unwrap().to_vec();
            let k = head.budget().min(head.index().len());
            assert_eq!(selected.len(), k);
            let Some(codebook) = head.index().codebook() else { continue };
            if k == 0 {
                continue;
            }
            let n = head.index().len();
            let mut tables = QueryTables::new(codebook.shape(), 2);
            tables.fill(codebook, &q).unwrap();
            let mut scores = vec![0; 2 * n];
            scan(&tables, head.index().codes(), 0..n, &mut scores).unwrap();
            let scales = [tables.scale(0) * SCALE, tables.scale(1) * SCALE];
            let mut weights = vec![0.0; n];
            combine(config().rule, &scores, &scales, &mut weights);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| weights[b].partial_cmp(&weights[a]).unwrap());
            let mut want: Vec<u32> =
                order[..k].iter().map(|&i| u32::try_from(head.middle().start + i).unwrap()).collect();
            want.sort_unstable();
            assert_eq!(selected, want);
        }
    }
}

fn distance(x: &[f32], c: &[f32]) -> f64 {
    x.iter().zip(c).map(|(&x, &c)| (f64::from(x) - f64::from(c)).powi(2)).sum()
}

fn assert_nearest(codebook: &Codebook, key: &[f32], codes: [u8; 2]) {
    for (s, code) in codes.into_iter().enumerate() {
        let sub = &key[s * D / 2..(s + 1) * D / 2];
        let distances: Vec<f64> = codebook.centroids(s).chunks(D / 2).map(|c| distance(sub, c)).collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        // Two centroids may tie within the rounding of f32.
        assert!(distances[usize::from(code)] <= least + 1e-4, "{code}: {distances:?}");
    }
}

/// Dense attention in `f64`.
fn dense(ids: &[u64], head: usize, q: &[f32]) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = ids
        .iter()
        .map(|&id| key_numbers(id, head).iter().zip(q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum())
        .collect();
    let scores: Vec<f64> = scores.iter().map(|s: &f64| s * f64::from(SCALE)).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| libm::exp(s - most)).sum();
    let mut out = vec![0.0; D_V];
    for (&id, s) in ids.iter().zip(&scores) {
        for (out, v) in out.iter_mut().zip(noise(id + 1_000_000, head, D_V)) {
            *out += libm::exp(s - most) / sum * f64::from(v);
        }
    }
    (out, most + libm::log(sum))
}

fn assert_dense(ids: &[u64], id: u64, step: &Step) {
    let q = noise(id + 2_000_000, 0, 4 * D);
    for h in 0..4 {
        let (out, lse) = dense(ids, h / 2, &q[h * D..(h + 1) * D]);
        assert!((f64::from(step.lse[h]) - lse).abs() < 1e-4, "{} {lse}", step.lse[h]);
        for (got, want) in step.out[h * D_V..].iter().zip(out) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
        }
    }
}

#[test]
fn training_and_codes_use_the_middle_and_nothing_else() {
    // The reference clusters s - S_0 rows where s - S_0 - W were written, and keeps the codes of the others.
    let mut live = Live::new(&config());
    live.prefill(0..200);
    for (h, head) in live.cache.heads().iter().enumerate() {
        assert_eq!(head.middle(), 4..194);
        let keys: Vec<f32> = (4..194).flat_map(|id| key_numbers(id, h)).collect();
        let params = TrainParams {
            init: Init::RandomRows,
            seed: 4321,
            budget: IterBudget::Fixed(10),
            ..TrainParams::default()
        };
        let (codebook, _) = train(&keys, config().shape, &params).unwrap();
        assert!(*head.index().codebook().unwrap() == codebook);
    }
    live.check();
}

#[test]
fn a_token_that_leaves_the_window_keeps_its_rows_and_gets_its_own_code() {
    // The reference stores the new token in the place of the old one, whose codes are those of yet another.
    let mut live = Live::new(&config());
    live.prefill(0..100);
    for id in 100..140 {
        live.step(id);
        for head in live.cache.heads() {
            assert_eq!(head.middle(), 4..usize::try_from(id).unwrap() - 6);
            assert_eq!(head.tail().len(), 7, "the window and the current token");
        }
    }
    live.check();
}

#[test]
fn every_layer_and_head_has_all_tokens_in_order_after_any_step() {
    // In the reference layers from the second on write one row further than the first.
    let mut layers: Vec<Live> = (0..3).map(|_| Live::new(&config())).collect();
    for layer in &mut layers {
        layer.prefill(0..60);
    }
    for id in 60..75 {
        for layer in &mut layers {
            layer.step(id);
            layer.check();
        }
    }
}

#[test]
fn short_prompts_attend_to_everything() {
    // In the reference a prompt of no more tokens than centroids attends to the current token only.
    for n in [0, 1, 4, 5, 10, 11, 20, 26] {
        let mut live = Live::new(&config());
        live.prefill(0..n);
        let step = live.step(n);
        assert!(live.cache.heads()[0].middle().is_empty(), "{n} tokens");
        assert_dense(&live.ids, n, &step);
    }
    let mut live = Live::new(&config());
    live.prefill(0..27);
    assert_eq!(live.cache.heads()[0].middle(), 4..21, "more middle tokens than the 16 centroids");
}

#[test]
fn generation_from_nothing_is_dense_until_the_first_training() {
    let mut live = Live::new(&config());
    for id in 0..40 {
        let step = live.step(id);
        assert_dense(&live.ids, id, &step);
    }
    for h in 0..2 {
        let head = &mut live.cache.heads_mut()[h];
        assert!(head.is_refresh_due());
        head.refresh(None, &mut live.scratch).unwrap();
        assert!(!head.is_refresh_due());
        assert!(!head.middle().is_empty());
    }
    live.step(40);
    live.check();
}

#[test]
fn selecting_everything_equals_dense_attention() {
    for config in [config(), with_rerank()] {
        let mut live = Live::new(&PqConfig { budget: Extent::OfContext(1.0), ..config });
        live.prefill(0..150);
        for id in 150..160 {
            let step = live.step(id);
            assert_eq!(live.scratch.selected().len(), live.cache.heads()[1].middle().len());
            assert_dense(&live.ids, id, &step);
        }
    }
}

#[test]
fn a_step_attends_to_sinks_selected_and_tail() {
    let mut live = Live::new(&config());
    live.prefill(0..150);
    let step = live.step(150);
    let q = noise(2_000_150, 0, 4 * D);
    for h in 0..2 {
        let head = &live.cache.heads()[h];
        let selected = head.select(&q[h * 2 * D..(h + 1) * 2 * D], SCALE, &mut live.scratch).unwrap();
        let mut tokens: Vec<u64> = selected.iter().map(|&t| t.into()).collect();
        assert_eq!(tokens.len(), 5);
        tokens.extend(head.sinks().chain(head.tail()).map(|t| t as u64));
        for g in 0..2 {
            let at = h * 2 + g;
            let (out, lse) = dense(&tokens, h, &q[at * D..(at + 1) * D]);
            assert!((f64::from(step.lse[at]) - lse).abs() < 1e-4);
            for (got, want) in step.out[at * D_V..].iter().zip(out) {
                assert!((f64::from(*got) - want).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn chunked_prefill_codes_everything_and_trains_again_when_doubled() {
    let mut live = Live::new(&config());
    live.prefill(0..20);
    assert!(live.cache.heads()[0].middle().is_empty());
    live.prefill(20..60);
    let first = live.cache.heads()[0].index().codebook().unwrap().clone();
    live.prefill(60..100);
    assert!(*live.cache.heads()[0].index().codebook().unwrap() == first, "80 % more tokens");
    live.check();
    live.prefill(100..130);
    assert!(*live.cache.heads()[0].index().codebook().unwrap() != first, "more than twice as many");
    assert_eq!(live.cache.heads()[0].middle(), 4..124);
    live.check();
}

#[test]
fn paper_windows_and_budgets_are_fixed_by_the_prompt() {
    let paper = PqConfig { shape: config().shape, ..Preset::PaperLongBench.config(D).unwrap() };
    let mut live = Live::new(&paper);
    live.prefill(0..432);
    let head = &live.cache.heads()[0];
    assert_eq!((head.window(), head.budget(), head.middle()), (40, 40, 32..392));
    for id in 432..500 {
        live.step(id);
    }
    let head = &live.cache.heads()[0];
    assert_eq!((head.window(), head.budget(), head.middle()), (40, 40, 32..459));
    live.check();
}

#[test]
fn keys_that_change_their_look_make_a_refresh_due_and_it_helps() {
    let mut live = Live::new(&config());
    live.prefill(0..600);
    let far = |id: u64| {
        let mut numbers = noise(id, 0, D);
        numbers.iter_mut().for_each(|x| *x = *x * 0.5 + 3.0);
        let mut out = vec![0; D * 2];
        convert::from_f32(DType::F16, &numbers, &mut out).unwrap();
        out
    };
    let mut config = config();
    let params = DriftParams { at_least: 100, half_life: 64, ..DriftParams::default() };
    config.refresh = Refresh::Drift(params);
    let mut cache = PqCache::new(&config, SHAPE).unwrap();
    let ids: Vec<u64> = (0..600).collect();
    cache.prefill(&rows(&ids, key), &rows(&ids, value), &[], &mut live.scratch).unwrap();
    let head = &mut cache.heads_mut()[0];
    for id in 600..800 {
        head.append(&key(id, 0), &value(id, 0), &mut live.scratch).unwrap();
    }
    assert!(!head.is_refresh_due(), "{:?}", head.index().stats());
    for id in 800..1000 {
        head.append(&far(id), &value(id, 0), &mut live.scratch).unwrap();
    }
    assert!(head.is_refresh_due(), "{:?}", head.index().stats());
    let before = head.index().stats();
    head.refresh(None, &mut live.scratch).unwrap();
    assert!(!head.is_refresh_due());
    assert_eq!(head.index().len(), before.tokens);
    for id in 1000..1100 {
        head.append(&far(id), &value(id, 0), &mut live.scratch).unwrap();
    }
    let after = head.index().stats();
    assert!(after.drift < 1.2, "{before:?} {after:?}");
}

#[test]
fn an_index_is_built_elsewhere_while_steps_go_on() {
    let refresh = Refresh::Growth { share: 0.25, at_least: 10 };
    let mut live = Live::new(&PqConfig { refresh, ..with_rerank() });
    live.prefill(0..300);
    let mut next = 300;
    while !live.cache.is_refresh_due() {
        live.step(next);
        next += 1;
    }
    assert_eq!(next, 300 + 290 / 4 + 1, "a quarter of the middle, and the first step codes one less");
    let jobs: Vec<_> = live.cache.heads().iter().map(HeadCache::rebuild).collect();
    let built = std::thread::spawn(|| jobs.into_iter().map(|job| job.run(None).unwrap()).collect::<Vec<_>>());
    for _ in 0..20 {
        live.step(next);
        next += 1;
    }
    let before = live.cache.heads()[0].index().codebook().unwrap().clone();
    for (head, built) in live.cache.heads_mut().iter_mut().zip(built.join().unwrap()) {
        let len = head.index().len();
        head.adopt(built, &mut live.scratch).unwrap();
        assert_eq!((head.index().len(), head.index().trained_for()), (len, Some(len - 20)));
    }
    assert!(!live.cache.is_refresh_due());
    assert!(*live.cache.heads()[0].index().codebook().unwrap() != before, "trained on other keys");
    live.check();
    // It is as it would have been without the other thread.
    let mut here = Live::new(&PqConfig { refresh, ..with_rerank() });
    here.prefill(0..300);
    for id in 300..next {
        here.step(id);
        if id == next - 21 {
            here.cache.refresh(&mut here.scratch).unwrap();
        }
    }
    assert_eq!(here.cache.heads()[1].index_bytes(), live.cache.heads()[1].index_bytes());
}

#[test]
fn an_index_of_other_tokens_is_refused() {
    let mut live = Live::new(&config());
    live.prefill(0..200);
    let mut fork = live.clone();
    type Change = fn(&mut HeadCache, &mut HeadScratch);
    let changes: [Change; 3] = [
        |head, _| head.truncate(150),
        |head, _| head.remove(3..9).unwrap(),
        |head, scratch| head.replace_keys(30, &key(9999, 0), scratch).unwrap(),
    ];
    let built = |head: &HeadCache| head.rebuild().run(None).unwrap();
    let head = &mut live.cache.heads_mut()[0];
    assert_eq!(fork.cache.heads_mut()[0].adopt(built(head), &mut live.scratch), Err(KvError::Outdated));
    for change in changes {
        let outdated = built(head);
        change(head, &mut live.scratch);
        let before = head.index_bytes();
        assert_eq!(head.adopt(outdated, &mut live.scratch), Err(KvError::Outdated));
        assert_eq!(head.index_bytes(), before);
        head.adopt(built(head), &mut live.scratch).unwrap();
    }
    // Cutting nothing changes nothing.
    let same = built(head);
    head.truncate(head.len());
    head.adopt(same, &mut live.scratch).unwrap();
}

#[test]
fn replaced_keys_get_new_codes() {
    let mut live = Live::new(&config());
    live.prefill(0..100);
    let ids: Vec<u64> = (500..590).collect();
    for h in 0..2 {
        let keys: Vec<u8> = ids.iter().flat_map(|&id| key(id, h)).collect();
        live.cache.heads_mut()[h].replace_keys(2, &keys, &mut live.scratch).unwrap();
        let head = &live.cache.heads()[h];
        let codebook = head.index().codebook().unwrap();
        for t in head.middle() {
            let mut codes = [0; 2];
            head.index().codes().get(t - 4, &mut codes);
            let id = if (2..92).contains(&t) { ids[t - 2] } else { t as u64 };
            assert_nearest(codebook, &key_numbers(id, h), codes);
        }
        assert!(live.cache.heads_mut()[h].replace_keys(20, &keys, &mut live.scratch).is_err());
    }
}

#[test]
fn forks_are_independent_and_share_what_they_did_not_write() {
    let mut live = Live::new(&config());
    live.prefill(0..3000);
    let mut fork = live.clone();
    assert_eq!(fork.cache.heads()[0].keys().shared_blocks(), 3);
    for id in 3000..3020 {
        live.step(id);
        fork.step(id + 5000);
    }
    assert_eq!(fork.cache.heads()[0].keys().shared_blocks(), 2);
    fork.cache.truncate(2500);
    fork.ids.truncate(2500);
    live.check();
    fork.check();
}

#[test]
fn wrong_input_is_named_and_changes_nothing() {
    let mut live = Live::new(&config());
    live.prefill(0..50);
    let (mut out, mut lse) = (vec![0.0; 4 * D_V], vec![0.0; 4]);
    let (k, v) = (rows(&[50], key), rows(&[50], value));
    let q = vec![0.1; 4 * D];
    let scratch = &mut live.scratch;
    let length = |expected, got| Err(KvError::Length { expected, got });
    assert_eq!(live.cache.prefill(&k[1..], &v, &[], scratch), length(64, 63));
    assert_eq!(
        live.cache.prefill(&k, &v[..32], &[], scratch),
        Err(KvError::Length { expected: 64, got: 32 })
    );
    let cache = &mut live.cache;
    assert_eq!(cache.step(&q[1..], SCALE, &k, &v, &mut out, &mut lse, scratch), length(64, 63));
    assert_eq!(cache.step(&q, SCALE, &k[2..], &v, &mut out, &mut lse, scratch), length(64, 62));
    assert_eq!(cache.step(&q, SCALE, &k, &v, &mut out[1..], &mut lse, scratch), length(32, 31));
    assert_eq!(cache.remove(49..51), Err(KvError::Range { start: 49, end: 51, len: 50 }));
    for scale in [f32::NAN, -1.0, f32::INFINITY] {
        let error = cache.heads()[0].select(&q[..2 * D], scale, scratch).err();
        assert!(matches!(error, Some(KvError::Scale { .. })), "{error:?}");
    }
    live.check();
    let no_heads = LayerShape { n_kv_heads: 0, ..SHAPE };
    assert_eq!(PqCache::new(&config(), no_heads).err(), Some(KvError::NoHeads));
    let odd = LayerShape { keys: DType::F8E4m3, ..SHAPE };
    assert!(matches!(PqCache::new(&config(), odd), Err(KvError::Attention(_))));
}

#[test]
fn a_key_that_is_not_finite_leaves_dense_attention() {
    let mut live = Live::new(&config());
    let mut keys = rows(&(0..60).collect::<Vec<_>>(), key);
    keys[30 * 64..30 * 64 + 2].copy_from_slice(&[0xff, 0x7f]);
    let values = rows(&(0..60).collect::<Vec<_>>(), value);
    let error = live.cache.prefill(&keys, &values, &[], &mut live.scratch);
    assert!(matches!(error, Err(KvError::Pq(_))), "{error:?}");
    assert_eq!(live.cache.heads()[0].len(), 60);
    assert!(live.cache.heads()[0].middle().is_empty());
}

#[test]
fn scratch_for_another_shape_is_refused() {
    let mut live = Live::new(&config());
    live.prefill(0..100);
    let params = crate::kv::index::IndexParams {
        shape: PqShape::new(D, 4, 4).unwrap(),
        ..live.cache.heads()[0].index().params().clone()
    };
    let mut scratch = SelectScratch::new(&params, 2, 100, 5);
    let index = live.cache.heads()[0].index();
    assert!(matches!(index.select(&[0.1; 2 * D], SCALE, &mut [0; 5], &mut scratch), Err(KvError::Pq(_))));
}

#[test]
fn a_session_file_carries_its_index() {
    for config in [config(), with_rerank()] {
        let mut live = Live::new(&config);
        live.prefill(0..150);
        for id in 150..170 {
            live.step(id);
        }
        let mut writer = crate::format::Writer::new(Vec::new()).unwrap();
        for (h, head) in (0u32..).zip(live.cache.heads()) {
            writer.add_index(0, 7, h, head.index_bytes()).unwrap();
        }
        let file = writer.finish(&[], "{}", None).unwrap();
        let reader = crate::format::Reader::open(file.as_slice()).unwrap();
        let entries = reader.indexes().unwrap();
        let mut back = Live::new(&config);
        back.ids.clone_from(&live.ids);
        let mut index = vec![];
        for h in 0..2 {
            assert_eq!((entries[h].layer, entries[h].head as usize), (7, h));
            reader.read_index(&entries, h, &mut index).unwrap();
            let keys: Vec<u8> = live.ids.iter().flat_map(|&id| key(id, h)).collect();
            let values: Vec<u8> = live.ids.iter().flat_map(|&id| value(id, h)).collect();
            let head = &mut back.cache.heads_mut()[h];
            head.restore(&keys, &values, &index).unwrap();
            let other = head.restore(&keys[..40 * 32], &values[..40 * 32], &index);
            assert_eq!(other, Err(KvError::Corrupt { what: "it is of other tokens" }));
        }
        back.check();
        for id in 170..180 {
            let (a, b) = (live.step(id), back.step(id));
            assert_eq!((a.out, a.lse), (b.out, b.lse));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn caches_follow_a_plain_list(seed in any::<u64>(), rerank in any::<bool>()) {
        let mut rng = Xoshiro256pp::new(seed);
        let mut below = move |n: usize| usize::try_from(rng.below(n as u64)).unwrap();
        let mut lives = vec![Live::new(&if rerank { with_rerank() } else { config() })];
        let mut next = 0;
        for _ in 0..24 {
            let at = below(lives.len());
            let live = &mut lives[at];
            match below(8) {
                0 | 1 => {
                    let n = below(70) as u64;
                    live.prefill(next..next + n);
                    next += n;
                }
                2..5 => for _ in 0..below(12) {
                    live.step(next);
                    next += 1;
                },
                5 => {
                    let len = below(live.ids.len() + 3);
                    live.cache.truncate(len);
                    live.ids.truncate(len);
                }
                6 => {
                    let start = below(live.ids.len() + 1);
                    let range = start..start + below(live.ids.len() - start + 1);
                    live.cache.remove(range.clone()).unwrap();
                    live.ids.drain(range);
                }
                _ => {
                    let mut fork = live.clone();
                    if below(2) == 0 {
                        let Live { cache, scratch, .. } = &mut fork;
                        for head in cache.heads_mut() {
                            head.refresh(None, scratch).unwrap();
                        }
                    }
                    if lives.len() < 3 { lives.push(fork) } else { let to = below(3); lives[to] = fork }
                }
            }
            lives.iter_mut().for_each(Live::check);
        }
    }
}
