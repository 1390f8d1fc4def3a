//! Side data: what a head's codec needs beyond its name, so that decoders compute nothing.

use alloc::vec::Vec;

use super::bytes::{Fields, PutFields};
use super::error::{FormatError, Region};
use super::layout::{MAX_HEAD_DIM, check_range};

const SIDE_HEADER: usize = 32;
/// 16 bits are more than any code has.
const MAX_NBITS: u64 = 16;

/// Grid, signs and codebook of a head, whichever its codec has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SideData {
    /// Reconstruction points of a scalar quantizer, ascending.
    pub grid: Vec<f32>,
    /// Signs of a rotation, one bit for each element, lowest bit first, 1 for minus.
    pub signs: Vec<u8>,
    /// Centroids of a product quantizer.
    pub codebook: Option<CodebookData>,
}

/// A product quantizer's centroids as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CodebookData {
    /// Bits of each code.
    pub nbits: u32,
    /// Elements of each of the `m` sub-vectors.
    pub dsub: Vec<u32>,
    /// `[m][ksub][dsub]`, `ksub` being 2 to the power `nbits`.
    pub centroids: Vec<f32>,
}

impl SideData {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grid.is_empty() && self.signs.is_empty() && self.codebook.is_none()
    }

    /// The stored form.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let count = |what, n: usize| {
            u32::try_from(n).map_err(|_| FormatError::OutOfRange {
                what,
                value: n as u64,
                max: u32::MAX.into(),
            })
        };
        let empty = CodebookData { nbits: 0, dsub: Vec::new(), centroids: Vec::new() };
        let codebook = self.codebook.as_ref().unwrap_or(&empty);
        if self.codebook.is_some() {
            codebook.check()?;
        }
        let mut out = Vec::with_capacity(SIDE_HEADER + self.signs.len() + 4 * self.grid.len());
        out.put_u32(count("grid points", self.grid.len())?);
        out.put_u32(count("bytes of signs", self.signs.len())?);
        out.put_u32(count("m", codebook.dsub.len())?);
        out.put_u32(codebook.nbits);
        out.put_u64(codebook.centroids.len() as u64);
        out.put_zeros(8);
        self.grid.iter().for_each(|&x| out.put_f32(x));
        codebook.dsub.iter().for_each(|&d| out.put_u32(d));
        codebook.centroids.iter().for_each(|&x| out.put_f32(x));
        out.extend_from_slice(&self.signs);
        Ok(out)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let region = Region::Side;
        let mut fields = Fields::new(region, bytes);
        let (n_grid, n_signs) = (u64::from(fields.u32()?), u64::from(fields.u32()?));
        let (m, nbits) = (fields.u32()?, fields.u32()?);
        let n_centroids = fields.u64()?;
        fields.zeros(8)?;
        // All counts are checked against the bytes that are left before anything is allocated.
        let floats = n_grid.saturating_add(u64::from(m)).saturating_add(n_centroids);
        let needed = floats.saturating_mul(4).saturating_add(n_signs);
        let got = fields.remaining() as u64;
        if needed > got {
            return Err(FormatError::Short { region, needed, got });
        }
        let take = |fields: &mut Fields<'_>, n: u64| -> Result<Vec<u32>, FormatError> {
            (0..n).map(|_| fields.u32()).collect()
        };
        let floats = |v: Vec<u32>| v.into_iter().map(f32::from_bits).collect::<Vec<_>>();
        let grid = floats(take(&mut fields, n_grid)?);
        let dsub = take(&mut fields, m.into())?;
        let centroids = floats(take(&mut fields, n_centroids)?);
        let signs =
            fields.bytes(fields.remaining().min(usize::try_from(n_signs).unwrap_or(usize::MAX)))?.to_vec();
        fields.end()?;
        let codebook = if m == 0 && nbits == 0 && n_centroids == 0 {
            None
        } else {
            let codebook = CodebookData { nbits, dsub, centroids };
            codebook.check()?;
            Some(codebook)
        };
        Ok(Self { grid, signs, codebook })
    }
}

impl CodebookData {
    /// Elements of a whole vector.
    #[must_use]
    pub fn head_dim(&self) -> u64 {
        self.dsub.iter().map(|&d| u64::from(d)).sum()
    }

    fn check(&self) -> Result<(), FormatError> {
        check_range("nbits", self.nbits.into(), MAX_NBITS)?;
        check_range("m", self.dsub.len() as u64, MAX_HEAD_DIM)?;
        check_range("sum of dsub", self.head_dim(), MAX_HEAD_DIM)?;
        let expected = self.head_dim() << self.nbits;
        let got = self.centroids.len() as u64;
        if expected != got || self.dsub.contains(&0) || self.dsub.is_empty() {
            return Err(FormatError::Mismatch { what: "elements of a codebook", expected, got });
        }
        Ok(())
    }
}
