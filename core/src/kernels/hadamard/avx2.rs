//! Two 256-bit registers for sixteen lanes.

use super::{block, rotate_rows};
use crate::kernels::lanes::avx2::Avx2;

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn hadamard(x: &mut [f32], size: usize) {
    x.chunks_exact_mut(size).for_each(block::<Avx2>);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn rotate(x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    rotate_rows::<Avx2>(x, signs, scale, inverse);
}
