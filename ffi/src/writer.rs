//! Writing `.tersa` containers: streams, their tokens as they come, and a name once all is there.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use tersa_core::codec::TileCodec;
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::format::{Head, HeadStats, StreamEntry, StreamInfo, Writer};
use tersa_core::view::{KvShape, KvStrides, KvView};

use crate::borrow::{self, Versioned, put, shared, unique};
use crate::codec::{Codec, tersa_codec};
use crate::files::{Target, Temporary, tersa_write_fn};
use crate::reader::{TERSA_K, kind_of};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::tensor::{Places, Rows, tersa_kv, tersa_range};
use crate::version::obey_environment;
use crate::workspace::{self, Scratch, tersa_workspace};

/// A container being written.
pub struct tersa_writer {
    /// `None` once it is finished or a write failed.
    writer: Option<Writer<Target>>,
    streams: Vec<Stream>,
    /// Part, layer and head of the indexes there are.
    indexes: BTreeSet<(u32, u32, u32)>,
}

struct Stream {
    rows: Rows,
    entry: StreamEntry,
    codec: StreamCodec,
    /// For chunks with exact tokens, whose indexes are the stream's.
    tiles: Vec<Arc<dyn TileCodec>>,
    /// A chunk of fewer tokens has been added.
    closed: bool,
}

/// What a stream is to be.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_stream_params {
    /// Set by `tersa_stream_params_init`.
    pub struct_size: u32,
    /// 0, or which of several caches in one file.
    pub part: u32,
    /// Layer number.
    pub layer: u32,
    /// `TERSA_K` or `TERSA_V`.
    pub kind: u32,
    /// Size of the Walsh-Hadamard matrix that the rows were multiplied by, 0 if none: a note for readers.
    pub hadamard: u32,
    /// Tokens that stay exact, in any order: sinks, for example.
    pub exact: *const u32,
    /// Length of `exact`.
    pub n_exact: usize,
}

// SAFETY: integers and raw pointers only.
unsafe impl Versioned for tersa_stream_params {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            part: 0,
            layer: 0,
            kind: TERSA_K,
            hadamard: 0,
            exact: std::ptr::null(),
            n_exact: 0,
        }
    }
}

/// Sets `*params` to defaults. `struct_size` is `sizeof *params`.
///
/// # Safety
/// `params` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_stream_params_init(
    params: *mut tersa_stream_params,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(params, struct_size, "params") })
}

/// # Safety
/// `out` is NULL or points to a pointer.
unsafe fn hand_out(
    out: *mut *mut tersa_writer,
    target: impl FnOnce() -> Result<Target, Failure>,
) -> Result<(), Failure> {
    obey_environment();
    // SAFETY: the caller's promise.
    unsafe {
        put(out, std::ptr::null_mut(), "out")?;
        let writer = tersa_writer {
            writer: Some(Writer::new(target()?)?),
            streams: Vec::new(),
            indexes: BTreeSet::new(),
        };
        put(out, Box::into_raw(Box::new(writer)), "out")
    }
}

/// Starts a container that will be the file `path`. Until `tersa_writer_finish` it is a temporary file beside that name.
///
/// # Safety
/// `path` is a text; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_create(
    path: *const c_char,
    out: *mut *mut tersa_writer,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        hand_out(out, || Ok(Target::File(Temporary::beside(Path::new(borrow::text(path, "path")?))?)))
    })
}

/// Starts a container whose bytes go to `write`, in order, without seeking. `write` and `context` must be good until the writer is destroyed.
///
/// # Safety
/// `write` keeps to what its type says; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_create_callback(
    write: tersa_write_fn,
    context: *mut c_void,
    out: *mut *mut tersa_writer,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        hand_out(out, || match write {
            Some(write) => Ok(Target::Callback { write, context }),
            None => fail!(TERSA_ERR_NULL, "write is NULL"),
        })
    })
}

/// Frees a writer; NULL is fine. What was not finished is removed.
///
/// # Safety
/// `writer` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_destroy(writer: *mut tersa_writer) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(writer) });
}

/// Adds a stream, whose number goes to `*stream`. Streams must be added in order of part, layer, kind; their tokens may then come in
/// any order of streams.
///
/// Shape, element type, chunk size and codec of the stream are those of `codec` for the keys or the values, by `params->kind`, of
/// its layer `codec_layer`. Codec and parameters may be destroyed afterwards.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_add_stream(
    writer: *mut tersa_writer,
    params: *const tersa_stream_params,
    codec: *const tersa_codec,
    codec_layer: u32,
    stream: *mut u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let writer = unique(writer, "writer")?;
            let params = borrow::take(params, "params")?;
            let exact = borrow::slice(params.exact, params.n_exact, "exact")?;
            let codec = &shared(codec, "codec")?.inner;
            put(stream, 0, "stream")?;
            let index = writer.add_stream(&params, exact, codec, codec_layer as usize)?;
            put(stream, index, "stream")
        }
    })
}

