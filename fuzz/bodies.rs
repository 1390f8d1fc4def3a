//! What each fuzz target does with its bytes. The targets include this file, and so does `cli/tests/fuzz_corpus.rs`,
//! which runs the same bodies over the committed corpus on a stable compiler.
//!
//! A body panics if a promise is broken: a parser that panics, reads past its input or allocates by what a header
//! claims; a decoder that does; a round trip that loses bits it promised to keep.
#![allow(dead_code, reason = "each target uses one of these")]

use std::sync::Arc;

use tersa_cli::dump::{self, OpenOptions};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{CodecSpec, KvSpec, Side, Workspace, prepare};
use tersa_core::format::HeadStats;
use tersa_core::format::{Head, Reader};
use tersa_core::num::DType;
use tersa_core::num::hash::xxh64;
use tersa_core::view::{KvShape, KvStrides, KvView};

/// A codec specification.
pub(crate) fn spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<CodecSpec>() {
        Ok(spec) => assert_eq!(spec.to_string().parse(), Ok(spec)),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    if let Ok(spec) = text.parse::<KvSpec>() {
        assert_eq!(spec.to_string().parse(), Ok(spec));
    }
}

pub(crate) fn safetensors(data: &[u8]) {
    read_dump("fuzz.safetensors", data);
}

pub(crate) fn npy(data: &[u8]) {
    read_dump("fuzz.npy", data);
}

pub(crate) fn npz(data: &[u8]) {
    read_dump("fuzz.npz", data);
}

pub(crate) fn llama(data: &[u8]) {
    read_dump("fuzz.bin", data);
}

/// Whatever a reader accepts must be readable to the last row.
fn read_dump(name: &str, data: &[u8]) {
    // Zip archives may inflate to much more than they are; the reader has a limit of its own for that.
    let Ok(dump) = dump::open_bytes(name, data.to_vec(), &OpenOptions::default()) else { return };
    for (i, stream) in dump.streams.iter().enumerate() {
        let view = dump.view(i).expect("a reader checks that its tensors lie within the file");
        let KvShape { n_tokens, n_kv_heads, head_dim, .. } = stream.shape;
        if let Some(positions) = &stream.positions {
            assert_eq!(positions.len(), n_tokens);
        }
        if n_tokens > 0 && n_kv_heads > 0 && head_dim > 0 {
            let mut row = vec![0; stream.shape.row_bytes()];
            view.copy_rows(0, 0..1, &mut row);
            view.copy_rows(n_kv_heads - 1, n_tokens - 1..n_tokens, &mut row);
        }
    }
    for q in &dump.queries {
        let [heads, queries, head_dim] = q.shape;
        let len = q.dtype.bytes_for(heads * queries * head_dim).expect("queries are of plain types");
        assert!(q.offset + len <= dump.files[q.file].bytes.len());
    }
}

/// A container as it is, and once more with its checksums put right, so that the parsers behind them are reached.
pub(crate) fn container(data: &[u8]) {
    read_container(data);
    let mut sealed = data.to_vec();
    seal(&mut sealed);
    if sealed != data {
        read_container(&sealed);
    }
}

fn read_container(data: &[u8]) {
    let Ok(reader) = Reader::open(data) else { return };
    let sound = reader.verify(|_, _| {}).is_ok();
    let (_, _, _) = (reader.metadata(), reader.stats(), reader.source());
    if let Ok(blocks) = reader.verbatim() {
        let mut block = Vec::new();
        for i in 0..blocks.len() {
            let read = reader.read_verbatim(&blocks, i, &mut block);
            assert!(read.is_ok() || !sound, "verify passed, yet verbatim block {i} cannot be read");
        }
    }
    for stream in 0..reader.streams().len() {
        read_stream(&reader, stream, sound);
    }
}

