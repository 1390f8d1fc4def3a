//! Portable lanes.

use super::block;
use crate::kernels::lanes::LANES;

pub(super) fn hadamard(x: &mut [f32], size: usize) {
    x.chunks_exact_mut(size).for_each(block::<[f32; LANES]>);
}
