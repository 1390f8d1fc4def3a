//! llama.cpp's block formats: 32 elements of a row share a scale.
//!
//! Dequantizing gives the bits that llama.cpp's `dequantize_row_*` gives, quantizing those of its
//! `quantize_row_*_ref`, with two exceptions, where llama.cpp's own result is infinite or undefined:
//! - a scale beyond the range of f16 saturates to 65504 (llama.cpp stores an infinity, and the block decodes to NaN);
//! - a scale so small that its reciprocal is infinite counts as 0 (llama.cpp converts infinities to integers).
//!
//! | type | bytes | decoded value |
//! |---|---|---|
//! | `q8_0` | f16 `d`, 32 x i8 `q` | `q*d` |
//! | `q4_0` | f16 `d`, 16 nibble pairs | `(q-8)*d` |
//! | `q4_1` | f16 `d`, f16 `m`, 16 nibble pairs | `q*d + m` |
//! | `q5_0` | f16 `d`, u32 of fifth bits, 16 nibble pairs | `(q-16)*d` |
//! | `q5_1` | f16 `d`, f16 `m`, u32 of fifth bits, 16 nibble pairs | `q*d + m` |
//! | `iq4_nl` | f16 `d`, 16 nibble pairs | `d*IQ4_NL_VALUES[q]` |
//!
//! Byte `j` of the nibble pairs holds element `j` low and element `j + 16` high.
//! Callers have checked lengths and that sources are finite (`convert`).

use crate::cpu;
use crate::kernels::convert::scalar::{f16_narrow, f16_widen};
use crate::kernels::ggml as kernel;
pub(super) use crate::kernels::ggml::BLOCK;
use crate::kernels::ggml::{low_byte, reciprocal};

const HALF: usize = BLOCK / 2;

/// The levels of `iq4_nl`.
const IQ4_NL_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn quantize_q8_0(src: &[f32], dst: &mut [u8]) {
    kernel::quantize_q8_0(cpu::level(), src, dst);
}

pub(super) fn dequantize_q8_0(src: &[u8], dst: &mut [f32]) {
    kernel::dequantize_q8_0(cpu::level(), src, dst);
}

pub(super) fn quantize_q4_0(src: &[f32], dst: &mut [u8]) {
    kernel::quantize_q4_0(cpu::level(), src, dst);
}

pub(super) fn dequantize_q4_0(src: &[u8], dst: &mut [f32]) {
    kernel::dequantize_q4_0(cpu::level(), src, dst);
}

pub(super) fn quantize_q4_1(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<20>().0) {
        let (codes, d, m) = affine_codes::<15>(x);
        put_f16(block, 0, d);
        put_f16(block, 2, m);
        put_nibbles(&mut block[4..], &codes);
    }
}

pub(super) fn dequantize_q4_1(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<20>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let (d, m) = (get_f16(block, 0), get_f16(block, 2));
        *x = get_nibbles(&block[4..]).map(|q| f32::from(q) * d + m);
    }
}

pub(super) fn quantize_q5_0(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<22>().0) {
        let d = first_of_largest_magnitude(x) / -16.0;
        let id = reciprocal(d);
        let codes = x.map(|v| low_byte(v * id + 16.5).min(31));
        put_f16(block, 0, d);
        put_fifth_bits(&mut block[2..], &codes);
        put_nibbles(&mut block[6..], &codes);
    }
}

pub(super) fn dequantize_q5_0(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<22>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = get_f16(block, 0);
        *x = get_five_bits(&block[2..]).map(|q| (f32::from(q) - 16.0) * d);
    }
}

pub(super) fn quantize_q5_1(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<24>().0) {
        let (codes, d, m) = affine_codes::<31>(x);
        put_f16(block, 0, d);
        put_f16(block, 2, m);
        put_fifth_bits(&mut block[4..], &codes);
        put_nibbles(&mut block[8..], &codes);
    }
}

pub(super) fn dequantize_q5_1(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<24>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let (d, m) = (get_f16(block, 0), get_f16(block, 2));
        *x = get_five_bits(&block[4..]).map(|q| f32::from(q) * d + m);
    }
}

