//! The scalar loops with eight lanes: the compiler's vectors do what ours would.

use super::scalar;

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn quantize_q8_0(src: &[f32], dst: &mut [u8]) {
    scalar::quantize_q8_0(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn dequantize_q8_0(src: &[u8], dst: &mut [f32]) {
    scalar::dequantize_q8_0(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn quantize_q4_0(src: &[f32], dst: &mut [u8]) {
    scalar::quantize_q4_0(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn dequantize_q4_0(src: &[u8], dst: &mut [f32]) {
    scalar::dequantize_q4_0(src, dst);
}
