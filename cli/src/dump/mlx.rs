//! mlx-lm's prompt caches: safetensors whose tensors are `{layer}.{item}` and whose metadata names each layer's class.

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};

use super::Kind;
use super::axes::add_streams;
use super::known::Known;
use super::options::AxisOrder;
use super::tensor::Tensor;
use super::{Content, names};

/// The class of every layer's cache. The metadata is a flattened list whose second (since 2026) or third item is the
/// list of class names.
pub(crate) fn classes(meta: &Map<String, Value>) -> Option<Vec<&str>> {
    ["1", "2"].into_iter().find_map(|list| {
        let class = |i: usize| meta.get(&format!("{list}.{i}"))?.as_str();
        let is_cache = |c: &&str| c.ends_with("Cache") || c.ends_with("CacheList");
        class(0).filter(is_cache)?;
        Some((0..).map_while(class).collect())
    })
}

/// Adds the plain caches among the layers; those of other kinds stay in the file as they are.
pub(crate) fn read(tensors: &[Tensor], classes: &[&str], known: &Known, content: &mut Content) -> Result<()> {
    let order: AxisOrder = "bhtd".parse()?;
    for (layer, &class) in classes.iter().enumerate() {
        match class {
            "KVCache" | "ChunkedKVCache" | "ConcatenateKVCache" => {}
            "RotatingKVCache" => content.assume(
                "RotatingKVCache: once its window is full, rows are a ring and not in the order of tokens"
                    .into(),
            ),
            "QuantizedKVCache" => bail!(
                "layer {layer} is a QuantizedKVCache, which is not supported: save the cache before `to_quantized`, \
                 or dequantize it with mlx first"
            ),
            other => {
                content.assume(format!(
                    "layers of class {other} are not plain caches; they are kept as they are"
                ));
                continue;
            }
        }
        let item = |i| tensors.iter().find(|t| t.name == format!("{layer}.{i}"));
        // An empty cache saves nothing.
        let (Some(k), Some(v)) = (item(0), item(1)) else { continue };
        let layer = u32::try_from(layer)?;
        for (kind, t) in [(Kind::K, k), (Kind::V, v)] {
            ensure!(
                t.rank() == 4,
                "`{}` has shape {:?}; mlx caches are [batch, heads, tokens, dim]",
                t.name,
                t.shape
            );
            add_streams(t, &order, known, layer, kind, content)?;
        }
    }
    ensure!(
        !content.streams.is_empty(),
        "no layer is a plain cache; there are {}",
        names::some_names(tensors)
    );
    Ok(())
}