/// Encodes `tokens` of one layer of the caller's and adds them to the end of a stream. Their count must be a multiple of the stream's
/// chunk size, but for the last ones: fewer close the stream.
///
/// # Safety
/// Handles are live, pointers as their types say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_append(
    writer: *mut tersa_writer,
    stream: u32,
    src: *const tersa_kv,
    tokens: tersa_range,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let writer = unique(writer, "writer")?;
            let n = writer.streams.len();
            let index = stream as usize;
            let Some(found) = writer.streams.get(index) else {
                return fail!(TERSA_ERR_NOT_FOUND, "no stream {stream}, there are {n}");
            };
            let places = Places::new(src, found.rows, 1, "src")?;
            let tokens = tokens.within(places.n_tokens(), "tokens")?;
            workspace::with(workspace, |scratch| writer.append(index, &places, tokens, scratch))
        }
    })
}

/// Writes the tables, syncs, and gives the file its name, in place of a file that has it. `metadata` is a JSON object, or NULL for none.
/// Whatever comes of it, the writer can only be destroyed after this.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_finish(
    writer: *mut tersa_writer,
    metadata: *const c_char,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (writer, metadata) = unsafe {
            let writer = unique(writer, "writer")?;
            (writer, if metadata.is_null() { "{}" } else { borrow::text(metadata, "metadata")? })
        };
        let Some(inner) = writer.writer.take() else { return finished() };
        for (i, stream) in writer.streams.iter().enumerate() {
            let n = stream.entry.info.shape.n_tokens;
            if let Some(&last) = stream.codec.exact_tokens().last().filter(|&&t| t as usize >= n) {
                return fail!(
                    TERSA_ERR_ARGUMENT,
                    "token {last} of stream {i} was to stay exact, and there are {n}"
                );
            }
        }
        let entries: Vec<StreamEntry> = writer.streams.iter().map(|s| s.entry.clone()).collect();
        match inner.finish(&entries, metadata, None)? {
            Target::File(file) => file.keep(),
            Target::Callback { .. } => Ok(()),
        }
    })
}

fn finished<T>() -> Result<T, Failure> {
    fail!(TERSA_ERR_STATE, "the writer is finished, or a write has failed")
}