/// Decodes every chunk of a stream; the codecs may refuse it, but nothing may panic.
fn read_stream(reader: &Reader<&[u8]>, stream: usize, sound: bool) {
    let info = reader.streams()[stream];
    let (Ok(heads), Ok(exact), Ok(index)) =
        (reader.heads(stream), reader.exact(stream), reader.chunk_index(stream))
    else {
        assert!(!sound, "verify passed, yet the tables of stream {stream} cannot be read");
        return;
    };
    let KvShape { dtype, head_dim, .. } = info.shape;
    let tile_codec = |head: &Head| {
        let spec: CodecSpec = reader.codecs()[head.codec as usize].parse().ok()?;
        let side = Side::from_stored(reader.side(head).ok()?, spec, head_dim).ok()?;
        Some(Arc::from(prepare(spec, head_dim, dtype, &side).ok()?))
    };
    let Some(codecs) = heads.iter().map(tile_codec).collect::<Option<Vec<_>>>() else { return };
    let Ok(codec) = StreamCodec::new(dtype, head_dim, codecs, exact) else { return };
    let mut payload = Vec::new();
    for chunk in 0..index.chunks().len() {
        if reader.read_chunk(&index, chunk, &mut payload).is_err() {
            assert!(!sound, "verify passed, yet chunk {chunk} of stream {stream} cannot be read");
            continue;
        }
        let tokens = index.tokens(chunk);
        let row_bytes = info.shape.row_bytes();
        // A row takes bits in every codec, so honest chunks are not smaller than this; others may claim terabytes.
        if tokens.len() * row_bytes > (1 << 16) + 64 * payload.len() {
            continue;
        }
        let size = codec.workspace(tokens.len());
        let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
        let mut zstd = tersa_cli::zstd_coder::ZstdCoder::new();
        let mut rows = vec![0; tokens.len() * row_bytes];
        for head in 0..codec.n_kv_heads() {
            let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: Some(&mut zstd) };
            let _ = codec.decode_head(&payload, tokens.clone(), head, &mut rows, &mut ws);
        }
    }
}

/// Every combination that a codec may meet: (codec, head_dim, type of the rows).
fn pick(choice: u8, shape: u8) -> (CodecSpec, usize, DType) {
    let specs = CodecSpec::catalog();
    let spec = specs[usize::from(choice) % specs.len()];
    let head_dim = [8, 32, 64, 80, 96, 128, 256][usize::from(shape) % 7];
    let dtype = DType::ALL[usize::from(shape / 7) % DType::ALL.len()];
    (spec, head_dim, dtype)
}

/// A codec for the stream of one head, and its scratch memory; `None` if it cannot serve such rows.
fn ready(spec: CodecSpec, head_dim: usize, dtype: DType, exact: Vec<u32>) -> Option<StreamCodec> {
    dtype.bytes_for(head_dim)?;
    #[allow(clippy::cast_precision_loss, reason = "any numbers do")]
    let training: Vec<f32> = (0..head_dim * 40).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
    let side = Side::make(spec, head_dim, 1, Some(&training)).ok()?;
    let codec = prepare(spec, head_dim, dtype, &side).ok()?;
    StreamCodec::new(dtype, head_dim, vec![Arc::from(codec)], exact).ok()
}

/// Decodes arbitrary bytes as a chunk of one head.
pub(crate) fn tile(data: &[u8]) {
    let [choice, shape, n_tokens, n_exact, chunk @ ..] = data else { return };
    let (spec, head_dim, dtype) = pick(*choice, *shape);
    let n_tokens = usize::from(*n_tokens);
    let Some(codec) = ready(spec, head_dim, dtype, (0..u32::from(*n_exact)).collect()) else { return };
    let size = codec.workspace(n_tokens);
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut zstd = tersa_cli::zstd_coder::ZstdCoder::new();
    let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: Some(&mut zstd) };
    let mut rows = vec![0; n_tokens * codec.row_bytes()];
    let _ = codec.decode_head(chunk, 0..n_tokens, 0, &mut rows, &mut ws);
    // With a right table of lengths the tile's own decoder is reached every time.
    for flag in [0, 1 << 31] {
        let Ok(len) = u32::try_from(chunk.len()) else { return };
        let mut framed = (len | flag).to_le_bytes().to_vec();
        framed.extend_from_slice(chunk);
        let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: Some(&mut zstd) };
        let _ = codec.decode_head(&framed, 0..n_tokens, 0, &mut rows, &mut ws);
    }
}

/// Arbitrary rows through every codec: they decode, exact tokens and exact codecs give every bit back, and encoding
/// twice gives the same bytes.
pub(crate) fn round_trip(data: &[u8]) {
    let [choice, shape, n_exact, data @ ..] = data else { return };
    let (spec, head_dim, dtype) = pick(*choice, *shape);
    let Some(row_bytes) = dtype.bytes_for(head_dim) else { return };
    let n_tokens = (data.len() / row_bytes).min(300);
    let data = &data[..n_tokens * row_bytes];
    let kv_shape = KvShape { dtype, n_tokens, n_kv_heads: 1, head_dim };
    let view = KvView::new(data, kv_shape, KvStrides::token_major(&kv_shape)).expect("the data is that long");
    // Exact tokens spread over the chunk, so that runs of all kinds appear.
    let exact: Vec<u32> = (0..u32::from(*n_exact)).map(|i| i * i).collect();
    let Some(codec) = ready(spec, head_dim, dtype, exact.clone()) else { return };
    let size = codec.workspace(n_tokens);
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut zstd = tersa_cli::zstd_coder::ZstdCoder::new();
    let mut out = vec![0; codec.bound(0..n_tokens)];
    let mut again = out.clone();
    let mut stats = [HeadStats::default()];
    let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: Some(&mut zstd) };
    let n = codec
        .encode(&view, 0..n_tokens, &mut out, &mut ws, Some(&mut stats))
        .expect("any rows can be encoded");
    let m = codec.encode(&view, 0..n_tokens, &mut again, &mut ws, None).expect("any rows can be encoded");
    assert_eq!(out[..n], again[..m], "{spec}: two runs differ");
    let mut rows = vec![0; data.len()];
    codec.decode_head(&out[..n], 0..n_tokens, 0, &mut rows, &mut ws).expect("our own chunk decodes");
    let kept = |token: usize| spec.is_exact() || exact.iter().any(|e| *e as usize == token);
    for token in (0..n_tokens).filter(|t| kept(*t)) {
        let range = token * row_bytes..(token + 1) * row_bytes;
        assert_eq!(
            rows[range.clone()],
            data[range],
            "{spec}, {dtype} x {head_dim}: token {token} should be exact"
        );
    }
}

