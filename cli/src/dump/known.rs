//! What is known of a cache's shape from outside its tensors: options, a model's config, metadata.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::options::{AxisOrder, OpenOptions};

/// Numbers that decide between readings of an array.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) n_kv_heads: Option<usize>,
    pub(crate) head_dim: Option<usize>,
    pub(crate) n_tokens: Option<usize>,
    pub(crate) layout: Option<AxisOrder>,
    /// Said when a number that nobody gave on purpose was used.
    pub(crate) source: Option<String>,
}

/// A config larger than this is not a model's.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

impl Known {
    /// From the options, and a `config.json` that they name or that lies in `folder`.
    pub(crate) fn new(options: &OpenOptions, folder: Option<&Path>) -> Result<Self> {
        ensure!(
            options.n_kv_heads != Some(0) && options.head_dim != Some(0),
            "heads and head sizes are at least 1"
        );
        let mut known = Self {
            n_kv_heads: options.n_kv_heads,
            head_dim: options.head_dim,
            layout: options.layout.clone(),
            ..Self::default()
        };
        if let Some(path) = &options.model_config {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let config = serde_json::from_str(&text)
                .with_context(|| format!("{} is not a model's config", path.display()))?;
            known.add_config(&config);
        } else if known.n_kv_heads.is_none() || known.head_dim.is_none() {
            let beside = folder.map(|f| f.join("config.json"));
            let config = beside
                .filter(|p| std::fs::metadata(p).is_ok_and(|m| m.is_file() && m.len() <= MAX_CONFIG_BYTES));
            let config = config.and_then(|p| serde_json::from_slice(&std::fs::read(p).ok()?).ok());
            if config.is_some_and(|config| known.add_config(&config)) {
                known.source = Some("head counts and sizes come from the config.json beside the dump".into());
            }
        }
        Ok(known)
    }

    /// Fills gaps from a Hugging Face model config; returns whether it filled any.
    fn add_config(&mut self, config: &Value) -> bool {
        let config = config.get("text_config").unwrap_or(config);
        let number = |key: &str| usize::try_from(config.get(key)?.as_u64()?).ok().filter(|&n| n != 0);
        let n_heads = number("num_attention_heads");
        let head_dim =
            number("head_dim").or_else(|| Some(number("hidden_size")? / n_heads?)).filter(|&d| d != 0);
        let n_kv_heads = number("num_key_value_heads").or(n_heads);
        let new = (self.n_kv_heads.is_none() && n_kv_heads.is_some())
            || (self.head_dim.is_none() && head_dim.is_some());
        self.n_kv_heads = self.n_kv_heads.or(n_kv_heads);
        self.head_dim = self.head_dim.or(head_dim);
        new
    }

    /// Fills gaps from a file's metadata.
    pub(crate) fn add_meta(&mut self, meta: &Map<String, Value>) {
        let number = |keys: &[&str]| {
            keys.iter().find_map(|&k| match meta.get(k)? {
                Value::String(s) => s.trim().parse::<usize>().ok(),
                v => usize::try_from(v.as_u64()?).ok(),
            })
        };
        let heads = number(&["kv_heads", "n_kv_heads", "num_key_value_heads"]);
        self.n_kv_heads = self.n_kv_heads.or(heads.filter(|&n| n != 0));
        self.head_dim = self.head_dim.or(number(&["head_dim"]).filter(|&n| n != 0));
        self.n_tokens = self.n_tokens.or(number(&["n_tokens", "num_tokens", "seq_len"]));
        if self.layout.is_none() {
            self.layout = meta.get("layout").and_then(Value::as_str).and_then(layout_in_words);
        }
    }
}

/// Reads `htd`, or the first bracketed list of axis words as in `k,v: [kv_head, token, dim]; q: ...`.
fn layout_in_words(text: &str) -> Option<AxisOrder> {
    if let Ok(order) = text.parse() {
        return Some(order);
    }
    let (_, list) = text.split_once('[')?;
    let (list, _) = list.split_once(']')?;
    let letters: Option<String> = list
        .split(',')
        .map(|word| match word.trim().to_ascii_lowercase().as_str() {
            "b" | "batch" => Some("b"),
            "h" | "head" | "heads" | "kv_head" | "kv_heads" | "n_kv_heads" => Some("h"),
            "t" | "token" | "tokens" | "n_tokens" | "seq" => Some("t"),
            "d" | "dim" | "head_dim" => Some("d"),
            _ => None,
        })
        .collect();
    letters?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_gives_heads_and_head_size() {
        let mut known = Known::default();
        let config =
            serde_json::json!({"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3});
        assert!(known.add_config(&config));
        assert_eq!((known.n_kv_heads, known.head_dim), (Some(3), Some(64)));
        let nested = serde_json::json!({"text_config": {"head_dim": 256, "num_attention_heads": 4}});
        let mut known = Known { n_kv_heads: Some(1), ..Known::default() };
        assert!(known.add_config(&nested));
        assert_eq!((known.n_kv_heads, known.head_dim), (Some(1), Some(256)));
        assert!(!Known::default().add_config(&serde_json::json!({"head_dim": 0, "hidden_size": "x"})));
    }

    #[test]
    fn layout_is_read_from_letters_or_words() {
        let order = |s: &str| layout_in_words(s).map(|o| o.to_string());
        assert_eq!(order("htd").as_deref(), Some("htd"));
        assert_eq!(order("k,v: [kv_head, token, dim]; q: [q_head, query, dim]").as_deref(), Some("htd"));
        assert_eq!(order("[batch, tokens, heads, head_dim]").as_deref(), Some("bthd"));
        assert_eq!(order("row major"), None);
        assert_eq!(order("[a, b"), None);
    }
}
