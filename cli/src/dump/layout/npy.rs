//! One numpy array `[layers, keys and values, heads, tokens, dim]`.

use anyhow::{Context, Result, bail, ensure};
use tersa_core::num::DType;
use tersa_core::view::KvStrides;

use super::{Layout, OutFile, Placement};
use crate::dump::{DumpStream, Kind, Skeleton, npy};

pub(super) fn layout(source: &Skeleton) -> Result<Layout> {
    const INSTEAD: &str = "write npz or safetensors instead";
    let first = source.streams.first().context("there is nothing to write")?;
    for s in &source.streams {
        let shape = |s: &DumpStream| (s.part, s.shape);
        ensure!(
            shape(s) == shape(first),
            "one array needs streams of one shape and type; layer {} and layer {} differ: {INSTEAD}",
            first.layer,
            s.layer
        );
    }
    let pairs = source.streams.as_chunks::<2>();
    let complete = pairs.1.is_empty()
        && pairs.0.iter().all(|[k, v]| k.layer == v.layer && k.kind == Kind::K && v.kind == Kind::V);
    ensure!(complete, "one array needs keys and values of every layer: {INSTEAD}");
    let (dtype, mut notes) = element_type(source)?;
    let (n_layers, shape) = (pairs.0.len(), first.shape);
    if pairs.0.iter().zip(0..).any(|([k, _], i)| k.layer != i) {
        let layers: Vec<String> = pairs.0.iter().map(|[k, _]| k.layer.to_string()).collect();
        notes.push(format!("layers {} are numbered from 0 in one array", layers.join(", ")));
    }
    notes.extend(super::left_out(source, false, false));
    let sizes = [n_layers, 2, shape.n_kv_heads, shape.n_tokens, shape.head_dim];
    let head = npy::header(descr(dtype), &sizes, 0)?;
    let stream_len = super::stream_len(first, dtype)?;
    let mut at = head.len() as u64;
    let mut placements = Vec::new();
    for (stream, s) in source.streams.iter().enumerate() {
        let unrotate = super::plain_type(s, source)?.1;
        let strides = KvStrides::head_major(&shape);
        placements.push(Placement { stream, file: 0, offset: at, dtype, strides, unrotate });
        at += stream_len;
    }
    let file = OutFile { name: "kv.npy".into(), len: at, verbatim: vec![(0, head)], positions: Vec::new() };
    Ok(Layout { files: vec![file], placements, notes, ..Layout::default() })
}

/// The type that all streams have in numpy.
fn element_type(source: &Skeleton) -> Result<(DType, Vec<String>)> {
    let mut notes = super::common_notes(source);
    let mut types = Vec::new();
    for s in &source.streams {
        types.push(numpy_type(super::plain_type(s, source)?.0, &mut notes));
    }
    types.dedup();
    match types[..] {
        [dtype] => Ok((dtype, notes)),
        _ => bail!("one array needs one element type: write npz or safetensors instead"),
    }
}

/// numpy has no bfloat16 and no 8-bit floats; the next type that holds every value takes their place.
pub(super) fn numpy_type(dtype: DType, notes: &mut Vec<String>) -> DType {
    let wider = match dtype {
        DType::Bf16 => DType::F32,
        DType::F8E4m3 | DType::F8E5m2 => DType::F16,
        _ => return dtype,
    };
    let note = format!("numpy has no {dtype}: written as {wider}, which holds every value");
    if !notes.contains(&note) {
        notes.push(note);
    }
    wider
}

/// numpy's name for a type that [`numpy_type`] gave.
pub(super) const fn descr(dtype: DType) -> &'static str {
    if matches!(dtype, DType::F32) { "<f4" } else { "<f2" }
}
