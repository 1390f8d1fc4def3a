//! The sums one by one.

use super::{LANES, QUAD};

pub(super) fn greatest(queries: &[i8], keys: &[u8], limits: &[u32; LANES]) -> [i32; LANES] {
    let d = queries.len() / LANES;
    let mut most = [i32::MIN; LANES];
    for (j, key) in (0..).zip(keys.chunks_exact(d)) {
        let mut sums = [0; LANES];
        for (quad, queries) in key.chunks_exact(QUAD).zip(queries.chunks_exact(LANES * QUAD)) {
            for (sum, query) in sums.iter_mut().zip(queries.chunks_exact(QUAD)) {
                for (k, q) in quad.iter().zip(query) {
                    *sum += i32::from(*k) * i32::from(*q);
                }
            }
        }
        for ((most, sum), limit) in most.iter_mut().zip(sums).zip(limits) {
            if j < *limit {
                *most = sum.max(*most);
            }
        }
    }
    most
}

pub(super) fn quantize(x: &[f32], mean: &[f32], codes: &mut [i8]) -> f32 {
    super::quantize_rows(x, mean, codes)
}
