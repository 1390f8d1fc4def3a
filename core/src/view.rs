//! Borrowed strided tensors.

use crate::num::DType;
use core::ops::Range;

/// The keys or the values of one layer, wherever and however they lie in memory: `[n_tokens][n_kv_heads][head_dim]`
/// elements of one type with free strides, so that transposed and interleaved caches need no copy.
///
/// Strides are in elements. Block types need `dim_stride == 1` and strides that are whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    data: &'a [u8],
    shape: KvShape,
    strides: KvStrides,
}

/// Logical shape and element type of a [`KvView`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Element type.
    pub dtype: DType,
    /// Tokens.
    pub n_tokens: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of one head's row.
    pub head_dim: usize,
}

/// Distances between neighbours along each axis, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvStrides {
    /// From one token to the next.
    pub token: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one element of a row to the next.
    pub dim: usize,
}

impl KvStrides {
    /// Rows of all heads of a token side by side: `[token][head][dim]`.
    #[must_use]
    pub const fn token_major(shape: &KvShape) -> Self {
        Self { token: shape.n_kv_heads * shape.head_dim, head: shape.head_dim, dim: 1 }
    }

    /// All tokens of a head together: `[head][token][dim]`.
    #[must_use]
    pub const fn head_major(shape: &KvShape) -> Self {
        Self { token: shape.head_dim, head: shape.n_tokens * shape.head_dim, dim: 1 }
    }
}

/// Why a view cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViewError {
    /// The last element lies beyond the data.
    OutOfBounds {
        /// Bytes that the shape and strides reach.
        needed: u128,
        /// Bytes there are.
        len: usize,
    },
    /// A block type with rows or strides that cut through blocks.
    SplitBlock {
        /// The type.
        dtype: DType,
        /// Elements in one of its blocks.
        block_len: usize,
    },
}

impl core::fmt::Display for ViewError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfBounds { needed, len } => {
                write!(f, "the tensor needs {needed} bytes, the data has {len}")
            }
            Self::SplitBlock { dtype, block_len } => {
                write!(
                    f,
                    "{dtype} stores {block_len} elements together; the shape or a stride cuts through them"
                )
            }
        }
    }
}

impl core::error::Error for ViewError {}

impl KvShape {
    /// Bytes of one head's row.
    ///
    /// # Panics
    /// If a block type's row is not whole blocks, which [`KvView::new`] refuses.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.dtype.bytes_for(self.head_dim).expect("KvView::new checked that rows are whole blocks")
    }

    /// Elements of the whole tensor.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        self.n_tokens * self.n_kv_heads * self.head_dim
    }
}

impl<'a> KvView<'a> {
    /// A view of `data`, whose first byte is element `[0][0][0]`.
    ///
    /// # Errors
    /// [`ViewError`] if any element would lie outside `data`, or a block type is cut.
    pub fn new(data: &'a [u8], shape: KvShape, strides: KvStrides) -> Result<Self, ViewError> {
        let block = shape.dtype.block_len();
        let cut = |n: usize| !n.is_multiple_of(block);
        if block > 1 && (strides.dim != 1 || cut(shape.head_dim) || cut(strides.token) || cut(strides.head)) {
            return Err(ViewError::SplitBlock { dtype: shape.dtype, block_len: block });
        }
        if shape.n_tokens != 0 && shape.n_kv_heads != 0 && shape.head_dim != 0 {
            let reach = |n: usize, stride: usize| (n as u128 - 1).saturating_mul(stride as u128);
            let last = reach(shape.n_tokens, strides.token)
                .saturating_add(reach(shape.n_kv_heads, strides.head))
                .saturating_add(reach(shape.head_dim, strides.dim));
            let blocks = last / block as u128 + 1;
            let needed = blocks.saturating_mul(shape.dtype.block_bytes() as u128);
            if needed > data.len() as u128 {
                return Err(ViewError::OutOfBounds { needed, len: data.len() });
            }
        }
        Ok(Self { data, shape, strides })
    }

    /// Shape and type.
    #[must_use]
    pub const fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Strides in elements.
    #[must_use]
    pub const fn strides(&self) -> &KvStrides {
        &self.strides
    }

    /// The bytes from the first row of `head` on and the distance from token to token in bytes, unless the elements of
    /// a row are apart. Every token's row lies within them.
    #[cfg(feature = "alloc")]
    pub(crate) fn head_rows(&self, head: usize) -> Option<(&'a [u8], usize)> {
        let (bytes, block) = (self.shape.dtype.block_bytes(), self.shape.dtype.block_len());
        if head >= self.shape.n_kv_heads || self.strides.dim != 1 && self.shape.head_dim > 1 {
            return None;
        }
        if self.shape.n_tokens == 0 {
            return Some((&[], self.shape.row_bytes()));
        }
        let start = head * self.strides.head / block * bytes;
        Some((self.data.get(start..)?, self.strides.token / block * bytes))
    }

    /// The rows of `head` for `tokens`, if they already lie side by side.
    ///
    /// # Panics
    /// If `head` or `tokens` is out of range.
    #[must_use]
    pub fn contiguous_rows(&self, head: usize, tokens: Range<usize>) -> Option<&'a [u8]> {
        assert!(
            head < self.shape.n_kv_heads && tokens.end <= self.shape.n_tokens && tokens.start <= tokens.end
        );
        let row = self.shape.row_bytes();
        let side_by_side = self.strides.dim == 1 && self.strides.token == self.shape.head_dim;
        if tokens.is_empty() || row == 0 {
            return Some(&[]);
        }
        if !(side_by_side || self.strides.dim == 1 && tokens.len() == 1) {
            return None;
        }
        let (bytes, block) = (self.shape.dtype.block_bytes(), self.shape.dtype.block_len());
        let start = (tokens.start * self.strides.token + head * self.strides.head) / block * bytes;
        self.data.get(start..start + tokens.len() * row)
    }

    /// Copies the rows of `head` for `tokens` side by side into `out`, in the view's own element type.
    /// Cost: one copy of the rows; element by element where `dim` is strided.
    ///
    /// # Panics
    /// If `head` or `tokens` is out of range, or `out` is not exactly `tokens.len() * row_bytes()` long.
    pub fn copy_rows(&self, head: usize, tokens: Range<usize>, out: &mut [u8]) {
        assert!(
            head < self.shape.n_kv_heads && tokens.end <= self.shape.n_tokens && tokens.start <= tokens.end
        );
        let row = self.shape.row_bytes();
        assert_eq!(out.len(), tokens.len() * row);
        if row == 0 {
            return;
        }
        let (bytes, block) = (self.shape.dtype.block_bytes(), self.shape.dtype.block_len());
        let at = |token: usize| (token * self.strides.token + head * self.strides.head) / block * bytes;
        if self.strides.dim == 1 && self.strides.token == self.shape.head_dim {
            let start = at(tokens.start);
            out.copy_from_slice(&self.data[start..start + out.len()]);
        } else if self.strides.dim == 1 {
            for (token, row_out) in tokens.zip(out.chunks_exact_mut(row)) {
                let start = at(token);
                row_out.copy_from_slice(&self.data[start..start + row]);
            }
        } else {
            // Transposed caches: walk channel by channel, since a channel's tokens are neighbours there.
            for dim in 0..self.shape.head_dim {
                for (i, token) in tokens.clone().enumerate() {
                    let from = at(token) + dim * self.strides.dim * bytes;
                    let to = i * row + dim * bytes;
                    out[to..to + bytes].copy_from_slice(&self.data[from..from + bytes]);
                }
            }
        }
    }
}
