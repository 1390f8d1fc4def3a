//! What can be wrong with a call on a cache.

use crate::num::DType;

/// Why a cache refused a call. Nothing was changed then.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum KvError {
    /// Rows of so many elements of this type cannot be stored.
    Row {
        /// Element type.
        dtype: DType,
        /// Elements of a row.
        dim: usize,
    },
    /// Not a power of two, or blocks beyond the address space.
    BlockTokens {
        /// Tokens of a block.
        block_tokens: usize,
    },
    /// A window of no slots, or of more than 2^32 - 1.
    Window {
        /// Slots.
        window: usize,
    },
    /// A buffer's length does not fit (the next multiple, where whole rows are asked for).
    Length {
        /// The length it should have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A range of tokens that does not lie within the tokens there are.
    Range {
        /// Its start.
        start: usize,
        /// Its end.
        end: usize,
        /// Tokens there are.
        len: usize,
    },
}

impl core::fmt::Display for KvError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Row { dtype, dim } => write!(f, "rows of {dim} elements of {dtype} cannot be stored"),
            Self::BlockTokens { block_tokens } => {
                write!(f, "{block_tokens} tokens a block: not a power of two, or too many")
            }
            Self::Window { window } => write!(f, "a window of {window} slots"),
            Self::Length { expected, got } => write!(f, "a buffer holds {got} elements where {expected} fit"),
            Self::Range { start, end, len } => write!(f, "tokens {start}..{end} of {len}"),
        }
    }
}

impl core::error::Error for KvError {}
