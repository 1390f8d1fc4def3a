//! What a codec needs beyond its spec.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::spec::{CodecSpec, Quantizer};
use crate::pq::{Codebook, PqError, PqShape, TrainParams, train};
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
    /// Centroids of `pq`.
    pub codebook: Option<Codebook>,
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
    /// No codebook of this shape, or training rows that are not whole.
    Pq(PqError),
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadDim { head_dim } => {
                write!(f, "had serves head dimensions from 1 to {MAX_DIM}, not {head_dim}")
            }
            Self::GridBits { bits } => write!(f, "there is no Lloyd-Max grid of {bits} bits"),
            Self::NoTrainingRows => f.write_str("pq trains its codebook on rows, and none were given"),
            Self::Pq(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for SideError {}

/// Rows for each centroid that training looks at: past a few hundred the centroids barely move.
const SAMPLE: usize = 256;

impl Side {
    /// Makes what `spec` needs for rows of `head_dim` elements. `seed` chooses the signs of the rotation and the start
    /// of training; `training` holds rows of `head_dim` elements and is looked at by `pq` only, which leaves out rows
    /// with a NaN or an infinity. If no row remains, the centroids are zeros.
    ///
    /// Cost: that of [`train`] for `pq`, else under a millisecond.
    ///
    /// # Errors
    /// [`SideError`] if there is no rotation or codebook of that shape, or `training` is `None` for `pq`.
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
        if let Quantizer::Pq { m, nbits } = spec.quantizer {
            let shape = PqShape::new(head_dim, usize::from(m), nbits).map_err(SideError::Pq)?;
            let rows = training.ok_or(SideError::NoTrainingRows)?;
            side.codebook = Some(trained(rows, shape, seed).map_err(SideError::Pq)?);
        }
        Ok(side)
    }
}

fn trained(rows: &[f32], shape: PqShape, seed: u64) -> Result<Codebook, PqError> {
    let params = TrainParams { seed, sample: Some(SAMPLE), ..TrainParams::default() };
    match train(rows, shape, &params) {
        Err(PqError::NonFinite { .. }) => {
            let finite = rows.chunks(shape.d()).filter(|row| row.iter().all(|x| x.is_finite()));
            let finite: Vec<f32> = finite.flatten().copied().collect();
            if finite.is_empty() { untrained(shape) } else { train(&finite, shape, &params).map(|(c, _)| c) }
        }
        Err(PqError::NoRows) => untrained(shape),
        result => result.map(|(codebook, _)| codebook),
    }
}

fn untrained(shape: PqShape) -> Result<Codebook, PqError> {
    Codebook::new(shape, vec![0.0; shape.codebook_len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(spec: &str, head_dim: usize, training: Option<&[f32]>) -> Result<Side, SideError> {
        Side::make(spec.parse().unwrap(), head_dim, 1, training)
    }

    #[test]
    fn each_codec_gets_what_it_needs_and_no_more() {
        assert_eq!(side("q8_0", 64, None), Ok(Side::default()));
        let lm = side("had+lm3", 80, None).unwrap();
        assert_eq!((lm.grid.len(), lm.signs.len(), lm.codebook), (8, 10, None));
        let had = side("had+q4_0", 64, None).unwrap();
        assert_eq!((had.grid.len(), had.signs.len()), (0, 8));
        let pq = side("pq:4x4", 8, Some(&[0.5; 8 * 20])).unwrap();
        assert_eq!(pq.codebook.unwrap().shape().m(), 4);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert_eq!(side("had+lm3", 0, None), Err(SideError::HeadDim { head_dim: 0 }));
        assert_eq!(side("pq:4x4", 8, None), Err(SideError::NoTrainingRows));
        assert!(matches!(side("pq:16x4", 8, Some(&[])), Err(SideError::Pq(PqError::Shape { .. }))));
        assert!(matches!(side("pq:4x4", 8, Some(&[0.0; 9])), Err(SideError::Pq(PqError::Length { .. }))));
    }

    #[test]
    fn training_leaves_out_rows_that_are_not_finite() {
        let mut rows: Vec<f32> = (0..160u16).map(f32::from).collect();
        let clean = side("pq:2x4", 8, Some(&rows[8..])).unwrap();
        rows[3] = f32::NAN;
        assert_eq!(side("pq:2x4", 8, Some(&rows)).unwrap(), clean);
        let zeros = side("pq:2x4", 8, Some(&[f32::INFINITY; 8])).unwrap();
        assert_eq!(side("pq:2x4", 8, Some(&[])).unwrap(), zeros);
        assert!(zeros.codebook.unwrap().centroids(0).iter().all(|&x| x == 0.0));
    }
}
