//! A Llama model out of a GGUF file. candle reads the file and multiplies by quantized weights; the blocks are here, and
//! the attention within them is [`LayerCache`](crate::attention::LayerCache)'s.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module as _, Tensor};
use tokenizers::Tokenizer;

use crate::ops::{Rope, add, argmax, rms_norm, silu_gate};
use crate::session::Session;
use crate::tokenizer;

/// Sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Layers.
    pub n_layers: usize,
    /// Elements of a token's row between the layers.
    pub hidden: usize,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens that the model was trained for.
    pub context: usize,
    /// What is added to a mean square before its root is taken.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Token that ends a text.
    pub eos: u32,
}

impl Config {
    fn read(content: &Content) -> Result<Self> {
        let get = |key: &str| content.metadata.get(key).with_context(|| format!("no `{key}` in the file"));
        let architecture = get("general.architecture")?.to_string()?;
        ensure!(architecture == "llama", "the model is a {architecture}; the blocks here are a Llama's");
        let size = |key: &str| Ok::<_, anyhow::Error>(get(key)?.to_u32()? as usize);
        let float = |key: &str| content.metadata.get(key).map(Value::to_f32).transpose();
        let (hidden, n_heads) = (size("llama.embedding_length")?, size("llama.attention.head_count")?);
        ensure!(n_heads > 0, "a model without heads");
        let config = Self {
            n_layers: size("llama.block_count")?,
            hidden,
            n_heads,
            n_kv_heads: size("llama.attention.head_count_kv")?,
            head_dim: hidden / n_heads,
            context: size("llama.context_length")?,
            eps: float("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope_base: float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            eos: get("tokenizer.ggml.eos_token_id")?.to_u32()?,
        };
        let rotated = size("llama.rope.dimension_count").unwrap_or(config.head_dim);
        ensure!(
            rotated == config.head_dim,
            "{rotated} of {} elements of a head are rotated",
            config.head_dim
        );
        ensure!(
            config.n_kv_heads > 0 && n_heads.is_multiple_of(config.n_kv_heads),
            "{n_heads} query heads cannot share {} KV heads",
            config.n_kv_heads
        );
        Ok(config)
    }

    /// Query heads for each KV head.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// A Llama model.
#[derive(Debug)]
pub struct Llama {
    /// Its sizes.
    pub config: Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    rope: Rope,
    embedding: QMatMul,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    output: QMatMul,
}

/// What [`Llama::generate`] did.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The tokens; the last one was not run and is what a session goes on with.
    pub tokens: Vec<u32>,
    /// Time of running the prompt.
    pub prompt: Duration,
    /// Time of all further tokens but the last.
    pub steps: Duration,
}

#[derive(Debug)]
struct Block {
    attention_norm: Vec<f32>,
    q: QMatMul,
    k: QMatMul,
    v: QMatMul,
    o: QMatMul,
    mlp_norm: Vec<f32>,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

impl Llama {
    /// Reads a GGUF file.
    ///
    /// # Errors
    /// If it cannot be read or is not a Llama model's.
    pub fn open(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let mut file = BufReader::new(File::open(path).with_context(name)?);
        let content = Content::read(&mut file).with_context(name)?;
        let mut tensor = |name: &str| content.tensor(&mut file, name, &Device::Cpu);
        let matrix = |tensor: QTensor| -> candle_core::Result<QMatMul> {
            // candle multiplies q4_1 without vector instructions, many times slower. As q8_0, in blocks of both signs, a
            // weight moves by at most 1/17 of a step of q4_1.
            let slow = tensor.dtype() == GgmlDType::Q4_1;
            let wide = || QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0);
            QMatMul::from_qtensor(if slow { wide()? } else { tensor })
        };
        let vector = |tensor: QTensor| tensor.dequantize(&Device::Cpu)?.to_vec1();
        let config = Config::read(&content).with_context(name)?;
        let mut blocks = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let mut of = |part: &str| tensor(&format!("blk.{layer}.{part}.weight"));
            blocks.push(Block {
                attention_norm: vector(of("attn_norm")?)?,
                q: matrix(of("attn_q")?)?,
                k: matrix(of("attn_k")?)?,
                v: matrix(of("attn_v")?)?,
                o: matrix(of("attn_output")?)?,
                mlp_norm: vector(of("ffn_norm")?)?,
                gate: matrix(of("ffn_gate")?)?,
                up: matrix(of("ffn_up")?)?,
                down: matrix(of("ffn_down")?)?,
            });
        }
        let embedding = matrix(tensor("token_embd.weight")?)?;
        // Small models use the embedding table for the output too.
        let output = match content.tensor_infos.contains_key("output.weight") {
            true => matrix(tensor("output.weight")?)?,
            false => embedding.clone(),
        };
        let norm = vector(tensor("output_norm.weight")?)?;
        let rope = Rope::new(config.head_dim, config.rope_base);
        Ok(Self { tokenizer: tokenizer::of(&content)?, config, rope, embedding, blocks, norm, output })
    }

