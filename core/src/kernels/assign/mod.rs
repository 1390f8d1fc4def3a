//! Nearest centroids: the assignment step of k-means and the encoder of product quantization.
//!
//! `|x - c|^2 / 2 = |x|^2 / 2 + (|c|^2 / 2 - <x, c>)`, and the bracket alone decides which centroid is nearest. Its
//! value is defined to the bit: an accumulator starts at the centroid's half norm and each column `j`, in order,
//! subtracts `x_j * c_j` with one rounding (fused multiply-add at every level). The least value wins, on a tie the
//! lower index, so all levels give the same codes.
//!
//! **Limit.** `n * d * ksub` fused multiply-adds, two vectors of them in a cycle; loads and comparisons must hide
//! behind them. Lanes run across rows: a tile of three vectors of rows against eight centroids holds 24 sums in
//! registers, each centroid's broadcast coordinate serves three products, and the argmin needs no reduction across
//! lanes. The tile is transposed once for all sub-spaces. Fewer rows than a vector holds are taken one by one, with
//! lanes across centroids.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::cpu::Level;

/// How `d` columns fall into `m` sub-spaces with `ksub` centroids each: the first `d % m` sub-spaces are one column
/// wider than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) d: usize,
    pub(crate) m: usize,
    /// 16, 64 or 256.
    pub(crate) ksub: usize,
}

impl Split {
    /// First column of sub-space `s`; `d` for `s == m`.
    pub(crate) const fn start(self, s: usize) -> usize {
        let wide = self.d % self.m;
        s * (self.d / self.m) + if s < wide { s } else { wide }
    }

    /// Columns of sub-space `s`.
    pub(crate) const fn dsub(self, s: usize) -> usize {
        self.d / self.m + (s < self.d % self.m) as usize
    }

    /// Elements of the table that [`nearest`] reads.
    pub(crate) const fn table_len(self) -> usize {
        (self.d + self.m) * self.ksub
    }

    /// Where sub-space `s` lies in the table.
    const fn table_start(self, s: usize) -> usize {
        (self.start(s) + s) * self.ksub
    }

    /// The half norms `[ksub]` and the columns `[dsub][ksub]` of sub-space `s`.
    pub(crate) fn table(self, s: usize, table: &[f32]) -> (&[f32], &[f32]) {
        table[self.table_start(s)..self.table_start(s + 1)].split_at(self.ksub)
    }

    /// Writes sub-space `s` of the table from its centroids `[ksub][dsub]`.
    pub(crate) fn fill_table(self, s: usize, centroids: &[f32], table: &mut [f32]) {
        let (ksub, dsub) = (self.ksub, self.dsub(s));
        debug_assert_eq!(centroids.len(), ksub * dsub);
        let (half_norms, columns) = table[self.table_start(s)..self.table_start(s + 1)].split_at_mut(ksub);
        for (c, centroid) in centroids.chunks_exact(dsub).enumerate() {
            half_norms[c] = half_norm(centroid);
            for (j, &x) in centroid.iter().enumerate() {
                columns[j * ksub + c] = x;
            }
        }
    }
}

/// `|c|^2 / 2`, summed in `f64` and rounded once.
#[allow(clippy::cast_possible_truncation, reason = "the rounding to f32 is meant")]
fn half_norm(centroid: &[f32]) -> f32 {
    (0.5 * centroid.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()) as f32
}

/// Codes `[n][m]` of the rows `[n][d]`: in each sub-space the index of the nearest centroid. `false` if a row holds a
/// NaN or an infinity; the codes then mean nothing. (Each tile is looked at while it is in the first-level cache, where
/// that costs next to nothing.)
#[must_use]
pub(crate) fn nearest(level: Level, split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    assert_eq!(table.len(), split.table_len());
    assert_eq!(rows.len() / split.d, codes.len() / split.m);
    assert!(rows.len().is_multiple_of(split.d) && codes.len().is_multiple_of(split.m));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::nearest(split, table, rows, codes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::nearest(split, table, rows, codes) },
        _ => scalar::nearest(split, table, rows, codes),
    }
}

/// Adds each row to the sums of its centroids, in row order: `sums` is `[m][ksub][dsub]`, `counts` `[m][ksub]`.
pub(crate) fn accumulate(
    level: Level,
    split: Split,
    rows: &[f32],
    codes: &[u8],
    sums: &mut [f64],
    counts: &mut [u32],
) {
    assert_eq!(sums.len(), split.d * split.ksub);
    assert_eq!(counts.len(), split.m * split.ksub);
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::accumulate(split, rows, codes, sums, counts) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::accumulate(split, rows, codes, sums, counts) },
        _ => scalar::accumulate(split, rows, codes, sums, counts),
    }
}

/// Rows of one block of [`lower_distances`].
pub(crate) const BLOCK: usize = 256;

/// `best[i] = min(best[i], |x_i - c|^2)` for the columns `[dsub][n]` of `n` rows, and the sum of `best` over each
/// block of [`BLOCK`] rows in `sums`. Products and sums are rounded each by itself, column after column; a block's
/// sum runs in eight `f64` lanes, row `i` in lane `i % 8`.
pub(crate) fn lower_distances(
    level: Level,
    columns: &[f32],
    centroid: &[f32],
    best: &mut [f32],
    sums: &mut [f64],
) {
    assert_eq!(columns.len(), centroid.len() * best.len());
    assert_eq!(sums.len(), best.len().div_ceil(BLOCK));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::lower_distances(columns, centroid, best, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::lower_distances(columns, centroid, best, sums) },
        _ => scalar::lower_distances(columns, centroid, best, sums),
    }
}

/// The first row of `[n][d]` that holds a NaN or an infinity.
pub(crate) fn first_non_finite(level: Level, rows: &[f32], d: usize) -> Option<usize> {
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::first_non_finite(rows, d) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::first_non_finite(rows, d) },
        _ => scalar::first_non_finite(rows, d),
    }
}
