//! What a user can say that files do not: axis order, tensor names, head sizes, rotation.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::SourceFormat;

/// How to read a dump, where the files leave it open.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Read as this format instead of looking at the first bytes.
    pub format: Option<SourceFormat>,
    /// Order of the tensors' axes (`--layout`).
    pub layout: Option<AxisOrder>,
    /// Names of the tensors (`--map`).
    pub map: Option<NameMap>,
    /// Elements of one head's row.
    pub head_dim: Option<usize>,
    /// Key/value heads.
    pub n_kv_heads: Option<usize>,
    /// A model's `config.json`; without it one beside the dump is read.
    pub model_config: Option<PathBuf>,
    /// Whether quantized llama.cpp caches hold rotated rows, where the file does not say.
    pub rotation: Rotation,
}

/// What to think of quantized llama.cpp caches in file versions that do not say whether their rows are rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// Rotated, as llama.cpp does by default.
    #[default]
    Assume,
    /// Not rotated (`LLAMA_ATTN_ROT_DISABLE=1` was set).
    None,
}

impl FromStr for Rotation {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "assume" => Ok(Self::Assume),
            "none" => Ok(Self::None),
            _ => bail!("rotation is `assume` or `none`, not `{s}`"),
        }
    }
}

/// One axis of a stored array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// Layers, in arrays that hold all of them.
    Layer,
    /// Keys, then values.
    KeyValue,
    /// Sequences of a batch.
    Batch,
    /// Tokens.
    Token,
    /// Key/value heads.
    Head,
    /// Elements of one head's row.
    Dim,
    /// All heads' rows side by side: heads x dim.
    HeadDim,
}

/// The order of an array's axes, slowest first: `bhtd`, `bthd`, `hbtd`, `thd`, `htd`, `t(hd)`, `l2htd`, `2lt(hd)`, ...
///
/// `l` layers, `2` keys and values, `b` batch, `t` tokens, `h` heads, `d` elements of a head, `(hd)` both in one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisOrder {
    axes: Vec<Axis>,
}

impl AxisOrder {
    pub(crate) fn axes(&self) -> &[Axis] {
        &self.axes
    }

    pub(crate) fn position(&self, axis: Axis) -> Option<usize> {
        self.axes.iter().position(|&a| a == axis)
    }
}

impl FromStr for AxisOrder {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        let mut axes = Vec::new();
        let mut rest = s;
        while let Some(c) = rest.chars().next() {
            let axis = match c {
                'l' => Axis::Layer,
                '2' => Axis::KeyValue,
                'b' => Axis::Batch,
                't' => Axis::Token,
                'h' => Axis::Head,
                'd' => Axis::Dim,
                '(' if rest.starts_with("(hd)") => Axis::HeadDim,
                _ => bail!(
                    "layout `{s}`: axes are l, 2, b, t, h, d and (hd), as in `bhtd`, `t(hd)` or `l2htd`"
                ),
            };
            ensure!(!axes.contains(&axis), "layout `{s}` names an axis twice");
            axes.push(axis);
            rest = &rest[if axis == Axis::HeadDim { 4 } else { 1 }..];
        }
        let has = |a| axes.contains(&a);
        let rows =
            (has(Axis::Head) && has(Axis::Dim)) != has(Axis::HeadDim) && has(Axis::Head) == has(Axis::Dim);
        ensure!(has(Axis::Token) && rows, "layout `{s}` needs t, and either h and d or (hd)");
        Ok(Self { axes })
    }
}

impl std::fmt::Display for AxisOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.axes.iter().try_for_each(|a| {
            f.write_str(match a {
                Axis::Layer => "l",
                Axis::KeyValue => "2",
                Axis::Batch => "b",
                Axis::Token => "t",
                Axis::Head => "h",
                Axis::Dim => "d",
                Axis::HeadDim => "(hd)",
            })
        })
    }
}

/// Which tensors hold keys and values: `K=...{i}...,V=...{i}...`, where `{i}` stands for the layer's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMap {
    pub(crate) k: Option<NameTemplate>,
    pub(crate) v: Option<NameTemplate>,
}

/// A tensor name with the layer's number left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameTemplate {
    prefix: String,
    suffix: String,
}

impl NameTemplate {
    /// The layer number that makes this template `name`.
    pub(crate) fn layer_of(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&self.prefix)?.strip_suffix(&self.suffix)?;
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    }
}

impl FromStr for NameMap {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        let mut map = Self { k: None, v: None };
        for part in s.split(',') {
            let (kind, template) = part
                .split_once('=')
                .with_context(|| format!("map `{s}` is not of the form K=...{{i}}...,V=...{{i}}..."))?;
            let (prefix, suffix) = template
                .split_once("{i}")
                .with_context(|| format!("map `{part}` has no {{i}} where the layer's number stands"))?;
            let slot = match kind {
                "K" | "k" => &mut map.k,
                "V" | "v" => &mut map.v,
                _ => bail!("map `{part}` names `{kind}`; only K and V can be mapped"),
            };
            ensure!(slot.is_none(), "map `{s}` gives {kind} twice");
            *slot = Some(NameTemplate { prefix: prefix.to_owned(), suffix: suffix.to_owned() });
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_parse_and_print_themselves() {
        for s in ["bhtd", "bthd", "hbtd", "thd", "htd", "t(hd)", "bt(hd)", "l2htd", "2lhtd", "2lt(hd)"] {
            assert_eq!(s.parse::<AxisOrder>().unwrap().to_string(), s);
        }
        for s in ["", "bhd", "ht", "tt(hd)", "th(hd)", "thd(hd)", "t(hd", "xyz", "tdd"] {
            assert!(s.parse::<AxisOrder>().is_err(), "{s}");
        }
    }

    #[test]
    fn maps_find_the_layer_between_prefix_and_suffix() {
        let map: NameMap = "K=cache.{i}.key.data,V=cache.{i}.val".parse().unwrap();
        assert_eq!(map.k.as_ref().unwrap().layer_of("cache.17.key.data"), Some(17));
        assert_eq!(map.k.as_ref().unwrap().layer_of("cache.x.key.data"), None);
        assert_eq!(map.k.as_ref().unwrap().layer_of("cache.99999999999.key.data"), None);
        assert_eq!(map.v.as_ref().unwrap().layer_of("cache.3.val"), Some(3));
        for s in ["K=abc", "Q={i}", "K={i},K={i}", "nonsense"] {
            assert!(s.parse::<NameMap>().is_err(), "{s}");
        }
    }
}
