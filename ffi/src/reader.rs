//! Reading `.tersa` containers.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::OnceLock;

use tersa_core::format::{ChunkIndex, Kind, Reader};

use crate::borrow::{self, Versioned, fill, put, shared};
use crate::files::{Bytes, tersa_read_fn};
use crate::status::{Failure, fail, guard, tersa_error, tersa_status};
use crate::stored::{self, StoredStream};
use crate::tensor::{Places, Rows, tersa_kv, tersa_range};
use crate::version::obey_environment;
use crate::workspace::{self, Scratch, tersa_workspace};

/// Keys.
pub const TERSA_K: u32 = 0;
/// Values.
pub const TERSA_V: u32 = 1;

/// An open container. A `const` one may be used by many threads at once.
pub struct tersa_reader {
    reader: Reader<Bytes>,
    /// Tables of streams that were read from.
    streams: Vec<OnceLock<Opened>>,
}

struct Opened {
    index: ChunkIndex,
    stored: StoredStream,
}

impl tersa_reader {
    fn open(bytes: Bytes) -> Result<Box<Self>, Failure> {
        let reader = Reader::open(bytes)?;
        let streams = reader.streams().iter().map(|_| OnceLock::new()).collect();
        Ok(Box::new(Self { reader, streams }))
    }

    /// The bytes of an index, if there is one.
    pub(crate) fn index_bytes(&self, part: u32, layer: u32, head: u32) -> Result<Option<Vec<u8>>, Failure> {
        let indexes = self.reader.indexes()?;
        let place = indexes.iter().position(|i| (i.part, i.layer, i.head) == (part, layer, head));
        let Some(entry) = place else { return Ok(None) };
        let mut bytes = Vec::new();
        self.reader.read_index(&indexes, entry, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn stream(&self, stream: u32) -> Result<usize, Failure> {
        let count = self.reader.streams().len();
        match usize::try_from(stream) {
            Ok(i) if i < count => Ok(i),
            _ => fail!(TERSA_ERR_NOT_FOUND, "no stream {stream}, there are {count}"),
        }
    }

    /// The stream's tables, read on first use. Two threads may read them at once; one result stays.
    fn opened(&self, stream: usize) -> Result<&Opened, Failure> {
        if let Some(opened) = self.streams[stream].get() {
            return Ok(opened);
        }
        let stored = stored::open(&self.reader, stream)?;
        let index = self.reader.chunk_index(stream)?;
        Ok(self.streams[stream].get_or_init(|| Opened { index, stored }))
    }

    fn read(
        &self,
        stream: usize,
        heads: std::ops::Range<usize>,
        tokens: std::ops::Range<usize>,
        places: &Places,
        first_token: usize,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let opened = self.opened(stream)?;
        let (codec, index) = (&opened.stored.codec, &opened.index);
        let row = codec.row_bytes();
        let mut chunk_bytes = std::mem::take(&mut scratch.chunk);
        let mut each = |chunk: usize| -> Result<(), Failure> {
            self.reader.read_chunk(index, chunk, &mut chunk_bytes)?;
            let within = index.tokens(chunk);
            let wanted = tokens.start.max(within.start)..tokens.end.min(within.end);
            for (i, head) in heads.clone().enumerate() {
                let damaged =
                    |e| Failure::from(e).at(format_args!("stream {stream}, chunk {chunk}, head {head}"));
                codec.check_head(&chunk_bytes, within.clone(), head).map_err(damaged)?;
                let (rows, mut ws) = scratch.lend(codec.workspace(within.len()), within.len() * row)?;
                codec.decode_head(&chunk_bytes, within.clone(), head, rows, &mut ws).map_err(damaged)?;
                let to = first_token + wanted.start - tokens.start;
                let part = &rows[(wanted.start - within.start) * row..(wanted.end - within.start) * row];
                // SAFETY: the caller of `tersa_reader_read` promised that the destination is its own.
                unsafe { places.scatter(0, i, to..to + wanted.len(), part) };
            }
            Ok(())
        };
        let done = index.covering(tokens.clone()).try_for_each(&mut each);
        scratch.chunk = chunk_bytes;
        done
    }
}

/// # Safety
/// `out` is NULL or points to a pointer.
unsafe fn hand_out(
    out: *mut *mut tersa_reader,
    make: impl FnOnce() -> Result<Box<tersa_reader>, Failure>,
) -> Result<(), Failure> {
    obey_environment();
    // SAFETY: the caller's promise.
    unsafe {
        put(out, std::ptr::null_mut(), "out")?;
        put(out, Box::into_raw(make()?), "out")
    }
}

/// Opens the container in the file `path`: reads and checks its frame and tables, no chunks.
///
/// # Safety
/// `path` is a text; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_open(
    path: *const c_char,
    out: *mut *mut tersa_reader,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        hand_out(out, || {
            let path = borrow::text(path, "path")?;
            tersa_reader::open(Bytes::open(Path::new(path))?)
        })
    })
}

