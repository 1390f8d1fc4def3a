use crate::num::convert::{f16_from_f32, f16_to_f32};

/// Adding it to a value below 2^22 rounds to the nearest integer, ties to even, in the low bits.
const ROUND: f32 = 12_582_912.0;

pub(super) fn max_abs_bits(x: &[f32]) -> u32 {
    x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff))
}

pub(super) fn range_columns(x: &[f32], lo: &mut [f32], hi: &mut [f32]) {
    lo.fill(f32::INFINITY);
    hi.fill(f32::NEG_INFINITY);
    for row in x.chunks_exact(lo.len()) {
        for ((x, lo), hi) in row.iter().zip(&mut *lo).zip(&mut *hi) {
            *lo = if *x < *lo { *x } else { *lo };
            *hi = if *x > *hi { *x } else { *hi };
        }
    }
}

pub(super) fn range_groups(x: &[f32], d: usize, group: usize, lo: &mut [f32], hi: &mut [f32]) {
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    for ((x, lo), hi) in groups.zip(lo).zip(hi) {
        (*lo, *hi) = range(x);
    }
}

/// Minimum and maximum of one group.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| {
        (if *x < lo { *x } else { lo }, if *x > hi { *x } else { hi })
    })
}

pub(super) fn params(
    inv_factor: f32,
    max: f32,
    lo: &mut [f32],
    hi: &mut [f32],
    lo_f16: &mut [u8],
    scale_f16: &mut [u8],
) {
    let (lo_f16, _) = lo_f16.as_chunks_mut::<2>();
    let (scale_f16, _) = scale_f16.as_chunks_mut::<2>();
    for (((lo, hi), lo_f16), scale_f16) in lo.iter_mut().zip(hi).zip(lo_f16).zip(scale_f16) {
        // Adding zero turns -0, which compares equal to 0 and so may win either way, into 0.
        let lo_bits = f16_down(*lo * inv_factor + 0.0);
        *lo = f16_to_f32(lo_bits);
        let scale_bits = f16_up((*hi * inv_factor + 0.0 - *lo) / max);
        let scale = f16_to_f32(scale_bits);
        *hi = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        *lo_f16 = lo_bits.to_le_bytes();
        *scale_f16 = scale_bits.to_le_bytes();
    }
}

/// The largest f16 not above `x`, for `|x| < 65504`.
fn f16_down(x: f32) -> u16 {
    let near = f16_from_f32(x);
    match (f16_to_f32(near) > x, near) {
        (false, _) => near,
        (true, 0) => 0x8001,
        (true, near) if near & 0x8000 == 0 => near - 1,
        (true, near) => near + 1,
    }
}

/// The smallest f16 not below `x`, for `0 <= x < 65504`.
fn f16_up(x: f32) -> u16 {
    let near = f16_from_f32(x);
    if f16_to_f32(near) < x { near + 1 } else { near }
}

pub(super) fn quantize_columns(
    x: &[f32],
    inv_factor: f32,
    lo: &[f32],
    inv: &[f32],
    max: f32,
    codes: &mut [u8],
) {
    for (x, codes) in x.chunks_exact(lo.len()).zip(codes.chunks_exact_mut(lo.len())) {
        quantize_row(x, inv_factor, lo, inv, max, codes);
    }
}

/// One row with parameters for each element.
pub(super) fn quantize_row(x: &[f32], inv_factor: f32, lo: &[f32], inv: &[f32], max: f32, codes: &mut [u8]) {
    for (((x, lo), inv), code) in x.iter().zip(lo).zip(inv).zip(codes) {
        *code = quantize(*x, inv_factor, *lo, *inv, max);
    }
}

pub(super) fn quantize_groups(
    x: &[f32],
    (d, group): (usize, usize),
    inv_factor: f32,
    (lo, inv): (&[f32], &[f32]),
    max: f32,
    codes: &mut [u8],
) {
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    let codes = codes.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((x, codes), lo), inv) in groups.zip(codes).zip(lo).zip(inv) {
        quantize_run(x, inv_factor, *lo, *inv, max, codes);
    }
}

/// One group.
pub(super) fn quantize_run(x: &[f32], inv_factor: f32, lo: f32, inv: f32, max: f32, codes: &mut [u8]) {
    for (x, code) in x.iter().zip(codes) {
        *code = quantize(*x, inv_factor, lo, inv, max);
    }
}

fn quantize(x: f32, inv_factor: f32, lo: f32, inv: f32, max: f32) -> u8 {
    let v = (x * inv_factor - lo) * inv;
    let v = if v < max { v } else { max };
    (v + ROUND).to_bits().to_le_bytes()[0]
}

pub(super) fn dequantize_columns(codes: &[u8], factor: f32, lo: &[f32], scale: &[f32], out: &mut [f32]) {
    for (codes, out) in codes.chunks_exact(lo.len()).zip(out.chunks_exact_mut(lo.len())) {
        dequantize_row(codes, factor, lo, scale, out);
    }
}

/// One row with parameters for each element.
pub(super) fn dequantize_row(codes: &[u8], factor: f32, lo: &[f32], scale: &[f32], out: &mut [f32]) {
    for (((code, lo), scale), x) in codes.iter().zip(lo).zip(scale).zip(out) {
        *x = dequantize(*code, factor, *lo, *scale);
    }
}

pub(super) fn dequantize_groups(
    codes: &[u8],
    (d, group): (usize, usize),
    factor: f32,
    (lo, scale): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let groups = codes.chunks_exact(d).flat_map(|row| row.chunks(group));
    let out = out.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((codes, out), lo), scale) in groups.zip(out).zip(lo).zip(scale) {
        dequantize_run(codes, factor, *lo, *scale, out);
    }
}

/// One group.
pub(super) fn dequantize_run(codes: &[u8], factor: f32, lo: f32, scale: f32, out: &mut [f32]) {
    for (code, x) in codes.iter().zip(out) {
        *x = dequantize(*code, factor, lo, scale);
    }
}

fn dequantize(code: u8, factor: f32, lo: f32, scale: f32) -> f32 {
    ((lo + f32::from(code) * scale) * factor).clamp(f32::MIN, f32::MAX)
}
