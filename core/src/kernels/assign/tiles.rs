//! What the wide levels share: rows in tiles, sub-spaces in groups whose columns fit a tile.
//!
//! Everything is `inline(always)`, so that the calling kernel's `#[target_feature]` governs the code that comes out.

use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::{Split, scalar};

/// Columns of a tile's transposed rows, 12 KiB at AVX2 and 24 KiB at AVX-512: half the first-level cache. Wider
/// sub-spaces go row by row.
const COLUMNS: usize = 128;

/// Elements of a cache line.
const LINE: usize = 16;

/// The steps that a level has its own instructions for. Implementors are named by nothing but kernels that run after
/// detection saw their features.
pub(super) trait Steps {
    /// Rows of a vector.
    const LANES: usize;
    /// Centroids whose sums are held at once.
    const WIDTH: usize;

    /// Columns `first..first + columns.len()` of at most `N` rows `[..][d]`; lanes without a row keep finite numbers.
    fn transpose<const N: usize>(rows: &[f32], d: usize, first: usize, columns: &mut [[f32; N]]);

    /// The nearest of `KSUB` centroids for each of `N` rows, `R` vectors of them. Calls [`Ahead::ask`] once for each
    /// block of [`WIDTH`](Self::WIDTH) centroids.
    fn nearest_lanes<const R: usize, const N: usize, const KSUB: usize>(
        half_norms: &[f32],
        centroids: &[f32],
        columns: &[[f32; N]],
        ahead: &mut Ahead<'_>,
    ) -> [u8; N];
}

/// Whether tiles serve these rows; `few` rows or less are better taken one by one than as a vector that is mostly
/// padding.
#[inline(always)]
pub(super) const fn suit(split: Split, rows: &[f32], few: usize) -> bool {
    rows.len() > few * split.d && split.dsub(0) <= COLUMNS
}

/// Hands each row and its codes to `nearest_row`; `false` as soon as a row is not finite.
#[inline(always)]
pub(super) fn row_by_row(
    split: Split,
    rows: &[f32],
    codes: &mut [u8],
    nearest_row: impl Fn(&[f32], &mut [u8]),
) -> bool {
    rows.chunks_exact(split.d).zip(codes.chunks_exact_mut(split.m)).all(|(row, codes)| {
        let finite = scalar::all_finite(row);
        if finite {
            nearest_row(row, codes);
        }
        finite
    })
}

/// Codes of `rows`, in tiles of `TALL` vectors (`HIGH` rows) and the rest in single ones (`LOW` rows); `false` as soon
/// as a row is not finite.
#[inline(always)]
pub(super) fn nearest<S: Steps, const TALL: usize, const LOW: usize, const HIGH: usize>(
    split: Split,
    table: &[f32],
    rows: &[f32],
    codes: &mut [u8],
) -> bool {
    const { assert!(LOW == S::LANES && HIGH == TALL * LOW) };
    let (d, m) = (split.d, split.m);
    let mut tall = [[0.0; HIGH]; COLUMNS];
    let mut low = [[0.0; LOW]; COLUMNS];
    let (tiles, rest) = rows.split_at(rows.len() / (HIGH * d) * (HIGH * d));
    let (tile_codes, rest_codes) = codes.split_at_mut(tiles.len() / d * m);
    let mut ahead = Ahead::new::<S>(split, HIGH, tiles.get(HIGH * d..).unwrap_or(&[]));
    for (rows, codes) in tiles.chunks_exact(HIGH * d).zip(tile_codes.chunks_exact_mut(HIGH * m)) {
        if !scalar::all_finite(rows) {
            return false;
        }
        nearest_tile::<S, TALL, HIGH>(split, table, rows, codes, &mut tall, &mut ahead);
    }
    let mut ahead = Ahead::new::<S>(split, LOW, &[]);
    for (rows, codes) in rest.chunks(LOW * d).zip(rest_codes.chunks_mut(LOW * m)) {
        if !scalar::all_finite(rows) {
            return false;
        }
        nearest_tile::<S, 1, LOW>(split, table, rows, codes, &mut low, &mut ahead);
    }
    true
}

/// At most `N` rows, `R` vectors of them.
#[inline(always)]
fn nearest_tile<S: Steps, const R: usize, const N: usize>(
    split: Split,
    table: &[f32],
    rows: &[f32],
    codes: &mut [u8],
    columns: &mut [[f32; N]; COLUMNS],
    ahead: &mut Ahead<'_>,
) {
    let mut group = 0..0;
    while group.end < split.m {
        group = group.end..group.end + 1;
        let first = split.start(group.start);
        while group.end < split.m && split.start(group.end + 1) - first <= COLUMNS {
            group.end += 1;
        }
        S::transpose(rows, split.d, first, &mut columns[..split.start(group.end) - first]);
        for s in group.clone() {
            let (half_norms, centroids) = split.table(s, table);
            let columns = &columns[split.start(s) - first..split.start(s + 1) - first];
            let index = match split.ksub {
                16 => S::nearest_lanes::<R, N, 16>(half_norms, centroids, columns, ahead),
                64 => S::nearest_lanes::<R, N, 64>(half_norms, centroids, columns, ahead),
                _ => S::nearest_lanes::<R, N, 256>(half_norms, centroids, columns, ahead),
            };
            for (codes, index) in codes[s..].chunks_mut(split.m).zip(index) {
                codes[0] = index;
            }
        }
    }
}

/// The rows of the tiles to come, asked for one piece with each step of the tile at hand: memory works while the
/// multipliers do.
pub(super) struct Ahead<'a> {
    lines: core::slice::Iter<'a, [f32; LINE]>,
    /// Lines with each block of centroids.
    step: usize,
}

impl<'a> Ahead<'a> {
    /// For tiles of `high` rows.
    #[inline(always)]
    fn new<S: Steps>(split: Split, high: usize, rows: &'a [f32]) -> Self {
        let blocks = split.m * (split.ksub / S::WIDTH);
        Self { lines: rows.as_chunks::<LINE>().0.iter(), step: (high * split.d).div_ceil(LINE * blocks) }
    }

    #[inline(always)]
    pub(super) fn ask(&mut self) {
        for line in self.lines.by_ref().take(self.step) {
            // SAFETY: a prefetch is a hint and reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
}

/// A centroid's index as a code.
#[allow(clippy::cast_possible_truncation, reason = "an index is below 256")]
pub(super) const fn code_of(index: usize) -> u8 {
    index as u8
}