/// Least squares with weights `x^2`: codes for the scale that sends the largest value to the table's end, then the
/// best scale for these codes.
pub(super) fn quantize_iq4_nl(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<18>().0) {
        let max = first_of_largest_magnitude(x);
        let mut codes = [0; BLOCK];
        let mut d = 0.0;
        if max.abs() >= 1e-15 {
            let id = 1.0 / (max / f32::from(IQ4_NL_VALUES[0]));
            let (mut sum_qx, mut sum_qq) = (0.0_f32, 0.0_f32);
            // Powers of two keep the weighted sums within range; they cancel in the quotient.
            let unit = power_of_two_below(max);
            for (code, v) in codes.iter_mut().zip(x) {
                *code = nearest_iq4_nl(id * v);
                let (q, v) = (f32::from(IQ4_NL_VALUES[usize::from(*code)]), v / unit);
                let weight = v * v;
                sum_qx += weight * q * v;
                sum_qq += weight * q * q;
            }
            d = sum_qx / sum_qq * unit;
        }
        put_f16(block, 0, d);
        put_nibbles(&mut block[2..], &codes);
    }
}

pub(super) fn dequantize_iq4_nl(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<18>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = get_f16(block, 0);
        *x = get_nibbles(&block[2..]).map(|q| d * f32::from(IQ4_NL_VALUES[usize::from(q)]));
    }
}

/// The largest power of two not above `|x|`, or the least normal number.
fn power_of_two_below(x: f32) -> f32 {
    f32::from_bits((x.to_bits() & 0x7F80_0000).max(0x0080_0000))
}

/// The index of the table's value nearest to `x`; of two equally near ones the upper.
fn nearest_iq4_nl(x: f32) -> u8 {
    let middles = IQ4_NL_VALUES.windows(2).map(|w| (f32::from(w[0]) + f32::from(w[1])) * 0.5);
    middles.fold(0, |index, middle| index + u8::from(x >= middle))
}

/// Codes `0..=TOP` of an affine grid from the block's minimum to its maximum, the grid's step and the minimum.
fn affine_codes<const TOP: u8>(x: &[f32; BLOCK]) -> ([u8; BLOCK], f32, f32) {
    let (min, max) = x.iter().fold((f32::MAX, -f32::MAX), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let d = ((max - min) / f32::from(TOP)).min(f32::MAX);
    let id = reciprocal(d);
    (x.map(|v| low_byte((v - min) * id + 0.5).min(TOP)), d, min)
}

/// The element of largest magnitude with its sign; the first of several.
fn first_of_largest_magnitude(x: &[f32; BLOCK]) -> f32 {
    x.iter().fold(0.0, |max: f32, v| if v.abs() > max.abs() { *v } else { max })
}

fn put_f16(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&f16_narrow(x).to_le_bytes());
}

fn get_f16(block: &[u8], at: usize) -> f32 {
    f16_widen(u16::from_le_bytes([block[at], block[at + 1]]))
}

fn put_nibbles(pairs: &mut [u8], codes: &[u8; BLOCK]) {
    for j in 0..HALF {
        pairs[j] = codes[j] & 15 | codes[j + HALF] << 4;
    }
}

fn get_nibbles(pairs: &[u8]) -> [u8; BLOCK] {
    core::array::from_fn(|i| if i < HALF { pairs[i] & 15 } else { pairs[i - HALF] >> 4 })
}

fn put_fifth_bits(bytes: &mut [u8], codes: &[u8; BLOCK]) {
    let bits = codes.iter().rev().fold(0_u32, |bits, code| bits << 1 | u32::from(code >> 4));
    bytes[..4].copy_from_slice(&bits.to_le_bytes());
}

/// Four bytes of fifth bits, then the nibble pairs.
fn get_five_bits(bytes: &[u8]) -> [u8; BLOCK] {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut codes = get_nibbles(&bytes[4..]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= u8::from(bits >> i & 1 == 1) << 4;
    }
    codes
}

#[cfg(test)]
mod tests;
