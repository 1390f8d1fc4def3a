//! The kernels, for vectors of any level. Everything is inlined into functions that enable the level's features.

#![allow(
    clippy::needless_range_loop,
    reason = "the indices name registers in several arrays; loops over iterators are not always unrolled"
)]

use super::{Ahead, BLOCK, HEADS, RowBlock, Tile};

/// Lanes of the widest vector.
pub(super) const WIDEST: usize = 16;

/// A register of `f32`: 8 or 16 lanes.
///
/// The vectors of AVX2 and AVX-512 call feature-gated intrinsics from functions without those features, which is sound
/// only because nothing but kernels that run after detection name them.
pub(super) trait Vector: Copy {
    const N: usize;
    fn splat(x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self + a * b`, fused where the level has it.
    fn fma(self, a: Self, b: Self) -> Self;
    /// The greater of both; of a NaN in `self` and a number, the number. `other` is no NaN.
    fn max(self, other: Self) -> Self;
    /// `2^x` for `x <= 0` with a relative error below 2^-22; 0 from below -126; NaN of NaN.
    fn exp2(self) -> Self;
    /// 0 where a lane is `-inf`.
    fn finite_or_zero(self) -> Self;
    /// Lane `i` receives the sum of all lanes of `rows[i]`. The tree of additions is the same for every lane.
    fn sums(rows: &[Self; WIDEST]) -> Self;
    /// Lane `i` receives lane `i ^ distance`, `distance` a power of two below `N`.
    fn swap(self, distance: usize) -> Self;
    /// Lane `i` receives `x[i % width]`, `width` a power of two up to 8.
    fn spread(x: &[f32; HEADS], width: usize) -> Self;
    /// The first eight lanes.
    fn first(self) -> [f32; HEADS];
    /// # Safety
    /// `N` numbers at `p` can be read.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `N` numbers at `p` can be written.
    unsafe fn store(self, p: *mut f32);
    /// `n < N` numbers, then zeros.
    ///
    /// # Safety
    /// `n` numbers at `p` can be read.
    unsafe fn load_part(p: *const f32, n: usize) -> Self;
    /// Little-endian numbers.
    ///
    /// # Safety
    /// `4 * N` bytes at `p` can be read.
    unsafe fn f32(p: *const u8) -> Self;
    /// # Safety
    /// `4 * n` bytes at `p` can be read.
    unsafe fn f32_part(p: *const u8, n: usize) -> Self;
    /// # Safety
    /// `2 * N` bytes at `p` can be read.
    unsafe fn f16(p: *const u8) -> Self;
    /// # Safety
    /// `2 * n` bytes at `p` can be read.
    unsafe fn f16_part(p: *const u8, n: usize) -> Self;
    /// # Safety
    /// `2 * N` bytes at `p` can be read.
    unsafe fn bf16(p: *const u8) -> Self;
    /// # Safety
    /// `2 * n` bytes at `p` can be read.
    unsafe fn bf16_part(p: *const u8, n: usize) -> Self;
    /// # Safety
    /// `N` bytes at `p` can be read.
    unsafe fn i8(p: *const u8) -> Self;
    /// One f16 in all lanes.
    ///
    /// # Safety
    /// 2 bytes at `p` can be read.
    unsafe fn f16_splat(p: *const u8) -> Self;
}

/// How elements become numbers.
pub(super) trait Element {
    /// Elements `at..at + N` of the row at `row`; `at` is a multiple of `N`.
    ///
    /// # Safety
    /// The row has these elements.
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V;
    /// Elements `at..at + n`, then zeros; `n < N`.
    ///
    /// # Safety
    /// The row has these elements.
    unsafe fn load_part<V: Vector>(row: *const u8, at: usize, n: usize) -> V;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;
pub(super) struct Q8_0;

impl Element for F32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::f32(row.add(4 * at)) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(row: *const u8, at: usize, n: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::f32_part(row.add(4 * at), n) }
    }
}

impl Element for F16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::f16(row.add(2 * at)) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(row: *const u8, at: usize, n: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::f16_part(row.add(2 * at), n) }
    }
}

impl Element for Bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::bf16(row.add(2 * at)) }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(row: *const u8, at: usize, n: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::bf16_part(row.add(2 * at), n) }
    }
}

impl Element for Q8_0 {
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: the caller's promise: the whole block of the elements is part of the row.
        unsafe {
            let block = row.add(at / 32 * 34);
            V::i8(block.add(2 + at % 32)).mul(V::f16_splat(block))
        }
    }

    #[inline(always)]
    unsafe fn load_part<V: Vector>(_: *const u8, _: usize, _: usize) -> V {
        unreachable!("rows of q8_0 are whole blocks, which are whole vectors")
    }
}

/// Rows `t..t + R` against `G` heads, asking ahead between the columns.
///
/// # Safety
/// `rows` has rows of `d` elements at `t..t + R`, counting the repeated ones; `q` holds `G * d`.
#[inline(always)]
unsafe fn dots<V: Vector, E: Element, const G: usize, const R: usize>(
    q: *const f32,
    d: usize,
    rows: &RowBlock<'_>,
    t: usize,
    ahead: Ahead<'_>,
) -> [[V; G]; R] {
    let mut row = [core::ptr::null(); R];
    for r in 0..R {
        row[r] = rows.at(t + r);
    }
    let mut acc = [[V::splat(0.0); G]; R];
    let whole = d / V::N * V::N;
    let mut at = 0;
    let (mut asked, mut due) = (0, 0);
    while at < whole {
        // Evenly: what is asked for at once is waited for.
        if at >= due && asked < R {
            ahead.ask::<G>(t + asked);
            asked += 1;
            due += whole / R;
        }
        let mut k = [V::splat(0.0); R];
        for r in 0..R {
            // SAFETY: `at + N <= d`.
            k[r] = unsafe { E::load(row[r], at) };
        }
        for g in 0..G {
            // SAFETY: `g < G` and `at + N <= d`.
            let x = unsafe { V::load(q.add(g * d + at)) };
            for r in 0..R {
                acc[r][g] = acc[r][g].fma(x, k[r]);
            }
        }
        at += V::N;
    }
    while asked < R {
        ahead.ask::<G>(t + asked);
        asked += 1;
    }
    if whole < d {
        let rest = d - whole;
        for r in 0..R {
            // SAFETY: `whole + rest == d`.
            let k = unsafe { E::load_part::<V>(row[r], whole, rest) };
            for g in 0..G {
                // SAFETY: as above.
                let x = unsafe { V::load_part(q.add(g * d + whole), rest) };
                acc[r][g] = acc[r][g].fma(x, k);
            }
        }
    }
    acc
}

/// `G` heads in cells of width `W`, `R` rows at once; `W * R` divides `N`.
#[inline(always)]
pub(super) fn scores<V: Vector, E: Element, const G: usize, const W: usize, const R: usize>(
    tile: &mut Tile,
    q: &[f32],
    d: usize,
    scale: f32,
    rows: &RowBlock<'_>,
    ahead: Ahead<'_>,
) {
    assert!(G <= W && tile.group == G && q.len() == G * d && R * W <= V::N);
    let n = rows.len();
    let scale = V::splat(scale);
    let mut t = 0;
    while t < n {
        let mut partial = [V::splat(0.0); WIDEST];
        let mut r = 0;
        while r < V::N / W {
            if t + r < n {
                // SAFETY: `q` and the rows were checked by the callers; a block repeats its last row to the next
                // multiple of 16, and `t + V::N / W` does not exceed that.
                let acc = unsafe { dots::<V, E, G, R>(q.as_ptr(), d, rows, t + r, ahead) };
                for i in 0..R {
                    for g in 0..G {
                        partial[(r + i) * W + g] = acc[i][g];
                    }
                }
            }
            r += R;
        }
        let cells = &mut tile.cells[t * W..][..V::N];
        // SAFETY: `cells` holds `N` numbers.
        unsafe { V::sums(&partial).mul(scale).store(cells.as_mut_ptr()) };
        t += V::N / W;
    }
    tile.cells[n * W..(n * W).next_multiple_of(V::N)].fill(f32::NEG_INFINITY);
}

#[inline(always)]
pub(super) fn soften<V: Vector>(tile: &mut Tile, n: usize) {
    let width = tile.width();
    let cells = &mut tile.cells[..(n * width).next_multiple_of(V::N)];
    let old = V::spread(&tile.max, width);
    let mut max = old;
    for cells in cells.chunks_exact(V::N) {
        // SAFETY: a chunk holds `N` numbers.
        max = unsafe { V::load(cells.as_ptr()) }.max(max);
    }
    let mut distance = V::N / 2;
    while distance >= width {
        max = max.swap(distance).max(max);
        distance /= 2;
    }
    // Heads that have met nothing but `-inf` take their scores as they are: weights of 0.
    let shift = max.finite_or_zero();
    let mut sum = V::splat(0.0);
    for cells in cells.chunks_exact_mut(V::N) {
        // SAFETY: a chunk holds `N` numbers.
        unsafe {
            let weight = V::load(cells.as_ptr()).sub(shift).exp2();
            weight.store(cells.as_mut_ptr());
            sum = sum.add(weight);
        }
    }
    let mut distance = V::N / 2;
    while distance >= width {
        sum = sum.add(sum.swap(distance));
        distance /= 2;
    }
    let fade = old.sub(shift).exp2();
    tile.sum = V::spread(&tile.sum, width).mul(fade).add(sum).first();
    tile.max = max.first();
    tile.fade = fade.first();
}

/// Columns `at..at + C * N` of `G` heads.
///
/// # Safety
/// The rows have these columns, and so have the `G` accumulators at `acc`, `stride` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub(super) unsafe fn weigh<V: Vector, E: Element, const G: usize, const W: usize, const C: usize>(
    tile: &Tile,
    acc: *mut f32,
    stride: usize,
    at: usize,
    rows: &RowBlock<'_>,
    ahead: Ahead<'_>,
) {
    let mut sum = [[V::splat(0.0); C]; G];
    let n = rows.len();
    for (t, weights) in tile.cells[..n * W].chunks_exact(W).enumerate() {
        let row = rows.at(t);
        ahead.ask::<G>(t);
        let mut v = [V::splat(0.0); C];
        for c in 0..C {
            // SAFETY: the caller's promise.
            v[c] = unsafe { E::load(row, at + c * V::N) };
        }
        for g in 0..G {
            let w = V::splat(weights[g]);
            for c in 0..C {
                sum[g][c] = sum[g][c].fma(w, v[c]);
            }
        }
    }
    for g in 0..G {
        let fade = V::splat(tile.fade[g]);
        for c in 0..C {
            // SAFETY: the caller's promise.
            unsafe {
                let acc = acc.add(g * stride + at + c * V::N);
                sum[g][c].fma(V::load(acc), fade).store(acc);
            }
        }
    }
}

/// The last `rest < N` columns, from `at`.
///
/// # Safety
/// The rows have these columns, and the `G` accumulators at `acc`, `stride` apart, have `N` from `at`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub(super) unsafe fn weigh_rest<V: Vector, E: Element, const G: usize, const W: usize>(
    tile: &Tile,
    acc: *mut f32,
    stride: usize,
    at: usize,
    rest: usize,
    rows: &RowBlock<'_>,
) {
    let mut sum = [V::splat(0.0); G];
    for (t, weights) in tile.cells[..rows.len() * W].chunks_exact(W).enumerate() {
        // SAFETY: the caller's promise.
        let v = unsafe { E::load_part::<V>(rows.at(t), at, rest) };
        for g in 0..G {
            sum[g] = sum[g].fma(V::splat(weights[g]), v);
        }
    }
    for g in 0..G {
        // SAFETY: the caller's promise.
        unsafe {
            let acc = acc.add(g * stride + at);
            sum[g].fma(V::load(acc), V::splat(tile.fade[g])).store(acc);
        }
    }
}

/// What every level's file consists of: the kernels with the level's vector and features, one copy for each element
/// type and count of heads. A line of the table: heads, width of a row of cells, rows that are multiplied at once, and
/// the vectors of columns that are summed at once, widest first.
macro_rules! level {
    ($vector:ty, $(#[$features:meta])? { $($g:literal => $w:literal, $r:literal, [$($c:literal),*];)* }) => {
        use super::body::{self, Bf16, Element, F16, F32, Q8_0, Vector};
        use super::{Ahead, Format, RowBlock, Tile};

        $(#[$features])?
        pub(super) fn scores(
            format: Format,
            tile: &mut Tile,
            q: &[f32],
            d: usize,
            scale: f32,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            match format {
                Format::F32 => scores_of::<F32>(tile, q, d, scale, rows, ahead),
                Format::F16 => scores_of::<F16>(tile, q, d, scale, rows, ahead),
                Format::Bf16 => scores_of::<Bf16>(tile, q, d, scale, rows, ahead),
                Format::Q8_0 => scores_of::<Q8_0>(tile, q, d, scale, rows, ahead),
            }
        }

        $(#[$features])?
        fn scores_of<E: Element>(
            tile: &mut Tile,
            q: &[f32],
            d: usize,
            scale: f32,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            match tile.group() {
                $($g => scores_by::<E, $g, $w, $r>(tile, q, d, scale, rows, ahead),)*
                _ => unreachable!("a tile has 1 to 8 heads"),
            }
        }

        $(#[$features])?
        fn scores_by<E: Element, const G: usize, const W: usize, const R: usize>(
            tile: &mut Tile,
            q: &[f32],
            d: usize,
            scale: f32,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            body::scores::<$vector, E, G, W, R>(tile, q, d, scale, rows, ahead);
        }

        $(#[$features])?
        pub(super) fn soften(tile: &mut Tile, n: usize) {
            body::soften::<$vector>(tile, n);
        }

        $(#[$features])?
        pub(super) fn weigh(
            format: Format,
            tile: &Tile,
            acc: &mut [f32],
            d: usize,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            match format {
                Format::F32 => weigh_of::<F32>(tile, acc, d, rows, ahead),
                Format::F16 => weigh_of::<F16>(tile, acc, d, rows, ahead),
                Format::Bf16 => weigh_of::<Bf16>(tile, acc, d, rows, ahead),
                Format::Q8_0 => weigh_of::<Q8_0>(tile, acc, d, rows, ahead),
            }
        }

        $(#[$features])?
        fn weigh_of<E: Element>(
            tile: &Tile,
            acc: &mut [f32],
            d: usize,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            const N: usize = <$vector>::N;
            let stride = acc.len() / tile.group();
            let acc = acc.as_mut_ptr();
            let whole = d / N * N;
            // Memory is asked for evenly over the passes. (Rows shorter than a vector are not asked for.)
            let part = |at: usize, vectors: usize| ahead.part(at / N, vectors, whole / N);
            let mut at = 0;
            while at < whole {
                let left = (whole - at) / N;
                // SAFETY (all arms): the columns end at `whole <= d`, which rows and accumulators have (checked by
                // the caller of this level).
                at += N * match tile.group() {
                    $($g => {
                        $(if left >= $c {
                            // SAFETY: see above.
                            unsafe { weigh_by::<E, $g, $w, $c>(tile, acc, stride, at, rows, part(at, $c)) };
                            $c
                        } else)* { unreachable!("the last choice is one vector") }
                    })*
                    _ => unreachable!("a tile has 1 to 8 heads"),
                };
            }
            if whole < d {
                match tile.group() {
                    // SAFETY: accumulators are whole vectors long, and rows have `d` columns.
                    $($g => unsafe { weigh_rest::<E, $g, $w>(tile, acc, stride, whole, d - whole, rows) },)*
                    _ => unreachable!("a tile has 1 to 8 heads"),
                }
            }
        }

        /// # Safety
        /// As the body's.
        $(#[$features])?
        unsafe fn weigh_by<E: Element, const G: usize, const W: usize, const C: usize>(
            tile: &Tile,
            acc: *mut f32,
            stride: usize,
            at: usize,
            rows: &RowBlock<'_>,
            ahead: Ahead<'_>,
        ) {
            // SAFETY: the caller's promise.
            unsafe { body::weigh::<$vector, E, G, W, C>(tile, acc, stride, at, rows, ahead) };
        }

        /// # Safety
        /// As the body's.
        $(#[$features])?
        unsafe fn weigh_rest<E: Element, const G: usize, const W: usize>(
            tile: &Tile,
            acc: *mut f32,
            stride: usize,
            at: usize,
            rest: usize,
            rows: &RowBlock<'_>,
        ) {
            // SAFETY: the caller's promise.
            unsafe { body::weigh_rest::<$vector, E, G, W>(tile, acc, stride, at, rest, rows) };
        }
    };
}
pub(super) use level;

const _: () = assert!(BLOCK.is_multiple_of(WIDEST));
