//! placeholder header
use super::{Split, scalar};

#[target_feature(enable = "avx2,fma")]
pub(super) fn nearest(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) {
    scalar::nearest(split, table, rows, codes);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn accumulate(split: Split, rows: &[f32], codes: &[u8], sums: &mut [f64], counts: &mut [u32]) {
    scalar::accumulate(split, rows, codes, sums, counts);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn lower_distances(columns: &[f32], centroid: &[f32], best: &mut [f32], sums: &mut [f64]) {
    scalar::lower_distances(columns, centroid, best, sums);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn first_non_finite(rows: &[f32], d: usize) -> Option<usize> {
    scalar::first_non_finite(rows, d)
}
