//! PEXT and PDEP: eight codes a step.

use core::arch::x86_64::{_pdep_u64, _pext_u64};

/// The low `nbits` of every byte.
const fn field(nbits: u32) -> u64 {
    0x0101_0101_0101_0101 * ((1 << nbits) - 1)
}

#[target_feature(enable = "bmi2")]
pub(super) fn pack_bits(nbits: u32, codes: &[u8], out: &mut [u8]) {
    let (groups, _) = codes.as_chunks::<8>();
    let step = nbits as usize;
    let mut at = 0;
    for group in groups {
        let word = _pext_u64(u64::from_le_bytes(*group), field(nbits)).to_le_bytes();
        // A whole word is written where there is room: the bytes beyond the group are overwritten by the next.
        match out.get_mut(at..at + 8) {
            Some(o) => o.copy_from_slice(&word),
            None => out[at..at + step].copy_from_slice(&word[..step]),
        }
        at += step;
    }
    super::scalar::pack_bits(nbits, &codes[groups.len() * 8..], &mut out[at..]);
}

#[target_feature(enable = "bmi2")]
pub(super) fn unpack_bits(nbits: u32, packed: &[u8], codes: &mut [u8]) {
    let (groups, _) = codes.as_chunks_mut::<8>();
    let n_groups = groups.len();
    let step = nbits as usize;
    let mut at = 0;
    for group in groups {
        let word = match packed.get(at..at + 8) {
            Some(w) => u64::from_le_bytes(w.try_into().expect("the slice has eight bytes")),
            None => {
                let mut w = [0; 8];
                w[..step].copy_from_slice(&packed[at..at + step]);
                u64::from_le_bytes(w)
            }
        };
        *group = _pdep_u64(word, field(nbits)).to_le_bytes();
        at += step;
    }
    super::scalar::unpack_bits(nbits, &packed[at..], &mut codes[n_groups * 8..]);
}
