//! The JSON text in a container: what the source said about itself and how the file was made.
//!
//! Nothing in it depends on when, where or on how many threads the file was made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tersa_core::num::DType;

use crate::args::SelectArgs;
use crate::dump::{Dump, DumpStream, Positions, Queries, SourceFormat};

/// The metadata of a `.tersa` file. Fields that a release does not know are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Program and version that wrote the file.
    pub creator: String,
    /// Format of the source, see [`SourceFormat::name`].
    pub source_format: String,
    /// What the source said about itself.
    pub source: Map<String, Value>,
    /// Whether keys are stored before or after RoPE: `pre`, `post` or `unknown`.
    pub rope: String,
    /// False if rows were not known to be several heads.
    pub heads_known: bool,
    /// False if rows may or may not be rotated.
    pub rotation_known: bool,
    /// What the reader assumed.
    pub assumptions: Vec<String>,
    /// The target and what stayed exact.
    pub plan: Value,
    /// The part of the source that was packed.
    pub selection: Selection,
    /// Captured queries among the verbatim bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueriesAt>,
    /// Names of the source's tensors that are neither keys, values nor queries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// Positions of the tokens by part, as runs `[first, count]`, where they are not simply 0, 1, 2, ...
    pub positions: BTreeMap<u32, Vec<(i32, u32)>>,
}

/// Where the captured queries of a layer are in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueriesAt {
    /// Layer number.
    pub layer: u32,
    /// Query heads, queries of each, elements of each.
    pub shape: [usize; 3],
    /// Element type.
    pub dtype: String,
    /// Which of the source's files.
    pub file: usize,
    /// Byte offset in it.
    pub offset: usize,
}

impl QueriesAt {
    fn of(q: &Queries) -> Self {
        let Queries { layer, shape, dtype, file, offset } = *q;
        Self { layer, shape, dtype: dtype.name().into(), file, offset }
    }

    /// As readers of dumps give them, if this is sound: the numbers are a file's.
    fn queries(&self) -> Option<Queries> {
        let dtype = DType::from_name(&self.dtype).filter(|d| d.is_plain())?;
        let n = self.shape.iter().try_fold(1, |n: usize, &size| n.checked_mul(size))?;
        dtype.bytes_for(n)?;
        Some(Queries { layer: self.layer, shape: self.shape, dtype, file: self.file, offset: self.offset })
    }
}

/// What `--tokens` and `--heads` left of every stream, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// Heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<String>,
}

impl Selection {
    /// What `args` select.
    #[must_use]
    pub fn of(args: &SelectArgs) -> Self {
        let text = |set: &dyn std::fmt::Display| set.to_string();
        Self { tokens: args.tokens.as_ref().map(|t| text(t)), heads: args.heads.as_ref().map(|h| text(h)) }
    }

    /// The same as options, if they are sound.
    #[must_use]
    pub fn args(&self) -> Option<SelectArgs> {
        let tokens = self.tokens.as_deref().map(str::parse).transpose().ok()?;
        let heads = self.heads.as_deref().map(str::parse).transpose().ok()?;
        Some(SelectArgs { layers: None, tokens, heads })
    }
}

impl Metadata {
    /// About the `streams` of `dump`.
    #[must_use]
    pub fn of(dump: &Dump, streams: &[&DumpStream], plan: Value) -> Self {
        let positions = streams.iter().filter_map(|s| Some((s.part, s.positions.as_ref()?.runs().collect())));
        Self {
            creator: concat!("tersa ", env!("CARGO_PKG_VERSION")).into(),
            source_format: dump.format.name().into(),
            source: dump.meta.clone(),
            rope: rope(dump).into(),
            heads_known: dump.heads_known,
            rotation_known: dump.rotation_known,
            assumptions: dump.assumptions.clone(),
            plan,
            selection: Selection::default(),
            positions: positions.collect(),
            ..Self::default()
        }
    }

    /// Adds what the source holds beside keys and values, if its bytes are kept.
    #[must_use]
    pub fn with_others(mut self, dump: &Dump) -> Self {
        self.queries = dump.queries.iter().map(QueriesAt::of).collect();
        self.others.clone_from(&dump.others);
        self
    }

    /// The captured queries; those that make no sense are not given.
    #[must_use]
    pub fn queries(&self) -> Vec<Queries> {
        self.queries.iter().filter_map(QueriesAt::queries).collect()
    }

    /// The format of the source, if this release knows it.
    #[must_use]
    pub fn format(&self) -> Option<SourceFormat> {
        SourceFormat::from_name(&self.source_format)
    }

    /// The positions of a part's `n_tokens` tokens, if they were recorded and there are that many.
    #[must_use]
    pub fn positions(&self, part: u32, n_tokens: usize) -> Option<Positions> {
        Positions::from_runs(self.positions.get(&part)?, n_tokens)
    }
}

/// Caches of running engines hold keys after RoPE; a plain tensor file may hold either and rarely says.
fn rope(dump: &Dump) -> &'static str {
    match dump.format {
        SourceFormat::LlamaSession
        | SourceFormat::LlamaSequence
        | SourceFormat::VllmExample
        | SourceFormat::Mlx => "post",
        _ => {
            let said = |what: &str| {
                dump.meta
                    .values()
                    .filter_map(Value::as_str)
                    .any(|text| text.to_ascii_lowercase().contains(what))
            };
            match (said("pre-rope"), said("post-rope")) {
                (true, false) => "pre",
                (false, true) => "post",
                _ => "unknown",
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_as_runs() {
        let positions: Positions = [188, 189, 190, 0, 1, 7, 7].into_iter().collect();
        let packed = positions.runs().collect();
        let meta = Metadata { positions: [(1, packed)].into(), ..Metadata::default() };
        assert_eq!(meta.positions(1, 7), Some(positions));
        assert_eq!(meta.positions(1, 8), None, "a count that does not fit is no list of positions");
        assert_eq!(meta.positions(0, 7), None);
    }

    #[test]
    fn unknown_and_missing_fields_do_not_matter() {
        let meta: Metadata = serde_json::from_str(r#"{"creator": "x", "later": [1]}"#).unwrap();
        assert_eq!(meta.creator, "x");
        assert!(meta.format().is_none());
    }
}
