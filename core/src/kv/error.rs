//! What can be wrong with a call on a cache.

use crate::attention::AttentionError;
use crate::num::DType;
use crate::pq::PqError;
use crate::select::RerankError;

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
    /// A share outside 0..=1.
    Share {
        /// The share.
        share: f64,
    },
    /// An attention scale that is negative or not finite (or is once multiplied by a score's).
    Scale {
        /// The scale.
        scale: f32,
    },
    /// The index has no codebook yet.
    Untrained,
    /// The index was built for a cache that has since been cut, changed or forked.
    Outdated,
    /// A layer of no KV heads, or of no query heads for each.
    NoHeads,
    /// The bytes are of an index that is kept in another way.
    OtherIndex {
        /// What differs.
        what: &'static str,
    },
    /// The bytes are no index.
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// The product quantizer refused.
    Pq(PqError),
    /// The second level refused.
    Rerank(RerankError),
    /// Attention refused.
    Attention(AttentionError),
}

impl From<PqError> for KvError {
    fn from(error: PqError) -> Self {
        Self::Pq(error)
    }
}

impl From<RerankError> for KvError {
    fn from(error: RerankError) -> Self {
        Self::Rerank(error)
    }
}

impl From<AttentionError> for KvError {
    fn from(error: AttentionError) -> Self {
        Self::Attention(error)
    }
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
            Self::Share { share } => write!(f, "{share} is no share of a whole"),
            Self::Scale { scale } => write!(f, "scores cannot be scaled by {scale}"),
            Self::Untrained => f.write_str("the index has no codebook yet"),
            Self::Outdated => f.write_str("the index was built of other tokens than the cache holds now"),
            Self::NoHeads => f.write_str("a layer has at least one KV head and one query head for each"),
            Self::OtherIndex { what } => write!(f, "the index was made with another {what}"),
            Self::Corrupt { what } => write!(f, "these bytes are no index: {what}"),
            Self::Pq(error) => error.fmt(f),
            Self::Rerank(error) => error.fmt(f),
            Self::Attention(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for KvError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Pq(error) => Some(error),
            Self::Rerank(error) => Some(error),
            Self::Attention(error) => Some(error),
            _ => None,
        }
    }
}
