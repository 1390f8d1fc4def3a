//! Product quantization (Jégou, Douze and Schmid, TPAMI 2011): a row of `d` numbers is cut into `m` sub-vectors, and
//! each is replaced by the index of the nearest of `ksub = 2^nbits` centroids, trained by k-means on the sub-vectors
//! of the same columns.
//!
//! Sub-spaces need not be equal: the first `d % m` are one column wider than the others.
//!
//! Codes, codebooks and reports are bit-identical for equal input and seed, at every SIMD level.
//!
//! | step | cost |
//! |---|---|
//! | [`train()`] | `n * d * ksub` fused multiply-adds an iteration, and as many for the report of every reseeded centroid |
//! | [`Codebook::encode`] | `n * d * ksub` fused multiply-adds |
//! | [`Codebook::decode`] | one copy of `n * d` numbers out of a table of `d * ksub` |
//!
//! ```
//! use tersa_core::pq::{Codebook, PqShape, TrainParams, train};
//!
//! let shape = PqShape::new(8, 2, 4)?;
//! let rows: Vec<f32> = (0..8 * 500).map(|i| (i as f32 * 0.7).sin()).collect();
//! let (codebook, report) = train(&rows, shape, &TrainParams::default())?;
//! let mut codes = vec![0; 500 * 2];
//! codebook.encode(&rows, &mut codes)?;
//! let mut decoded = vec![0.0; rows.len()];
//! codebook.decode(&codes, &mut decoded)?;
//! let error: f32 = rows.iter().zip(&decoded).map(|(x, y)| (x - y).powi(2)).sum();
//! assert!(f64::from(error) <= 1.001 * report.inertia.iter().sum::<f64>());
//! # Ok::<(), tersa_core::pq::PqError>(())
//! ```
#![cfg(feature = "alloc")]

mod budget;
mod codebook;
mod codes;
mod scan;
mod tables;
#[cfg(test)]
mod tests;
mod train;
mod transform;

pub use budget::{IterBudget, TimeModel};
pub use codebook::Codebook;
pub use codes::Codes;
pub use scan::scan;
pub use tables::QueryTables;
pub use train::{Init, TrainParams, TrainReport, train};
pub use transform::{KeyTransform, TransformParams};

use crate::kernels::assign::Split;
use crate::kernels::scan::Layout;

/// Dimension, sub-quantizers and bits of a product quantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PqShape {
    d: usize,
    m: usize,
    nbits: u8,
}

impl PqShape {
    /// Rows of `d` numbers in `m` sub-spaces with codes of `nbits` bits.
    ///
    /// # Errors
    /// [`PqError::Shape`] unless `1 <= m <= d <= 65536` and `nbits` is 4, 6 or 8.
    pub const fn new(d: usize, m: usize, nbits: u8) -> Result<Self, PqError> {
        if m == 0 || m > d || d > 1 << 16 || !matches!(nbits, 4 | 6 | 8) {
            return Err(PqError::Shape { d, m, nbits });
        }
        Ok(Self { d, m, nbits })
    }

    /// Numbers in a row.
    #[must_use]
    pub const fn d(self) -> usize {
        self.d
    }

    /// Sub-quantizers: codes of a row.
    #[must_use]
    pub const fn m(self) -> usize {
        self.m
    }

    /// Bits of a code.
    #[must_use]
    pub const fn nbits(self) -> u8 {
        self.nbits
    }

    /// Centroids of a sub-space: `2^nbits`.
    #[must_use]
    pub const fn ksub(self) -> usize {
        1 << self.nbits
    }

    /// Columns of sub-space `s`.
    #[must_use]
    pub const fn dsub(self, s: usize) -> usize {
        self.split().dsub(s)
    }

    /// First column of sub-space `s`.
    #[must_use]
    pub const fn start(self, s: usize) -> usize {
        self.split().start(s)
    }

    /// Bytes of a row's packed codes: `m * nbits` bits, filled up to a whole byte.
    #[must_use]
    pub const fn code_bytes(self) -> usize {
        (self.m * self.nbits as usize).div_ceil(8)
    }

    /// Numbers in a codebook: `ksub * d`.
    #[must_use]
    pub const fn codebook_len(self) -> usize {
        self.ksub() * self.d
    }

    const fn split(self) -> Split {
        Split { d: self.d, m: self.m, ksub: self.ksub() }
    }

    const fn layout(self) -> Layout {
        Layout { m: self.m, nbits: self.nbits }
    }
}

/// Why rows cannot be trained on, encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PqError {
    /// No quantizer has this shape; see [`PqShape::new`].
    Shape {
        /// Numbers in a row.
        d: usize,
        /// Sub-quantizers.
        m: usize,
        /// Bits of a code.
        nbits: u8,
    },
    /// A buffer's length does not fit the shape or the other buffer.
    Length {
        /// The length it should have (the next multiple, where whole rows are asked for).
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// Training needs at least one row.
    NoRows,
    /// A NaN or an infinity in this row.
    NonFinite {
        /// Index of the row (of the centroid `s * ksub + c`, for a codebook).
        row: usize,
    },
    /// A code that is not below `ksub`.
    Code {
        /// Where in the codes.
        at: usize,
        /// The code.
        code: u8,
    },
    /// Bits that are not zero after the last code of this packed row.
    Padding {
        /// Index of the row.
        row: usize,
    },
    /// Tokens that are not there.
    Tokens {
        /// One past the last token asked for.
        end: usize,
        /// Tokens that there are.
        len: usize,
    },
    /// Codes, codebook and tables must have the same shape.
    OtherShape {
        /// The shape of the first.
        expected: PqShape,
        /// The shape that does not fit.
        got: PqShape,
    },
}

impl core::fmt::Display for PqError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Shape { d, m, nbits } => {
                write!(f, "no product quantizer cuts {d} columns into {m} codes of {nbits} bits")
            }
            Self::Length { expected, got } => write!(f, "a buffer holds {got} elements where {expected} fit"),
            Self::NoRows => f.write_str("no rows to train on"),
            Self::NonFinite { row } => write!(f, "row {row} holds a NaN or an infinity"),
            Self::Code { at, code } => write!(f, "code {code} at {at} names no centroid"),
            Self::Padding { row } => write!(f, "bits after the last code of packed row {row}"),
            Self::Tokens { end, len } => write!(f, "tokens up to {end} of {len}"),
            Self::OtherShape { expected, got } => write!(
                f,
                "a quantizer of {} columns in {} codes of {} bits meets one of {} in {} of {}",
                expected.d, expected.m, expected.nbits, got.d, got.m, got.nbits
            ),
        }
    }
}

impl core::error::Error for PqError {}

/// The count of whole rows of `width` elements in a buffer of `len`.
const fn whole_rows(len: usize, width: usize) -> Result<usize, PqError> {
    if len.is_multiple_of(width) {
        Ok(len / width)
    } else {
        Err(PqError::Length { expected: len.next_multiple_of(width), got: len })
    }
}
