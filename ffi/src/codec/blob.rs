//! Encoded bytes that carry their shape: what `tersa_codec_encode` writes.
//!
//! Little-endian.
//!
//! ```text
//! head (64) | for each layer, K then V, for each chunk: u32 length, u32 0, u64 XXH64 | the chunks, in that order
//! ```

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use tersa_core::num::hash::{Xxh64, xxh64};
use tersa_core::view::{KvShape, KvStrides, KvView};

use super::{Codec, tersa_blob_info};
use crate::borrow;
use crate::status::{Failure, fail};
use crate::tensor::{Places, tersa_kv, tersa_range};
use crate::workspace::Scratch;

const MAGIC: [u8; 8] = *b"\x89TERSAB\n";
const VERSION: u32 = 1;
const HEAD: usize = 64;
const ENTRY: usize = 16;

/// Shape of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    first_layer: u32,
    n_layers: u32,
    n_kinds: u32,
    chunk_tokens: u32,
    n_tokens: u64,
    fingerprint: u64,
    len_bytes: u64,
}

impl Head {
    fn n_chunks(&self) -> u64 {
        self.n_tokens.div_ceil(u64::from(self.chunk_tokens))
    }

    fn entries(&self) -> u64 {
        u64::from(self.n_layers) * u64::from(self.n_kinds) * self.n_chunks()
    }

