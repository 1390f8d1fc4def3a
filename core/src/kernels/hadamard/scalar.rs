//! Portable lanes.

use super::{block, rotate_rows};
use crate::kernels::lanes::LANES;

pub(super) fn hadamard(x: &mut [f32], size: usize) {
    x.chunks_exact_mut(size).for_each(block::<[f32; LANES]>);
}

pub(super) fn rotate(x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    rotate_rows::<[f32; LANES]>(x, signs, scale, inverse);
}
