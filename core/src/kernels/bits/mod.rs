//! Bit streams of small codes: code `i` of `nbits` bits lies at bits `i*nbits..` of the stream, least significant
//! bit first, bytes in order. A last byte that is not full has zeros on top.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;

/// Bytes of `n` codes of `nbits` bits.
pub(crate) const fn packed_len(nbits: u32, n: usize) -> usize {
    // n / 8 * nbits whole groups and a rest, so that no length overflows that its own bytes would not
    n / 8 * nbits as usize + (n % 8 * nbits as usize).div_ceil(8)
}

/// Packs one code a byte into a bit stream. Bits of a code above `nbits` must be zero.
///
/// # Panics
/// If `nbits` is not 1..=8 or `out` is not exactly `packed_len` long.
pub(crate) fn pack_bits(level: Level, nbits: u32, codes: &[u8], out: &mut [u8]) {
    assert!((1..=8).contains(&nbits) && out.len() == packed_len(nbits, codes.len()));
    debug_assert!(codes.iter().all(|&c| u32::from(c) >> nbits == 0));
    match level {
        _ if nbits == 8 => out.copy_from_slice(codes),
        Level::Scalar => scalar::pack_bits(nbits, codes, out),
        // PEXT gathers the bits of eight codes at one a cycle, which no vector form beats by enough to matter.
        // SAFETY: levels above `Scalar` exist only after detection saw AVX2 and BMI2.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe { avx2::pack_bits(nbits, codes, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::pack_bits(nbits, codes, out),
    }
}

/// The reverse of [`pack_bits`]; bits after the last code are ignored.
///
/// # Panics
/// If `nbits` is not 1..=8 or `packed` is not exactly `packed_len` long.
pub(crate) fn unpack_bits(level: Level, nbits: u32, packed: &[u8], codes: &mut [u8]) {
    assert!((1..=8).contains(&nbits) && packed.len() == packed_len(nbits, codes.len()));
    match level {
        _ if nbits == 8 => codes.copy_from_slice(packed),
        Level::Scalar => scalar::unpack_bits(nbits, packed, codes),
        // SAFETY: levels above `Scalar` exist only after detection saw AVX2 and BMI2.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe { avx2::unpack_bits(nbits, packed, codes) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::unpack_bits(nbits, packed, codes),
    }
}