    /// The first 56 bytes.
    fn bytes(&self) -> [u8; 56] {
        let mut out = [0; 56];
        out[..8].copy_from_slice(&MAGIC);
        for (at, n) in [
            (8, VERSION),
            (12, self.first_layer),
            (16, self.n_layers),
            (20, self.n_kinds),
            (24, self.chunk_tokens),
        ] {
            out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        for (at, n) in [(32, self.n_tokens), (40, self.fingerprint), (48, self.len_bytes)] {
            out[at..at + 8].copy_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// Reads and checks head and table.
    pub(crate) fn parse(blob: &[u8]) -> Result<Self, Failure> {
        let Some(head) = blob.first_chunk::<HEAD>() else {
            return fail!(TERSA_ERR_CORRUPT, "{} bytes are too few for encoded bytes", blob.len());
        };
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if head[..8] != MAGIC {
            return fail!(TERSA_ERR_CORRUPT, "not bytes that tersa_codec_encode wrote");
        }
        if u32_at(8) != VERSION {
            return fail!(TERSA_ERR_VERSION, "encoded bytes of version {}, this library reads 1", u32_at(8));
        }
        let parsed = Self {
            first_layer: u32_at(12),
            n_layers: u32_at(16),
            n_kinds: u32_at(20),
            chunk_tokens: u32_at(24),
            n_tokens: u64_at(32),
            fingerprint: u64_at(40),
            len_bytes: u64_at(48),
        };
        let caps = parsed.n_layers <= 1 << 16
            && (1..=2).contains(&parsed.n_kinds)
            && (1..=1 << 20).contains(&parsed.chunk_tokens)
            && parsed.n_tokens <= 1 << 32;
        if !caps || head[..56] != parsed.bytes() {
            return fail!(
                TERSA_ERR_CORRUPT,
                "the head of the encoded bytes has numbers beyond what is allowed"
            );
        }
        if parsed.len_bytes != blob.len() as u64 {
            return fail!(
                TERSA_ERR_CORRUPT,
                "{} bytes are there, {} were encoded",
                blob.len(),
                parsed.len_bytes
            );
        }
        // At most 2^17 streams of 2^32 chunks of 16 bytes.
        let end = HEAD as u64 + parsed.entries() * ENTRY as u64;
        let Some(table) = usize::try_from(end).ok().and_then(|end| blob.get(HEAD..end)) else {
            return fail!(TERSA_ERR_CORRUPT, "the table of chunks is cut short");
        };
        if checksum(&head[..56], table) != u64_at(56) {
            return fail!(TERSA_ERR_CORRUPT, "the checksum of the head is wrong");
        }
        Ok(parsed)
    }

    pub(crate) fn info(&self) -> tersa_blob_info {
        let Self { first_layer, n_layers, n_kinds, chunk_tokens, n_tokens, fingerprint, len_bytes } = *self;
        tersa_blob_info {
            struct_size: 0,
            first_layer,
            n_layers,
            n_kinds,
            chunk_tokens,
            reserved: 0,
            n_tokens,
            fingerprint,
            len_bytes,
        }
    }
}

fn checksum(head: &[u8], table: &[u8]) -> u64 {
    let mut hash = Xxh64::new(0);
    hash.update(head);
    hash.update(table);
    hash.finish()
}

/// Most bytes of a blob.
pub(crate) fn bound(codec: &Codec, layers: Range<usize>, n_tokens: usize) -> Result<usize, Failure> {
    if n_tokens > 1 << 32 {
        return fail!(TERSA_ERR_ARGUMENT, "{n_tokens} tokens, at most 2^32 are allowed");
    }
    let chunks = n_tokens.div_ceil(codec.chunk_tokens);
    let full = n_tokens / codec.chunk_tokens;
    let mut total = HEAD as u128;
    for kind in &codec.kinds {
        for layer in layers.clone() {
            let stream = kind.stream(layer);
            let one = |n: usize| if n == 0 { 0 } else { stream.bound(0..n) as u128 };
            total += chunks as u128 * ENTRY as u128;
            total += full as u128 * one(codec.chunk_tokens) + one(n_tokens % codec.chunk_tokens);
        }
    }
    match usize::try_from(total) {
        Ok(total) if total <= isize::MAX.cast_unsigned() => Ok(total),
        _ => fail!(TERSA_ERR_ARGUMENT, "{n_tokens} tokens need {total} bytes, more than memory"),
    }
}

/// Memory of the caller that a job may take to another thread.
struct Bytes {
    start: *mut u8,
    len: usize,
}

// SAFETY: the caller promises that the memory may be used from whichever thread runs the job.
unsafe impl Send for Bytes {}

/// A checked encode call.
pub(crate) struct Encode {
    codec: Arc<Codec>,
    places: Vec<Places>,
    layers: Range<usize>,
    tokens: Range<usize>,
    dst: Bytes,
}

impl Encode {
    /// Checks the arguments; `*needed` becomes the capacity that is needed if `capacity` is less.
    ///
    /// # Safety
    /// Pointers are NULL or as their types say; the elements and `dst` stay the job's until it has run.
    #[allow(clippy::too_many_arguments, reason = "they are the C call's")]
    pub(crate) unsafe fn new(
        codec: &Arc<Codec>,
        k: *const tersa_kv,
        v: *const tersa_kv,
        layers: tersa_range,
        tokens: tersa_range,
        dst: *mut c_void,
        capacity: usize,
        needed: &mut usize,
    ) -> Result<Self, Failure> {
        let layers = layers.within(codec.n_layers, "layers")?;
        if codec.kinds.len() == 1 && !v.is_null() {
            return fail!(TERSA_ERR_ARGUMENT, "the codec is for keys only, v must be NULL");
        }
        let mut places = Vec::with_capacity(2);
        for (kind, (kv, what)) in codec.kinds.iter().zip([(k, "k"), (v, "v")]) {
            // SAFETY: the caller's promise.
            let place = unsafe { Places::new(kv, kind.rows, layers.len(), what)? };
            tokens.within(place.n_tokens(), "tokens")?;
            places.push(place);
        }
        let tokens = tokens.start..tokens.end;
        let bound = bound(codec, layers.clone(), tokens.len())?;
        if capacity < bound {
            *needed = bound;
            return fail!(TERSA_ERR_SHORT_BUFFER, "dst has room for {capacity} bytes, {bound} are needed");
        }
        let dst = dst.cast::<u8>();
        if dst.is_null() {
            return fail!(TERSA_ERR_NULL, "dst is NULL");
        }
        for place in &places {
            place.keep_off(dst, bound, "dst and its bytes")?;
        }
        Ok(Self { codec: codec.clone(), places, layers, tokens, dst: Bytes { start: dst, len: bound } })
    }

    /// Encodes, and returns the count of bytes. `cancelled` is asked before each chunk.
    ///
    /// # Safety
    /// What was promised to [`new`](Self::new) still holds.
    pub(crate) unsafe fn run(
        &self,
        scratch: &mut Scratch,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<usize, Failure> {
        let Self { codec, layers, .. } = self;
        // SAFETY: the caller's promise: the bytes are ours until this returns. They may be uninitialised memory of
        // another language, of which every bit pattern is a byte.
        let dst = unsafe { std::slice::from_raw_parts_mut(self.dst.start, self.dst.len) };
        let n_tokens = self.tokens.len();
        let chunks = n_tokens.div_ceil(codec.chunk_tokens);
        let narrow = |n: usize| u32::try_from(n).expect("capped when the codec was made");
        let mut head = Head {
            first_layer: narrow(layers.start),
            n_layers: narrow(layers.len()),
            n_kinds: narrow(codec.kinds.len()),
            chunk_tokens: narrow(codec.chunk_tokens),
            n_tokens: n_tokens as u64,
            fingerprint: codec.fingerprint,
            len_bytes: 0,
        };
        let n_entries = layers.len() * codec.kinds.len() * chunks;
        let (frame, payload) = dst.split_at_mut(HEAD + n_entries * ENTRY);
        let (head_bytes, table) = frame.split_at_mut(HEAD);
        let (mut entries, _) = table.as_chunks_mut::<ENTRY>();
        let mut used = 0;
        for layer in layers.clone() {
            for (kind, places) in codec.kinds.iter().zip(&self.places) {
                let stream = kind.stream(layer);
                let shape = |n_tokens| KvShape {
                    dtype: kind.rows.dtype,
                    n_tokens,
                    n_kv_heads: kind.rows.n_kv_heads,
                    head_dim: kind.rows.head_dim,
                };
                let (of_stream, rest) = entries.split_at_mut(chunks);
                entries = rest;
                for (i, entry) in of_stream.iter_mut().enumerate() {
                    if cancelled() {
                        return fail!(TERSA_ERR_CANCELLED, "cancelled");
                    }
                    let within = codec.chunk(i, n_tokens);
                    let tokens = self.tokens.start + within.start..self.tokens.start + within.end;
                    let per_head = tokens.len() * kind.rows.row_bytes();
                    let size = stream.workspace(tokens.len());
                    let (rows, mut ws) = scratch.lend(size, per_head * kind.rows.n_kv_heads)?;
                    for (head, out) in rows.chunks_exact_mut(per_head).enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe { places.gather(layer - layers.start, head, tokens.clone(), out) };
                    }
                    let shape = shape(tokens.len());
                    let view = KvView::new(rows, shape, KvStrides::head_major(&shape))
                        .expect("the rows were gathered for this shape");
                    let n = stream.encode(&view, 0..tokens.len(), &mut payload[used..], &mut ws, None)?;
                    let bytes = &payload[used..used + n];
                    entry[..4].copy_from_slice(&narrow(n).to_le_bytes());
                    entry[4..8].fill(0);
                    entry[8..].copy_from_slice(&xxh64(0, bytes).to_le_bytes());
                    used += n;
                }
            }
        }
        head.len_bytes = (HEAD + n_entries * ENTRY + used) as u64;
        head_bytes[..56].copy_from_slice(&head.bytes());
        let hash = checksum(&head_bytes[..56], table);
        head_bytes[56..].copy_from_slice(&hash.to_le_bytes());
        Ok(HEAD + n_entries * ENTRY + used)
    }
}

/// A checked decode call.
pub(crate) struct Decode {
    codec: Arc<Codec>,
    head: Head,
    src: Bytes,
    layers: Range<usize>,
    tokens: Range<usize>,
    places: Vec<Option<Places>>,
    first_token: usize,
}

impl Decode {
    /// Checks the arguments, and the head of the blob.
    ///
    /// # Safety
    /// Pointers are NULL or as their types say; `src` and the elements stay the job's until it has run.
    #[allow(clippy::too_many_arguments, reason = "they are the C call's")]
    pub(crate) unsafe fn new(
        codec: &Arc<Codec>,
        src: *const c_void,
        len: usize,
        layers: tersa_range,
        tokens: tersa_range,
        k: *const tersa_kv,
        v: *const tersa_kv,
        first_token: usize,
    ) -> Result<Self, Failure> {
        // SAFETY: the caller's promise.
        let blob = unsafe { borrow::bytes(src, len, "src")? };
        if src.is_null() {
            return fail!(TERSA_ERR_NULL, "src is NULL");
        }
        let head = Head::parse(blob)?;
        if head.fingerprint != codec.fingerprint || head.n_kinds as usize != codec.kinds.len() {
            return fail!(TERSA_ERR_CODEC, "the bytes were encoded by another codec than {}", codec.spec);
        }
        let (first, end) = (head.first_layer as usize, head.first_layer as usize + head.n_layers as usize);
        if head.chunk_tokens as usize != codec.chunk_tokens || end > codec.n_layers {
            return fail!(TERSA_ERR_CORRUPT, "the shape in the encoded bytes is not the codec's");
        }
        if layers.start < first || layers.start > layers.end || layers.end > end {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "layers {}..{} are not among those encoded, {first}..{end}",
                layers.start,
                layers.end
            );
        }
        let n_tokens = usize::try_from(head.n_tokens).unwrap_or(usize::MAX);
        let tokens = tokens.within(n_tokens, "tokens")?;
        if k.is_null() && v.is_null() {
            return fail!(TERSA_ERR_NULL, "k and v are NULL");
        }
        if codec.kinds.len() == 1 && !v.is_null() {
            return fail!(TERSA_ERR_ARGUMENT, "the codec is for keys only, v must be NULL");
        }
        let layers = layers.start..layers.end;
        let mut places = Vec::with_capacity(2);
        for (kind, (kv, what)) in codec.kinds.iter().zip([(k, "k"), (v, "v")]) {
            if kv.is_null() {
                places.push(None);
                continue;
            }
            // SAFETY: the caller's promise.
            let place = unsafe { Places::new(kv, kind.rows, layers.len(), what)? };
            let end = first_token.saturating_add(tokens.len());
            tersa_range { start: first_token, end }.within(place.n_tokens(), what)?;
            place.keep_off(blob.as_ptr(), blob.len(), "the encoded bytes")?;
            places.push(Some(place));
        }
        let src = Bytes { start: blob.as_ptr().cast_mut(), len };
        Ok(Self { codec: codec.clone(), head, src, layers, tokens, places, first_token })
    }

    /// Decodes. `cancelled` is asked before each chunk.
    ///
    /// # Safety
    /// What was promised to [`new`](Self::new) still holds.
    pub(crate) unsafe fn run(
        &self,
        scratch: &mut Scratch,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let Self { codec, head, .. } = self;
        // SAFETY: the caller's promise; `Bytes` came from a slice.
        let blob = unsafe { std::slice::from_raw_parts(self.src.start, self.src.len) };
        let n_tokens = usize::try_from(head.n_tokens).unwrap_or(usize::MAX);
        let chunks = n_tokens.div_ceil(codec.chunk_tokens);
        let n_entries = usize::try_from(head.entries()).unwrap_or(usize::MAX);
        let (frame, payload) = blob.split_at(HEAD + n_entries * ENTRY);
        let (entries, _) = frame[HEAD..].as_chunks::<ENTRY>();
        let len = |e: &[u8; ENTRY]| u32::from_le_bytes([e[0], e[1], e[2], e[3]]) as usize;
        let mut offset = 0usize;
        let mut entries = entries.iter();
        for layer in head.first_layer as usize.. {
            if layer >= self.layers.end {
                break;
            }
            for (kind, places) in codec.kinds.iter().zip(&self.places) {
                for (i, entry) in entries.by_ref().take(chunks).enumerate() {
                    let start = offset;
                    offset = offset.saturating_add(len(entry));
                    let within = codec.chunk(i, n_tokens);
                    let wanted = self.tokens.start.max(within.start)..self.tokens.end.min(within.end);
                    let Some(places) = places.as_ref().filter(|_| layer >= self.layers.start) else {
                        continue;
                    };
                    if wanted.is_empty() {
                        continue;
                    }
                    if cancelled() {
                        return fail!(TERSA_ERR_CANCELLED, "cancelled");
                    }
                    let Some(bytes) = payload.get(start..offset) else {
                        return fail!(TERSA_ERR_CORRUPT, "layer {layer}, chunk {i}: cut short");
                    };
                    if entry[8..] != xxh64(0, bytes).to_le_bytes() {
                        return fail!(TERSA_ERR_CORRUPT, "layer {layer}, chunk {i}: the checksum is wrong");
                    }
                    let stream = kind.stream(layer);
                    let row = kind.rows.row_bytes();
                    for h in 0..kind.rows.n_kv_heads {
                        stream.check_head(bytes, 0..within.len(), h)?;
                        let (rows, mut ws) =
                            scratch.lend(stream.workspace(within.len()), within.len() * row)?;
                        stream.decode_head(bytes, 0..within.len(), h, rows, &mut ws)?;
                        let to = self.first_token + wanted.start - self.tokens.start;
                        let from = (wanted.start - within.start) * row;
                        let part = &rows[from..from + wanted.len() * row];
                        // SAFETY: the caller's promise.
                        unsafe { places.scatter(layer - self.layers.start, h, to..to + wanted.len(), part) };
                    }
                }
            }
        }
        Ok(())
    }
}
