//! Attention of many query rows: tiles of [`ROWS`] rows of one head against blocks of up to [`BLOCK`] staged keys.
//!
//! The rows of a tile lie in the lanes, so that maxima, powers and sums of the softmax need nothing across a vector:
//!
//! 1. [`stage`]: a block's keys are widened row by row, its values into panels of [`PANEL`] columns. Paged, strided and
//!    narrow rows look alike from here on.
//! 2. [`scores`]: two vectors of query rows times a few keys: a panel of queries is `[d][lanes]`, an element of a key
//!    is broadcast.
//! 3. [`soften`]: online softmax down the keys of each lane; the greatest score of every [`PART`] keys is kept.
//! 4. [`weigh`]: a few query rows times two vectors of columns: a weight is broadcast, a panel of values stays in the
//!    first-level cache. A block is summed from zero, and the sum of earlier blocks fades as it is added.
//!
//! **Limit.** Multiply-adds: `d` for a pair of query row and key, `dim_v` for its value, and some 24 operations of the
//! softmax, all on whole vectors of pairs. At `d = 128` that is 92 % of the multiply-add rate where the softmax shares
//! its ports.

use super::body::{Element, Vector};
use super::{BLOCK, Format, RowBlock, row_bytes};
use crate::cpu::Level;
use alloc::vec;
use alloc::vec::Vec;

/// Query rows of a tile.
pub(crate) const ROWS: usize = 64;

/// Keys whose greatest score is kept.
pub(crate) const PART: usize = 16;

/// Parts of a block.
const PARTS: usize = BLOCK / PART;

/// Columns of a panel of values.
const PANEL: usize = 32;

/// A cache line of numbers.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: an array of numbers without padding: 64 bytes, aligned to 64.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Lines of at least `n` numbers, all zero.
fn lines(n: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); n.div_ceil(16)]
}

/// A block of keys and values as the kernels read them.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// `[BLOCK][dim]`.
    keys: Vec<Line>,
    /// `[panels][BLOCK][PANEL]`, zeros beyond the columns.
    values: Vec<Line>,
    dim: usize,
    dim_v: usize,
    len: usize,
}

impl Stage {
    pub(crate) fn new(dim: usize, dim_v: usize) -> Self {
        let values = lines(dim_v.div_ceil(PANEL) * BLOCK * PANEL);
        Self { keys: lines(BLOCK * dim), values, dim, dim_v, len: 0 }
    }
}

/// Up to [`ROWS`] query rows of one head and what they have gathered. Scores and maxima are logarithms to base 2.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    /// `[ROWS / lanes][dim][lanes]`.
    queries: Vec<Line>,
    /// Scores, then weights: `[ROWS / lanes][BLOCK][lanes]`.
    cells: Vec<Line>,
    /// `[ROWS][stride]`, relative to the rows' maxima; `stride` is whole panels.
    acc: Vec<Line>,
    /// The greatest score of each part of the block: `[PARTS][ROWS]`.
    parts: Vec<Line>,
    state: State,
    dim: usize,
    dim_v: usize,
    rows: usize,
    /// Lanes of the level that staged the queries.
    lanes: usize,
}

/// What is kept for each row.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct State {
    max: [f32; ROWS],
    sum: [f32; ROWS],
    fade: [f32; ROWS],
}

impl Tile {
    pub(crate) fn new(dim: usize, dim_v: usize) -> Self {
        Self {
            queries: lines(ROWS * dim),
            cells: lines(ROWS * BLOCK),
            acc: lines(ROWS * dim_v.next_multiple_of(PANEL)),
            parts: lines(PARTS * ROWS),
            state: State { max: [0.0; ROWS], sum: [0.0; ROWS], fade: [0.0; ROWS] },
            dim,
            dim_v,
            rows: 0,
            lanes: 1,
        }
    }

