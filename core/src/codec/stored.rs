//! Between what codecs use and what the container stores.

use alloc::vec::Vec;

use super::{CodecSpec, Quantizer, Side};
use crate::format::{CodebookData, SideData};
use crate::pq::{Codebook, PqShape};

/// Why stored side data does not serve a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredSideError {
    /// The codec needs it, and the container does not have it, or the other way round.
    Codebook {
        /// Whether the codec needs a codebook.
        needed: bool,
    },
    /// The stored codebook has another shape than the codec's name says, or its centroids are not finite.
    CodebookShape,
}

impl core::fmt::Display for StoredSideError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Codebook { needed: true } => "the codec needs a codebook, and the file has none for it",
            Self::Codebook { needed: false } => "the file has a codebook for a codec that uses none",
            Self::CodebookShape => "the stored codebook does not fit the codec",
        })
    }
}

impl core::error::Error for StoredSideError {}

impl Side {
    /// Side data as a container holds it.
    #[must_use]
    pub fn to_stored(&self) -> SideData {
        let codebook = self.codebook.as_ref().map(|codebook| {
            let shape = codebook.shape();
            let narrow = |n: usize| u32::try_from(n).expect("a head_dim is below 2^32");
            CodebookData {
                nbits: shape.nbits().into(),
                dsub: (0..shape.m()).map(|s| narrow(shape.dsub(s))).collect(),
                centroids: (0..shape.m()).flat_map(|s| codebook.centroids(s)).copied().collect(),
            }
        });
        SideData { grid: self.grid.clone(), signs: self.signs.clone(), codebook }
    }

    /// Side data for `spec` out of a container; lengths of grid and signs are left to
    /// [`prepare`](super::prepare) to check.
    ///
    /// # Errors
    /// [`StoredSideError`] if codebook and spec do not go together.
    pub fn from_stored(stored: SideData, spec: CodecSpec, head_dim: usize) -> Result<Self, StoredSideError> {
        let codebook = match (spec.quantizer, stored.codebook) {
            (Quantizer::Pq { m, nbits }, Some(data)) => {
                let shape =
                    PqShape::new(head_dim, m.into(), nbits).map_err(|_| StoredSideError::CodebookShape)?;
                let dsub: Vec<usize> = data.dsub.iter().map(|&d| d as usize).collect();
                if data.nbits != u32::from(nbits) || !(0..shape.m()).map(|s| shape.dsub(s)).eq(dsub) {
                    return Err(StoredSideError::CodebookShape);
                }
                Some(Codebook::new(shape, data.centroids).map_err(|_| StoredSideError::CodebookShape)?)
            }
            (Quantizer::Pq { .. }, None) => return Err(StoredSideError::Codebook { needed: true }),
            (_, Some(_)) => return Err(StoredSideError::Codebook { needed: false }),
            (_, None) => None,
        };
        Ok(Self { grid: stored.grid, signs: stored.signs, codebook })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_data_survives_storing() {
        let rows: Vec<f32> = (0..10 * 200u16).map(|i| f32::from(i % 37)).collect();
        for (spec, head_dim) in [("had+lm3", 64), ("q8_0", 64), ("had+q4_0", 32), ("pq:3x4", 10)] {
            let spec: CodecSpec = spec.parse().unwrap();
            let side = Side::make(spec, head_dim, 7, Some(&rows)).unwrap();
            assert_eq!(Side::from_stored(side.to_stored(), spec, head_dim), Ok(side));
        }
    }

    #[test]
    fn a_codebook_of_another_shape_is_refused() {
        let rows: Vec<f32> = (0..10 * 200u16).map(|i| f32::from(i % 37)).collect();
        let pq = |text: &str| text.parse::<CodecSpec>().unwrap();
        let stored = Side::make(pq("pq:3x4"), 10, 7, Some(&rows)).unwrap().to_stored();
        let from = |stored: SideData, spec, head_dim| Side::from_stored(stored, pq(spec), head_dim);
        assert_eq!(from(stored.clone(), "pq:2x4", 10), Err(StoredSideError::CodebookShape));
        assert_eq!(from(stored.clone(), "pq:3x4", 11), Err(StoredSideError::CodebookShape));
        assert_eq!(from(stored, "q8_0", 32), Err(StoredSideError::Codebook { needed: false }));
        let needed = Err(StoredSideError::Codebook { needed: true });
        assert_eq!(from(SideData::default(), "pq:3x4", 10), needed);
    }
}
