//! Conversion between stored elements and `f32`.
//!
//! Widening is exact. Narrowing rounds to nearest, ties to even, and saturates: a finite value beyond the type's
//! range becomes its largest finite value. An infinity stays one where the type has them and saturates in `e4m3`,
//! which has none. A NaN stays a NaN of the same sign; narrowing (and widening from f16 and fp8) makes it quiet and
//! keeps the upper bits of its payload where there is room. Block types refuse NaN and infinities, because one of them
//! would spoil the 31 values beside it.
//!
//! Results are the same bits at every [`Level`](crate::cpu::Level).

use super::{DType, ggml};
use crate::cpu;
use crate::kernels::convert as kernel;

/// Why a conversion was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvertError {
    /// The stored bytes and the `f32` elements do not match.
    Length {
        /// The stored type.
        dtype: DType,
        /// Elements on the `f32` side.
        elements: usize,
        /// Bytes on the stored side.
        len_bytes: usize,
    },
    /// A NaN or an infinity on its way into a block type.
    NonFinite {
        /// Which element.
        index: usize,
    },
}

impl core::fmt::Display for ConvertError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { dtype, elements, len_bytes } => {
                write!(f, "{elements} elements do not fill {len_bytes} bytes of {dtype}")
            }
            Self::NonFinite { index } => {
                write!(f, "element {index} is a NaN or an infinity, which block types cannot hold")
            }
        }
    }
}

impl core::error::Error for ConvertError {}

/// Widens the elements stored in `src` to `dst`.
///
/// Limit: memory bandwidth, 4 bytes written for each element.
///
/// # Errors
/// [`ConvertError::Length`] if `src` is not exactly `dst.len()` elements of `dtype`.
pub fn to_f32(dtype: DType, src: &[u8], dst: &mut [f32]) -> Result<(), ConvertError> {
    check_len(dtype, dst.len(), src.len())?;
    let level = cpu::level();
    match dtype {
        DType::F32 => {
            let (words, _) = src.as_chunks::<4>();
            for (x, word) in dst.iter_mut().zip(words) {
                *x = f32::from_le_bytes(*word);
            }
        }
        DType::F16 => kernel::f16_to_f32(level, src, dst),
        DType::Bf16 => kernel::bf16_to_f32(level, src, dst),
        DType::F8E4m3 => kernel::f8_e4m3_to_f32(level, src, dst),
        DType::F8E5m2 => kernel::f8_e5m2_to_f32(level, src, dst),
        DType::Q8_0 => ggml::dequantize_q8_0(src, dst),
        DType::Q4_0 => ggml::dequantize_q4_0(src, dst),
        DType::Q4_1 => ggml::dequantize_q4_1(src, dst),
        DType::Q5_0 => ggml::dequantize_q5_0(src, dst),
        DType::Q5_1 => ggml::dequantize_q5_1(src, dst),
        DType::Iq4Nl => ggml::dequantize_iq4_nl(src, dst),
    }
    Ok(())
}

/// Narrows `src` to elements of `dtype` in `dst`. See the module for rounding, saturation and NaN.
///
/// # Errors
/// [`ConvertError::Length`] if `dst` is not exactly `src.len()` elements of `dtype`;
/// [`ConvertError::NonFinite`] from block types only, `dst` then holds nothing of meaning.
pub fn from_f32(dtype: DType, src: &[f32], dst: &mut [u8]) -> Result<(), ConvertError> {
    check_len(dtype, src.len(), dst.len())?;
    if !dtype.is_plain()
        && let Some(index) = kernel::first_non_finite(cpu::level(), src)
    {
        return Err(ConvertError::NonFinite { index });
    }
    let level = cpu::level();
    match dtype {
        DType::F32 => {
            let (words, _) = dst.as_chunks_mut::<4>();
            for (word, x) in words.iter_mut().zip(src) {
                *word = x.to_le_bytes();
            }
        }
        DType::F16 => kernel::f16_from_f32(level, src, dst),
        DType::Bf16 => kernel::bf16_from_f32(level, src, dst),
        DType::F8E4m3 => kernel::f8_e4m3_from_f32(level, src, dst),
        DType::F8E5m2 => kernel::f8_e5m2_from_f32(level, src, dst),
        DType::Q8_0 => ggml::quantize_q8_0(src, dst),
        DType::Q4_0 => ggml::quantize_q4_0(src, dst),
        DType::Q4_1 => ggml::quantize_q4_1(src, dst),
        DType::Q5_0 => ggml::quantize_q5_0(src, dst),
        DType::Q5_1 => ggml::quantize_q5_1(src, dst),
        DType::Iq4Nl => ggml::quantize_iq4_nl(src, dst),
    }
    Ok(())
}

/// The first NaN or infinity of `x`.
#[must_use]
pub fn first_non_finite(x: &[f32]) -> Option<usize> {
    kernel::first_non_finite(cpu::level(), x)
}

/// One `f16` given as its bits.
#[must_use]
pub const fn f16_to_f32(bits: u16) -> f32 {
    kernel::scalar::f16_widen(bits)
}

/// The nearest `f16`, as its bits.
#[must_use]
pub const fn f16_from_f32(x: f32) -> u16 {
    kernel::scalar::f16_narrow(x)
}

/// One `bf16` given as its bits.
#[must_use]
pub const fn bf16_to_f32(bits: u16) -> f32 {
    kernel::scalar::bf16_widen(bits)
}

/// The nearest `bf16`, as its bits.
#[must_use]
pub const fn bf16_from_f32(x: f32) -> u16 {
    kernel::scalar::bf16_narrow(x)
}

/// One `e4m3` value given as its code.
#[must_use]
pub const fn f8_e4m3_to_f32(code: u8) -> f32 {
    kernel::scalar::f8_e4m3_widen(code)
}

/// The code of the nearest `e4m3` value.
#[must_use]
pub const fn f8_e4m3_from_f32(x: f32) -> u8 {
    kernel::scalar::f8_e4m3_narrow(x)
}

/// One `e5m2` value given as its code.
#[must_use]
pub const fn f8_e5m2_to_f32(code: u8) -> f32 {
    kernel::scalar::f8_e5m2_widen(code)
}

/// The code of the nearest `e5m2` value.
#[must_use]
pub const fn f8_e5m2_from_f32(x: f32) -> u8 {
    kernel::scalar::f8_e5m2_narrow(x)
}

fn check_len(dtype: DType, elements: usize, len_bytes: usize) -> Result<(), ConvertError> {
    if dtype.bytes_for(elements) == Some(len_bytes) {
        Ok(())
    } else {
        Err(ConvertError::Length { dtype, elements, len_bytes })
    }
}

#[cfg(test)]
mod tests;
