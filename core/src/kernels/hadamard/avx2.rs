//! Two 256-bit registers for sixteen lanes.

use super::block;
use crate::kernels::lanes::avx2::Avx2;

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn hadamard(x: &mut [f32], size: usize) {
    x.chunks_exact_mut(size).for_each(block::<Avx2>);
}
