//! Portable kernels, and the bodies that the wider levels compile again with their own instructions.

use super::{BLOCK, Split};

/// Centroids whose sums are held at once.
const WIDTH: usize = 16;

pub(super) fn nearest(split: Split, table: &[f32], rows: &[f32], codes: &mut [u8]) -> bool {
    for (row, code) in rows.chunks_exact(split.d).zip(codes.chunks_exact_mut(split.m)) {
        if !all_finite(row) {
            return false;
        }
        for (s, out) in code.iter_mut().enumerate() {
            let (half_norms, columns) = split.table(s, table);
            *out = nearest_one(half_norms, columns, &row[split.start(s)..split.start(s + 1)]);
        }
    }
    true
}

#[allow(clippy::cast_possible_truncation, reason = "ksub is at most 256")]
fn nearest_one(half_norms: &[f32], columns: &[f32], x: &[f32]) -> u8 {
    let ksub = half_norms.len();
    let (mut best, mut index) = (f32::INFINITY, 0);
    for (b, half) in half_norms.as_chunks::<WIDTH>().0.iter().enumerate() {
        let mut acc = *half;
        for (&x, column) in x.iter().zip(columns.chunks_exact(ksub)) {
            for (a, &c) in acc.iter_mut().zip(&column[b * WIDTH..]) {
                *a = libm::fmaf(-x, c, *a);
            }
        }
        for (c, &score) in acc.iter().enumerate() {
            if score < best {
                (best, index) = (score, b * WIDTH + c);
            }
        }
    }
    index as u8
}

pub(super) fn accumulate(split: Split, rows: &[f32], codes: &[u8], sums: &mut [f64], counts: &mut [u32]) {
    accumulate_by(split, rows, codes, sums, counts, |sums, x| {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x);
        }
    });
}

/// Hands each sub-vector and the sums of its centroid to `add`. One sub-space after the other: its sums stay in the
/// first-level cache, the rows in the second.
#[inline(always)]
pub(super) fn accumulate_by(
    split: Split,
    rows: &[f32],
    codes: &[u8],
    sums: &mut [f64],
    counts: &mut [u32],
    add: impl Fn(&mut [f64], &[f32]),
) {
    for s in 0..split.m {
        let (start, end) = (split.start(s), split.start(s + 1));
        let sums = &mut sums[start * split.ksub..end * split.ksub];
        let counts = &mut counts[s * split.ksub..][..split.ksub];
        for (row, code) in rows.chunks_exact(split.d).zip(codes.chunks_exact(split.m)) {
            let c = usize::from(code[s]);
            counts[c] += 1;
            let row = &row[start..end];
            add(&mut sums[c * row.len()..][..row.len()], row);
        }
    }
}

#[inline(always)]
pub(super) fn lower_distances(columns: &[f32], centroid: &[f32], best: &mut [f32], sums: &mut [f64]) {
    let n = best.len();
    for (b, (best, sum)) in best.chunks_mut(BLOCK).zip(sums).enumerate() {
        let mut distance = [0.0_f32; BLOCK];
        for (column, &c) in columns.chunks_exact(n).zip(centroid) {
            for (d, &x) in distance.iter_mut().zip(&column[b * BLOCK..][..best.len()]) {
                let e = x - c;
                *d += e * e;
            }
        }
        let mut lanes = [0.0_f64; 8];
        for (best, distance) in best.chunks_mut(8).zip(distance.as_chunks::<8>().0) {
            for ((b, &d), lane) in best.iter_mut().zip(distance).zip(&mut lanes) {
                *b = if d < *b { d } else { *b };
                *lane += f64::from(*b);
            }
        }
        *sum = sum_of_lanes(lanes);
    }
}

/// Eight lanes in a fixed order.
pub(super) fn sum_of_lanes([a, b, c, d, e, f, g, h]: [f64; 8]) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// An exponent of all ones marks NaN and infinities; the greatest exponent tells whether there is one.
#[inline(always)]
pub(super) fn all_finite(x: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    x.iter().fold(0, |top: u32, x| top.max(x.to_bits() & EXPONENT)) != EXPONENT
}

/// Whole stretches first: almost always there is nothing to find.
#[inline(always)]
pub(super) fn first_non_finite(rows: &[f32], d: usize) -> Option<usize> {
    const STRETCH: usize = 64;
    let first = STRETCH * rows.chunks(STRETCH * d).position(|rows| !all_finite(rows))?;
    rows.chunks_exact(d).skip(first).position(|row| !all_finite(row)).map(|i| first + i)
}