/// Opens the container in `len` bytes of memory, which the caller keeps as they are until the reader is destroyed.
///
/// # Safety
/// `bytes` has `len` bytes that stay; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_open_memory(
    bytes: *const c_void,
    len: usize,
    out: *mut *mut tersa_reader,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        hand_out(out, || {
            if bytes.is_null() {
                return fail!(TERSA_ERR_NULL, "bytes is NULL");
            }
            let bytes = borrow::bytes(bytes, len, "bytes")?;
            tersa_reader::open(Bytes::Memory { start: bytes.as_ptr(), len })
        })
    })
}

/// Opens a container of `len` bytes that `read` supplies. `read` and `context` must be good until the reader is destroyed.
///
/// # Safety
/// `read` keeps to what its type says; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_open_callback(
    read: tersa_read_fn,
    context: *mut c_void,
    len: u64,
    out: *mut *mut tersa_reader,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        hand_out(out, || {
            let Some(read) = read else { return fail!(TERSA_ERR_NULL, "read is NULL") };
            tersa_reader::open(Bytes::Callback { read, context, len })
        })
    })
}

/// Closes a container; NULL is fine.
///
/// # Safety
/// `reader` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_destroy(reader: *mut tersa_reader) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(reader) });
}

/// The JSON text about the cache. `*len` becomes its bytes without the zero at the end; a capacity of 0 only asks for that.
///
/// # Safety
/// `buf` has `capacity` bytes; handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_metadata(
    reader: *const tersa_reader,
    buf: *mut c_char,
    capacity: usize,
    len: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let text = shared(reader, "reader")?.reader.metadata()?;
        borrow::give_text(&text, buf, capacity, len)
    })
}

/// How many streams there are; 0 for NULL. A stream is the keys or the values of one layer.
///
/// # Safety
/// `reader` is NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_n_streams(reader: *const tersa_reader) -> u32 {
    let mut n = 0;
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let streams = unsafe { shared(reader, "reader")? }.reader.streams();
        n = u32::try_from(streams.len()).expect("the format allows 2^20");
        Ok(())
    });
    n
}

/// What a stream is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_stream_info {
    /// Set by `tersa_stream_info_init`.
    pub struct_size: u32,
    /// 0, or which of several caches in one file.
    pub part: u32,
    /// Layer number as the source had it.
    pub layer: u32,
    /// `TERSA_K` or `TERSA_V`.
    pub kind: u32,
    /// A `tersa_dtype`.
    pub dtype: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Elements of one head's row.
    pub head_dim: u32,
    /// Tokens that were encoded together.
    pub chunk_tokens: u32,
    /// Size of the Walsh-Hadamard matrix that the source had multiplied its rows by, 0 if none.
    pub hadamard: u32,
    /// 0.
    pub reserved: u32,
    /// Tokens.
    pub n_tokens: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_stream_info {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            part: 0,
            layer: 0,
            kind: TERSA_K,
            dtype: 0,
            n_kv_heads: 0,
            head_dim: 0,
            chunk_tokens: 0,
            hadamard: 0,
            reserved: 0,
            n_tokens: 0,
        }
    }
}

/// Sets `*info` to zeros. `struct_size` is `sizeof *info`.
///
/// # Safety
/// `info` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_stream_info_init(
    info: *mut tersa_stream_info,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(info, struct_size, "info") })
}

/// What stream number `stream` is. Streams stand in order of part, layer, kind.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_stream(
    reader: *const tersa_reader,
    stream: u32,
    info: *mut tersa_stream_info,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let reader = unsafe { shared(reader, "reader")? };
        let found = reader.reader.streams()[reader.stream(stream)?];
        let narrow = |n: usize| u32::try_from(n).expect("the format caps it");
        let value = tersa_stream_info {
            struct_size: 0,
            part: found.part,
            layer: found.layer,
            kind: found.kind as u32,
            dtype: u32::from(found.shape.dtype.code()),
            n_kv_heads: narrow(found.shape.n_kv_heads),
            head_dim: narrow(found.shape.head_dim),
            chunk_tokens: found.chunk_tokens,
            hadamard: found.hadamard,
            reserved: 0,
            n_tokens: found.shape.n_tokens as u64,
        };
        // SAFETY: the caller's promise.
        unsafe { fill(info, &value, "info") }
    })
}