    /// Runs `tokens`, which follow those in the session, and returns the logits of what comes after the last of them. One
    /// token is a decode step; several are a prompt, taken layer by layer: each layer's index is trained on all of it.
    ///
    /// # Errors
    /// If a token is none of the model's, or what candle or Tersa report.
    pub fn forward(&self, session: &mut Session, tokens: &[u32]) -> Result<Vec<f32>> {
        let Config { n_heads, n_kv_heads, eps, hidden, .. } = self.config;
        let (n, first) = (tokens.len(), session.len());
        ensure!(n > 0, "no token to run");
        let ids = Tensor::from_slice(tokens, n, &Device::Cpu)?;
        let mut x: Vec<f32> = self.embedding.embedding(&ids)?.flatten_all()?.to_vec1()?;
        for (block, cache) in self.blocks.iter().zip(session.layers_mut()) {
            let h = rms_norm(&x, &block.attention_norm, eps);
            let (mut q, mut k, v) =
                (product(&block.q, &h, n)?, product(&block.k, &h, n)?, product(&block.v, &h, n)?);
            self.rope.apply(&mut q, n_heads, first);
            self.rope.apply(&mut k, n_kv_heads, first);
            let attended = cache.attend(&q, &k, &v)?;
            add(&mut x, &product(&block.o, &attended, n)?);
            let h = rms_norm(&x, &block.mlp_norm, eps);
            let gated = silu_gate(&product(&block.gate, &h, n)?, &product(&block.up, &h, n)?);
            add(&mut x, &product(&block.down, &gated, n)?);
        }
        session.took(tokens);
        product(&self.output, &rms_norm(&x[(n - 1) * hidden..], &self.norm, eps), 1)
    }

    /// Runs `prompt` and chooses the likeliest token `n` times; `on_token` says whether to go on.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and what `on_token` reports.
    pub fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        n: usize,
        mut on_token: impl FnMut(u32) -> Result<bool>,
    ) -> Result<Generated> {
        let start = Instant::now();
        let mut logits = self.forward(session, prompt)?;
        let prompt = start.elapsed();
        let start = Instant::now();
        let mut tokens = Vec::with_capacity(n);
        loop {
            let token = u32::try_from(argmax(&logits))?;
            tokens.push(token);
            if !on_token(token)? || tokens.len() >= n {
                return Ok(Generated { tokens, prompt, steps: start.elapsed() });
            }
            logits = self.forward(session, &[token])?;
        }
    }
}

/// `n` rows times a matrix.
fn product(weights: &QMatMul, rows: &[f32], n: usize) -> Result<Vec<f32>> {
    let rows = Tensor::from_slice(rows, (n, rows.len() / n), &Device::Cpu)?;
    Ok(weights.forward(&rows)?.flatten_all()?.to_vec1()?)
}
