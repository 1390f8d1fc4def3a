//! One 512-bit register for sixteen lanes.

use super::{block, rotate_rows};
use crate::kernels::lanes::avx512::Avx512;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn hadamard(x: &mut [f32], size: usize) {
    x.chunks_exact_mut(size).for_each(block::<Avx512>);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn rotate(x: &mut [f32], signs: &[u32], scale: f32, inverse: bool) {
    rotate_rows::<Avx512>(x, signs, scale, inverse);
}
