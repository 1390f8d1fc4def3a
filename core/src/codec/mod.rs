//! Codecs for keys and values behind one interface.
//!
//! The unit of work is a *tile*: consecutive rows (tokens) of one head of one stream, `[n_rows][head_dim]` elements
//! of the stream's own type side by side. A [`TileCodec`] turns a tile into bytes and back on the caller's buffers.
//! [`chunk`] joins the tiles of all heads of a token range, keeps chosen tokens exact and falls back to exact
//! storage for tiles a lossy codec cannot represent (NaN, infinities).
//!
//! | codec | what it is | module with its bytes |
//! |---|---|---|
//! | `raw`, `lossless` | the rows, or their byte planes through a [`ByteCoder`] | `raw`, `lossless` |
//! | `q8_0`, `q4_0`, `had+q8_0`, `had+q4_0` | llama.cpp's blocks, plain or of rotated rows | `block` |
//! | `had+lm4`, `mean+had+lm3+ls`, ... | rotation, one scale a row, a Lloyd–Max grid | `lloyd_max` |
//! | `int4c32`, `int2t64`, ... | integers with a minimum and a scale for each group (KIVI) | `int` |
//! | `pq:16x8`, ... | product quantization | `pq` |
//!
//! Cost: each codec is one pass over the tile (`mean` adds one); nothing is allocated after [`prepare`].
//!
//! ```
//! use tersa_core::codec::{CodecSpec, Side, Workspace, prepare};
//! use tersa_core::num::DType;
//!
//! let (n_rows, head_dim) = (10, 64);
//! let spec: CodecSpec = "had+lm4".parse()?;
//! let side = Side::make(spec, head_dim, 1, None)?; // signs and grid: keep them with the codes
//! let codec = prepare(spec, head_dim, DType::F16, &side)?;
//!
//! let rows = [0x3c_u8; 10 * 64 * 2];
//! let size = codec.workspace(n_rows);
//! let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
//! let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: None };
//! let mut code = vec![0; codec.bound(n_rows)];
//! let len = codec.encode(&rows, &mut code, &mut ws)?;
//! assert_eq!(len, 4 + n_rows * (2 + head_dim * 4 / 8));
//!
//! let mut decoded = [0_u8; 10 * 64 * 2];
//! codec.decode(&code[..len], &mut decoded, &mut ws)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "alloc")]
mod block;
#[cfg(feature = "alloc")]
mod buffers;
#[cfg(feature = "alloc")]
pub mod chunk;
#[cfg(feature = "alloc")]
mod int;
#[cfg(feature = "alloc")]
mod lloyd_max;
#[cfg(feature = "alloc")]
mod lossless;
#[cfg(feature = "alloc")]
mod open;
#[cfg(feature = "alloc")]
mod pq;
mod preset;
#[cfg(feature = "alloc")]
mod raw;
#[cfg(feature = "alloc")]
mod side;
pub mod spec;
#[cfg(feature = "alloc")]
mod stored;

#[cfg(feature = "alloc")]
pub use open::OpenError;
pub use preset::Preset;
#[cfg(feature = "alloc")]
pub use side::{Side, SideError};
pub use spec::{CodecSpec, KvSpec, Quantizer, SpecError};
#[cfg(feature = "alloc")]
pub use stored::StoredSideError;

#[cfg(feature = "alloc")]
use crate::num::DType;
#[cfg(feature = "alloc")]
use alloc::boxed::Box;

/// Makes the codec that `spec` names ready for rows of `head_dim` elements of `dtype`. Nothing is computed or drawn
/// here: `side` brings the numbers that encoder and decoder must share.
///
/// # Errors
/// [`CodecError::Unsupported`] if the codec cannot serve such rows or `side` lacks what it needs.
#[cfg(feature = "alloc")]
pub fn prepare(
    spec: CodecSpec,
    head_dim: usize,
    dtype: DType,
    side: &Side,
) -> Result<Box<dyn TileCodec>, CodecError> {
    if !spec.stages_fit() {
        return Err(CodecError::Unsupported {
            why: "mean goes with had+lm only, had with q8_0, q4_0 and lm",
        });
    }
    Ok(match spec.quantizer {
        Quantizer::Raw => Box::new(raw::Raw::new(head_dim, dtype)?),
        Quantizer::Lossless => Box::new(lossless::Lossless::new(head_dim, dtype)?),
        Quantizer::Q8_0 => {
            Box::new(block::Block::from_side(DType::Q8_0, spec.rotate, head_dim, dtype, side)?)
        }
        Quantizer::Q4_0 => {
            Box::new(block::Block::from_side(DType::Q4_0, spec.rotate, head_dim, dtype, side)?)
        }
        Quantizer::LloydMax { bits, scale } => {
            Box::new(lloyd_max::LloydMax::new(bits, scale, spec.mean, head_dim, dtype, side)?)
        }
        Quantizer::Int { bits, axis, group } => Box::new(int::Int::new(bits, axis, group, head_dim, dtype)?),
        Quantizer::Pq { m, nbits } => Box::new(pq::PqTile::new(m, nbits, head_dim, dtype, side)?),
    })
}

