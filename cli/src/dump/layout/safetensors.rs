//! safetensors: `k.L{layer}` and `v.L{layer}`, `[heads, tokens, dim]`, one after another behind the header.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tersa_core::num::DType;
use tersa_core::view::KvStrides;

use super::{Layout, OutFile, Placement};
use crate::dump::llama::parse::Pieces;
use crate::dump::{Skeleton, SourceFormat};

pub(super) fn layout(source: &Skeleton) -> Result<Layout> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), Value::Object(metadata(source)));
    let mut end = 0;
    let mut add = |name: String, dtype: &str, shape: &[usize], len: u64| {
        let start = end;
        end += len;
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        start
    };
    let mut placements = Vec::new();
    for ((stream, s), name) in source.streams.iter().enumerate().zip(super::array_names(source)) {
        let (dtype, unrotate) = super::plain_type(s, source)?;
        let shape = [s.shape.n_kv_heads, s.shape.n_tokens, s.shape.head_dim];
        let len = super::stream_len(s, dtype)?;
        let offset = add(name, type_name(dtype), &shape, len);
        let strides = KvStrides::head_major(&s.shape);
        placements.push(Placement { stream, file: 0, offset, dtype, strides, unrotate });
    }
    let mut extras = Vec::new();
    for q in &source.queries {
        let file = source.files.get(q.file).context("queries of no file")?;
        let len = q.dtype.bytes_for(q.shape.iter().product()).unwrap_or(0);
        let bytes = Pieces::new(file.len, &file.verbatim).get(q.offset as u64, len);
        let bytes = bytes.context("queries are not among the bytes that were kept")?.to_vec();
        extras.push((add(format!("q.L{}", q.layer), type_name(q.dtype), &q.shape, len as u64), bytes));
    }
    let mut positions = Vec::new();
    for (name, list) in super::positions(source) {
        let len = (list.len() * super::POSITION_BYTES) as u64;
        positions.push((add(name, "I32", &[list.len()], len), list));
    }
    let mut text = serde_json::to_vec(&header)?;
    while !(8 + text.len()).is_multiple_of(64) {
        text.push(b' ');
    }
    let head = [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat();
    let data = head.len() as u64;
    placements.iter_mut().for_each(|p| p.offset += data);
    positions.iter_mut().for_each(|(at, _)| *at += data);
    let mut verbatim = vec![(0, head)];
    verbatim.extend(extras.into_iter().map(|(at, bytes)| (at + data, bytes)));
    let mut notes = super::common_notes(source);
    notes.extend(super::left_out(source, true, true));
    Ok(Layout {
        files: vec![OutFile { name: "kv.safetensors".into(), len: data + end, verbatim, positions }],
        placements,
        notes,
        ..Layout::default()
    })
}

const fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::Bf16 => "BF16",
        DType::F8E4m3 => "F8_E4M3",
        DType::F8E5m2 => "F8_E5M2",
        // Block types are written as f16.
        _ => "F16",
    }
}

/// The source's metadata as strings, and the numbers that tell a reader which axis is what.
fn metadata(source: &Skeleton) -> Map<String, Value> {
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        v => v.to_string(),
    };
    // mlx numbers its metadata, and readers know its files by that.
    let prefix = if source.format == SourceFormat::Mlx { "mlx." } else { "" };
    let mut meta: Map<String, Value> =
        source.meta.iter().map(|(k, v)| (format!("{prefix}{k}"), text(v).into())).collect();
    let mut same = |key: &str, number: &dyn Fn(&crate::dump::DumpStream) -> usize, told: bool| {
        let mut keys = source.streams.iter().filter(|s| s.kind == crate::dump::Kind::K).map(number);
        match keys.next().filter(|n| told && keys.all(|m| m == *n)) {
            Some(n) => meta.insert(key.into(), n.to_string().into()),
            None => meta.shift_remove(key),
        };
    };
    same("kv_heads", &|s| s.shape.n_kv_heads, source.heads_known);
    same("head_dim", &|s| s.shape.head_dim, source.heads_known);
    same("n_tokens", &|s| s.shape.n_tokens, true);
    meta.insert("layout".into(), "htd".into());
    meta
}
