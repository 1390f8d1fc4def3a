//! What a codec needs beyond its spec.

use alloc::vec::Vec;
use core::fmt;

use super::spec::{CodecSpec, Quantizer};
use crate::rotate::lloyd_max::Grid;
use crate::rotate::{MAX_DIM, Rotation};

/// Numbers that encoder and decoder share beside the spec. The encoder makes them once for a stream or head and
/// stores them in the container, so that a decoder computes nothing and cannot disagree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Levels of the Lloyd–Max grid, rising; empty for other codecs.
    pub grid: Vec<f32>,
    /// Signs of the rotation, one bit an element, least significant first, 1 for minus; empty without `had`.
    pub signs: Vec<u8>,
}

/// Why [`Side::make`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SideError {
    /// No rotation of this size.
    HeadDim {
        /// Elements of a row.
        head_dim: usize,
    },
    /// No grid with that many bits.
    GridBits {
        /// Bits of a coordinate.
        bits: u8,
    },
    /// `pq` without rows to train on.
    NoTrainingRows,
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadDim { head_dim } => {
                write!(f, "had serves head dimensions from 1 to {MAX_DIM}, not {head_dim}")
            }
            Self::GridBits { bits } => write!(f, "there is no Lloyd-Max grid of {bits} bits"),
            Self::NoTrainingRows => f.write_str("pq trains its codebook on rows, and none were given"),
        }
    }
}

impl core::error::Error for SideError {}

impl Side {
    /// Makes what `spec` needs for rows of `head_dim` elements. `seed` chooses the signs of the rotation and the start
    /// of training; `training` holds rows of `head_dim` elements and is looked at by `pq` only.
    ///
    /// # Errors
    /// [`SideError`] if there is no rotation or codebook of that shape, or `pq` got no rows.
    pub fn make(
        spec: CodecSpec,
        head_dim: usize,
        seed: u64,
        training: Option<&[f32]>,
    ) -> Result<Self, SideError> {
        let mut side = Self::default();
        if spec.rotate {
            let rotation =
                Rotation::new(head_dim, seed).map_err(|e| SideError::HeadDim { head_dim: e.head_dim })?;
            side.signs = rotation.signs_bits().collect();
        }
        if let Quantizer::LloydMax { bits, .. } = spec.quantizer {
            let grid = Grid::unit_normal(bits).ok_or(SideError::GridBits { bits })?;
            #[allow(
                clippy::cast_possible_truncation,
                reason = "rounding to f32 is what the grid in files is"
            )]
            side.grid.extend(grid.levels().iter().map(|&x| x as f32));
        }
        if let Quantizer::Pq { .. } = spec.quantizer {
            let _rows = training.ok_or(SideError::NoTrainingRows)?;
        }
        Ok(side)
    }
}
