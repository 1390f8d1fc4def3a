//! One token after the other.

use super::{Heads, MAX_DIM, Records};

pub(super) fn scores(
    records: Records<'_>,
    levels: &[i8; 16],
    heads: Heads<'_>,
    tokens: &[u32],
    out: &mut [f32],
) {
    let mut wide = [0i8; MAX_DIM];
    let n_codes = ((records.stride - super::FACTOR_BYTES) * 8 / records.nbits as usize).min(heads.padded);
    for (i, &token) in tokens.iter().enumerate() {
        let record = records.get(token);
        let factor = records.factor(record);
        widen(record, records.nbits, levels, &mut wide[..n_codes]);
        for (h, query) in heads.queries.chunks_exact(heads.padded).enumerate() {
            let products = wide[..n_codes].iter().zip(query).map(|(l, q)| i32::from(*l) * i32::from(*q));
            out[h * tokens.len() + i] = finish(products.sum(), factor, heads.units[h]);
        }
    }
}

/// The levels of the codes at the start of `record`.
fn widen(record: &[u8], nbits: u32, levels: &[i8; 16], wide: &mut [i8]) {
    let mask = (1u32 << nbits) - 1;
    for (j, level) in wide.iter_mut().enumerate() {
        let bit = j * nbits as usize;
        let two = u16::from_le_bytes([record[bit / 8], record[bit / 8 + 1]]);
        *level = levels[(u32::from(two) >> (bit % 8) & mask) as usize];
    }
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "below 2^24")]
pub(super) fn finish(sum: i32, factor: f32, unit: f32) -> f32 {
    sum as f32 * factor * unit
}
