//! Codecs for whole caches: many layers of keys and values, from wherever they lie into bytes of the caller and back.

pub mod blob;
mod make;
mod saved;

use std::ffi::{c_char, c_void};
use std::ops::Range;
use std::sync::Arc;

use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{KvSpec, Preset, Side, TileCodec, WorkspaceSize};

use crate::borrow::{self, Versioned};
use crate::status::{Failure, guard, tersa_error, tersa_status};
use crate::tensor::{Rows, tersa_dtype, tersa_kv, tersa_range};
use crate::version::obey_environment;
use crate::workspace::{self, tersa_workspace};

/// Seed of rotations and training: the command line's, so that equal caches give equal bytes.
pub(crate) const SEED: u64 = 0x7465_7273_6120_3031;

/// A codec for caches of one shape. A `const` one may be used by many threads at once.
pub struct tersa_codec {
    pub(crate) inner: Arc<Codec>,
}

/// What [`tersa_codec`] stands on.
pub(crate) struct Codec {
    pub(crate) spec: KvSpec,
    pub(crate) n_layers: usize,
    pub(crate) chunk_tokens: usize,
    /// Keys, then values if there are any.
    pub(crate) kinds: Vec<KindCodec>,
    /// XXH64 of the saved form: what says that a blob is this codec's.
    pub(crate) fingerprint: u64,
}

/// The codecs of the keys, or of the values, of all layers.
pub(crate) struct KindCodec {
    pub(crate) rows: Rows,
    /// One for each layer, or one for all.
    pub(crate) streams: Vec<StreamCodec>,
    /// For each stream, for each head, or one for all heads.
    pub(crate) sides: Vec<Vec<Arc<Side>>>,
}

impl KindCodec {
    pub(crate) fn stream(&self, layer: usize) -> &StreamCodec {
        &self.streams[layer.min(self.streams.len() - 1)]
    }

    pub(crate) fn side(&self, layer: usize, head: usize) -> &Side {
        let sides = &self.sides[layer.min(self.sides.len() - 1)];
        &sides[head.min(sides.len() - 1)]
    }
}

impl Codec {
    /// Scratch for caches of up to `n_tokens` tokens, and bytes of the rows of a chunk.
    pub(crate) fn scratch_size(&self, n_tokens: usize) -> (WorkspaceSize, usize) {
        let n = n_tokens.min(self.chunk_tokens);
        let mut size = WorkspaceSize::default();
        let mut rows = 0;
        for kind in &self.kinds {
            for stream in &kind.streams {
                let WorkspaceSize { floats, bytes } = stream.workspace(n);
                size = WorkspaceSize { floats: size.floats.max(floats), bytes: size.bytes.max(bytes) };
            }
            rows = rows.max(n * kind.rows.row_bytes() * kind.rows.n_kv_heads);
        }
        (size, rows)
    }

    /// Tokens of chunk `i` of `n_tokens`.
    pub(crate) fn chunk(&self, i: usize, n_tokens: usize) -> Range<usize> {
        let start = i * self.chunk_tokens;
        start..n_tokens.min(start + self.chunk_tokens)
    }
}

/// The codecs that a text names: a specification, a pair of them, or a preset.
pub(crate) fn parse_spec(text: &str) -> Result<KvSpec, Failure> {
    match Preset::from_name(text) {
        Some(preset) => Ok(preset.spec()),
        None => Ok(text.parse::<KvSpec>()?),
    }
}

/// A stream codec whose heads share `tile`.
pub(crate) fn shared_by_heads(rows: Rows, tile: &Arc<dyn TileCodec>) -> Result<StreamCodec, Failure> {
    let heads = (0..rows.n_kv_heads).map(|_| tile.clone()).collect();
    Ok(StreamCodec::new(rows.dtype, rows.head_dim, heads, Vec::new())?)
}

