//! The tokenizer that a GGUF file brings along.

use anyhow::{Result, anyhow, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// The tokenizer of a model: candle reads vocabulary and merges.
///
/// # Errors
/// If the file has none, or one whose way of cutting words is unknown.
pub fn of(content: &Content) -> Result<Tokenizer> {
    let mut tokenizer = <Tokenizer as TokenizerFromGguf>::from_gguf(content)?;
    let pre = content.metadata.get("tokenizer.ggml.pre").and_then(|v| v.to_string().ok());
    match pre.map(String::as_str) {
        // Every digit a word of its own, then GPT-2's words, without a space before the first: candle does not know it.
        Some("smollm") => {
            let words =
                Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]);
            tokenizer.with_pre_tokenizer(Some(words));
        }
        pre => ensure!(
            matches!(pre, Some("qwen2" | "llama3" | "smaug-bpe")),
            "words are cut as {pre:?} says, which is not known here"
        ),
    }
    Ok(tokenizer)
}

/// The tokens of a text, in which names of special tokens stand for them.
///
/// # Errors
/// What the tokenizer reports.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false).map_err(|e| anyhow!(e))?.get_ids().to_vec())
}

/// The text of tokens, special ones included.
///
/// # Errors
/// What the tokenizer reports.
pub fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String> {
    tokenizer.decode(tokens, false).map_err(|e| anyhow!(e))
}