    /// The greatest score of row `r`, `-inf` if it has seen none, and the sum of `2^(score - greatest)`.
    pub(crate) const fn max_and_sum(&self, r: usize) -> (f32, f32) {
        (self.state.max[r], self.state.sum[r])
    }

    /// What row `r` has gathered, `dim_v` sums.
    pub(crate) fn sums(&self, r: usize) -> &[f32] {
        let stride = self.dim_v.next_multiple_of(PANEL);
        &bytemuck::cast_slice(&self.acc)[r * stride..][..self.dim_v]
    }

    /// The greatest scores that the rows found in part `part` of the last block.
    pub(crate) fn part(&self, part: usize) -> &[f32] {
        &bytemuck::cast_slice(&self.parts)[part * ROWS..][..self.rows]
    }

    /// Adds `bias` to the scores of the first `n` keys between [`scores`] and [`soften`].
    pub(crate) fn raise(&mut self, n: usize, bias: f32) {
        let cells: &mut [f32] = bytemuck::cast_slice_mut(&mut self.cells);
        for cells in cells.chunks_exact_mut(BLOCK * self.lanes) {
            cells[..n * self.lanes].iter_mut().for_each(|x| *x += bias);
        }
    }

    /// Hides key `key` of the block from rows `rows` between [`scores`] and [`soften`].
    pub(crate) fn hide(&mut self, key: usize, rows: core::ops::Range<usize>) {
        let cells: &mut [f32] = bytemuck::cast_slice_mut(&mut self.cells);
        for row in rows {
            let (panel, lane) = (row / self.lanes, row % self.lanes);
            cells[(panel * BLOCK + key) * self.lanes + lane] = f32::NEG_INFINITY;
        }
    }
}

/// Takes the query rows, multiplied by `scale`, and forgets what was gathered. `scratch` is only a place to widen rows.
///
/// # Panics
/// If there are more than [`ROWS`], or rows or scratch are of another dimension.
pub(crate) fn take_queries(
    level: Level,
    format: Format,
    tile: &mut Tile,
    rows: &RowBlock<'_>,
    scale: f32,
    scratch: &mut Stage,
) {
    let (d, n) = (tile.dim, rows.len());
    assert!(n <= ROWS && scratch.dim == d && row_bytes(format, d) <= rows.row_bytes());
    widen(level, format, rows, d, bytemuck::cast_slice_mut(&mut scratch.keys), d, 0);
    scratch.len = 0;
    let lanes = lanes(level);
    let wide: &[f32] = bytemuck::cast_slice(&scratch.keys);
    let queries: &mut [f32] = bytemuck::cast_slice_mut(&mut tile.queries);
    for (panel, queries) in queries[..ROWS * d].chunks_exact_mut(lanes * d).enumerate() {
        for lane in 0..lanes {
            let row = panel * lanes + lane;
            for c in 0..d {
                // Rows that are not there are zeros, whose scores are finite.
                queries[c * lanes + lane] = if row < n { wide[row * d + c] * scale } else { 0.0 };
            }
        }
    }
    tile.acc.fill(Line([0.0; 16]));
    tile.state = State { max: [f32::NEG_INFINITY; ROWS], sum: [0.0; ROWS], fade: [1.0; ROWS] };
    (tile.rows, tile.lanes) = (n, lanes);
}