/// What a codec is made for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_codec_params {
    /// Set by `tersa_codec_params_init`.
    pub struct_size: u32,
    /// Layers of the cache. 1 by default.
    pub n_layers: u32,
    /// Element type of the keys, a `tersa_dtype`.
    pub dtype_k: u32,
    /// Element type of the values.
    pub dtype_v: u32,
    /// Key/value heads.
    pub n_kv_heads: u32,
    /// Elements of a key.
    pub head_dim_k: u32,
    /// Elements of a value; 0 for caches that hold one tensor a layer, which then counts as keys.
    pub head_dim_v: u32,
    /// Tokens that are encoded together: the smallest piece that can be decoded. 256 by default.
    pub chunk_tokens: u32,
    /// Seed of rotations and training. The command line's by default.
    pub seed: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_codec_params {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            n_layers: 1,
            dtype_k: tersa_dtype::TERSA_F16 as u32,
            dtype_v: tersa_dtype::TERSA_F16 as u32,
            n_kv_heads: 0,
            head_dim_k: 0,
            head_dim_v: 0,
            chunk_tokens: 256,
            seed: SEED,
        }
    }
}

/// Sets `*params` to defaults: one layer of f16, chunks of 256 tokens, no heads yet. `struct_size` is `sizeof *params`.
///
/// # Safety
/// `params` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_params_init(
    params: *mut tersa_codec_params,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(params, struct_size, "params") })
}

/// Makes a codec from a specification such as `had+lm4`, a pair such as `k=mean+had+lm3+ls,v=had+lm3+ls`, or a preset: `safe`,
/// `balanced`, `small`, `lossless`.
///
/// Codecs that learn (`pq:...`) need a sample of the cache, all its layers: `sample_k` and `sample_v`. A codebook is trained for each layer and
/// head; save it with `tersa_codec_save`, since bytes can be decoded only with the codec that encoded them. Other codecs ignore
/// the sample, and equal parameters make equal codecs.
///
/// Cost: under a millisecond, or training.
///
/// # Safety
/// Pointers are NULL or as their types say; `out` is written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_create(
    spec: *const c_char,
    params: *const tersa_codec_params,
    sample_k: *const tersa_kv,
    sample_v: *const tersa_kv,
    out: *mut *mut tersa_codec,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            let spec = parse_spec(borrow::text(spec, "spec")?)?;
            let params = borrow::take(params, "params")?;
            let codec = make::codec(spec, &params, sample_k, sample_v)?;
            borrow::put(out, Box::into_raw(Box::new(tersa_codec { inner: Arc::new(codec) })), "out")
        }
    })
}

/// Frees a codec; NULL is fine. Jobs of a pool that use it go on.
///
/// # Safety
/// `codec` is NULL or live, and not used after this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_destroy(codec: *mut tersa_codec) {
    // SAFETY: it came from this library, and the caller gives it up.
    guard(std::ptr::null_mut(), || unsafe { borrow::give_up(codec) });
}

/// The codec's full name, such as `k=mean+had+lm4+ls,v=had+lm4+ls`. `*len` becomes its bytes without the zero at the
/// end; a capacity of 0 only asks for that.
///
/// # Safety
/// `buf` has `capacity` bytes; handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_name(
    codec: *const tersa_codec,
    buf: *mut c_char,
    capacity: usize,
    len: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let codec = borrow::shared(codec, "codec")?;
        borrow::give_text(&codec.inner.spec.to_string(), buf, capacity, len)
    })
}

/// Most bytes that `n_tokens` tokens of `n_layers` layers encode to, in `*bytes`.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_bound(
    codec: *const tersa_codec,
    n_layers: usize,
    n_tokens: usize,
    bytes: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let codec = unsafe { borrow::shared(codec, "codec")? };
        let layers = tersa_range { start: 0, end: n_layers }.within(codec.inner.n_layers, "layers")?;
        let bound = blob::bound(&codec.inner, layers, n_tokens)?;
        // SAFETY: the caller's promise.
        unsafe { borrow::put(bytes, bound, "bytes") }
    })
}

/// Encodes `tokens` of `layers` into `dst`; `*written` becomes the count of bytes, or, with `TERSA_ERR_SHORT_BUFFER`, the capacity
/// that is needed. The bytes carry their shape and a checksum for each chunk.
///
/// `k` and `v` hold pointers for the layers of the range only. `v` is NULL for codecs without values.
///
/// # Safety
/// Handles are live, pointers as their types say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_codec_encode(
    codec: *const tersa_codec,
    k: *const tersa_kv,
    v: *const tersa_kv,
    layers: tersa_range,
    tokens: tersa_range,
    dst: *mut c_void,
    capacity: usize,
    written: *mut usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(written, 0, "written")?;
            let codec = borrow::shared(codec, "codec")?;
            let job = blob::Encode::new(&codec.inner, k, v, layers, tokens, dst, capacity, &mut *written)?;
            *written = workspace::with(workspace, |scratch| job.run(scratch, &|| false))?;
        }
        Ok(())
    })
}

