//! The centroids of a product quantizer, and what they do.

use super::{PqError, PqShape, whole_rows};
use crate::cpu::{self, Level};
use crate::kernels::assign;
use alloc::vec;
use alloc::vec::Vec;

/// The centroids of a product quantizer.
#[derive(Clone, Debug)]
pub struct Codebook {
    shape: PqShape,
    /// `[m][ksub][dsub]`: what decoding copies.
    pub(super) centroids: Vec<f32>,
    /// Half norms and transposed centroids of each sub-space: what encoding reads.
    table: Vec<f32>,
}

impl PartialEq for Codebook {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.centroids == other.centroids
    }
}

impl Codebook {
    /// A codebook of these centroids, `[m][ksub][dsub]`.
    ///
    /// # Errors
    /// [`PqError::Length`] unless there are [`PqShape::codebook_len`] numbers, [`PqError::NonFinite`] if one of them
    /// is a NaN or an infinity.
    pub fn new(shape: PqShape, centroids: Vec<f32>) -> Result<Self, PqError> {
        if centroids.len() != shape.codebook_len() {
            return Err(PqError::Length { expected: shape.codebook_len(), got: centroids.len() });
        }
        let mut codebook = Self { shape, centroids, table: vec![0.0; shape.split().table_len()] };
        for s in 0..shape.m() {
            let centroids = codebook.centroids(s);
            if let Some(c) =
                centroids.chunks_exact(shape.dsub(s)).position(|c| !c.iter().all(|x| x.is_finite()))
            {
                return Err(PqError::NonFinite { row: s * shape.ksub() + c });
            }
        }
        codebook.fill_table();
        Ok(codebook)
    }

    /// Shape of the quantizer.
    #[must_use]
    pub const fn shape(&self) -> PqShape {
        self.shape
    }

    /// The centroids of sub-space `s`, `[ksub][dsub]`.
    ///
    /// # Panics
    /// If `s` is not below `m`.
    #[must_use]
    pub fn centroids(&self, s: usize) -> &[f32] {
        assert!(s < self.shape.m, "sub-space {s} of {}", self.shape.m);
        &self.centroids[self.shape.start(s) * self.shape.ksub()..self.shape.start(s + 1) * self.shape.ksub()]
    }

    /// Bytes that [`to_bytes`](Self::to_bytes) writes: four for each number.
    #[must_use]
    pub const fn len_bytes(shape: PqShape) -> usize {
        shape.codebook_len() * 4
    }

    /// Writes the centroids `[m][ksub][dsub]` as little-endian `f32`.
    ///
    /// # Errors
    /// [`PqError::Length`] unless `out` has [`len_bytes`](Self::len_bytes) bytes.
    pub fn to_bytes(&self, out: &mut [u8]) -> Result<(), PqError> {
        if out.len() != Self::len_bytes(self.shape) {
            return Err(PqError::Length { expected: Self::len_bytes(self.shape), got: out.len() });
        }
        for (to, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(&self.centroids) {
            *to = x.to_le_bytes();
        }
        Ok(())
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`PqError::Length`] unless there are [`len_bytes`](Self::len_bytes) bytes, [`PqError::NonFinite`] for a NaN
    /// or an infinity among the centroids.
    pub fn from_bytes(shape: PqShape, bytes: &[u8]) -> Result<Self, PqError> {
        if bytes.len() != Self::len_bytes(shape) {
            return Err(PqError::Length { expected: Self::len_bytes(shape), got: bytes.len() });
        }
        Self::new(shape, bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    /// Encodes rows `[n][d]` to codes `[n][m]`, one byte a code: in each sub-space the nearest centroid, the lower
    /// index on a tie. Allocates nothing; `n * d * ksub` fused multiply-adds.
    ///
    /// # Errors
    /// [`PqError::Length`] if the rows are not whole or `codes` has not `n * m` bytes, [`PqError::NonFinite`] with
    /// the first row that holds a NaN or an infinity; nothing is written then.
    pub fn encode(&self, rows: &[f32], codes: &mut [u8]) -> Result<(), PqError> {
        self.encode_at(cpu::level(), rows, codes)
    }

    pub(crate) fn encode_at(&self, level: Level, rows: &[f32], codes: &mut [u8]) -> Result<(), PqError> {
        let n = whole_rows(rows.len(), self.shape.d)?;
        if codes.len() != n * self.shape.m {
            return Err(PqError::Length { expected: n * self.shape.m, got: codes.len() });
        }
        if let Some(row) = assign::first_non_finite(level, rows, self.shape.d) {
            return Err(PqError::NonFinite { row });
        }
        self.nearest(level, rows, codes);
        Ok(())
    }

    /// Decodes codes `[n][m]` to rows `[n][d]`.
    ///
    /// # Errors
    /// [`PqError::Length`] if the codes are not whole rows or `rows` has not `n * d` numbers, [`PqError::Code`] for
    /// a code that is not below `ksub` (rows before it are written).
    pub fn decode(&self, codes: &[u8], rows: &mut [f32]) -> Result<(), PqError> {
        let PqShape { d, m, .. } = self.shape;
        let ksub = self.shape.ksub();
        let n = whole_rows(codes.len(), m)?;
        if rows.len() != n * d {
            return Err(PqError::Length { expected: n * d, got: rows.len() });
        }
        for (i, (code, row)) in codes.chunks_exact(m).zip(rows.chunks_exact_mut(d)).enumerate() {
            let mut start = 0;
            for (s, &c) in code.iter().enumerate() {
                let dsub = self.shape.dsub(s);
                if usize::from(c) >= ksub {
                    return Err(PqError::Code { at: i * m + s, code: c });
                }
                let at = start * ksub + usize::from(c) * dsub;
                row[start..start + dsub].copy_from_slice(&self.centroids[at..at + dsub]);
                start += dsub;
            }
        }
        Ok(())
    }

    /// Codes of rows that are known to be whole and finite.
    pub(super) fn nearest(&self, level: Level, rows: &[f32], codes: &mut [u8]) {
        assign::nearest(level, self.shape.split(), &self.table, rows, codes);
    }

    /// Replaces the centroids, `[m][ksub][dsub]`, with as many finite ones.
    pub(super) fn set_centroids(&mut self, centroids: Vec<f32>) {
        debug_assert_eq!(centroids.len(), self.shape.codebook_len());
        self.centroids = centroids;
        self.fill_table();
    }

    fn fill_table(&mut self) {
        let split = self.shape.split();
        for s in 0..split.m {
            let centroids = &self.centroids[split.start(s) * split.ksub..split.start(s + 1) * split.ksub];
            split.fill_table(s, centroids, &mut self.table);
        }
    }
}