/// Puts a damaged container's checksums right, innermost first, wherever its tables point into the file.
/// Offsets within records are those of docs/format.md.
fn seal(file: &mut [u8]) -> Option<()> {
    let end = file.len().checked_sub(64)?;
    let (directory, directory_len) = (field64(file, end + 16)?, field64(file, end + 24)?);
    let sections = field32(file, directory)?.min(64);
    let place = |file: &[u8], kind: usize| {
        let mut entries = (0..sections).map(|i| directory.saturating_add(8 + 32 * i));
        let entry = entries.find(|entry| field32(file, *entry) == Some(kind))?;
        Some((field64(file, entry + 8)?, field64(file, entry + 16)?))
    };
    if let (Some(streams), Some(heads), Some(chunks)) = (place(file, 2), place(file, 3), place(file, 4)) {
        seal_streams(file, streams, heads.0, chunks.0);
    }
    if let Some((blocks, len)) = place(file, 8) {
        for block in (blocks..blocks.saturating_add(len)).step_by(32).take(1000) {
            let (offset, len) = (field64(file, block)?, field32(file, block.checked_add(8)?)?);
            hash_into(file, offset, len, block + 24);
        }
    }
    for i in 0..sections {
        let entry = directory + 8 + 32 * i;
        let (offset, len) = (field64(file, entry + 8)?, field64(file, entry + 16)?);
        hash_into(file, offset, len, entry + 24);
    }
    let total = file.len() as u64;
    file[end + 8..end + 16].copy_from_slice(&total.to_le_bytes());
    hash_into(file, directory, directory_len, end + 32);
    hash_into(file, end, 56, end + 56);
    hash_into(file, 0, 56, 56)
}

fn seal_streams(file: &mut [u8], streams: (usize, usize), heads: usize, chunks: usize) -> Option<()> {
    let (mut heads, mut chunks) = (heads, chunks);
    for record in (streams.0..streams.0.checked_add(streams.1)?).step_by(96).take(1000) {
        let n_heads = field32(file, record.checked_add(24)?)?;
        let n_chunks = field64(file, record + 16)?.div_ceil(field32(file, record + 12)?.max(1));
        seal_reference(file, record + 56, record + 64, record + 72);
        for head in (0..n_heads.min(1000)).map(|i| heads + 32 * i) {
            seal_reference(file, head + 8, head + 16, head + 24);
        }
        for chunk in (0..n_chunks.min(1000)).map(|i| chunks + 24 * i) {
            let (offset, len) = (field64(file, chunk)?, field32(file, chunk + 8)?);
            hash_into(file, offset, len, chunk + 16);
        }
        let (heads_len, chunks_len) = (n_heads.checked_mul(32)?, n_chunks.checked_mul(24)?);
        hash_into(file, heads, heads_len, record + 40);
        hash_into(file, chunks, chunks_len, record + 48);
        (heads, chunks) = (heads.checked_add(heads_len)?, chunks.checked_add(chunks_len)?);
    }
    Some(())
}

/// Hashes what an (offset, length) pair points at.
fn seal_reference(file: &mut [u8], offset: usize, len: usize, hash: usize) -> Option<()> {
    let (offset, len) = (field64(file, offset)?, field64(file, len)?);
    if len == 0 { Some(()) } else { hash_into(file, offset, len, hash) }
}

fn hash_into(file: &mut [u8], offset: usize, len: usize, to: usize) -> Option<()> {
    let hash = xxh64(0, file.get(offset..offset.checked_add(len)?)?);
    file.get_mut(to..to.checked_add(8)?)?.copy_from_slice(&hash.to_le_bytes());
    Some(())
}

fn field64(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_le_bytes(*bytes)).ok()
}

fn field32(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}