/// What encoded bytes hold.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tersa_blob_info {
    /// Set by `tersa_blob_info_init`.
    pub struct_size: u32,
    /// First layer.
    pub first_layer: u32,
    /// Layers.
    pub n_layers: u32,
    /// 1 for keys only, 2 for keys and values.
    pub n_kinds: u32,
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// 0.
    pub reserved: u32,
    /// Tokens.
    pub n_tokens: u64,
    /// Which codec encoded them: equal for equal codecs.
    pub fingerprint: u64,
    /// Bytes of the blob.
    pub len_bytes: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for tersa_blob_info {
    const FIRST_SIZE: usize = size_of::<Self>();
    fn defaults() -> Self {
        Self {
            struct_size: 0,
            first_layer: 0,
            n_layers: 0,
            n_kinds: 0,
            chunk_tokens: 0,
            reserved: 0,
            n_tokens: 0,
            fingerprint: 0,
            len_bytes: 0,
        }
    }
}

/// Sets `*info` to zeros. `struct_size` is `sizeof *info`.
///
/// # Safety
/// `info` points to `struct_size` bytes; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_blob_info_init(
    info: *mut tersa_blob_info,
    struct_size: usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe { borrow::init(info, struct_size, "info") })
}

/// Looks at the head of encoded bytes, no codec needed.
///
/// # Safety
/// `src` has `len` bytes; pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_blob_inspect(
    src: *const c_void,
    len: usize,
    info: *mut tersa_blob_info,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let head = blob::Head::parse(borrow::bytes(src, len, "src")?)?;
        borrow::fill(info, &head.info(), "info")
    })
}

/// Decodes `tokens` of `layers` out of encoded bytes. Layers count as when they were encoded, tokens from the first that was; token
/// `tokens.start` goes to token `first_token` of `k` and `v`, which hold pointers for the layers of the range only. One of `k` and `v`
/// may be NULL, to leave it out.
///
/// Decodes whole chunks and copies what was asked for. Every chunk's checksum is compared first; nothing else of the
/// destination is touched.
///
/// # Safety
/// Handles are live, pointers as their types say; `workspace` is NULL or used by this thread only.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_codec_decode(
    codec: *const tersa_codec,
    src: *const c_void,
    len: usize,
    layers: tersa_range,
    tokens: tersa_range,
    k: *const tersa_kv,
    v: *const tersa_kv,
    first_token: usize,
    workspace: *mut tersa_workspace,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        unsafe {
            let codec = borrow::shared(codec, "codec")?;
            let job = blob::Decode::new(&codec.inner, src, len, layers, tokens, k, v, first_token)?;
            workspace::with(workspace, |scratch| job.run(scratch, &|| false))
        }
    })
}

/// Writes what `tersa_codec_load` needs into `dst`: a `.tersa` container without tokens. `*written` becomes its size; a capacity of 0 only asks
/// for that. Codecs that do not learn need not be saved: equal parameters make them again.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_save(
    codec: *const tersa_codec,
    dst: *mut c_void,
    capacity: usize,
    written: *mut usize,
    err: *mut tersa_error,
) -> tersa_status {
    // SAFETY: the caller's promise.
    guard(err, || unsafe {
        let codec = borrow::shared(codec, "codec")?;
        let bytes = saved::save(&codec.inner, Vec::new())?;
        borrow::give_bytes(&bytes, dst, capacity, written)
    })
}

/// Makes a codec from what `tersa_codec_save` wrote.
///
/// # Safety
/// `src` has `len` bytes; pointers as their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_codec_load(
    src: *const c_void,
    len: usize,
    out: *mut *mut tersa_codec,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        obey_environment();
        // SAFETY: the caller's promise.
        unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            let codec = saved::load(borrow::bytes(src, len, "src")?)?;
            borrow::put(out, Box::into_raw(Box::new(tersa_codec { inner: Arc::new(codec) })), "out")
        }
    })
}