impl tersa_writer {
    /// Takes the bytes of an index of (part, layer, head).
    pub(crate) fn add_index(&mut self, place: (u32, u32, u32), bytes: Vec<u8>) -> Result<(), Failure> {
        let Some(writer) = &mut self.writer else { return finished() };
        let (part, layer, head) = place;
        if self.indexes.contains(&place) {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "head {head} of layer {layer} in part {part} has an index already"
            );
        }
        if let Err(e) = writer.add_index(part, layer, head, bytes) {
            return fail!(TERSA_ERR_ARGUMENT, "{e}");
        }
        self.indexes.insert(place);
        Ok(())
    }

    fn add_stream(
        &mut self,
        params: &tersa_stream_params,
        exact: &[u32],
        codec: &Codec,
        layer: usize,
    ) -> Result<u32, Failure> {
        let Some(writer) = &mut self.writer else { return finished() };
        let kind = kind_of(params.kind)?;
        let Some(of_kind) = codec.kinds.get(kind as usize) else {
            return fail!(TERSA_ERR_ARGUMENT, "the codec is for keys only");
        };
        let rows = of_kind.rows;
        if layer >= codec.n_layers {
            return fail!(
                TERSA_ERR_ARGUMENT,
                "the codec is for {} layers, there is no layer {layer}",
                codec.n_layers
            );
        }
        let key = (params.part, params.layer, kind);
        let last = self.streams.last().map(|s| s.entry.info);
        if last.is_some_and(|last| (last.part, last.layer, last.kind) >= key) {
            return fail!(TERSA_ERR_ARGUMENT, "streams must be added in order of part, layer, kind");
        }
        let spec = if kind as usize == 0 { codec.spec.k } else { codec.spec.v };
        let index = writer.codec(&spec.to_string())?;
        let mut heads = Vec::with_capacity(rows.n_kv_heads);
        for head in 0..rows.n_kv_heads {
            let side = writer.write_side(&of_kind.side(layer, head).to_stored())?;
            heads.push(Head { codec: index, side });
        }
        let mut tiles: Vec<Arc<dyn TileCodec>> = Vec::with_capacity(rows.n_kv_heads);
        for head in 0..rows.n_kv_heads {
            let side = of_kind.side(layer, head);
            tiles.push(tersa_core::codec::prepare(spec, rows.head_dim, rows.dtype, side)?.into());
        }
        let stream = StreamCodec::new(rows.dtype, rows.head_dim, tiles.clone(), exact.to_vec())?;
        let stored = writer.write_exact(stream.exact_tokens())?;
        let shape =
            KvShape { dtype: rows.dtype, n_tokens: 0, n_kv_heads: rows.n_kv_heads, head_dim: rows.head_dim };
        let chunk_tokens = u32::try_from(codec.chunk_tokens).expect("capped when the codec was made");
        let (part, layer, hadamard) = (params.part, params.layer, params.hadamard);
        let info = StreamInfo { part, layer, kind, shape, chunk_tokens, hadamard };
        let stats = vec![HeadStats::default(); rows.n_kv_heads];
        let entry = StreamEntry { info, heads, exact: stored, stats };
        self.streams.push(Stream { rows, entry, codec: stream, tiles, closed: false });
        Ok(u32::try_from(self.streams.len() - 1).expect("streams ascend by 32-bit numbers"))
    }

    fn append(
        &mut self,
        index: usize,
        places: &Places,
        tokens: std::ops::Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let Some(writer) = &mut self.writer else { return finished() };
        let stream = &mut self.streams[index];
        if stream.closed && !tokens.is_empty() {
            return fail!(TERSA_ERR_STATE, "stream {index} was closed by a chunk of fewer tokens");
        }
        let info = &mut stream.entry.info;
        let chunk_tokens = info.chunk_tokens as usize;
        let row = stream.rows.row_bytes();
        let mut out = std::mem::take(&mut scratch.chunk);
        let mut start = tokens.start;
        let mut step = || -> Result<(), Failure> {
            while start < tokens.end {
                let part = start..tokens.end.min(start + chunk_tokens);
                let n = part.len();
                let first = info.shape.n_tokens;
                if first + n > u32::MAX as usize {
                    return fail!(TERSA_ERR_ARGUMENT, "a stream of more than 2^32 tokens");
                }
                // The rows at hand are the chunk's alone, so the exact tokens count from its start.
                let shifted = shifted(stream.codec.exact_tokens(), first, n);
                let own;
                let codec = if !stream.codec.exact_tokens().is_empty() {
                    own = StreamCodec::new(
                        stream.rows.dtype,
                        stream.rows.head_dim,
                        stream.tiles.clone(),
                        shifted,
                    )?;
                    &own
                } else {
                    &stream.codec
                };
                let per_head = n * row;
                let (rows, mut ws) = scratch.lend(codec.workspace(n), per_head * stream.rows.n_kv_heads)?;
                for (head, to) in rows.chunks_exact_mut(per_head).enumerate() {
                    // SAFETY: the caller of `tersa_writer_append` promised that the source can be read.
                    unsafe { places.gather(0, head, part.clone(), to) };
                }
                let shape = KvShape { n_tokens: n, ..info.shape };
                let view =
                    KvView::new(rows, shape, KvStrides::head_major(&shape)).expect("gathered for this shape");
                workspace::grow(&mut out, codec.bound(0..n))?;
                let stats = Some(&mut stream.entry.stats[..]);
                let written = codec.encode(&view, 0..n, &mut out, &mut ws, stats)?;
                writer.write_chunk(index, first / chunk_tokens, &out[..written])?;
                info.shape.n_tokens += n;
                stream.closed = n < chunk_tokens;
                start = part.end;
            }
            Ok(())
        };
        let done = step();
        scratch.chunk = out;
        if done.is_err() {
            // Some of the tokens may be in the file: it cannot become a sound one.
            self.writer = None;
        }
        done
    }
}

/// The exact tokens among `n` from `first` on, counted from there.
fn shifted(exact: &[u32], first: usize, n: usize) -> Vec<u32> {
    let from = exact.partition_point(|&t| (t as usize) < first);
    let to = exact.partition_point(|&t| (t as usize) < first + n);
    let base = u32::try_from(first).expect("below 2^32, checked before");
    exact[from..to].iter().map(|t| t - base).collect()
}