/// Widens a block.
///
/// # Panics
/// If the rows are of other dimensions.
pub(crate) fn stage(
    level: Level,
    (key_format, keys): (Format, &RowBlock<'_>),
    (value_format, values): (Format, &RowBlock<'_>),
    stage: &mut Stage,
) {
    let (d, dim_v) = (stage.dim, stage.dim_v);
    assert_eq!(keys.len(), values.len());
    assert!(row_bytes(key_format, d) <= keys.row_bytes());
    assert!(row_bytes(value_format, dim_v) <= values.row_bytes());
    stage.len = keys.len();
    widen(level, key_format, keys, d, bytemuck::cast_slice_mut(&mut stage.keys), d, 0);
    let wide: &mut [f32] = bytemuck::cast_slice_mut(&mut stage.values);
    for (p, panel) in wide.chunks_exact_mut(BLOCK * PANEL).enumerate() {
        let from = p * PANEL;
        widen(level, value_format, values, PANEL.min(dim_v - from), panel, PANEL, from);
    }
}

/// Elements `from..from + n` of each row, at `stride` in `out`; `from` is a multiple of 32.
pub(crate) fn widen(
    level: Level,
    format: Format,
    rows: &RowBlock<'_>,
    n: usize,
    out: &mut [f32],
    stride: usize,
    from: usize,
) {
    assert!(from.is_multiple_of(PANEL) && n <= stride && rows.len() * stride <= out.len());
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::widen(format, rows, n, out, stride, from) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::avx2::widen(format, rows, n, out, stride, from) },
        _ => super::scalar::widen(format, rows, n, out, stride, from),
    }
}

/// Scores of all rows for the first `n` keys of the block; cells beyond, up to a whole part, become `-inf`.
pub(crate) fn scores(level: Level, tile: &mut Tile, stage: &Stage, n: usize) {
    assert!(tile.dim == stage.dim && n <= stage.len && tile.lanes == lanes(level));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::tile_scores(tile, stage, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::avx2::tile_scores(tile, stage, n) },
        _ => super::scalar::tile_scores(tile, stage, n),
    }
}

/// Turns the block's `n` scores of each row into weights and brings maxima and sums up to date.
pub(crate) fn soften(level: Level, tile: &mut Tile, n: usize) {
    assert!(n <= BLOCK && tile.lanes == lanes(level));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::tile_soften(tile, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::avx2::tile_soften(tile, n) },
        _ => super::scalar::tile_soften(tile, n),
    }
}

/// Adds the first `n` values, weighted, to the faded sums.
pub(crate) fn weigh(level: Level, tile: &mut Tile, stage: &Stage, n: usize) {
    assert!(tile.dim_v == stage.dim_v && n <= stage.len && tile.lanes == lanes(level));
    match level {
        // SAFETY: the level exists only after detection saw every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::tile_weigh(tile, stage, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::avx2::tile_weigh(tile, stage, n) },
        _ => super::scalar::tile_weigh(tile, stage, n),
    }
}

const fn lanes(level: Level) -> usize {
    match level {
        Level::Avx512 => 16,
        _ => 8,
    }
}

#[inline(always)]
pub(super) fn widen_of<V: Vector, E: Element>(
    rows: &RowBlock<'_>,
    n: usize,
    out: &mut [f32],
    stride: usize,
    from: usize,
) {
    let whole = n / V::N * V::N;
    for (t, out) in out.chunks_exact_mut(stride).take(rows.len()).enumerate() {
        let row = rows.at(t);
        for at in (0..whole).step_by(V::N) {
            // SAFETY: the row has the elements up to `from + n` (checked by the callers), `out` has `n`.
            unsafe { E::load::<V>(row, from + at).store(out[at..at + V::N].as_mut_ptr()) };
        }
        if whole < n {
            let mut rest = [0.0; super::body::WIDEST];
            // SAFETY: as above; `rest` is as long as any vector.
            unsafe { E::load_part::<V>(row, from + whole, n - whole).store(rest.as_mut_ptr()) };
            out[whole..n].copy_from_slice(&rest[..n - whole]);
        }
    }
}

