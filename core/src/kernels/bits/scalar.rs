//! Eight codes make `nbits` whole bytes: one 64-bit word a group.

pub(super) fn pack_bits(nbits: u32, codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.chunks(8).zip(out.chunks_mut(nbits as usize)) {
        let word = codes.iter().rev().fold(0u64, |word, &c| word << nbits | u64::from(c));
        out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
    }
}

pub(super) fn unpack_bits(nbits: u32, packed: &[u8], codes: &mut [u8]) {
    let mask = (1u64 << nbits) - 1;
    for (packed, codes) in packed.chunks(nbits as usize).zip(codes.chunks_mut(8)) {
        let mut bytes = [0; 8];
        bytes[..packed.len()].copy_from_slice(packed);
        let mut word = u64::from_le_bytes(bytes);
        for c in codes {
            *c = (word & mask).to_le_bytes()[0];
            word >>= nbits;
        }
    }
}
