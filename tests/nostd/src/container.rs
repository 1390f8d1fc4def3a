//! A whole container written and read in memory: codec, chunks, side data, checksums.

use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::ffi::{CStr, c_char};
use core::ops::Range;
use core::slice;

use tersa_core::codec::chunk::StreamCodec;
use tersa_core::format::HeadStats;
use tersa_core::codec::{CodecSpec, Side, Workspace, prepare};
use tersa_core::format::{Head, Kind, Reader, StreamEntry, StreamInfo, Writer};
use tersa_core::num::DType;
use tersa_core::num::convert::to_f32;
use tersa_core::view::{KvShape, KvStrides, KvView};

const CHUNK_TOKENS: usize = 16;

/// Packs the f16 keys of one head into a container and returns its length; 0 if that fails or `out` is too small.
///
/// # Safety
/// `spec` is a C string, `rows` points to `2 * n_tokens * head_dim` bytes and `out` to `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nostd_pack(
    spec: *const c_char,
    rows: *const u8,
    n_tokens: usize,
    head_dim: usize,
    out: *mut u8,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise.
    let (spec, rows, out) = unsafe {
        let rows = slice::from_raw_parts(rows, 2 * n_tokens * head_dim);
        (CStr::from_ptr(spec), rows, slice::from_raw_parts_mut(out, capacity))
    };
    let shape = KvShape { dtype: DType::F16, n_tokens, n_kv_heads: 1, head_dim };
    match spec.to_str().ok().and_then(|spec| pack(spec, rows, shape)) {
        Some(file) if file.len() <= out.len() => {
            out[..file.len()].copy_from_slice(&file);
            file.len()
        }
        _ => 0,
    }
}

/// Checks the container and decodes its keys into `rows`; 0, or 1 if it is damaged or of another size.
///
/// # Safety
/// `file` points to `len` bytes and `rows` to `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nostd_unpack(file: *const u8, len: usize, rows: *mut u8, capacity: usize) -> i32 {
    // SAFETY: the caller's promise.
    let (file, rows) =
        unsafe { (slice::from_raw_parts(file, len), slice::from_raw_parts_mut(rows, capacity)) };
    i32::from(unpack(file, rows).is_none())
}

fn chunks(n_tokens: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n_tokens).step_by(CHUNK_TOKENS).map(move |start| start..n_tokens.min(start + CHUNK_TOKENS))
}

fn pack(spec: &str, rows: &[u8], shape: KvShape) -> Option<Vec<u8>> {
    let KvShape { dtype, n_tokens, head_dim, .. } = shape;
    let spec: CodecSpec = spec.parse().ok()?;
    let mut training = vec![0.0; n_tokens * head_dim];
    to_f32(dtype, rows, &mut training).ok()?;
    let side = Side::make(spec, head_dim, 1, Some(&training)).ok()?;
    let exact = vec![0, 1];
    let codec = prepare(spec, head_dim, dtype, &side).ok()?;
    let codec = StreamCodec::new(dtype, head_dim, vec![Arc::from(codec)], exact.clone()).ok()?;
    let view = KvView::new(rows, shape, KvStrides::head_major(&shape)).ok()?;

    let mut writer = Writer::new(Vec::new()).ok()?;
    let size = codec.workspace(CHUNK_TOKENS);
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut stats = [HeadStats::default()];
    for (chunk, tokens) in chunks(n_tokens).enumerate() {
        let mut payload = vec![0; codec.bound(tokens.clone())];
        let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: None };
        let n = codec.encode(&view, tokens, &mut payload, &mut ws, Some(&mut stats)).ok()?;
        writer.write_chunk(0, chunk, &payload[..n]).ok()?;
    }
    let head = Head {
        codec: writer.codec(&format!("{spec}")).ok()?,
        side: writer.write_side(&side.to_stored()).ok()?,
    };
    let chunk_tokens = u32::try_from(CHUNK_TOKENS).ok()?;
    let info = StreamInfo { part: 0, layer: 0, kind: Kind::K, shape, chunk_tokens, hadamard: 0 };
    let exact = writer.write_exact(&exact).ok()?;
    let stats = stats.map(Into::into).to_vec();
    writer.finish(&[StreamEntry { info, heads: vec![head], exact, stats }], "", None).ok()
}

fn unpack(file: &[u8], rows: &mut [u8]) -> Option<()> {
    let reader = Reader::open(file).ok()?;
    reader.verify(|_, _| {}).ok()?;
    let KvShape { dtype, head_dim, n_tokens, .. } = reader.streams().first()?.shape;
    let head = *reader.heads(0).ok()?.first()?;
    let spec: CodecSpec = reader.codecs()[head.codec as usize].parse().ok()?;
    let side = Side::from_stored(reader.side(&head).ok()?, spec, head_dim).ok()?;
    let codec = prepare(spec, head_dim, dtype, &side).ok()?;
    let codec = StreamCodec::new(dtype, head_dim, vec![Arc::from(codec)], reader.exact(0).ok()?).ok()?;
    if rows.len() != n_tokens * codec.row_bytes() {
        return None;
    }
    let index = reader.chunk_index(0).ok()?;
    let size = codec.workspace(CHUNK_TOKENS);
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut payload = Vec::new();
    for chunk in 0..index.chunks().len() {
        reader.read_chunk(&index, chunk, &mut payload).ok()?;
        let tokens = index.tokens(chunk);
        let range = tokens.start * codec.row_bytes()..tokens.end * codec.row_bytes();
        let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: None };
        codec.decode_head(&payload, tokens, 0, &mut rows[range], &mut ws).ok()?;
    }
    Some(())
}
