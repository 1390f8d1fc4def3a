//! Single values, and loops over them without branches: compiled once more with wider vectors by `avx2.rs` and
//! `avx512.rs` where the compiler's vectors are as good as ours.

const ABS: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;
const BIAS: u32 = 127;

/// A finite magnitude, given as the bits of an `f32` and within the target's range, as the target's exponent and
/// mantissa bits: rounded to nearest, ties to even.
#[inline(always)]
const fn round_magnitude(abs: u32, man_bits: u32, bias: u32) -> u32 {
    let shift = 23 - man_bits;
    let least_normal = (BIAS + 1 - bias) << 23;
    if abs < least_normal {
        // Adding the power of two whose last mantissa bit weighs as much as the target's least subnormal makes the
        // addition itself round to the subnormal grid.
        let magic = (BIAS + 24 - bias - man_bits) << 23;
        (f32::from_bits(abs) + f32::from_bits(magic)).to_bits() - magic
    } else {
        let tie_to_even = abs >> shift & 1;
        ((abs + (1 << (shift - 1)) - 1 + tie_to_even) >> shift) - ((BIAS - bias) << man_bits)
    }
}

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[inline(always)]
pub(crate) const fn f16_widen(h: u16) -> f32 {
    let (sign, magnitude) = ((h as u32 & 0x8000) << 16, h as u32 & 0x7FFF);
    let bits = if magnitude < 0x400 {
        (magnitude as f32 * f32::from_bits((BIAS - 24) << 23)).to_bits()
    } else if magnitude < 0x7C00 {
        (magnitude << 13) + ((BIAS - 15) << 23)
    } else {
        let quiet = if magnitude > 0x7C00 { 1 << 22 } else { 0 };
        INFINITY | magnitude << 13 | quiet
    };
    f32::from_bits(sign | bits)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "all parts have 16 bits")]
pub(crate) const fn f16_narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let abs = bits & ABS;
    let magnitude = if abs > INFINITY {
        0x7E00 | abs >> 13 & 0x3FF
    } else if abs == INFINITY {
        0x7C00
    } else {
        round_magnitude(min(abs, 0x477F_E000), 10, 15) // 65504
    };
    (bits >> 16 & 0x8000 | magnitude) as u16
}

#[inline(always)]
pub(crate) const fn bf16_widen(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "16 bits remain after the shift")]
pub(crate) const fn bf16_narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let abs = bits & ABS;
    let magnitude = if abs > INFINITY {
        abs >> 16 | 0x40
    } else if abs == INFINITY {
        0x7F80
    } else {
        min((abs + 0x7FFF + (abs >> 16 & 1)) >> 16, 0x7F7F)
    };
    (bits >> 16 & 0x8000 | magnitude) as u16
}

#[inline(always)]
pub(crate) const fn f8_e4m3_widen(code: u8) -> f32 {
    let (sign, magnitude) = ((code as u16 & 0x80) << 8, code as u16 & 0x7F);
    if magnitude == 0x7F {
        return f16_widen(sign | 0x7E00);
    }
    // The same bits read as f16 are the value divided by 2^(15 - 7), subnormals included.
    f16_widen(sign | magnitude << 7) * 256.0
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "all parts have 8 bits")]
pub(crate) const fn f8_e4m3_narrow(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & ABS;
    let magnitude = if abs > INFINITY {
        0x7F
    } else {
        round_magnitude(min(abs, 0x43E0_0000), 3, 7) // 448
    };
    (bits >> 24 & 0x80 | magnitude) as u8
}

#[inline(always)]
pub(crate) const fn f8_e5m2_widen(code: u8) -> f32 {
    f16_widen((code as u16) << 8)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "all parts have 8 bits")]
pub(crate) const fn f8_e5m2_narrow(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & ABS;
    let magnitude = if abs > INFINITY {
        0x7E | abs >> 21 & 1
    } else if abs == INFINITY {
        0x7C
    } else {
        round_magnitude(min(abs, 0x4760_0000), 2, 15) // 57344
    };
    (bits >> 24 & 0x80 | magnitude) as u8
}

#[inline(always)]
fn widen_u16(src: &[u8], dst: &mut [f32], f: impl Fn(u16) -> f32) {
    for (x, h) in dst.iter_mut().zip(src.as_chunks::<2>().0) {
        *x = f(u16::from_le_bytes(*h));
    }
}

#[inline(always)]
fn narrow_u16(src: &[f32], dst: &mut [u8], f: impl Fn(f32) -> u16) {
    for (h, x) in dst.as_chunks_mut::<2>().0.iter_mut().zip(src) {
        *h = f(*x).to_le_bytes();
    }
}

#[inline(always)]
pub(super) fn f16_to_f32(src: &[u8], dst: &mut [f32]) {
    widen_u16(src, dst, f16_widen);
}

#[inline(always)]
pub(super) fn f16_from_f32(src: &[f32], dst: &mut [u8]) {
    narrow_u16(src, dst, f16_narrow);
}

#[inline(always)]
pub(super) fn bf16_to_f32(src: &[u8], dst: &mut [f32]) {
    widen_u16(src, dst, bf16_widen);
}

#[inline(always)]
pub(super) fn bf16_from_f32(src: &[f32], dst: &mut [u8]) {
    narrow_u16(src, dst, bf16_narrow);
}

#[inline(always)]
pub(super) fn f8_e4m3_to_f32(src: &[u8], dst: &mut [f32]) {
    for (x, code) in dst.iter_mut().zip(src) {
        *x = f8_e4m3_widen(*code);
    }
}

#[inline(always)]
pub(super) fn f8_e4m3_from_f32(src: &[f32], dst: &mut [u8]) {
    for (code, x) in dst.iter_mut().zip(src) {
        *code = f8_e4m3_narrow(*x);
    }
}

#[inline(always)]
pub(super) fn f8_e5m2_to_f32(src: &[u8], dst: &mut [f32]) {
    for (x, code) in dst.iter_mut().zip(src) {
        *x = f8_e5m2_widen(*code);
    }
}

#[inline(always)]
pub(super) fn f8_e5m2_from_f32(src: &[f32], dst: &mut [u8]) {
    for (code, x) in dst.iter_mut().zip(src) {
        *code = f8_e5m2_narrow(*x);
    }
}

#[inline(always)]
pub(super) fn any_non_finite(x: &[f32]) -> bool {
    x.iter().fold(false, |any, v| any | (v.to_bits() & ABS >= INFINITY))
}
