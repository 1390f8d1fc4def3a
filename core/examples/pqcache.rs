//! Decoding with a PQCache, from end to end: keys and values of a real model are put into a cache, decode steps attend to
//! sinks, window and the tokens that the index selects, and their outputs are compared with attention to everything.
//!
//! ```console
//! $ cargo run --release -p tersa-core --example pqcache [DUMP.safetensors]
//! ```
//!
//! The dump holds tensors `k.L<layer>` and `v.L<layer>` `[kv heads][tokens][dim]` and `q.L<layer>`
//! `[query heads][last tokens][dim]`, all f16; without an argument it is the one in `tests/data`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use safetensors::SafeTensors;
use tersa_core::kv::{Extent, LayerShape, PqCache, PqConfig, Preset};
use tersa_core::num::DType;
use tersa_core::num::convert::to_f32;

/// Tokens that are decoded: the last ones of the dump, whose queries it has.
const STEPS: usize = 64;
/// Bytes of an f16.
const BYTES: usize = 2;

/// One layer of the dump.
struct Layer<'a> {
    shape: LayerShape,
    head_dim: usize,
    n_tokens: usize,
    /// `[kv heads][tokens][dim]`.
    keys: &'a [u8],
    values: &'a [u8],
    /// `[query heads][n_queries][dim]`, those of the last tokens.
    queries: Vec<f32>,
    n_queries: usize,
}

impl<'a> Layer<'a> {
    fn read(dump: &SafeTensors<'a>, layer: &str) -> Result<Self, Box<dyn Error>> {
        let tensor = |kind: &str| dump.tensor(&format!("{kind}.L{layer}"));
        let (k, v, q) = (tensor("k")?, tensor("v")?, tensor("q")?);
        let (&[n_kv_heads, n_tokens, head_dim], &[n_heads, n_queries, _]) = (k.shape(), q.shape()) else {
            return Err("tensors have three axes".into());
        };
        let mut queries = vec![0.0; q.shape().iter().product()];
        to_f32(DType::F16, q.data(), &mut queries)?;
        let shape = LayerShape {
            n_kv_heads,
            group: n_heads / n_kv_heads,
            dim_v: head_dim,
            keys: DType::F16,
            values: DType::F16,
        };
        Ok(Self { shape, head_dim, n_tokens, keys: k.data(), values: v.data(), queries, n_queries })
    }

    /// Rows of some tokens as a model makes them, `[tokens][kv heads][dim]`.
    fn rows(&self, data: &[u8], tokens: std::ops::Range<usize>) -> Vec<u8> {
        let row = self.head_dim * BYTES;
        let mut rows = Vec::with_capacity(tokens.len() * self.shape.n_kv_heads * row);
        for token in tokens {
            for head in 0..self.shape.n_kv_heads {
                rows.extend_from_slice(&data[(head * self.n_tokens + token) * row..][..row]);
            }
        }
        rows
    }

    /// The queries of one token, `[query heads][dim]`: query head `h` asks kv head `h / group`.
    fn query(&self, token: usize) -> Vec<f32> {
        let at = token + self.n_queries - self.n_tokens;
        let heads = self.queries.chunks_exact(self.n_queries * self.head_dim);
        heads.flat_map(|head| &head[at * self.head_dim..][..self.head_dim]).copied().collect()
    }

