use super::{BLOCK, Q4_0, Q8_0, f16_narrow, f16_widen, low_byte, reciprocal};

const HALF: usize = BLOCK / 2;

#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "codes lie in -127..=127")]
pub(super) fn quantize_q8_0(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<Q8_0>().0) {
        // Magnitudes order like their bits.
        let max = x.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7FFF_FFFF));
        let d = f32::from_bits(max) / 127.0;
        let id = reciprocal(d);
        block[..2].copy_from_slice(&f16_narrow(d).to_le_bytes());
        for (code, v) in block[2..].iter_mut().zip(x) {
            let v = v * id;
            // The f32 below 0.5 rounds half away from zero without carrying 0.49999997 up.
            *code = (v + 0.5_f32.next_down().copysign(v)) as i32 as u8;
        }
    }
}

#[inline(always)]
pub(super) fn dequantize_q8_0(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<Q8_0>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = f16_widen(u16::from_le_bytes([block[0], block[1]]));
        for (v, code) in x.iter_mut().zip(&block[2..]) {
            *v = f32::from(code.cast_signed()) * d;
        }
    }
}

#[inline(always)]
pub(super) fn quantize_q4_0(src: &[f32], dst: &mut [u8]) {
    for (x, block) in src.as_chunks::<BLOCK>().0.iter().zip(dst.as_chunks_mut::<Q4_0>().0) {
        let abs = |v: &f32| v.to_bits() & 0x7FFF_FFFF;
        let largest = x.iter().fold(0, |max, v| abs(v).max(max));
        let max = x.iter().find(|v| abs(v) == largest).copied().unwrap_or(0.0);
        let d = max / -8.0;
        let id = reciprocal(d);
        block[..2].copy_from_slice(&f16_narrow(d).to_le_bytes());
        let code = |v: f32| low_byte(v * id + 8.5).min(15);
        for j in 0..HALF {
            block[2 + j] = code(x[j]) | code(x[j + HALF]) << 4;
        }
    }
}

#[inline(always)]
pub(super) fn dequantize_q4_0(src: &[u8], dst: &mut [f32]) {
    for (block, x) in src.as_chunks::<Q4_0>().0.iter().zip(dst.as_chunks_mut::<BLOCK>().0) {
        let d = f16_widen(u16::from_le_bytes([block[0], block[1]]));
        let (low, high) = x.split_at_mut(HALF);
        for ((low, high), pair) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = (f32::from(pair & 15) - 8.0) * d;
            *high = (f32::from(pair >> 4) - 8.0) * d;
        }
    }
}
