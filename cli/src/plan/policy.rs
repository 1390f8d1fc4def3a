//! Policy files: codecs for parts of a cache, in TOML.
//!
//! ```toml
//! [[rule]]             # the first rule that matches decides
//! layers = "0-1,29"    # left out: every layer
//! heads = "0"          # left out: every head
//! kind = "k"           # left out: keys and values
//! codec = "q8_0"
//! ```

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tersa_core::codec::{CodecSpec, KvSpec};

use crate::args::IndexSet;
use crate::dump::Kind;
use crate::exit::Fault;

/// Rules in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    layers: Option<IndexSet>,
    heads: Option<IndexSet>,
    kind: Option<Kind>,
    codec: KvSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    layers: Option<String>,
    heads: Option<String>,
    kind: Option<String>,
    codec: String,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// If it cannot be read or a rule makes no sense; the message says which.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).map_err(|e| Fault::usage(format!("{}: {e:#}", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        // toml's own message spans several lines; the first sentence and the line number say it all.
        let file: FileText = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", e.message())
        })?;
        let rules = file.rule.iter().enumerate().map(|(i, r)| {
            Rule::parse(r).map_err(|e| anyhow::anyhow!("rule {} of {}: {e}", i + 1, file.rule.len()))
        });
        Ok(Self { rules: rules.collect::<Result<_>>()? })
    }

    /// The codec that the first matching rule gives, if any rule matches.
    #[must_use]
    pub fn codec(&self, layer: u32, head: usize, kind: Kind) -> Option<CodecSpec> {
        let in_set = |set: &Option<IndexSet>, n: usize| set.as_ref().is_none_or(|s| s.contains(n));
        let rule = self.rules.iter().find(|r| {
            in_set(&r.layers, layer as usize) && in_set(&r.heads, head) && r.kind.is_none_or(|k| k == kind)
        })?;
        Some(match kind {
            Kind::K => rule.codec.k,
            Kind::V => rule.codec.v,
        })
    }
}

impl Rule {
    fn parse(text: &RuleText) -> Result<Self, String> {
        let set = |s: &Option<String>| s.as_deref().map(str::parse::<IndexSet>).transpose();
        Ok(Self {
            layers: set(&text.layers).map_err(|e| format!("layers: {e}"))?,
            heads: set(&text.heads).map_err(|e| format!("heads: {e}"))?,
            kind: match text.kind.as_deref() {
                None => None,
                Some("k" | "K") => Some(Kind::K),
                Some("v" | "V") => Some(Kind::V),
                Some(other) => return Err(format!("kind: `{other}` is neither k nor v")),
            },
            codec: text.codec.parse().map_err(|e| format!("codec: `{}`: {e}", text.codec))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = Policy::parse(
            "[[rule]]\nlayers = \"0-1\"\nheads = \"2\"\nkind = \"v\"\ncodec = \"raw\"\n\
             [[rule]]\nlayers = \"1\"\ncodec = \"k=q8_0,v=had+lm4\"\n",
        )
        .unwrap();
        let name = |layer, head, kind| policy.codec(layer, head, kind).map(|c| c.to_string());
        assert_eq!(name(1, 2, Kind::V).as_deref(), Some("raw"));
        assert_eq!(name(1, 1, Kind::V).as_deref(), Some("had+lm4"));
        assert_eq!(name(1, 2, Kind::K).as_deref(), Some("q8_0"));
        assert_eq!(name(0, 1, Kind::V), None);
        assert_eq!(name(2, 2, Kind::V), None);
    }

    #[test]
    fn errors_say_which_rule_or_line() {
        let message = |text: &str| format!("{:#}", Policy::parse(text).unwrap_err());
        assert!(message("[[rule]]\ncodec = \"q7\"").contains("rule 1 of 1: codec"));
        assert!(message("[[rule]]\nkind = \"x\"\ncodec = \"raw\"").contains("neither k nor v"));
        assert!(message("[[rule]]\nlayer = \"1\"\ncodec = \"raw\"").contains("line 2"));
        assert!(message("rule = 3").contains("line 1"));
    }
}