#[inline(always)]
pub(super) fn tile_scores<V: Vector, const K: usize>(tile: &mut Tile, stage: &Stage, n: usize) {
    let d = tile.dim;
    let queries: &[f32] = bytemuck::cast_slice(&tile.queries);
    let keys: &[f32] = bytemuck::cast_slice(&stage.keys);
    let cells: &mut [f32] = bytemuck::cast_slice_mut(&mut tile.cells);
    assert!(n <= BLOCK && BLOCK.is_multiple_of(K) && keys.len() >= BLOCK * d);
    let pairs = tile.rows.div_ceil(2 * V::N);
    for (q, cells) in
        queries.chunks_exact(2 * V::N * d).zip(cells.chunks_exact_mut(2 * V::N * BLOCK)).take(pairs)
    {
        let (first, second) = cells.split_at_mut(V::N * BLOCK);
        for j in (0..n).step_by(K) {
            // SAFETY: `q` is two panels; rows of keys up to a multiple of `K` lie within the stage's `BLOCK`, and so do
            // their cells.
            unsafe {
                let sums = dots::<V, K>(q.as_ptr(), keys.as_ptr().add(j * d), d);
                for (i, [a, b]) in sums.into_iter().enumerate() {
                    a.store(first.as_mut_ptr().add((j + i) * V::N));
                    b.store(second.as_mut_ptr().add((j + i) * V::N));
                }
            }
        }
        // Behind the keys lies what an earlier block left.
        let (from, to) = (n * V::N, n.next_multiple_of(PART) * V::N);
        first[from..to].fill(f32::NEG_INFINITY);
        second[from..to].fill(f32::NEG_INFINITY);
    }
}

/// Two panels of queries times `K` keys.
///
/// # Safety
/// `q` holds two panels, `k` holds `K` rows of `d`.
#[inline(always)]
unsafe fn dots<V: Vector, const K: usize>(q: *const f32, k: *const f32, d: usize) -> [[V; 2]; K] {
    let mut sums = [[V::splat(0.0); 2]; K];
    for c in 0..d {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (V::load(q.add(c * V::N)), V::load(q.add((d + c) * V::N)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*k.add(i * d + c));
                sums[0] = sums[0].fma(x, a);
                sums[1] = sums[1].fma(x, b);
            }
        }
    }
    sums
}

#[inline(always)]
pub(super) fn tile_soften<V: Vector>(tile: &mut Tile, n: usize) {
    let panels = tile.rows.div_ceil(V::N);
    let cells: &mut [f32] = bytemuck::cast_slice_mut(&mut tile.cells);
    let parts: &mut [f32] = bytemuck::cast_slice_mut(&mut tile.parts);
    let state = &mut tile.state;
    for (panel, cells) in cells.chunks_exact_mut(V::N * BLOCK).take(panels).enumerate() {
        let lanes = panel * V::N..(panel + 1) * V::N;
        let cells = &mut cells[..n.next_multiple_of(PART) * V::N];
        // SAFETY: these, and the chunks and ranges below, are whole vectors.
        let old = unsafe { V::load(state.max[lanes.clone()].as_ptr()) };
        let mut max = old;
        for (cells, part) in cells.chunks_exact(PART * V::N).zip(parts.chunks_exact_mut(ROWS)) {
            let mut most = [V::splat(f32::NEG_INFINITY); 4];
            for cells in cells.chunks_exact(4 * V::N) {
                for (i, most) in most.iter_mut().enumerate() {
                    // SAFETY: see above.
                    *most = unsafe { V::load(cells[i * V::N..][..V::N].as_ptr()) }.max(*most);
                }
            }
            let most = most[0].max(most[1]).max(most[2].max(most[3]));
            // SAFETY: see above.
            unsafe { most.store(part[lanes.clone()].as_mut_ptr()) };
            max = most.max(max);
        }
        // Rows that have met nothing but `-inf` take their scores as they are: weights of 0.
        let shift = max.finite_or_zero();
        let mut sums = [V::splat(0.0); 4];
        for cells in cells.chunks_exact_mut(4 * V::N) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let cell = &mut cells[i * V::N..][..V::N];
                // SAFETY: see above.
                unsafe {
                    let weight = V::load(cell.as_ptr()).sub(shift).exp2();
                    weight.store(cell.as_mut_ptr());
                    *sum = sum.add(weight);
                }
            }
        }
        let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        let fade = old.sub(shift).exp2();
        // SAFETY: see above.
        unsafe {
            let total = &mut state.sum[lanes.clone()];
            V::load(total.as_ptr()).mul(fade).add(sum).store(total.as_mut_ptr());
            max.store(state.max[lanes.clone()].as_mut_ptr());
            fade.store(state.fade[lanes].as_mut_ptr());
        }
    }
}