/// Compresses byte strings: the general-purpose coder behind `lossless`, supplied by the caller because the core
/// has none (the command line brings zstd).
pub trait ByteCoder {
    /// Most bytes that compressing `len` bytes can give.
    fn bound(&self, len: usize) -> usize;
    /// Compresses `src` into `dst`; the count of bytes written, or `None` if `dst` is too small.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize>;
    /// Decompresses `src` into exactly `dst.len()` bytes; `false` if `src` is not that.
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> bool;
}

/// Scratch memory a call needs; see [`TileCodec::workspace`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// `f32` elements.
    pub floats: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The caller's scratch memory, lent to one call at a time. Contents before and after are of no meaning.
pub struct Workspace<'a> {
    /// At least [`WorkspaceSize::floats`] long.
    pub floats: &'a mut [f32],
    /// At least [`WorkspaceSize::bytes`] long.
    pub bytes: &'a mut [u8],
    /// Needed by `lossless` only.
    pub coder: Option<&'a mut dyn ByteCoder>,
}

/// A codec made ready for the tiles of one head: its grid computed, its codebook at hand.
///
/// Equal rows give equal bytes at every SIMD level and on every machine.
pub trait TileCodec: Send + Sync {
    /// Most bytes that `n_rows` rows encode to.
    fn bound(&self, n_rows: usize) -> usize;
    /// Fewest bytes that `n_rows` rows encode to: [`bound`](Self::bound) for every codec but `lossless`. Lets a reader
    /// refuse a tile before it takes memory for the rows.
    fn least(&self, n_rows: usize) -> usize {
        self.bound(n_rows)
    }
    /// Whether every bit pattern of every row comes back, so that its error need not be measured.
    fn is_exact(&self) -> bool {
        false
    }
    /// Scratch memory that encoding or decoding `n_rows` rows needs.
    fn workspace(&self, n_rows: usize) -> WorkspaceSize;
    /// Encodes whole rows into `out` and returns the count of bytes written.
    ///
    /// # Errors
    /// [`CodecError::NonFinite`] if a lossy codec meets a NaN or an infinity: store such a tile exactly.
    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError>;
    /// Decodes exactly the rows that `rows` has room for. Values beyond the type's range saturate to its largest
    /// finite value.
    ///
    /// # Errors
    /// [`CodecError::Corrupt`] if `code` is not what `encode` gives for that many rows; never a panic.
    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError>;
}

/// Why a tile cannot be encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// A NaN or an infinity in this row of the tile.
    NonFinite {
        /// Row within the tile.
        row: usize,
    },
    /// An output or scratch buffer is too short.
    ShortBuffer {
        /// What is needed, in elements of the buffer.
        needed: usize,
        /// What was given.
        got: usize,
    },
    /// The bytes are not a tile of this codec with that many rows.
    Corrupt {
        /// What does not fit.
        what: &'static str,
    },
    /// The codec cannot serve rows of this shape and type.
    Unsupported {
        /// Why, e.g. `"q8_0 needs a head_dim that is a multiple of 32"`.
        why: &'static str,
    },
    /// `lossless` without a [`ByteCoder`].
    NoByteCoder,
}

impl core::fmt::Display for CodecError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NonFinite { row } => write!(f, "row {row} holds a NaN or an infinity"),
            Self::ShortBuffer { needed, got } => {
                write!(f, "a buffer has room for {got}, {needed} are needed")
            }
            Self::Corrupt { what } => write!(f, "damaged tile: {what}"),
            Self::Unsupported { why } => f.write_str(why),
            Self::NoByteCoder => f.write_str("the lossless codec needs a byte coder, and none was given"),
        }
    }
}

impl core::error::Error for CodecError {}
