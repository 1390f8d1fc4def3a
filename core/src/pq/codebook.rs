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
    /// The greatest norm of a centroid of each sub-space, or a little more.
    radii: Vec<f64>,
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
        let mut codebook =
            Self { shape, centroids, table: vec![0.0; shape.split().table_len()], radii: vec![0.0; shape.m] };
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

    /// Bytes on the heap: the centroids twice over, and a few for each sub-space.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        (self.centroids.capacity() + self.table.capacity()) * 4 + self.radii.capacity() * 8
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
    /// the first row that holds a NaN or an infinity; `codes` then mean nothing.
    pub fn encode(&self, rows: &[f32], codes: &mut [u8]) -> Result<(), PqError> {
        self.encode_at(cpu::level(), rows, codes)
    }

    pub(crate) fn encode_at(&self, level: Level, rows: &[f32], codes: &mut [u8]) -> Result<(), PqError> {
        let n = whole_rows(rows.len(), self.shape.d)?;
        if codes.len() != n * self.shape.m {
            return Err(PqError::Length { expected: n * self.shape.m, got: codes.len() });
        }
        if self.nearest(level, rows, codes) {
            return Ok(());
        }
        let row = assign::first_non_finite(level, rows, self.shape.d);
        Err(PqError::NonFinite { row: row.expect("the kernel saw a row that is not finite") })
    }

    /// Decodes codes `[n][m]` to rows `[n][d]`.
    ///
    /// # Errors
    /// [`PqError::Length`] if the codes are not whole rows or `rows` has not `n * d` numbers, [`PqError::Code`] for
    /// a code that is not below `ksub`; nothing is written then.
    pub fn decode(&self, codes: &[u8], rows: &mut [f32]) -> Result<(), PqError> {
        let n = whole_rows(codes.len(), self.shape.m)?;
        if rows.len() != n * self.shape.d {
            return Err(PqError::Length { expected: n * self.shape.d, got: rows.len() });
        }
        if let Some(at) = codes.iter().position(|&c| usize::from(c) >= self.shape.ksub()) {
            return Err(PqError::Code { at, code: codes[at] });
        }
        self.shape.gather(&self.centroids, codes, rows);
        Ok(())
    }

    /// Half norms and columns of each sub-space, as [`Split::fill_table`](crate::kernels::assign::Split::fill_table) wrote them.
    pub(super) fn table(&self) -> &[f32] {
        &self.table
    }

    /// An upper bound of the norms of the centroids of sub-space `s`.
    pub(super) fn radius(&self, s: usize) -> f64 {
        self.radii[s]
    }

    /// The centroids of all sub-spaces, `[m][ksub][dsub]`.
    pub(crate) fn all_centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Codes of whole rows; whether all rows are finite.
    #[must_use]
    pub(super) fn nearest(&self, level: Level, rows: &[f32], codes: &mut [u8]) -> bool {
        assign::nearest(level, self.shape.split(), &self.table, rows, codes)
    }

    /// Replaces the centroids, `[m][ksub][dsub]`, with as many finite ones.
    pub(super) fn set_centroids(&mut self, centroids: Vec<f32>) {
        debug_assert_eq!(centroids.len(), self.shape.codebook_len());
        self.centroids = centroids;
        self.fill_table();
    }

    #[allow(clippy::cast_precision_loss, reason = "columns are at most 2^16")]
    fn fill_table(&mut self) {
        let split = self.shape.split();
        for s in 0..split.m {
            let centroids = &self.centroids[split.start(s) * split.ksub..split.start(s + 1) * split.ksub];
            split.fill_table(s, centroids, &mut self.table);
            let half = split.table(s, &self.table).0.iter().fold(0.0, |top: f32, &x| top.max(x));
            // Rounded to f32, it may overflow; then any centroid's norm is below that of the greatest numbers.
            let half = f64::from(half.min(f32::MAX)) * (1.0 + f64::from(f32::EPSILON));
            let overflow = f64::from(f32::MAX) * libm::sqrt(split.dsub(s) as f64);
            self.radii[s] = if half < f64::from(f32::MAX) { libm::sqrt(2.0 * half) } else { overflow };
        }
    }
}

impl PqShape {
    /// Rows `[n][d]` from codes `[n][m]`, all below `ksub`, and centroids `[m][ksub][dsub]` of any element type.
    pub(crate) fn gather<T: Copy>(self, centroids: &[T], codes: &[u8], rows: &mut [T]) {
        let dsub = if self.d.is_multiple_of(self.m) { self.d / self.m } else { 0 };
        // A copy of known length is a few moves; one of unknown length is a call.
        match dsub {
            1 => self.gather_equal::<T, 1>(centroids, codes, rows),
            2 => self.gather_equal::<T, 2>(centroids, codes, rows),
            4 => self.gather_equal::<T, 4>(centroids, codes, rows),
            8 => self.gather_equal::<T, 8>(centroids, codes, rows),
            16 => self.gather_equal::<T, 16>(centroids, codes, rows),
            32 => self.gather_equal::<T, 32>(centroids, codes, rows),
            _ => {
                for (codes, row) in codes.chunks_exact(self.m).zip(rows.chunks_exact_mut(self.d)) {
                    for (s, &c) in codes.iter().enumerate() {
                        let (start, dsub) = (self.start(s), self.dsub(s));
                        let at = start * self.ksub() + usize::from(c) * dsub;
                        row[start..start + dsub].copy_from_slice(&centroids[at..at + dsub]);
                    }
                }
            }
        }
    }

    fn gather_equal<T: Copy, const DSUB: usize>(self, centroids: &[T], codes: &[u8], rows: &mut [T]) {
        let centroids = centroids.as_chunks::<DSUB>().0;
        let rows = rows.as_chunks_mut::<DSUB>().0.chunks_exact_mut(self.m);
        for (codes, row) in codes.chunks_exact(self.m).zip(rows) {
            for (s, (&c, out)) in codes.iter().zip(row).enumerate() {
                *out = centroids[s * self.ksub() + usize::from(c)];
            }
        }
    }
}