/// The number of the stream of that part, layer and kind, in `*stream`; `TERSA_ERR_NOT_FOUND` if there is none.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_find(
    reader: *const tersa_reader,
    part: u32,
    layer: u32,
    kind: u32,
    stream: *mut u32,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let reader = unsafe { shared(reader, "reader")? };
        let kind = kind_of(kind)?;
        let Some(found) = reader.reader.find(part, layer, kind) else {
            return fail!(TERSA_ERR_NOT_FOUND, "no {} of layer {layer} in part {part}", kind.name());
        };
        let found = u32::try_from(found).expect("the format allows 2^20");
        // SAFETY: the caller's promise.
        unsafe { put(stream, found, "stream") }
    })
}

pub(crate) fn kind_of(kind: u32) -> Result<Kind, Failure> {
    match kind {
        TERSA_K => Ok(Kind::K),
        TERSA_V => Ok(Kind::V),
        _ => fail!(TERSA_ERR_ARGUMENT, "{kind} is neither TERSA_K nor TERSA_V"),
    }
}

/// The name of the codec of one head. `*len` becomes its bytes without the zero at the end; a capacity of 0 only asks for that.
///
/// # Safety
/// `buf` has `capacity` bytes; handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_codec(
    reader: *const tersa_reader,
    stream: u32,
    head: u32,
    buf: *mut c_char,
    capacity: usize,
    len: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let reader = unsafe { shared(reader, "reader")? };
        let heads = reader.reader.heads(reader.stream(stream)?)?;
        let Some(found) = heads.get(head as usize) else {
            return fail!(TERSA_ERR_NOT_FOUND, "no head {head}, there are {}", heads.len());
        };
        // SAFETY: the caller's promise.
        unsafe { borrow::give_text(&reader.reader.codecs()[found.codec as usize], buf, capacity, len) }
    })
}

/// What encoding did to the values of one head.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_head_stats {
    /// Sum of squared differences between source and decoded values.
    pub sum_sq_error: f64,
    /// Sum of squares of the source's values.
    pub sum_sq: f64,
    /// Largest absolute difference.
    pub max_abs_error: f64,
    /// Values seen.
    pub n_values: u64,
    /// Tiles that the codec could not represent and that were stored as they were.
    pub raw_tiles: u64,
}

/// What encoding lost of one head; `TERSA_ERR_NOT_FOUND` if the file does not say.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_stats(
    reader: *const tersa_reader,
    stream: u32,
    head: u32,
    stats: *mut tersa_head_stats,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let reader = unsafe { shared(reader, "reader")? };
        let stream = reader.stream(stream)?;
        let all = reader.reader.stats()?;
        let Some(s) = all.get(stream).and_then(|heads| heads.get(head as usize)) else {
            return fail!(TERSA_ERR_NOT_FOUND, "no statistics of stream {stream}, head {head}");
        };
        let value = tersa_head_stats {
            sum_sq_error: s.sum_sq_error,
            sum_sq: s.sum_sq,
            max_abs_error: s.max_abs_error,
            n_values: s.n_values,
            raw_tiles: s.raw_tiles,
        };
        // SAFETY: the caller's promise.
        unsafe { put(stats, value, "stats") }
    })
}

/// Decodes `tokens` of `heads` of a stream into one layer of the caller's: token `tokens.start` goes to token `first_token` of `dst`, whose
/// heads are those asked for, in order. Reads and checks the chunks that hold the tokens, and nothing else.
///
/// # Safety
/// Handles are live, pointers as their types say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_reader_read(
    reader: *const tersa_reader,
    stream: u32,
    heads: tersa_range,
    tokens: tersa_range,
    dst: *const tersa_kv,
    first_token: usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let reader = unsafe { shared(reader, "reader")? };
        let stream = reader.stream(stream)?;
        let shape = reader.reader.streams()[stream].shape;
        let heads = heads.within(shape.n_kv_heads, "heads")?;
        let tokens = tokens.within(shape.n_tokens, "tokens")?;
        if heads.is_empty() {
            return fail!(TERSA_ERR_ARGUMENT, "no heads are asked for");
        }
        let rows = Rows { n_kv_heads: heads.len(), ..stored::rows(&reader.reader, stream) };
        // SAFETY: the caller's promise.
        let places = unsafe { Places::new(dst, rows, 1, "dst")? };
        let end = first_token.saturating_add(tokens.len());
        tersa_range { start: first_token, end }.within(places.n_tokens(), "dst")?;
        // SAFETY: the caller's promise.
        unsafe {
            workspace::with(workspace, |scratch| {
                reader.read(stream, heads, tokens, &places, first_token, scratch)
            })
        }
    })
}

/// Reads the whole container and compares every checksum; `TERSA_ERR_CORRUPT` says where the first damage is. `*n_chunks`, unless `n_chunks`
/// is NULL, becomes the count of chunks.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_reader_verify(
    reader: *const tersa_reader,
    n_chunks: *mut u64,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let verified = unsafe { shared(reader, "reader")? }.reader.verify(|_, _| {})?;
        if n_chunks.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { put(n_chunks, verified.chunks, "n_chunks") }
    })
}
