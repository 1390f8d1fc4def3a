//! Portable lanes.

use super::{Coder, Fit, Plain, Quantizer, Shape, row};
use crate::cpu::Level;
use crate::kernels::bits;
use crate::kernels::lanes::LANES;

impl Coder for [f32; LANES] {
    fn quantize(z: &[Self], k: f32, quantizer: &Quantizer, out: &mut [u8]) {
        let step = 2 * quantizer.nbits as usize;
        for (z, out) in z.iter().zip(out.chunks_exact_mut(step)) {
            let codes = z.map(|z| quantizer.code(fixed(z * k)));
            bits::pack_bits(Level::Scalar, quantizer.nbits, &codes, out);
        }
    }

    fn dequantize(packed: &[u8], quantizer: &Quantizer, z: &mut [Self]) {
        let step = 2 * quantizer.nbits as usize;
        for (z, packed) in z.iter_mut().zip(packed.chunks_exact(step)) {
            let mut codes = [0; LANES];
            bits::unpack_bits(Level::Scalar, quantizer.nbits, packed, &mut codes);
            *z = codes.map(|c| quantizer.levels[usize::from(c)]);
        }
    }
}

/// To nearest, ties to even, saturating.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "`as` saturates")]
fn fixed(x: f32) -> i16 {
    // Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to even; further out the sum stays far beyond i16.
    const ROUND: f32 = 12_582_912.0;
    ((x + ROUND) - ROUND) as i16
}

pub(super) fn encode(
    shape: &Shape<'_>,
    plain: Plain,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    row::encode::<[f32; LANES]>(shape, plain, fit, src, scales, codes)
}

pub(super) fn decode(shape: &Shape<'_>, plain: Plain, scales: &[f32], codes: &[u8], out: &mut [u8]) {
    row::decode::<[f32; LANES]>(shape, plain, scales, codes, out);
}

pub(super) fn add_rows(head_dim: usize, plain: Plain, rows: &[u8], share: f32, sums: &mut [f32]) {
    row::add_rows::<[f32; LANES]>(head_dim, plain, rows, share, sums);
}