#[inline(always)]
pub(super) fn tile_weigh<V: Vector, const R: usize>(tile: &mut Tile, stage: &Stage, n: usize) {
    let stride = tile.dim_v.next_multiple_of(PANEL);
    let values: &[f32] = bytemuck::cast_slice(&stage.values);
    let cells: &[f32] = bytemuck::cast_slice(&tile.cells);
    let acc: &mut [f32] = bytemuck::cast_slice_mut(&mut tile.acc);
    let rows = tile.rows.next_multiple_of(R);
    assert!(V::N.is_multiple_of(R) && ROWS.is_multiple_of(R) && n <= BLOCK && PANEL.is_multiple_of(2 * V::N));
    for (p, panel) in values.chunks_exact(BLOCK * PANEL).enumerate() {
        for column in (0..PANEL).step_by(2 * V::N) {
            for row in (0..rows).step_by(R) {
                let cells = &cells[row / V::N * V::N * BLOCK..][..V::N * BLOCK];
                let mut sums = [[V::splat(0.0); 2]; R];
                // SAFETY: `n <= BLOCK` rows of cells and of the panel; `row % N + R <= N`, `column + 2 N <= PANEL`.
                unsafe {
                    let mut w = cells.as_ptr().add(row % V::N);
                    let mut v = panel.as_ptr().add(column);
                    for _ in 0..n {
                        let (a, b) = (V::load(v), V::load(v.add(V::N)));
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let w = V::splat(*w.add(i));
                            sums[0] = sums[0].fma(w, a);
                            sums[1] = sums[1].fma(w, b);
                        }
                        w = w.add(V::N);
                        v = v.add(PANEL);
                    }
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    let fade = V::splat(tile.state.fade[row + i]);
                    let acc = &mut acc[(row + i) * stride + p * PANEL + column..][..2 * V::N];
                    for (sum, acc) in sums.into_iter().zip(acc.chunks_exact_mut(V::N)) {
                        // SAFETY: a chunk is a vector long.
                        unsafe { sum.fma(V::load(acc.as_ptr()), fade).store(acc.as_mut_ptr()) };
                    }
                }
            }
        }
    }
}

/// The functions of a level: its vector and features, the keys multiplied and the rows summed at once.
macro_rules! blocked {
    ($vector:ty, $(#[$features:meta])? $keys:literal, $rows:literal) => {
        use super::blocked::{self, Stage, Tile as RowTile};

        $(#[$features])?
        pub(super) fn widen(
            format: Format,
            rows: &RowBlock<'_>,
            n: usize,
            out: &mut [f32],
            stride: usize,
            from: usize,
        ) {
            match format {
                Format::F32 => blocked::widen_of::<$vector, F32>(rows, n, out, stride, from),
                Format::F16 => blocked::widen_of::<$vector, F16>(rows, n, out, stride, from),
                Format::Bf16 => blocked::widen_of::<$vector, Bf16>(rows, n, out, stride, from),
                Format::Q8_0 => blocked::widen_of::<$vector, Q8_0>(rows, n, out, stride, from),
            }
        }

        $(#[$features])?
        pub(super) fn tile_scores(tile: &mut RowTile, stage: &Stage, n: usize) {
            blocked::tile_scores::<$vector, $keys>(tile, stage, n);
        }

        $(#[$features])?
        pub(super) fn tile_soften(tile: &mut RowTile, n: usize) {
            blocked::tile_soften::<$vector>(tile, n);
        }

        $(#[$features])?
        pub(super) fn tile_weigh(tile: &mut RowTile, stage: &Stage, n: usize) {
            blocked::tile_weigh::<$vector, $rows>(tile, stage, n);
        }
    };
}
pub(super) use blocked;
