//! Portable kernels.

use super::cells::{CellSet, streams};
use super::{BLOCK, Layout, Piece, Split, Tables};

/// Tokens whose sums are held at once.
const TILE: usize = 64;

pub(super) fn products(split: Split, table: &[f32], q: &[f32], lut: &mut [f32]) {
    let heads = q.chunks_exact(split.d).zip(lut.chunks_exact_mut(split.m * split.ksub));
    for (q, lut) in heads {
        for (s, lut) in lut.chunks_exact_mut(split.ksub).enumerate() {
            lut.fill(0.0);
            let (_, columns) = split.table(s, table);
            for (&q, column) in q[split.start(s)..].iter().zip(columns.chunks_exact(split.ksub)) {
                for (y, &c) in lut.iter_mut().zip(column) {
                    *y += q * c;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn extremes(ksub: usize, lut: &[f32], extremes: &mut [(f32, f32)]) {
    for (lut, out) in lut.chunks_exact(ksub).zip(extremes) {
        let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
        for x in lut.as_chunks::<16>().0 {
            for (lane, &x) in x.iter().enumerate() {
                low[lane] = if x < low[lane] { x } else { low[lane] };
                high[lane] = if x > high[lane] { x } else { high[lane] };
            }
        }
        *out = (low.into_iter().fold(low[0], f32::min), high.into_iter().fold(high[0], f32::max));
    }
}

/// Where the entry of sub-space `s` and code `c` lies in tables of 4 bits.
#[inline(always)]
pub(super) const fn nibble_at(s: usize, c: usize) -> usize {
    s / 4 * 64 + s % 4 * 16 + c
}

#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "entries fit 16 bits, or 8 for 4-bit codes"
)]
pub(super) fn quantize(
    layout: Layout,
    planes: bool,
    lut: &[f32],
    extremes: &[(f32, f32)],
    steps: f32,
    out: &mut [u8],
) {
    let ksub = 1 << layout.nbits;
    for (s, (lut, &(low, _))) in lut.chunks_exact(ksub).zip(extremes).enumerate() {
        let entry = |x: f32| ((x - low) * steps) as u16;
        if layout.nbits == 4 {
            for (o, &x) in out[nibble_at(s, 0)..].iter_mut().zip(lut) {
                *o = entry(x) as u8;
            }
            continue;
        }
        let out = &mut out[s * 2 * ksub..][..2 * ksub];
        if planes {
            let (lows, highs) = out.split_at_mut(ksub);
            for ((l, h), &x) in lows.iter_mut().zip(highs).zip(lut) {
                [*l, *h] = entry(x).to_le_bytes();
            }
        } else {
            for (o, &x) in out.as_chunks_mut::<2>().0.iter_mut().zip(lut) {
                *o = entry(x).to_ne_bytes();
            }
        }
    }
}

pub(super) fn scan<'a>(
    tables: Tables<'_>,
    n: usize,
    pieces: impl Iterator<Item = Piece<'a>>,
    scores: &mut [u16],
) {
    let mut at = 0;
    for piece in pieces {
        let len = piece.tokens.len();
        for (table, scores) in tables.heads().zip(scores.chunks_exact_mut(n)) {
            let scores = &mut scores[at..at + len];
            match tables.layout.nbits {
                4 => scan_nibbles(tables.layout, table, &piece, scores),
                6 => scan_words::<64>(table, &piece, scores),
                _ => scan_words::<256>(table, &piece, scores),
            }
        }
        at += len;
    }
}

/// Tables of 16-bit numbers.
fn scan_words<const KSUB: usize>(table: &[u8], piece: &Piece<'_>, scores: &mut [u16]) {
    let table = bytemuck::cast_slice::<u8, u16>(table).as_chunks::<KSUB>().0;
    for (tile, scores) in scores.chunks_mut(TILE).enumerate() {
        let mut sums = [0_u16; TILE];
        for (s, table) in table.iter().enumerate() {
            let codes = &piece.stream(s, 1)[tile * TILE..];
            for (sum, &c) in sums[..scores.len()].iter_mut().zip(codes) {
                *sum += table[usize::from(c) % KSUB];
            }
        }
        scores.copy_from_slice(&sums[..scores.len()]);
    }
}

fn scan_nibbles(layout: Layout, table: &[u8], piece: &Piece<'_>, scores: &mut [u16]) {
    for (tile, scores) in scores.chunks_mut(TILE).enumerate() {
        let mut sums = [0_u16; TILE];
        for w in 0..layout.streams() {
            let words = &piece.stream(w, 4).as_chunks::<4>().0[tile * TILE..];
            let table = &table[w * 128..][..128];
            for (sum, word) in sums[..scores.len()].iter_mut().zip(words) {
                for (p, &byte) in word.iter().enumerate() {
                    let (low, high) = (usize::from(byte & 15), usize::from(byte >> 4));
                    *sum += u16::from(table[p * 16 + low]) + u16::from(table[64 + p * 16 + high]);
                }
            }
        }
        scores.copy_from_slice(&sums[..scores.len()]);
    }
}

#[inline(always)]
pub(super) fn cell_scores(entries: &[u16; 128], counts: &[u32], out: &mut [u16]) {
    let (rows, columns) = entries.split_at(64);
    let cells = counts.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<64>().0);
    for (&row, (counts, out)) in rows.iter().zip(cells) {
        for ((out, &column), &count) in out.iter_mut().zip(columns).zip(counts) {
            *out = if count == 0 { 0 } else { row + column };
        }
    }
}

#[inline(always)]
pub(super) fn count_above(keys: &[u32], counts: &[u32], t: u32) -> u32 {
    let mut lanes = [0_u32; 64];
    let (keys, keys_rest) = keys.as_chunks::<64>();
    let (counts, counts_rest) = counts.as_chunks::<64>();
    for (keys, counts) in keys.iter().zip(counts) {
        for ((lane, &key), &count) in lanes.iter_mut().zip(keys).zip(counts) {
            *lane += if key > t { count } else { 0 };
        }
    }
    let rest = keys_rest.iter().zip(counts_rest).map(|(&key, &count)| if key > t { count } else { 0 });
    lanes.into_iter().chain(rest).sum()
}

pub(super) fn keep(keys: &[u32], counts: &[u32], [low, high]: [u32; 2], out: [&mut [u32]; 2]) -> usize {
    let [keys_out, counts_out] = out;
    let mut n = 0;
    for (&key, &count) in keys.iter().zip(counts) {
        (keys_out[n], counts_out[n]) = (key, count);
        n += usize::from((low..=high).contains(&key));
    }
    n
}

pub(super) fn sets(keys: &[u32], t: u32, above: &mut CellSet, at_least: &mut CellSet) {
    for (row, keys) in keys.as_chunks::<64>().0.iter().enumerate() {
        (above.0[row], at_least.0[row]) = (0, 0);
        for (column, &key) in keys.iter().enumerate() {
            above.0[row] |= u64::from(key > t) << column;
            at_least.0[row] |= u64::from(key >= t) << column;
        }
    }
}

pub(super) fn emit_cells<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    above: &CellSet,
    at_least: &CellSet,
    mut ties: usize,
    out: &mut [u32],
) -> usize {
    let (mut n, mut index) = (0, 0);
    for piece in pieces {
        let [rows, columns] = streams(&piece);
        for (&row, &column) in rows.iter().zip(columns) {
            let mut taken = above.has(row, column);
            if !taken && ties > 0 && at_least.has(row, column) {
                ties -= 1;
                taken = true;
            }
            if taken {
                out[n] = index;
                n += 1;
            }
            index += 1;
        }
    }
    n
}

const _: () = assert!(BLOCK.is_multiple_of(TILE));