    /// Takes the prompt in, decodes the last tokens; outputs `[steps][query heads][dim]` and seconds of a step.
    fn decode(&self, config: &PqConfig) -> Result<(Vec<f32>, f64), Box<dyn Error>> {
        let mut cache = PqCache::new(config, self.shape)?;
        let mut scratch = cache.scratch(self.n_tokens)?;
        let prompt = 0..self.n_tokens - STEPS;
        // What the dump holds of the prompt's queries teaches the index what will be asked.
        let queries: Vec<f32> =
            (self.n_tokens - self.n_queries..prompt.end).flat_map(|token| self.query(token)).collect();
        cache.prefill(
            &self.rows(self.keys, prompt.clone()),
            &self.rows(self.values, prompt.clone()),
            &queries,
            &mut scratch,
        )?;

        let n_heads = self.shape.n_kv_heads * self.shape.group;
        let mut outputs = vec![0.0; STEPS * n_heads * self.head_dim];
        let mut lse = vec![0.0; n_heads];
        #[allow(clippy::cast_precision_loss, reason = "a dimension")]
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let mut seconds = 0.0;
        for (token, out) in (prompt.end..self.n_tokens).zip(outputs.chunks_exact_mut(n_heads * self.head_dim))
        {
            let (q, now) = (self.query(token), token..token + 1);
            let (key, value) = (self.rows(self.keys, now.clone()), self.rows(self.values, now));
            let start = Instant::now();
            cache.step(&q, scale, &key, &value, out, &mut lse, &mut scratch)?;
            seconds += start.elapsed().as_secs_f64();
            // Between steps; `HeadCache::rebuild` is for another thread.
            if cache.is_refresh_due() {
                cache.refresh(&mut scratch)?;
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a small count")]
        Ok((outputs, seconds / STEPS as f64))
    }
}

/// Mean of `|o' - o| / |o|` over steps and query heads.
fn error(got: &[f32], want: &[f32], dim: usize) -> f64 {
    let outputs = got.chunks_exact(dim).zip(want.chunks_exact(dim));
    let errors = outputs.map(|(got, want)| {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
        (off / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
    });
    let errors: Vec<f64> = errors.collect();
    #[allow(clippy::cast_precision_loss, reason = "a count of outputs")]
    let n = errors.len() as f64;
    errors.iter().sum::<f64>() / n
}

/// One line of the table.
struct Line {
    preset: Preset,
    share: f64,
    error: f64,
    seconds: f64,
    dense_seconds: f64,
}

/// Every preset at some budgets, over the layers of a dump: errors and times are means over layers.
fn measure(dump: &Path) -> Result<Vec<Line>, Box<dyn Error>> {
    let bytes = std::fs::read(dump)?;
    let dump = SafeTensors::deserialize(&bytes)?;
    let mut layers: Vec<&str> = dump.names().into_iter().filter_map(|n| n.strip_prefix("q.L")).collect();
    layers.sort_unstable();
    let mut lines: Vec<Line> = Vec::new();
    for layer in &layers {
        let layer = Layer::read(&dump, layer)?;
        let mut at = 0;
        for preset in [Preset::PaperLongBench, Preset::PaperInfiniteBench, Preset::Default] {
            // Four sinks, 63 tokens of window and the current one are always attended to.
            let mut config = preset.config(layer.head_dim)?;
            (config.sinks, config.window) = (4, Extent::Tokens(63));
            config.budget = Extent::OfContext(1.0);
            let (want, dense_seconds) = layer.decode(&config)?;
            for share in [0.2, 0.1, 0.05] {
                config.budget = Extent::OfContext(share);
                let (got, seconds) = layer.decode(&config)?;
                let line =
                    Line { preset, share, error: error(&got, &want, layer.head_dim), seconds, dense_seconds };
                match lines.get_mut(at) {
                    Some(sum) => {
                        sum.error += line.error;
                        sum.seconds += line.seconds;
                        sum.dense_seconds += line.dense_seconds;
                    }
                    None => lines.push(line),
                }
                at += 1;
            }
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let n = layers.len() as f64;
    for line in &mut lines {
        line.error /= n;
        line.seconds /= n;
        line.dense_seconds /= n;
    }
    Ok(lines)
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/smollm2-135m-1k-sample.safetensors")
}

fn main() -> Result<(), Box<dyn Error>> {
    let dump = std::env::args_os().nth(1).map_or_else(sample, PathBuf::from);
    println!("{:<20} {:>6} {:>8} {:>9} {:>9}", "preset", "budget", "error", "step, us", "dense, us");
    for line in measure(&dump)? {
        println!(
            "{:<20} {:>6} {:>8.4} {:>9.1} {:>9.1}",
            line.preset.name(),
            line.share,
            line.error,
            line.seconds * 1e6,
            line.dense_seconds * 1e6
        );
    }
    Ok(())
}

#[test]
fn selected_tokens_give_nearly_the_outputs_of_all() -> Result<(), Box<dyn Error>> {
    let lines = measure(&sample())?;
    let error = |preset, share| {
        let line = lines.iter().find(|l| l.preset == preset && l.share == share);
        line.map_or(f64::NAN, |l| l.error)
    };
    // True scores lose 0.043 at a fifth and 0.074 at a tenth of these tokens; 2 x 6 bits 0.066 and 0.105.
    assert!(error(Preset::Default, 0.2) < 0.055, "{}", error(Preset::Default, 0.2));
    assert!(error(Preset::Default, 0.1) < 0.090, "{}", error(Preset::Default, 0.1));
    for share in [0.2, 0.1, 0.05] {
        assert!(error(Preset::Default, share) < error(Preset::PaperInfiniteBench, share));
        assert!(error(Preset::PaperInfiniteBench, share) < error(Preset::PaperLongBench, share));
    }
    Ok(())
}
